//! The engine with a simulated clock, a simulated storage and the real verifier.

use super::bundles::{BLOCK_BYTES, Content};
use fixedbitset::FixedBitSet;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use synchromesh::{
    device::Window,
    engine::{
        Action, Clock, Command, Effect, Engine, EngineError, EventKind, Lifetime, Limits,
        Membership, Model, ModelSpec, ModelStatus, Peer, Reply, SwitchCommand, SwitchReport,
        Target, Verify,
    },
    storage::{Completion, Read, ReadError},
    units::{BlockIndex, SlotId},
};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// An answer to come.
pub(crate) type Answer<T> = oneshot::Receiver<Result<T, EngineError>>;

/// A clock that stands still until it is moved, unless whatever is done takes time.
#[derive(Debug, Default)]
pub(crate) struct SimClock {
    now: AtomicU64,
    /// Time that passes whenever somebody looks.
    takes: AtomicU64,
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        let takes = self.takes.load(Ordering::Relaxed);
        Duration::from_nanos(self.now.fetch_add(takes, Ordering::Relaxed))
    }
}

impl SimClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.now.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }

    /// What no clock should do.
    pub(crate) fn go_back(&self, by: Duration) {
        self.now.fetch_sub(by.as_nanos() as u64, Ordering::Relaxed);
    }

    /// From now on, looking at the clock takes so much time.
    pub(crate) fn slow_down(&self, takes: Duration) {
        self.takes.store(takes.as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Events that are kept.
const EVENTS: usize = 64;

/// What becomes of the read of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Good,
    /// An error before anything is written.
    Error,
    /// An error when half is written.
    Torn,
    /// The file ends when half is written.
    Short,
    /// One bit is wrong.
    Flipped,
    /// The bytes of another block.
    Misdirected,
}

pub(crate) const FAULTS: [Fate; 5] =
    [Fate::Error, Fate::Torn, Fate::Short, Fate::Flipped, Fate::Misdirected];

/// How the blocks of a read or a verification fared.
#[derive(Debug, Default)]
pub(crate) struct Fared {
    pub(crate) model: usize,
    pub(crate) attempt: u8,
    pub(crate) good: Vec<BlockIndex>,
    pub(crate) bad: Vec<BlockIndex>,
}

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) contents: Vec<Rc<Content>>,
    pub(crate) limits: Limits,
    request_bytes: u64,
    /// Reads under way.
    pub(crate) reads: Vec<Read>,
    /// Verifications under way.
    pub(crate) verifies: Vec<Verify>,
    /// Blocks that never read well.
    pub(crate) broken: BTreeMap<(usize, BlockIndex), Fate>,
    /// Blocks asked for, with their model, in order.
    pub(crate) asked: Vec<(usize, BlockIndex)>,
    /// The latest events.
    pub(crate) events: Vec<EventKind>,
    /// What the engine looked at for all actions so far, see [`Engine::work`].
    pub(crate) work: u64,
}

