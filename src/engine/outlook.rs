//! What is known of a session's next tasks: what it has learnt from its switches, and what it was
//! told. What is loaded because of it is `foresight`'s business.

use crate::{
    predict::{Forecast, Predictor},
    units::TaskIndex,
};
use std::time::Duration;

/// Switches that may wait to be learnt from.
const NEWS: usize = 64;
/// A forecast is good for so long at least.
const SHORTEST_LOOK: Duration = Duration::from_millis(500);
/// How long a hint holds beyond its start when it does not say.
const HINT_HOLDS: Duration = Duration::from_secs(60);

/// What is known of a session's next tasks.
pub(super) struct Outlook {
    predictor: Predictor,
    /// Tasks that became active, and when; not learnt from yet, as whoever switched waits.
    news: Vec<(TaskIndex, Duration)>,
    /// When the active task became active, as far as learnt.
    since: Option<Duration>,
    hints: Vec<HeldHint>,
    likely: Vec<Forecast>,
    /// Switches that were learnt from.
    learnt: u64,
}

/// A hint that holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeldHint {
    pub(super) task: TaskIndex,
    pub(super) probability: f64,
    pub(super) starts: Duration,
    pub(super) expires: Duration,
}

impl HeldHint {
    /// A hint given now. `None` if it cannot be.
    pub(super) fn new(
        now: Duration,
        task: TaskIndex,
        probability: f64,
        starts_in: Option<Duration>,
        expires_in: Option<Duration>,
    ) -> Option<Self> {
        let starts = now.saturating_add(starts_in.unwrap_or_default());
        let expires = match expires_in {
            Some(expires_in) => now.saturating_add(expires_in),
            None => starts.saturating_add(HINT_HOLDS),
        };
        // No number is in no range.
        let is_likely = probability > 0.0 && probability <= 1.0;
        (is_likely && expires > now).then_some(Self { task, probability, starts, expires })
    }
}

impl Outlook {
    pub(super) fn new(predictor: Predictor) -> Self {
        let (news, hints, likely) = (Vec::with_capacity(NEWS), Vec::new(), Vec::new());
        Self { predictor, news, since: None, hints, likely, learnt: 0 }
    }

    /// Notes that a task became active. Little is done: somebody waits.
    pub(super) fn published(&mut self, now: Duration, task: TaskIndex) {
        if self.news.len() == NEWS {
            self.learn();
        }
        self.news.push((task, now));
    }

    /// Takes these hints in the place of earlier ones.
    pub(super) fn hint(&mut self, hints: Vec<HeldHint>) {
        self.hints = hints;
    }

    /// Learns from the switches since the last time, and looks ahead anew. What comes until the next
    /// look, or so soon after that it could not be loaded in time, is near.
    pub(super) fn refresh(&mut self, now: Duration, lead: Duration) {
        self.learn();
        self.hints.retain(|hint| hint.expires > now);
        let elapsed = self.lasted(now);
        let horizon = until_next_look(elapsed).saturating_add(lead);
        let forecast = self.predictor.forecast(elapsed, horizon);
        self.likely = overruled(&self.hints, now, horizon, forecast);
    }

    /// Learns from the switches since the last time.
    pub(super) fn learn(&mut self) {
        for (task, at) in self.news.drain(..) {
            let dwell = self.since.map(|since| at.saturating_sub(since));
            self.predictor.observe(task, dwell);
            self.since = Some(at);
            self.learnt += 1;
            self.hints.retain(|hint| hint.task != task);
        }
    }

    /// What is held to be likely next, the likeliest first.
    pub(super) fn likely(&self) -> &[Forecast] {
        &self.likely
    }

    /// What is known of switches.
    pub(super) fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    pub(super) fn into_predictor(mut self) -> Predictor {
        self.learn();
        self.predictor
    }

    /// How many switches were learnt from.
    pub(super) fn learnt(&self) -> u64 {
        self.learnt
    }

    /// When to look again, if nothing happens: when a hint ends, or when the active task has lasted
    /// half as long again.
    pub(super) fn next_look(&self, now: Duration) -> Option<Duration> {
        let again = now.saturating_add(until_next_look(self.lasted(now)));
        let again = self.since.map(|_| again);
        self.hints.iter().map(|hint| hint.expires).chain(again).min()
    }

    fn lasted(&self, now: Duration) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// How long a forecast is good for, if nothing happens.
fn until_next_look(lasted: Duration) -> Duration {
    (lasted / 2).max(SHORTEST_LOOK)
}

/// Hints, and what is left for the others of a forecast.
fn overruled(
    hints: &[HeldHint],
    now: Duration,
    horizon: Duration,
    forecast: Vec<Forecast>,
) -> Vec<Forecast> {
    if hints.is_empty() {
        return forecast;
    }
    let hinted = |task| hints.iter().any(|hint| hint.task == task);
    let left = (1.0 - hints.iter().map(|hint| hint.probability).sum::<f64>()).max(0.0);
    let others: Vec<_> = forecast.into_iter().filter(|next| !hinted(next.task)).collect();
    let sum: f64 = others.iter().map(|next| next.probability).sum();
    let scaled = others.into_iter().map(|next| {
        let share = if sum > 0.0 { left / sum } else { 0.0 };
        Forecast { probability: next.probability * share, near: next.near * share, ..next }
    });
    let told = hints.iter().map(|hint| {
        let (probability, expected) = (hint.probability, hint.starts.saturating_sub(now));
        let near = if expected <= horizon { probability } else { 0.0 };
        Forecast { task: hint.task, probability, near, expected }
    });
    let mut all: Vec<_> = told.chain(scaled).filter(|next| next.probability > 0.0).collect();
    all.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    all
}
