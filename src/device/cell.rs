//! A client's epoch cell, in which it announces the generation that it reads, and the doorbell
//! that tells it of a new one.
//!
//! The protocol is Dekker's: the client stores its generation and then looks whether the session
//! still has it; the daemon publishes a generation and then looks at the cells. Sequentially
//! consistent accesses make sure that at least one of them sees the other.

use super::memory::{MemoryError, SharedMemory, Sharing};
use crate::units::Generation;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::write,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

/// A generation under lease, shared with one client; [`Generation::NONE`] means no lease.
#[derive(Debug)]
pub struct EpochCell {
    memory: SharedMemory,
}

impl EpochCell {
    /// A new cell without a lease.
    pub fn create() -> Result<Self, MemoryError> {
        let memory = SharedMemory::create("cell", 8, Sharing::Writable, false)?;
        Ok(Self { memory })
    }

    /// Maps a cell that the daemon has created.
    pub fn open(fd: OwnedFd) -> Result<Self, MemoryError> {
        Ok(Self { memory: SharedMemory::open("the epoch cell", fd, 8, Sharing::Writable)? })
    }

    /// The generation under lease. The client may write anything; any value that is not an older
    /// generation of its session pins nothing.
    pub fn leased(&self) -> Generation {
        Generation(self.value().load(Ordering::SeqCst))
    }

    /// Announces a lease, or with [`Generation::NONE`] its end.
    pub fn announce(&self, generation: Generation) {
        self.value().store(generation.0, Ordering::SeqCst);
    }

    #[expect(unsafe_code, reason = "the cell lies in memory that is mapped, not borrowed")]
    fn value(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, has at least 8 bytes that cannot be cut off
        // (sealed), lives as long as `self`, and both sides access it only as this atomic.
        unsafe { AtomicU64::from_ptr(self.memory.ptr().cast()) }
    }
}

impl AsFd for EpochCell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// An eventfd that counts published generations.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A new, silent doorbell.
    pub fn create() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings. A client that never listens costs nothing: a full counter stays full.
    pub fn ring(&self) {
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
