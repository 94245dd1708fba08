//! Positive definite systems, with the factor in the place of the matrix.
//!
//! `nalgebra` factors column by column, which at some thousand columns waits for memory. Here that
//! is left to blocks on the diagonal; the rest are products of matrices. One thread, so that the
//! outcome does not depend on how many there are; the last bits do depend on the instructions that
//! the processor has.

use nalgebra::{Cholesky, DMatrix, DMatrixView};
use std::ops::Range;
use thiserror::Error;

/// Columns that are factored at a time. Of 48 to 192 the fastest for 1300 columns; for 4096 it
/// hardly matters.
const PANEL: usize = 64;

/// The matrix is not positive definite, as far as rounding lets one tell.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not positive definite")]
pub(super) struct NotPositive;

/// Puts L of `matrix = L Lᵀ` into the lower triangle, of which alone it reads.
pub(super) fn factor(matrix: &mut DMatrix<f64>) -> Result<(), NotPositive> {
    let size = matrix.nrows();
    for Range { start, end } in panels(size) {
        let width = end - start;
        let corner = matrix.view((start, start), (width, width)).clone_owned();
        let corner = Cholesky::new(corner).ok_or(NotPositive)?.unpack();
        let mut above = matrix.view((end, start), (size - end, width)).transpose();
        corner.solve_lower_triangular_mut(&mut above);
        let below = above.transpose();
        matrix.view_mut((start, start), (width, width)).copy_from(&corner);
        matrix.view_mut((end, start), (size - end, width)).copy_from(&below);
        subtract_square(matrix, end, &below, &above);
    }
    Ok(())
}

/// Subtracts `below * above`, which is symmetric, from the lower right corner at `from`.
fn subtract_square(
    matrix: &mut DMatrix<f64>,
    from: usize,
    below: &DMatrix<f64>,
    above: &DMatrix<f64>,
) {
    let size = below.nrows();
    // Wider than a panel: a product is faster the larger it is, and costs little of the upper
    // triangle.
    for start in (0..size).step_by(4 * PANEL) {
        let width = (4 * PANEL).min(size - start);
        let at = from + start;
        let (left, right) = (below.rows(start, size - start), above.columns(start, width));
        matrix.view_mut((at, at), (size - start, width)).gemm(-1.0, &left, &right, 1.0);
    }
}

/// Replaces `right` by the solution of `L Lᵀ x = right`.
pub(super) fn solve(factor: &DMatrix<f64>, right: &mut DMatrix<f64>) {
    for Range { start, end } in panels(factor.nrows()) {
        let (mut own, mut rest) = right.rows_range_pair_mut(start..end, end..);
        corner(factor, start..end).solve_lower_triangular_mut(&mut own);
        rest.gemm(-1.0, &below(factor, start..end), &own, 1.0);
    }
    for Range { start, end } in panels(factor.nrows()).rev() {
        let (mut own, rest) = right.rows_range_pair_mut(start..end, end..);
        own.gemm(-1.0, &below(factor, start..end).transpose(), &rest, 1.0);
        corner(factor, start..end).tr_solve_lower_triangular_mut(&mut own);
    }
}

fn panels(size: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..size.div_ceil(PANEL)).map(move |panel| panel * PANEL..size.min((panel + 1) * PANEL))
}

/// A panel's block on the diagonal.
fn corner(factor: &DMatrix<f64>, panel: Range<usize>) -> DMatrixView<'_, f64> {
    factor.view((panel.start, panel.start), (panel.len(), panel.len()))
}

/// What is under a panel's block on the diagonal.
fn below(factor: &DMatrix<f64>, panel: Range<usize>) -> DMatrixView<'_, f64> {
    factor.view((panel.end, panel.start), (factor.nrows() - panel.end, panel.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(rows: usize, cols: usize) -> DMatrix<f64> {
        let mut rng = fastrand::Rng::with_seed(7);
        DMatrix::from_fn(rows, cols, |_, _| rng.f64() - 0.5)
    }

    #[test]
    fn solutions_solve_whatever_the_size() {
        for size in [0, 1, PANEL - 1, PANEL, PANEL + 1, 5 * PANEL + 17] {
            let half = random(size, size + 3);
            let matrix = &half * half.transpose() + DMatrix::identity(size, size);
            let right = random(size, 5);
            let (mut lower, mut solution) = (matrix.clone(), right.clone());
            // Only the lower triangle may count.
            lower.fill_upper_triangle(f64::NAN, 1);
            factor(&mut lower).unwrap();
            solve(&lower, &mut solution);
            let rest = &matrix * &solution - &right;
            assert!(rest.iter().all(|error| error.abs() < 1e-10), "{size}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_is_refused_in_any_panel() {
        for place in [0, PANEL, 2 * PANEL] {
            for value in [-1e-9, 0.0, f64::NAN] {
                let mut matrix = DMatrix::identity(2 * PANEL + 1, 2 * PANEL + 1);
                matrix[(place, place)] = value;
                assert_eq!(factor(&mut matrix), Err(NotPositive), "{place} {value}");
            }
        }
    }
}
