//! Where events come together and go out from: the log, the metrics, and everybody who watches.
//!
//! Events come a little after what they tell, several together: whoever waits for an answer comes
//! first, and a watcher is woken once for many. Watchers have no queues of their own, only a place
//! in the [`History`]: one that is slow costs nothing and misses what it is told that it missed.

use super::{
    convert,
    history::{History, Told},
    lines,
    metrics::{Metrics, Rpc},
    otlp::Exporter,
    wall,
};
use crate::{
    admission::Admission,
    engine::{Clock, Event, EventSource},
    proto::{self, EventPosition, EventsLost, event::Kind},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::yield_now,
    time::{sleep, timeout},
};

/// Events that are kept for whoever comes back.
const KEPT: usize = 2048;
/// How long events may wait for others: watchers are woken no more often than that. No cycle that
/// driving stacks have divides it: after 20 ms, a switch of a cycle of 10 or 20 ms would begin just
/// when watchers are told of an earlier one, and wait.
const DELAY: Duration = Duration::from_millis(17);
/// Events that are taken in before others on the thread get their turn.
const SHARE: usize = 32;
/// Events that are taken in before watchers are told, however fast more of them come.
const TURN: usize = 2048;
/// Events that are told together at most.
const BATCH: usize = 256;
/// How long the last events of an engine that has ended may take to be taken in, and then the last
/// traces to be exported.
const LAST: Duration = Duration::from_millis(200);

