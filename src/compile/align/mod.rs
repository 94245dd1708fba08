//! Which blocks each task keeps: all tasks' scores and budgets in, all tasks' masks out.
//!
//! Maximises the mean over tasks of the importance that they retain, each as a share of what its
//! own best mask retains, less λ times the expected share of a task that a switch has to load.
//! `block` solves this for one block, `scope` for all that share budgets, `search` finds λ.
//! `docs/alignment.md` has the method and why its bound holds. Knows neither tensors nor bytes.

mod balance;
mod block;
mod cut;
mod own;
mod scope;
mod scores;
mod search;

pub(super) use scores::{Classes, Scores};
pub use search::FrontierPoint;

use super::{error::CompileError, progress::Run, taskset::TaskSet, transitions::Switches};
use crate::units::TaskIndex;
use block::{Choice, Chooser, Coupling};
use scope::Scope;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What is to be decided.
#[derive(Debug)]
pub(super) struct Problem {
    /// By task.
    pub(super) demands: Vec<Demand>,
    pub(super) scores: Scores,
    pub(super) switches: Switches,
    pub(super) budget: BudgetScope,
    pub(super) goal: Goal,
}

/// A task that has to keep more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenBudget {
    pub(super) task: TaskIndex,
    /// Which of the scopes: a tensor, or the model.
    pub(super) scope: usize,
    pub(super) required: usize,
    pub(super) budget: usize,
}

/// What a task asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Demand {
    /// This share of the blocks, above 0 and at most 1.
    Share(f64),
    /// Exactly the blocks that are required.
    Given,
}

/// Where a share counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BudgetScope {
    /// In each tensor.
    Tensor,
    /// In all tensors together.
    Model,
}

/// How much importance may be given up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    /// As much as leaves every task this share of what its own best mask retains.
    QualityFloor(f64),
    /// At a given worth of a switch that loads as many bytes as a task has.
    Lambda(f64),
}

/// Who keeps what.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Masks {
    /// By place: the tasks that keep the block.
    pub(super) sets: Vec<TaskSet>,
    /// By task.
    pub(super) retention: Vec<Retention>,
    pub(super) method: Method,
}

/// How masks were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Method {
    /// With a version that changes when the outcome may.
    pub algorithm: &'static str,
    /// What a switch that loads as many bytes as a task has was held to be worth: a share of the
    /// tasks' mean importance.
    pub lambda: f64,
    /// The most by which any masks within the budgets can be better, in the same unit.
    pub gap: f64,
    /// Proved of all masks within the budgets that leave every task the quality floor: a switch
    /// is expected to load at least this share of a task. None where it was not asked for.
    pub least_switch: Option<f64>,
}

/// Shares of a task's importance: `retained <= best <= 1`. A task to which nothing matters
/// retains all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Retention {
    /// In the blocks that it keeps.
    pub(super) retained: f64,
    /// In as many blocks of each scope, chosen for this task alone.
    pub(super) best: f64,
}

/// Chooses all tasks' masks together.
pub(super) fn align(problem: &Problem, run: Run<'_>) -> Result<Masks, CompileError> {
    search::align(problem, run)
}

/// Masks for a range of λ, the last one of each task's own best.
pub(super) fn frontier(
    problem: &Problem,
    run: Run<'_>,
) -> Result<Vec<FrontierPoint>, CompileError> {
    search::frontier(problem, run)
}

/// Chooses for each task the mask that is best for it alone.
pub(super) fn independent(problem: &Problem, run: Run<'_>) -> Result<Masks, CompileError> {
    let own = own::OwnBest::find(problem, run)?;
    let method = Method { algorithm: "own-best/1", lambda: 0.0, gap: 0.0, least_switch: None };
    let retention = own.totals.iter().map(own::Totals::of_own).collect();
    Ok(Masks { sets: own.sets, retention, method })
}

impl Problem {
    fn tasks(&self) -> impl Iterator<Item = TaskIndex> + use<> {
        (0..).map(TaskIndex).take(self.demands.len())
    }

    fn given(&self) -> TaskSet {
        self.tasks().filter(|task| self.demands[task.index()] == Demand::Given).collect()
    }

    /// How many scores there are.
    fn size(&self) -> usize {
        self.scores.places() * self.demands.len()
    }

    /// The first task that may keep nothing at all.
    pub(super) fn empty_task(&self) -> Option<TaskIndex> {
        let all = self.budgets(&(0..self.scores.places()));
        self.tasks().zip(all).find(|(_, budget)| *budget == 0).map(|(task, _)| task)
    }

