//! What the events of a model add up to.

use super::families::ladder;
use crate::{
    engine::{EventKind, Outcome, PrepareReport, SwitchEnd, SwitchReport},
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
    pub(super) attachments_ended: Counter,
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
            attachments_ended: Counter::default(),
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
    pub(super) fn observe(&self, event: &EventKind) {
        match event {
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
            EventKind::AttachmentEnded { .. } => drop(self.attachments_ended.inc()),
            EventKind::Revoked { .. } => drop(self.revoked.inc()),
            EventKind::Quarantined(_) => drop(self.quarantined.inc()),
            EventKind::Stalled { .. } => drop(self.stalls.inc()),
            // Its begin was counted.
            EventKind::Recovered { .. } => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{EngineError, Foreseen, Peer, SessionEnd, SwitchTiming},
        units::{BlockIndex, Generation, TaskIndex},
    };
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use std::{sync::Arc, time::Duration};

    fn switch(result: Result<SwitchReport, EngineError>) -> EventKind {
        EventKind::Switch(SwitchEnd {
            session: Arc::from("default"),
            from: None,
            task: TaskIndex(0),
            request_id: None,
            trace: None,
            caller: None,
            result,
        })
    }

    fn report(outcome: Outcome) -> SwitchReport {
        let us = Duration::from_micros;
        SwitchReport {
            generation: Generation(1),
            outcome,
            block_bytes: 4096,
            needed: 10,
            reused: 7,
            prefetched: 2,
            read: 3,
            evicted: 1,
            in_place: true,
            foreseen: Some(Foreseen { probability: 0.75, rank: 1, lead: us(5_000_000) }),
            timing: SwitchTiming {
                queue: us(1),
                plan: us(20),
                read: us(300),
                verify: us(4_000),
                publish: us(50_000),
            },
        }
    }

    /// How many observations there are, and their sum.
    fn observed(histogram: &Histogram) -> (u64, f64) {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register("it", "", histogram.clone());
        encode(&mut text, &registry).unwrap();
        let at = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
        };
        (at("it_count").unwrap() as u64, at("it_sum").unwrap())
    }

    #[test]
    fn a_switch_is_counted_by_outcome_phase_and_bytes() {
        let counted = Counted::new("m");
        counted.observe(&switch(Ok(report(Outcome::PartlyPrefetched))));
        let durations = counted.durations.each_ref().map(|histogram| observed(histogram).0);
        assert_eq!(durations, [0, 0, 1, 0]);
        assert!((observed(&counted.durations[2]).1 - 0.054_321).abs() < 1e-9);
        let phases = counted.phases.each_ref().map(observed);
        let sums = [1e-6, 20e-6, 300e-6, 4e-3, 50e-3];
        for ((count, sum), expected) in phases.into_iter().zip(sums) {
            assert!(count == 1 && (sum - expected).abs() < 1e-12, "{sum} is {expected}");
        }
        let bytes = [&counted.reused_bytes, &counted.prefetched_bytes, &counted.read_bytes];
        assert_eq!(bytes.map(|counter| counter.get() / 4096), [7, 2, 3]);
        assert_eq!(counted.in_place.get(), 1);
        assert_eq!(counted.foreseen.each_ref().map(Counter::get), [1, 0, 0]);
        assert_eq!(counted.squared_error.get(), 0.0625);
        assert_eq!(observed(&counted.lead), (1, 5.0));
    }

    #[test]
    fn that_a_task_was_active_already_is_no_switch_to_it() {
        let counted = Counted::new("m");
        counted.observe(&switch(Ok(report(Outcome::AlreadyActive))));
        assert_eq!(observed(&counted.durations[0]).0, 1);
        assert_eq!(counted.phases.each_ref().map(|phase| observed(phase).0), [0; 5]);
        assert_eq!(counted.reused_bytes.get() + counted.read_bytes.get(), 0);
        assert_eq!(counted.foreseen.each_ref().map(Counter::get), [0; 3]);
    }

    #[test]
    fn what_was_not_foreseen_is_wholly_wrong() {
        let counted = Counted::new("m");
        let foreseen = Some(Foreseen { probability: 0.5, rank: 2, lead: Duration::ZERO });
        let later = SwitchReport { foreseen, ..report(Outcome::Resident) };
        counted.observe(&switch(Ok(later)));
        let unseen = SwitchReport { foreseen: None, ..report(Outcome::Loaded) };
        counted.observe(&switch(Ok(unseen)));
        assert_eq!(counted.foreseen.each_ref().map(Counter::get), [0, 1, 1]);
        assert_eq!(counted.squared_error.get(), 1.25);
        assert_eq!(observed(&counted.lead).0, 1);
    }

    #[test]
    fn failures_are_counted_by_reason_known_before_or_not() {
        let counted = Counted::new("m");
        let emptied = EngineError::Emptied(Box::new(EngineError::Superseded));
        for error in [EngineError::Superseded, emptied, EngineError::Stopped] {
            counted.observe(&switch(Err(error)));
        }
        let failures = counts(&counted.failures);
        assert_eq!((failures["SUPERSEDED"], failures["STOPPED"]), (2, 1));
        assert_eq!(failures["POOL_FULL"], 0);
        assert_eq!(counts(&counted.preparations_failed).values().sum::<u64>(), 0);
    }

    #[test]
    fn everything_else_is_counted_once_and_by_itself() {
        let (session, task, generation) =
            (Arc::<str>::from("default"), TaskIndex(0), Generation(1));
        let peer = Peer { pid: 1, uid: 2 };
        let (block_bytes, needed, reused, took) = (4096, 1, 1, Duration::from_secs(2));
        let done = PrepareReport { block_bytes, needed, reused, took };
        let failed = EngineError::DeadlineExceeded;
        let name = || session.clone();
        let events = [
            EventKind::GivenUp { session: name(), task, generation },
            EventKind::Opened { session: name(), caller: None },
            EventKind::Closed { session: name(), end: SessionEnd::Call(None) },
            EventKind::Attached { session: name(), peer },
            EventKind::Detached { session: name(), peer },
            EventKind::AttachmentEnded { session: name(), peer, caller: None },
            EventKind::Revoked { session: name(), peer, generation, task },
            EventKind::Quarantined(BlockIndex(3)),
            EventKind::Stalled { switches: 7 },
        ];
        let all = |c: &Counted| {
            [
                c.given_up.get(),
                c.sessions_opened.get(),
                c.sessions_closed.get(),
                c.attached.get(),
                c.detached.get(),
                c.attachments_ended.get(),
                c.revoked.get(),
                c.quarantined.get(),
                c.stalls.get(),
            ]
        };
        for (at, event) in events.iter().enumerate() {
            let (counted, mut expected) = (Counted::new("m"), [0; 9]);
            counted.observe(event);
            expected[at] = 1;
            assert_eq!(all(&counted), expected, "{event:?}");
        }
        let counted = Counted::new("m");
        counted.observe(&EventKind::Prepared { task, caller: None, result: Ok(done) });
        counted.observe(&EventKind::Prepared { task, caller: None, result: Err(failed) });
        assert_eq!(observed(&counted.prepared), (1, 2.0));
        assert_eq!(counts(&counted.preparations_failed)["DEADLINE_EXCEEDED"], 1);
    }
}
