//! Moments of a layer's inputs: checked, and summed over sets of tasks.
//!
//! Knows neither the files that they come from nor what is solved with them.

use crate::{compile::taskset::TaskSet, units::TaskIndex};
use std::ops::Range;
use thiserror::Error;

/// How far a second moment may be from what it must be, relative to the geometric mean of the two
/// channels' own moments: wide enough for sums in `f32`, far too narrow for another matrix.
const TOLERANCE: f64 = 1e-3;

/// Tasks whose sum is kept ready. A sum is twice as wide as a task's moment, so one for 8 tasks
/// reads a quarter and takes a quarter of the memory that the tasks themselves do.
const GROUP: usize = 8;

/// The mean of `y yᵀ` over the tokens, `y` the layer's inputs: symmetric, row after row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Second<'a>(&'a [f32]);

/// The mean of `x yᵀ` over the tokens, row after row: `x` (rows) are the inputs in the dense
/// network, `y` (columns) those in the pruned one, for the same tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cross<'a>(&'a [f32]);

/// Why values are not the moment that they should be.
#[derive(Debug, Error, PartialEq)]
pub enum MomentFault {
    /// Not one value for each pair of inputs.
    #[error("{values} values; {inputs} x {inputs} are expected")]
    Length {
        /// Values found.
        values: usize,
        /// Input channels.
        inputs: usize,
    },
    /// NaN, infinity, or beyond what an f32 holds.
    #[error("row {row}, column {column}: {value} is not finite")]
    NotFinite {
        /// The first channel.
        row: usize,
        /// The second channel.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A mean of squares that is negative.
    #[error("row {row}, column {row}: {value} is negative, but on the diagonal are squares")]
    Negative {
        /// The channel.
        row: usize,
        /// The value.
        value: f32,
    },
    /// Two values for one pair of channels.
    #[error("row {row}, column {column}: {value} differs from {mirror} on the other side")]
    Asymmetric {
        /// The first channel.
        row: usize,
        /// The second channel.
        column: usize,
        /// The value.
        value: f32,
        /// The value of column and row.
        mirror: f32,
    },
    /// Channels that agree more than each does with itself.
    #[error("row {row}, column {column}: {value} is more than the diagonal allows, {limit}")]
    TooLarge {
        /// The first channel.
        row: usize,
        /// The second channel.
        column: usize,
        /// The value.
        value: f32,
        /// The root of the product of both squares.
        limit: f64,
    },
}

impl<'a> Second<'a> {
    /// Checks what any second moment satisfies. The first offence is given, in this order: values
    /// that are not finite, the diagonal, pairs by row. Whether the matrix is positive
    /// semidefinite is not asked: only solving can tell.
    pub(super) fn new(values: &'a [f32], inputs: usize) -> Result<Self, MomentFault> {
        check_finite(values, inputs)?;
        let scales = (0..inputs).map(|row| scale(row, values[row * inputs + row]));
        let scales = scales.collect::<Result<Vec<_>, _>>()?;
        for row in 0..inputs {
            for column in row + 1..inputs {
                check_pair(values, row, column, scales[row] * scales[column], inputs)?;
            }
        }
        Ok(Self(values))
    }
}

impl<'a> Cross<'a> {
    /// Checks that all is finite; nothing more holds for every cross moment.
    pub(super) fn new(values: &'a [f32], inputs: usize) -> Result<Self, MomentFault> {
        check_finite(values, inputs)?;
        Ok(Self(values))
    }
}

fn check_finite(values: &[f32], inputs: usize) -> Result<(), MomentFault> {
    if inputs.checked_mul(inputs) != Some(values.len()) {
        return Err(MomentFault::Length { values: values.len(), inputs });
    }
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => {
            let (row, column, value) = (at / inputs, at % inputs, values[at]);
            Err(MomentFault::NotFinite { row, column, value })
        }
    }
}

/// The root of a channel's own moment; one that underflowed counts as the smallest number.
fn scale(row: usize, value: f32) -> Result<f64, MomentFault> {
    if value < 0.0 {
        return Err(MomentFault::Negative { row, value });
    }
    Ok(f64::from(value.max(f32::MIN_POSITIVE)).sqrt())
}

