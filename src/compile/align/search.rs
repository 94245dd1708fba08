//! How much a difference between tasks should cost: the search for λ, and the whole frontier.
//!
//! A larger λ gives masks that share more and retain less, but not all tasks lose alike. So tasks
//! also get weights: those that fall below the floor count for more, those well above for less,
//! until hardly any task retains more than it must. Every step starts from the prices and the masks
//! of the one before.

use super::{
    Goal, Instance, Masks, Method, Problem, Retention,
    block::Coupling,
    own::{OwnBest, Totals},
    scope::{LEAST_SWEEPS, Scope, Solver, Worth},
};
use crate::{
    compile::{CompileError, progress::Run, taskset::TaskSet},
    units::TaskIndex,
};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// The powers of two between which λ is sought, and on which the frontier's points lie.
const EXPONENTS: (i32, i32) = (-10, 6);
/// The exponents from one λ to the next on the way up, and the halvings that follow.
const STRIDE: usize = 2;
const STEPS: usize = 5;
/// A gap beyond this share of what switches cost is too much to go on.
const LOOSE: f64 = 0.1;
const CLIMB: usize = EXPONENTS.1.abs_diff(EXPONENTS.0) as usize / STRIDE + 1;
/// Times that weights are changed.
const ROUNDS: usize = 40;
/// How strongly weights answer to what tasks retain beyond the floor, at first; and the rounds after
/// which that is half as strong.
const RATE: f64 = 1.0;
const SETTLING: f64 = 8.0;
/// What tasks are led to retain beyond the floor, as a share of what it lets them lose, so that most
/// rounds end above it.
const MARGIN: f64 = 0.004;
/// A task's weight changes by at most this factor at a time.
const MAX_CHANGE: f64 = 4.0;
/// With so many scores there are only half as many halvings.
const LARGE: usize = 1 << 25;
/// Scores that rounds may look at in all: with many tasks and blocks there are fewer rounds.
const ROUND_LOOKS: usize = 1 << 25;

/// A choice of masks on the way from every task for itself to all alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrontierPoint {
    /// What a switch that loads as many bytes as a task has was held to be worth: a share of the
    /// tasks' mean importance. Zero for each task's own best mask.
    pub lambda: f64,
    /// Expected blocks that a switch loads, over the transitions of the recipe.
    pub switch_blocks: f64,
    /// The same as a share of the blocks of a task, of which this is the mean over tasks.
    pub switch_share: f64,
    /// What the tasks retain of what their own best masks retain: the mean.
    pub mean_quality: f64,
    /// The same of the task that loses most.
    pub least_quality: f64,
    /// The most by which any masks within the budgets can be better in the objective.
    pub gap: f64,
}

/// Finds masks that reach the problem's goal.
pub(super) fn align(problem: &Problem, run: Run<'_>) -> Result<Masks, CompileError> {
    let rounds = rounds(problem);
    let steps = match problem.goal {
        Goal::Lambda(_) => 1,
        Goal::QualityFloor(_) => CLIMB + halvings(problem) + rounds,
    };
    run.stage("align", problem.scores.bytes() * steps as u64)?;
    let mut search = Search::new(problem, run)?;
    match problem.goal {
        Goal::Lambda(lambda) => search.solve(lambda)?,
        Goal::QualityFloor(floor) => search.reach(floor, rounds)?,
    }
    run.0.advance(problem.scores.bytes() * (steps - search.solved) as u64);
    Ok(search.finish())
}

/// Halvings that a problem of this size may have.
fn halvings(problem: &Problem) -> usize {
    if problem.size() < LARGE { STEPS } else { STEPS / 2 }
}

/// Rounds of weights that a problem of this size may have.
fn rounds(problem: &Problem) -> usize {
    (ROUND_LOOKS / (problem.size() * LEAST_SWEEPS).max(1)).min(ROUNDS)
}

