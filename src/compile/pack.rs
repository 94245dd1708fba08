//! Writes the bundle of a plan, tensor by tensor.
//!
//! Decides nothing: which blocks there are and where they lie is settled in the [`Plan`].

use super::{
    Plan, TaskFigures,
    error::{CompileError, InputError},
    inputs::Pruned,
    progress::Run,
    recipe::{Recipe, Task},
    settings::Settings,
};
use crate::{
    bundle::{
        ABSENT, BaseSpec, Bundle, BundleId, FORMAT, GridSpec, InputDigest, LayoutMeta, Meta,
        Provenance, Tables, TaskMeta, TensorMeta, Tiling, WriteError, Writer,
    },
    files::folder,
    units::{BlockIndex, TaskIndex},
};
use fixedbitset::FixedBitSet;
use rayon::prelude::*;
use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    path::Path,
};

/// Bytes of a tensor in memory at a time, once as they were read and once as they are written; more
/// only if a single row of blocks has more.
const BYTES_AT_ONCE: usize = 1 << 20;

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
        writer.base(position, &tensor.read_all()?).map_err(output)?;
        run.advance(tensor.len)?;
    }
    let tables = tables(plan);
    run.check()?;
    writer.finish(&tables).map_err(output)
}

/// Writes each block where it is first found: the numbers of blocks are in that order. Several rows
/// of blocks are written side by side.
fn write_blocks(
    plan: &Plan,
    writer: &mut Writer,
    run: Run<'_>,
    output: impl Fn(WriteError) -> CompileError + Sync,
) -> Result<(), CompileError> {
    let Plan { inputs, contents, .. } = plan;
    let mut next = 0;
    let mut own = contents.own.as_slice();
    for (position, (pruned, shared)) in inputs.pruned.iter().zip(&contents.grids).enumerate() {
        let (overriding, rest) = split_grids(own, position);
        own = rest;
        let [_, grid_cols] = pruned.tiling.grid();
        let mut rows = vec![Row::default(); pruned.tiling.grid()[0]];
        for place in 0..pruned.tiling.places() {
            let here = overriding.iter().map(|(_, grid)| grid[place]);
            for number in [shared[place]].into_iter().chain(here) {
                if number == next {
                    next += 1;
                    rows[place / grid_cols].push((place % grid_cols, number));
                }
            }
        }
        let rows: Vec<_> = rows.into_iter().enumerate().collect();
        let bands_at_once = (BYTES_AT_ONCE / pruned.tiling.band(0).0.len()).max(1);
        for rows in rows.chunks(bands_at_once) {
            run.check()?;
            let (positions, bytes) = cut_rows(plan, pruned, rows)?;
            writer.blocks(&positions, &bytes).map_err(&output)?;
            run.advance(bytes.len())?;
        }
    }
    Ok(())
}

/// Blocks to write from one row: column of the grid and number.
type Row = Vec<(usize, u32)>;

/// The blocks of some rows in the order of their positions on disk, so that neighbours there are
/// neighbours here.
fn cut_rows(
    plan: &Plan,
    pruned: &Pruned,
    rows: &[(usize, Row)],
) -> Result<(Vec<BlockIndex>, Vec<u8>), CompileError> {
    let bands = rows.par_iter().map(|(row, blocks)| Bands::read(plan, pruned, *row, blocks));
    // Collected before errors are looked at: the first in the file is to be told.
    let bands: Vec<_> = bands.collect::<Vec<_>>().into_iter().collect::<Result<_, _>>()?;
    let blocks = rows.iter().zip(&bands).flat_map(|((_, blocks), bands)| {
        blocks.iter().map(move |&(col, number)| {
            (BlockIndex(plan.layout.position[number as usize]), bands, col, number)
        })
    });
    let mut blocks: Vec<_> = blocks.collect();
    blocks.sort_unstable_by_key(|(position, ..)| *position);
    let len = plan.inputs.block.len();
    let mut bytes = vec![0; blocks.len() * len];
    let into = bytes.par_chunks_mut(len).zip(&blocks);
    into.for_each(|(into, (_, bands, col, number))| bands.cut(plan, *col, *number, into));
    Ok((blocks.iter().map(|(position, ..)| *position).collect(), bytes))
}

/// A row of blocks as those have it whose blocks are written from it.
struct Bands {
    tiling: Tiling,
    /// By task, or none for the shared values.
    values: HashMap<Option<TaskIndex>, Vec<u8>>,
}

impl Bands {
    fn read(plan: &Plan, pruned: &Pruned, row: usize, blocks: &Row) -> Result<Self, InputError> {
        let (part, tiling) = pruned.tiling.band(row);
        let mut values = HashMap::new();
        for &(_, number) in blocks {
            let Entry::Vacant(entry) = values.entry(values_of(plan, number)) else { continue };
            let tensor = match *entry.key() {
                Some(task) => plan.inputs.of_task(task, &pruned.name),
                None => plan.inputs.shared_values(&pruned.name),
            }?;
            let mut bytes = Vec::new();
            tensor.read(part.clone(), &mut bytes)?;
            entry.insert(bytes);
        }
        Ok(Self { tiling, values })
    }

    fn cut(&self, plan: &Plan, col: usize, number: u32, into: &mut [u8]) {
        if let Some(values) = self.values.get(&values_of(plan, number)) {
            self.tiling.cut(values, col, into);
        }
    }
}

/// Whose values a block has: any task of its set has them at its place.
fn values_of(plan: &Plan, number: u32) -> Option<TaskIndex> {
    let task = plan.contents.sets[number as usize].first();
    task.filter(|task| plan.inputs.has_own_values(*task))
}

type OwnGrid = (GridSpec, Vec<u32>);

/// Splits off the overriding grids of a tensor, which come first.
fn split_grids(own: &[OwnGrid], tensor: usize) -> (&[OwnGrid], &[OwnGrid]) {
    own.split_at(own.partition_point(|(spec, _)| spec.tensor <= tensor))
}

fn base_specs(plan: &Plan) -> Result<Vec<BaseSpec>, CompileError> {
    let spec = |name: &String| {
        let tensor = plan.inputs.weight(name)?;
        Ok(BaseSpec {
            name: name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
            bytes: tensor.len as u64,
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
    let settings = Settings::of(recipe, plan.method.algorithm, plan.inputs.switches.rows());
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
        transitions: plan.inputs.switches.rows().to_vec(),
        layout: LayoutMeta {
            groups: plan.figures.groups,
            places: plan.contents.places,
            request_bytes: recipe.device.request_bytes(),
        },
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
