//! The lease protocol: how a client pins what a session serves, and how the daemon finds out.
//!
//! It is Dekker's: the client stores the generation that it is about to read and then looks whether
//! the session still has it; the daemon stores a new generation and then looks what clients read.
//! A sequentially consistent fence between each store and look makes sure that at least one of them
//! sees the other. `docs/attach.md` has the steps; `tests/lease_model.rs` runs this very code in
//! every order that the memory model allows, so it is generic over the words. Where they lie is
//! `table`'s and `cell`'s business.

use crate::{
    bundle::MAX_TASKS,
    units::{Generation, TaskIndex},
};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{self, Acquire, Release, SeqCst},
    fence,
};

/// Stands for no task in a session's word.
const NO_TASK: u64 = 0xFFFF;
const _: () = assert!(MAX_TASKS < NO_TASK as usize, "a task fits beside its generation");

/// A word that daemon and clients share: an atomic. Which orderings are needed is said by the
/// functions below, so that what is checked is what is used.
pub trait Word {
    /// Loads it.
    fn load(&self, ordering: Ordering) -> u64;
    /// Stores it.
    fn store(&self, value: u64, ordering: Ordering);
    /// Orders what comes before against what comes after.
    fn fence(ordering: Ordering);
}

impl Word for AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        AtomicU64::load(self, ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        AtomicU64::store(self, value, ordering);
    }

    fn fence(ordering: Ordering) {
        fence(ordering);
    }
}

/// A task and the generation that made it active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveTask {
    /// The generation.
    pub generation: Generation,
    /// The task.
    pub task: TaskIndex,
}

/// What a session serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// Grows with every change of the session's word.
    pub generation: Generation,
    /// The task, if there is one.
    pub task: Option<TaskIndex>,
}

impl Active {
    /// The task with its generation, if there is one.
    pub fn task(self) -> Option<ActiveTask> {
        self.task.map(|task| ActiveTask { generation: self.generation, task })
    }

    pub(super) fn word(self) -> u64 {
        self.generation.0 << 16 | self.task.map_or(NO_TASK, |task| u64::from(task.0))
    }

    pub(super) fn from_word(word: u64) -> Self {
        let task = word & NO_TASK;
        let task = (task != NO_TASK).then_some(TaskIndex(task as u16 as u32));
        Self { generation: Generation(word >> 16), task }
    }
}

/// The client's side: announces in its epoch what the session serves now, and gives that; `None` if
/// the session has no task. From then on nothing of it changes, until [`release`].
pub fn acquire<W: Word>(session: &W, epoch: &W) -> Option<ActiveTask> {
    let mut word = session.load(Acquire);
    loop {
        let active = Active::from_word(word).task()?;
        epoch.store(active.generation.0, Release);
        W::fence(SeqCst);
        let seen = word;
        word = session.load(Acquire);
        if word == seen {
            return Some(active);
        }
        // A switch was published in between: the daemon may not have seen the announcement.
        release(epoch);
    }
}

/// The client's side: ends the lease. What was read before stays as it was until here.
pub fn release<W: Word>(epoch: &W) {
    epoch.store(Generation::NONE.0, Release);
}

/// The daemon's side: publishes what a session serves. Only then may [`is_leased`] be asked about
/// the generation before.
pub fn publish<W: Word>(session: &W, active: Active) {
    session.store(active.word(), Release);
    W::fence(SeqCst);
}

/// The daemon's side: whether any of these epochs holds a generation that is no session's any more.
/// Once it is let go, there is no need to ask again: who announces it later has seen an old word, and
/// takes it back before it reads anything.
pub fn is_leased<'a, W: Word + 'a>(
    mut epochs: impl Iterator<Item = &'a W>,
    generation: Generation,
) -> bool {
    epochs.any(|epoch| epoch.load(Acquire) == generation.0)
}
