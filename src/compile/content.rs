//! Which blocks a bundle stores: equal ones once, zero ones never.
//!
//! A place of a grid belongs to a task if the block there is in the task's set. So one block can
//! stand at several places only if the same tasks keep all of them: a block's identity is its
//! bytes *and* its task set. At one place, tasks with equal bytes share a block; a task whose
//! bytes differ from the shared ones has a block of its own in an overriding grid.

use super::{
    align::Masks,
    error::CompileError,
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

/// Finds the blocks that the masks call for.
pub(super) fn identify(
    inputs: &Inputs,
    masks: &Masks,
    run: Run<'_>,
) -> Result<Contents, CompileError> {
    let tensor_bytes = |pruned: &Pruned| pruned.tiling.dense_len() as u64;
    run.stage("compare", inputs.pruned.iter().map(tensor_bytes).sum())?;
    let mut contents = Contents::default();
    let mut catalog = Catalog::default();
    for (position, (pruned, mask)) in inputs.pruned.iter().zip(&masks.tensors).enumerate() {
        let mut values = Values::of(inputs, pruned)?;
        let mut grids = Grids::new(pruned.tiling.places());
        let [_, row_places] = pruned.tiling.grid();
        for (place, &keepers) in mask.iter().enumerate() {
            if place % row_places == 0 {
                run.check()?;
            }
            let found = values.at(place, keepers);
            contents.places += u64::from(!found.is_empty());
            for (nth, value) in found.iter().enumerate() {
                let block = catalog.number(value)?;
                if nth == 0 { grids.share(place, block) } else { grids.own(place, value, block) }
            }
        }
        contents.grids.push(grids.shared);
        let own = grids.own.into_iter();
        contents.own.extend(own.map(|(task, grid)| (GridSpec { tensor: position, task }, grid)));
        run.advance(pruned.tiling.dense_len())?;
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

/// Looks up what the tasks have at a place of one tensor.
struct Values<'a> {
    tiling: Tiling,
    weight: Tensor<'a>,
    /// The tasks that take their values from the weights.
    by_weight: TaskSet,
    checkpoints: Vec<(TaskIndex, Tensor<'a>)>,
    block: Vec<u8>,
    found: Vec<Value>,
}

impl<'a> Values<'a> {
    fn of(inputs: &'a Inputs, pruned: &Pruned) -> Result<Self, CompileError> {
        let mut by_weight = TaskSet::EMPTY;
        let mut checkpoints = Vec::new();
        for task in inputs.task_indices() {
            if inputs.has_own_values(task) {
                checkpoints.push((task, inputs.of_task(task, &pruned.name)?));
            } else {
                by_weight.insert(task);
            }
        }
        Ok(Self {
            tiling: pruned.tiling,
            weight: inputs.weight(&pruned.name)?,
            by_weight,
            checkpoints,
            block: vec![0; pruned.tiling.block().len()],
            found: Vec::new(),
        })
    }

    /// The values that these tasks have at a place. The first is to be shared: the one of most
    /// tasks; of equally many that of the weights, then that of the earliest task. The others
    /// follow in the order of their earliest tasks.
    fn at(&mut self, place: usize, keepers: TaskSet) -> &[Value] {
        self.found.clear();
        let by_weight = keepers.intersection(self.by_weight);
        if !by_weight.is_empty() {
            self.add(place, self.weight, by_weight);
        }
        for position in 0..self.checkpoints.len() {
            let (task, tensor) = self.checkpoints[position];
            if keepers.contains(task) {
                self.add(place, tensor, TaskSet::of(task));
            }
        }
        if self.found.len() > 1 {
            let weight = self.hash(place, self.weight);
            let rank = |value: &Value| {
                (Reverse(value.tasks.len()), Some(value.hash) != weight, value.tasks.first())
            };
            self.found.sort_by_key(rank);
            self.found[1..].sort_by_key(|value| value.tasks.first());
        }
        &self.found
    }

    fn add(&mut self, place: usize, tensor: Tensor<'_>, tasks: TaskSet) {
        let Some(hash) = self.hash(place, tensor) else { return };
        match self.found.iter_mut().find(|value| value.hash == hash) {
            Some(value) => value.tasks = value.tasks.union(tasks),
            None => self.found.push(Value { hash, tasks }),
        }
    }

    /// The hash of the tensor's block, or none if it is all zeros.
    fn hash(&mut self, place: usize, tensor: Tensor<'_>) -> Option<Hash> {
        self.tiling.cut(tensor.bytes, place, &mut self.block);
        if self.block.iter().all(|&byte| byte == 0) {
            return None;
        }
        let digest = blake3::hash(&self.block);
        digest.as_bytes().first_chunk().copied()
    }
}
