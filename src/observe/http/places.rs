//! Places for connections. There are so many of them, and nobody waits for one: when all are taken,
//! the connection that has been silent for longest makes room for a new one. A connection is silent
//! until it has sent the whole head of a request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot};

/// Places for connections.
pub(super) struct Places {
    limit: usize,
    open: Mutex<Open>,
    /// Notified when a connection ends.
    left: Notify,
}

#[derive(Default)]
struct Open {
    /// Nobody gets a place any more.
    is_closed: bool,
    /// The number of the next connection.
    next: u64,
    /// Connections by number, so the oldest comes first.
    taken: BTreeMap<u64, Connection>,
}

struct Connection {
    is_silent: bool,
    /// Dropped to end the connection.
    _end: oneshot::Sender<()>,
}

/// A connection's place, given back when it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default(), left: Notify::new() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, and what ends when the connection must give it up. There is none if every other
    /// connection has sent a request.
    pub(super) fn take(self: &Arc<Self>) -> Option<(Place, oneshot::Receiver<()>)> {
        let mut open = self.open();
        if open.taken.len() >= self.limit {
            let (&oldest, _) = open.taken.iter().find(|(_, connection)| connection.is_silent)?;
            open.taken.remove(&oldest);
        }
        let number = open.next;
        open.next += 1;
        let (end, ended) = oneshot::channel();
        open.taken.insert(number, Connection { is_silent: true, _end: end });
        Some((Place { places: self.clone(), number }, ended))
    }

    /// Connections that have a place.
    pub(super) fn taken(&self) -> usize {
        self.open().taken.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.open().is_closed
    }

    /// Ends silent connections, and returns when all others have ended. The caller of `take` asks
    /// `is_closed` before.
    pub(super) async fn close(&self) {
        let is_empty = |open: &mut Open| {
            open.is_closed = true;
            open.taken.retain(|_, connection| !connection.is_silent);
            open.taken.is_empty()
        };
        while !is_empty(&mut self.open()) {
            self.left.notified().await;
        }
    }
}

impl Place {
    /// Notes that the head of a request has come.
    pub(super) fn hears(&self) {
        if let Some(connection) = self.places.open().taken.get_mut(&self.number) {
            connection.is_silent = false;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open().taken.remove(&self.number);
        self.places.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_connection_makes_room_and_those_with_a_request_do_not() {
        let places = Places::new(3);
        let (first, mut first_end) = places.take().unwrap();
        let (second, mut second_end) = places.take().unwrap();
        let (third, mut third_end) = places.take().unwrap();
        first.hears();
        let (fourth, _fourth_end) = places.take().unwrap();
        assert_eq!(places.taken(), 3);
        assert!(
            second_end.try_recv().is_err_and(|end| end == oneshot::error::TryRecvError::Closed)
        );
        for end in [&mut first_end, &mut third_end] {
            assert_eq!(end.try_recv(), Err(oneshot::error::TryRecvError::Empty), "goes on");
        }
        drop(second);
        assert_eq!(places.taken(), 3, "its place was given away already");
        third.hears();
        fourth.hears();
        assert!(places.take().is_none(), "all have sent a request");
        drop(first);
        assert!(places.take().is_some());
    }
}
