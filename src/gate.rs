//! Who may come in at a socket, and how many at once. Both may change while some are in.
//!
//! Knows no protocol: who is refused is told so by whoever serves the socket.

use crate::config::Peers;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A socket's gate. A copy is the same gate.
#[derive(Clone, Debug)]
pub struct Gate {
    rules: Arc<Mutex<Rules>>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Rules {
    peers: Peers,
    connections: usize,
}

/// A place that is taken until this is dropped.
pub type Place = OwnedSemaphorePermit;

impl Gate {
    /// Lets these peers in, and so many connections at once.
    pub fn new(peers: Peers, connections: usize) -> Self {
        let rules = Arc::new(Mutex::new(Rules { peers, connections }));
        Self { rules, places: Arc::new(Semaphore::new(connections)) }
    }

    /// Goes by other rules from now on. Who is in stays in; places that are too many go as they
    /// become free. Needs a tokio runtime.
    pub fn change(&self, peers: Peers, connections: usize) {
        let before =
            std::mem::replace(&mut *self.rules(), Rules { peers, connections }).connections;
        self.places.add_permits(connections.saturating_sub(before));
        let surplus = before.saturating_sub(connections) as u32;
        if surplus > 0 {
            let places = self.places.clone();
            tokio::spawn(async move {
                if let Ok(surplus) = places.acquire_many_owned(surplus).await {
                    surplus.forget();
                }
            });
        }
    }

    /// Whether a process of this user and primary group may come in.
    pub fn allows(&self, uid: u32, gid: u32) -> bool {
        self.rules().peers.allow(uid, gid)
    }

    /// Waits for a place. `None` never comes: the places are not closed.
    pub async fn place(&self) -> Option<Place> {
        self.places.clone().acquire_owned().await.ok()
    }

    /// Rules are replaced as a whole, so a panic cannot leave them torn.
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn places_that_are_too_many_go_as_they_become_free_and_come_back() {
        let gate = Gate::new(Peers::default(), 3);
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.extend(gate.place().await);
        }
        gate.change(Peers::default(), 1);
        tokio::task::yield_now().await;
        taken.truncate(1);
        tokio::task::yield_now().await;
        assert!(timeout(Duration::ZERO, gate.place()).await.is_err(), "one place, and it is taken");
        taken.clear();
        let only = gate.place().await;
        assert!(timeout(Duration::ZERO, gate.place()).await.is_err());
        gate.change(Peers::default(), 2);
        assert!(gate.place().await.is_some());
        drop(only);
    }

    #[test]
    fn rules_change_for_those_who_come_later() {
        let gate = Gate::new(Peers::default(), 1);
        assert!(!gate.allows(4711, 4711));
        gate.change(Peers { uids: vec![4711], gids: vec![] }, 1);
        assert!(gate.allows(4711, 4711));
    }
}
