//! Switches as traces, for an OpenTelemetry collector: those whose callers record their traces.
//!
//! The exporter has a thread and a queue of its own, and nobody waits for it: what does not fit in
//! the queue, or what the collector does not take at once, is dropped and counted. Nothing is sent
//! twice or kept on disk, and without an address in the environment nothing is started.

mod collector;
mod spans;

use crate::engine::{Event, EventKind, SwitchEnd, TraceContext};
use collector::{Collector, SendError};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

/// Switches that may wait.
const QUEUE: usize = 2048;
/// Switches that are sent together at most: six spans each.
const BATCH: usize = 85;
/// How long a switch may wait for others, and how long a collector is left alone after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// How often at most the log tells what was dropped.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Where traces are handed in.
pub(super) struct Exporter {
    queue: mpsc::Sender<Told>,
    dropped: Arc<AtomicU64>,
}

/// What the exporter's thread is told.
enum Told {
    Ended(Box<Traced>),
    /// All before this is to be sent now.
    Flush(oneshot::Sender<()>),
}

/// A switch that has ended and belongs to a trace.
struct Traced {
    event: Event,
    trace: TraceContext,
    /// When it ended, in microseconds since 1970.
    time_us: u64,
}

impl Exporter {
    /// Starts exporting, if the environment says where to. What keeps it from that is told.
    pub(super) fn start(instance: &str) -> Option<Self> {
        let collector = match Collector::from_env(|name| std::env::var(name).ok()) {
            Ok(collector) => collector?,
            Err(error) => {
                tracing::warn!(%error, "traces are not exported");
                return None;
            }
        };
        let (queue, told) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let work = Work {
            told,
            collector,
            instance: instance.to_owned(),
            dropped: dropped.clone(),
            failure: None,
            complained: None,
        };
        match work.start() {
            Ok(()) => Some(Self { queue, dropped }),
            Err(error) => {
                tracing::warn!(%error, "traces are not exported: no thread can be started");
                None
            }
        }
    }

    /// Takes in what happened, and when: a switch whose caller records its trace is exported.
    pub(super) fn take_in(&self, event: &Event, time_us: u64) {
        let EventKind::Switch(SwitchEnd { trace: Some(trace), .. }) = &event.kind else { return };
        if !trace.sampled {
            return;
        }
        match self.queue.try_reserve() {
            Ok(place) => {
                let traced = Traced { event: event.clone(), trace: *trace, time_us };
                place.send(Told::Ended(Box::new(traced)));
            }
            Err(_) => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Sends what was taken in. A collector that is away keeps it waiting.
    pub(super) async fn flush(&self) {
        let (sent, done) = oneshot::channel();
        if self.queue.send(Told::Flush(sent)).await.is_ok() {
            // An error means that the thread has gone: nothing more will be sent.
            let _ = done.await;
        }
    }
}

/// The thread's part.
struct Work {
    told: mpsc::Receiver<Told>,
    collector: Collector,
    instance: String,
    dropped: Arc<AtomicU64>,
    /// Why something was dropped since the log was last told, unless it came too fast.
    failure: Option<SendError>,
    /// When the log was last told of drops.
    complained: Option<Instant>,
}

impl Work {
    fn start(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let collector = self.collector.to_string();
        thread::Builder::new().name("otlp".into()).spawn(move || runtime.block_on(self.run()))?;
        tracing::info!(collector, "traces are exported");
        Ok(())
    }

    async fn run(mut self) {
        let mut traced = Vec::with_capacity(BATCH);
        while let Some(first) = self.told.recv().await {
            let flush = self.collect(first, &mut traced).await;
            let failed = !traced.is_empty() && !self.send(&traced).await;
            traced.clear();
            self.complain();
            if let Some(flush) = flush {
                // Whoever asked may have given up.
                let _ = flush.send(());
            }
            if failed {
                sleep(PAUSE).await;
            }
        }
    }

    /// Waits for more, until it is enough, late, or to be sent at once.
    async fn collect(
        &mut self,
        first: Told,
        traced: &mut Vec<Traced>,
    ) -> Option<oneshot::Sender<()>> {
        let until = Instant::now() + PAUSE;
        let mut next = Some(first);
        while let Some(told) = next {
            match told {
                Told::Ended(ended) => traced.push(*ended),
                Told::Flush(sent) => return Some(sent),
            }
            if traced.len() == BATCH {
                return None;
            }
            next = timeout_at(until, self.told.recv()).await.ok().flatten();
        }
        None
    }

    /// Sends these switches, or counts them as dropped: whether they were taken.
    async fn send(&mut self, traced: &[Traced]) -> bool {
        let request = spans::request(&self.instance, traced);
        match self.collector.send(request).await {
            Ok(()) => true,
            Err(error) => {
                self.dropped.fetch_add(traced.len() as u64, Ordering::Relaxed);
                self.failure = Some(error);
                false
            }
        }
    }

    /// Tells how many were dropped since the last time, now and then.
    fn complain(&mut self) {
        if self.complained.is_some_and(|at| at.elapsed() < COMPLAIN) {
            return;
        }
        let switches = self.dropped.swap(0, Ordering::Relaxed);
        if switches == 0 {
            return;
        }
        self.complained = Some(Instant::now());
        let failure = self.failure.take();
        let reason = failure.map_or_else(|| "they came too fast".into(), |error| error.to_string());
        tracing::warn!(switches, reason, "traces of switches were dropped");
    }
}
