//! The engine at work: the loop that feeds it, and the threads that do what it asks for.

use super::{
    Action, Clock, Command, Effect, Engine, EngineError, Event, Model, Reply, Serving, Verify,
};
use crate::{
    config::StorageConfig,
    storage::{
        self, Backend, Beat, Completion, CounterValues, Counters, Load, Pulse, ReadError, Sink,
        Started, Storage,
    },
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as threads,
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::yield_now,
    time::sleep,
};

/// Commands that may wait to be taken up. More are refused at once, not queued.
const COMMAND_QUEUE: usize = 1024;

/// Events that may wait to be told.
const EVENT_QUEUE: usize = 4096;

/// What the thread is called that verifies.
const VERIFIER: &str = "verify";

/// Sends commands to the engine.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    /// By model.
    storage: Arc<[AtWork]>,
    verifier: Pulse,
}

/// A model's storage, seen from elsewhere.
#[derive(Debug)]
struct AtWork {
    model: String,
    backend: Backend,
    fallback: Option<Arc<str>>,
    counters: Arc<Counters>,
    threads: Vec<Pulse>,
}

/// The state of a model's storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageStatus {
    /// How reads are carried out.
    pub backend: Backend,
    /// Why not by io_uring, if that was tried.
    pub fallback: Option<Arc<str>>,
    /// What was met so far.
    pub counters: CounterValues,
    /// What it is at, and how long reads take.
    pub load: Load,
}

impl AtWork {
    fn status(&self) -> StorageStatus {
        let Self { backend, fallback, counters, model: _, threads: _ } = self;
        let (backend, fallback, load) = (*backend, fallback.clone(), counters.load());
        StorageStatus { backend, fallback, counters: counters.values(), load }
    }
}

/// Why the engine's threads could not be started.
#[derive(Debug, Error)]
pub enum RunError {
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit on processes (LimitNPROC=)")]
    Thread(#[from] io::Error),
}

/// Where events go. The engine waits for nobody: what does not fit is counted and dropped.
pub struct EventSink {
    queue: mpsc::Sender<(u64, Event)>,
    lost: Arc<AtomicU64>,
    changes: Arc<Notify>,
}

/// Where events come out.
pub struct EventSource {
    queue: mpsc::Receiver<(u64, Event)>,
    lost: Arc<AtomicU64>,
}

/// A way for events from the engine to whoever tells them.
pub fn events() -> (EventSink, EventSource) {
    let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
    let lost = Arc::new(AtomicU64::new(0));
    let changes = Arc::new(Notify::new());
    let sink = EventSink { queue: sender, lost: lost.clone(), changes };
    (sink, EventSource { queue: receiver, lost })
}

impl EventSink {
    /// Is notified whenever sessions may have changed.
    pub fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }

