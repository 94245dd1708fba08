//! Exact budgets for one scope: a tensor, or the whole model.
//!
//! Budgets tie blocks together. Lagrange multipliers, one price a task, cut them apart again: at
//! given prices every block is chosen for itself by [`block`](super::block), and the sum of those
//! choices bounds what any masks within the budgets can be worth. Prices move along the
//! subgradient, with the step of B. T. Polyak: Minimization of unsmooth functionals, USSR
//! Computational Mathematics and Mathematical Physics 9 (1969). What still misses the budgets then
//! is mended by [`balance`](super::balance). Does not choose how much a difference costs.

use super::{
    Instance,
    block::{Chooser, Coupling},
    scores::Records,
};
use crate::{
    compile::{CompileError, progress::Run, taskset::TaskSet},
    units::TaskIndex,
};
use rayon::prelude::*;
use std::ops::Range;

/// Places that one thread goes through at a time.
const CHUNK: usize = 512;
/// Scores that may be looked at for one cost of differences, in all scopes together, and the bounds
/// of the number of sweeps that this makes.
const MAX_LOOKS: usize = 1 << 28;
pub(super) const LEAST_SWEEPS: usize = 6;
const MOST_SWEEPS: usize = 96;
/// A gap below this share of what the scope's best masks are worth is none.
const GAP: f64 = 1e-6;
/// Sweeps without a better bound after which steps become shorter.
const PATIENCE: usize = 4;

/// Places that share budgets.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) places: Range<usize>,
    /// By task: how many places it keeps.
    pub(super) budgets: Vec<usize>,
    /// The tasks that keep every place.
    pub(super) full: TaskSet,
    /// By task: what a place costs it, so that about as many places as the budget says are worth
    /// that.
    pub(super) prices: Vec<f64>,
}

/// What masks are worth, and what no masks can exceed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Worth {
    pub(super) value: f64,
    pub(super) bound: f64,
}

impl Worth {
    fn is_tight(self) -> bool {
        self.bound - self.value <= GAP * self.bound.abs()
    }
}

/// A look at all places of a scope at some prices.
#[derive(Debug)]
struct Sweep {
    value: f64,
    kept: Vec<usize>,
}

impl Scope {
    pub(super) fn new(places: Range<usize>, budgets: Vec<usize>) -> Self {
        let tasks = (0..).map(TaskIndex).zip(&budgets);
        let full = tasks.filter(|(_, budget)| **budget == places.len()).map(|(task, _)| task);
        let (full, prices) = (full.collect(), vec![0.0; budgets.len()]);
        Self { places, budgets, full, prices }
    }

    /// By task: how many places it keeps beyond its budget.
    fn excess(&self, kept: &[usize]) -> Vec<isize> {
        let pairs = kept.iter().zip(&self.budgets);
        pairs.map(|(&kept, &budget)| kept.cast_signed() - budget.cast_signed()).collect()
    }
}

/// Prices on their way to the least bound.
struct Ascent {
    prices: Vec<f64>,
    /// The part of Polyak's step that is taken.
    stride: f64,
    /// Sweeps since the bound was last lowered.
    idle: usize,
}

impl Ascent {
    /// Takes note of what the prices prove.
    fn note(&mut self, value: f64, bound: &mut f64, best: &mut Vec<f64>) {
        self.idle += 1;
        if value < *bound {
            (*bound, self.idle) = (value, 0);
            best.clone_from(&self.prices);
        }
    }

    /// Moves along the subgradient, from the best prices so far if these have led nowhere.
    fn step(&mut self, excess: &[isize], gap: f64, best: &[f64]) {
        if self.idle == PATIENCE {
            (self.stride, self.idle) = (self.stride / 2.0, 0);
            self.prices.copy_from_slice(best);
        }
        let norm = excess.iter().map(|&excess| (excess * excess) as f64).sum::<f64>();
        let step = self.stride * gap / norm;
        for (price, &excess) in self.prices.iter_mut().zip(excess) {
            *price += step * excess as f64;
        }
    }
}

