//! A client's epoch cell, in which it announces the generation that it reads, and the doorbell
//! that tells it of new ones.
//!
//! The protocol is Dekker's: the client stores its generation and then looks whether the session
//! still has it; the daemon publishes a generation and then looks at the cells. Sequentially
//! consistent accesses make sure that at least one of them sees the other.

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
