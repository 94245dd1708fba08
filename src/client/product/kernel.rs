//! The loops of a product: one row of the grid against the whole batch.
//!
//! Sums are vectors, one for each pair of a weight's row and a row of the batch; their lanes are
//! added up when the last block of the row is done. How the work is cut never shows in a result,
//! for each sum takes its products in the same order. Deliberately without a path of its own for
//! any processor, batch or shape, and without fetching ahead: that needs unsafe code, and to touch
//! memory ahead of its turn made reading slower wherever it was tried.

use super::{
    element::{Element, MAX_PARTS},
    inputs::{Aligned, Inputs},
};
use crate::bundle::BlockShape;
use pulp::{Simd, WithSimd};
use std::{array, marker::PhantomData, ops::Range};
use zerocopy::{FromBytes, IntoBytes};

/// Sums that are kept at a time: of 64 bytes at most, so that they fill a third of a small cache.
const SUMS: usize = 256;
/// Lanes of the widest vectors.
const MAX_LANES: usize = 16;
/// Bytes of a word.
const WORD: usize = size_of::<u32>();

/// What is kept from one row of the grid to the next, only to spare allocations.
pub(super) struct Scratch {
    sums: Aligned,
    rows: Rows,
}

/// How the rows of a block lie in memory, and room for a block whose rows lie otherwise.
struct Rows {
    /// Bytes of a row.
    bytes: usize,
    /// Words from one row to the next.
    stride: usize,
    copy: Vec<u32>,
}

impl Scratch {
    pub(super) fn new(shape: BlockShape) -> Self {
        let bytes = shape.cols() * shape.element_bytes();
        let rows = Rows { bytes, stride: bytes.div_ceil(WORD), copy: Vec::new() };
        Self { sums: Aligned::zeros(SUMS * MAX_LANES), rows }
    }
}

impl Rows {
    /// A block as words, with each row from a word on: where it lies if it lies so, else a copy.
    fn words<'b>(&'b mut self, block: &'b [u8]) -> &'b [u32] {
        let Self { bytes, stride, ref mut copy } = *self;
        if bytes == stride * WORD
            && let Ok(words) = <[u32]>::ref_from_bytes(block)
        {
            return words;
        }
        copy.clear();
        copy.resize(block.len() / bytes * stride, 0);
        for (from, to) in block.chunks_exact(bytes).zip(copy.chunks_exact_mut(stride)) {
            to.as_mut_bytes()[..bytes].copy_from_slice(from);
        }
        copy
    }
}

/// One row of the grid against the batch.
pub(super) struct Band<'b, W> {
    /// The blocks that there are, each with its column of the grid.
    pub(super) blocks: &'b [(usize, &'b [u8])],
    pub(super) inputs: &'b Inputs,
    pub(super) scratch: &'b mut Scratch,
    /// The weight's rows that lie in this row of the grid.
    pub(super) rows: Range<usize>,
    /// Of the whole product: batch x rows of the weight.
    pub(super) y: &'b mut [f32],
    pub(super) element: PhantomData<W>,
}

impl<W: Element> WithSimd for Band<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let batch = self.inputs.batch();
        // Four is what registers suffice for.
        for first in (0..batch).step_by(4) {
            match batch - first {
                1 => self.piece::<S, 1>(simd, first),
                2 => self.piece::<S, 2>(simd, first),
                3 => self.piece::<S, 3>(simd, first),
                _ => self.piece::<S, 4>(simd, first),
            }
        }
    }
}

impl<W: Element> Band<'_, W> {
    /// The product with `B` rows of the batch, from `first` on.
    #[inline(always)]
    fn piece<S: Simd, const B: usize>(&mut self, simd: S, first: usize) {
        let at_once = SUMS / B.next_power_of_two();
        for start in (0..self.rows.len()).step_by(at_once) {
            let rows = start..self.rows.len().min(start + at_once);
            self.strip::<S, B>(simd, first, rows);
        }
    }

    /// The same, for some of the band's rows.
    #[inline(always)]
    fn strip<S: Simd, const B: usize>(&mut self, simd: S, first: usize, rows: Range<usize>) {
        let stride = self.scratch.rows.stride;
        let sums = S::as_mut_simd_f32s(self.scratch.sums.as_mut_slice()).0;
        let sums = &mut sums.as_chunks_mut::<B>().0[..rows.len()];
        sums.fill([simd.splat_f32s(0.0); B]);
        for &(col, block) in self.blocks {
            let words = self.scratch.rows.words(block);
            let words = &words[rows.start * stride..rows.end * stride];
            let x = array::from_fn(|row| self.inputs.at::<W>(first + row, col));
            Tile::<W, B> { words, stride, x, element: PhantomData }.add(simd, sums);
        }
        let all_rows = self.y.len() / self.inputs.batch();
        for (row, sums) in (self.rows.start + rows.start..).zip(sums) {
            for (b, &mut sum) in sums.iter_mut().enumerate() {
                self.y[(first + b) * all_rows + row] = simd.reduce_sum_f32s(sum);
            }
        }
    }
}

