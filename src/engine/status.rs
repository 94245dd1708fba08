//! The engine's state, as told to operators.

use super::Peer;
use crate::{
    bundle::Bundle,
    residency::SlotCounts,
    units::{Generation, TaskIndex},
};
use std::{sync::Arc, time::Duration};

/// A model's state.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelStatus {
    /// The model.
    pub name: String,
    /// The bundle's id, in hexadecimal.
    pub bundle_id: String,
    /// Its pool.
    pub pool: PoolStatus,
    /// Its sessions, by name.
    pub sessions: Vec<SessionStatus>,
    /// By the tasks' numbers, how many of each one's blocks are not in the pool.
    pub missing: Vec<usize>,
    /// Blocks that were evicted, for whatever.
    pub evicted: u64,
    /// Blocks whose last read failed.
    pub quarantined: usize,
    /// Blocks that were read again after a first failure.
    pub read_again: u64,
    /// Blocks that did not match their checksum when they were read.
    pub mismatched: u64,
    /// What one more request costs on the device, in bytes that could be read meanwhile.
    pub request_bytes: u64,
    /// Whether blocks are read past the page cache.
    pub direct_io: bool,
    /// For how long the device has not answered, while it stalls.
    pub stalled_for: Option<Duration>,
    /// What is loaded ahead.
    pub prefetch: PrefetchStatus,
}

/// What is loaded ahead of switches, and what came of it. Amounts are blocks; counts begin with the
/// daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefetchStatus {
    /// Published switches to a task that was not active.
    pub switches: u64,
    /// Of these, those that found all of their task.
    pub hits: u64,
    /// Blocks loaded ahead.
    pub loaded: u64,
    /// Of these, blocks that a switch has used.
    pub used: u64,
    /// Blocks that went before anybody used them.
    pub wasted: u64,
    /// Blocks that a switch had to wait for, as they were still on their way.
    pub late: u64,
    /// Blocks that wait to be used.
    pub waiting: u64,
    /// Blocks that switches read.
    pub read: u64,
    /// Bytes that may be loaded ahead at the moment.
    pub budget_bytes: u64,
    /// Hints that were ignored.
    pub ignored_hints: u64,
    /// Tasks that are being prepared or held.
    pub prepared: usize,
}

/// A task that is held to be likely next.
#[derive(Clone, Debug, PartialEq)]
pub struct Likely {
    /// The task.
    pub task: String,
    /// How likely, 0 to 1.
    pub probability: f64,
    /// In how long, in the middle.
    pub expected: Duration,
}

/// A pool's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Bytes of a slot.
    pub slot_bytes: u64,
    /// Bytes of the base.
    pub base_bytes: u64,
    /// Slots by state.
    pub slots: SlotCounts,
    /// Resident blocks that may not go.
    pub pinned: usize,
    /// Whether the pool is locked into memory.
    pub locked: bool,
    /// Bytes of the pool that lie in huge pages.
    pub huge_bytes: u64,
}

/// A session's state.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionStatus {
    /// Its model.
    pub model: String,
    /// Its name.
    pub session: String,
    /// The active task.
    pub task: Option<String>,
    /// The generation.
    pub generation: Generation,
    /// The task that is being loaded.
    pub pending_task: Option<String>,
    /// Attached clients.
    pub clients: usize,
    /// Old generations under lease.
    pub draining_generations: usize,
    /// Who holds them.
    pub leases: Vec<LeaseStatus>,
    /// What is held to be likely next, the likeliest first; at most a handful.
    pub likely: Vec<Likely>,
    /// The share of lately forecast switches whose task had been ranked first, 0 to 1.
    pub confidence: f64,
    /// How long until it closes if nothing happens; `None` while its time to live does not run.
    pub remaining: Option<Duration>,
    /// Whether the first client that attaches owns it.
    pub owned: bool,
    /// The client that owns it.
    pub owner: Option<Peer>,
}

/// A lease on a generation that is not its session's any more.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseStatus {
    /// The client.
    pub peer: Peer,
    /// The generation.
    pub generation: Generation,
    /// The task that was active then.
    pub task: String,
    /// Blocks that stay in the pool for leases on this task alone.
    pub kept: usize,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Since when the session has been at a later generation.
    pub superseded_for: Duration,
    /// Whether it lasted too long and was revoked.
    pub revoked: bool,
}

/// What a session serves, in few words: telling it costs the engine next to nothing.
#[derive(Clone, Debug)]
pub struct Serving {
    pub(super) bundle: Arc<Bundle>,
    pub(super) session: Arc<str>,
    pub(super) task: Option<TaskIndex>,
}

impl Serving {
    /// The model.
    pub fn model(&self) -> &str {
        self.bundle.model()
    }

    /// The session.
    pub fn session(&self) -> &str {
        &self.session
    }

    /// The active task, if there is one.
    pub fn task(&self) -> Option<&str> {
        self.task.map(|task| &*self.bundle.task(task).name)
    }
}
