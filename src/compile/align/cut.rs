//! Minimum cuts of small dense graphs: which tasks keep a block when their wishes differ.
//!
//! Nodes gain by being in the set, or lose; each pair that is parted costs its capacity. By
//! max-flow min-cut the best set is what the source still reaches when no more flow goes through:
//! D. M. Greig, B. T. Porteous, A. H. Seheult: Exact maximum a posteriori estimation for binary
//! images, Journal of the Royal Statistical Society B 51 (1989). Knows nothing of tasks and blocks.

/// Flow below this share of all gains is rounding.
const EPSILON: f64 = 1e-13;

/// In `parent`: the search has not been here, or began here.
const UNSEEN: usize = usize::MAX;
const SOURCE: usize = usize::MAX - 1;

/// Room for one graph after another.
#[derive(Debug, Default)]
pub(super) struct Cut {
    nodes: usize,
    /// What each pair can still carry, by from and to.
    residual: Vec<f64>,
    /// By node: what the source still has for it.
    supply: Vec<f64>,
    /// By node: what it can still give to the sink.
    demand: Vec<f64>,
    /// By node: where the search came from.
    parent: Vec<usize>,
    queue: Vec<usize>,
    /// Less flow than this counts as none.
    least: f64,
}

impl Cut {
    /// The smallest of the sets with the greatest sum of gains less the capacities between the set
    /// and the rest; tells of each node whether it is in. `capacity` is symmetric and not negative.
    pub(super) fn best_set(
        &mut self,
        gains: &[f64],
        capacity: impl Fn(usize, usize) -> f64,
    ) -> impl Fn(usize) -> bool {
        self.load(gains, capacity);
        self.push_in_proportion();
        while let Some(last) = self.find_path() {
            self.push_along(last);
        }
        |node| self.parent[node] != UNSEEN
    }

    fn load(&mut self, gains: &[f64], capacity: impl Fn(usize, usize) -> f64) {
        let nodes = gains.len();
        self.nodes = nodes;
        self.residual.clear();
        for from in 0..nodes {
            let row = (0..nodes).map(|to| if from == to { 0.0 } else { capacity(from, to) });
            self.residual.extend(row);
        }
        self.supply.clear();
        self.supply.extend(gains.iter().map(|gain| gain.max(0.0)));
        self.demand.clear();
        self.demand.extend(gains.iter().map(|gain| (-gain).max(0.0)));
        self.least = EPSILON * gains.iter().map(|gain| gain.abs()).sum::<f64>();
    }

    /// One pass that, where capacities are ample, leaves nothing for the search to find.
    fn push_in_proportion(&mut self) {
        let supplied: f64 = self.supply.iter().sum();
        let demanded: f64 = self.demand.iter().sum();
        let larger = supplied.max(demanded);
        if larger <= self.least {
            return;
        }
        let (supply, demand) = (self.supply.clone(), self.demand.clone());
        for (from, supply) in supply.into_iter().enumerate().filter(|(_, s)| *s > 0.0) {
            for (to, demand) in demand.iter().enumerate().filter(|(_, d)| **d > 0.0) {
                let flow = (supply * demand / larger).min(self.residual[from * self.nodes + to]);
                self.push(from, to, flow);
                self.supply[from] -= flow;
                self.demand[to] -= flow;
            }
        }
    }

    fn push(&mut self, from: usize, to: usize, flow: f64) {
        self.residual[from * self.nodes + to] -= flow;
        self.residual[to * self.nodes + from] += flow;
    }

    /// A shortest path from a node with supply to one with demand; gives the latter. Without one,
    /// `parent` marks what the source reaches.
    fn find_path(&mut self) -> Option<usize> {
        self.parent.clear();
        self.parent.resize(self.nodes, UNSEEN);
        self.queue.clear();
        for node in 0..self.nodes {
            if self.supply[node] > self.least {
                self.parent[node] = SOURCE;
                self.queue.push(node);
            }
        }
        let mut next = 0;
        while let Some(&node) = self.queue.get(next) {
            next += 1;
            if self.demand[node] > self.least {
                return Some(node);
            }
            for to in 0..self.nodes {
                let open = self.residual[node * self.nodes + to] > self.least;
                if open && self.parent[to] == UNSEEN {
                    self.parent[to] = node;
                    self.queue.push(to);
                }
            }
        }
        None
    }

    fn push_along(&mut self, last: usize) {
        let mut flow = self.demand[last];
        let mut node = last;
        while self.parent[node] != SOURCE {
            let from = self.parent[node];
            flow = flow.min(self.residual[from * self.nodes + node]);
            node = from;
        }
        flow = flow.min(self.supply[node]);
        self.supply[node] -= flow;
        self.demand[last] -= flow;
        let mut node = last;
        while self.parent[node] != SOURCE {
            let from = self.parent[node];
            self.push(from, node, flow);
            node = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(set: u32, gains: &[f64], capacity: &impl Fn(usize, usize) -> f64) -> f64 {
        let inside = |node: usize| set >> node & 1 == 1;
        let mut value = 0.0;
        for (node, gain) in gains.iter().enumerate().filter(|(node, _)| inside(*node)) {
            value += gain;
            let outside = (0..gains.len()).filter(|&other| !inside(other));
            value -= outside.map(|other| capacity(node, other)).sum::<f64>();
        }
        value
    }

    #[test]
    fn a_strong_tie_keeps_a_pair_together_and_a_weak_one_does_not() {
        let mut cut = Cut::default();
        let gains = [2.0, -1.0];
        let best = cut.best_set(&gains, |_, _| 1.5);
        assert!(best(0) && best(1));
        drop(best);
        let best = cut.best_set(&gains, |_, _| 0.5);
        assert!(best(0) && !best(1));
    }

    proptest! {
        #[test]
        fn no_set_is_better(
            gains in prop::collection::vec(-10i32..=10, 1..9),
            capacities in prop::collection::vec(0i32..6, 64),
        ) {
            let gains: Vec<f64> = gains.into_iter().map(f64::from).collect();
            let capacity =
                |a: usize, b: usize| f64::from(capacities[a.min(b) * 8 + a.max(b)]) / 2.0;
            let mut cut = Cut::default();
            let best = cut.best_set(&gains, capacity);
            let set = (0..gains.len()).filter(|&n| best(n)).fold(0, |set, node| set | 1 << node);
            let all = 0..1u32 << gains.len();
            let greatest = all.map(|set| value(set, &gains, &capacity)).fold(0.0, f64::max);
            prop_assert!((value(set, &gains, &capacity) - greatest).abs() < 1e-9);
        }
    }
}
