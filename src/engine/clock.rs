//! Time as the engine sees it: monotonic, counted from an arbitrary start.

use std::time::{Duration, Instant};

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Time since the clock's start. Never goes back.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock. It stands still while the machine is suspended.
#[derive(Debug)]
pub struct Monotonic(Instant);

impl Monotonic {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
