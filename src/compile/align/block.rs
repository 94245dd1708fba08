//! The best set of tasks to keep one block, exactly.
//!
//! With multipliers for the budgets every block is a problem of its own: tasks gain by keeping it,
//! and each switch to a task that keeps it from one that does not costs something. Such a sum is
//! supermodular, so two facts narrow the choice down before a cut decides what is left:
//! what gains even if nobody else keeps the block is in every best set, and so is what gains once
//! those do; what loses even if everybody keeps it is in none.

use super::cut::Cut;
use crate::{compile::taskset::TaskSet, units::TaskIndex};

/// What it costs that tasks differ in a block.
#[derive(Clone, Debug)]
pub(super) struct Coupling {
    tasks: usize,
    /// By task: what keeping a block costs if no other task keeps it.
    entering: Vec<f64>,
    /// By pair of tasks: what both keeping a block saves of that. Symmetric, not negative.
    sharing: Vec<f64>,
    /// What every pair saves, where that is one number.
    uniform: Option<f64>,
}

impl Coupling {
    /// `cost[from][to]` is what a switch costs by a block that `to` keeps and `from` does not.
    pub(super) fn new(cost: &[Vec<f64>]) -> Self {
        let tasks = cost.len();
        let entering =
            (0..tasks).map(|to| cost.iter().map(|from| from[to]).sum()).collect::<Vec<f64>>();
        let pairs = (0..tasks).flat_map(|a| (0..tasks).map(move |b| (a, b)));
        let sharing: Vec<f64> = pairs.clone().map(|(a, b)| cost[a][b] + cost[b][a]).collect();
        let mut distinct = pairs.zip(&sharing).filter(|((a, b), _)| a != b).map(|(_, s)| *s);
        let first = distinct.next().unwrap_or_default();
        let uniform = distinct.all(|other| other == first).then_some(first);
        Self { tasks, entering, sharing, uniform }
    }

    fn row(&self, task: usize) -> &[f64] {
        &self.sharing[task * self.tasks..][..self.tasks]
    }

    /// What it is worth that exactly these tasks keep a block with the same values.
    pub(super) fn value(&self, gains: &[f64], set: TaskSet) -> f64 {
        set.iter().map(|task| gains[task.index()] - self.entering[task.index()]).sum::<f64>()
            + self.shared(set)
    }

    fn shared(&self, set: TaskSet) -> f64 {
        let size = f64::from(set.len());
        if size < 2.0 {
            return 0.0;
        }
        if let Some(uniform) = self.uniform {
            return uniform * size * (size - 1.0) / 2.0;
        }
        let rows = set.iter().map(|task| {
            let row = self.row(task.index());
            set.iter().map(|other| row[other.index()]).sum::<f64>()
        });
        // The diagonal is zero, and every pair is met twice.
        rows.sum::<f64>() / 2.0
    }

    /// What a task gains or loses by keeping a block that these others keep.
    pub(super) fn marginal(&self, gain: f64, task: TaskIndex, others: TaskSet) -> f64 {
        let saved = match self.uniform {
            Some(uniform) => uniform * f64::from(others.len()),
            None => {
                let row = self.row(task.index());
                others.iter().map(|other| row[other.index()]).sum()
            }
        };
        gain - self.entering[task.index()] + saved
    }

    /// The same for every task at once, of those who keep the block now or do not.
    pub(super) fn marginals(&self, gains: &[f64], set: TaskSet, marginals: &mut Vec<f64>) {
        marginals.clear();
        marginals.extend(gains.iter().zip(&self.entering).map(|(gain, cost)| gain - cost));
        if let Some(uniform) = self.uniform {
            let all = f64::from(set.len());
            marginals.iter_mut().for_each(|marginal| *marginal += uniform * all);
            set.iter().for_each(|task| marginals[task.index()] -= uniform);
            return;
        }
        // A task saves nothing together with itself: the diagonal is zero.
        for other in set.iter() {
            let row = self.row(other.index()).iter();
            marginals.iter_mut().zip(row).for_each(|(marginal, saved)| *marginal += saved);
        }
    }
}

/// Which tasks may be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// All that have the same values at this place.
    pub(super) class: TaskSet,
    /// Those of them that keep the block in any case.
    pub(super) on: TaskSet,
    /// Those that do not in any case.
    pub(super) off: TaskSet,
}

