//! How a 2-D tensor is cut into blocks and put together again.
//!
//! Elements are opaque bytes here; what they mean is `compile::score`'s business.

use super::MAX_BLOCK_BYTES;
use crate::units::BLOCK_ALIGN;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use thiserror::Error;

/// Shape and element type of a block. Only [`BlockShape::new`] and a validated bundle make one
/// that the rest may rely on: the bytes are a non-zero multiple of [`BLOCK_ALIGN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockShape {
    rows: u32,
    cols: u32,
    dtype: Dtype,
}

/// Why a block shape cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ShapeError {
    /// The element type cannot be cut into blocks.
    #[error("blocks of {0:?} are not supported: use F32, F16, BF16, I8, U8, F8_E4M3 or F8_E5M2")]
    Dtype(Dtype),
    /// The bytes of a block are zero, unaligned or too many.
    #[error(
        "a block of {rows} x {cols} {dtype:?} must have a multiple of {BLOCK_ALIGN} bytes, \
         at most {MAX_BLOCK_BYTES}"
    )]
    Bytes {
        /// Rows of the block.
        rows: u32,
        /// Columns of the block.
        cols: u32,
        /// Element type.
        dtype: Dtype,
    },
}

impl BlockShape {
    /// A block of `rows` x `cols` elements.
    pub fn new(rows: u32, cols: u32, dtype: Dtype) -> Result<Self, ShapeError> {
        let shape = Self { rows, cols, dtype };
        shape.check()?;
        Ok(shape)
    }

    pub(super) fn check(&self) -> Result<(), ShapeError> {
        let Self { rows, cols, dtype } = *self;
        use Dtype::{BF16, F8_E4M3, F8_E5M2, F16, F32, I8, U8};
        if !matches!(dtype, F32 | F16 | BF16 | I8 | U8 | F8_E4M3 | F8_E5M2) {
            return Err(ShapeError::Dtype(dtype));
        }
        let elements = u64::from(rows) * u64::from(cols);
        let bytes = elements.checked_mul(self.element_bytes() as u64);
        match bytes {
            Some(bytes) if (1..=MAX_BLOCK_BYTES).contains(&bytes) && bytes % BLOCK_ALIGN == 0 => {
                Ok(())
            }
            _ => Err(ShapeError::Bytes { rows, cols, dtype }),
        }
    }

    /// Rows of a block.
    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    /// Columns of a block.
    pub fn cols(&self) -> usize {
        self.cols as usize
    }

    /// Type of an element.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Bytes of a block.
    pub fn bytes(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.cols) * self.element_bytes() as u64
    }

    /// Bytes of a block, as the length of a slice.
    pub fn len(&self) -> usize {
        self.rows() * self.cols() * self.element_bytes()
    }

    /// Whether a block has no bytes; never so for a checked shape.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor of `rows` x `cols` elements, row after row, seen as a grid of blocks. Blocks at the
/// lower and right edges are filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    rows: usize,
    cols: usize,
    block: BlockShape,
}

/// The part of one block that lies inside the tensor.
struct Tile {
    /// Where the tile's first row begins in the tensor, in bytes.
    origin: usize,
    /// Bytes from a row of the tensor to the next.
    tensor_stride: usize,
    /// Bytes from a row of the block to the next.
    block_stride: usize,
    rows: usize,
    row_bytes: usize,
}

impl Tiling {
    /// Cuts a tensor of this shape; `None` if it is empty or its size overflows.
    pub fn new(shape: [u64; 2], block: BlockShape) -> Option<Self> {
        let [rows, cols] = shape.map(|n| usize::try_from(n).ok());
        let (rows, cols) = (rows?, cols?);
        let bytes = rows.checked_mul(cols)?.checked_mul(block.element_bytes())?;
        (bytes > 0 && bytes <= isize::MAX as usize).then_some(Self { rows, cols, block })
    }

    /// The tensor's shape.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// The block's shape.
    pub fn block(&self) -> BlockShape {
        self.block
    }

    /// Bytes of the dense tensor.
    pub fn dense_len(&self) -> usize {
        self.rows * self.cols * self.block.element_bytes()
    }

