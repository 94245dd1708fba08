//! The inputs of a product, laid out as the weights' words lie.
//!
//! For each row of the batch, for each column of the grid: the inputs to the first elements of the
//! words in a block's row, then those to the second ones. It deliberately leaves out what lies
//! beyond the weight's last column: weights are zero there, and need not be multiplied.

use super::element::{Element, MAX_PARTS};
use crate::bundle::Tiling;

/// Floats in a cache line.
const LINE: usize = 16;

/// Floats that begin where a cache line does, so that vectors need not straddle two.
pub(super) struct Aligned {
    floats: Vec<f32>,
    start: usize,
}

impl Aligned {
    /// As many zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let floats = vec![0.0_f32; len + LINE];
        let start = floats.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { floats, start }
    }

    pub(super) fn as_slice(&self) -> &[f32] {
        &self.floats[self.start..]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.floats[self.start..]
    }
}

/// The inputs.
pub(super) struct Inputs {
    floats: Aligned,
    batch: usize,
    /// Floats from one row of the batch to the next.
    stride: usize,
    /// Floats from one column of the grid to the next; the last one may have fewer.
    step: usize,
}

impl Inputs {
    /// Lays out `x`, which is batch x columns of the weight, row by row.
    pub(super) fn new<W: Element>(tiling: &Tiling, x: &[f32]) -> Self {
        let [_, columns] = tiling.shape();
        let block_cols = tiling.block().cols();
        let step = block_cols.next_multiple_of(W::PARTS);
        let before_last = tiling.grid()[1] - 1;
        let last = columns - before_last * block_cols;
        let stride = before_last * step + last.next_multiple_of(W::PARTS);
        let batch = x.len() / columns;
        let mut inputs = Self { floats: Aligned::zeros(batch * stride), batch, stride, step };
        let rows = inputs.floats.as_mut_slice().chunks_exact_mut(stride);
        for (from, to) in x.chunks_exact(columns).zip(rows) {
            for (from, to) in from.chunks(block_cols).zip(to.chunks_mut(step)) {
                split::<W>(from, to);
            }
        }
        inputs
    }

    /// Rows of the batch.
    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// What a row of the batch has for a column of the grid: by part of a word, an input for each
    /// word.
    #[inline]
    pub(super) fn at<W: Element>(&self, row: usize, grid_col: usize) -> [&[f32]; MAX_PARTS] {
        let start = grid_col * self.step;
        let len = self.step.min(self.stride - start);
        let inputs = &self.floats.as_slice()[row * self.stride + start..][..len];
        let (first, second) = inputs.split_at(len / W::PARTS);
        [first, second]
    }
}

/// Puts apart what belongs to first and to second elements of words.
fn split<W: Element>(from: &[f32], to: &mut [f32]) {
    let words = to.len() / W::PARTS;
    for (element, &float) in from.iter().enumerate() {
        to[element % W::PARTS * words + element / W::PARTS] = float;
    }
}
