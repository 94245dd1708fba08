//! The ways in which a bundle can be wrong: one variant each, so that a test, an operator and a
//! client can tell them apart.
//!
//! Text from the file is shown bounded and escaped: a file must not write to an operator's terminal.

use super::{FORMAT, MAX_BLOCKS, MAX_HEADER_BYTES, MAX_INDEX_BYTES, MAX_TASKS, ShapeError};
use crate::{
    text::{quoted, shown},
    units::BLOCK_ALIGN,
};
use safetensors::SafeTensorError;
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why bytes are not a bundle.
#[derive(Debug, Error)]
pub enum Fault {
    /// A table of transitions that is none.
    #[error("transitions are not {tasks} x {tasks} shares of 0 to 1 with a diagonal of zeros")]
    Transitions {
        /// The number of tasks.
        tasks: usize,
    },
    /// The file ends before its header does.
    #[error(
        "the file has {len} bytes but its header needs {needed}: it is cut off or not a bundle"
    )]
    Truncated {
        /// Bytes of the file.
        len: u64,
        /// Bytes that the header needs.
        needed: u64,
    },
    /// The header's length is out of bounds.
    #[error("the header claims {0} bytes, more than {MAX_HEADER_BYTES}: this is not a bundle")]
    HeaderLength(u64),
    /// The header is not that of a safetensors file, or its tensors overlap or leave holes.
    #[error("not a valid safetensors file: {}", shown(.0))]
    Safetensors(#[from] SafeTensorError),
    /// The tensors end before the file does, or after it.
    #[error("the header tells of {claimed} bytes of data, the file has {found}: copy it again")]
    DataLength {
        /// Bytes of data that the header tells of.
        claimed: u64,
        /// Bytes of data in the file.
        found: u64,
    },
    /// A key stands twice in the header, or a name twice in the model.
    #[error("the bundle names {} twice", quoted(.0))]
    Duplicate(String),
    /// A safetensors file, but not a bundle.
    #[error("a safetensors file without `synchromesh` metadata: pack it into a bundle first")]
    NotABundle,
    /// The metadata is not what the format says.
    #[error("the bundle's metadata is wrong: {}", shown(.0))]
    Metadata(#[source] serde_json::Error),
    /// Another version of the format.
    #[error("format version {0}; this program reads version {FORMAT}: pack the model again")]
    Version(u64),
    /// The blocks' shape is not allowed.
    #[error(transparent)]
    BlockShape(#[from] ShapeError),
    /// Something does not begin at a multiple of the alignment.
    #[error("{} begins at byte {offset}, which is not a multiple of {BLOCK_ALIGN}", shown(what))]
    Misaligned {
        /// What is misaligned.
        what: String,
        /// Where it begins in the file.
        offset: u64,
    },
    /// More of something than the format allows, or none where one is needed.
    #[error("{count} {what}; 1 to {limit} are allowed")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        count: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// A name that is empty, too long or has characters that are not allowed.
    #[error(
        "{what} name {}: use 1 to 64 letters, digits, '.', '_' or '-', not '.' or '..'",
        quoted(name)
    )]
    Name {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A tensor that the format needs is not there.
    #[error("tensor {} is missing", quoted(.0))]
    Missing(String),
    /// A tensor that the format does not know.
    #[error("tensor {} does not belong in a bundle", quoted(.0))]
    Unexpected(String),
    /// A tensor stands where the format does not allow it.
    #[error("tensor {} is out of order", quoted(.0))]
    OutOfOrder(String),
    /// Padding that is not needed, or is not zero: it could hide anything.
    #[error("padding {} is not the few zeros up to the next multiple of {BLOCK_ALIGN}", quoted(.0))]
    Padding(String),
    /// The index is too large.
    #[error("the index has {0} bytes; at most {MAX_INDEX_BYTES} are allowed")]
    IndexLength(u64),
    /// A tensor's type or shape differs from what the metadata implies.
    #[error("tensor {} is {}; the metadata implies {expected}", quoted(name), shown(found))]
    TensorShape {
        /// The tensor.
        name: String,
        /// Its type and shape.
        found: String,
        /// The type and shape that it should have.
        expected: String,
    },
    /// A tensor of the model has no elements or is too large.
    #[error("tensor {} has an empty or oversized shape", quoted(.0))]
    TensorSize(String),
    /// Header or index do not match the digest stored in the file.
    #[error("header or index are damaged: their digest does not match")]
    Digest,
    /// A grid points past the blocks.
    #[error("{} refers to block {block}, but there are {blocks}", quoted(name))]
    BlockIndex {
        /// The grid.
        name: String,
        /// The index found.
        block: u32,
        /// Number of blocks.
        blocks: u64,
    },
    /// A task's own value is not in the task's set.
    #[error("{} refers to block {block}, which is not in the task's set", quoted(name))]
    OwnBlock {
        /// The overriding grid.
        name: String,
        /// The block.
        block: u32,
    },
    /// A block that no grid refers to.
    #[error("block {0} is at no place of any grid")]
    Orphan(usize),
    /// A task's set differs from what the metadata says of it.
    #[error("task `{task}` {problem}")]
    Task {
        /// The task.
        task: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Fault {
    pub(super) fn blocks(count: u64) -> Self {
        Self::Count { what: "blocks", count, limit: MAX_BLOCKS }
    }

    pub(super) fn tasks(count: usize) -> Self {
        Self::Count { what: "tasks", count: count as u64, limit: MAX_TASKS as u64 }
    }
}

/// Why a bundle could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file could not be opened or read.
    #[error("cannot open bundle {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a bundle that may be used.
    #[error("bundle {} is refused: {source}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: Fault,
    },
}

impl OpenError {
    /// Says of an error which file it is about.
    pub fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }

    /// Says of a fault which file has it.
    pub fn refused(path: &Path) -> impl Fn(Fault) -> Self {
        |source| Self::Refused { path: path.to_owned(), source }
    }
}
