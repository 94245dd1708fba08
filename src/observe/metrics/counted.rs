//! What the events of a model add up to.

use super::families::ladder;
use crate::{
    engine::{Event, EventKind, Outcome, PrepareReport, SwitchEnd, SwitchReport},
    observe::errors::reason,
};
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
};

/// How a switch that was done is told apart, by its outcome.
pub(super) const OUTCOMES: [&str; 4] =
    ["already_active", "resident", "partly_prefetched", "loaded"];
/// Phases of a switch, one after another.
pub(super) const PHASES: [&str; 5] = ["queue", "plan", "read", "verify", "publish"];
/// The place that a task had among those held to be likely.
pub(super) const RANKS: [&str; 3] = ["first", "later", "none"];
/// Why switches and preparations that were begun fail: what is shown before it has happened. What
/// else there may be is shown once it has.
const REASONS: [&str; 7] = [
    "BLOCKS_CORRUPT",
    "DEADLINE_EXCEEDED",
    "DRAINING",
    "POOL_FULL",
    "SESSION_CLOSED",
    "STORAGE_UNAVAILABLE",
    "SUPERSEDED",
];

/// Failures by reason.
pub(super) type Failures = Mutex<BTreeMap<&'static str, u64>>;

/// What is counted of a model.
#[derive(Debug)]
pub(super) struct Counted {
    model: String,
    /// From arrival to publication, by outcome.
    pub(super) durations: [Histogram; 4],
    /// By phase; of switches that changed the task.
    pub(super) phases: [Histogram; 5],
    pub(super) failures: Failures,
    pub(super) in_place: Counter,
    pub(super) given_up: Counter,
    pub(super) reused_bytes: Counter,
    pub(super) prefetched_bytes: Counter,
    pub(super) read_bytes: Counter,
    /// By rank; of switches that changed the task.
    pub(super) foreseen: [Counter; 3],
    /// How far from certain each of them was held to be, squared.
    pub(super) squared_error: Counter<f64, AtomicU64>,
    /// Since when they were reckoned with.
    pub(super) lead: Histogram,
    pub(super) prepared: Histogram,
    pub(super) preparations_failed: Failures,
    pub(super) sessions_opened: Counter,
    pub(super) sessions_closed: Counter,
    pub(super) attached: Counter,
    pub(super) detached: Counter,
    pub(super) revoked: Counter,
    pub(super) quarantined: Counter,
    pub(super) stalls: Counter,
}

impl Counted {
    /// Nothing has happened yet to this model.
    pub(super) fn new(model: &str) -> Self {
        // A resident switch takes microseconds, one that reads much takes seconds.
        let switch = || Histogram::new(ladder(1e-6, 10.0));
        // What is loaded in time is reckoned with for as long as it takes, or for as long as a
        // task lasts.
        let lead = || Histogram::new(ladder(1e-3, 1000.0));
        let failures = || Mutex::new(REASONS.map(|reason| (reason, 0)).into());
        Self {
            model: model.to_owned(),
            durations: std::array::from_fn(|_| switch()),
            phases: std::array::from_fn(|_| switch()),
            failures: failures(),
            in_place: Counter::default(),
            given_up: Counter::default(),
            reused_bytes: Counter::default(),
            prefetched_bytes: Counter::default(),
            read_bytes: Counter::default(),
            foreseen: Default::default(),
            squared_error: Counter::default(),
            lead: lead(),
            prepared: Histogram::new(ladder(1e-3, 10.0)),
            preparations_failed: failures(),
            sessions_opened: Counter::default(),
            sessions_closed: Counter::default(),
            attached: Counter::default(),
            detached: Counter::default(),
            revoked: Counter::default(),
            quarantined: Counter::default(),
            stalls: Counter::default(),
        }
    }

    /// The model.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Counts an event of the model.
    pub(super) fn observe(&self, event: &Event) {
        match &event.kind {
            EventKind::Switch(SwitchEnd { result: Ok(report), .. }) => self.switched(report),
            EventKind::Switch(SwitchEnd { result: Err(error), .. }) => {
                count(&self.failures, reason(error).1);
            }
            EventKind::GivenUp { .. } => drop(self.given_up.inc()),
            EventKind::Prepared { result: Ok(PrepareReport { took, .. }), .. } => {
                self.prepared.observe(took.as_secs_f64());
            }
            EventKind::Prepared { result: Err(error), .. } => {
                count(&self.preparations_failed, reason(error).1);
            }
            EventKind::Opened { .. } => drop(self.sessions_opened.inc()),
            EventKind::Closed { .. } => drop(self.sessions_closed.inc()),
            EventKind::Attached { .. } => drop(self.attached.inc()),
            EventKind::Detached { .. } => drop(self.detached.inc()),
            EventKind::Revoked { .. } => drop(self.revoked.inc()),
            EventKind::Quarantined(_) => drop(self.quarantined.inc()),
            EventKind::Stalled { .. } => drop(self.stalls.inc()),
        }
    }

    fn switched(&self, report: &SwitchReport) {
        let SwitchReport { outcome, block_bytes, reused, prefetched, read, timing, .. } = report;
        let place = match outcome {
            Outcome::AlreadyActive => 0,
            Outcome::Resident => 1,
            Outcome::PartlyPrefetched => 2,
            Outcome::Loaded => 3,
        };
        self.durations[place].observe(timing.total().as_secs_f64());
        if *outcome == Outcome::AlreadyActive {
            return;
        }
        let phases = [timing.queue, timing.plan, timing.read, timing.verify, timing.publish];
        for (histogram, phase) in self.phases.iter().zip(phases) {
            histogram.observe(phase.as_secs_f64());
        }
        self.in_place.inc_by(u64::from(report.in_place));
        self.reused_bytes.inc_by(*reused as u64 * block_bytes);
        self.prefetched_bytes.inc_by(*prefetched as u64 * block_bytes);
        self.read_bytes.inc_by(*read as u64 * block_bytes);
        let rank = report.foreseen.map_or(2, |foreseen| usize::from(foreseen.rank > 1));
        self.foreseen[rank].inc();
        let probability = report.foreseen.map_or(0.0, |foreseen| foreseen.probability);
        self.squared_error.inc_by((1.0 - probability).powi(2));
        if let Some(foreseen) = report.foreseen {
            self.lead.observe(foreseen.lead.as_secs_f64());
        }
    }
}

/// Failures so far.
pub(super) fn counts(failures: &Failures) -> BTreeMap<&'static str, u64> {
    failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn count(failures: &Failures, reason: &'static str) {
    *failures.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
}
