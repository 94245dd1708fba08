//! Writes the bundle of a plan, tensor by tensor.
//!
//! Decides nothing: which blocks there are and where they lie is settled in the [`Plan`].

use super::{
    Plan, TaskFigures,
    error::CompileError,
    inputs::Pruned,
    progress::Run,
    recipe::{Recipe, Task},
    settings::Settings,
};
use crate::{
    bundle::{
        ABSENT, BaseSpec, Bundle, BundleId, FORMAT, GridSpec, InputDigest, LayoutMeta, Meta,
        Provenance, Tables, TaskMeta, TensorMeta, WriteError, Writer,
    },
    files::folder,
    units::BlockIndex,
};
use fixedbitset::FixedBitSet;
use std::{io, path::Path};

/// Refuses an output that cannot be, before any work is put into it.
pub(super) fn check_output(output: &Path) -> Result<(), CompileError> {
    let folder = folder(output);
    if !folder.is_dir() {
        return Err(CompileError::OutputFolder(folder.to_owned()));
    }
    if output.is_dir() {
        return Err(CompileError::OutputIsFolder(output.to_owned()));
    }
    Ok(())
}

/// Writes the bundle.
pub(super) fn write(recipe: &Recipe, plan: Plan, run: Run<'_>) -> Result<Bundle, CompileError> {
    let output =
        |source| CompileError::Output { path: recipe.output.clone(), source: Box::new(source) };
    let base = base_specs(&plan)?;
    let meta = meta(recipe, &plan).map_err(output)?;
    let blocks = plan.contents.sets.len();
    let base_bytes: u64 = base.iter().map(|spec| spec.bytes).sum();
    run.stage("write", blocks as u64 * meta.block.bytes() + base_bytes)?;
    let own: Vec<_> = plan.contents.own.iter().map(|(spec, _)| *spec).collect();
    let blocks = u32::try_from(blocks).map_err(|_| CompileError::TooManyBlocks)?;
    let mut writer = Writer::create(&recipe.output, meta, blocks, &base, &own).map_err(output)?;

    write_blocks(&plan, &mut writer, run, output)?;
    for (position, name) in (0..).zip(&plan.inputs.base) {
        let tensor = plan.inputs.weight(name)?;
        writer.base(position, tensor.bytes).map_err(output)?;
        run.advance(tensor.bytes.len())?;
    }
    let tables = tables(plan);
    run.check()?;
    writer.finish(&tables).map_err(output)
}

/// Writes each block where it is first found: the numbers of blocks are in that order.
fn write_blocks(
    plan: &Plan,
    writer: &mut Writer,
    run: Run<'_>,
    output: impl Fn(WriteError) -> CompileError,
) -> Result<(), CompileError> {
    let Plan { inputs, contents, layout, .. } = plan;
    let mut block = vec![0; inputs.block.len()];
    let mut next = 0;
    let mut own = contents.own.as_slice();
    for (position, (pruned, shared)) in inputs.pruned.iter().zip(&contents.grids).enumerate() {
        let (overriding, rest) = split_grids(own, position);
        own = rest;
        for place in 0..pruned.tiling.places() {
            let here = overriding.iter().map(|(_, grid)| grid[place]);
            for number in [shared[place]].into_iter().chain(here) {
                if number != next {
                    continue;
                }
                next += 1;
                cut(plan, pruned, place, number, &mut block)?;
                let index = BlockIndex(layout.position[number as usize]);
                writer.block(index, &block).map_err(&output)?;
                run.advance(block.len())?;
            }
        }
    }
    Ok(())
}

type OwnGrid = (GridSpec, Vec<u32>);

/// Splits off the overriding grids of a tensor, which come first.
fn split_grids(own: &[OwnGrid], tensor: usize) -> (&[OwnGrid], &[OwnGrid]) {
    own.split_at(own.partition_point(|(spec, _)| spec.tensor <= tensor))
}

/// Cuts a block out of the values that any task of its set has at the place.
fn cut(
    plan: &Plan,
    pruned: &Pruned,
    place: usize,
    number: u32,
    block: &mut [u8],
) -> Result<(), CompileError> {
    let tensor = match plan.contents.sets[number as usize].first() {
        Some(task) => plan.inputs.values_of(task, &pruned.name)?,
        None => plan.inputs.weight(&pruned.name)?,
    };
    pruned.tiling.cut(tensor.bytes, place, block);
    Ok(())
}

fn base_specs(plan: &Plan) -> Result<Vec<BaseSpec>, CompileError> {
    let spec = |name: &String| {
        let tensor = plan.inputs.weight(name)?;
        Ok(BaseSpec {
            name: name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
            bytes: tensor.bytes.len() as u64,
        })
    };
    plan.inputs.base.iter().map(spec).collect()
}

/// Turns numbers of blocks into positions on disk.
fn tables(plan: Plan) -> Tables {
    let Plan { contents, layout, inputs, .. } = plan;
    let mut tasks: Vec<_> =
        inputs.task_indices().map(|_| FixedBitSet::with_capacity(contents.sets.len())).collect();
    for (set, &position) in contents.sets.iter().zip(&layout.position) {
        set.iter().for_each(|task| tasks[task.index()].insert(position as usize));
    }
    let placed = |mut grid: Vec<u32>| {
        for block in grid.iter_mut().filter(|block| **block != ABSENT) {
            *block = layout.position[*block as usize];
        }
        grid
    };
    Tables {
        grids: contents.grids.into_iter().map(placed).collect(),
        own: contents.own.into_iter().map(|(_, grid)| placed(grid)).collect(),
        tasks,
    }
}

fn meta(recipe: &Recipe, plan: &Plan) -> Result<Meta, WriteError> {
    let settings = Settings::of(recipe, plan.algorithm);
    let settings = serde_json::to_string(&settings).map_err(io::Error::other)?;
    let task = |(task, figures): (&Task, &TaskFigures)| TaskMeta {
        name: task.name.clone(),
        keep: task.choice.keep(),
        blocks: figures.blocks,
        retained: figures.retained,
        best: figures.best,
    };
    let tensor = |pruned: &Pruned| TensorMeta {
        name: pruned.name.clone(),
        shape: pruned.tiling.shape().map(|n| n as u64),
    };
    Ok(Meta {
        format: FORMAT,
        model: recipe.model.clone(),
        bundle_id: bundle_id(&settings, &plan.digests),
        block: plan.inputs.block,
        tasks: recipe.tasks.iter().zip(&plan.figures.tasks).map(task).collect(),
        tensors: plan.inputs.pruned.iter().map(tensor).collect(),
        layout: LayoutMeta { groups: plan.layout.groups, places: plan.contents.places },
        provenance: Provenance {
            tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
            settings,
            inputs: plan.digests.clone(),
        },
    })
}

/// The identity of settings and inputs. Where a file lay does not count.
fn bundle_id(settings: &str, inputs: &[InputDigest]) -> BundleId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&FORMAT.to_le_bytes());
    for text in [settings].into_iter().chain(inputs.iter().flat_map(|i| [&*i.role, &*i.blake3])) {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    BundleId(id)
}
