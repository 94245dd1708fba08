//! Why a caller is rejected, and the log lines about that: one per user and interval, however many
//! connections a user tries.

use super::{Credentials, Full};
use crate::config::Role;
use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Shortest time between two warnings about a user.
const INTERVAL: Duration = Duration::from_secs(10);

/// Reasons as metrics name them.
pub(super) const REASONS: [&str; 5] = [
    "peer_not_allowed",
    "role_not_allowed",
    "too_many_connections",
    "too_many_of_user",
    "too_many_of_process",
];

/// Why a caller is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Neither its user nor one of its groups is in `peers`.
    NotAPeer,
    /// It is in `peers`, but has a lower role than this.
    Role(Role),
    /// There is no place for it.
    Full(Full),
}

impl Rejection {
    pub(super) fn index(self) -> usize {
        match self {
            Self::NotAPeer => 0,
            Self::Role(_) => 1,
            Self::Full(Full::All(_)) => 2,
            Self::Full(Full::User(_)) => 3,
            Self::Full(Full::Process(_)) => 4,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAPeer => {
                f.write_str("this user may not connect: see `peers` in the configuration")
            }
            Self::Role(needed) => {
                let name = needed.name();
                write!(f, "this needs the role `{name}`: see `peers` in the configuration")
            }
            Self::Full(full) => {
                write!(f, "{full}: close connections, or raise `limits.connections`")
            }
        }
    }
}

/// When each user was last warned about.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<HashMap<Option<u32>, Warned>>);

#[derive(Debug)]
struct Warned {
    at: Instant,
    /// Rejections since then that were not logged.
    silent: u64,
}

impl Warnings {
    /// Logs a rejection, unless one of the same user was logged within the interval.
    pub(super) fn warn(&self, socket: &str, caller: Option<&Credentials>, rejection: &Rejection) {
        let uid = caller.map(|caller| caller.uid);
        if let Some(silent) = self.due(uid, Instant::now()) {
            let (pid, why) = (caller.and_then(|caller| caller.pid), rejection.to_string());
            tracing::warn!(socket, uid, pid, why, silent, "a caller was refused");
        }
    }

    /// The rejections that were not logged, if another one is to be logged now.
    fn due(&self, uid: Option<u32>, now: Instant) -> Option<u64> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(warned) = users.get_mut(&uid)
            && now.saturating_duration_since(warned.at) < INTERVAL
        {
            warned.silent += 1;
            return None;
        }
        let silent = users.get(&uid).map_or(0, |warned| warned.silent);
        // Users that stopped do not stay in memory.
        users.retain(|_, warned| now.saturating_duration_since(warned.at) < INTERVAL);
        users.insert(uid, Warned { at: now, silent: 0 });
        Some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rejection_per_user_and_interval_is_logged() {
        let (warnings, start) = (Warnings::default(), Instant::now());
        assert_eq!(warnings.due(Some(1), start), Some(0));
        assert_eq!(warnings.due(Some(1), start), None);
        assert_eq!(warnings.due(Some(2), start), Some(0), "another user has its own");
        assert_eq!(warnings.due(Some(1), start + INTERVAL), Some(1));
        assert_eq!(warnings.0.lock().unwrap().len(), 1, "user 2 is forgotten");
    }
}