impl Rig {
    /// An engine that serves these bundles, each with a pool of so many slots, from a device on
    /// which one more request costs so much.
    pub(crate) fn new(models: &[(Rc<Content>, usize)], limits: Limits, request_bytes: u64) -> Self {
        let clock = Arc::new(SimClock::default());
        clock.advance(Duration::from_secs(1));
        let load = |(content, slots): &(Rc<Content>, usize)| {
            let pool_bytes = *slots as u64 * BLOCK_BYTES;
            let bundle = content.path.clone();
            let spec = ModelSpec { bundle, pool_bytes, lock_memory: false };
            let mut model = Model::load(&spec).unwrap();
            model.set_request_bytes(request_bytes);
            model
        };
        let engine = Engine::new(models.iter().map(load).collect(), limits, clock.clone());
        Self {
            engine,
            clock,
            contents: models.iter().map(|(content, _)| content.clone()).collect(),
            limits,
            request_bytes,
            reads: Vec::new(),
            verifies: Vec::new(),
            broken: BTreeMap::new(),
            asked: Vec::new(),
            events: Vec::new(),
            work: 0,
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(crate) fn apply(&mut self, action: Action) {
        let before = self.engine.work();
        let effects = self.engine.apply(action);
        self.work += self.engine.work() - before;
        self.engine.ring();
        for effect in effects {
            match effect {
                Effect::Read(read) => self.begin_read(read),
                Effect::Verify(verify) => self.verifies.push(verify),
            }
        }
        self.events.extend(self.engine.events().map(|event| event.kind));
        self.events.drain(..self.events.len().saturating_sub(EVENTS));
        for model in 0..self.contents.len() {
            let under_way = self.reads.iter().filter(|read| read.model == model).count();
            assert!(under_way <= self.limits.reads_in_flight, "no more reads than allowed");
        }
        self.engine.assert_invariants();
        self.assert_windows_apart();
    }

    /// From here on the device may write at any time, so it does at once.
    fn begin_read(&mut self, mut read: Read) {
        let blocks: Vec<_> = read.blocks.iter().map(|(block, _)| *block).collect();
        assert!(!read.is_empty(), "a read reads something");
        let gap = |pair: &[BlockIndex]| u64::from(pair[1].0 - pair[0].0 - 1) * BLOCK_BYTES;
        let is_near = |pair: &[BlockIndex]| pair[0] < pair[1] && gap(pair) <= self.request_bytes;
        assert!(blocks.windows(2).all(is_near), "near each other: {blocks:?}");
        assert!(read.len() <= self.limits.read_bytes.max(BLOCK_BYTES), "not longer than allowed");
        assert!(read.attempt == 0 || blocks.len() == 1, "a block is read again by itself");
        assert!(read.attempt <= 1, "a block is read again once");
        let bundle = self.engine.bundles().nth(read.model).unwrap();
        assert_eq!(read.offset, bundle.block_offset(blocks[0]), "the place of the first block");
        self.asked.extend(blocks.into_iter().map(|block| (read.model, block)));
        for (_, window) in &mut read.blocks {
            window.bytes_mut().fill(0xEE);
        }
        self.reads.push(read);
    }

    /// A slot is written by one read at most, and a block is on its way once.
    fn assert_windows_apart(&self) {
        let (mut slots, mut blocks) = (BTreeSet::new(), BTreeSet::new());
        for (model, block, slot) in self.on_the_way() {
            assert!(slots.insert((model, slot)), "{slot:?} is written by two");
            assert!(blocks.insert((model, block)), "{block:?} is read twice at once");
        }
    }

    /// Models, blocks and slots of reads and verifications under way.
    pub(crate) fn on_the_way(&self) -> impl Iterator<Item = (usize, BlockIndex, SlotId)> {
        let reads = self.reads.iter().map(|read| (read.model, &read.blocks));
        let verifies = self.verifies.iter().map(|verify| (verify.model, &verify.blocks));
        reads.chain(verifies).flat_map(|(model, blocks)| {
            blocks.iter().map(move |(block, window)| (model, *block, window.slot()))
        })
    }

    /// Ends a read. The block at `culprit` has this fate, broken blocks have theirs.
    pub(crate) fn finish_read(&mut self, at: usize, fate: Fate, culprit: usize) -> Fared {
        let mut read = self.reads.remove(at);
        let content = self.contents[read.model].clone();
        let mut fared = Fared { model: read.model, attempt: read.attempt, ..Fared::default() };
        let mut result = Ok(());
        for (position, (block, window)) in read.blocks.iter_mut().enumerate() {
            let fate = if position == culprit { fate } else { Fate::Good };
            let fate = *self.broken.get(&(read.model, *block)).unwrap_or(&fate);
            if let Err(error) = fill(&content, *block, window, fate) {
                result = Err(error);
                fared.bad.push(*block);
            }
        }
        if result.is_err() {
            fared.bad = read.blocks.iter().map(|(block, _)| *block).collect();
        }
        self.apply(Action::ReadDone(Completion { read, result }));
        fared
    }

    pub(crate) fn finish_verify(&mut self, at: usize) -> Fared {
        let verify = self.verifies.remove(at);
        let content = self.contents[verify.model].clone();
        let (model, attempt) = (verify.model, verify.attempt);
        let right = |(block, window): &&(BlockIndex, Window)| {
            window.bytes() == content.blocks[block.index()]
        };
        let (good, bad): (Vec<_>, Vec<_>) = verify.blocks.iter().partition(right);
        let index = |(block, _): &(BlockIndex, Window)| *block;
        let good: Vec<_> = good.into_iter().map(index).collect();
        let bad: Vec<_> = bad.into_iter().map(index).collect();
        let verified = verify.run();
        assert_eq!(verified.good.iter().map(index).collect::<Vec<_>>(), good, "verified as good");
        assert_eq!(verified.bad.iter().map(index).collect::<Vec<_>>(), bad, "verified as bad");
        self.apply(Action::Verified(verified));
        Fared { model, attempt, good, bad }
    }

    /// Completes all reads and verifications until there are none.
    pub(crate) fn settle(&mut self) {
        while !self.reads.is_empty() || !self.verifies.is_empty() {
            if self.verifies.is_empty() {
                self.finish_read(0, Fate::Good, 0);
            } else {
                self.finish_verify(0);
            }
        }
    }

    /// Lets time pass and the engine notice.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.clock.advance(time);
        self.apply(Action::Tick);
    }

    /// Lets time pass, with everything that the engine does by itself meanwhile.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now() + time;
        self.settle();
        for _ in 0..100_000 {
            let Some(at) = self.engine.next_tick().filter(|at| *at <= until) else {
                return self.clock.advance(until.saturating_sub(self.now()));
            };
            self.wait(at.saturating_sub(self.now()));
            self.settle();
        }
        panic!("the engine never rests");
    }

