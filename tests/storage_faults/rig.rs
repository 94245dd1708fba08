//! The engine at work on a bundle, with a storage that fails as told, and a client that watches.

use crate::{
    common::{
        faulty::{Faults, Faulty},
        io_uring_is_refused,
    },
    sim::{
        bundles::{BLOCK_BYTES, Content, TASKS},
        client::{Client, Phase},
    },
};
use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use synchromesh::{
    bundle::Bundle,
    config::{PrefetchConfig, StorageBackend, StorageConfig},
    engine::{
        Clock, Command, Engine, EngineError, Handle, Limits, Model, ModelSpec, ModelStatus,
        Outcome, Peer, Reply, Runtime, SwitchCommand, SwitchReport, Target, events, run,
    },
    residency::SlotCounts,
    storage::{Backend, BlockFile, start},
    units::BlockIndex,
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long an answer may be missing before the test gives up. It measures nothing.
const HANG: Duration = Duration::from_secs(120);
/// Reads under way at once.
pub(crate) const IN_FLIGHT: usize = 4;
/// When the device is held not to answer. The clock stands still unless a test lets it run.
const STALL: Duration = Duration::from_millis(50);

const LIMITS: Limits = Limits {
    reads_in_flight: IN_FLIGHT,
    read_bytes: 4 * BLOCK_BYTES,
    stall: STALL,
    switch_timeout: HANG,
    clients_per_session: 2,
    lease_patience: HANG,
    prefetch: PrefetchConfig::OFF,
};

/// An answer to come.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, EngineError>>;

/// A clock that stands still, so that nothing is late by chance, until it is let run.
#[derive(Default)]
pub(crate) struct TestClock(Mutex<(Duration, Option<Instant>)>);

impl Clock for TestClock {
    fn now(&self) -> Duration {
        let (before, running) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        before + running.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl TestClock {
    pub(crate) fn run(&self) {
        let now = self.now();
        *self.0.lock().unwrap() = (now, Some(Instant::now()));
    }

    pub(crate) fn stop(&self) {
        let now = self.now();
        *self.0.lock().unwrap() = (now, None);
    }
}

pub(crate) struct Rig {
    pub(crate) faults: Faults,
    pub(crate) content: Content,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) client: Client,
    engine: Handle,
    engine_loop: JoinHandle<Engine>,
    /// Runs the engine while the test waits for something, and not otherwise.
    runtime: tokio::runtime::Runtime,
    bundle: Arc<Bundle>,
    file: Arc<BlockFile>,
    slots: usize,
}

/// A bundle on a disk, if the build folder is on one, whose tasks have these blocks.
pub(crate) fn content(tasks: &[Range<u32>]) -> Content {
    let tasks: Vec<_> = tasks.iter().map(|blocks| blocks.clone().collect()).collect();
    Content::write_in(Path::new(env!("CARGO_TARGET_TMPDIR")), "alpha", &tasks)
}

impl Rig {
    /// Room for all of `city`, `highway`, `parking` and so on, which have these blocks.
    pub(crate) fn new(backend: Backend, tasks: &[Range<u32>]) -> Self {
        Self::with(backend, content(tasks), usize::MAX, 0)
    }

    /// So many slots, on a device on which one more request costs as much as so many blocks.
    pub(crate) fn with(backend: Backend, content: Content, slots: usize, gap: u64) -> Self {
        let slots = slots.min(content.blocks.len());
        let pool_bytes = slots as u64 * BLOCK_BYTES;
        let spec = ModelSpec { bundle: content.path.clone(), pool_bytes, lock_memory: false };
        let mut model = Model::load(&spec).unwrap();
        model.set_request_bytes(gap * BLOCK_BYTES);
        let (bundle, file) = (model.bundle().clone(), model.resources().files.remove(0));
        let models = vec![model];
        let (engine, at_work, faults) = at_work(backend, &models);

        let clock = Arc::new(TestClock::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let state = Engine::new(models, LIMITS, clock.clone());
        let engine_loop = runtime.spawn(run(state, at_work, clock.clone(), events().0));
        let target = Target::default();
        let peer = Peer { pid: 7, uid: 1000 };
        let membership = engine.ask(|reply| Command::Attach { target, peer, reply });
        let client = Client::open(0, runtime.block_on(membership).unwrap());
        Self { faults, content, clock, client, engine, engine_loop, runtime, bundle, file, slots }
    }

    /// Runs the engine until something is there, which must not take for ever.
    pub(crate) fn until<T>(&self, something: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(HANG, something).await.expect("it hangs") })
    }

    pub(crate) fn wait<T>(&self, answer: Answer<T>) -> Result<T, EngineError> {
        self.until(answer).expect("a caller is left without an answer")
    }

    /// Waits until the device is done with so many reads that the engine is not told of.
    pub(crate) fn wait_held(&self, reads: usize) {
        self.until(self.faults.holding(reads));
    }

    fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, EngineError> {
        self.until(self.engine.ask(command))
    }

    /// Sends for a task.
    pub(crate) fn begin(&self, task: &str) -> Answer<SwitchReport> {
        self.begin_within(task, None)
    }

    /// The same by a caller who waits for so long.
    pub(crate) fn begin_within(&self, task: &str, wait: Option<Duration>) -> Answer<SwitchReport> {
        let now = self.clock.now();
        let command = SwitchCommand {
            target: Target::default(),
            task: task.into(),
            request_id: None,
            expected_generation: None,
            arrived: now,
            deadline: wait.map(|wait| now + wait),
            in_place: false,
            trace: None,
            caller: None,
        };
        let (reply, answer) = oneshot::channel();
        self.until(self.engine.tell(Command::Switch(command, reply)));
        answer
    }

    pub(crate) fn switch(&self, task: &str) -> Result<SwitchReport, EngineError> {
        self.wait(self.begin(task))
    }

    /// Switches to a task that has to be read, at least in part.
    pub(crate) fn load(&self, task: &str) -> SwitchReport {
        let report = self.switch(task).unwrap();
        assert_eq!(report.outcome, Outcome::Loaded, "{task}");
        report
    }

    pub(crate) fn status(&self) -> ModelStatus {
        let model = String::new();
        self.ask(|reply| Command::Status { model, reply }).unwrap().remove(0)
    }

    pub(crate) fn slot_counts(&self) -> SlotCounts {
        self.status().pool.slots
    }

    /// Requests that the backend itself saw fail.
    pub(crate) fn failed_reads(&self) -> u64 {
        self.engine.storage(self.bundle.model()).unwrap().counters.failed
    }

    /// Waits until nothing is read or verified any more.
    pub(crate) fn settle(&self) {
        self.settle_but(0);
    }

    /// Waits until nothing is verified any more, and so many blocks are read.
    pub(crate) fn settle_but(&self, left: usize) {
        self.until(async {
            loop {
                let model = String::new();
                let status = self.engine.ask(|reply| Command::Status { model, reply }).await;
                let SlotCounts { filling, verifying, .. } = status.unwrap()[0].pool.slots;
                if (filling, verifying) == (left, 0) {
                    return;
                }
                // Nobody is told of what nobody waits for.
                sleep(Duration::from_millis(1)).await;
            }
        });
    }

    /// Puts bytes in the place of a block on the disk.
    pub(crate) fn overwrite(&self, block: u32, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.content.path).unwrap();
        file.write_all_at(bytes, self.offset(block)).unwrap();
    }

    /// Where a block begins in the file.
    pub(crate) fn offset(&self, block: u32) -> u64 {
        self.bundle.block_offset(BlockIndex(block))
    }

    /// What must hold at any time. I1: the client reads what it should. I2: the active task goes
    /// on serving. I3: no slot is lost or counted twice.
    pub(crate) fn check(&self) {
        let status = self.status();
        let session = &status.sessions[0];
        let shown = self.client.active();
        let active = shown.task.expect("from the first switch on there is a task");
        self.client.assert_task(&self.content, active);
        if let Phase::Leased(leased) = self.client.phase {
            self.client.assert_task(&self.content, leased.task);
        }
        // A switch may be done by the time that the state is told.
        if session.pending_task.is_none() {
            let task = TASKS[active.index()];
            let told = (session.task.as_deref(), session.generation);
            assert_eq!(told, (Some(task), shown.generation));
            assert_eq!(self.switch(task).unwrap().outcome, Outcome::AlreadyActive);
        }
        let SlotCounts { free, filling, verifying, resident, lost } = status.pool.slots;
        assert_eq!(lost, 0, "no ring is lost here");
        assert_eq!(free + filling + verifying + resident, self.slots, "{status:?}");
    }

    /// The task that serves, which all is right with.
    pub(crate) fn assert_serves(&self, task: &str) {
        assert_eq!(self.status().sessions[0].task.as_deref(), Some(task));
        self.check();
    }

    /// What must hold when the fault is over. I5: every task can be switched to, with no restart.
    /// I6: nothing is left over.
    pub(crate) fn finish(self) {
        self.faults.clear();
        self.faults.release(|_| {});
        self.settle();
        self.check();
        for task in &TASKS[..self.content.tasks.len()] {
            self.switch(task).unwrap();
            self.assert_serves(task);
        }
        self.assert_nothing_left();
        let Self { client, engine, engine_loop, runtime, file, .. } = self;
        runtime.block_on(async {
            engine.tell(Command::Detach(client.member)).await;
            engine.tell(Command::Drain).await;
            timeout(HANG, engine_loop).await.expect("the engine ends").unwrap();
        });
        assert_eq!(Arc::strong_count(&file), 1, "no read is held back");
    }

    fn assert_nothing_left(&self) {
        let status = self.status();
        let SlotCounts { filling, verifying, .. } = status.pool.slots;
        assert_eq!((filling, verifying, status.quarantined), (0, 0, 0), "{status:?}");
        let [session] = &status.sessions[..] else { panic!("{status:?}") };
        assert_eq!((session.draining_generations, session.clients), (0, 1), "{status:?}");
        assert_eq!(session.pending_task, None, "{status:?}");
        let active = self.content.union(self.client.active().task).count_ones(..);
        assert_eq!(status.pool.pinned, active, "{status:?}");
        assert_eq!(self.faults.under_way(), 0);
        assert_eq!(self.descriptors(), 1, "the one to read blocks");
    }

    /// Descriptors of this process for the bundle, which no other test has.
    fn descriptors(&self) -> usize {
        let ours = rustix::fs::fstat(&self.file).unwrap();
        let is_ours = |path: &Path| {
            // It may be closed by now.
            let Ok(other) = rustix::fs::stat(path) else { return false };
            (other.st_dev, other.st_ino) == (ours.st_dev, ours.st_ino)
        };
        let all = fs::read_dir("/proc/self/fd").unwrap();
        all.filter(|entry| is_ours(&entry.as_ref().unwrap().path())).count()
    }
}

/// Starts the backend behind a storage that fails as told.
fn at_work(backend: Backend, models: &[Model]) -> (Handle, Runtime, Faults) {
    let backend = if io_uring_is_refused() { Backend::Preadv } else { backend };
    let wanted = match backend {
        Backend::IoUring => StorageBackend::Auto,
        Backend::Preadv => StorageBackend::Preadv,
    };
    let settings = StorageConfig {
        backend: wanted,
        read_threads: 2,
        reads_in_flight: IN_FLIGHT,
        ..StorageConfig::default()
    };
    let mut faults = None;
    let (engine, at_work) = Runtime::with_storage(models, |model, sink| {
        let (started, told) =
            Faulty::start(sink, |sink| start(&settings, model.resources(), sink))?;
        faults = Some(told);
        Ok(started)
    })
    .unwrap();
    let storage = engine.storage(models[0].name()).unwrap();
    assert_eq!(storage.backend, backend, "{:?}", storage.fallback);
    (engine, at_work, faults.unwrap())
}
