//! The bundle: one file with a model's blocks, its tasks and all that is needed to serve them.
//!
//! Bytes become a [`Bundle`] only by way of an [`Outline`]: reading one checks the header, and
//! [`Outline::validate`] the index, by every rule of `docs/format.md`. The rest of the program accepts
//! nothing else. A bundle reads its index in memory of its own, or in a mapping that cannot change,
//! so that a file that changes later can harm block reads (whose checksums tell) but not the index.
//! This module reads no blocks: that is `storage`.

mod checksum;
mod fault;
mod geometry;
mod header;
mod meta;
mod parse;
mod table;
mod validate;
mod verify;
mod writer;

pub use checksum::{Subject, checksum};
pub use fault::{Fault, OpenError};
pub use geometry::{BlockShape, ShapeError, Tiling};
pub use header::{header, lay_out};
pub use meta::{BundleId, InputDigest, LayoutMeta, Meta, Provenance, TaskMeta, TensorMeta};
pub use parse::{Outline, open};
pub use table::IndexBytes;
pub use verify::{Damage, VerifyError};
pub use writer::{BaseSpec, GridSpec, Tables, WriteError, Writer};

use crate::units::{BlockIndex, TaskIndex};
use fixedbitset::FixedBitSet;
use safetensors::Dtype;
use std::ops::Range;
use table::{Members, Table, TaskSet};
use zerocopy::little_endian as le;

/// The format version that this program writes, and the only one that it reads.
pub const FORMAT: u32 = 1;
/// In a grid: no task keeps a block here.
pub const ABSENT: u32 = u32::MAX;
/// Most tasks in a bundle.
pub const MAX_TASKS: usize = 64;
/// Most blocks in a bundle: 256 GiB of the smallest ones.
pub const MAX_BLOCKS: u64 = 1 << 26;
/// Largest block.
pub const MAX_BLOCK_BYTES: u64 = 16 << 20;
/// Largest header.
pub const MAX_HEADER_BYTES: u64 = 32 << 20;
/// Most tensors that a header describes. Reading a header takes up to 900 bytes of memory for each.
pub const MAX_HEADER_TENSORS: usize = 1 << 17;
/// Largest index, which is held in memory.
pub const MAX_INDEX_BYTES: u64 = 2 << 30;
/// Longest name of a task or a model.
pub const MAX_NAME_LEN: usize = 64;

const _: () = assert!(MAX_BLOCKS < ABSENT as u64, "every index must differ from ABSENT");
const _: () = assert!(
    MAX_BLOCKS * 8 + MAX_BLOCKS / 8 * MAX_TASKS as u64 <= MAX_INDEX_BYTES / 2,
    "checksums and sets of the largest bundle must leave half of the index to the grids"
);

/// A verified index of a bundle.
#[derive(Debug)]
pub struct Bundle {
    meta: Meta,
    checksums: Table<le::U64>,
    tasks: Vec<TaskSet>,
    tensors: Vec<PrunedTensor>,
    base: Base,
    blocks_offset: u64,
}

/// A tensor that is cut into blocks.
#[derive(Debug)]
pub struct PrunedTensor {
    name: String,
    tiling: Tiling,
    grid: Table<le::U32>,
    /// By task: the grid that overrides `grid` where it is not [`ABSENT`].
    own: Vec<(TaskIndex, Table<le::U32>)>,
}

/// The tensors that every task needs as they are, contiguous in the file.
#[derive(Debug)]
pub struct Base {
    /// Where the region lies in the file; empty if there are no such tensors.
    pub region: Range<u64>,
    /// The tensors in the order of the file.
    pub tensors: Vec<BaseTensor>,
}

/// A tensor of the base.
#[derive(Debug)]
pub struct BaseTensor {
    /// The tensor's name in the model.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its bytes lie, relative to the start of the base region.
    pub range: Range<u64>,
    /// Checksum of its bytes.
    pub checksum: u64,
}

impl Bundle {
    /// The identity of inputs and settings.
    pub fn id(&self) -> BundleId {
        self.meta.bundle_id
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.meta.model
    }

    /// The shape and element type of a block.
    pub fn block(&self) -> BlockShape {
        self.meta.block
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.checksums.len()
    }

    /// Whether there is no block; never so for a bundle that was parsed.
    pub fn is_empty(&self) -> bool {
        self.checksums.is_empty()
    }

    /// All that the file says of itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The base tensors.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The tensors that are cut into blocks.
    pub fn tensors(&self) -> &[PrunedTensor] {
        &self.tensors
    }

    /// The tasks, in the order of their indices.
    pub fn task_indices(&self) -> impl Iterator<Item = TaskIndex> + use<> {
        (0..u32::try_from(self.tasks.len()).unwrap_or(u32::MAX)).map(TaskIndex)
    }