/// Solves for a range of λ, from all alike to every task for itself.
pub(super) fn frontier(
    problem: &Problem,
    run: Run<'_>,
) -> Result<Vec<FrontierPoint>, CompileError> {
    let (least, most) = EXPONENTS;
    let steps = u64::from(most.abs_diff(least)) + 1;
    run.stage("align", problem.scores.bytes() * steps)?;
    let mut search = Search::new(problem, run)?;
    let mut points = vec![search.point()];
    for exponent in least..=most {
        search.solve(f64::from(exponent).exp2())?;
        points.push(search.point());
    }
    points.reverse();
    Ok(points)
}

struct Search<'a> {
    problem: &'a Problem,
    instance: Instance<'a>,
    run: Run<'a>,
    /// By task.
    own: Vec<Totals>,
    scopes: Vec<Scope>,
    sets: Vec<TaskSet>,
    lambda: f64,
    gap: f64,
    /// The least switch that leaves every task the share that is asked for, as far as is proved.
    least_switch: Option<f64>,
    /// By task: how much it counts, 1 in the mean.
    weights: Vec<f64>,
    /// How many times a λ was solved for.
    solved: usize,
    figures: Figures,
}

/// What the masks at hand come to.
#[derive(Clone, Debug, Default)]
struct Figures {
    /// By task: the importance in the blocks that it keeps.
    kept: Vec<f64>,
    /// Of tasks that have a choice: what they retain of what their own best masks do.
    qualities: Vec<(TaskIndex, f64)>,
    least_quality: f64,
    /// Expected blocks that a switch loads.
    switch_blocks: f64,
}

/// Masks that reach the floor, and what led to them.
#[derive(Clone)]
struct Reached {
    figures: Figures,
    sets: Vec<TaskSet>,
    lambda: f64,
    gap: f64,
    weights: Vec<f64>,
}

impl<'a> Search<'a> {
    /// Starts from each task's own best mask, the answer for λ = 0.
    fn new(problem: &'a Problem, run: Run<'a>) -> Result<Self, CompileError> {
        let mut own = OwnBest::find(problem, run)?;
        let instance = own.instance(problem);
        let OwnBest { sets, scopes, totals } = own;
        let weights = vec![1.0; problem.demands.len()];
        let mut search = Self {
            problem,
            instance,
            run,
            own: totals,
            scopes,
            sets,
            lambda: 0.0,
            gap: 0.0,
            least_switch: None,
            weights,
            solved: 0,
            figures: Figures::default(),
        };
        search.figures = search.measure()?;
        Ok(search)
    }

    /// Blocks of a task, as the mean over tasks.
    fn mean_blocks(&self) -> f64 {
        let blocks = self.scopes.iter().flat_map(|scope| &scope.budgets).sum::<usize>();
        (blocks as f64 / self.instance.tasks() as f64).max(1.0)
    }

    /// Improves masks and prices for a λ.
    fn solve(&mut self, lambda: f64) -> Result<(), CompileError> {
        let coupling = Coupling::new(&self.problem.switches.scaled(lambda / self.mean_blocks()));
        let solver = Solver { instance: &self.instance, coupling: &coupling };
        let mut rest = self.sets.as_mut_slice();
        let mut scopes = Vec::with_capacity(self.scopes.len());
        for scope in &mut self.scopes {
            let (sets, behind) = rest.split_at_mut(scope.places.len());
            rest = behind;
            scopes.push((scope, sets));
        }
        let worths =
            scopes.into_par_iter().map(|(scope, sets)| solver.improve(scope, sets, self.run));
        let mut sum = Worth::default();
        for worth in worths.collect::<Result<Vec<_>, _>>()? {
            sum.value += worth.value;
            sum.bound += worth.bound;
        }
        self.lambda = lambda;
        self.gap = sum.bound - sum.value;
        // Whatever the weights were, what is proved stays proved.
        let proved = [self.least_switch, self.least_switch(sum.bound)].into_iter().flatten();
        self.least_switch = proved.reduce(f64::max);
        self.figures = self.measure()?;
        self.solved += 1;
        self.run.0.advance(self.problem.scores.bytes());
        Ok(())
    }

