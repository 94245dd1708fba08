//! The queue before a backend: bounded, first in, first out, what is asked for now before what is
//! fetched ahead.
//!
//! Of reads ahead at most one is under way at a time, so that no read on demand ever waits for
//! more than one of them. The queue wakes nobody: that differs between backends.

use super::{Priority, Read};
use std::collections::VecDeque;

/// Reads that wait, and how many have been taken and not ended.
#[derive(Debug)]
pub(super) struct Queue {
    demand: VecDeque<Read>,
    ahead: VecDeque<Read>,
    /// Reads queued or under way.
    taken: usize,
    capacity: usize,
    is_ahead_under_way: bool,
    stopped: bool,
}

impl Queue {
    /// An empty queue that takes up to `capacity` reads, those under way included.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            demand: VecDeque::new(),
            ahead: VecDeque::new(),
            taken: 0,
            capacity,
            is_ahead_under_way: false,
            stopped: false,
        }
    }

    /// Takes a read, or gives it back if there is no place or the queue has stopped.
    pub(super) fn push(&mut self, read: Read) -> Result<(), Read> {
        if self.stopped || self.taken >= self.capacity {
            return Err(read);
        }
        self.taken += 1;
        match read.priority {
            Priority::Demand => self.demand.push_back(read),
            Priority::Ahead => self.ahead.push_back(read),
        }
        Ok(())
    }

    /// The read whose turn it is; it is under way until [`ended`](Self::ended).
    pub(super) fn pop(&mut self) -> Option<Read> {
        if let Some(read) = self.demand.pop_front() {
            return Some(read);
        }
        if self.is_ahead_under_way {
            return None;
        }
        let read = self.ahead.pop_front()?;
        self.is_ahead_under_way = true;
        Some(read)
    }

    /// Notes that a read of this priority is not under way any more.
    pub(super) fn ended(&mut self, priority: Priority) {
        assert!(self.taken > 0, "only what was taken can end");
        self.taken -= 1;
        if priority == Priority::Ahead {
            self.is_ahead_under_way = false;
        }
    }

    /// Forgets what waits and takes nothing any more.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.taken -= self.demand.len() + self.ahead.len();
        self.demand.clear();
        self.ahead.clear();
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.stopped
    }
}
