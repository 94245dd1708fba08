//! Tensors under a lease, in place: a base tensor is a slice, a tensor that is cut into blocks is
//! those of its blocks that the task has.
//!
//! Nothing here copies weights, except [`Sparse::to_dense`], which says so.

use super::{AttachError, Lease, product};
use crate::{
    bundle::{BaseTensor, PrunedTensor, Tiling},
    units::BlockIndex,
};
use half::{bf16, f16};
use safetensors::Dtype;
use zerocopy::{FromBytes, Immutable};

/// A tensor of the model.
#[derive(Debug)]
pub enum Tensor<'l> {
    /// One that every task has as it is.
    Base(Base<'l>),
    /// One that is cut into blocks.
    Sparse(Sparse<'l>),
}

/// A base tensor, in place.
#[derive(Clone, Copy, Debug)]
pub struct Base<'l> {
    tensor: &'l BaseTensor,
    bytes: &'l [u8],
}

/// A tensor that is cut into blocks, as the lease's task has it. Where it has no block, it is zero.
#[derive(Clone, Copy, Debug)]
pub struct Sparse<'l> {
    lease: &'l Lease<'l>,
    tensor: &'l PrunedTensor,
}

/// A block, in place.
#[derive(Clone, Copy, Debug)]
pub struct Block<'l> {
    /// Its row in the grid of blocks.
    pub row: usize,
    /// Its column in the grid of blocks.
    pub col: usize,
    /// Its elements, row by row; what lies outside the tensor is zero.
    pub bytes: &'l [u8],
}

/// A type of elements that can be looked at as they lie.
pub trait Element: FromBytes + Immutable {
    /// What safetensors calls it.
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}

impl Element for f16 {
    const DTYPE: Dtype = Dtype::F16;
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::BF16;
}

impl<'l> Base<'l> {
    pub(super) fn new(tensor: &'l BaseTensor, bytes: &'l [u8]) -> Self {
        Self { tensor, bytes }
    }

    /// The tensor's name in the model.
    pub fn name(&self) -> &'l str {
        &self.tensor.name
    }

    /// Its element type.
    pub fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    /// Its shape.
    pub fn shape(&self) -> &'l [usize] {
        &self.tensor.shape
    }

    /// Its bytes.
    pub fn bytes(&self) -> &'l [u8] {
        self.bytes
    }

    /// Its elements, or `None` if they are of another type.
    pub fn as_slice<T: Element>(&self) -> Option<&'l [T]> {
        let elements = <[T]>::ref_from_bytes(self.bytes).ok();
        elements.filter(|_| self.dtype() == T::DTYPE)
    }
}

impl<'l> Sparse<'l> {
    pub(super) fn new(lease: &'l Lease<'l>, tensor: &'l PrunedTensor) -> Self {
        Self { lease, tensor }
    }

    /// The tensor's name in the model.
    pub fn name(&self) -> &'l str {
        self.tensor.name()
    }

    /// Its shape, the shape and type of its blocks, and its grid.
    pub fn tiling(&self) -> Tiling {
        self.tensor.tiling()
    }

    /// The task's blocks, row by row. A block that the table does not place is an error: its
    /// weights are not zero but unknown.
    pub fn blocks(&self) -> impl Iterator<Item = Result<Block<'l>, AttachError>> + use<'l> {
        let (lease, [_, cols]) = (self.lease, self.tiling().grid());
        self.places().map(move |(place, block)| {
            Ok(Block { row: place / cols, col: place % cols, bytes: lease.block(block)? })
        })
    }

    /// The task's block at this row and column of the grid; `None` if it has none there, so that the
    /// weights are zero, and outside the grid.
    pub fn block(&self, row: usize, col: usize) -> Result<Option<Block<'l>>, AttachError> {
        let [rows, cols] = self.tiling().grid();
        if row >= rows || col >= cols {
            return Ok(None);
        }
        let (lease, place) = (self.lease, row * cols + col);
        let block = self.tensor.block_at(lease.bundle(), lease.task(), place);
        block.map(|block| Ok(Block { row, col, bytes: lease.block(block)? })).transpose()
    }

    /// The tensor as the task has it, zeros included: rows x columns elements, row by row. This
    /// copies.
    pub fn to_dense(&self) -> Result<Vec<u8>, AttachError> {
        let mut dense = vec![0; self.tiling().dense_len()];
        self.paste(&mut dense)?;
        Ok(dense)
    }

    /// Computes y = x · Wᵀ in place, as [`product`] has it: `x` is batch x columns, `y` batch x rows.
    pub fn product(&self, x: &[f32], batch: usize, y: &mut [f32]) -> Result<(), AttachError> {
        let (tiling, lease) = (self.tiling(), self.lease);
        let blocks = self.places().map(|(place, block)| Ok((place, lease.block(block)?)));
        product::<AttachError>(&tiling, blocks, x, batch, y)
    }

    /// Copies the task's blocks into a dense tensor of zeros.
    pub(super) fn paste(&self, dense: &mut [u8]) -> Result<(), AttachError> {
        for (place, block) in self.places() {
            self.tiling().paste(self.lease.block(block)?, place, dense);
        }
        Ok(())
    }

    /// The places of the grid where the task has a block, with that block.
    fn places(&self) -> impl Iterator<Item = (usize, BlockIndex)> + use<'l> {
        let blocks = self.tensor.blocks_of(self.lease.bundle(), self.lease.task());
        blocks.enumerate().filter_map(|(place, block)| Some((place, block?)))
    }
}
