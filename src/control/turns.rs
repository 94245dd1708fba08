//! A bound on the calls of one user that read the daemon's state at the same time. Calls beyond it wait
//! for calls of the same user, so that a flood of them does not delay the calls of others.
//!
//! Switches are not bounded here: the engine orders them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls of one user that are carried out at the same time.
const AT_ONCE: usize = 4;

/// The users whose calls read state now.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<Option<u32>, Weak<Semaphore>>>);

impl Turns {
    /// Waits for a turn of a user, which lasts until the value is dropped. All users over TCP, where the
    /// kernel does not say who connects, count as one.
    pub(super) async fn wait(&self, uid: Option<u32>) -> Option<OwnedSemaphorePermit> {
        // The semaphores are never closed.
        self.of(uid).acquire_owned().await.ok()
    }

    fn of(&self, uid: Option<u32>) -> Arc<Semaphore> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = users.get(&uid).and_then(Weak::upgrade) {
            return turns;
        }
        users.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        users.insert(uid, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn calls_beyond_the_bound_wait_for_calls_of_the_same_user_only() {
        let turns = Turns::default();
        let mut taken = Vec::new();
        for _ in 0..AT_ONCE {
            taken.push(turns.wait(Some(1)).await);
        }
        assert!(timeout(Duration::ZERO, turns.wait(Some(1))).await.is_err(), "one too many");
        assert!(turns.wait(Some(2)).await.is_some(), "another user");
        assert!(turns.wait(None).await.is_some(), "TCP");
        taken.pop();
        assert!(turns.wait(Some(1)).await.is_some());
        drop(taken);
        turns.of(Some(3));
        assert_eq!(turns.0.lock().unwrap().len(), 1, "users without calls are forgotten");
    }
}
