//! A storage that fails as it is told to: a decorator of any real one.
//!
//! It stands on both sides of the backend: it sees each read before the backend does, and each
//! completion before the engine does. What it does to a read depends on the read alone, not on
//! when it comes, so that a seed means the same faults again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a storage that fails by accident must stop the test"
)]

use rustix::io::Errno;
use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use synchromesh::{
    device::Window,
    storage::{Backend, Completion, Counters, Pulse, Read, ReadError, Sink, Started, Storage},
    units::{BlockIndex, SlotId},
};
use tokio::sync::watch;

/// What becomes of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails before the device is asked.
    Before(Errno),
    /// It fails when the device has written.
    After(Errno),
    /// One bit of the block is wrong.
    Flipped,
    /// The block's place is taken by another block's bytes, which are as valid as any.
    Misdirected,
    /// The file seems to end within the block.
    Short,
    /// It is done, but not told until it is released.
    Held,
    /// It is told only when all others are that are with the device, in any order among its like.
    Late,
    /// It is not taken.
    Refused,
}

impl Fault {
    /// Those that leave a read with an error or wrong bytes.
    pub(crate) const HARMFUL: [Self; 5] = [
        Self::Before(Errno::IO),
        Self::After(Errno::IO),
        Self::Flipped,
        Self::Misdirected,
        Self::Short,
    ];
    /// All kinds, those of the device included.
    pub(crate) const ALL: [Self; 9] = [
        Self::Before(Errno::IO),
        Self::After(Errno::IO),
        Self::Flipped,
        Self::Misdirected,
        Self::Short,
        Self::Held,
        Self::Late,
        Self::Refused,
        Self::Before(Errno::NODEV),
    ];
}

/// The storage, for the engine.
pub(crate) struct Faulty {
    inner: Box<dyn Storage>,
    shared: Arc<Shared>,
}

/// The same storage, for the test that says what fails.
#[derive(Clone)]
pub(crate) struct Faults(Arc<Shared>);

struct Shared {
    sink: Sink,
    state: Mutex<State>,
    /// How many completions are held.
    held: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    random: Option<Random>,
    /// What becomes of the reads under way, by the model and slot that they fill first.
    fates: HashMap<Place, Option<Fate>>,
    held: Vec<Completion>,
    late: Vec<Completion>,
    /// Blocks that were asked for.
    asked: usize,
}

/// What becomes of reads of a block, or of all.
struct Rule {
    block: Option<BlockIndex>,
    fault: Fault,
    /// How often still.
    times: usize,
}

struct Random {
    seed: u64,
    percent: u32,
}

type Place = (usize, SlotId);
/// A fault, and the block of the read that it strikes.
type Fate = (BlockIndex, Fault);

impl Faulty {
    /// Starts a storage by `make`, and stands between it and the engine's sink.
    pub(crate) fn start(
        sink: Sink,
        make: impl FnOnce(Sink) -> io::Result<Started>,
    ) -> io::Result<(Started, Faults)> {
        let (state, held) = (Mutex::default(), watch::Sender::new(0));
        let shared = Arc::new(Shared { sink, state, held });
        let at_sink = shared.clone();
        let Started { storage, fallback, unregistered } =
            make(Arc::new(move |completion| at_sink.completed(completion)))?;
        let storage = Box::new(Self { inner: storage, shared: shared.clone() });
        Ok((Started { storage, fallback, unregistered }, Faults(shared)))
    }
}

impl Storage for Faulty {
    fn submit(&self, read: Read) -> Result<(), Read> {
        let place = place(&read);
        {
            let mut state = self.shared.lock();
            state.asked += read.blocks.len();
            match state.fate(&read) {
                Some((_, Fault::Refused)) => return Err(read),
                Some((_, Fault::Before(errno))) => {
                    drop(state);
                    let result = Err(failure(&read, errno));
                    // On the caller's own thread, which the engine's sink does not mind.
                    (self.shared.sink)(Completion { read, result });
                    return Ok(());
                }
                // Noted before the read is handed on: it may be done at once.
                fate => {
                    state.fates.insert(place, fate);
                }
            }
        }
        self.inner.submit(read).inspect_err(|_| {
            self.shared.lock().fates.remove(&place);
        })
    }

    fn backend(&self) -> Backend {
        self.inner.backend()
    }

    fn counters(&self) -> Arc<Counters> {
        self.inner.counters()
    }

    fn pulses(&self) -> Vec<Pulse> {
        self.inner.pulses()
    }
}

impl Faults {
    /// The next read of this block that no earlier rule is for.
    pub(crate) fn once(&self, block: u32, fault: Fault) {
        self.rule(Some(BlockIndex(block)), fault, 1);
    }

    /// Every read of this block.
    pub(crate) fn always(&self, block: u32, fault: Fault) {
        self.rule(Some(BlockIndex(block)), fault, usize::MAX);
    }

    /// Every read.
    pub(crate) fn all(&self, fault: Fault) {
        self.rule(None, fault, usize::MAX);
    }

    /// So many of a hundred reads, with faults of all kinds. The same seed strikes the same reads.
    pub(crate) fn random(&self, seed: u64, percent: u32) {
        self.0.lock().random = Some(Random { seed, percent });
    }

