//! Which blocks a bundle stores: equal ones once, zero ones never.
//!
//! A place of a grid belongs to a task if the block there is in the task's set. So one block can
//! stand at several places only if the same tasks keep all of them: a block's identity is its
//! bytes *and* its task set. At one place, tasks with equal bytes share a block; a task whose
//! bytes differ from the shared ones has a block of its own in an overriding grid.

use super::{
    error::{CompileError, InputError},
    inputs::{Inputs, Pruned},
    progress::Run,
    source::Tensor,
    taskset::TaskSet,
};
use crate::{
    bundle::{ABSENT, GridSpec, MAX_BLOCKS, Tiling},
    units::TaskIndex,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

/// A block's bytes, by the first half of their BLAKE3 digest.
type Hash = [u8; 16];

/// The blocks to store, numbered as they are found: by tensor and place; at a place the shared one
/// first, then those of overriding grids in the order of the grids. `pack` relies on it.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By block: the tasks that keep it, never none.
    pub(super) sets: Vec<TaskSet>,
    /// By tensor: the shared block at each place, or [`ABSENT`].
    pub(super) grids: Vec<Vec<u32>>,
    /// The overriding grids, by tensor, then task.
    pub(super) own: Vec<(GridSpec, Vec<u32>)>,
    /// Places that some task keeps.
    pub(super) places: u64,
}

/// Finds the blocks that masks call for, given by place through all tensors.
pub(super) fn identify(
    inputs: &Inputs,
    masks: &[TaskSet],
    run: Run<'_>,
) -> Result<Contents, CompileError> {
    let tensor_bytes = |pruned: &Pruned| pruned.tiling.dense_len() as u64;
    run.stage("compare", inputs.pruned.iter().map(tensor_bytes).sum())?;
    let mut contents = Contents::default();
    let mut catalog = Catalog::default();
    let mut rest = masks;
    for (position, pruned) in inputs.pruned.iter().enumerate() {
        let (mask, behind) = rest.split_at(pruned.tiling.places());
        rest = behind;
        let mut grids = Grids::new(mask.len());
        let [grid_rows, grid_cols] = pruned.tiling.grid();
        let values = Values::of(inputs, pruned)?;
        let find = |buffers: &mut Buffers, row: usize| {
            values.band(row, &mask[row * grid_cols..][..grid_cols], buffers)
        };
        run.bands(grid_rows, find, |row, band| {
            for (place, found) in (row * grid_cols..).zip(band) {
                contents.places += u64::from(!found.is_empty());
                for (nth, value) in found.iter().enumerate() {
                    let block = catalog.number(value)?;
                    if nth == 0 {
                        grids.share(place, block)
                    } else {
                        grids.own(place, value, block)
                    }
                }
            }
            run.advance(pruned.tiling.band(row).0.len())
        })?;
        contents.grids.push(grids.shared);
        let own = grids.own.into_iter();
        contents.own.extend(own.map(|(task, grid)| (GridSpec { tensor: position, task }, grid)));
    }
    contents.sets = catalog.sets;
    Ok(contents)
}

/// The blocks found so far.
#[derive(Default)]
struct Catalog {
    /// By task set, as keys of 16 bytes keep this at about 30 bytes a block.
    numbers: HashMap<TaskSet, HashMap<Hash, u32>>,
    sets: Vec<TaskSet>,
}

impl Catalog {
    /// The number of a block, the next one if it is new.
    fn number(&mut self, value: &Value) -> Result<u32, CompileError> {
        let numbers = self.numbers.entry(value.tasks).or_default();
        if let Some(&known) = numbers.get(&value.hash) {
            return Ok(known);
        }
        let next = u32::try_from(self.sets.len()).ok().filter(|&n| u64::from(n) < MAX_BLOCKS);
        let next = next.ok_or(CompileError::TooManyBlocks)?;
        numbers.insert(value.hash, next);
        self.sets.push(value.tasks);
        Ok(next)
    }
}

/// The grids of one tensor.
struct Grids {
    shared: Vec<u32>,
    own: BTreeMap<TaskIndex, Vec<u32>>,
}

impl Grids {
    fn new(places: usize) -> Self {
        Self { shared: vec![ABSENT; places], own: BTreeMap::new() }
    }