    /// Takes an event in, or drops it. What was dropped is told with the next one that fits, so that
    /// the loss has its place among the events.
    pub fn put(&self, event: Event) {
        if event.kind.changes_sessions() {
            self.changes.notify_one();
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if self.queue.try_send((lost, event)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

impl EventSource {
    /// Waits for an event, and tells how many were dropped right before it; there is none any more
    /// once the engine has ended.
    pub async fn next(&mut self) -> Option<(u64, Event)> {
        self.queue.recv().await
    }

    /// An event that is there already, and how many were dropped right before it.
    pub fn try_next(&mut self) -> Option<(u64, Event)> {
        self.queue.try_recv().ok()
    }

    /// Whether all that there was has come out.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many were dropped after the last event, if that has come out.
    pub fn lost(&self) -> u64 {
        if self.is_empty() { self.lost.swap(0, Ordering::Relaxed) } else { 0 }
    }
}

/// What [`run`] needs besides the engine.
pub struct Runtime {
    commands: mpsc::Receiver<Command>,
    results: mpsc::UnboundedReceiver<Action>,
    results_in: mpsc::UnboundedSender<Action>,
    /// By model: a device that hangs is no other model's matter.
    storage: Vec<Box<dyn Storage>>,
    verifier: Verifier,
}

impl Handle {
    /// Sends a command made from the place for its answer, and waits for that answer.
    pub async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(command(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => EngineError::Busy,
            mpsc::error::TrySendError::Closed(_) => EngineError::Stopped,
        })?;
        answer.await.unwrap_or(Err(EngineError::Stopped))
    }

    /// Sends a command that has no answer. If the queue is full it waits; if the engine has
    /// stopped there is nothing left to tell it.
    pub async fn tell(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// Tells the state of a model's storage.
    pub fn storage(&self, model: &str) -> Option<StorageStatus> {
        self.storage.iter().find(|at_work| at_work.model == model).map(AtWork::status)
    }

    /// Tells the state of each model's storage, with the model's name.
    pub fn all_storage(&self) -> impl Iterator<Item = (&str, StorageStatus)> {
        self.storage.iter().map(|at_work| (&at_work.model[..], at_work.status()))
    }

    /// How many commands wait to be taken up.
    pub fn commands_waiting(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    /// Tells what is served. Where other commands are refused because too many wait, this one
    /// waits for its turn: who asks may want to know whether it comes at all.
    pub async fn serving(&self) -> Result<Vec<Serving>, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Serving { reply }).await;
        answer.await.unwrap_or(Err(EngineError::Stopped))
    }

    /// Asks all threads that read and verify to come round.
    pub fn ask_threads(&self) {
        let reading = self.storage.iter().flat_map(|at_work| &at_work.threads);
        reading.chain([&self.verifier]).for_each(Pulse::ask);
    }

    /// The name of a thread that has not come round since it was asked, if there is one.
    pub fn silent_thread(&self) -> Option<String> {
        let silent = |threads: &[Pulse]| threads.iter().find(|thread| !thread.is_there()).cloned();
        let of_model = |at_work: &AtWork| {
            let thread = silent(&at_work.threads)?;
            Some(format!("{} of model `{}`", thread.name(), at_work.model))
        };
        let reading = self.storage.iter().find_map(of_model);
        reading.or_else(|| (!self.verifier.is_there()).then(|| self.verifier.name().to_owned()))
    }
}

impl Runtime {
    /// Starts the threads: those of each model's storage, and one for verification.
    pub fn start(config: &StorageConfig, models: &[Model]) -> Result<(Handle, Self), RunError> {
        let start = |model: &Model, sink| storage::start(config, model.resources(), sink);
        Self::with_storage(models, start)
    }

    /// The same with storage of the caller's.
    pub fn with_storage(
        models: &[Model],
        mut make: impl FnMut(&Model, Sink) -> io::Result<Started>,
    ) -> Result<(Handle, Self), RunError> {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        // Bounded by the slots: every result owns the windows of some.
        let (results_in, results) = mpsc::unbounded_channel();
        let done = results_in.clone();
        let sink = Arc::new(move |completion| drop(done.send(Action::ReadDone(completion))));
        let (mut storage, mut at_work) = (Vec::new(), Vec::new());
        for model in models {
            let started = make(model, sink.clone())?;
            tell(model.name(), &started);
            let Started { storage: started, fallback, unregistered: _ } = started;
            at_work.push(AtWork {
                model: model.name().to_owned(),
                backend: started.backend(),
                fallback: fallback.map(Arc::from),
                counters: started.counters(),
                threads: started.pulses(),
            });
            storage.push(started);
        }
        let verifier = Verifier::start(results_in.clone())?;
        let handle =
            Handle { commands: sender, storage: at_work.into(), verifier: verifier.pulse() };
        Ok((handle, Self { commands, results, results_in, storage, verifier }))
    }
}

/// One line for whoever runs the daemon, if reads could be faster.
fn tell(model: &str, started: &Started) {
    if let Some(reason) = &started.fallback {
        let what = "io_uring cannot be used: blocks are read by blocking calls on threads";
        tracing::warn!(model, reason, "{what}");
    }
    if let Some(reason) = &started.unregistered {
        let what = "the kernel does not keep pool memory registered, so reads cost a little more";
        tracing::warn!(model, reason, "{what}: raise LimitMEMLOCK=");
    }
}

/// Feeds the engine until it is drained or nobody holds its handle any more. What happens goes to
/// `events`; what does not fit there is dropped. Gives the engine as it is in the end.
pub async fn run(
    mut engine: Engine,
    mut runtime: Runtime,
    clock: Arc<dyn Clock>,
    events: EventSink,
) -> Engine {
    while !engine.is_drained() {
        let tick = engine.next_tick().map(|at| at.saturating_sub(clock.now()));
        let action = tokio::select! {
            biased;
            Some(result) = runtime.results.recv() => result,
            command = runtime.commands.recv() => match command {
                Some(command) => Action::Command(command),
                None => break,
            },
            () = pause(tick.unwrap_or_default()), if tick.is_some() => Action::Tick,
        };
        for effect in engine.apply(action) {
            runtime.carry_out(effect);
        }
        if engine.has_rings() {
            // Whoever was answered runs before.
            yield_now().await;
            engine.ring();
        }
        engine.events().for_each(|event| events.put(event));
    }
    engine
}

/// Waits. Even if it is for no time at all, others on the thread get theirs: whoever was answered
/// comes before the next step of looking ahead.
async fn pause(time: Duration) {
    if time.is_zero() { yield_now().await } else { sleep(time).await }
}

impl Runtime {
    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Read(read) => {
                if let Err(read) = self.storage[read.model].submit(read) {
                    let refused = Completion { read, result: Err(ReadError::Refused) };
                    // The receiver is a field beside this one.
                    let _ = self.results_in.send(Action::ReadDone(refused));
                }
            }
            Effect::Verify(job) => self.verifier.submit(job),
        }
    }
}

/// The thread that verifies blocks.
struct Verifier {
    /// The one that is not weak. What comes in the place of a job is only to wake the thread.
    jobs: Option<Arc<threads::Sender<Option<Verify>>>>,
    beat: Arc<Beat>,
    thread: Option<JoinHandle<()>>,
}

impl Verifier {
    fn start(results: mpsc::UnboundedSender<Action>) -> io::Result<Self> {
        let (jobs, queue) = threads::channel::<Option<Verify>>();
        let beat = Arc::new(Beat::default());
        let own = beat.clone();
        let work = move || {
            while let Ok(job) = queue.recv() {
                own.answer();
                let Some(job) = job else { continue };
                if results.send(Action::Verified(job.run())).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name(VERIFIER.into()).spawn(work)?;
        Ok(Self { jobs: Some(Arc::new(jobs)), beat, thread: Some(thread) })
    }

    fn pulse(&self) -> Pulse {
        let jobs = self.jobs.as_ref().map(Arc::downgrade).unwrap_or_default();
        Pulse::new(VERIFIER, self.beat.clone(), move || {
            if let Some(jobs) = jobs.upgrade() {
                let _ = jobs.send(None);
            }
        })
    }

    fn submit(&self, job: Verify) {
        if let Some(jobs) = &self.jobs {
            // It ends only with its results' receiver, which is this loop.
            let _ = jobs.send(Some(job));
        }
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
