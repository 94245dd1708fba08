//! Each task's own best mask, chosen without a look at the others.
//!
//! It is what `pack` writes, what alignment starts from, and what its losses are measured against.

use super::{Instance, Problem, Retention, scope::Scope, scores::Records};
use crate::{
    compile::{CompileError, progress::Run, taskset::TaskSet},
    units::TaskIndex,
};
use std::ops::Range;

/// Tasks whose scores are in memory at a time: over a whole model that is 16 bytes a place, and
/// choosing takes some 24 more.
const TASKS_AT_ONCE: usize = 2;
/// Places read at a time.
const PLACES_AT_ONCE: usize = 4096;

/// Each task's own best mask.
#[derive(Debug)]
pub(super) struct OwnBest {
    pub(super) sets: Vec<TaskSet>,
    pub(super) scopes: Vec<Scope>,
    /// By task.
    pub(super) totals: Vec<Totals>,
}

/// One task's importance, summed up over scopes in order of place. As sums of non-negative numbers
/// in one order, the parts cannot exceed the whole, rounding included.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// In its own best mask, which holds what is required.
    pub(super) own: f64,
    /// In the best mask of the same size.
    best: f64,
    total: f64,
}

impl Totals {
    /// The shares of a mask that retains so much.
    pub(super) fn shares(&self, kept: f64) -> Retention {
        if self.total == 0.0 {
            return Retention { retained: 1.0, best: 1.0 };
        }
        let best = self.best / self.total;
        // Sums over different places may round to the wrong order when they are equal.
        Retention { retained: (kept / self.total).min(best), best }
    }

    /// The shares of the own best mask.
    pub(super) fn of_own(&self) -> Retention {
        self.shares(self.own)
    }

    fn add(&mut self, scores: &[f64], own: &[usize], best: &[usize]) {
        self.own = own.iter().fold(self.own, |sum, &place| sum + scores[place]);
        self.best = best.iter().fold(self.best, |sum, &place| sum + scores[place]);
        self.total = scores.iter().fold(self.total, |sum, score| sum + score);
    }
}

impl OwnBest {
    pub(super) fn find(problem: &Problem, run: Run<'_>) -> Result<Self, CompileError> {
        let tasks: Vec<_> = problem.tasks().collect();
        let mut found = Self {
            sets: vec![TaskSet::EMPTY; problem.scores.places()],
            scopes: Vec::new(),
            totals: vec![Totals::default(); tasks.len()],
        };
        for places in problem.scopes() {
            let budgets = problem.budgets(&places);
            let mut scope = Scope::new(places, budgets);
            for tasks in tasks.chunks(TASKS_AT_ONCE) {
                run.check()?;
                let columns = columns(problem, &scope.places, tasks)?;
                for (&task, scores) in tasks.iter().zip(&columns) {
                    found.choose(problem, &mut scope, task, scores);
                }
            }
            found.scopes.push(scope);
        }
        Ok(found)
    }

    fn choose(&mut self, problem: &Problem, scope: &mut Scope, task: TaskIndex, scores: &[f64]) {
        let budget = scope.budgets[task.index()];
        let is_required =
            |place: usize| problem.scores.required(scope.places.start + place).contains(task);
        let required: Vec<_> = (0..scores.len()).filter(|&place| is_required(place)).collect();
        let best = best_places(scores, (0..scores.len()).collect(), budget);
        let own = if required.is_empty() {
            best.clone()
        } else {
            let free = (0..scores.len()).filter(|&place| !is_required(place)).collect();
            let mut own = best_places(scores, free, budget.saturating_sub(required.len()));
            own.extend(required);
            own.sort_unstable();
            own
        };
        self.totals[task.index()].add(scores, &own, &best);
        // The worst block that is kept is just worth its price.
        let worst = own.iter().map(|&place| scores[place]).fold(f64::INFINITY, f64::min);
        scope.prices[task.index()] = if own.is_empty() { 0.0 } else { worst };
        for place in own {
            self.sets[scope.places.start + place].insert(task);
        }
    }

    /// What the solvers look at, with prices in the unit of their objective.
    pub(super) fn instance<'p>(&mut self, problem: &'p Problem) -> Instance<'p> {
        let tasks = self.totals.len() as f64;
        // Importance so small that it has no inverse counts as none.
        let worth = |totals: &Totals| {
            let worth = 1.0 / (totals.own * tasks);
            if worth.is_finite() { worth } else { 0.0 }
        };
        let worth: Vec<_> = self.totals.iter().map(worth).collect();
        for scope in &mut self.scopes {
            scope.prices.iter_mut().zip(&worth).for_each(|(price, worth)| *price *= worth);
        }
        let (given, all) = (problem.given(), problem.tasks().collect());
        Instance { scores: &problem.scores, given, all, worth }
    }
}

/// Some tasks' scores of a scope's places.
fn columns(
    problem: &Problem,
    places: &Range<usize>,
    tasks: &[TaskIndex],
) -> Result<Vec<Vec<f64>>, CompileError> {
    let mut columns = vec![Vec::with_capacity(places.len()); tasks.len()];
    let mut records = Records::default();
    for start in places.clone().step_by(PLACES_AT_ONCE) {
        problem.scores.read(start..places.end.min(start + PLACES_AT_ONCE), &mut records)?;
        for scores in records.iter() {
            let row = tasks.iter().map(|task| scores[task.index()]);
            columns.iter_mut().zip(row).for_each(|(column, score)| column.push(score));
        }
    }
    Ok(columns)
}

/// The `count` of these places that have the highest scores, in order; of equal scores the earlier
/// place.
pub(super) fn best_places(scores: &[f64], mut places: Vec<usize>, count: usize) -> Vec<usize> {
    if count < places.len() {
        places.select_nth_unstable_by(count, |&a, &b| {
            scores[b].total_cmp(&scores[a]).then(a.cmp(&b))
        });
        places.truncate(count);
        places.sort_unstable();
    }
    places
}