    /// The task of this name.
    pub fn find_task(&self, name: &str) -> Option<TaskIndex> {
        self.task_indices().find(|&task| self.task(task).name == name)
    }

    /// What is said of a task.
    pub fn task(&self, task: TaskIndex) -> &TaskMeta {
        &self.meta.tasks[task.index()]
    }

    /// The set of a task's blocks. It is made when it is first asked for, and takes a bit a block.
    pub fn task_blocks(&self, task: TaskIndex) -> &FixedBitSet {
        self.tasks[task.index()].as_set(self.len())
    }

    /// Where a block lies in the file.
    pub fn block_offset(&self, block: BlockIndex) -> u64 {
        self.blocks_offset + u64::from(block.0) * self.block().bytes()
    }

    /// The checksum that a block must have.
    pub fn expected_checksum(&self, block: BlockIndex) -> u64 {
        self.checksums[block.index()].get()
    }

    /// Whether these bytes are the block's.
    pub fn block_matches(&self, block: BlockIndex, bytes: &[u8]) -> bool {
        checksum(self.id(), Subject::Block(block), bytes) == self.expected_checksum(block)
    }

    /// Blocks of `to` that are not in `from`.
    pub fn diff(&self, from: TaskIndex, to: TaskIndex) -> usize {
        self.task_blocks(to).difference_count(self.task_blocks(from))
    }

    /// Bytes that a switch needs of blocks that the task before has not, as expected over the
    /// bundle's transitions.
    pub fn expected_switch_bytes(&self) -> f64 {
        let rows = self.task_indices().zip(&self.meta.transitions);
        let row = |(from, shares): (TaskIndex, &Vec<f64>)| {
            let pairs = self.task_indices().zip(shares);
            pairs.map(|(to, share)| share * self.diff(from, to) as f64).sum::<f64>()
        };
        rows.map(row).fold(0.0, |sum, part| sum + part) * self.block().bytes() as f64
    }

    /// Mean over ordered pairs of tasks of the share of the second's blocks that the first has
    /// not; 0 if there is but one task.
    pub fn mean_diff(&self) -> f64 {
        let tasks = || self.task_indices();
        let pairs = tasks().flat_map(|from| tasks().map(move |to| (from, to)));
        let shares = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| self.diff(from, to) as f64 / self.task(to).blocks as f64);
        let shares: Vec<_> = shares.collect();
        shares.iter().sum::<f64>() / shares.len().max(1) as f64
    }
}

impl Base {
    /// Bytes of the region.
    pub fn bytes(&self) -> u64 {
        self.region.end - self.region.start
    }
}

impl PrunedTensor {
    /// The tensor's name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the tensor is cut.
    pub fn tiling(&self) -> Tiling {
        self.tiling
    }

    /// All blocks of the tensor, by place: at each the shared one first.
    pub fn all_blocks(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        let own = |place: usize| self.own.iter().map(move |(_, grid)| grid[place]);
        let at = move |(place, shared): (usize, &le::U32)| {
            std::iter::once(*shared).chain(own(place)).map(|block| block.get())
        };
        let blocks = self.grid.iter().enumerate().flat_map(at);
        blocks.filter(|&block| block != ABSENT).map(BlockIndex)
    }

    /// For each place of the grid, row by row, the block that the task has there.
    pub fn blocks_of<'a>(
        &'a self,
        bundle: &'a Bundle,
        task: TaskIndex,
    ) -> impl Iterator<Item = Option<BlockIndex>> + 'a {
        let (own, members) = (self.own_of(task), bundle.tasks[task.index()].members());
        let places = self.grid.iter().enumerate();
        places.map(move |(place, shared)| pick(*shared, own.map(|grid| grid[place]), members))
    }

    /// The block that the task has at a place of the grid; `None` past the last place, too.
    pub fn block_at(&self, bundle: &Bundle, task: TaskIndex, place: usize) -> Option<BlockIndex> {
        let shared = self.grid.get(place)?;
        let own = self.own_of(task).map(|grid| grid[place]);
        pick(*shared, own, bundle.tasks[task.index()].members())
    }

    fn own_of(&self, task: TaskIndex) -> Option<&[le::U32]> {
        self.own.iter().find(|(owner, _)| *owner == task).map(|(_, grid)| &**grid)
    }
}

/// Of the blocks at a place, the one that a task has.
fn pick(shared: le::U32, own: Option<le::U32>, members: Members<'_>) -> Option<BlockIndex> {
    let own = own.map(le::U32::get).filter(|&block| block != ABSENT);
    let block = own.unwrap_or(shared.get());
    // No set has ABSENT.
    members.contain(block).then_some(BlockIndex(block))
}

/// Whether a name may stand for a model, a task or a session: 1 to 64 letters, digits, `.`, `_`
/// or `-`, but not `.` or `..`. It is safe in a path, a label and a log line.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