/// Takes events in and hands them on.
pub struct Hub {
    clock: Arc<dyn Clock>,
    instance: String,
    history: Mutex<History>,
    /// What happened to the daemon as a whole and has not found its place among the events yet.
    told: Mutex<VecDeque<(Duration, Kind)>>,
    /// Something was told.
    wake: Notify,
    news: watch::Sender<News>,
    metrics: Metrics,
    /// Where switches are exported as traces, if they are.
    traces: Option<Exporter>,
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
        let instance = format!("{:016x}", fastrand::u64(..));
        let traces = Exporter::start(&instance);
        Arc::new(Self {
            clock,
            instance,
            history: Mutex::new(History::new(KEPT)),
            told: Mutex::default(),
            wake: Notify::new(),
            news: watch::Sender::new(News { last: 0, over: false }),
            metrics: Metrics::new(),
            traces,
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

    /// Has metrics show the connections of these sockets.
    pub fn show_connections(&self, sockets: Vec<Admission>) {
        self.metrics.show_connections(sockets);
    }

    /// How many watch.
    pub(super) fn watchers(&self) -> usize {
        self.news.receiver_count()
    }

    /// Takes in what the engine tells, until it tells no more; then ends all watching.
    pub async fn run(self: Arc<Self>, mut events: EventSource) {
        loop {
            let first = tokio::select! {
                event = events.next() => match event {
                    None => break,
                    event => event,
                },
                () = self.wake.notified() => None,
            };
            sleep(DELAY).await;
            let mut next = first.or_else(|| events.try_next());
            for taken in 1..=TURN {
                let Some((lost, event)) = next else { break };
                self.take_in(lost, &event);
                if taken % SHARE == 0 {
                    yield_now().await;
                }
                next = if taken < TURN { events.try_next() } else { None };
            }
            if events.is_empty() {
                self.lose(events.lost(), self.clock.now());
                self.take_told(self.clock.now());
            }
            self.spread();
        }
        self.take_told(self.clock.now());
        self.spread();
        self.news.send_modify(|news| news.over = true);
    }

    /// Tells what happened to the daemon as a whole. It is not told before what happened earlier.
    pub fn tell(&self, kind: Kind) {
        lock(&self.told).push_back((self.clock.now(), kind));
        self.wake.notify_one();
    }

    /// Ends all watching, once what happened so far is told. The last of it comes when the engine
    /// has ended; one that does not end is not waited for.
    pub async fn close(&self) {
        let mut news = self.news.subscribe();
        let _ = timeout(LAST, news.wait_for(|news| news.over)).await;
        self.news.send_modify(|news| news.over = true);
        if let Some(traces) = &self.traces {
            let _ = timeout(LAST, traces.flush()).await;
        }
    }

    /// Watches from a place on: after the event that is named, of which all of this run's are after one
    /// of another run; else from the earliest that is kept, or, if `only_new`, after the last one.
    pub fn watch(
        self: &Arc<Self>,
        model: String,
        after: Option<EventPosition>,
        only_new: bool,
    ) -> Watcher {
        let news = self.news.subscribe();
        let history = lock(&self.history);
        let seen = match after {
            _ if only_new => history.last(),
            None => history.begin(),
            // Nobody has seen what is yet to come.
            Some(after) if after.instance == self.instance => after.sequence.min(history.last()),
            Some(_) => 0,
        };
        drop(history);
        // What happened shortly before the call may not have been taken in.
        let since = if only_new { self.clock.now() } else { Duration::ZERO };
        Watcher { hub: self.clone(), news, model, seen, since }
    }

    /// Takes in an event and how many were lost right before it.
    fn take_in(&self, lost: u64, event: &Event) {
        self.take_told(event.at);
        self.lose(lost, event.at);
        let time_us = self.time_us(event.at);
        if let Some(traces) = &self.traces {
            traces.take_in(event, time_us);
        }
        let told = convert::event(event, time_us);
        lines::log(&told);
        self.metrics.observe(event);
        lock(&self.history).push(told, event.at);
    }

    /// Takes in what was told of the daemon as a whole up to a moment.
    fn take_told(&self, until: Duration) {
        loop {
            let mut waiting = lock(&self.told);
            if waiting.front().is_none_or(|(at, _)| *at > until) {
                return;
            }
            let Some((at, kind)) = waiting.pop_front() else { return };
            drop(waiting);
            self.take_kind(kind, at);
        }
    }

    fn lose(&self, count: u64, at: Duration) {
        if count > 0 {
            self.take_kind(Kind::Lost(EventsLost { count }), at);
        }
    }

    fn take_kind(&self, kind: Kind, at: Duration) {
        self.metrics.observe_daemon(&kind);
        let (time_us, kind) = (self.time_us(at), Some(kind));
        let event = proto::Event { time_us, kind, ..proto::Event::default() };
        lines::log(&event);
        lock(&self.history).push(event, at);
    }

    /// The time of day at a moment of the daemon's clock.
    fn time_us(&self, at: Duration) -> u64 {
        let age = self.clock.now().saturating_sub(at);
        wall::now_us().saturating_sub(age.as_micros() as u64)
    }

    fn spread(&self) {
        let last = lock(&self.history).last();
        self.news.send_modify(|news| news.last = last);
    }
}

/// Nothing that is done under these locks can be left half done.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who watches.
pub struct Watcher {
    hub: Arc<Hub>,
    news: watch::Receiver<News>,
    model: String,
    /// The number of the last event that it was told, or that was none of its business.
    seen: u64,
    /// Events from before are not for this watcher.
    since: Duration,
}

/// Events that are told together; there is at least one.
pub struct Batch {
    /// The run of the daemon that counts them.
    pub instance: String,
    /// In their order.
    pub events: Vec<Arc<Told>>,
}

impl Watcher {
    /// What has happened since the last time, as soon as there is something; nothing once the hub
    /// is closed.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            let News { over, .. } = *self.news.borrow_and_update();
            let mut events = lock(&self.hub.history).after(self.seen, BATCH);
            match events.last() {
                Some(last) => self.seen = last.event().sequence,
                None if over => return None,
                None => self.news.changed().await.ok()?,
            }
            events.retain(|told| told.at() >= self.since && self.concerns(told.event()));
            if !events.is_empty() {
                return Some(Batch { instance: self.hub.instance.clone(), events });
            }
        }
    }

    fn concerns(&self, event: &proto::Event) -> bool {
        self.model.is_empty() || event.model.is_empty() || event.model == self.model
    }
}