/// Checks an element and its mirror image; `limit` is the most that the diagonal allows (Cauchy
/// and Schwarz).
fn check_pair(
    values: &[f32],
    row: usize,
    column: usize,
    limit: f64,
    inputs: usize,
) -> Result<(), MomentFault> {
    let (value, mirror) = (values[row * inputs + column], values[column * inputs + row]);
    if (f64::from(value) - f64::from(mirror)).abs() > TOLERANCE * limit {
        return Err(MomentFault::Asymmetric { row, column, value, mirror });
    }
    for (row, column, value) in [(row, column, value), (column, row, mirror)] {
        if f64::from(value).abs() > (1.0 + TOLERANCE) * limit {
            return Err(MomentFault::TooLarge { row, column, value, limit });
        }
    }
    Ok(())
}

/// What a task sees of a layer's inputs, and how much it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskMoments<'a> {
    /// Of the inputs that the pruned network sees.
    pub(super) second: Second<'a>,
    /// Without it, the pruned network sees what the dense one does.
    pub(super) cross: Option<Cross<'a>>,
    /// Finite, not negative.
    pub(super) weight: f64,
}

/// The moments of all tasks for one tensor, ready to be summed. Made once a tensor, read by all
/// its rows of blocks.
pub(super) struct Pooled<'a> {
    pub(super) inputs: usize,
    pub(super) second: Sums<'a>,
    /// Absent if no task has one.
    pub(super) cross: Option<Sums<'a>>,
}