    /// Masks of which every task retains the floor are worth at least that, less λ times their
    /// switch; and no masks are worth more than the bound.
    fn least_switch(&self, bound: f64) -> Option<f64> {
        let Goal::QualityFloor(floor) = self.problem.goal else { return None };
        // What tasks with given masks retain is not theirs to choose.
        let free = self.instance.given.is_empty() && self.lambda > 0.0;
        // A task to which nothing matters adds nothing to what masks are worth.
        let counted =
            self.weights.iter().zip(&self.instance.worth).filter(|(_, worth)| **worth > 0.0);
        let share = counted.map(|(weight, _)| weight).sum::<f64>() / self.weights.len() as f64;
        free.then(|| ((floor * share - bound) / self.lambda).max(0.0))
    }

    /// Finds masks with few expected bytes among those of which every task retains the share of
    /// its own best; own best masks always do.
    fn reach(&mut self, floor: f64, rounds: usize) -> Result<(), CompileError> {
        let mut best = self.reached();
        if let Some(around) = self.climb(floor, &mut best)? {
            self.bisect(floor, around, &mut best)?;
        }
        if best.lambda > 0.0 && best.figures.switch_blocks > 0.0 {
            self.restore(best.clone());
            self.level(floor, rounds, &mut best)?;
        }
        self.restore(best);
        Ok(())
    }

    /// Raises λ step by step, as masks and prices for one are near those for the next, until a task
    /// falls below the floor; gives the last two powers of two. Ends too where all are alike.
    fn climb(
        &mut self,
        floor: f64,
        best: &mut Reached,
    ) -> Result<Option<(f64, f64)>, CompileError> {
        for exponent in (EXPONENTS.0..=EXPONENTS.1).step_by(STRIDE) {
            self.solve(f64::from(exponent).exp2())?;
            let reaches = self.note(floor, best);
            let switch = self.lambda * self.figures.switch_blocks / self.mean_blocks();
            if reaches && switch == 0.0 {
                return Ok(None);
            }
            // Where many blocks and tasks leave few steps, masks far from the optimum tell nothing.
            if !reaches || self.gap > LOOSE * switch {
                return Ok(Some((f64::from(exponent) - STRIDE as f64, exponent.into())));
            }
        }
        Ok(None)
    }

    /// Takes note of the masks if they are the best so far; whether they reach the floor.
    fn note(&self, floor: f64, best: &mut Reached) -> bool {
        let reaches = self.figures.least_quality >= floor;
        if reaches && self.figures.switch_blocks < best.figures.switch_blocks {
            *best = self.reached();
        }
        reaches
    }

