//! Reading extents of a bundle straight into slots.
//!
//! A [`Read`] owns the windows that it fills, from its submission until its [`Completion`] hands
//! them back: nobody else can write there, and no slot can be freed under a read. Storage neither
//! verifies nor repeats what failed; it tells what happened, and the engine decides.

mod counters;
mod file;
mod measure;
mod preadv;
mod pulse;
mod queue;
mod start;
mod uring;

pub use counters::{CounterValues, Counters, Load};
pub use file::{BlockFile, in_memory};
pub use measure::request_bytes;
pub use preadv::Preadv;
pub use pulse::{Beat, Pulse};
pub use start::{Resources, Started, carry_out, start};
pub use uring::{Unavailable, Uring};

use crate::{device::Window, units::BlockIndex};
use rustix::io::Errno;
use std::{fmt, io, sync::Arc};
use thiserror::Error;

/// One request: a piece of a file, of which some blocks are wanted.
pub struct Read {
    /// Whose slots are filled, in the engine's numbering.
    pub model: usize,
    /// How often these blocks have been read in vain.
    pub attempt: u8,
    /// Whether anybody waits for it.
    pub priority: Priority,
    /// The file.
    pub file: Arc<BlockFile>,
    /// Where the first block begins in the file.
    pub offset: u64,
    /// The blocks, ascending, each with the window that takes it. What lies between two of them on
    /// disk is read through and dropped.
    pub blocks: Vec<(BlockIndex, Window)>,
}

/// Whose turn comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// A switch waits for it.
    #[default]
    Demand,
    /// Nobody waits yet: it gives way to demand, which waits for at most one such read.
    Ahead,
}

/// A part of a request.
pub enum Piece<'a> {
    /// A block and where it goes.
    Block(&'a mut Window),
    /// So many bytes are dropped.
    Gap(u64),
}

/// How reads are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// By the kernel's io_uring.
    IoUring,
    /// By blocking calls on threads.
    Preadv,
}

/// A request that was carried out, or not.
#[derive(Debug)]
pub struct Completion {
    /// The request, with its windows.
    pub read: Read,
    /// Whether every window is filled.
    pub result: Result<(), ReadError>,
}

/// Why windows are not filled. Their content is undefined then.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The kernel refused or failed.
    #[error("read of {len} bytes at {offset} failed: {source}")]
    Io {
        /// Where the request began.
        offset: u64,
        /// Its size.
        len: u64,
        /// The cause.
        source: io::Error,
    },
    /// The kernel does not tell any more what became of the request, and may write to its windows
    /// for as long as it runs: their slots must never be used again.
    #[error("the kernel has lost the read")]
    Lost,
    /// The request was not taken: the queue is full, or the backend has stopped.
    #[error("the storage takes no more reads")]
    Refused,
    /// The file ends before the request does.
    #[error("the file has nothing at {end}, where the request goes on")]
    Eof {
        /// The first byte that is missing: the file's end, or the request's offset beyond it.
        end: u64,
    },
}

/// A way to carry out reads. Every read that is taken completes exactly once, in any order, by a
/// call of the sink that the backend was started with, on a thread of the backend's own. Dropped,
/// a backend finishes what has begun and forgets what is queued; after that it uses neither the
/// sink nor a window. `tests/storage.rs` holds every backend to this.
pub trait Storage: Send {
    /// Takes a read without waiting for it. When the queue is full, or the backend has stopped,
    /// the read comes back.
    fn submit(&self, read: Read) -> Result<(), Read>;

    /// Which one it is.
    fn backend(&self) -> Backend;

    /// What it has met so far.
    fn counters(&self) -> Arc<Counters>;

    /// Its threads, for whoever wants to know whether they still come round.
    fn pulses(&self) -> Vec<Pulse>;
}

/// Receives completions; it must not block.
pub type Sink = Arc<dyn Fn(Completion) + Send + Sync>;

impl ReadError {
    /// Whether device or kernel are the cause, and not what is stored at one place.
    pub fn is_of_device(&self) -> bool {
        match self {
            Self::Refused | Self::Lost => true,
            Self::Eof { .. } => false,
            // It is gone, or the kernel has no means to read now.
            Self::Io { source, .. } => matches!(
                Errno::from_io_error(source),
                Some(
                    Errno::NODEV
                        | Errno::NXIO
                        | Errno::AGAIN
                        | Errno::NOMEM
                        | Errno::BUSY
                        | Errno::CANCELED
                )
            ),
        }
    }
}

impl Read {
    /// A first read on demand, for the first model.
    pub fn new(file: Arc<BlockFile>, offset: u64, blocks: Vec<(BlockIndex, Window)>) -> Self {
        Self { model: 0, attempt: 0, priority: Priority::Demand, file, offset, blocks }
    }

    /// Bytes of the request, gaps included.
    pub fn len(&self) -> u64 {
        let ends = self.blocks.first().zip(self.blocks.last());
        ends.map_or(0, |((first, window), (last, _))| {
            u64::from(last.0 - first.0 + 1) * window.len() as u64
        })
    }

    /// Bytes that are read and dropped.
    pub fn gap_bytes(&self) -> u64 {
        let wanted = |(_, window): &(BlockIndex, Window)| window.len() as u64;
        self.len() - self.blocks.iter().map(wanted).sum::<u64>()
    }

    /// The request's parts, in the order of the file.
    pub fn pieces(&mut self) -> impl Iterator<Item = Piece<'_>> {
        let mut next = self.blocks.first().map_or(0, |(first, _)| first.0);
        self.blocks.iter_mut().flat_map(move |(block, window)| {
            let gap = u64::from(block.0 - next) * window.len() as u64;
            next = block.0 + 1;
            (gap > 0).then_some(Piece::Gap(gap)).into_iter().chain([Piece::Block(window)])
        })
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, attempt, priority, offset, blocks, file: _ } = self;
        let first = blocks.first().map(|(block, _)| block.0);
        write!(
            f,
            "Read {{ model {model}, {} blocks from {first:?} at {offset}, attempt {attempt}, \
             {priority:?} }}",
            blocks.len()
        )
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Preadv => "preadv",
        })
    }
}
