//! The product of a block-sparse weight with dense inputs, computed where the blocks lie.
//!
//! One thread, all sums in 32-bit floats. It deliberately knows neither leases nor daemons, keeps
//! no copy of the weights, and neither sorts blocks nor waits for them.
//!
//! Each result is made of as many partial sums as a vector has lanes. A lane takes its products in
//! the order of the blocks, and within a block in that of the columns; at the end the lanes are
//! added up. So the same inputs give the same bits, wherever the blocks lie, whatever the alignment
//! of the slices, and whatever else is in the batch. Processors with vectors of another width, or
//! without fused multiplication and addition, give other roundings.

mod element;
mod inputs;
mod kernel;

use crate::bundle::Tiling;
use element::{Bf16, Element, F16, F32};
use inputs::Inputs;
use kernel::{Band, Scratch};
use pulp::Arch;
use safetensors::Dtype;
use std::{marker::PhantomData, ops::Range};
use thiserror::Error;

const _: () = assert!(cfg!(target_endian = "little"), "weights are little endian, and read as are");

/// Why a product cannot be computed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProductError {
    /// The weights are of a type that is not multiplied here.
    #[error("weights of {0:?} cannot be multiplied: only F32, F16 and BF16 can")]
    Dtype(Dtype),
    /// `x` has not batch x columns elements.
    #[error("x has {got} elements, which is not {batch} rows of {columns}")]
    Input {
        /// Elements that were given.
        got: usize,
        /// Rows of `x`.
        batch: usize,
        /// Columns of the weight.
        columns: usize,
    },
    /// `y` has not batch x rows elements.
    #[error("y has {got} elements, which is not {batch} rows of {rows}")]
    Output {
        /// Elements that were given.
        got: usize,
        /// Rows of `y`.
        batch: usize,
        /// Rows of the weight.
        rows: usize,
    },
    /// A block lies outside the grid.
    #[error("there is no place {place} in a grid of {places}")]
    Place {
        /// Where the block is said to be.
        place: usize,
        /// Places of the grid.
        places: usize,
    },
    /// A block comes too late, or twice.
    #[error("place {place} comes after place {after}: places must ascend")]
    Order {
        /// Where the block is.
        place: usize,
        /// Where the block before it was.
        after: usize,
    },
    /// A block has not the bytes of its shape.
    #[error("the block at place {place} has {got} bytes instead of {expected}")]
    Block {
        /// Where the block is.
        place: usize,
        /// Bytes that were given.
        got: usize,
        /// Bytes of a block.
        expected: usize,
    },
}

/// Computes y = x · Wᵀ, as a linear layer does whose weight W is rows (out) x columns (in).
///
/// - `tiling` says how W is cut; its elements must be F32, F16 or BF16.
/// - `blocks` gives the blocks of W that there are, each with its place in the grid, in ascending
///   order, and its bytes: little endian, row by row, zero where they reach beyond W. Where no
///   block is, W is zero. An error that comes instead of a block ends the product.
/// - `x` is batch x columns and `y` batch x rows elements, row by row; all of `y` is overwritten.
///
/// What a block holds counts as in a dense product: an infinity in `x` against a zero in a block is
/// not a number, but against an absent block it is nothing.
///
/// Allocates a copy of `x`, a list of one grid row's blocks and some KiB, whatever the number of
/// blocks; and room for one block if slices do not begin, or rows of a block do not end, at a
/// multiple of four bytes: such blocks are copied first.
///
/// # Errors
///
/// What the iterator yields, or a [`ProductError`]. Then `y` holds nothing of use.
pub fn product<'a, E: From<ProductError>>(
    tiling: &Tiling,
    blocks: impl IntoIterator<Item = Result<(usize, &'a [u8]), E>>,
    x: &[f32],
    batch: usize,
    y: &mut [f32],
) -> Result<(), E> {
    check_lengths(tiling, x, batch, y)?;
    let arch = Arch::new();
    match tiling.block().dtype() {
        Dtype::F32 => run::<F32, E>(arch, tiling, blocks, x, y),
        Dtype::F16 => run::<F16, E>(arch, tiling, blocks, x, y),
        Dtype::BF16 => run::<Bf16, E>(arch, tiling, blocks, x, y),
        other => Err(ProductError::Dtype(other).into()),
    }
}

fn check_lengths(tiling: &Tiling, x: &[f32], batch: usize, y: &[f32]) -> Result<(), ProductError> {
    let [rows, columns] = tiling.shape();
    if batch.checked_mul(columns) != Some(x.len()) {
        return Err(ProductError::Input { got: x.len(), batch, columns });
    }
    if batch.checked_mul(rows) != Some(y.len()) {
        return Err(ProductError::Output { got: y.len(), batch, rows });
    }
    Ok(())
}