    /// From now on nothing fails and nothing else is held. What is held stays so.
    pub(crate) fn clear(&self) {
        let mut state = self.0.lock();
        state.rules.clear();
        state.random = None;
        let to_be_held = |fate: &&mut Option<Fate>| matches!(fate, Some((_, Fault::Held)));
        state.fates.values_mut().filter(to_be_held).for_each(|fate| *fate = None);
    }

    /// Tells the engine of all that is held, in the order that `change` leaves it in.
    pub(crate) fn release(&self, change: impl FnOnce(&mut [Completion])) {
        let mut held = mem::take(&mut self.0.lock().held);
        self.0.held.send_replace(0);
        change(&mut held);
        held.into_iter().for_each(|completion| (self.0.sink)(completion));
    }

    /// Tells the engine that all that is held has failed.
    pub(crate) fn release_failed(&self, errno: Errno) {
        let fail = |held: &mut Completion| held.result = Err(failure(&held.read, errno));
        self.release(|held| held.iter_mut().for_each(fail));
    }

    /// Waits until so many reads are held.
    pub(crate) async fn holding(&self, reads: usize) {
        let mut held = self.0.held.subscribe();
        held.wait_for(|&held| held >= reads).await.unwrap();
    }

    /// Blocks that the engine has asked for so far.
    pub(crate) fn asked(&self) -> usize {
        self.0.lock().asked
    }

    /// Reads that were taken and not told of.
    pub(crate) fn under_way(&self) -> usize {
        let state = self.0.lock();
        state.fates.len() + state.held.len() + state.late.len()
    }

    fn rule(&self, block: Option<BlockIndex>, fault: Fault, times: usize) {
        self.0.lock().rules.push(Rule { block, fault, times });
    }
}

impl Shared {
    /// A test that failed elsewhere has said so already.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn completed(&self, mut completion: Completion) {
        let mut state = self.lock();
        let fate = state.fates.remove(&place(&completion.read));
        match fate.expect("the backend completes what it has taken, once") {
            Some((_, Fault::Held)) => {
                state.held.push(completion);
                self.held.send_replace(state.held.len());
            }
            Some((_, Fault::Late)) => state.late.push(completion),
            Some((block, fault)) => {
                spoil(&mut completion, block, fault);
                (self.sink)(completion);
            }
            None => (self.sink)(completion),
        }
        if state.fates.is_empty() {
            // The last come first.
            state.late.drain(..).rev().for_each(|completion| (self.sink)(completion));
        }
    }
}

impl State {
    /// What becomes of a read.
    fn fate(&mut self, read: &Read) -> Option<Fate> {
        let blocks = || read.blocks.iter().map(|(block, _)| *block);
        for rule in self.rules.iter_mut().filter(|rule| rule.times > 0) {
            let struck = blocks().find(|block| rule.block.is_none_or(|meant| meant == *block));
            if let Some(block) = struck {
                rule.times -= 1;
                return Some((block, rule.fault));
            }
        }
        let Random { seed, percent } = self.random.as_ref()?;
        let first = u64::from(blocks().next()?.0);
        let mut rng =
            fastrand::Rng::with_seed(seed ^ (first << 32) ^ (u64::from(read.attempt) << 60));
        let struck = rng.u32(..100) < *percent;
        struck.then(|| {
            (read.blocks[rng.usize(..read.blocks.len())].0, *rng.choice(&Fault::ALL).unwrap())
        })
    }
}

fn place(read: &Read) -> Place {
    (read.model, read.blocks[0].1.slot())
}

fn failure(read: &Read, errno: Errno) -> ReadError {
    ReadError::Io { offset: read.offset, len: read.len(), source: errno.into() }
}

/// Makes of a read that went well one that did not.
fn spoil(completion: &mut Completion, block: BlockIndex, fault: Fault) {
    let Completion { read, result } = completion;
    if result.is_err() {
        return;
    }
    let (first, start) = (read.blocks[0].0, read.offset);
    // Blocks lie one after another in the file.
    let offset = |block: BlockIndex, window: &Window| {
        let bytes = window.len() as u64;
        start + u64::from(block.0) * bytes - u64::from(first.0) * bytes
    };
    let (_, window) = read.blocks.iter_mut().find(|(of, _)| *of == block).unwrap();
    match fault {
        Fault::After(errno) => *result = Err(failure(read, errno)),
        Fault::Flipped => {
            let at = block.index() * 37 % window.len();
            window.bytes_mut()[at] ^= 1 << (block.0 % 8);
        }
        Fault::Misdirected => {
            let other = BlockIndex(if block.0 == 0 { 1 } else { block.0 - 1 });
            let from = offset(other, window);
            let buffer = IoSliceMut::new(window.bytes_mut());
            read.file.read_exact_at(&mut [buffer], from).unwrap();
        }
        Fault::Short => {
            let half = window.len() / 2;
            let end = offset(block, window) + half as u64;
            window.bytes_mut()[half..].fill(0xee);
            *result = Err(ReadError::Eof { end });
        }
        Fault::Before(_) | Fault::Held | Fault::Late | Fault::Refused => {}
    }
}
