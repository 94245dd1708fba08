//! Going on from where another daemon has ended: its sessions are open again, at generations above
//! theirs, and of the blocks that they need those are copied that it had.
//!
//! The pool of that daemon can be read, and written by nobody any more; its clients may compute on it
//! for as long as they like. Nothing of what was left is believed: bytes are verified where they were
//! copied to, like any that are read from a device, and what is odd is left out and said. How
//! descriptors come from one daemon to the next is not known here.

use super::{
    lifetime::{Life, Lifetime},
    model::Model,
    session::{DEFAULT_SESSION, Session},
};
use crate::{
    bundle::{BundleId, is_name},
    device::{
        Active, MAX_SESSIONS, MemoryError, PoolView, Roster, SessionEntry, TableError, TableView,
    },
    units::{Generation, TaskIndex},
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};
use thiserror::Error;

/// A session at a later generation than this is held to be damaged: no daemon comes that far.
pub(super) const LAST_GENERATION: Generation = Generation(1 << 40);

/// The descriptors from which another daemon can go on.
#[derive(Debug)]
pub struct Estate {
    /// The pool, unless it was given up.
    pub pool: Option<OwnedFd>,
    /// The table.
    pub table: OwnedFd,
    /// The names of sessions.
    pub roster: OwnedFd,
}

/// What a daemon that has ended has left of a model.
#[derive(Debug)]
pub struct Predecessor {
    bundle_id: BundleId,
    sessions: Vec<Left>,
    /// `None` once it is given up.
    memory: Option<Memory>,
}

#[derive(Debug)]
struct Left {
    entry: SessionEntry,
    name: String,
    active: Active,
}

#[derive(Debug)]
struct Memory {
    pool: PoolView,
    table: TableView,
}

/// Why nothing can be made of what was left.
#[derive(Debug, Error)]
pub enum PredecessorError {
    /// The table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The pool or the roster cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The roster is none, or of another version.
    #[error("the roster is not one that this daemon can read")]
    Roster,
    /// Table and roster are of different bundles.
    #[error("table and roster do not belong together")]
    Apart,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Sessions that are open again.
    pub sessions: usize,
    /// Blocks that were copied.
    pub copied: usize,
    /// Whether the default session has its task, or is to get it.
    pub default_task: bool,
    /// Tasks of sessions that lack blocks: they are to be switched to.
    pub lacking: Vec<Lacking>,
}

/// A session whose task has to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The session.
    pub session: String,
    /// The task that was active.
    pub task: String,
}

impl Predecessor {
    /// Looks through what was left.
    pub fn open(estate: Estate) -> Result<Self, PredecessorError> {
        let Estate { pool, table, roster } = estate;
        let table = TableView::open(table)?;
        let pool = pool.map(|pool| PoolView::open(pool, table.layout())).transpose()?;
        let roster = Roster::open(roster)?.ok_or(PredecessorError::Roster)?;
        let bundle_id = table.bundle_id();
        if roster.bundle_id() != bundle_id {
            return Err(PredecessorError::Apart);
        }
        let entries = (0..MAX_SESSIONS as u32).filter_map(SessionEntry::new);
        let left = |entry| Left { entry, name: String::new(), active: table.active(entry) };
        let named = |entry| roster.session(entry).map(|name| Left { name, ..left(entry) });
        let sessions = entries.filter_map(named).collect();
        Ok(Self { bundle_id, sessions, memory: pool.map(|pool| Memory { pool, table }) })
    }

    /// The bundle that was served.
    pub fn bundle_id(&self) -> BundleId {
        self.bundle_id
    }

    /// Whether its default session is at this generation or a later one.
    pub(super) fn begins_at_least_at(&self, generation: u64) -> bool {
        let default = self.sessions.iter().find(|left| left.entry.number() == 0);
        default.is_some_and(|left| left.active.generation.0 >= generation)
    }

    /// Whether there is an old pool to copy from.
    pub fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Gives the old pool up: there is nothing to be copied any more, and its memory goes with the
    /// last who has it.
    pub fn give_up_memory(&mut self) {
        self.memory = None;
    }

    /// Copies the base region, if it is as long as it has to be. Nothing is verified.
    pub(super) fn copy_base(&self, into: &mut [u8]) -> bool {
        let base = self.memory.as_ref().map(|memory| memory.pool.base());
        let base = base.filter(|base| base.len() == into.len());
        base.inspect(|base| into.copy_from_slice(base)).is_some()
    }
}

impl Model {
    /// What another daemon can go on from when this one has ended.
    pub fn estate(&self) -> io::Result<Estate> {
        let duplicate = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned();
        Ok(Estate {
            pool: Some(duplicate(&self.pool)?),
            table: duplicate(self.residency.table())?,
            roster: duplicate(&self.roster)?,
        })
    }

