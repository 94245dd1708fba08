//! Why compiling stopped, told apart by what the caller can do: change the recipe or its files,
//! or look at the machine.

use super::{
    recipe::RecipeError,
    reconstruct::{MomentFault, SolveError},
};
use crate::{
    bundle::{MAX_BLOCKS, ShapeError, WriteError},
    text::{quoted, shown},
    trace::BadLine,
};
use safetensors::{Dtype, SafeTensorError};
use std::{env, fmt, io, path::PathBuf};
use thiserror::Error;

/// Why there is no bundle. The output file is as it was, unless the error says otherwise.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A file that the recipe names is wrong.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The folder of the output is not there.
    #[error("output: {} is not a folder: create it first", .0.display())]
    OutputFolder(PathBuf),
    /// The output is a folder.
    #[error("output: {} is a folder: name a file", .0.display())]
    OutputIsFolder(PathBuf),
    /// Something else would take the place of the bundle.
    #[error("{}: this is the recipe's bundle: name another file", .0.display())]
    IsBundle(PathBuf),
    /// A task would have no block.
    #[error("tasks.{0}: the task keeps no block that is not all zeros: let it keep more")]
    EmptyTask(String),
    /// The model has more blocks than a bundle holds.
    #[error("block: the tasks keep more than {MAX_BLOCKS} distinct blocks: choose larger ones")]
    TooManyBlocks,
    /// The bundle could not be written.
    #[error("output: cannot write {}: {source}", path.display())]
    Output {
        /// The bundle.
        path: PathBuf,
        /// The cause.
        source: Box<WriteError>,
    },
    /// Remaining weights could not be solved for.
    #[error("reconstruct: tensor `{}`: {source}", shown(tensor))]
    Reconstruct {
        /// The tensor.
        tensor: String,
        /// The cause.
        source: SolveError,
    },
    /// The blocks that a task must keep are more than it may keep.
    #[error(
        "tasks.{task}.require: {required} blocks are required in {scope}, but `keep` allows \
         {budget}: require fewer, or keep more"
    )]
    BrokenBudget {
        /// The task.
        task: String,
        /// Where they are counted.
        scope: String,
        /// Blocks required.
        required: usize,
        /// Blocks allowed.
        budget: usize,
    },
    /// The scratch file failed.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The listener asked to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
}

impl CompileError {
    /// Whether the recipe or the files that it names must change; otherwise something failed that
    /// may succeed when tried again.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Recipe(_)
            | Self::OutputFolder(_)
            | Self::OutputIsFolder(_)
            | Self::IsBundle(_)
            | Self::EmptyTask(_)
            | Self::Reconstruct { .. }
            | Self::BrokenBudget { .. }
            | Self::TooManyBlocks => true,
            Self::Input(error) => error.is_usage(),
            Self::Output { source, .. } => {
                matches!(**source, WriteError::Limit(_))
            }
            Self::Scratch(_) | Self::Interrupted => false,
        }
    }
}

/// A file without a name, for what is too large for memory, could not be used.
#[derive(Debug, Error)]
#[error(
    "scratch file in {}: {source}: free space there, or name another folder with TMPDIR",
    folder.display()
)]
pub struct ScratchError {
    /// The folder for temporary files.
    folder: PathBuf,
    /// The cause.
    source: io::Error,
}

impl From<io::Error> for ScratchError {
    fn from(source: io::Error) -> Self {
        Self { folder: env::temp_dir(), source }
    }
}

/// A file, and the key of the recipe that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The recipe's key, such as `tasks.highway.norms`.
    pub key: String,
    /// The file.
    pub path: PathBuf,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.path.display())
    }
}

