//! The time of day, for people and for other machines' records. Nothing is decided by it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, by a clock that may be set. 0 before that.
pub(super) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}
