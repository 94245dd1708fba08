//! Which order of the groups: some candidates, and the best of them.

use super::{Group, ReadCost, objective::Objective, search};
use crate::compile::{taskset::TaskSet, transitions::Switches};

/// Among how many groups the nearest is sought: all those of nine tasks. With more, the time stays
/// linear in their number.
const LOOKAHEAD: usize = 512;

/// The order of the groups on disk. It depends on nothing but the arguments.
pub(super) fn order(groups: &[Group], switches: &Switches, cost: ReadCost) -> Vec<u32> {
    let gray = gray(groups);
    let objective = Objective::new(groups, switches, cost);
    if objective.request == 0.0 || objective.pairs.is_empty() {
        return gray;
    }
    let gray = Candidate::new(&objective, gray);
    let near = Candidate::new(&objective, nearest_next(&objective, &gray.order));
    let best = gray.or(near);
    let mut improved = best.order.clone();
    search::improve(&objective, &mut improved);
    best.or(Candidate::new(&objective, improved)).order
}

struct Candidate {
    order: Vec<u32>,
    cost: f64,
}

impl Candidate {
    fn new(objective: &Objective<'_>, order: Vec<u32>) -> Self {
        Self { cost: objective.cost(&order), order }
    }

    /// The better; of equals this.
    fn or(self, other: Self) -> Self {
        if other.cost < self.cost { other } else { self }
    }
}

/// In reflected Gray code, whose neighbours differ in one task: a task's groups then form about
/// half as many runs as they would in the order of the bits.
pub(super) fn gray(groups: &[Group]) -> Vec<u32> {
    let mut order: Vec<_> = (0..groups.len() as u32).collect();
    order.sort_unstable_by_key(|&at| gray_rank(groups[at as usize].set));
    order
}

fn gray_rank(set: TaskSet) -> u64 {
    [1, 2, 4, 8, 16, 32].into_iter().fold(set.bits(), |rank, shift| rank ^ (rank >> shift))
}

/// After each group the nearest of the next few in `order`. Groups that no switch reads go last,
/// where they are in no gap.
fn nearest_next(objective: &Objective<'_>, order: &[u32]) -> Vec<u32> {
    let wanted = |&at: &u32| objective.pairs.iter().any(|pair| pair.wants(objective.group(at)));
    let distance = Distance::new(objective);
    let mut rest = order.iter().copied().filter(wanted);
    let mut near: Vec<_> = rest.by_ref().take(LOOKAHEAD).collect();
    let mut found = Vec::with_capacity(order.len());
    let mut last = TaskSet::EMPTY;
    while let Some(next) = distance.nearest(last, &near, objective.groups) {
        let at = near[next];
        match rest.next() {
            Some(following) => near[next] = following,
            None => _ = near.swap_remove(next),
        }
        last = objective.group(at).set;
        found.push(at);
    }
    found.extend(order.iter().filter(|at| !wanted(at)));
    found
}

/// How far sets are apart: the probabilities of switches from or to the tasks in which they differ.
/// That is about what a boundary between their groups costs.
struct Distance {
    /// By byte of a set and its value.
    sums: [[f32; 256]; 8],
}

impl Distance {
    fn new(objective: &Objective<'_>) -> Self {
        let mut tasks = [0.0; 64];
        for pair in &objective.pairs {
            for task in [pair.from, pair.to] {
                tasks[task.index()] += pair.probability as f32;
            }
        }
        let sum = |byte: usize, value: usize| {
            let bits = (0..8).filter(|bit| value >> bit & 1 == 1);
            bits.map(|bit| tasks[8 * byte + bit]).sum()
        };
        Self { sums: std::array::from_fn(|byte| std::array::from_fn(|value| sum(byte, value))) }
    }

    fn between(&self, a: TaskSet, b: TaskSet) -> f32 {
        let differing = (a.bits() ^ b.bits()).to_le_bytes();
        self.sums.iter().zip(differing).map(|(sums, byte)| sums[byte as usize]).sum()
    }

    /// Which of `near` is nearest to a set; of equals the first.
    fn nearest(&self, to: TaskSet, near: &[u32], groups: &[Group]) -> Option<usize> {
        let distance = |&at: &u32| self.between(to, groups[at as usize].set);
        let distances = near.iter().map(distance).enumerate();
        distances.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
    }
}
