//! A model's reads: those that wait for their turn, and those under way. Each model has its own, as
//! its bundle may lie on a device of its own.

use super::{Effect, Limits};
use crate::storage::Read;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// The queue of reads, first in, first out; what is read again goes first.
#[derive(Default)]
pub(super) struct Reads {
    backlog: VecDeque<Read>,
    /// How many reads under way were begun at each moment.
    begun: BTreeMap<Duration, usize>,
    in_flight: usize,
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

    /// When a read under way will have taken too long.
    pub(super) fn stalls_at(&self, limits: &Limits) -> Option<Duration> {
        self.begun.keys().next().map(|&begun| begun.saturating_add(limits.stall))
    }

    /// Whether the device does not answer.
    pub(super) fn is_stalled(&self, now: Duration, limits: &Limits) -> bool {
        self.stalls_at(limits).is_some_and(|at| at <= now)
    }

    /// Notes that a read has ended that was begun then.
    pub(super) fn finished(&mut self, begun: Duration) {
        assert!(self.in_flight > 0, "only what was begun can end");
        self.in_flight -= 1;
        let Some(count) = self.begun.get_mut(&begun) else { return };
        *count -= 1;
        if *count == 0 {
            self.begun.remove(&begun);
        }
    }

    /// Begins as many reads as may be under way.
    pub(super) fn pump(&mut self, now: Duration, limits: &Limits, effects: &mut Vec<Effect>) {
        while self.in_flight < limits.reads_in_flight.max(1) {
            let Some(mut read) = self.backlog.pop_front() else { return };
            self.in_flight += 1;
            read.begun = now;
            *self.begun.entry(now).or_default() += 1;
            effects.push(Effect::Read(read));
        }
    }

    /// Takes back the reads that have not begun and are not wanted any more.
    pub(super) fn withdraw(&mut self, wanted: impl Fn(&Read) -> bool) -> Vec<Read> {
        if self.backlog.is_empty() {
            return Vec::new();
        }
        let (keep, withdrawn) = self.backlog.drain(..).partition(wanted);
        self.backlog = keep;
        Vec::from(withdrawn)
    }

    pub(super) fn assert_invariants(&self, limits: &Limits) {
        let limit = limits.reads_in_flight.max(1);
        assert!(self.in_flight <= limit, "no more reads than allowed");
        assert!(self.backlog.is_empty() || self.in_flight == limit, "no idle storage");
        assert_eq!(self.begun.values().sum::<usize>(), self.in_flight, "each has its beginning");
    }
}
