//! What happened to a model lately: its last switches and what was read. Everything is bounded.

use super::clean;
use crate::proto::{self, SwitchOutcome};
use serde::Serialize;
use std::collections::VecDeque;

/// Switches that are kept for each model.
pub(in crate::cli::top) const KEPT_SWITCHES: usize = 512;
/// Rates that are kept for each model.
pub(in crate::cli::top) const KEPT_RATES: usize = 256;

/// A switch that has ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::cli::top) struct Switch {
    /// When, in microseconds since 1970.
    pub(in crate::cli::top) time_us: u64,
    pub(in crate::cli::top) session: String,
    /// The task before; empty if there was none.
    pub(in crate::cli::top) from: String,
    pub(in crate::cli::top) task: String,
    #[serde(flatten)]
    pub(in crate::cli::top) end: End,
}

/// How a switch ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::cli::top) enum End {
    /// The task is active.
    Done(Done),
    /// Why it is not.
    Failed(String),
}

/// What a switch did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(in crate::cli::top) struct Done {
    /// In a word.
    pub(in crate::cli::top) outcome: &'static str,
    pub(in crate::cli::top) needed_bytes: u64,
    pub(in crate::cli::top) prefetched_bytes: u64,
    pub(in crate::cli::top) read_bytes: u64,
    /// Queue, plan, read, verify, publish.
    pub(in crate::cli::top) phases_us: [u64; 5],
    pub(in crate::cli::top) total_us: u64,
}

/// The names of [`Done::phases_us`].
pub(in crate::cli::top) const PHASES: [&str; 5] = ["queue", "plan", "read", "verify", "publish"];

impl Switch {
    /// A switch that a session has made.
    pub(super) fn done(event: &proto::Event, switched: &proto::TaskSwitched) -> Self {
        let result = switched.result.clone().unwrap_or_default();
        let bytes = |amount: Option<proto::Amount>| amount.unwrap_or_default().bytes;
        let timing = result.timing.unwrap_or_default();
        let proto::SwitchTiming { queue_us, plan_us, read_us, verify_us, publish_us, total_us } =
            timing;
        let outcome = match result.outcome() {
            SwitchOutcome::Unspecified => "done",
            SwitchOutcome::AlreadyActive => "already active",
            SwitchOutcome::Resident => "resident",
            SwitchOutcome::PartlyPrefetched => "partly ahead",
            SwitchOutcome::Loaded => "loaded",
        };
        let done = Done {
            outcome,
            needed_bytes: bytes(result.needed),
            prefetched_bytes: bytes(result.prefetched),
            read_bytes: bytes(result.read),
            phases_us: [queue_us, plan_us, read_us, verify_us, publish_us],
            total_us,
        };
        Self::of(event, &switched.from, &switched.task, End::Done(done))
    }

    /// A switch that came to nothing.
    pub(super) fn failed(event: &proto::Event, failed: &proto::SwitchFailed) -> Self {
        Self::of(event, &failed.from, &failed.task, End::Failed(clean(&failed.reason)))
    }

    fn of(event: &proto::Event, from: &str, task: &str, end: End) -> Self {
        let (session, from, task) = (clean(&event.session), clean(from), clean(task));
        Self { time_us: event.time_us, session, from, task, end }
    }

    /// What it did, if it was done.
    pub(in crate::cli::top) fn result(&self) -> Option<&Done> {
        match &self.end {
            End::Done(done) => Some(done),
            End::Failed(_) => None,
        }
    }
}

/// How long switches took that were done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct Times {
    pub(in crate::cli::top) done: usize,
    pub(in crate::cli::top) failed: usize,
    pub(in crate::cli::top) p50_us: u64,
    pub(in crate::cli::top) p99_us: u64,
    pub(in crate::cli::top) max_us: u64,
}

impl Times {
    /// Of these switches; a percentile is the least time that so many of all do not exceed.
    pub(super) fn of(switches: &[Switch]) -> Self {
        let mut times: Vec<_> =
            switches.iter().filter_map(Switch::result).map(|done| done.total_us).collect();
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (percent * times.len()).div_ceil(100);
            times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        let (done, failed) = (times.len(), switches.len() - times.len());
        Self { done, failed, p50_us: at(50), p99_us: at(99), max_us: at(100) }
    }
}

/// What was read in a second, on the mean between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct Rate {
    pub(in crate::cli::top) read_bytes: f64,
    pub(in crate::cli::top) reads: f64,
    pub(in crate::cli::top) ahead_bytes: f64,
    pub(in crate::cli::top) used_bytes: f64,
    pub(in crate::cli::top) wasted_bytes: f64,
}

/// What has been read since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(in crate::cli::top) struct Counters {
    /// When it was told: the daemon's time since it was ready.
    pub(in crate::cli::top) uptime_ms: u64,
    pub(in crate::cli::top) read_bytes: u64,
    pub(in crate::cli::top) reads: u64,
    pub(in crate::cli::top) ahead_bytes: u64,
    pub(in crate::cli::top) used_bytes: u64,
    pub(in crate::cli::top) wasted_bytes: u64,
    pub(in crate::cli::top) failed_reads: u64,
}

impl Counters {
    pub(super) fn of(uptime_ms: u64, model: &proto::ModelStatus) -> Self {
        let storage = model.storage.clone().unwrap_or_default();
        let prefetch = model.prefetch.unwrap_or_default();
        let bytes = |amount: Option<proto::Amount>| amount.unwrap_or_default().bytes;
        Self {
            uptime_ms,
            read_bytes: storage.read_bytes,
            reads: storage.reads,
            ahead_bytes: bytes(prefetch.loaded),
            used_bytes: bytes(prefetch.used),
            wasted_bytes: bytes(prefetch.wasted),
            failed_reads: storage.failed_reads,
        }
    }

    /// What was added since `before`; nothing if no time has passed, or if the counts began anew.
    pub(super) fn since(&self, before: &Self) -> Option<Rate> {
        let ms = self.uptime_ms.checked_sub(before.uptime_ms).filter(|ms| *ms > 0)?;
        let rate = |of: fn(&Self) -> u64| {
            let added = of(self).checked_sub(of(before))?;
            Some(added as f64 * 1e3 / ms as f64)
        };
        Some(Rate {
            read_bytes: rate(|counters| counters.read_bytes)?,
            reads: rate(|counters| counters.reads)?,
            ahead_bytes: rate(|counters| counters.ahead_bytes)?,
            used_bytes: rate(|counters| counters.used_bytes)?,
            wasted_bytes: rate(|counters| counters.wasted_bytes)?,
        })
    }
}

/// What is kept of a model.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// The last switches, the latest last.
    pub(super) switches: VecDeque<Switch>,
    /// The last rates, the latest last.
    pub(super) rates: VecDeque<Rate>,
    counters: Option<Counters>,
}

impl Past {
    pub(super) fn switched(&mut self, switch: Switch) {
        push(&mut self.switches, switch, KEPT_SWITCHES);
    }

    pub(super) fn count(&mut self, counters: Counters) {
        let rate = self.counters.and_then(|before| counters.since(&before));
        if let Some(rate) = rate {
            push(&mut self.rates, rate, KEPT_RATES);
        }
        self.counters = Some(counters);
    }

    /// The next counts have nothing to do with those before.
    pub(super) fn begin_anew(&mut self) {
        self.counters = None;
    }
}

fn push<T>(kept: &mut VecDeque<T>, new: T, limit: usize) {
    if kept.len() == limit {
        kept.pop_front();
    }
    kept.push_back(new);
}
