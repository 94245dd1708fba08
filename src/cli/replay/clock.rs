//! Virtual time: it passes when it is told to.

use crate::engine::Clock;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A clock that stands still until it is set.
#[derive(Debug, Default)]
pub(super) struct SetClock(AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl SetClock {
    pub(super) fn set(&self, now: Duration) {
        self.0.store(now.as_nanos() as u64, Ordering::Relaxed);
    }
}
