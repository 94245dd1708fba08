//! Which task comes next, how likely, and when: learnt online, for one session.
//!
//! A [`Predictor`] is a variable-order model. For each history of up to four tasks it counts what
//! followed, and a longer history falls back on the next shorter one, down to the transitions that
//! the bundle was compiled for (prediction by partial matching: Cleary and Witten, IEEE Trans.
//! Commun. 32, 1984). Counts fade, at two speeds: the slow ones know more, the fast ones notice
//! sooner that something has changed. Every length and speed is an expert; their opinions are mixed
//! by how well each has done lately (fixed share: Herbster and Warmuth, Machine Learning 32, 1998),
//! so that nobody has to choose an order. When forecasts become much worse than they were, what was
//! learnt so far counts little from then on. How long tasks last is kept for each pair of tasks, so
//! that time that has passed tells about what comes, too.
//!
//! It is pure: no clock, no randomness, no I/O. What is done about a forecast is the engine's
//! business, and where the state is kept the daemon's.

mod alarm;
mod contexts;
mod dwell;
mod mixture;
mod saved;

pub use saved::{SavedContext, SavedDwell, SavedForesight, SavedPredictor, SavedSession};

use crate::units::TaskIndex;
use alarm::Alarm;
use contexts::{Contexts, MAX_ORDER};
use dwell::Dwells;
use mixture::Mixture;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How much of what is known of the share of right forecasts stays at each switch.
const CONFIDENCE_DECAY: f64 = 0.95;

/// A task that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// The task.
    pub task: TaskIndex,
    /// How likely it is the next one, 0 to 1.
    pub probability: f64,
    /// How likely it comes next within the horizon of the forecast.
    pub near: f64,
    /// How long until it comes, in the middle: as often sooner as later.
    pub expected: Duration,
}

/// How likely each task is to follow each other before anything was seen: rows by the task before,
/// each with a sum of 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Prior(Vec<Vec<f64>>);

impl Prior {
    /// From the share of each switch among all, by task before and task after, none negative.
    /// Tasks that are never left are followed by any.
    pub fn new(shares: &[Vec<f64>]) -> Self {
        let row = |(from, shares): (usize, &Vec<f64>)| {
            let sum: f64 = shares.iter().sum();
            let others = (shares.len().max(2) - 1) as f64;
            let even = |to: usize| if to == from { 0.0 } else { 1.0 / others };
            let share = |(to, share): (usize, &f64)| if sum > 0.0 { share / sum } else { even(to) };
            shares.iter().enumerate().map(share).collect()
        };
        Self(shares.iter().enumerate().map(row).collect())
    }

    /// The row of a task; before the first task, all are equally likely.
    fn after(&self, task: Option<TaskIndex>) -> Vec<f64> {
        let tasks = self.0.len();
        task.map_or_else(|| vec![1.0 / tasks as f64; tasks], |task| self.0[task.index()].clone())
    }

    fn tasks(&self) -> usize {
        self.0.len()
    }
}

/// The model of one session's switches.
#[derive(Clone, Debug)]
pub struct Predictor {
    prior: Arc<Prior>,
    /// The last tasks, the active one first.
    history: VecDeque<TaskIndex>,
    contexts: Contexts,
    mixture: Mixture,
    dwells: Dwells,
    alarm: Alarm,
    confidence: f64,
}

impl Predictor {
    /// A model that knows no more than the prior.
    pub fn new(prior: Arc<Prior>) -> Self {
        Self {
            prior,
            history: VecDeque::with_capacity(MAX_ORDER + 1),
            contexts: Contexts::default(),
            mixture: Mixture::default(),
            dwells: Dwells::default(),
            alarm: Alarm::default(),
            confidence: 0.0,
        }
    }

    /// Learns that a task became active, and how long the one before was, if that is known. That
    /// the active one becomes active again is no switch.
    pub fn observe(&mut self, task: TaskIndex, dwell: Option<Duration>) {
        let before = self.history.front().copied();
        if before == Some(task) || task.index() >= self.prior.tasks() {
            return;
        }
        let experts = self.experts();
        if let Some(before) = before {
            let blend = self.mixture.blend(&experts);
            let first = ranked(blend.clone()).next().map(|(first, _)| first);
            let hit = if first == Some(task) { 1.0 } else { 0.0 };
            self.confidence += (1.0 - CONFIDENCE_DECAY) * (hit - self.confidence);
            if self.alarm.raised(blend[task.index()]) {
                self.contexts.begin_era();
                self.mixture = Mixture::default();
            }
            self.mixture.learn(&experts, task);
            if let Some(dwell) = dwell {
                self.dwells.observe(before, task, dwell);
            }
        }
        self.contexts.observe(self.history.make_contiguous(), task);
        self.history.push_front(task);
        self.history.truncate(MAX_ORDER);
    }

    /// Notes that what comes next does not follow from what came last, as after a restart.
    pub fn interrupt(&mut self) {
        self.history.clear();
    }

    /// The tasks that may come next, the likeliest first, when the active one has lasted so long. The
    /// horizon is the time from now on that matters more than what comes later.
    pub fn forecast(&self, elapsed: Duration, horizon: Duration) -> Vec<Forecast> {
        let probabilities = self.mixture.blend(&self.experts());
        let Some(active) = self.history.front().copied() else {
            let at_once = |(task, probability)| Forecast {
                task,
                probability,
                near: probability,
                expected: Duration::ZERO,
            };
            return ranked(probabilities).map(at_once).collect();
        };
        let lasting = self.dwells.of(active);
        let mut forecasts = Vec::with_capacity(probabilities.len());
        for (task, probability) in (0..).map(TaskIndex).zip(probabilities) {
            if task != active && probability > 0.0 {
                let survival = lasting.before(task);
                // What usually had come by now is less likely to come at all.
                let (left, later) =
                    (survival.at(elapsed), survival.at(elapsed.saturating_add(horizon)));
                let near = probability * (left - later);
                let expected = survival.remaining(elapsed, 0.5);
                forecasts.push(Forecast { task, probability: probability * left, near, expected });
            }
        }
        let sum: f64 = forecasts.iter().map(|next| next.probability).sum();
        for next in &mut forecasts {
            next.probability /= sum.max(f64::MIN_POSITIVE);
            next.near /= sum.max(f64::MIN_POSITIVE);
        }
        // Stable: of equally likely tasks the one of the lowest index comes first.
        forecasts.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        forecasts
    }

    /// How likely each task is to follow a task, whatever came before that one: what its slow counts
    /// and the prior make of it.
    pub fn after(&self, task: TaskIndex) -> Vec<f64> {
        self.contexts.first_order(task, self.prior.after(Some(task)))
    }

    /// The share of lately observed switches whose task had been ranked first, 0 to 1; 0 before
    /// the first.
    pub fn confidence(&self) -> f64 {
        self.confidence
    }

    /// What each expert holds each task's probability to be.
    fn experts(&self) -> Vec<Vec<f64>> {
        let history: Vec<_> = self.history.iter().copied().collect();
        self.contexts.experts(&history, self.prior.after(history.first().copied()))
    }
}

/// The tasks with their probabilities, the likeliest first.
fn ranked(probabilities: Vec<f64>) -> impl Iterator<Item = (TaskIndex, f64)> {
    let mut ranked: Vec<_> = (0..).map(TaskIndex).zip(probabilities).collect();
    // Stable: of equally likely tasks the one of the lowest index comes first.
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked.into_iter()
}

fn normalize(values: &mut [f64]) {
    let sum: f64 = values.iter().sum();
    if sum > 0.0 {
        values.iter_mut().for_each(|value| *value /= sum);
    }
}
