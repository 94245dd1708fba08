//! Where events come together and go out from: the log, the metrics, and everybody who watches.
//!
//! Events come a little after what they tell, several together: whoever waits for an answer comes
//! first, and a watcher is woken once for many. Watchers have no queues of their own, only a place
//! in the [`History`]: one that is slow costs nothing and misses what it is told that it missed.

use super::{
    convert,
    history::History,
    lines,
    metrics::{Metrics, Rpc},
    wall,
};
use crate::{
    engine::{Clock, Event, EventSource},
    proto::{self, EventPosition, EventsLost, event::Kind},
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

/// Events that are kept for whoever comes back.
const KEPT: usize = 2048;
/// How long events may wait for others.
const DELAY: Duration = Duration::from_millis(10);
/// Events that are told together at most.
const BATCH: usize = 256;

/// Takes events in and hands them on.
pub struct Hub {
    clock: Arc<dyn Clock>,
    instance: String,
    history: Mutex<History>,
    news: watch::Sender<News>,
    metrics: Metrics,
}

/// What watchers wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct News {
    last: u64,
    /// No more will come.
    over: bool,
}

impl Hub {
    /// A hub that has seen nothing. The instance tells this run of the daemon from others.
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            instance: format!("{:016x}", fastrand::u64(..)),
            history: Mutex::new(History::new(KEPT)),
            news: watch::Sender::new(News { last: 0, over: false }),
            metrics: Metrics::new(),
        })
    }

    /// Names this run of the daemon.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What is counted and measured.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Where calls are counted.
    pub fn rpc(&self) -> &Arc<Rpc> {
        self.metrics.rpc()
    }

    /// How many watch.
    pub(super) fn watchers(&self) -> usize {
        self.news.receiver_count()
    }

    /// Takes in what the engine tells, until it tells no more.
    pub async fn run(self: Arc<Self>, mut events: EventSource) {
        while let Some(first) = events.next().await {
            sleep(DELAY).await;
            self.take_in(&first);
            while let Some(event) = events.try_next() {
                self.take_in(&event);
            }
            let count = events.lost();
            if count > 0 {
                self.tell(Kind::Lost(EventsLost { count }));
            }
            self.spread();
        }
    }

    /// Tells what happened to the daemon as a whole.
    pub fn tell(&self, kind: Kind) {
        lines::log_daemon(&kind);
        self.metrics.observe_daemon(&kind);
        let (time_us, kind) = (wall::now_us(), Some(kind));
        self.history().push(proto::Event { time_us, kind, ..proto::Event::default() });
        self.spread();
    }

    /// Ends all watching, once what happened so far is told.
    pub fn close(&self) {
        self.news.send_modify(|news| news.over = true);
    }

    /// Watches from a place on: after the event that is named, after the last one, or, if the place
    /// is none of this run's, from the earliest that is kept.
    pub fn watch(
        self: &Arc<Self>,
        model: String,
        after: Option<EventPosition>,
        only_new: bool,
    ) -> Watcher {
        let after = after.filter(|after| after.instance == self.instance);
        let next = match after {
            Some(after) => after.sequence,
            None if only_new => self.history().last(),
            None => 0,
        };
        Watcher { hub: self.clone(), news: self.news.subscribe(), model, seen: next }
    }

    fn take_in(&self, event: &Event) {
        lines::log(event);
        self.metrics.observe(event);
        let age = self.clock.now().saturating_sub(event.at);
        let time_us = wall::now_us().saturating_sub(age.as_micros() as u64);
        self.history().push(convert::event(event, time_us));
    }

    fn spread(&self) {
        let last = self.history().last();
        self.news.send_modify(|news| news.last = last);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Nothing that is done under the lock can be left half done.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who watches.
pub struct Watcher {
    hub: Arc<Hub>,
    news: watch::Receiver<News>,
    model: String,
    /// The number of the last event that it was told, or that was none of its business.
    seen: u64,
}

impl Watcher {
    /// What has happened since the last time, as soon as there is something; nothing once the hub
    /// is closed.
    pub async fn next(&mut self) -> Option<proto::WatchEventsResponse> {
        loop {
            let News { over, .. } = *self.news.borrow_and_update();
            let events = self.hub.history().after(self.seen, BATCH);
            match events.last() {
                Some(last) => self.seen = last.sequence,
                None if over => return None,
                None => self.news.changed().await.ok()?,
            }
            let concerns = |event: &&Arc<proto::Event>| {
                self.model.is_empty() || event.model.is_empty() || event.model == self.model
            };
            let events: Vec<_> =
                events.iter().filter(concerns).map(|event| proto::Event::clone(event)).collect();
            if !events.is_empty() {
                return Some(proto::WatchEventsResponse {
                    instance: self.hub.instance.clone(),
                    events,
                });
            }
        }
    }
}
