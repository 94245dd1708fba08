//! New values for the weights that remain, so that layers answer as they did when dense.
//!
//! Tensor by tensor: rows of blocks that the same tasks keep are solved for together by `solve`,
//! from the second `moments` of what the tasks' layers are fed. Tasks that take their values from
//! the weights share the new ones; checkpoints stay as they are. Chooses no masks.

mod cholesky;
mod moments;
mod solve;

pub use moments::MomentFault;
pub use solve::SolveError;

use super::{
    error::{CompileError, InputError, ScratchError, TensorFault},
    inputs::{Inputs, Pruned},
    number::{decode, encode},
    progress::Run,
    recipe::Recipe,
    source::Tensor,
    taskset::TaskSet,
};
use crate::{bundle::Tiling, units::TaskIndex};
use moments::{Cross, Pooled, Second, TaskMoments};
use rayon::prelude::*;
use solve::Rows;
use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt as _};

/// Values that were solved for.
#[derive(Debug)]
pub(super) struct Rebuilt {
    file: File,
    /// By tensor: where its bytes begin.
    offsets: BTreeMap<String, u64>,
}

impl Rebuilt {
    /// The tensor with its new values, if it has any.
    pub(super) fn replace<'a>(&'a self, weight: Tensor<'a>) -> Tensor<'a> {
        match self.offsets.get(weight.name) {
            Some(&offset) => weight.moved_to(&self.file, offset),
            None => weight,
        }
    }
}

/// Solves for the values of all tensors that the recipe says, given who keeps which place.
pub(super) fn reconstruct(
    recipe: &Recipe,
    inputs: &Inputs,
    masks: &[TaskSet],
    run: Run<'_>,
) -> Result<Option<Rebuilt>, CompileError> {
    let Some(settings) = &recipe.reconstruct else { return Ok(None) };
    let solved = || inputs.pruned.iter().filter(|pruned| pruned.reconstruct);
    run.stage("solve", solved().map(|pruned| pruned.tiling.dense_len() as u64).sum())?;
    let file = tempfile::tempfile().map_err(ScratchError::from)?;
    let mut rebuilt = Rebuilt { file, offsets: BTreeMap::new() };
    let (mut offset, mut rest) = (0, masks);
    for pruned in &inputs.pruned {
        let (mask, behind) = rest.split_at(pruned.tiling.places());
        rest = behind;
        if pruned.reconstruct {
            let bytes = solve_tensor(inputs, pruned, mask, settings.damping, run)?;
            rebuilt.file.write_all_at(&bytes, offset).map_err(ScratchError::from)?;
            rebuilt.offsets.insert(pruned.name.clone(), offset);
            offset += bytes.len() as u64;
        }
    }
    Ok(Some(rebuilt))
}

/// The tensor's new bytes; zero where no task keeps the block.
fn solve_tensor(
    inputs: &Inputs,
    pruned: &Pruned,
    mask: &[TaskSet],
    damping: f64,
    run: Run<'_>,
) -> Result<Vec<u8>, CompileError> {
    let [_, cols] = pruned.tiling.shape();
    let tensors = TaskTensors::read_all(inputs, pruned, run)?;
    let moments = tensors.iter().map(|task| task.check(cols));
    let moments = Pooled::new(cols, &moments.collect::<Result<Vec<_>, _>>()?);
    let mask = numbered(mask, tensors.iter().map(|task| task.task).collect());
    let weight = inputs.weight(&pruned.name)?;
    let groups = alike(&mask, pruned.tiling);
    let solved = groups
        .par_iter()
        .map(|(keepers, rows)| solve_rows(&weight, pruned, rows, keepers, &moments, damping));
    let mut bytes = vec![0; weight.len];
    for ((_, rows), values) in groups.iter().zip(solved.collect::<Vec<_>>()) {
        let values = values?;
        let mut values = values.as_slice();
        for &row in rows {
            let part = pruned.tiling.band(row).0;
            let (own, behind) = values.split_at(part.len());
            bytes[part].copy_from_slice(own);
            values = behind;
        }
    }
    run.advance(weight.len)?;
    Ok(bytes)
}

/// The solver numbers tasks by their moments: those that share values, in their order.
fn numbered(mask: &[TaskSet], sharing: TaskSet) -> Vec<TaskSet> {
    let number = |set: &TaskSet| -> TaskSet {
        let numbers = (0..).map(TaskIndex).zip(sharing.iter());
        numbers.filter(|(_, task)| set.contains(*task)).map(|(number, _)| number).collect()
    };
    mask.iter().map(number).collect()
}