/// Room for one block after another.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    cut: Cut,
    /// By task: what it gains given the tasks that are decided.
    field: Vec<f64>,
    /// The undecided tasks and what each of them gains.
    rest: Vec<(TaskIndex, f64)>,
    gains: Vec<f64>,
}

impl Chooser {
    /// The smallest of the best sets. `gains` are by task, whether in the class or not.
    pub(super) fn best(&mut self, coupling: &Coupling, gains: &[f64], choice: Choice) -> TaskSet {
        if let Some(unanimous) = unanimous(coupling, gains, choice) {
            return unanimous;
        }
        let Choice { class, on, off } = choice;
        let sure = self.grow(coupling, gains, class.without(off), on);
        let possible = self.shrink(coupling, gains, class.without(off), sure);
        if sure == possible {
            return sure;
        }
        sure.union(self.decide(coupling, gains, sure, possible))
    }

    /// From the fewest tasks on, adds who gains.
    fn grow(
        &mut self,
        coupling: &Coupling,
        gains: &[f64],
        allowed: TaskSet,
        on: TaskSet,
    ) -> TaskSet {
        self.field.clear();
        self.field.extend(gains.iter().zip(&coupling.entering).map(|(gain, cost)| gain - cost));
        on.iter().for_each(|task| self.shift(coupling, task, 1.0));
        let mut set = on;
        while let Some(task) =
            allowed.without(set).iter().find(|task| self.field[task.index()] > 0.0)
        {
            set.insert(task);
            self.shift(coupling, task, 1.0);
        }
        set
    }

    /// From the most tasks on, drops who does not gain. Takes `field` as `grow` left it.
    fn shrink(
        &mut self,
        coupling: &Coupling,
        gains: &[f64],
        allowed: TaskSet,
        sure: TaskSet,
    ) -> TaskSet {
        debug_assert_eq!(gains.len(), self.field.len());
        allowed.without(sure).iter().for_each(|task| self.shift(coupling, task, 1.0));
        let mut set = allowed;
        while let Some(task) = set.without(sure).iter().find(|task| self.field[task.index()] <= 0.0)
        {
            set = set.without(TaskSet::of(task));
            self.shift(coupling, task, -1.0);
        }
        set
    }

    fn shift(&mut self, coupling: &Coupling, task: TaskIndex, sign: f64) {
        for (field, saved) in self.field.iter_mut().zip(coupling.row(task.index())) {
            *field += sign * saved;
        }
    }

    /// Chooses among the tasks that are possible but not sure.
    fn decide(
        &mut self,
        coupling: &Coupling,
        gains: &[f64],
        sure: TaskSet,
        possible: TaskSet,
    ) -> TaskSet {
        let rest = possible.without(sure);
        self.rest.clear();
        self.rest.extend(
            rest.iter().map(|task| (task, coupling.marginal(gains[task.index()], task, sure))),
        );
        match coupling.uniform {
            Some(saved) => self.decide_by_sorting(saved),
            None => self.decide_by_cut(coupling),
        }
    }

    /// Where all pairs save the same, the best set of each size is that of the greatest gains.
    fn decide_by_sorting(&mut self, saved: f64) -> TaskSet {
        self.rest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let (mut value, mut best, mut size) = (0.0, 0.0, 0);
        for (others, (_, gain)) in self.rest.iter().enumerate() {
            value += gain + saved * others as f64;
            if value > best {
                (best, size) = (value, others + 1);
            }
        }
        self.rest[..size].iter().map(|(task, _)| *task).collect()
    }

    /// A pair that both keep a block saves what a pair that is parted costs, but for half of it at
    /// each of the two: `ab = (a + b - |a - b|) / 2` for `a` and `b` of 0 or 1.
    fn decide_by_cut(&mut self, coupling: &Coupling) -> TaskSet {
        let Self { cut, rest, gains, .. } = self;
        let half = |a: usize, b: usize| coupling.row(rest[a].0.index())[rest[b].0.index()] / 2.0;
        gains.clear();
        for (node, (_, gain)) in rest.iter().enumerate() {
            let ties =
                (0..rest.len()).filter(|&other| other != node).map(|other| half(node, other));
            gains.push(gain + ties.sum::<f64>());
        }
        let inside = cut.best_set(gains, half);
        let chosen = rest.iter().enumerate().filter(|(node, _)| inside(*node));
        chosen.map(|(_, (task, _))| *task).collect()
    }
}