    /// Sends a command made from the place for its answer.
    pub(crate) fn ask<T>(&mut self, command: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        self.apply(Action::Command(command(reply)));
        answer
    }

    pub(crate) fn switch(&mut self, command: SwitchCommand) -> Answer<SwitchReport> {
        self.ask(|reply| Command::Switch(command, reply))
    }

    /// A switch without frills.
    pub(crate) fn command(&self, session: &str, task: &str) -> SwitchCommand {
        SwitchCommand {
            target: target(session),
            task: task.into(),
            request_id: None,
            expected_generation: None,
            arrived: self.now(),
            deadline: None,
            in_place: false,
            trace: None,
            caller: None,
        }
    }

    /// Switches a session of the only model and completes everything.
    pub(crate) fn switched(&mut self, session: &str, task: &str) -> SwitchReport {
        let answer = self.switch(self.command(session, task));
        self.settle();
        now(answer).unwrap()
    }

    pub(crate) fn open(&mut self, session: &str) {
        self.open_for(session, Lifetime::default());
    }

    pub(crate) fn open_for(&mut self, session: &str, lifetime: Lifetime) {
        let target = target(session);
        now(self.ask(|reply| Command::OpenSession { target, lifetime, opener: None, reply }))
            .unwrap();
    }

    pub(crate) fn close(&mut self, session: &str) -> Result<(), EngineError> {
        now(self.ask(|reply| Command::CloseSession {
            target: target(session),
            caller: None,
            reply,
        }))
    }

    pub(crate) fn attach(&mut self, target: Target) -> Result<Membership, EngineError> {
        now(self.ask(|reply| Command::Attach { target, peer: PEER, reply }))
    }

    pub(crate) fn status(&mut self) -> Vec<ModelStatus> {
        let model = String::new();
        now(self.ask(|reply| Command::Status { model, reply })).unwrap()
    }

    /// Blocks of a model on their way.
    pub(crate) fn loading(&self, model: usize) -> FixedBitSet {
        let of_model = self.on_the_way().filter(|&(of, _, _)| of == model);
        of_model.map(|(_, block, _)| block.index()).collect()
    }
}

/// Who attaches.
pub(crate) const PEER: Peer = Peer { pid: 7, uid: 1000 };

/// A session of the only model.
pub(crate) fn target(session: &str) -> Target {
    Target { model: String::new(), session: session.into() }
}

/// The answer, which must be there.
pub(crate) fn now<T>(mut answer: Answer<T>) -> Result<T, EngineError> {
    answer.try_recv().expect("an answer is there")
}

/// Whether there is no answer yet. An answer that will never come is a failure.
pub(crate) fn open<T>(answer: &mut Answer<T>) -> bool {
    match answer.try_recv() {
        Err(TryRecvError::Empty) => true,
        Err(TryRecvError::Closed) => panic!("a caller is left without an answer"),
        Ok(_) => panic!("an answer came too early"),
    }
}

fn fill(
    content: &Content,
    block: BlockIndex,
    window: &mut Window,
    fate: Fate,
) -> Result<(), ReadError> {
    let right = &content.blocks[block.index()];
    let half = right.len() / 2;
    let bytes = window.bytes_mut();
    match fate {
        Fate::Good => bytes.copy_from_slice(right),
        Fate::Error => return Err(io_error()),
        Fate::Torn => {
            bytes[..half].copy_from_slice(&right[..half]);
            return Err(io_error());
        }
        Fate::Short => {
            bytes[..half].copy_from_slice(&right[..half]);
            return Err(ReadError::Eof { end: 0 });
        }
        Fate::Flipped => {
            bytes.copy_from_slice(right);
            bytes[block.index()] ^= 1 << (block.0 % 8);
        }
        Fate::Misdirected => {
            let other = (block.index() + 1) % content.blocks.len();
            bytes.copy_from_slice(&content.blocks[other]);
        }
    }
    Ok(())
}

fn io_error() -> ReadError {
    let source = io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
    ReadError::Io { offset: 0, len: BLOCK_BYTES, source }
}