    /// Halves an interval of powers of two towards the largest λ that reaches the floor.
    fn bisect(
        &mut self,
        floor: f64,
        (mut low, mut high): (f64, f64),
        best: &mut Reached,
    ) -> Result<(), CompileError> {
        for _ in 0..halvings(self.problem) {
            let middle = f64::midpoint(low, high);
            self.solve(middle.exp2())?;
            if self.note(floor, best) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(())
    }

    fn reached(&self) -> Reached {
        Reached {
            figures: self.figures.clone(),
            sets: self.sets.clone(),
            lambda: self.lambda,
            gap: self.gap,
            weights: self.weights.clone(),
        }
    }

    fn restore(&mut self, reached: Reached) {
        let Reached { figures, sets, lambda, gap, weights } = reached;
        (self.figures, self.sets, self.lambda, self.gap) = (figures, sets, lambda, gap);
        self.set_weights(weights);
    }

    /// Changes weights, and λ with them, until no task retains much more than the floor that could
    /// share more instead. That is ascent on the multipliers of the floors, one for each task.
    fn level(&mut self, floor: f64, rounds: usize, best: &mut Reached) -> Result<(), CompileError> {
        let spread = (1.0 - floor).max(f64::EPSILON);
        let aim = floor + MARGIN * spread;
        for round in 0..rounds {
            let rate = RATE / (1.0 + round as f64 / SETTLING);
            let mut worths: Vec<_> =
                self.weights.iter().map(|weight| weight / self.lambda).collect();
            for &(task, quality) in &self.figures.qualities {
                let change = ((aim - quality) / spread * rate).exp();
                worths[task.index()] *= change.clamp(1.0 / MAX_CHANGE, MAX_CHANGE);
            }
            let mean = worths.iter().sum::<f64>() / worths.len() as f64;
            self.set_weights(worths.iter().map(|worth| worth / mean).collect());
            self.solve(1.0 / mean)?;
            self.note(floor, best);
        }
        Ok(())
    }

    /// Takes weights over into what scores are worth, and prices along with it.
    fn set_weights(&mut self, weights: Vec<f64>) {
        for (task, weight) in weights.iter().enumerate() {
            let change = weight / self.weights[task];
            self.instance.worth[task] *= change;
            self.scopes.iter_mut().for_each(|scope| scope.prices[task] *= change);
        }
        self.weights = weights;
    }

    /// By task: the importance in the blocks that it keeps.
    fn kept(&self) -> Result<Vec<f64>, CompileError> {
        let tasks = self.instance.tasks();
        let chunks = self.instance.map_chunks(0..self.sets.len(), &self.sets, |places| {
            let mut kept = vec![0.0; tasks];
            for (_, scores, set) in places {
                set.iter().for_each(|task| kept[task.index()] += scores[task.index()]);
            }
            kept
        })?;
        let mut kept = vec![0.0; tasks];
        for chunk in chunks {
            kept.iter_mut().zip(chunk).for_each(|(sum, part)| *sum += part);
        }
        Ok(kept)
    }

    /// Works out what the masks at hand come to.
    fn measure(&self) -> Result<Figures, CompileError> {
        let kept = self.kept()?;
        let quality =
            |(&kept, own): (&f64, f64)| if own > 0.0 { (kept / own).min(1.0) } else { 1.0 };
        let own = self.own.iter().map(|totals| totals.own);
        let all = (0..).map(TaskIndex).zip(kept.iter().zip(own).map(quality));
        let free = |(task, _): &(TaskIndex, f64)| !self.instance.given.contains(*task);
        let qualities: Vec<_> = all.filter(free).collect();
        let least_quality = qualities.iter().map(|(_, quality)| *quality).fold(1.0, f64::min);
        Ok(Figures { kept, qualities, least_quality, switch_blocks: self.switch_blocks() })
    }

    /// Expected blocks that a switch loads.
    fn switch_blocks(&self) -> f64 {
        let mut counts = BTreeMap::<TaskSet, u64>::new();
        for (place, &set) in self.sets.iter().enumerate() {
            for class in self.problem.scores.classes(place) {
                let sharing = set.intersection(*class);
                // Most blocks are kept by all or by none, and are never loaded.
                if !sharing.is_empty() && sharing != self.instance.all {
                    *counts.entry(sharing).or_default() += 1;
                }
            }
        }
        let expected = |(set, count)| self.problem.switches.expected(set) * count as f64;
        // Not `sum`, whose nothing is minus zero.
        counts.into_iter().map(expected).fold(0.0, |sum, part| sum + part)
    }

    fn point(&self) -> FrontierPoint {
        let Figures { kept: _, qualities, least_quality, switch_blocks } = &self.figures;
        let sum: f64 = qualities.iter().map(|(_, quality)| quality).sum();
        let mean = if qualities.is_empty() { 1.0 } else { sum / qualities.len() as f64 };
        FrontierPoint {
            lambda: self.lambda,
            switch_blocks: *switch_blocks,
            switch_share: switch_blocks / self.mean_blocks(),
            mean_quality: mean,
            least_quality: *least_quality,
            gap: self.gap,
        }
    }

    fn finish(self) -> Masks {
        let retention = self.own.iter().zip(self.figures.kept);
        let retention: Vec<Retention> = retention.map(|(own, kept)| own.shares(kept)).collect();
        let method = Method {
            algorithm: "joint/1",
            lambda: self.lambda,
            gap: self.gap,
            least_switch: self.least_switch,
        };
        Masks { sets: self.sets, retention, method }
    }
}