    /// The first budget that is less than what is required.
    pub(super) fn broken_budget(&self) -> Option<BrokenBudget> {
        let mut scopes = self.scopes().into_iter().enumerate();
        scopes.find_map(|(scope, places)| {
            self.tasks().zip(self.budgets(&places)).find_map(|(task, budget)| {
                let required = self.required(&places, task);
                let broken = BrokenBudget { task, scope, required, budget };
                (required > budget).then_some(broken)
            })
        })
    }

    fn required(&self, places: &Range<usize>, task: TaskIndex) -> usize {
        places.clone().filter(|&place| self.scores.required(place).contains(task)).count()
    }

    /// The places that share budgets.
    fn scopes(&self) -> Vec<Range<usize>> {
        match self.budget {
            BudgetScope::Tensor => self.scores.tensors().to_vec(),
            BudgetScope::Model => std::iter::once(0..self.scores.places()).collect(),
        }
    }

    /// By task: how many of these places it keeps.
    fn budgets(&self, places: &Range<usize>) -> Vec<usize> {
        let budget = |(task, &demand): (TaskIndex, &Demand)| match demand {
            Demand::Share(share) => budget(share, places.len()),
            Demand::Given => self.required(places, task),
        };
        self.tasks().zip(&self.demands).map(budget).collect()
    }
}

/// The number of places that a share stands for: at least one.
fn budget(share: f64, places: usize) -> usize {
    let kept = (share * places as f64).round() as usize;
    kept.clamp(places.min(1), places)
}

/// What the solvers look at.
#[derive(Debug)]
struct Instance<'a> {
    scores: &'a Scores,
    /// Tasks that keep exactly what is required.
    given: TaskSet,
    all: TaskSet,
    /// By task: what one unit of its scores is worth.
    worth: Vec<f64>,
}

impl Instance<'_> {
    fn tasks(&self) -> usize {
        self.worth.len()
    }

    /// By task: what a place is worth to it, less the price of a place if there is one.
    fn gains(&self, scores: &[f64], prices: Option<&[f64]>, gains: &mut Vec<f64>) {
        gains.clear();
        gains.extend(scores.iter().zip(&self.worth).map(|(score, worth)| score * worth));
        if let Some(prices) = prices {
            gains.iter_mut().zip(prices).for_each(|(gain, price)| *gain -= price);
        }
    }

    /// The best tasks to keep a place.
    fn choose(
        &self,
        coupling: &Coupling,
        scope: &Scope,
        place: usize,
        gains: &[f64],
        chooser: &mut Chooser,
    ) -> TaskSet {
        let (on, off) = self.decided(scope, place);
        let classes = self.scores.classes(place);
        let mut set = TaskSet::EMPTY;
        for &class in classes {
            let within = |tasks: TaskSet| tasks.intersection(class);
            let choice = Choice { class, on: within(on), off: within(off) };
            set = set.union(chooser.best(coupling, gains, choice));
        }
        let zero = self.without_values(classes);
        if zero.is_empty() {
            return set;
        }
        let wishes = zero.without(off).iter().filter(|task| gains[task.index()] > 0.0);
        set.union(wishes.collect()).union(on.intersection(zero))
    }

    /// What it is worth that exactly these tasks keep a place.
    fn value(&self, coupling: &Coupling, place: usize, gains: &[f64], set: TaskSet) -> f64 {
        let classes = self.scores.classes(place);
        if classes == [self.all] {
            return coupling.value(gains, set);
        }
        let shared = classes.iter().map(|class| coupling.value(gains, set.intersection(*class)));
        let zero = self.without_values(classes).intersection(set);
        shared.sum::<f64>() + zero.iter().map(|task| gains[task.index()]).sum::<f64>()
    }

    /// The tasks whose values at a place are all zero: nobody loads those.
    fn without_values(&self, classes: &[TaskSet]) -> TaskSet {
        classes.iter().fold(self.all, |rest, class| rest.without(*class))
    }

    /// Who keeps the place in any case, and who does not.
    fn decided(&self, scope: &Scope, place: usize) -> (TaskSet, TaskSet) {
        let required = self.scores.required(place);
        (required.union(scope.full), self.given.without(required))
    }

    fn may_flip(&self, scope: &Scope, place: usize, task: TaskIndex) -> bool {
        let (on, off) = self.decided(scope, place);
        !on.union(off).contains(task)
    }
}

#[cfg(test)]
mod tests;
