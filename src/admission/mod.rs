//! Who may connect to a socket, with which role, and how many connections each user and each process
//! may have. The access check and the connection limit may change while connections are open.
//!
//! This module knows no protocol: the server of a socket answers a caller that is rejected.

mod limit;
mod peer;
mod reject;

pub use limit::{Full, Limit, Limits, Place, is_privileged};
pub use peer::{Credentials, credentials};
pub use reject::Rejection;

use crate::config::{Peers, Role};
use reject::{REASONS, Warnings};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Rejected callers that a socket answers at the same time; it closes the connections of others
/// without an answer.
const ANSWERS: usize = 16;

/// The access check and the connection limit of a socket. A copy shares both.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Socket>);

#[derive(Debug)]
struct Socket {
    /// In messages and metrics.
    name: &'static str,
    /// The least role that may connect.
    needed: Role,
    peers: watch::Sender<Peers>,
    places: Limit,
    answers: Arc<Semaphore>,
    /// Rejected connections, by `REASONS`.
    rejected: [AtomicU64; REASONS.len()],
    warnings: Warnings,
}

/// An admitted caller. It holds its place until this value is dropped.
#[derive(Debug)]
pub struct Admitted {
    /// `None` where the kernel does not say who connects: TCP.
    caller: Option<Credentials>,
    admission: Admission,
    _place: Place,
}