/// What is wrong with an input file.
#[derive(Debug, Error)]
pub enum InputError {
    /// The file could not be opened, read or mapped.
    #[error("{at}: {source}")]
    Read {
        /// The file.
        at: Origin,
        /// The cause.
        source: io::Error,
    },
    /// The output would take the place of this file.
    #[error("{0}: this is also the output")]
    IsOutput(Origin),
    /// Not a safetensors file.
    #[error("{at}: not a valid safetensors file: {}", shown(source))]
    Format {
        /// The file.
        at: Origin,
        /// The cause.
        source: SafeTensorError,
    },
    /// An index of a sharded checkpoint that does not say what it should.
    #[error("{at}: not an index of a sharded checkpoint: {}", shown(source))]
    Index {
        /// The index.
        at: Origin,
        /// The cause.
        source: serde_json::Error,
    },
    /// An index that is too large to be one.
    #[error("{at}: an index of {len} bytes; at most {limit} are allowed")]
    IndexSize {
        /// The index.
        at: Origin,
        /// Its bytes.
        len: u64,
        /// The bytes allowed.
        limit: u64,
    },
    /// An index that points elsewhere.
    #[error("{at}: the index names {}, which is not inside the index's own folder", quoted(file))]
    ShardPath {
        /// The index.
        at: Origin,
        /// The shard.
        file: String,
    },
    /// A tensor that two files hold.
    #[error("{at}: tensor `{}` is also in {}", shown(tensor), other.display())]
    Twice {
        /// The second file.
        at: Origin,
        /// The tensor.
        tensor: String,
        /// The first file.
        other: PathBuf,
    },
    /// A pattern that stands for nothing.
    #[error("prune.include: {0:?} matches no 2-D tensor of the weights")]
    Unmatched(String),
    /// No tensor is left to cut.
    #[error("prune.exclude: every tensor that `include` matches is excluded")]
    NothingToCut,
    /// A pattern that stands for nothing.
    #[error("reconstruct.include: {0:?} matches no tensor that is cut")]
    NotReconstructed(String),
    /// Weights that no equation can be solved for.
    #[error("reconstruct: weights of {0:?} cannot be solved for: only F32, F16 and BF16 can")]
    ReconstructType(Dtype),
    /// A line of a trace that cannot be used.
    #[error("{at}: {source}")]
    Trace {
        /// The trace.
        at: Origin,
        /// The line, and what is wrong with it.
        source: BadLine,
    },
    /// A trace in which nothing is switched.
    #[error("{0}: no switch from one task to another is in it")]
    EmptyTrace(Origin),
    /// The shape of a block does not suit the type of the weights.
    #[error("block: {0}")]
    Block(#[from] ShapeError),
    /// A tensor is not what it should be.
    #[error("{at}: tensor `{}` {fault}", shown(tensor))]
    Tensor {
        /// The file.
        at: Origin,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        fault: TensorFault,
    },
}

/// What is wrong with a tensor.
#[derive(Debug, Error, PartialEq)]
pub enum TensorFault {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It has no elements, or too many.
    #[error("cannot be cut: it is empty or too large; exclude it")]
    Size,
    /// Its name would garble a terminal.
    #[error("has a name with control characters: rename it")]
    Name,
    /// It has no elements, which a bundle cannot hold.
    #[error("has no elements: take it out of the weights")]
    Empty,
    /// Its type is not one that its role allows.
    #[error("is {found:?}, but must be {expected}")]
    Type {
        /// Its type.
        found: Dtype,
        /// The types allowed.
        expected: Expected,
    },
    /// Its type differs from that of the other tensors that are cut.
    #[error(
        "is {found:?}, but `{}` is {expected:?}: exclude one, as blocks have one type",
        shown(other)
    )]
    Mixed {
        /// Its type.
        found: Dtype,
        /// Another tensor that is cut.
        other: String,
        /// The type of the other.
        expected: Dtype,
    },
    /// Its shape is not the one that its role needs.
    #[error("has shape {found:?}, but must have {expected:?}")]
    Shape {
        /// Its shape.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// It is no matrix of moments.
    #[error("is no matrix of moments: {0}")]
    Moment(MomentFault),
    /// An element is out of range.
    #[error("has {value} at element {index}, but must be {expected} everywhere")]
    Value {
        /// Position of the element, row after row.
        index: usize,
        /// The element.
        value: f64,
        /// What is allowed.
        expected: &'static str,
    },
}

/// The types that a role allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any type of floating point numbers up to 64 bits.
    Float,
    /// `U8` or `BOOL`.
    Mask,
    /// Just this one.
    Exactly(Dtype),
}

impl Expected {
    /// Whether the type is allowed.
    pub fn allows(self, dtype: Dtype) -> bool {
        use Dtype::{BF16, BOOL, F8_E4M3, F8_E5M2, F16, F32, F64, U8};
        match self {
            Self::Float => matches!(dtype, F64 | F32 | F16 | BF16 | F8_E4M3 | F8_E5M2),
            Self::Mask => matches!(dtype, U8 | BOOL),
            Self::Exactly(only) => dtype == only,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float => f.write_str("F64, F32, F16, BF16, F8_E4M3 or F8_E5M2"),
            Self::Mask => f.write_str("U8 or BOOL"),
            Self::Exactly(dtype) => write!(f, "{dtype:?}"),
        }
    }
}

impl InputError {
    fn is_usage(&self) -> bool {
        use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
        match self {
            Self::Read { source, .. } => {
                matches!(source.kind(), NotFound | PermissionDenied | NotADirectory | InvalidInput)
            }
            _ => true,
        }
    }
}
