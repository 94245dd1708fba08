//! Reads that wait for their turn, and those under way.

use super::Effect;
use crate::storage::Read;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// The queue of reads, first in, first out; what is read again goes first.
pub(super) struct Reads {
    backlog: VecDeque<Read>,
    /// How many reads under way were begun at each moment.
    begun: BTreeMap<Duration, usize>,
    in_flight: usize,
    limit: usize,
    stall: Duration,
}

impl Reads {
    /// At most `limit` reads are under way. One that is for longer than `stall` means that the
    /// device does not answer.
    pub(super) fn new(limit: usize, stall: Duration) -> Self {
        let (backlog, begun) = (VecDeque::new(), BTreeMap::new());
        Self { backlog, begun, in_flight: 0, limit: limit.max(1), stall }
    }

    pub(super) fn push(&mut self, read: Read) {
        self.backlog.push_back(read);
    }

    pub(super) fn push_retry(&mut self, read: Read) {
        self.backlog.push_front(read);
    }

    /// Whether nothing waits for its turn.
    pub(super) fn has_no_backlog(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Whether nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.backlog.is_empty() && self.in_flight == 0
    }

    /// When a read under way will have taken too long.
    pub(super) fn stalls_at(&self) -> Option<Duration> {
        self.begun.keys().next().map(|&begun| begun.saturating_add(self.stall))
    }

    /// Whether the device does not answer.
    pub(super) fn is_stalled(&self, now: Duration) -> bool {
        self.stalls_at().is_some_and(|at| at <= now)
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
    pub(super) fn pump(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while self.in_flight < self.limit {
            let Some(mut read) = self.backlog.pop_front() else { return };
            self.in_flight += 1;
            read.begun = now;
            *self.begun.entry(now).or_default() += 1;
            effects.push(Effect::Read(read));
        }
    }

    /// Takes back the reads of a model that have not begun and are not wanted any more.
    pub(super) fn withdraw(&mut self, model: usize, wanted: impl Fn(&Read) -> bool) -> Vec<Read> {
        let (keep, withdrawn) =
            self.backlog.drain(..).partition(|read| read.model != model || wanted(read));
        self.backlog = keep;
        Vec::from(withdrawn)
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.in_flight <= self.limit, "no more reads than allowed");
        assert!(self.backlog.is_empty() || self.in_flight == self.limit, "no idle storage");
        assert_eq!(self.begun.values().sum::<usize>(), self.in_flight, "each has its beginning");
    }
}
