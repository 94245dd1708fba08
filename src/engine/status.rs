//! The engine's state, as told to operators.

use crate::{residency::SlotCounts, units::Generation};

/// A model's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// The model.
    pub name: String,
    /// The bundle's id, in hexadecimal.
    pub bundle_id: String,
    /// Its pool.
    pub pool: PoolStatus,
    /// Its sessions, by name.
    pub sessions: Vec<SessionStatus>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
}
