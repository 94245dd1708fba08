//! Reading extents of a bundle straight into slots.
//!
//! A [`Read`] owns the windows that it fills, from its submission until its [`Completion`] hands
//! them back: nobody else can write there, and no slot can be freed under a read. Storage neither
//! verifies nor retries; it tells what happened, and the engine decides.

mod file;
mod preadv;

pub use file::{BlockFile, in_memory};
pub use preadv::Preadv;

use crate::{device::Window, units::BlockIndex};
use std::{fmt, io, sync::Arc};
use thiserror::Error;

/// A request for blocks that are adjacent on disk.
pub struct Read {
    /// Whose slots are filled, in the engine's numbering.
    pub model: usize,
    /// How often these blocks have been read in vain.
    pub attempt: u8,
    /// The file.
    pub file: Arc<BlockFile>,
    /// Where the first block begins in the file.
    pub offset: u64,
    /// The blocks, ascending by one, each with the window that takes it.
    pub blocks: Vec<(BlockIndex, Window)>,
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
}

/// Receives completions; it must not block.
pub type Sink = Box<dyn Fn(Completion) + Send + Sync>;

impl Read {
    /// Bytes asked for.
    pub fn len(&self) -> u64 {
        self.blocks.iter().map(|(_, window)| window.len() as u64).sum()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, attempt, offset, blocks, file: _ } = self;
        let first = blocks.first().map(|(block, _)| block.0);
        write!(
            f,
            "Read {{ model {model}, {} blocks from {first:?} at {offset}, attempt {attempt} }}",
            blocks.len()
        )
    }
}