    /// Rows and columns of the grid.
    pub fn grid(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.block.rows()), self.cols.div_ceil(self.block.cols())]
    }

    /// Places of the grid; a place is `row * grid columns + column`.
    pub fn places(&self) -> usize {
        let [rows, cols] = self.grid();
        rows * cols
    }

    /// The bytes of one row of blocks, and that row as a tensor of its own: its places are the
    /// columns of the grid.
    pub fn band(&self, grid_row: usize) -> (Range<usize>, Self) {
        let row_bytes = self.cols * self.block.element_bytes();
        let start = grid_row * self.block.rows();
        let end = self.rows.min(start + self.block.rows());
        (start * row_bytes..end * row_bytes, Self { rows: end - start, ..*self })
    }

    /// Copies the block at `place` out of the dense tensor; what lies outside becomes zero.
    pub fn cut(&self, dense: &[u8], place: usize, block: &mut [u8]) {
        let tile = self.tile(place);
        block.fill(0);
        for row in 0..tile.rows {
            let from = tile.origin + row * tile.tensor_stride;
            let to = row * tile.block_stride;
            block[to..][..tile.row_bytes].copy_from_slice(&dense[from..][..tile.row_bytes]);
        }
    }

    /// Copies the block at `place` into the dense tensor; what lies outside is left out.
    pub fn paste(&self, block: &[u8], place: usize, dense: &mut [u8]) {
        let tile = self.tile(place);
        for row in 0..tile.rows {
            let to = tile.origin + row * tile.tensor_stride;
            let from = row * tile.block_stride;
            dense[to..][..tile.row_bytes].copy_from_slice(&block[from..][..tile.row_bytes]);
        }
    }

    fn tile(&self, place: usize) -> Tile {
        let element = self.block.element_bytes();
        let grid_cols = self.grid()[1];
        let row = place / grid_cols * self.block.rows();
        let col = place % grid_cols * self.block.cols();
        Tile {
            origin: (row * self.cols + col) * element,
            tensor_stride: self.cols * element,
            block_stride: self.block.cols() * element,
            rows: self.block.rows().min(self.rows - row),
            row_bytes: self.block.cols().min(self.cols - col) * element,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_shape_is_aligned_bounded_and_of_a_known_type() {
        assert!(BlockShape::new(32, 32, Dtype::F32).is_ok());
        assert!(BlockShape::new(64, 64, Dtype::F8_E4M3).is_ok());
        for (rows, cols) in [(0, 32), (31, 32), (u32::MAX, u32::MAX), (1 << 14, 1 << 14)] {
            assert!(BlockShape::new(rows, cols, Dtype::F32).is_err(), "{rows} x {cols}");
        }
        assert_eq!(BlockShape::new(64, 64, Dtype::I64), Err(ShapeError::Dtype(Dtype::I64)));
    }

    #[test]
    fn a_tiling_refuses_empty_and_overflowing_tensors() {
        let block = BlockShape::new(32, 32, Dtype::F32).unwrap();
        assert!(Tiling::new([0, 5], block).is_none());
        assert!(Tiling::new([u64::MAX, 2], block).is_none());
        assert!(Tiling::new([1 << 31, 1 << 31], block).is_none());
    }

    proptest! {
        #[test]
        fn bands_cover_the_tensor_and_hold_its_blocks(rows in 1u64..100, cols in 1u64..200) {
            let block = BlockShape::new(32, 128, Dtype::U8).unwrap();
            let tiling = Tiling::new([rows, cols], block).unwrap();
            let dense: Vec<u8> = (1..=251).cycle().take(tiling.dense_len()).collect();
            let [grid_rows, grid_cols] = tiling.grid();
            let (mut whole, mut part) = (vec![0; block.len()], vec![0; block.len()]);
            let mut end = 0;
            for row in 0..grid_rows {
                let (bytes, band) = tiling.band(row);
                prop_assert_eq!(bytes.start, end);
                end = bytes.end;
                for col in 0..grid_cols {
                    tiling.cut(&dense, row * grid_cols + col, &mut whole);
                    band.cut(&dense[bytes.clone()], col, &mut part);
                    prop_assert_eq!(&whole, &part);
                }
            }
            prop_assert_eq!(end, dense.len());
        }

        #[test]
        fn pasting_every_cut_block_gives_the_tensor_back(rows in 1u64..100, cols in 1u64..200) {
            let block = BlockShape::new(32, 128, Dtype::U8).unwrap();
            let tiling = Tiling::new([rows, cols], block).unwrap();
            let dense: Vec<u8> = (1..=251).cycle().take(tiling.dense_len()).collect();
            let mut copy = vec![0; dense.len()];
            let mut bytes = vec![0xff; block.len()];
            let mut inside = 0;
            for place in 0..tiling.places() {
                tiling.cut(&dense, place, &mut bytes);
                inside += bytes.iter().filter(|&&b| b != 0).count();
                tiling.paste(&bytes, place, &mut copy);
            }
            prop_assert_eq!(inside, dense.len(), "padding must be zero");
            prop_assert_eq!(copy, dense);
        }
    }
}
