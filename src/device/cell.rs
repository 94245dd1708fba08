//! A client's cell, in which it announces the generation that it reads and learns that its lease was
//! revoked, and the doorbell that tells it to look.
//!
//! ```text
//! offset  bytes  written by  content
//!      0      8  client      epoch: the generation under lease; 0 for none
//!     64      8  daemon      revoked: 0; the generation whose lease outlasted patience; or 2^64-1
//!                            once the membership has ended
//! ```

use super::memory::{MemoryError, SharedMemory, Sharing};
use crate::units::Generation;
use rustix::{
    io::write,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

const EPOCH_OFFSET: usize = 0;
/// Of another cache line: the daemon's store is not to slow the client's.
const REVOKED_OFFSET: usize = 64;
const CELL_BYTES: usize = REVOKED_OFFSET + 8;

/// In place of a revoked generation: the daemon does not look at the cell any more.
const ENDED: Generation = Generation(u64::MAX);

/// Why a client can take no lease any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The lease on this generation has lasted too long.
    Revoked(Generation),
    /// The membership has ended.
    Ended,
}

/// The words of one client, shared with the daemon.
#[derive(Debug)]
pub struct Cell {
    memory: SharedMemory,
}

impl Cell {
    /// A new cell without a lease.
    pub fn create() -> Result<Self, MemoryError> {
        let memory = SharedMemory::create("cell", CELL_BYTES as u64, Sharing::Writable, false)?;
        Ok(Self { memory })
    }

    /// Maps a cell that the daemon has created.
    pub fn open(fd: OwnedFd) -> Result<Self, MemoryError> {
        let memory = SharedMemory::open("the cell", fd, CELL_BYTES as u64, Sharing::Writable)?;
        Ok(Self { memory })
    }

    /// The generation under lease. The client may write anything; any value that is not an older
    /// generation of its session pins nothing.
    pub fn epoch(&self) -> &AtomicU64 {
        self.word(EPOCH_OFFSET)
    }

    /// Tells the client that the lease on this generation has lasted too long.
    pub fn revoke(&self, generation: Generation) {
        self.word(REVOKED_OFFSET).store(generation.0, Ordering::Release);
    }

    /// Tells the client, if it still lives, that the daemon does not look at its cell any more.
    pub fn end(&self) {
        self.revoke(ENDED);
    }

    /// What the daemon tells the client, if it does.
    pub fn notice(&self) -> Option<Notice> {
        match Generation(self.word(REVOKED_OFFSET).load(Ordering::Acquire)) {
            Generation::NONE => None,
            ENDED => Some(Notice::Ended),
            generation => Some(Notice::Revoked(generation)),
        }
    }

    #[expect(unsafe_code, reason = "the cell lies in memory that is mapped, not borrowed")]
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= CELL_BYTES, "a word of the cell");
        // SAFETY: the mapping has at least `CELL_BYTES` (both constructors).
        let word = unsafe { self.memory.ptr().add(offset) };
        // SAFETY: the mapping is page-aligned, so the word is 8-aligned; it cannot be cut off
        // (sealed), lives as long as `self`, and both sides access it only as this atomic.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }
}

impl AsFd for Cell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Tells one client of published generations. It is a pipe, whose ends are descriptions of their
/// own: of an eventfd, the client would share the daemon's, could make it blocking and full, and so
/// stop the daemon.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A new, silent doorbell, and the end that the client reads.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let (client, daemon) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self(daemon), client))
    }

    /// Rings: adds one byte to what the client can read. A client that never listens costs
    /// nothing: a full pipe stays full.
    pub fn ring(&self) {
        let _ = write(&self.0, &[1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::{
        fs::{OFlags, fcntl_getfl, fcntl_setfl},
        io::read,
    };

    #[test]
    fn a_client_that_fills_its_doorbell_and_makes_it_blocking_does_not_stop_the_daemon() {
        let (doorbell, client) = Doorbell::create().unwrap();
        let flags = fcntl_getfl(&client).unwrap();
        fcntl_setfl(&client, flags - OFlags::NONBLOCK).unwrap();
        (0..100_000).for_each(|_| doorbell.ring());
        assert!(read(&client, &mut [0; 10]).unwrap() == 10, "it has rung");
        drop(client);
        doorbell.ring();
    }
}
