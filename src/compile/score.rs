//! How much each block matters to each task.
//!
//! One pass over the inputs, tensor by tensor: it digests them, checks the values that nothing
//! else looks at, and keeps one number for each block and task. Chooses nothing.

use super::{
    align::{Demand, Problem, Scores},
    error::{CompileError, InputError, TensorFault},
    inputs::{Inputs, Pruned},
    number::decode,
    progress::Run,
    recipe::{Choice, Recipe},
    source::{Digester, Tensor},
};
use crate::{
    bundle::{InputDigest, Tiling},
    units::TaskIndex,
};
use std::ops::Range;

/// Importance beyond this is refused. Weights are at most this too, so that no score, a sum over
/// at most 2^63 elements, can overflow an `f64`.
const MAX_IMPORTANCE: f64 = f32::MAX as f64;

/// What the pass over the inputs yields.
pub(super) struct Scored {
    pub(super) problem: Problem,
    pub(super) digests: Vec<InputDigest>,
}

/// Reads all inputs.
pub(super) fn score(
    recipe: &Recipe,
    inputs: &Inputs,
    run: Run<'_>,
) -> Result<Scored, CompileError> {
    run.stage("score", bytes_to_read(inputs)?)?;
    let mut weights = Digester::new("weights".into());
    let mut tasks: Vec<_> = recipe.tasks.iter().map(|task| Digester::new(task.key())).collect();
    let mut tensors = Vec::with_capacity(inputs.pruned.len());
    let mut pruned = inputs.pruned.iter().peekable();
    for name in inputs.weight_names() {
        weights.add(&inputs.weight(name)?, run)?;
        if let Some(pruned) = pruned.next_if(|pruned| pruned.name == name) {
            for (task, digester) in inputs.task_indices().zip(&mut tasks) {
                digester.add(&inputs.of_task(task, name)?, run)?;
            }
            tensors.push(score_tensor(inputs, pruned, run)?);
        }
    }
    let demands = inputs.task_indices().map(|task| demand(inputs.choice(task))).collect();
    let digests = std::iter::once(weights).chain(tasks).map(Digester::finish).collect();
    Ok(Scored { problem: Problem { demands, tensors }, digests })
}

/// A checkpoint without a share keeps all that it has; its zero blocks are dropped with all others.
fn demand(choice: Choice) -> Demand {
    match choice {
        Choice::Mask => Demand::Given,
        Choice::Norms { .. } | Choice::Importance { .. } | Choice::Checkpoint { .. } => {
            Demand::Share(choice.keep().unwrap_or(1.0))
        }
    }
}

/// The bytes that are digested: those of all weights, and of the tasks' tensors for those cut.
fn bytes_to_read(inputs: &Inputs) -> Result<u64, InputError> {
    let mut bytes = 0;
    for name in inputs.weight_names() {
        bytes += inputs.weight(name)?.bytes.len() as u64;
    }
    for task in inputs.task_indices() {
        for pruned in &inputs.pruned {
            bytes += inputs.of_task(task, &pruned.name)?.bytes.len() as u64;
        }
    }
    Ok(bytes)
}

fn score_tensor(inputs: &Inputs, pruned: &Pruned, run: Run<'_>) -> Result<Scores, CompileError> {
    let tiling = pruned.tiling;
    let ones = vec![1.0; tiling.shape()[1]];
    let mut scores = Scores::new(inputs.task_indices().count(), tiling.places());
    // The squares of the weights serve several tasks, which differ in how much a column counts.
    let mut by_weight = Vec::new();
    for task in inputs.task_indices() {
        let tensor = inputs.of_task(task, &pruned.name)?;
        let mut add_own = |term| {
            add_bands(&tensor, tiling, term, run, |places, sums| {
                add_blocks(sums, &ones, tiling, &mut scores.of_mut(task)[places]);
            })
        };
        match inputs.choice(task) {
            Choice::Importance { .. } => add_own(Term::Plain)?,
            Choice::Checkpoint { .. } => add_own(Term::Square)?,
            Choice::Norms { .. } => by_weight.push((task, squares(&importance(&tensor)?))),
            Choice::Mask => {
                give(&tensor, task, &mut scores)?;
                by_weight.push((task, ones.clone()));
            }
        }
    }
    let weight = inputs.weight(&pruned.name)?;
    if !by_weight.is_empty() {
        add_bands(&weight, tiling, Term::Square, run, |places, sums| {
            for (task, counts) in &by_weight {
                add_blocks(sums, counts, tiling, &mut scores.of_mut(*task)[places.clone()]);
            }
        })?;
    }
    Ok(scores)
}