/// Rows of blocks by who keeps which of their blocks.
fn alike(mask: &[TaskSet], tiling: Tiling) -> Vec<(&[TaskSet], Vec<usize>)> {
    let [_, grid_cols] = tiling.grid();
    let mut alike = BTreeMap::<_, Vec<_>>::new();
    for (row, keepers) in mask.chunks(grid_cols).enumerate() {
        alike.entry(keepers).or_default().push(row);
    }
    alike.into_iter().collect()
}

/// Solves for the rows of blocks that have the same keepers; gives their bytes in order.
fn solve_rows(
    weight: &Tensor<'_>,
    pruned: &Pruned,
    rows: &[usize],
    keepers: &[TaskSet],
    pooled: &Pooled<'_>,
    damping: f64,
) -> Result<Vec<u8>, CompileError> {
    let (mut dense, mut band, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for &row in rows {
        weight.read(pruned.tiling.band(row).0, &mut band)?;
        decode(weight.dtype, &band, &mut values);
        dense.extend_from_slice(&values);
    }
    let block_cols = pruned.tiling.block().cols();
    let rows = Rows { weights: &dense, block_cols, keepers };
    let wrong = |source| CompileError::Reconstruct { tensor: pruned.name.clone(), source };
    let solved = solve::solve(&rows, pooled, damping).map_err(wrong)?;
    let mut bytes = Vec::with_capacity(dense.len() * pruned.tiling.block().element_bytes());
    solved.iter().for_each(|&value| encode(weight.dtype, value, &mut bytes));
    // What fits a wide type may not fit that of the weights.
    decode(weight.dtype, &bytes, &mut values);
    if values.iter().all(|value| value.is_finite()) {
        Ok(bytes)
    } else {
        Err(wrong(SolveError::NotFinite))
    }
}

/// A task's moments, in memory.
struct TaskTensors<'a> {
    task: TaskIndex,
    second: (Tensor<'a>, Vec<f32>),
    cross: Option<(Tensor<'a>, Vec<f32>)>,
}

impl<'a> TaskTensors<'a> {
    /// Those of all tasks that have any.
    fn read_all(
        inputs: &'a Inputs,
        pruned: &'a Pruned,
        run: Run<'_>,
    ) -> Result<Vec<Self>, CompileError> {
        let mut all = Vec::new();
        for task in inputs.task_indices() {
            if let Some((second, cross)) = inputs.moments(task, &pruned.name)? {
                all.push(Self::read(task, second, cross)?);
            }
            run.check()?;
        }
        Ok(all)
    }

    fn read(
        task: TaskIndex,
        second: Tensor<'a>,
        cross: Option<Tensor<'a>>,
    ) -> Result<Self, InputError> {
        let second = (second, floats(&second)?);
        let cross = cross.map(|cross| floats(&cross).map(|values| (cross, values))).transpose()?;
        Ok(Self { task, second, cross })
    }

    fn check(&self, inputs: usize) -> Result<TaskMoments<'_>, InputError> {
        let (tensor, second) = &self.second;
        let second = Second::new(second, inputs).map_err(|f| tensor.fault(f.into()))?;
        let cross = match &self.cross {
            None => None,
            Some((tensor, cross)) => {
                Some(Cross::new(cross, inputs).map_err(|fault| tensor.fault(fault.into()))?)
            }
        };
        Ok(TaskMoments { second, cross, weight: 1.0 })
    }
}

/// All values of a tensor, row by row so that little else is in memory.
fn floats(tensor: &Tensor<'_>) -> Result<Vec<f32>, InputError> {
    let rows = tensor.shape.first().copied().unwrap_or(1).max(1);
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    let mut floats = Vec::with_capacity(tensor.shape.iter().product());
    for start in (0..tensor.len).step_by((tensor.len / rows).max(1)) {
        tensor.read(start..tensor.len.min(start + tensor.len / rows), &mut bytes)?;
        decode(tensor.dtype, &bytes, &mut values);
        floats.extend(values.iter().map(|&value| value as f32));
    }
    Ok(floats)
}

impl From<MomentFault> for TensorFault {
    fn from(fault: MomentFault) -> Self {
        Self::Moment(fault)
    }
}