/// The connections of a socket, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The socket.
    pub socket: &'static str,
    /// Places that are taken.
    pub taken: usize,
    /// Places in all, without the reserved ones.
    pub limit: usize,
    /// Rejected connections by reason.
    pub rejected: [(&'static str, u64); REASONS.len()],
}

impl Admission {
    /// Admits peers that have at least the role `needed`, within these limits.
    pub fn new(name: &'static str, needed: Role, peers: Peers, limits: Limits) -> Self {
        Self(Arc::new(Socket {
            name,
            needed,
            peers: watch::Sender::new(peers),
            places: Limit::new(limits),
            answers: Arc::new(Semaphore::new(ANSWERS)),
            rejected: Default::default(),
            warnings: Warnings::default(),
        }))
    }

    /// Uses other peers and limits from now on. Connections of peers that lost the needed role end
    /// (see [`Admitted::revoked`]); nobody loses a place because a limit went down.
    pub fn change(&self, peers: Peers, limits: Limits) {
        self.0.places.change(limits);
        self.0.peers.send_replace(peers);
    }

    /// Gives the caller a place, or says why not. A rejection is counted, and logged once per user
    /// and interval.
    pub fn admit(&self, caller: Option<Credentials>) -> Result<Admitted, Rejection> {
        let admitted = self
            .check(caller.as_ref())
            .and_then(|()| self.0.places.take(caller.as_ref()).map_err(Rejection::Full));
        match admitted {
            Ok(place) => Ok(Admitted { caller, admission: self.clone(), _place: place }),
            Err(rejection) => {
                self.0.rejected[rejection.index()].fetch_add(1, Relaxed);
                self.warn(caller.as_ref(), &rejection);
                Err(rejection)
            }
        }
    }

    /// A place among the rejected callers that are answered, if one is free.
    pub fn answer(&self) -> Option<OwnedSemaphorePermit> {
        self.0.answers.clone().try_acquire_owned().ok()
    }

    /// The connections of the socket.
    pub fn usage(&self) -> Usage {
        let count = |i: usize| (REASONS[i], self.0.rejected[i].load(Relaxed));
        Usage {
            socket: self.0.name,
            taken: self.0.places.taken(),
            limit: self.0.places.limits().all,
            rejected: std::array::from_fn(count),
        }
    }

    fn check(&self, caller: Option<&Credentials>) -> Result<(), Rejection> {
        match self.role(caller) {
            None => Err(Rejection::NotAPeer),
            Some(role) if role < self.0.needed => Err(Rejection::Role(self.0.needed)),
            Some(_) => Ok(()),
        }
    }

    fn role(&self, caller: Option<&Credentials>) -> Option<Role> {
        match caller {
            None => Some(Role::Command),
            Some(caller) if is_privileged(caller.uid) => Some(Role::Command),
            Some(caller) => self.0.peers.borrow().role(caller.uid, caller.gid, &caller.groups),
        }
    }

    fn warn(&self, caller: Option<&Credentials>, rejection: &Rejection) {
        self.0.warnings.warn(self.0.name, caller, rejection);
    }
}

impl Admitted {
    /// The caller; `None` where the kernel does not say who connects.
    pub fn caller(&self) -> Option<&Credentials> {
        self.caller.as_ref()
    }

    /// Whether the caller has a role now. A rejection is logged once per user and interval.
    pub fn check(&self, needed: Role) -> Result<(), Rejection> {
        let rejection = match self.admission.role(self.caller()) {
            Some(role) if role >= needed => return Ok(()),
            Some(_) => Rejection::Role(needed),
            None => Rejection::NotAPeer,
        };
        self.admission.warn(self.caller(), &rejection);
        Err(rejection)
    }

    /// Ends when a changed configuration does not admit the caller any more.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        let (admission, caller) = (self.admission.clone(), self.caller.clone());
        let mut peers = admission.0.peers.subscribe();
        // A change between `admit` and `subscribe` is seen, too.
        peers.mark_changed();
        async move {
            while peers.changed().await.is_ok() {
                if admission.check(caller.as_ref()).is_err() {
                    return;
                }
            }
            // The sender lives in `admission`, so it is never dropped before.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Account, PeerRule};
    use std::time::Duration;
    use tokio::time::timeout;

    fn caller(uid: u32, pid: u32) -> Credentials {
        Credentials { pid: Some(pid), uid, gid: uid, groups: vec![77] }
    }

    fn peers(account: Account, role: Role) -> Peers {
        Peers(vec![PeerRule { account, role }])
    }

    #[test]
    fn a_caller_that_is_not_a_peer_takes_no_place_and_is_counted() {
        let admission =
            Admission::new("control", Role::Observe, Peers::default(), Limits::shared(4));
        assert_eq!(admission.admit(Some(caller(4711, 1))).unwrap_err(), Rejection::NotAPeer);
        let usage = admission.usage();
        assert_eq!((usage.taken, usage.limit), (0, 4));
        assert!(usage.rejected.contains(&("peer_not_allowed", 1)), "{usage:?}");
    }

    #[test]
    fn a_supplementary_group_admits_with_the_highest_of_its_roles() {
        let rules = vec![
            PeerRule { account: Account::Group(77), role: Role::Attach },
            PeerRule { account: Account::User(4711), role: Role::Observe },
        ];
        let admission = Admission::new("attach", Role::Attach, Peers(rules), Limits::shared(4));
        let admitted = admission.admit(Some(caller(4711, 1))).unwrap();
        assert_eq!(admitted.check(Role::Attach), Ok(()));
        assert_eq!(admitted.check(Role::Command), Err(Rejection::Role(Role::Command)));
    }

    #[tokio::test]
    async fn a_peer_that_is_removed_is_revoked_and_others_stay() {
        let admission = Admission::new(
            "control",
            Role::Observe,
            peers(Account::User(4711), Role::Command),
            Limits::shared(4),
        );
        let removed = admission.admit(Some(caller(4711, 1))).unwrap();
        let privileged = admission.admit(Some(caller(0, 2))).unwrap();
        assert!(timeout(Duration::ZERO, removed.revoked()).await.is_err(), "no change yet");
        let waiting = tokio::spawn(removed.revoked());
        tokio::task::yield_now().await;
        admission.change(Peers::default(), Limits::shared(4));
        waiting.await.unwrap();
        assert!(timeout(Duration::ZERO, privileged.revoked()).await.is_err());
    }
}