/// What an element adds to the sum of its column.
#[derive(Clone, Copy)]
enum Term {
    /// Itself; it must be importance.
    Plain,
    /// Its square; it must be finite.
    Square,
}

/// Hands out, for each row of blocks, its places and the sum of each column over its rows.
fn add_bands(
    tensor: &Tensor<'_>,
    tiling: Tiling,
    term: Term,
    run: Run<'_>,
    mut band: impl FnMut(Range<usize>, &[f64]),
) -> Result<(), CompileError> {
    let [rows, cols] = tiling.shape();
    let [_, grid_cols] = tiling.grid();
    let row_bytes = tensor.bytes.len() / rows;
    let (mut values, mut sums) = (Vec::with_capacity(cols), vec![0.0; cols]);
    let bands = tensor.bytes.chunks(row_bytes * tiling.block().rows());
    for (grid_row, bytes) in bands.enumerate() {
        run.check()?;
        sums.fill(0.0);
        for (row, bytes) in bytes.chunks(row_bytes).enumerate() {
            decode(tensor.dtype, bytes, &mut values);
            let start = (grid_row * tiling.block().rows() + row) * cols;
            add_row(&values, term, &mut sums).map_err(|col| {
                tensor.fault(TensorFault::Value {
                    index: start + col,
                    value: values[col],
                    expected: term.expected(),
                })
            })?;
        }
        band(grid_row * grid_cols..(grid_row + 1) * grid_cols, &sums);
    }
    Ok(())
}

impl Term {
    fn allows(self, value: f64) -> bool {
        match self {
            Self::Plain => (0.0..=MAX_IMPORTANCE).contains(&value),
            Self::Square => value.is_finite(),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Plain => "0 to 3.4e38",
            Self::Square => "finite",
        }
    }
}

/// Adds a row to the columns' sums; a value that the term does not allow is given by its column.
fn add_row(values: &[f64], term: Term, sums: &mut [f64]) -> Result<(), usize> {
    if let Some(col) = values.iter().position(|&value| !term.allows(value)) {
        return Err(col);
    }
    let pairs = sums.iter_mut().zip(values);
    match term {
        Term::Plain => pairs.for_each(|(sum, value)| *sum += value),
        Term::Square => pairs.for_each(|(sum, value)| *sum += value * value),
    }
    Ok(())
}

/// Adds up columns, each times what it counts, to the scores of one row of blocks.
fn add_blocks(sums: &[f64], counts: &[f64], tiling: Tiling, scores: &mut [f64]) {
    let width = tiling.block().cols();
    let columns = sums.chunks(width).zip(counts.chunks(width));
    for (score, (sums, counts)) in scores.iter_mut().zip(columns) {
        *score = sums.iter().zip(counts).map(|(sum, count)| sum * count).sum();
    }
}

/// All values of a tensor of importance.
fn importance(tensor: &Tensor<'_>) -> Result<Vec<f64>, InputError> {
    let mut values = Vec::new();
    decode(tensor.dtype, tensor.bytes, &mut values);
    match values.iter().position(|&value| !Term::Plain.allows(value)) {
        None => Ok(values),
        Some(index) => {
            let expected = Term::Plain.expected();
            Err(tensor.fault(TensorFault::Value { index, value: values[index], expected }))
        }
    }
}

fn squares(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value * value).collect()
}

/// Gives a task the places that its mask says.
fn give(mask: &Tensor<'_>, task: TaskIndex, scores: &mut Scores) -> Result<(), InputError> {
    for (index, &keep) in mask.bytes.iter().enumerate() {
        match keep {
            0 => {}
            1 => scores.give(index, task),
            other => {
                let (value, expected) = (f64::from(other), "0 or 1");
                return Err(mask.fault(TensorFault::Value { index, value, expected }));
            }
        }
    }
    Ok(())
}
