//! Writes block masks as a safetensors file, for frameworks that train under them.
//!
//! For each task and tensor that is cut there is a tensor `<task>/<tensor>`, `U8`, of the shape of
//! the tensor's grid: 1 where the task keeps the block. A recipe takes the file back as a `mask`.

use super::{
    error::CompileError,
    inputs::{Inputs, Pruned},
    recipe::Recipe,
    taskset::TaskSet,
};
use crate::{
    bundle::{WriteError, header, lay_out},
    files::AtomicFile,
    units::TaskIndex,
};
use safetensors::Dtype;
use std::{
    collections::HashMap,
    io::{self, BufWriter, Write as _},
    path::Path,
};

/// Writes the masks, given by place through all tensors.
pub(super) fn write(
    recipe: &Recipe,
    inputs: &Inputs,
    masks: &[TaskSet],
    path: &Path,
) -> Result<(), CompileError> {
    let written = try_write(recipe, inputs, masks, path);
    written.map_err(|source| CompileError::Output { path: path.to_owned(), source: source.into() })
}

fn try_write(
    recipe: &Recipe,
    inputs: &Inputs,
    masks: &[TaskSet],
    path: &Path,
) -> Result<(), WriteError> {
    let tasks = || recipe.tasks.iter().zip(inputs.task_indices());
    let tensors = tasks().flat_map(|(task, _)| {
        let named = |pruned: &Pruned| {
            (format!("{}/{}", task.name, pruned.name), Dtype::U8, pruned.tiling.grid().to_vec())
        };
        inputs.pruned.iter().map(named)
    });
    let tensors = lay_out(tensors).ok_or_else(|| io::Error::other("the masks are too large"))?;
    let about = HashMap::from([("block".to_owned(), describe(inputs))]);
    let header = header(Some(about), tensors).map_err(io::Error::other)?;
    let file = AtomicFile::create(path)?;
    let mut out = BufWriter::new(file.file());
    out.write_all(&header)?;
    for (_, task) in tasks() {
        for keepers in masks {
            out.write_all(&[kept(*keepers, task)])?;
        }
    }
    out.flush()?;
    drop(out);
    Ok(file.commit()?)
}

fn kept(keepers: TaskSet, task: TaskIndex) -> u8 {
    u8::from(keepers.contains(task))
}

/// Rows and columns of a block, which the shapes alone do not tell where tensors have edges.
fn describe(inputs: &Inputs) -> String {
    serde_json::json!({ "rows": inputs.block.rows(), "cols": inputs.block.cols() }).to_string()
}