fn run<'a, W: Element, E: From<ProductError>>(
    arch: Arch,
    tiling: &Tiling,
    blocks: impl IntoIterator<Item = Result<(usize, &'a [u8]), E>>,
    x: &[f32],
    y: &mut [f32],
) -> Result<(), E> {
    let [_, grid_cols] = tiling.grid();
    let inputs = Inputs::new::<W>(tiling, x);
    let mut scratch = Scratch::new(tiling.block());
    y.fill(0.0);
    let mut multiply = |grid_row, blocks: &[_]| {
        let rows = rows_of(tiling, grid_row);
        let (inputs, scratch, y) = (&inputs, &mut scratch, &mut *y);
        arch.dispatch(Band::<W> { blocks, inputs, scratch, rows, y, element: PhantomData });
    };
    // A row of the grid is multiplied when all of its blocks are known: a large batch is cut into
    // pieces, and each of them passes over the row with its sums at hand.
    let (mut row, mut row_blocks) = (0, Vec::new());
    let mut before = None;
    for block in blocks {
        let (place, bytes) = block?;
        check_block(tiling, before.replace(place), place, bytes)?;
        if place / grid_cols != row {
            multiply(row, &row_blocks);
            row_blocks.clear();
            row = place / grid_cols;
        }
        row_blocks.push((place % grid_cols, bytes));
    }
    multiply(row, &row_blocks);
    Ok(())
}

/// The weight's rows that lie in a row of the grid.
fn rows_of(tiling: &Tiling, grid_row: usize) -> Range<usize> {
    let start = grid_row * tiling.block().rows();
    start..tiling.shape()[0].min(start + tiling.block().rows())
}

