//! From masks that nearly meet their budgets to masks that do, at the least loss.
//!
//! Looks only at the blocks that are cheapest to change, as seen from the masks at hand. Afterwards
//! a task swaps one block for another wherever all gain by it. Never changes what is required.

use super::{
    Instance,
    block::Coupling,
    scope::{Scope, Solver},
    scores::Records,
};
use crate::{
    compile::{CompileError, progress::Run, taskset::TaskSet},
    units::TaskIndex,
};

use std::cmp::Ordering;

/// Blocks looked at for each task and direction beyond those that its budget calls for.
const SPARE: usize = 4;
/// Most blocks looked at for a task in one pass.
const MOST: usize = 128;
/// Rounds of swaps.
const ROUNDS: usize = 4;
/// A gain below this is rounding.
const LEAST: f64 = 1e-12;

/// Whether a task takes up a block or gives it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flip {
    Add,
    Drop,
}

/// A change of one task at one place, and what all gain by it (mostly less than nothing).
#[derive(Clone, Copy, Debug)]
struct Change {
    gain: f64,
    /// The place, or its position among candidates, which are in the order of their places.
    at: usize,
}

impl Change {
    /// Of a task that keeps the place or does not; `marginal` is what all gain if it does.
    fn new(at: usize, keeps: bool, marginal: f64) -> Self {
        Self { gain: if keeps { -marginal } else { marginal }, at }
    }

    /// By falling gain; of equal ones the earlier comes first.
    fn best_first(&self, other: &Self) -> Ordering {
        other.gain.total_cmp(&self.gain).then(self.at.cmp(&other.at))
    }
}

/// A block in memory.
struct Candidate {
    place: usize,
    /// By task: what the block is worth to it.
    gains: Vec<f64>,
    set: TaskSet,
}

impl Solver<'_> {
    /// Makes masks meet the scope's budgets, given by how much they exceed them.
    pub(super) fn balance(
        &self,
        scope: &Scope,
        sets: &mut [TaskSet],
        excess: &[isize],
        run: Run<'_>,
    ) -> Result<(), CompileError> {
        let mut excess = excess.to_vec();
        loop {
            run.check()?;
            let mut candidates = self.candidates(scope, sets, &excess)?;
            for (task, excess) in (0..).map(TaskIndex).zip(&mut excess) {
                self.settle(scope, &mut candidates, task, excess);
            }
            let balanced = excess.iter().all(|&excess| excess == 0);
            if balanced {
                self.swap(scope, &mut candidates);
            }
            for candidate in candidates {
                sets[candidate.place - scope.places.start] = candidate.set;
            }
            if balanced {
                return Ok(());
            }
        }
    }

    /// The blocks that are cheapest to change for some task, in order.
    fn candidates(
        &self,
        scope: &Scope,
        sets: &[TaskSet],
        excess: &[isize],
    ) -> Result<Vec<Candidate>, CompileError> {
        let wanted: Vec<_> = excess.iter().map(|e| [wanted(-e), wanted(*e)]).collect();
        let cheapest = self.instance.fold_chunks(
            scope.places.clone(),
            sets,
            || Cheapest::new(excess.len()),
            |cheapest, places| {
                let (mut gains, mut marginals) = (Vec::new(), Vec::new());
                for (place, scores, set) in places {
                    self.instance.gains(scores, None, &mut gains);
                    self.marginals(place, &gains, set, &mut marginals);
                    self.add_changes(scope, place, &marginals, set, cheapest);
                }
                cheapest.cut(&wanted);
            },
            |cheapest, other| {
                cheapest.append(other);
                cheapest.cut(&wanted);
            },
        )?;
        self.load(scope, sets, cheapest.places())
    }

    /// By task: what all gain if it keeps the place, whether it does now or not.
    fn marginals(&self, place: usize, gains: &[f64], set: TaskSet, marginals: &mut Vec<f64>) {
        let classes = self.instance.scores.classes(place);
        if let &[class] = classes
            && class == self.instance.all
        {
            return self.coupling.marginals(gains, set, marginals);
        }
        marginals.clear();
        let tasks = (0..).map(TaskIndex).take(gains.len());
        marginals.extend(
            tasks.map(|task| marginal(self.instance, self.coupling, place, gains, set, task)),
        );
    }

    fn add_changes(
        &self,
        scope: &Scope,
        place: usize,
        marginals: &[f64],
        set: TaskSet,
        cheapest: &mut Cheapest,
    ) {
        let tasks = (0..).map(TaskIndex).zip(marginals).zip(&mut cheapest.by_task);
        for ((task, &marginal), by_flip) in tasks {
            let keeps = set.contains(task);
            let flip = if keeps { Flip::Drop } else { Flip::Add };
            if self.instance.may_flip(scope, place, task) {
                by_flip[flip as usize].push(Change::new(place, keeps, marginal));
            }
        }
    }

    fn load(
        &self,
        scope: &Scope,
        sets: &[TaskSet],
        places: Vec<usize>,
    ) -> Result<Vec<Candidate>, CompileError> {
        let mut records = Records::default();
        let mut candidates = Vec::with_capacity(places.len());
        for place in places {
            self.instance.scores.read(place..place + 1, &mut records)?;
            for scores in records.iter() {
                let mut gains = Vec::new();
                self.instance.gains(scores, None, &mut gains);
                let set = sets[place - scope.places.start];
                candidates.push(Candidate { place, gains, set });
            }
        }
        Ok(candidates)
    }

    /// Changes as many blocks of a task as it has too many or too few, as far as there are any.
    fn settle(
        &self,
        scope: &Scope,
        candidates: &mut [Candidate],
        task: TaskIndex,
        excess: &mut isize,
    ) {
        if *excess == 0 {
            return;
        }
        let flip = if *excess > 0 { Flip::Drop } else { Flip::Add };
        let mut changes = self.changes(scope, candidates, task, flip);
        keep_best(&mut changes, excess.unsigned_abs());
        for Change { at, .. } in changes {
            candidates[at].set = candidates[at].set.toggled(task);
            *excess -= excess.signum();
        }
    }

    /// The task's changes in one direction, by position among the candidates.
    fn changes(
        &self,
        scope: &Scope,
        candidates: &[Candidate],
        task: TaskIndex,
        flip: Flip,
    ) -> Vec<Change> {
        let possible = candidates.iter().enumerate().filter(|(_, candidate)| {
            candidate.set.contains(task) == (flip == Flip::Drop)
                && self.instance.may_flip(scope, candidate.place, task)
        });
        let changes = possible.map(|(at, Candidate { place, gains, set })| {
            let marginal = marginal(self.instance, self.coupling, *place, gains, *set, task);
            Change::new(at, flip == Flip::Drop, marginal)
        });
        changes.collect()
    }

    /// Lets tasks swap one block for another while all gain by it.
    fn swap(&self, scope: &Scope, candidates: &mut [Candidate]) {
        for _ in 0..ROUNDS {
            let mut swapped = false;
            for task in (0..).map(TaskIndex).take(self.instance.tasks()) {
                swapped |= self.swap_of(scope, candidates, task);
            }
            if !swapped {
                return;
            }
        }
    }

    fn swap_of(&self, scope: &Scope, candidates: &mut [Candidate], task: TaskIndex) -> bool {
        let sorted = |flip| {
            let mut changes = self.changes(scope, candidates, task, flip);
            changes.sort_unstable_by(Change::best_first);
            changes
        };
        // At different places, and a task's changes at one place do not touch those at another.
        let pairs = sorted(Flip::Add).into_iter().zip(sorted(Flip::Drop));
        let better = pairs.take_while(|(add, drop)| add.gain + drop.gain > LEAST);
        let mut swapped = false;
        for (add, drop) in better {
            for Change { at, .. } in [add, drop] {
                candidates[at].set = candidates[at].set.toggled(task);
            }
            swapped = true;
        }
        swapped
    }
}