    /// Opens the sessions again that were open, and lets those go on with their tasks whose blocks
    /// can be copied. To be called before the engine is made; `left` is of this bundle.
    pub fn adopt(&mut self, left: &Predecessor) -> Adopted {
        let mut adopted = Adopted::default();
        if left.bundle_id != self.bundle().id() {
            return adopted;
        }
        for left in &left.sessions {
            if self.reopen(left) {
                adopted.sessions += 1;
            } else {
                let (model, place) = (self.name(), left.entry.number());
                tracing::warn!(model, place, "a session was left that cannot be: it stays closed");
            }
        }
        self.serve_again(self.left_tasks(left), Some(left), &mut adopted);
        adopted
    }

    /// Lets sessions go on with these tasks, whose blocks are copied where an old pool has them.
    pub(super) fn serve_again(
        &mut self,
        tasks: Vec<(SessionEntry, TaskIndex)>,
        left: Option<&Predecessor>,
        adopted: &mut Adopted,
    ) {
        let memory = left.and_then(|left| left.memory.as_ref());
        let memory = memory.filter(|memory| self.is_alike(memory));
        for (entry, task) in tasks {
            adopted.copied += memory.map_or(0, |memory| self.take_over(task, memory));
            adopted.default_task |= entry.number() == 0;
            if self.residency.missing(task) == 0 {
                self.residency.pin(task);
                self.serve(Duration::ZERO, entry, Some(task));
                self.resumed(entry, task);
            } else {
                let session = self.session(entry).map(|session| session.name.to_string());
                let task = self.bundle().task(task).name.clone();
                adopted.lacking.extend(session.map(|session| Lacking { session, task }));
            }
        }
    }

    /// Opens a session in the place where it was, at the generation where it was.
    fn reopen(&mut self, left: &Left) -> bool {
        let Left { entry, name, active: Active { generation, .. } } = left;
        let place = entry.number() as usize;
        let is_default = name == DEFAULT_SESSION;
        let taken = self.open_sessions().any(|session| *session.name == **name);
        let can_be = is_name(name)
            && *generation <= LAST_GENERATION
            && is_default == (place == 0)
            && (is_default || !taken);
        if !can_be {
            return false;
        }
        if !is_default {
            self.roster.note(*entry, Some(name));
            let outlook = self.shelf.take(name);
            let life = Life::new(Duration::ZERO, Lifetime::default());
            self.sessions[place] = Some(Session::new(name, *entry, outlook, life));
        }
        if let Some(session) = self.sessions[place].as_mut() {
            session.active = Active { generation: *generation, task: None };
            self.generations.latest = self.generations.latest.max(*generation);
            self.residency.table().publish(*entry, session.active);
        }
        true
    }

    /// The tasks that were active in sessions that are open again.
    fn left_tasks(&self, left: &Predecessor) -> Vec<(SessionEntry, TaskIndex)> {
        let tasks = self.bundle().task_indices().count();
        let is_open = |left: &Left| {
            let session = self.sessions[left.entry.number() as usize].as_ref();
            session.is_some_and(|session| *session.name == *left.name)
        };
        let open = left.sessions.iter().filter(|left| is_open(left));
        let task = |left: &Left| Some((left.entry, left.active.task?));
        open.filter_map(task).filter(|(_, task)| task.index() < tasks).collect()
    }

    /// Whether an old pool holds blocks as this one does.
    fn is_alike(&self, memory: &Memory) -> bool {
        let bundle = self.bundle();
        memory.table.blocks() as usize == bundle.len()
            && memory.table.layout().slot_bytes() == bundle.block().bytes()
    }

    /// Copies what a task lacks and an old pool has, and gives the number of blocks.
    fn take_over(&mut self, task: TaskIndex, memory: &Memory) -> usize {
        let absent = self.residency.absent(task);
        let there = absent.filter_map(|block| Some((block, memory.table.slot_of(block)?)));
        let (blocks, slots): (Vec<_>, Vec<_>) = there.unzip();
        let bundle = self.bundle().clone();
        let mut copied = 0;
        for ((block, mut window), slot) in self.residency.allot(&blocks).into_iter().zip(slots) {
            let is_good = memory.pool.copy_slot(slot, window.bytes_mut())
                && bundle.block_matches(block, window.bytes());
            if is_good {
                self.residency.filled(&window);
                self.residency.admit(window);
                copied += 1;
            } else {
                self.residency.release(window);
            }
        }
        copied
    }

    /// Lets a session's outlook know which task it goes on with.
    fn resumed(&mut self, entry: SessionEntry, task: TaskIndex) {
        if let Some(session) = self.session(entry) {
            session.outlook.published(Duration::ZERO, task);
        }
    }
}

/// The one of these that is of this bundle.
pub(super) fn find(left: &[Predecessor], id: BundleId) -> Option<&Predecessor> {
    left.iter().find(|left| left.bundle_id == id)
}
