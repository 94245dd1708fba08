//! Reads that wait for their turn, and how many are under way.

use super::Effect;
use crate::storage::Read;
use std::collections::VecDeque;

/// The queue of reads, first in, first out; retries go first.
pub(super) struct Reads {
    backlog: VecDeque<Read>,
    in_flight: usize,
    limit: usize,
}

impl Reads {
    pub(super) fn new(limit: usize) -> Self {
        Self { backlog: VecDeque::new(), in_flight: 0, limit: limit.max(1) }
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

    /// Notes that a read has ended.
    pub(super) fn finished(&mut self) {
        assert!(self.in_flight > 0, "only what was begun can end");
        self.in_flight -= 1;
    }

    /// Begins as many reads as may be under way.
    pub(super) fn pump(&mut self, effects: &mut Vec<Effect>) {
        while self.in_flight < self.limit {
            let Some(read) = self.backlog.pop_front() else { return };
            self.in_flight += 1;
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
    }
}