/// How many changes in a direction to look at for a task that is to make so many.
fn wanted(changes: isize) -> usize {
    (usize::try_from(changes).unwrap_or_default() + SPARE).min(MOST)
}

/// What all gain if the task keeps the place, given who else does.
fn marginal(
    instance: &Instance<'_>,
    coupling: &Coupling,
    place: usize,
    gains: &[f64],
    set: TaskSet,
    task: TaskIndex,
) -> f64 {
    let own = gains[task.index()];
    match instance.scores.classes(place).iter().find(|class| class.contains(task)) {
        None => own,
        Some(class) => {
            let others = set.intersection(*class).without(TaskSet::of(task));
            coupling.marginal(own, task, others)
        }
    }
}

/// Keeps the best changes, at most so many. Which those are does not depend on their order.
fn keep_best(changes: &mut Vec<Change>, count: usize) {
    if count < changes.len() {
        changes.select_nth_unstable_by(count, Change::best_first);
        changes.truncate(count);
    }
}

/// The best changes of each task, by direction.
struct Cheapest {
    by_task: Vec<[Vec<Change>; 2]>,
}

impl Cheapest {
    fn new(tasks: usize) -> Self {
        Self { by_task: vec![Default::default(); tasks] }
    }

    fn append(&mut self, other: Self) {
        for (own, other) in self.by_task.iter_mut().zip(other.by_task) {
            own.iter_mut().zip(other).for_each(|(own, mut other)| own.append(&mut other));
        }
    }

    /// Keeps the best, as many as are wanted by task and direction.
    fn cut(&mut self, wanted: &[[usize; 2]]) {
        for (changes, &wanted) in self.by_task.iter_mut().flatten().zip(wanted.iter().flatten()) {
            keep_best(changes, wanted);
        }
    }

    fn places(&self) -> Vec<usize> {
        let changes = self.by_task.iter().flatten().flatten();
        let mut places: Vec<_> = changes.map(|change| change.at).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}
