//! What a backend has met, counted.

use super::ReadError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts that only grow; any thread may read them.
#[derive(Debug, Default)]
pub struct Counters {
    reads: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    short: AtomicU64,
    again: AtomicU64,
    stray: AtomicU64,
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

impl Counters {
    /// The counts now.
    pub fn values(&self) -> CounterValues {
        CounterValues {
            reads: self.reads.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            failed: self.failed.load(Relaxed),
            short: self.short.load(Relaxed),
            again: self.again.load(Relaxed),
            stray: self.stray.load(Relaxed),
        }
    }

    /// Notes the end of a request of so many bytes.
    pub(super) fn ended(&self, bytes: u64, result: &Result<(), ReadError>) {
        match result {
            Ok(()) => {
                self.reads.fetch_add(1, Relaxed);
                self.bytes.fetch_add(bytes, Relaxed);
            }
            Err(_) => drop(self.failed.fetch_add(1, Relaxed)),
        }
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
