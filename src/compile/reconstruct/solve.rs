//! The values that kept blocks should have now that the others are gone.
//!
//! For rows of a weight W whose tasks t keep the columns D_t (diagonal, 0 or 1), it looks for the
//! V, zero outside all tasks' columns, that minimises
//!
//! ```text
//! Σ_t p_t E‖W x_t - V D_t y_t‖² + pull ‖V - W‖²,    H_t = E y_t y_tᵀ,  C_t = E x_t y_tᵀ
//! ```
//!
//! Tasks share the one V, whatever each keeps of it. Setting the derivative to zero gives, on the
//! columns that some task keeps, with the step S = V - W,
//!
//! ```text
//! S (A + pull) = R,    A = Σ_t p_t D_t H_t D_t,    R = W Σ_t p_t (C_t - D_t H_t) D_t
//! ```
//!
//! The sum is convex, so this is the best that all tasks together can have with one value a block.
//! R is what the pruned layer gets wrong, as far as kept columns see it. To solve for the step
//! leaves dense values exact where nothing is wrong: with C = H, what is summed for a row and a
//! column is H of the tasks that keep the column but lack the row.
//!
//! Does not choose masks, does not round to a weight's type, and knows no threads: rows of blocks
//! are independent of each other, and the caller may solve them at once.

use super::{
    cholesky::{self, NotPositive},
    moments::Pooled,
};
use crate::compile::taskset::TaskSet;
use nalgebra::{DMatrix, DMatrixView};
use std::ops::Range;
use thiserror::Error;

/// Rows of a weight that have the same keepers: those of one row of blocks, or of several, which
/// is cheaper as the matrix is then factored once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    /// Dense, finite, whole rows one after the other.
    pub(super) weights: &'a [f64],
    /// Columns of a block; the last block may be narrower.
    pub(super) block_cols: usize,
    /// One for each column of blocks: the tasks that keep it, all of which have moments.
    pub(super) keepers: &'a [TaskSet],
}

/// Why there is no solution.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SolveError {
    /// The equations have no single answer.
    #[error("the moments do not determine the values: use more damping")]
    NotPositive,
    /// An answer that the type of the weights cannot hold.
    #[error("the values grow beyond all bounds: check the moments")]
    NotFinite,
}

impl From<NotPositive> for SolveError {
    fn from(NotPositive: NotPositive) -> Self {
        Self::NotPositive
    }
}

/// The best values, row after row, zero where no task keeps the block.
///
/// The pull is `damping` times the mean of A's diagonal. Below some 1e-6 the rounding of the
/// moments to `f32` takes over; at 0, a channel that no task sees is an error.
///
/// While it runs it holds 8 bytes for each pair of kept columns.
pub(super) fn solve(
    rows: &Rows<'_>,
    moments: &Pooled<'_>,
    damping: f64,
) -> Result<Vec<f64>, SolveError> {
    let blocks = blocks(rows, moments.inputs);
    let mut matrix = matrix(&blocks, moments);
    let trace = matrix.trace();
    if trace == 0.0 {
        // The tasks keep nothing, or nothing that they see: no value is better than another.
        let none = DMatrix::zeros(matrix.nrows(), rows.count(moments));
        return Ok(stepped(rows, &blocks, &none, moments.inputs));
    }
    let pull = damping * trace / matrix.nrows() as f64;
    for place in 0..matrix.nrows() {
        matrix[(place, place)] += pull;
    }
    let mut step = errors(rows, &blocks, moments);
    cholesky::factor(&mut matrix)?;
    cholesky::solve(&matrix, &mut step);
    let values = stepped(rows, &blocks, &step, moments.inputs);
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(SolveError::NotFinite)
    }
}

impl Rows<'_> {
    fn count(&self, moments: &Pooled<'_>) -> usize {
        self.weights.len().checked_div(moments.inputs).unwrap_or(0)
    }
}

/// A column of blocks.
struct Block {
    /// Its columns of the weight.
    columns: Range<usize>,
    /// Where its columns begin among those that are kept; nowhere in particular if no task does.
    at: usize,
    keepers: TaskSet,
}