fn check_block(
    tiling: &Tiling,
    before: Option<usize>,
    place: usize,
    bytes: &[u8],
) -> Result<(), ProductError> {
    let (places, expected) = (tiling.places(), tiling.block().len());
    if place >= places {
        return Err(ProductError::Place { place, places });
    }
    if let Some(after) = before.filter(|&before| before >= place) {
        return Err(ProductError::Order { place, after });
    }
    if bytes.len() != expected {
        return Err(ProductError::Block { place, got: bytes.len(), expected });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::BlockShape;
    use half::{bf16, f16};
    use proptest::prelude::*;

    const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::BF16, Dtype::F16];
    const BATCHES: [usize; 6] = [1, 2, 3, 7, 16, 33];
    /// Block shapes, in elements of 16 bits; of 32 bits, half as many rows or columns do.
    const SHAPES: [[u32; 2]; 10] = [
        [64, 64],
        [32, 64],
        [64, 32],
        [128, 16],
        [512, 36],
        [1024, 2],
        [2, 1024],
        [1, 2048],
        [2048, 1],
        [2048, 3],
    ];

    /// A weight of which some blocks are there.
    struct Weight {
        tiling: Tiling,
        blocks: Vec<(usize, Vec<u8>)>,
    }

    fn float(dtype: Dtype, bytes: &[u8]) -> f32 {
        match (dtype, bytes) {
            (Dtype::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (Dtype::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            (Dtype::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            _ => panic!("{dtype:?} has not {} bytes", bytes.len()),
        }
    }

    fn bytes(dtype: Dtype, float: f32) -> Vec<u8> {
        match dtype {
            Dtype::F32 => float.to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(float).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(float).to_le_bytes().to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn block(dtype: Dtype, [rows, cols]: [u32; 2]) -> BlockShape {
        let halves = if dtype == Dtype::F32 { 2 } else { 1 };
        let [rows, cols] = if rows > 1 { [rows / halves, cols] } else { [1, cols / halves] };
        BlockShape::new(rows, cols, dtype).unwrap()
    }

    impl Weight {
        fn new(block: BlockShape, shape: [u64; 2], keep: f32, seed: u64) -> Self {
            let mut random = fastrand::Rng::with_seed(seed);
            let tiling = Tiling::new(shape, block).unwrap();
            let elements = 0..tiling.shape().into_iter().product();
            let mut element = |_| bytes(block.dtype(), random.f32() - 0.5);
            let dense: Vec<u8> = elements.flat_map(&mut element).collect();
            let cut = |place| {
                let mut bytes = vec![0; block.len()];
                tiling.cut(&dense, place, &mut bytes);
                (place, bytes)
            };
            let kept = (0..tiling.places()).filter(|_| random.f32() < keep);
            Self { tiling, blocks: kept.map(cut).collect() }
        }

        fn blocks(&self) -> impl Iterator<Item = Result<(usize, &[u8]), ProductError>> {
            self.blocks.iter().map(|(place, bytes)| Ok((*place, &bytes[..])))
        }

        fn inputs(&self, batch: usize, seed: u64) -> Vec<f32> {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..batch * self.tiling.shape()[1]).map(|_| random.f32() - 0.5).collect()
        }

        /// Each result in 64 bits, and the sum of the products' magnitudes.
        fn reference(&self, x: &[f32], batch: usize) -> Vec<[f64; 2]> {
            let [rows, columns] = self.tiling.shape();
            let shape = self.tiling.block();
            let mut y = vec![[0.0; 2]; batch * rows];
            for (place, bytes) in &self.blocks {
                let [row, col] = [place / self.tiling.grid()[1], place % self.tiling.grid()[1]];
                let [row, col] = [row * shape.rows(), col * shape.cols()];
                for (at, bytes) in bytes.chunks_exact(shape.element_bytes()).enumerate() {
                    let [row, col] = [row + at / shape.cols(), col + at % shape.cols()];
                    for b in (0..batch).filter(|_| row < rows && col < columns) {
                        let weight = f64::from(float(shape.dtype(), bytes));
                        let term = weight * f64::from(x[b * columns + col]);
                        let [sum, size] = &mut y[b * rows + row];
                        (*sum, *size) = (*sum + term, *size + term.abs());
                    }
                }
            }
            y
        }

        fn product(&self, x: &[f32], batch: usize) -> Vec<f32> {
            // What was there before must not show.
            let mut y = vec![f32::NAN; batch * self.tiling.shape()[0]];
            product(&self.tiling, self.blocks(), x, batch, &mut y).unwrap();
            y
        }
    }

    fn assert_close(y: &[f32], reference: &[[f64; 2]]) {
        for (at, (&got, &[expected, size])) in y.iter().zip(reference).enumerate() {
            let close = (f64::from(got) - expected).abs() <= size * 1e-6;
            let same = f64::from(got) == expected || got.is_nan() && expected.is_nan();
            assert!(close || same, "at {at}: {got} instead of {expected}");
        }
    }

    /// What [`Weight::new`] takes.
    fn weights() -> impl Strategy<Value = (BlockShape, [u64; 2], f32, u64)> {
        let shape = (prop::sample::select(&DTYPES[..]), prop::sample::select(&SHAPES[..]));
        let size = (1.0..3.5, 1.0..3.5, 0.0_f32..1.0, any::<u64>());
        (shape, size).prop_map(|((dtype, shape), (down, along, keep, seed))| {
            let block = block(dtype, shape);
            let length = |blocks: f64, length: usize| (blocks * length as f64) as u64;
            (block, [length(down, block.rows()), length(along, block.cols())], keep, seed)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_product_is_what_64_bits_say(
            (block, shape, keep, seed) in weights(),
            batch in prop::sample::select(&BATCHES[..]),
        ) {
            let weight = Weight::new(block, shape, keep, seed);
            let x = weight.inputs(batch, 1);
            assert_close(&weight.product(&x, batch), &weight.reference(&x, batch));
        }

        #[test]
        fn neither_the_batch_nor_where_blocks_lie_changes_a_bit(
            (block, shape, keep, seed) in weights(),
            shift in 0..8_usize,
        ) {
            let weight = Weight::new(block, shape, keep, seed);
            let [rows, columns] = weight.tiling.shape();
            let x = weight.inputs(7, 1);
            let y = weight.product(&x, 7);
            for (x, y) in x.chunks(columns).zip(y.chunks(rows)) {
                prop_assert_eq!(weight.product(x, 1), y);
            }
            let shifted = |bytes: &[u8]| [&vec![0; shift][..], bytes].concat();
            let moved = weight.blocks.iter().map(|(place, bytes)| (*place, shifted(bytes)));
            let moved: Vec<_> = moved.collect();
            let blocks = moved.iter().map(|(place, bytes)| Ok((*place, &bytes[shift..])));
            let mut again = vec![f32::NAN; y.len()];
            prop_assert_eq!(product(&weight.tiling, blocks, &x, 7, &mut again), Ok::<_, ProductError>(()));
            prop_assert_eq!(again, y);
        }
    }

    /// Two rows of three blocks, which reach beyond both edges.
    fn small(dtype: Dtype) -> Weight {
        Weight::new(BlockShape::new(64, 64, dtype).unwrap(), [100, 150], 1.0, 3)
    }

    #[test]
    fn every_instruction_set_gives_what_64_bits_say() {
        for dtype in DTYPES {
            for shape in SHAPES {
                let weight = Weight::new(block(dtype, shape), [130, 290], 0.7, 5);
                let x = weight.inputs(3, 1);
                for arch in arches() {
                    let mut y = vec![f32::NAN; 3 * 130];
                    let blocks = weight.blocks();
                    let result = match dtype {
                        Dtype::F32 => run::<F32, _>(arch, &weight.tiling, blocks, &x, &mut y),
                        Dtype::F16 => run::<F16, _>(arch, &weight.tiling, blocks, &x, &mut y),
                        _ => run::<Bf16, _>(arch, &weight.tiling, blocks, &x, &mut y),
                    };
                    assert_eq!(result, Ok(()));
                    assert_close(&y, &weight.reference(&x, 3));
                }
            }
        }
    }

    fn arches() -> Vec<Arch> {
        let mut arches = vec![Arch::Scalar, Arch::new()];
        #[cfg(target_arch = "x86_64")]
        arches.extend(pulp::x86::V3::try_new().map(Arch::V3));
        arches
    }

    #[test]
    fn without_blocks_or_without_a_batch_there_is_nothing_to_add() {
        for dtype in DTYPES {
            let empty = Weight { blocks: Vec::new(), ..small(dtype) };
            assert_eq!(empty.product(&vec![1.0; 2 * 150], 2), vec![0.0; 2 * 100]);
            assert_eq!(small(dtype).product(&[], 0), Vec::<f32>::new());
        }
    }

    #[test]
    fn what_is_not_finite_spreads_as_in_a_dense_product_but_not_from_absent_blocks() {
        for dtype in DTYPES {
            let mut weight = small(dtype);
            // The second row of blocks keeps its first column only.
            weight.blocks.retain(|(place, _)| *place < 4);
            let size = weight.tiling.block().element_bytes();
            for (row, value) in [(1, f32::INFINITY), (2, f32::NEG_INFINITY), (3, f32::NAN)] {
                let at = (row * weight.tiling.block().cols() + 5) * size;
                weight.blocks[1].1[at..][..size].copy_from_slice(&bytes(dtype, value));
            }
            let mut x = weight.inputs(2, 1);
            x[149] = f32::INFINITY;
            x[150] = f32::NAN;
            let y = weight.product(&x, 2);
            assert_close(&y, &weight.reference(&x, 2));
            assert!(y[1..4].iter().all(|y| !y.is_finite()) && y[0].is_infinite());
            assert!(y[64..100].iter().all(|y| y.is_finite()), "{dtype:?}: absent blocks");
            assert!(y[100..].iter().all(|y| y.is_nan()));
        }
    }

    #[test]
    fn weights_of_other_types_are_refused() {
        let block = BlockShape::new(64, 64, Dtype::I8).unwrap();
        let tiling = Tiling::new([64, 64], block).unwrap();
        let blocks = std::iter::empty::<Result<_, ProductError>>();
        let result = product(&tiling, blocks, &[0.0; 64], 1, &mut [0.0; 64]);
        assert_eq!(result, Err(ProductError::Dtype(Dtype::I8)));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let weight = small(Dtype::F32);
        let try_with = |x, batch, y| {
            product(&weight.tiling, weight.blocks(), &vec![0.0; x], batch, &mut vec![0.0; y])
        };
        let input = |got, batch| Err(ProductError::Input { got, batch, columns: 150 });
        assert_eq!(try_with(299, 2, 200), input(299, 2));
        assert_eq!(try_with(150, usize::MAX, 100), input(150, usize::MAX));
        let output = ProductError::Output { got: 201, batch: 2, rows: 100 };
        assert_eq!(try_with(300, 2, 201), Err(output));
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused_and_errors_passed_on() {
        let weight = small(Dtype::BF16);
        let whole = &weight.blocks[0].1[..];
        let try_with = |blocks: &[Result<(usize, &[u8]), ProductError>]| {
            let blocks = blocks.iter().map(|block| match block {
                Ok(block) => Ok(*block),
                Err(_) => Err(ProductError::Dtype(Dtype::BOOL)),
            });
            product(&weight.tiling, blocks, &[0.0; 150], 1, &mut [0.0; 100])
        };
        let place = ProductError::Place { place: 6, places: 6 };
        assert_eq!(try_with(&[Ok((5, whole)), Ok((6, whole))]), Err(place));
        for place in [2, 3] {
            let order = ProductError::Order { place, after: 3 };
            assert_eq!(try_with(&[Ok((3, whole)), Ok((place, whole))]), Err(order));
        }
        let (got, expected) = (whole.len() - 2, whole.len());
        let size = ProductError::Block { place: 1, got, expected };
        assert_eq!(try_with(&[Ok((1, &whole[2..]))]), Err(size));
        let other = ProductError::Dtype(Dtype::BOOL);
        assert_eq!(try_with(&[Ok((1, whole)), Err(other)]), Err(ProductError::Dtype(Dtype::BOOL)));
    }
}
