//! What a backend has met, counted; and what it is at.

use super::ReadError;
use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Bounds of the time that a read takes, in microseconds. Less than the first no device takes; more
/// than the last is longer than a switch may wait.
const BOUNDS_US: [u64; 19] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
];
/// One more than there are bounds.
const BUCKETS: usize = BOUNDS_US.len() + 1;
/// Names of what can go wrong.
const ERRORS: [&str; 5] = ["device", "eof", "io", "lost", "refused"];

/// Counts that only grow; any thread may read them.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    bytes: AtomicU64,
    short: AtomicU64,
    again: AtomicU64,
    stray: AtomicU64,
    /// By kind; those that were refused were never taken.
    errors: [AtomicU64; ERRORS.len()],
    taken: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    times: [AtomicU64; BUCKETS],
    time_us: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterValues {
    /// Requests that ended well.
    pub reads: u64,
    /// Their bytes, gaps included.
    pub bytes: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Times that the kernel gave less than was asked for, and was asked for the rest.
    pub short: u64,
    /// Times that the kernel had no room for a request, and was asked again.
    pub again: u64,
    /// Answers of the kernel that no request was waiting for; they were dropped.
    pub stray: u64,
}

/// What a backend is at, how long its reads take, and what goes wrong with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait.
    pub waiting: u64,
    /// Requests that are being carried out.
    pub under_way: u64,
    /// What all requests together took, from being taken up to their end.
    pub time: Duration,
    times: [u64; BUCKETS],
    errors: [u64; ERRORS.len()],
}

impl Load {
    /// How many requests took how long: each bound in seconds, with the number of those that took
    /// no longer than it, and longer than the bound before. The last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|us| Duration::from_micros(*us).as_secs_f64());
        bounds.chain([f64::INFINITY]).zip(self.times)
    }

    /// How many requests failed, by what went wrong: the device does not answer or is gone, the file
    /// ends, it cannot be read, the kernel has lost the request, or it was not taken at all.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        ERRORS.into_iter().zip(self.errors)
    }
}

impl Counters {
    /// The counts now.
    pub fn values(&self) -> CounterValues {
        let errors = self.errors.iter().map(|count| count.load(Relaxed)).sum::<u64>();
        CounterValues {
            reads: self.reads.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            failed: errors - self.errors[REFUSED].load(Relaxed),
            short: self.short.load(Relaxed),
            again: self.again.load(Relaxed),
            stray: self.stray.load(Relaxed),
        }
    }

    /// What the backend is at now.
    pub fn load(&self) -> Load {
        // In this order, so that what moves on meanwhile is counted where it was.
        let [ended, begun, taken] =
            [&self.ended, &self.begun, &self.taken].map(|count| count.load(Relaxed));
        Load {
            waiting: taken.saturating_sub(begun),
            under_way: begun.saturating_sub(ended),
            time: Duration::from_micros(self.time_us.load(Relaxed)),
            times: array::from_fn(|at| self.times[at].load(Relaxed)),
            errors: array::from_fn(|at| self.errors[at].load(Relaxed)),
        }
    }

    /// Notes that a request was taken, or was not.
    pub(super) fn submitted(&self, is_taken: bool) {
        let count = if is_taken { &self.taken } else { &self.errors[REFUSED] };
        count.fetch_add(1, Relaxed);
    }

    /// Notes that a request's turn has come.
    pub(super) fn begun(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// Notes the end of a request of so many bytes, so long after its turn came.
    pub(super) fn ended(&self, bytes: u64, took: Duration, result: &Result<(), ReadError>) {
        match result {
            Ok(()) => {
                self.reads.fetch_add(1, Relaxed);
                self.bytes.fetch_add(bytes, Relaxed);
            }
            Err(error) => drop(self.errors[kind(error)].fetch_add(1, Relaxed)),
        }
        let us = took.as_micros() as u64;
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.times[bucket].fetch_add(1, Relaxed);
        self.time_us.fetch_add(us, Relaxed);
        self.ended.fetch_add(1, Relaxed);
    }

    pub(super) fn short(&self) {
        self.short.fetch_add(1, Relaxed);
    }

    pub(super) fn again(&self) {
        self.again.fetch_add(1, Relaxed);
    }

    pub(super) fn stray(&self) {
        self.stray.fetch_add(1, Relaxed);
    }
}

/// The place of [`ReadError::Refused`] in [`ERRORS`].
const REFUSED: usize = 4;

/// The place of what went wrong in [`ERRORS`].
fn kind(error: &ReadError) -> usize {
    match error {
        ReadError::Io { .. } if error.is_of_device() => 0,
        ReadError::Eof { .. } => 1,
        ReadError::Io { .. } => 2,
        ReadError::Lost => 3,
        ReadError::Refused => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn io(errno: Errno) -> Result<(), ReadError> {
        Err(ReadError::Io { offset: 0, len: 1, source: errno.into() })
    }

    #[test]
    fn reads_are_counted_where_they_are() {
        let counters = Counters::default();
        (0..3).for_each(|_| counters.submitted(true));
        counters.begun();
        counters.begun();
        assert_eq!((counters.load().waiting, counters.load().under_way), (1, 2));
        counters.ended(8, Duration::from_micros(20), &Ok(()));
        counters.ended(8, Duration::from_micros(21), &Ok(()));
        counters.begun();
        counters.ended(8, Duration::from_secs(60), &Ok(()));
        let load = counters.load();
        assert_eq!((load.waiting, load.under_way), (0, 0));
        assert_eq!(load.time, Duration::from_micros(60_000_041));
        let found: Vec<_> = load.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [(20e-6, 1), (50e-6, 1), (f64::INFINITY, 1)]);
        assert_eq!((counters.values().reads, counters.values().bytes), (3, 24));
    }

    #[test]
    fn errors_are_counted_by_what_went_wrong() {
        let counters = Counters::default();
        let ends = [
            io(Errno::NODEV),
            io(Errno::IO),
            io(Errno::IO),
            Err(ReadError::Eof { end: 0 }),
            Err(ReadError::Lost),
        ];
        ends.iter().for_each(|end| counters.ended(8, Duration::ZERO, end));
        counters.submitted(false);
        let errors: Vec<_> = counters.load().errors().collect();
        assert_eq!(errors, [("device", 1), ("eof", 1), ("io", 2), ("lost", 1), ("refused", 1)]);
        let values = counters.values();
        assert_eq!((values.reads, values.bytes, values.failed), (0, 0, 5));
    }
}