/// One scope at one cost of differences.
pub(super) struct Solver<'a> {
    pub(super) instance: &'a Instance<'a>,
    pub(super) coupling: &'a Coupling,
}

impl Solver<'_> {
    /// Improves the scope's masks, which are within the budgets and stay so, and its prices.
    pub(super) fn improve(
        &self,
        scope: &mut Scope,
        sets: &mut [TaskSet],
        run: Run<'_>,
    ) -> Result<Worth, CompileError> {
        let mut worth = Worth { value: self.value(scope, sets)?, bound: f64::INFINITY };
        let mut trial = sets.to_vec();
        let mut ascent = Ascent { prices: scope.prices.clone(), stride: 1.0, idle: 0 };
        let mut nearest = usize::MAX;
        let sweeps = self.sweeps();
        for number in 1..=sweeps {
            run.check()?;
            let sweep = self.sweep(scope, &ascent.prices, &mut trial)?;
            ascent.note(sweep.value, &mut worth.bound, &mut scope.prices);
            if worth.is_tight() {
                break;
            }
            let excess = self.free_excess(scope, &sweep.kept);
            let missed = excess.iter().map(|excess| excess.unsigned_abs()).sum();
            // Balancing costs more than a sweep, so only what promises better masks is balanced; but
            // where blocks are worth the same, no prices come near, and the last must do.
            let last = number == sweeps && nearest == usize::MAX;
            if last || missed <= nearest.min(self.most_missed(scope)) {
                nearest = missed;
                if missed > 0 {
                    self.balance(scope, &mut trial, &excess, run)?;
                }
                let value = self.value(scope, &trial)?;
                if value > worth.value {
                    worth.value = value;
                    sets.copy_from_slice(&trial);
                }
            }
            if missed == 0 || worth.is_tight() {
                break;
            }
            ascent.step(&excess, sweep.value - worth.value, &scope.prices);
        }
        // Rounding may put them in the wrong order when they are equal.
        worth.bound = worth.bound.max(worth.value);
        Ok(worth)
    }

    fn sweeps(&self) -> usize {
        let looks = (self.instance.scores.places() * self.instance.tasks()).max(1);
        (MAX_LOOKS / looks).clamp(LEAST_SWEEPS, MOST_SWEEPS)
    }

    /// Masks that miss the budgets by more are not worth mending.
    fn most_missed(&self, scope: &Scope) -> usize {
        (scope.places.len() * self.instance.tasks() / 256).max(64)
    }

    /// The excess of those tasks that have a choice.
    fn free_excess(&self, scope: &Scope, kept: &[usize]) -> Vec<isize> {
        let mut excess = scope.excess(kept);
        self.instance.given.iter().for_each(|task| excess[task.index()] = 0);
        excess
    }

    /// Chooses every block for itself at the prices.
    fn sweep(
        &self,
        scope: &Scope,
        prices: &[f64],
        sets: &mut [TaskSet],
    ) -> Result<Sweep, CompileError> {
        let chunks = sets.par_chunks_mut(CHUNK).enumerate();
        let parts = chunks.map_init(Worker::default, |worker, (number, sets)| {
            let start = scope.places.start + number * CHUNK;
            worker.choose(self, scope, prices, start, sets)
        });
        let parts = parts.collect::<Result<Vec<_>, CompileError>>()?;
        // In order, so that the sum is the same however many threads there are.
        let mut sweep = Sweep { value: 0.0, kept: vec![0; prices.len()] };
        for part in parts {
            sweep.value += part.value;
            sweep.kept.iter_mut().zip(part.kept).for_each(|(sum, kept)| *sum += kept);
        }
        let budgets = prices.iter().zip(&scope.budgets);
        sweep.value += budgets.map(|(price, &budget)| price * budget as f64).sum::<f64>();
        Ok(sweep)
    }

    /// What the scope's masks are worth, whatever the budgets.
    fn value(&self, scope: &Scope, sets: &[TaskSet]) -> Result<f64, CompileError> {
        let Self { instance, coupling } = self;
        let value = |(place, scores, set): Place<'_>, gains: &mut Vec<f64>| {
            instance.gains(scores, None, gains);
            instance.value(coupling, place, gains, set)
        };
        let values = instance.map_chunks(scope.places.clone(), sets, |places| {
            let mut gains = Vec::new();
            places.map(|place| value(place, &mut gains)).sum::<f64>()
        })?;
        Ok(values.into_iter().sum())
    }
}