/// Some rows of a block against `B` rows of inputs.
struct Tile<'b, W, const B: usize> {
    words: &'b [u32],
    /// Words from one row to the next.
    stride: usize,
    /// By row of inputs and by part of a word: an input for each word.
    x: [[&'b [f32]; MAX_PARTS]; B],
    element: PhantomData<W>,
}

impl<W: Element, const B: usize> Tile<'_, W, B> {
    /// Adds the products to the sums, of which each of the rows has `B`.
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, sums: &mut [[S::f32s; B]]) {
        let mut at = 0;
        self.add_while::<S, 8>(simd, &mut at, sums);
        self.add_while::<S, 4>(simd, &mut at, sums);
        self.add_while::<S, 2>(simd, &mut at, sums);
        self.add_while::<S, 1>(simd, &mut at, sums);
        if at < self.used() {
            self.add_rest(simd, at, sums);
        }
    }

    /// Goes on from word `at` in steps of `V` vectors, as long as there are as many, and if there
    /// are registers for as many: half of them may hold inputs.
    #[inline(always)]
    fn add_while<S: Simd, const V: usize>(
        &self,
        simd: S,
        at: &mut usize,
        sums: &mut [[S::f32s; B]],
    ) {
        let step = V * S::U32_LANES;
        if V == 1 || V * W::PARTS * B <= S::REGISTER_COUNT / 2 {
            while self.used() - *at >= step {
                self.add_columns::<S, V>(simd, *at, sums);
                *at += step;
            }
        }
    }

    /// Words of a row that have inputs.
    #[inline(always)]
    fn used(&self) -> usize {
        self.x.first().map_or(0, |parts| parts[0].len())
    }

    /// Adds the products of `V` vectors of words in each row, from word `at` on. Their inputs stay
    /// in registers; and if that is all of a row, memory is read from front to back, as the
    /// processor fetches it ahead best.
    #[inline(always)]
    fn add_columns<S: Simd, const V: usize>(&self, simd: S, at: usize, sums: &mut [[S::f32s; B]]) {
        let columns = at..at + V * S::U32_LANES;
        let mut x = [[[simd.splat_f32s(0.0); V]; MAX_PARTS]; B];
        for (x, inputs) in x.iter_mut().zip(&self.x) {
            for (x, inputs) in x.iter_mut().zip(inputs).take(W::PARTS) {
                x.copy_from_slice(S::as_simd_f32s(&inputs[columns.clone()]).0);
            }
        }
        for (row, sums) in self.words.chunks_exact(self.stride).zip(sums) {
            let words = S::as_simd_u32s(&row[columns.clone()]).0;
            let mut acc = *sums;
            for v in 0..V {
                let weights = W::widen(simd, words[v]);
                for part in 0..W::PARTS {
                    for b in 0..B {
                        acc[b] = simd.mul_add_e_f32s(weights[part], x[b][part][v], acc[b]);
                    }
                }
            }
            *sums = acc;
        }
    }

    /// Adds the products of the words in each row that do not fill a vector, from word `at` on.
    #[inline(always)]
    fn add_rest<S: Simd>(&self, simd: S, at: usize, sums: &mut [[S::f32s; B]]) {
        let columns = at..self.used();
        let mut x = [[simd.splat_f32s(0.0); MAX_PARTS]; B];
        for (x, inputs) in x.iter_mut().zip(&self.x) {
            for (x, inputs) in x.iter_mut().zip(inputs).take(W::PARTS) {
                *x = simd.partial_load_f32s(&inputs[columns.clone()]);
            }
        }
        for (row, sums) in self.words.chunks_exact(self.stride).zip(sums) {
            let weights = W::widen(simd, simd.partial_load_u32s(&row[columns.clone()]));
            for part in 0..W::PARTS {
                for b in 0..B {
                    sums[b] = simd.mul_add_e_f32s(weights[part], x[b][part], sums[b]);
                }
            }
        }
    }
}