fn blocks(rows: &Rows<'_>, inputs: usize) -> Vec<Block> {
    let mut at = 0;
    let block = |(index, &keepers): (usize, &TaskSet)| {
        let start = index * rows.block_cols;
        let block = Block { columns: start..inputs.min(start + rows.block_cols), at, keepers };
        at += if keepers.is_empty() { 0 } else { block.columns.len() };
        block
    };
    rows.keepers.iter().enumerate().map(block).collect()
}

fn kept(blocks: &[Block]) -> impl Iterator<Item = &Block> {
    blocks.iter().filter(|block| !block.keepers.is_empty())
}

/// The number of kept columns.
fn size(blocks: &[Block]) -> usize {
    kept(blocks).map(|block| block.columns.len()).sum()
}

/// The lower triangle of A.
fn matrix(blocks: &[Block], moments: &Pooled<'_>) -> DMatrix<f64> {
    let kept: Vec<_> = kept(blocks).collect();
    let mut matrix = DMatrix::zeros(size(blocks), size(blocks));
    for (index, block) in kept.iter().enumerate() {
        for (offset, column) in block.columns.clone().enumerate() {
            let mut into = matrix.column_mut(block.at + offset);
            let into = into.as_mut_slice();
            for lower in &kept[index..] {
                let both = block.keepers.intersection(lower.keepers);
                let into = &mut into[lower.at..][..lower.columns.len()];
                // A second moment's row is its column, and is contiguous.
                moments.second.add(both, 1.0, column, lower.columns.clone(), into);
            }
        }
    }
    matrix
}

/// Rᵀ: a column for each of the rows.
fn errors(rows: &Rows<'_>, blocks: &[Block], moments: &Pooled<'_>) -> DMatrix<f64> {
    let weights = DMatrixView::from_slice(rows.weights, moments.inputs, rows.count(moments));
    let mut errors = DMatrix::zeros(size(blocks), rows.count(moments));
    let mut lacking = Vec::new();
    for block in kept(blocks) {
        lacking.clear();
        lacking.resize(moments.inputs * block.columns.len(), 0.0);
        if add_lacking(block, blocks, moments, &mut lacking) {
            let lacking = DMatrixView::from_slice(&lacking, block.columns.len(), moments.inputs);
            errors.rows_mut(block.at, block.columns.len()).gemm(1.0, &lacking, &weights, 0.0);
        }
    }
    errors
}

/// Adds a block's columns of Σ_t p_t (C_t - D_t H_t) D_t, row after row; whether there is anything.
fn add_lacking(block: &Block, blocks: &[Block], moments: &Pooled<'_>, into: &mut [f64]) -> bool {
    let columns = || block.columns.clone();
    let mut any = false;
    for other in blocks {
        let both = block.keepers.intersection(other.keepers);
        let lacking = block.keepers.without(other.keepers);
        if moments.cross.is_none() && lacking.is_empty() {
            continue;
        }
        any = true;
        for row in other.columns.clone() {
            let into = &mut into[row * block.columns.len()..][..block.columns.len()];
            match &moments.cross {
                None => moments.second.add(lacking, 1.0, row, columns(), into),
                Some(cross) => {
                    cross.add(block.keepers, 1.0, row, columns(), into);
                    moments.second.add(both, -1.0, row, columns(), into);
                }
            }
        }
    }
    any
}