/// A place, its scores, and who keeps it.
pub(super) type Place<'a> = (usize, &'a [f64], TaskSet);

impl Instance<'_> {
    /// Goes through places in parallel; gives one result a chunk, in order.
    pub(super) fn map_chunks<T: Send>(
        &self,
        places: Range<usize>,
        sets: &[TaskSet],
        map: impl Fn(&mut dyn Iterator<Item = Place<'_>>) -> T + Sync,
    ) -> Result<Vec<T>, CompileError> {
        let chunks = sets.par_chunks(CHUNK).enumerate();
        let results = chunks.map_init(Records::default, |records, (number, sets)| {
            self.with_chunk(places.start + number * CHUNK, sets, records, &map)
        });
        results.collect()
    }

    /// Goes through places in parallel and brings all together, in an order that is not fixed.
    pub(super) fn fold_chunks<T: Send>(
        &self,
        places: Range<usize>,
        sets: &[TaskSet],
        new: impl Fn() -> T + Sync + Send,
        add: impl Fn(&mut T, &mut dyn Iterator<Item = Place<'_>>) + Sync,
        merge: impl Fn(&mut T, T) + Sync + Send,
    ) -> Result<T, CompileError> {
        let chunks = sets.par_chunks(CHUNK).enumerate();
        let parts = chunks.try_fold(
            || (new(), Records::default()),
            |(mut all, mut records), (number, sets)| {
                let start = places.start + number * CHUNK;
                self.with_chunk(start, sets, &mut records, |places| add(&mut all, places))?;
                Ok((all, records))
            },
        );
        parts.map(|part| part.map(|(part, _)| part)).try_reduce(&new, |mut all, part| {
            merge(&mut all, part);
            Ok(all)
        })
    }

    fn with_chunk<T>(
        &self,
        start: usize,
        sets: &[TaskSet],
        records: &mut Records,
        then: impl FnOnce(&mut dyn Iterator<Item = Place<'_>>) -> T,
    ) -> Result<T, CompileError> {
        self.scores.read(start..start + sets.len(), records)?;
        let places = (start..).zip(records.iter()).zip(sets);
        Ok(then(&mut places.map(|((place, scores), &set)| (place, scores, set))))
    }
}

/// What a thread needs again and again.
#[derive(Default)]
struct Worker {
    records: Records,
    chooser: Chooser,
    gains: Vec<f64>,
}

impl Worker {
    fn choose(
        &mut self,
        solver: &Solver<'_>,
        scope: &Scope,
        prices: &[f64],
        start: usize,
        sets: &mut [TaskSet],
    ) -> Result<Sweep, CompileError> {
        let Self { records, chooser, gains } = self;
        let instance = solver.instance;
        instance.scores.read(start..start + sets.len(), records)?;
        let mut sweep = Sweep { value: 0.0, kept: vec![0; prices.len()] };
        for ((place, scores), set) in (start..).zip(records.iter()).zip(sets) {
            instance.gains(scores, Some(prices), gains);
            *set = instance.choose(solver.coupling, scope, place, gains, chooser);
            sweep.value += instance.value(solver.coupling, place, gains, *set);
            set.iter().for_each(|task| sweep.kept[task.index()] += 1);
        }
        Ok(sweep)
    }
}
