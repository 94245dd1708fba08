//! How much may be loaded ahead: what is read and used costs nothing, what is read in vain is paid
//! from a budget that fills up slowly, and more slowly while the device is slow.

use std::time::Duration;

/// So much may be wasted at once, as time of filling up.
const BURST: Duration = Duration::from_secs(8);
const LEAST_WAIT: Duration = Duration::from_millis(1);
/// Speed of the device before anything was read ahead, in bytes a second.
const FIRST_SPEED: f64 = 500e6;
/// How much a read changes what is held to be the device's speed.
const RATE: f64 = 0.1;
/// How much of the best speed is forgotten at each read.
const FORGOTTEN: f64 = 0.001;

/// Bytes that may be read in vain.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    bytes_per_s: f64,
    left: f64,
    filled: Duration,
    /// Bytes a second of late, and at best.
    speed: f64,
    best: f64,
}

impl Budget {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        let bytes_per_s = bytes_per_s as f64;
        let left = bytes_per_s * BURST.as_secs_f64();
        Self { bytes_per_s, left, filled: Duration::ZERO, speed: FIRST_SPEED, best: FIRST_SPEED }
    }

    /// Whether it fills by so many bytes a second at best.
    pub(super) fn is_of(&self, bytes_per_s: u64) -> bool {
        self.bytes_per_s == bytes_per_s as f64
    }

    /// Bytes that may be read now.
    pub(super) fn left(&self) -> u64 {
        self.left.max(0.0) as u64
    }

    /// Lets time pass.
    pub(super) fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        let most = self.bytes_per_s * BURST.as_secs_f64();
        self.left = (self.left + self.pace() * passed).min(most);
    }

    /// When so many bytes may be read, or all that it can hold, if not now.
    pub(super) fn enough_at(&self, bytes: u64) -> Option<Duration> {
        // More than it can hold is not to be waited for.
        let lack = (bytes as f64).min(self.bytes_per_s * BURST.as_secs_f64()) - self.left;
        let wait = Duration::try_from_secs_f64(lack / self.pace()).unwrap_or(Duration::MAX);
        // What rounding leaves must not be waited for again and again.
        (lack > 0.0).then(|| self.filled.saturating_add(wait.max(LEAST_WAIT)))
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.left -= bytes as f64;
    }

    /// Gives back what turned out to be of use.
    pub(super) fn give_back(&mut self, bytes: u64) {
        let most = self.bytes_per_s * BURST.as_secs_f64();
        self.left = (self.left + bytes as f64).min(most);
    }

    /// Notes how long a read took.
    pub(super) fn measured(&mut self, bytes: u64, took: Duration) {
        if took.is_zero() {
            return;
        }
        let speed = bytes as f64 / took.as_secs_f64();
        self.speed += RATE * (speed - self.speed);
        self.best = (self.best * (1.0 - FORGOTTEN)).max(self.speed);
    }

    /// How long so many bytes take to be loaded ahead.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 / self.speed.max(1.0)).unwrap_or(Duration::MAX)
    }

    /// Bytes a second by which it fills: as much less as the device is slower than it was.
    fn pace(&self) -> f64 {
        self.bytes_per_s * (self.speed / self.best).clamp(0.01, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wasted_is_bounded_and_what_is_used_is_free() {
        let mut budget = Budget::new(1000);
        assert_eq!(budget.left(), 8000);
        for _ in 0..100 {
            budget.spend(8000);
            budget.give_back(8000);
        }
        assert_eq!(budget.enough_at(8000), None);
        budget.spend(8000);
        assert_eq!(budget.left(), 0);
        assert_eq!(budget.enough_at(500), Some(Duration::from_millis(500)));
        budget.fill(Duration::from_secs(3));
        assert_eq!(budget.left(), 3000);
        budget.fill(Duration::from_secs(2));
        budget.fill(Duration::from_secs(1000));
        assert_eq!(budget.left(), 8000, "it does not pile up, and no time counts twice");
    }

    #[test]
    fn it_fills_more_slowly_while_the_device_is_slow() {
        let mut budget = Budget::new(1000);
        budget.spend(8000);
        for _ in 0..100 {
            budget.measured(1 << 20, Duration::from_millis(100));
        }
        budget.fill(Duration::from_secs(1));
        assert!(budget.left() < 100, "{budget:?}");
        assert!(budget.time_for(10 << 20) > Duration::from_millis(900), "{budget:?}");
        budget.measured(1, Duration::ZERO);
    }
}
