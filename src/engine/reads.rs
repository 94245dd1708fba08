//! A model's reads: those that wait for their turn, and those under way. Each model has its own, as
//! its bundle may lie on a device of its own.
//!
//! Whether the device answers is judged here too:
//!
//! ```text
//!            no read ends for `limits.stall` though some are under way
//! healthy ──────────────────────────────────────────────────────────► stalled
//!    ▲                                                                   │
//!    └──────────────────────────── a read ends ──────────────────────────┘
//! ```
//! While it is stalled, one switch in each interval of `limits.stall` may read, as a probe.

use super::{Effect, Limits};
use crate::storage::Read;
use std::{collections::VecDeque, time::Duration};

/// So many of the longest reads are handed out at once: enough that the storage need not wait for
/// the engine's loop. What is handed out cannot be taken back.
const LONGEST_UNDER_WAY: u64 = 32;

/// The queue of reads, first in, first out; what is read again goes first.
#[derive(Default)]
pub(super) struct Reads {
    backlog: VecDeque<Read>,
    in_flight: usize,
    in_flight_bytes: u64,
    /// Since when something is read ahead, of which there is one at most.
    ahead: Option<Duration>,
    /// Since when nothing has ended, if anything is under way.
    waiting_since: Option<Duration>,
    /// `None` while the device is healthy.
    stall: Option<Stall>,
}

/// A device that does not answer.
struct Stall {
    /// The last time that a read ended, or that one began while none was under way.
    since: Duration,
    /// When a switch last tried whether the device answers.
    probed: Duration,
}

impl Reads {
    pub(super) fn push(&mut self, read: Read) {
        self.backlog.push_back(read);
    }

    pub(super) fn push_retry(&mut self, read: Read) {
        self.backlog.push_front(read);
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.backlog.is_empty() && self.in_flight == 0
    }

    /// Whether somebody waits for a read.
    pub(super) fn has_demand(&self) -> bool {
        !self.backlog.is_empty() || self.in_flight > usize::from(self.ahead.is_some())
    }

    /// Whether something is read ahead.
    pub(super) fn reads_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Begins to read something that nobody waits for.
    pub(super) fn begin_ahead(&mut self, now: Duration, read: Read, effects: &mut Vec<Effect>) {
        self.ahead = Some(now);
        self.begin(now, read, effects);
    }

    /// Notes that what was read ahead has ended, and gives the time it took.
    pub(super) fn ended_ahead(&mut self, now: Duration) -> Duration {
        self.ahead.take().map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// When those who wait for a read are to be ended, if no read ends before.
    pub(super) fn stalls_at(&self, limits: &Limits) -> Option<Duration> {
        let since = self.stall.as_ref().map(|stall| stall.probed).or(self.waiting_since);
        since.map(|since| since.saturating_add(limits.stall))
    }

    /// Whether those who wait for a read are to be ended.
    pub(super) fn is_overdue(&self, now: Duration, limits: &Limits) -> bool {
        self.stalls_at(limits).is_some_and(|at| at <= now)
    }

    /// For how long the device has not answered, if it stalls.
    pub(super) fn stalled_for(&self, now: Duration) -> Option<Duration> {
        self.stall.as_ref().map(|stall| now.saturating_sub(stall.since))
    }

    /// Notes that those who wait are ended, and says whether a stall begins. `ended` says whether
    /// there were any: without, the next switch is the first probe.
    pub(super) fn break_off(&mut self, now: Duration, ended: bool) -> bool {
        let Some(since) = self.waiting_since.filter(|_| self.stall.is_none()) else { return false };
        self.stall = Some(Stall { since, probed: if ended { now } else { since } });
        true
    }

    /// Whether a switch may read: the device is healthy, or the time of the next probe has come.
    pub(super) fn may_try(&mut self, now: Duration, limits: &Limits) -> bool {
        let Some(stall) = &mut self.stall else { return true };
        let is_due = stall.probed.saturating_add(limits.stall) <= now;
        if is_due {
            stall.probed = now;
        }
        is_due
    }

    /// Notes that a read of so many bytes has ended. If that ends a stall, gives its length.
    pub(super) fn finished(&mut self, now: Duration, bytes: u64) -> Option<Duration> {
        assert!(self.in_flight > 0, "only what was begun can end");
        self.in_flight -= 1;
        self.in_flight_bytes -= bytes;
        self.waiting_since = (self.in_flight > 0).then_some(now);
        self.stall.take().map(|stall| now.saturating_sub(stall.since))
    }

    /// Begins as many reads as may be under way.
    pub(super) fn pump(&mut self, now: Duration, limits: &Limits, effects: &mut Vec<Effect>) {
        while !self.is_full(limits) {
            let Some(read) = self.backlog.pop_front() else { return };
            self.begin(now, read, effects);
        }
    }

    fn begin(&mut self, now: Duration, read: Read, effects: &mut Vec<Effect>) {
        self.waiting_since.get_or_insert(now);
        self.in_flight += 1;
        self.in_flight_bytes += read.len();
        effects.push(Effect::Read(read));
    }

    fn is_full(&self, limits: &Limits) -> bool {
        self.in_flight >= limits.reads_in_flight.max(1)
            || self.in_flight_bytes >= limits.read_bytes.saturating_mul(LONGEST_UNDER_WAY).max(1)
    }

    /// Takes back the reads that have not begun and are not wanted any more.
    pub(super) fn withdraw(&mut self, wanted: impl Fn(&Read) -> bool) -> Vec<Read> {
        if self.backlog.iter().all(&wanted) {
            return Vec::new();
        }
        let (keep, withdrawn) = self.backlog.drain(..).partition(wanted);
        self.backlog = keep;
        Vec::from(withdrawn)
    }

    pub(super) fn assert_invariants(&self, limits: &Limits) {
        assert!(self.in_flight <= limits.reads_in_flight.max(1), "no more reads than allowed");
        assert!(self.backlog.is_empty() || self.is_full(limits), "no idle storage");
        assert_eq!(self.waiting_since.is_some(), self.in_flight > 0, "something is waited for");
        assert!(self.stall.is_none() || self.in_flight > 0, "a stalled device has reads under way");
        assert!(self.ahead.is_none() || self.in_flight > 0, "what is read ahead is under way");
        assert_eq!(self.in_flight_bytes > 0, self.in_flight > 0, "reads have bytes");
    }
}