/// The dense values and the step on the kept columns, zero elsewhere.
fn stepped(rows: &Rows<'_>, blocks: &[Block], step: &DMatrix<f64>, inputs: usize) -> Vec<f64> {
    let mut values = vec![0.0; rows.weights.len()];
    for (row, step) in step.column_iter().enumerate() {
        for block in kept(blocks) {
            for (offset, column) in block.columns.clone().enumerate() {
                let at = row * inputs + column;
                values[at] = rows.weights[at] + step[block.at + offset];
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::{
        super::moments::{Cross, Second, TaskMoments},
        *,
    };
    use crate::units::TaskIndex;
    use fastrand::Rng;

    const INPUTS: usize = 23;
    const BLOCK_COLS: usize = 4;
    const ROWS: usize = 3;
    /// A power of two: the moments of small whole numbers are exact.
    const TOKENS: usize = 64;

    /// A layer in full, to compare with.
    struct Layer {
        weights: Vec<f64>,
        keepers: Vec<TaskSet>,
        tasks: Vec<Task>,
    }

    struct Task {
        weight: f64,
        /// By token.
        dense: Vec<Vec<f64>>,
        pruned: Vec<Vec<f64>>,
    }

    /// What a task sees: whole numbers, neighbouring channels alike.
    fn inputs(rng: &mut Rng) -> Vec<Vec<f64>> {
        let token = |rng: &mut Rng| {
            let mut last = 0;
            let next = |_| {
                last = last / 2 + rng.i32(-4..=4);
                f64::from(last)
            };
            (0..INPUTS).map(next).collect()
        };
        (0..TOKENS).map(|_| token(rng)).collect()
    }

    fn layer(seed: u64, tasks: usize, drift: bool) -> Layer {
        let mut rng = Rng::with_seed(seed);
        let mut task = |index: usize| {
            let dense = inputs(&mut rng);
            let mut pruned = dense.clone();
            if drift && index.is_multiple_of(2) {
                let values = pruned.iter_mut().flatten();
                values.for_each(|value| *value += f64::from(rng.i32(-1..=1)));
            }
            Task { weight: [0.5, 0.25, 1.0][index % 3], dense, pruned }
        };
        let tasks: Vec<_> = (0..tasks).map(&mut task).collect();
        let weights = (0..ROWS * INPUTS).map(|_| rng.f64() - 0.5).collect();
        let all = (0..).map(TaskIndex).take(tasks.len());
        let set = |rng: &mut Rng| {
            let chosen = all.clone().filter(|_| rng.u8(..3) > 0);
            chosen.fold(TaskSet::EMPTY, |set, task| set.union(TaskSet::of(task)))
        };
        let mut keepers: Vec<_> = (0..INPUTS.div_ceil(BLOCK_COLS)).map(|_| set(&mut rng)).collect();
        keepers[1] = TaskSet::EMPTY;
        Layer { weights, keepers, tasks }
    }

    fn moment(left: &[Vec<f64>], right: &[Vec<f64>]) -> Vec<f32> {
        let element = |at| {
            let (row, column) = (at / INPUTS, at % INPUTS);
            let products = left.iter().zip(right).map(|(left, right)| left[row] * right[column]);
            (products.sum::<f64>() / TOKENS as f64) as f32
        };
        (0..INPUTS * INPUTS).map(element).collect()
    }

    impl Layer {
        fn solve(&self, damping: f64) -> Result<Vec<f64>, SolveError> {
            let moments = self.tasks.iter().map(|task| {
                let cross = (task.dense != task.pruned).then(|| moment(&task.dense, &task.pruned));
                (task.weight, moment(&task.pruned, &task.pruned), cross)
            });
            let moments: Vec<_> = moments.collect();
            let tasks = moments.iter().map(|(weight, second, cross)| TaskMoments {
                second: Second::new(second, INPUTS).unwrap(),
                cross: cross.as_ref().map(|cross| Cross::new(cross, INPUTS).unwrap()),
                weight: *weight,
            });
            let pooled = Pooled::new(INPUTS, &tasks.collect::<Vec<_>>());
            let rows =
                Rows { weights: &self.weights, block_cols: BLOCK_COLS, keepers: &self.keepers };
            solve(&rows, &pooled, damping)
        }

        fn keeps(&self, task: usize, column: usize) -> bool {
            self.keepers[column / BLOCK_COLS].contains(TaskIndex(task as u32))
        }

        fn union(&self) -> Vec<usize> {
            (0..INPUTS).filter(|column| !self.keepers[column / BLOCK_COLS].is_empty()).collect()
        }

        fn pull(&self, damping: f64) -> f64 {
            let mut sum = 0.0;
            for (index, task) in self.tasks.iter().enumerate() {
                for token in &task.pruned {
                    let kept = (0..INPUTS).filter(|&column| self.keeps(index, column));
                    sum += task.weight * kept.map(|column| token[column].powi(2)).sum::<f64>();
                }
            }
            damping * sum / TOKENS as f64 / self.union().len() as f64
        }

        /// The least squares problem of a row, written out token by token.
        fn stacked(&self, row: usize, pull: f64) -> (DMatrix<f64>, DMatrix<f64>) {
            let (union, dense) = (self.union(), &self.weights[row * INPUTS..][..INPUTS]);
            let (mut left, mut right) = (Vec::new(), Vec::new());
            for (index, task) in self.tasks.iter().enumerate() {
                let scale = (task.weight / TOKENS as f64).sqrt();
                for (x, y) in task.dense.iter().zip(&task.pruned) {
                    let seen = |&c: &usize| if self.keeps(index, c) { scale * y[c] } else { 0.0 };
                    left.extend(union.iter().map(seen));
                    right.push(scale * x.iter().zip(dense).map(|(x, w)| x * w).sum::<f64>());
                }
            }
            for (place, &column) in union.iter().enumerate() {
                left.extend((0..union.len()).map(|at| if at == place { pull.sqrt() } else { 0.0 }));
                right.push(pull.sqrt() * dense[column]);
            }
            let count = right.len();
            (
                DMatrix::from_row_slice(count, union.len(), &left),
                DMatrix::from_column_slice(count, 1, &right),
            )
        }

        /// The best values, by orthogonal factors of the stacked problem.
        fn brute_force(&self, damping: f64) -> Vec<f64> {
            let mut values = vec![0.0; self.weights.len()];
            for row in 0..ROWS {
                let (left, mut right) = self.stacked(row, self.pull(damping));
                let qr = left.qr();
                qr.q_tr_mul(&mut right);
                let union = self.union();
                let right = right.rows(0, union.len()).clone_owned();
                let solution = qr.r().solve_upper_triangular(&right).unwrap();
                for (place, column) in union.into_iter().enumerate() {
                    values[row * INPUTS + column] = solution[place];
                }
            }
            values
        }

        fn objective(&self, values: &[f64], pull: f64) -> f64 {
            let of_row = |row: usize| {
                let (left, right) = self.stacked(row, pull);
                let kept = self.union().into_iter().map(|column| values[row * INPUTS + column]);
                let kept = DMatrix::from_iterator(left.ncols(), 1, kept);
                (left * kept - right).norm_squared()
            };
            (0..ROWS).map(of_row).sum()
        }

        /// The dense values where some task keeps them.
        fn pruned(&self) -> Vec<f64> {
            let kept = |(at, &value): (usize, &f64)| {
                if self.keepers[at % INPUTS / BLOCK_COLS].is_empty() { 0.0 } else { value }
            };
            self.weights.iter().enumerate().map(kept).collect()
        }
    }

    fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() <= tolerance, "{at}: {found} is not {expected}");
        }
    }

    #[test]
    fn it_is_the_least_squares_solution_of_all_tasks_together() {
        for (tasks, drift) in [(1, false), (3, false), (3, true), (20, false), (20, true)] {
            for damping in [1e-3, 0.1] {
                let layer = layer(tasks as u64, tasks, drift);
                let found = layer.solve(damping).unwrap();
                assert_close(&found, &layer.brute_force(damping), 1e-8);
            }
        }
    }

    #[test]
    fn no_values_near_it_are_better() {
        for drift in [false, true] {
            let layer = layer(5, 4, drift);
            let (found, pull) = (layer.solve(0.01).unwrap(), layer.pull(0.01));
            let best = layer.objective(&found, pull);
            assert!(best < layer.objective(&layer.pruned(), pull));
            let mut rng = Rng::with_seed(1);
            for _ in 0..200 {
                let size = 10f64.powi(rng.i32(-5..0));
                let other = found.iter().map(|value| value + size * (rng.f64() - 0.5));
                assert!(best <= layer.objective(&other.collect::<Vec<_>>(), pull));
            }
        }
    }

    #[test]
    fn tasks_that_keep_the_same_are_as_one() {
        let mut many = layer(8, 3, false);
        let all = (0..3).map(TaskIndex).map(TaskSet::of).fold(TaskSet::EMPTY, TaskSet::union);
        many.keepers = [all, TaskSet::EMPTY, all, TaskSet::EMPTY, all, all].into();
        let mut one = layer(8, 1, false);
        one.keepers =
            many.keepers.iter().map(|set| set.intersection(TaskSet::of(TaskIndex(0)))).collect();
        one.weights.clone_from(&many.weights);
        // All tokens of the one task, as often as their weights say.
        let tokens = many.tasks.iter().map(|task| {
            task.dense.iter().map(|token| {
                token.iter().map(|value| value * task.weight.sqrt()).collect::<Vec<_>>()
            })
        });
        let tokens: Vec<_> = tokens.flatten().collect();
        one.tasks[0] = Task { weight: 1.0, dense: tokens.clone(), pruned: tokens };
        // The moments of the one task are rounded to `f32` with its square roots.
        assert_close(&many.solve(0.01).unwrap(), &one.solve(0.01).unwrap(), 1e-5);
        assert_close(&many.solve(0.01).unwrap(), &many.brute_force(0.01), 1e-8);
    }

    #[test]
    fn much_damping_keeps_the_dense_values() {
        let layer = layer(2, 3, true);
        assert_close(&layer.solve(1e12).unwrap(), &layer.pruned(), 1e-9);
    }

    #[test]
    fn a_channel_that_no_task_sees_keeps_its_dense_value() {
        let mut layer = layer(4, 3, false);
        let unseen = 2;
        for token in
            layer.tasks.iter_mut().flat_map(|task| task.dense.iter_mut().chain(&mut task.pruned))
        {
            token[unseen] = 0.0;
        }
        let found = layer.solve(0.01).unwrap();
        assert!(layer.union().contains(&unseen));
        for row in 0..ROWS {
            let at = row * INPUTS + unseen;
            assert_eq!(found[at], layer.weights[at]);
            assert_ne!(found[at + 1], layer.weights[at + 1]);
        }
        assert_eq!(layer.solve(0.0), Err(SolveError::NotPositive));
    }

    #[test]
    fn who_keeps_everything_keeps_the_dense_values_exactly() {
        let mut layer = layer(6, 2, false);
        let both = TaskSet::of(TaskIndex(0)).union(TaskSet::of(TaskIndex(1)));
        layer.keepers.fill(both);
        assert_eq!(layer.solve(0.01).unwrap(), layer.weights);
        layer.keepers.fill(TaskSet::of(TaskIndex(1)));
        assert_eq!(layer.solve(0.01).unwrap(), layer.weights, "one task keeps nothing");
    }

    #[test]
    fn outside_of_all_tasks_blocks_is_zero() {
        let layer = layer(7, 3, true);
        let found = layer.solve(0.01).unwrap();
        let dropped = |at: &usize| layer.keepers[at % INPUTS / BLOCK_COLS].is_empty();
        assert!((0..found.len()).filter(dropped).count() >= ROWS * BLOCK_COLS);
        assert!((0..found.len()).filter(dropped).all(|at| found[at] == 0.0));
    }

    #[test]
    fn where_nothing_is_kept_or_seen_nothing_is_solved() {
        let mut layer = layer(9, 2, false);
        for task in &mut layer.tasks {
            task.dense = vec![vec![0.0; INPUTS]; TOKENS];
            task.pruned.clone_from(&task.dense);
        }
        assert_eq!(layer.solve(0.01).unwrap(), layer.pruned());
        layer.keepers.fill(TaskSet::EMPTY);
        assert_eq!(layer.solve(0.0).unwrap(), vec![0.0; layer.weights.len()]);
    }

    #[test]
    fn rows_are_solved_together_or_alone() {
        let layer = layer(11, 3, true);
        let together = layer.solve(0.01).unwrap();
        for row in 0..ROWS {
            let weights = layer.weights[row * INPUTS..][..INPUTS].to_vec();
            let tasks = layer.tasks.iter().map(|task| Task {
                weight: task.weight,
                dense: task.dense.clone(),
                pruned: task.pruned.clone(),
            });
            let alone = Layer { weights, keepers: layer.keepers.clone(), tasks: tasks.collect() };
            assert_close(&alone.solve(0.01).unwrap(), &together[row * INPUTS..][..INPUTS], 1e-12);
        }
    }

    #[test]
    fn weights_that_are_not_finite_give_an_error() {
        let mut layer = layer(12, 2, false);
        layer.weights[0] = f64::NAN;
        assert_eq!(layer.solve(0.01), Err(SolveError::NotFinite));
    }
}
