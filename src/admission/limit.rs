//! Counts places in all, by user and by process.

use super::Credentials;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Places that only root and the daemon's own user can take, beyond the limit of all.
const RESERVED: usize = 8;

/// How many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub all: usize,
    /// Of one user. Does not apply to root and the daemon's own user.
    pub per_user: usize,
    /// Of one process. Processes of a user whose pid is hidden count as one.
    pub per_process: usize,
}

impl Limits {
    /// One user has at most half of the places, one process a quarter.
    pub fn shared(all: usize) -> Self {
        Self { all, per_user: all.div_ceil(2), per_process: all.div_ceil(4) }
    }
}

/// Which limit is reached, with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of all.
    All(usize),
    /// That of the user.
    User(usize),
    /// That of the process.
    Process(usize),
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(limit) => write!(f, "all {limit} places are taken"),
            Self::User(limit) => write!(f, "the user has {limit} places already"),
            Self::Process(limit) => write!(f, "the process has {limit} places already"),
        }
    }
}

/// A limit on things that callers hold, such as connections. A copy counts the same things.
#[derive(Clone, Debug)]
pub struct Limit(Arc<Mutex<Counts>>);

/// A process is a pid of a user: a pid alone is 0 for all hidden processes.
type Process = (u32, Option<u32>);

/// Invariant: entries are above zero, and the sum of each map is at most `taken`.
#[derive(Debug)]
struct Counts {
    limits: Limits,
    taken: usize,
    users: HashMap<u32, usize>,
    processes: HashMap<Process, usize>,
}

/// A place that is taken until this value is dropped.
#[derive(Debug)]
pub struct Place {
    limit: Limit,
    process: Option<Process>,
}

/// Whether a user is root or the daemon's own.
pub fn is_privileged(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

impl Limit {
    /// No place is taken.
    pub fn new(limits: Limits) -> Self {
        let (users, processes) = (HashMap::new(), HashMap::new());
        Self(Arc::new(Mutex::new(Counts { limits, taken: 0, users, processes })))
    }

    /// Uses other limits for places that are taken from now on.
    pub fn change(&self, limits: Limits) {
        self.counts().limits = limits;
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.counts().limits
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.counts().taken
    }

    /// Takes a place, or says which limit is reached. A caller that is not known has no limit of
    /// its own.
    pub fn take(&self, caller: Option<&Credentials>) -> Result<Place, Full> {
        let mut counts = self.counts();
        let privileged = caller.is_some_and(|caller| is_privileged(caller.uid));
        let process = caller.map(|caller| (caller.uid, caller.pid));
        counts.check(process, privileged)?;
        counts.taken += 1;
        if let Some(process) = process {
            *counts.users.entry(process.0).or_default() += 1;
            *counts.processes.entry(process).or_default() += 1;
        }
        Ok(Place { limit: self.clone(), process })
    }

    /// A panic cannot leave counts half changed.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn check(&self, process: Option<Process>, privileged: bool) -> Result<(), Full> {
        let Limits { all, per_user, per_process } = self.limits;
        if let Some(process) = process {
            if self.processes.get(&process).is_some_and(|&taken| taken >= per_process) {
                return Err(Full::Process(per_process));
            }
            let of_user = self.users.get(&process.0);
            if !privileged && of_user.is_some_and(|&taken| taken >= per_user) {
                return Err(Full::User(per_user));
            }
        }
        let reserved = if privileged { RESERVED } else { 0 };
        if self.taken >= all + reserved {
            return Err(Full::All(all));
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.limit.counts();
        counts.taken -= 1;
        if let Some(process) = self.process {
            release(&mut counts.users, process.0);
            release(&mut counts.processes, process);
        }
    }
}

fn release<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(taken) = counts.get_mut(&key) {
        *taken -= 1;
        if *taken == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, pid: u32) -> Credentials {
        Credentials { pid: Some(pid), uid, gid: uid, groups: Vec::new() }
    }

    #[test]
    fn r6_a_process_and_a_user_take_their_share_and_others_get_theirs() {
        let limit = Limit::new(Limits::shared(8));
        let take = |uid, pid| limit.take(Some(&caller(uid, pid)));
        let mut held: Vec<_> = (0..2).map(|_| take(1000, 1).unwrap()).collect();
        assert_eq!(take(1000, 1).unwrap_err(), Full::Process(2));
        held.extend((0..2).map(|_| take(1000, 2).unwrap()));
        assert_eq!(take(1000, 3).unwrap_err(), Full::User(4));
        held.extend((0..4).map(|i| take(1001, i / 2).unwrap()));
        assert_eq!(take(1002, 9).unwrap_err(), Full::All(8));
        assert_eq!(limit.take(None).unwrap_err(), Full::All(8));
        held.extend((0..8).map(|i| take(0, i).unwrap()));
        assert_eq!(take(0, 9).unwrap_err(), Full::All(8), "the reserved places are taken, too");
        drop(held);
        let counts = limit.counts();
        assert!(counts.taken == 0 && counts.users.is_empty() && counts.processes.is_empty());
    }

    #[test]
    fn a_lower_limit_takes_no_place_away_and_holds_for_the_next_caller() {
        let limit = Limit::new(Limits::shared(8));
        let held = [1, 2].map(|pid| limit.take(Some(&caller(1000, pid))).unwrap());
        limit.change(Limits::shared(1));
        assert_eq!(limit.taken(), 2);
        drop(held);
        let _one = limit.take(Some(&caller(1000, 1))).unwrap();
        assert_eq!(limit.take(Some(&caller(1001, 2))).unwrap_err(), Full::All(1));
    }
}