/// The answer where no task of the class wishes otherwise: nearly always, so it comes first.
fn unanimous(coupling: &Coupling, gains: &[f64], choice: Choice) -> Option<TaskSet> {
    let Choice { class, on, off } = choice;
    let single = class.len() == 1;
    // Tasks outside the class never share; a class of one or of all needs no look at the pairs.
    if !single && (class.len() as usize != coupling.tasks) {
        return None;
    }
    let entering = |task: TaskIndex| if single { coupling.entering[task.index()] } else { 0.0 };
    let wishes = |task: TaskIndex| gains[task.index()] - entering(task);
    if off.is_empty() && class.without(on).iter().all(|task| wishes(task) > 0.0) {
        return Some(class);
    }
    let none = on.is_empty() && class.without(off).iter().all(|task| wishes(task) <= 0.0);
    none.then_some(TaskSet::EMPTY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(bits: u64) -> TaskSet {
        (0..64).filter(|task| bits >> task & 1 == 1).map(TaskIndex).collect()
    }

    /// Straight from the definition: gains less what every switch from outside costs.
    fn by_definition(cost: &[Vec<f64>], gains: &[f64], chosen: TaskSet) -> f64 {
        let tasks = (0..).map(TaskIndex).take(gains.len());
        let mut value = 0.0;
        for to in tasks.clone().filter(|task| chosen.contains(*task)) {
            value += gains[to.index()];
            let outside = tasks.clone().filter(|from| !chosen.contains(*from));
            value -= outside.map(|from| cost[from.index()][to.index()]).sum::<f64>();
        }
        value
    }

    fn problem() -> impl Strategy<Value = (Vec<Vec<f64>>, Vec<f64>)> {
        (1usize..8).prop_flat_map(|tasks| {
            let costs = prop_oneof![
                prop::collection::vec(prop::collection::vec(0u8..5, tasks), tasks),
                (0u8..5).prop_map(move |cost| vec![vec![cost; tasks]; tasks]),
            ];
            let costs = costs.prop_map(|costs| {
                let mut costs: Vec<Vec<f64>> = costs
                    .into_iter()
                    .map(|row| row.into_iter().map(|c| f64::from(c) / 4.0).collect())
                    .collect();
                costs.iter_mut().enumerate().for_each(|(task, row)| row[task] = 0.0);
                costs
            });
            (costs, prop::collection::vec((-20i8..20).prop_map(|g| f64::from(g) / 4.0), tasks))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn no_other_set_is_better(
            (cost, gains) in problem(),
            class in any::<u8>(),
            on in any::<u8>(),
            off in any::<u8>(),
        ) {
            let coupling = Coupling::new(&cost);
            let all = set((1 << gains.len()) - 1);
            let class = set(u64::from(class) | 1).intersection(all);
            let on = set(u64::from(on & 0x11)).intersection(class);
            let off = set(u64::from(off & 0x22)).intersection(class);
            let found = Chooser::default().best(&coupling, &gains, Choice { class, on, off });
            prop_assert!(found.without(class).is_empty() && on.without(found).is_empty());
            prop_assert!(found.intersection(off).is_empty());
            let allowed = (0..1u64 << gains.len()).map(set).filter(|set| {
                set.without(class).is_empty()
                    && on.without(*set).is_empty()
                    && set.intersection(off).is_empty()
            });
            let best = allowed.map(|set| by_definition(&cost, &gains, set)).fold(f64::MIN, f64::max);
            prop_assert!((by_definition(&cost, &gains, found) - best).abs() < 1e-9);
            prop_assert!((coupling.value(&gains, found) - best).abs() < 1e-9);
        }

        #[test]
        fn marginals_are_differences_of_values((cost, gains) in problem(), bits in any::<u8>()) {
            let coupling = Coupling::new(&cost);
            let others = set(u64::from(bits) & ((1 << gains.len()) - 1) & !1);
            let task = TaskIndex(0);
            let difference =
                coupling.value(&gains, others.union(TaskSet::of(task))) - coupling.value(&gains, others);
            prop_assert!((coupling.marginal(gains[0], task, others) - difference).abs() < 1e-9);
            for set in [others, others.union(TaskSet::of(task))] {
                let mut marginals = Vec::new();
                coupling.marginals(&gains, set, &mut marginals);
                prop_assert!((marginals[0] - difference).abs() < 1e-9);
            }
        }
    }
}