    fn share(&mut self, place: usize, block: u32) {
        self.shared[place] = block;
    }

    fn own(&mut self, place: usize, value: &Value, block: u32) {
        for task in value.tasks.iter() {
            let grid = self.own.entry(task).or_insert_with(|| vec![ABSENT; self.shared.len()]);
            grid[place] = block;
        }
    }
}

/// What some tasks have at a place: not all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    hash: Hash,
    tasks: TaskSet,
}

/// The values of one place.
type Found = Vec<Value>;

/// Looks up what the tasks have at the places of one tensor.
struct Values<'a> {
    tiling: Tiling,
    weight: Tensor<'a>,
    /// The tasks that take their values from the weights.
    by_weight: TaskSet,
    checkpoints: Vec<(TaskIndex, Tensor<'a>)>,
}

impl<'a> Values<'a> {
    fn of(inputs: &'a Inputs, pruned: &Pruned) -> Result<Self, InputError> {
        let mut by_weight = TaskSet::EMPTY;
        let mut checkpoints = Vec::new();
        for task in inputs.task_indices() {
            if inputs.has_own_values(task) {
                checkpoints.push((task, inputs.of_task(task, &pruned.name)?));
            } else {
                by_weight.insert(task);
            }
        }
        let weight = inputs.shared_values(&pruned.name)?;
        Ok(Self { tiling: pruned.tiling, weight, by_weight, checkpoints })
    }

    fn band(
        &self,
        row: usize,
        keepers: &[TaskSet],
        buffers: &mut Buffers,
    ) -> Result<Vec<Found>, InputError> {
        let (part, band) = self.tiling.band(row);
        let needed = |task| keepers.iter().any(|keepers| keepers.contains(task));
        self.weight.read(part.clone(), &mut buffers.weight)?;
        buffers.checkpoints.resize(self.checkpoints.len(), Vec::new());
        for ((task, tensor), bytes) in self.checkpoints.iter().zip(&mut buffers.checkpoints) {
            if needed(*task) {
                tensor.read(part.clone(), bytes)?;
            }
        }
        buffers.block.resize(band.block().len(), 0);
        Ok((0..).zip(keepers).map(|(col, &keepers)| self.at(band, col, keepers, buffers)).collect())
    }

    /// The values that these tasks have at a place. The first is to be shared: the one of most
    /// tasks; of equally many that of the weights, then that of the earliest task. The others
    /// follow in the order of their earliest tasks.
    fn at(&self, band: Tiling, col: usize, keepers: TaskSet, buffers: &mut Buffers) -> Found {
        let Buffers { weight, checkpoints, block } = buffers;
        let mut found = Found::new();
        let mut add = |bytes: &[u8], tasks: TaskSet| {
            let Some(hash) = hash(band, bytes, col, block) else { return };
            match found.iter_mut().find(|value| value.hash == hash) {
                Some(value) => value.tasks = value.tasks.union(tasks),
                None => found.push(Value { hash, tasks }),
            }
        };
        let by_weight = keepers.intersection(self.by_weight);
        if !by_weight.is_empty() {
            add(weight, by_weight);
        }
        for ((task, _), bytes) in self.checkpoints.iter().zip(checkpoints) {
            if keepers.contains(*task) {
                add(bytes, TaskSet::of(*task));
            }
        }
        if found.len() > 1 {
            let weight = hash(band, weight, col, block);
            let rank = |value: &Value| {
                (Reverse(value.tasks.len()), Some(value.hash) != weight, value.tasks.first())
            };
            found.sort_by_key(rank);
            found[1..].sort_by_key(|value| value.tasks.first());
        }
        found
    }
}

/// What a thread needs again and again.
#[derive(Default)]
struct Buffers {
    weight: Vec<u8>,
    checkpoints: Vec<Vec<u8>>,
    block: Vec<u8>,
}

/// The hash of a block of a band, or none if it is all zeros.
fn hash(band: Tiling, bytes: &[u8], col: usize, block: &mut [u8]) -> Option<Hash> {
    band.cut(bytes, col, block);
    if block.iter().all(|&byte| byte == 0) {
        return None;
    }
    let digest = blake3::hash(block);
    digest.as_bytes().first_chunk().copied()
}