impl<'a> Pooled<'a> {
    /// The tasks are those of the task sets, by index; all moments are checked for `inputs`.
    pub(super) fn new(inputs: usize, tasks: &[TaskMoments<'a>]) -> Self {
        let second = tasks.iter().map(|task| (task.weight, task.second.0));
        let cross = tasks
            .iter()
            .map(|task| (task.weight, task.cross.map_or(task.second.0, |cross| cross.0)));
        let differ = tasks.iter().any(|task| task.cross.is_some());
        Self {
            inputs,
            second: Sums::new(inputs, second.collect()),
            cross: differ.then(|| Sums::new(inputs, cross.collect())),
        }
    }
}

/// A matrix of each task, and the weighted sums of some sets of tasks.
///
/// Other sets are put together of these, never by subtracting: a difference of sums would leave
/// noise where a task that counts much was taken out and the others see nothing.
pub(super) struct Sums<'a> {
    inputs: usize,
    /// By task: its weight and its matrix.
    terms: Vec<(f64, &'a [f32])>,
    /// Larger sets first.
    ready: Vec<(TaskSet, Vec<f64>)>,
}

impl<'a> Sums<'a> {
    fn new(inputs: usize, terms: Vec<(f64, &'a [f32])>) -> Self {
        let mut sums = Self { inputs, terms, ready: Vec::new() };
        let tasks: Vec<_> = (0..).map(TaskIndex).take(sums.terms.len()).collect();
        sums.ready = tasks.chunks(GROUP).map(|group| sums.whole(set_of(group))).collect();
        if tasks.len() > GROUP {
            // Put together of the groups' sums.
            let all = sums.whole(set_of(&tasks));
            sums.ready.insert(0, all);
        }
        sums
    }

    /// The whole sum of a set.
    fn whole(&self, tasks: TaskSet) -> (TaskSet, Vec<f64>) {
        let mut sum = vec![0.0; self.inputs * self.inputs];
        for (row, into) in sum.chunks_mut(self.inputs.max(1)).enumerate() {
            self.add(tasks, 1.0, row, 0..self.inputs, into);
        }
        (tasks, sum)
    }

    /// Adds `sign` times the sum over these tasks, of a part of a row.
    pub(super) fn add(
        &self,
        tasks: TaskSet,
        sign: f64,
        row: usize,
        columns: Range<usize>,
        into: &mut [f64],
    ) {
        let part = row * self.inputs + columns.start..row * self.inputs + columns.end;
        let mut rest = tasks;
        for (group, sum) in &self.ready {
            if group.without(rest).is_empty() {
                let values = &sum[part.clone()];
                into.iter_mut().zip(values).for_each(|(into, value)| *into += sign * value);
                rest = rest.without(*group);
            }
        }
        for task in rest.iter() {
            let (weight, values) = self.terms[task.index()];
            let (weight, values) = (sign * weight, &values[part.clone()]);
            into.iter_mut()
                .zip(values)
                .for_each(|(into, &value)| *into += weight * f64::from(value));
        }
    }
}

fn set_of(tasks: &[TaskIndex]) -> TaskSet {
    tasks.iter().fold(TaskSet::EMPTY, |set, &task| set.union(TaskSet::of(task)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_second_moment_can_be_is_refused_by_place() {
        let fine = [4.0, 1.0, 0.0, 1.0, 9.0, -6.0, 0.0, -6.0, 4.0];
        assert!(Second::new(&fine, 3).is_ok(), "even where channels are the same but for a factor");
        let with = |changes: &[(usize, f32)]| {
            let mut values = fine;
            changes.iter().for_each(|&(at, value)| values[at] = value);
            Second::new(&values, 3).map(|_| ()).unwrap_err()
        };
        let fault = Second::new(&fine, 2).unwrap_err();
        assert_eq!(fault, MomentFault::Length { values: 9, inputs: 2 });
        let fault = with(&[(7, f32::INFINITY)]);
        assert_eq!(fault, MomentFault::NotFinite { row: 2, column: 1, value: f32::INFINITY });
        assert!(matches!(with(&[(0, f32::NAN)]), MomentFault::NotFinite { row: 0, column: 0, .. }));
        assert_eq!(with(&[(4, -0.5)]), MomentFault::Negative { row: 1, value: -0.5 });
        let fault = with(&[(3, 1.1)]);
        let expected = MomentFault::Asymmetric { row: 0, column: 1, value: 1.0, mirror: 1.1 };
        assert_eq!(fault, expected);
        let fault = with(&[(5, 6.1), (7, 6.1)]);
        assert_eq!(fault, MomentFault::TooLarge { row: 1, column: 2, value: 6.1, limit: 6.0 });
        let fault = with(&[(8, 0.0)]);
        assert!(matches!(fault, MomentFault::TooLarge { row: 1, column: 2, .. }), "{fault}");
    }

    #[test]
    fn noise_and_underflow_are_let_pass() {
        assert!(Second::new(&[4.0, 1.0, 1.003, 9.0], 2).is_ok());
        assert!(Second::new(&[0.0, 1e-19, 1e-19, 1.0], 2).is_ok());
        assert!(Second::new(&[], 0).is_ok());
    }

    #[test]
    fn a_cross_moment_need_only_be_finite() {
        assert!(Cross::new(&[-1.0, 7.0, 0.0, 0.0], 2).is_ok());
        let fault = Cross::new(&[0.0, f32::NAN, 0.0, 0.0], 2).map(|_| ()).unwrap_err();
        assert!(matches!(fault, MomentFault::NotFinite { row: 0, column: 1, .. }));
        assert!(Cross::new(&[0.0; 5], 2).is_err() && Cross::new(&[], usize::MAX).is_err());
    }

    #[test]
    fn any_set_of_tasks_has_its_sum() {
        let mut rng = fastrand::Rng::with_seed(3);
        for count in [1, 5, GROUP, GROUP + 1, 64] {
            let values: Vec<[f32; 4]> =
                (0..count).map(|_| std::array::from_fn(|_| rng.f32() - 0.5)).collect();
            let terms = values.iter().map(|values| (rng.f64(), values.as_slice())).collect();
            let sums = Sums::new(2, terms);
            for missing in 0..=count {
                let mut tasks: Vec<_> = (0..).map(TaskIndex).take(count).collect();
                rng.shuffle(&mut tasks);
                let tasks = set_of(&tasks[missing..]);
                let mut part = [1.0; 2];
                sums.add(tasks, -1.0, 1, 0..2, &mut part);
                for (column, found) in part.into_iter().enumerate() {
                    let of = |task: TaskIndex| {
                        let (weight, values) = sums.terms[task.index()];
                        weight * f64::from(values[2 + column])
                    };
                    let expected = 1.0 - tasks.iter().map(of).sum::<f64>();
                    assert!((found - expected).abs() < 1e-12, "{count} {missing}");
                }
            }
        }
    }
}
