//! All files of a recipe, opened and checked against each other as far as headers tell: which
//! tensors are cut, and that every task has what it needs for each of them.
//!
//! Reads no tensor's bytes: their values are checked by `score`, where they are read.

use super::{
    error::{Expected, InputError, TensorFault},
    recipe::{Choice, Prune, Recipe, Task},
    source::{Source, Tensor},
};
use crate::{
    bundle::{BlockShape, Tiling},
    units::TaskIndex,
};

/// The inputs of a recipe.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) block: BlockShape,
    weights: Source,
    /// By task.
    tasks: Vec<TaskInput>,
    /// In the order of their names.
    pub(super) pruned: Vec<Pruned>,
    /// The names of all other tensors, in order.
    pub(super) base: Vec<String>,
}

/// A task's files.
#[derive(Debug)]
pub(super) struct TaskInput {
    pub(super) choice: Choice,
    source: Source,
}

/// A tensor that is cut into blocks.
#[derive(Debug)]
pub(super) struct Pruned {
    pub(super) name: String,
    pub(super) tiling: Tiling,
}

impl Inputs {
    /// Opens all files. Whatever is wrong with their headers is found here, before any work.
    pub(super) fn open(recipe: &Recipe) -> Result<Self, InputError> {
        let weights = Source::open("weights", recipe.weights.paths())?;
        let (cut, base) = classify(&weights, &recipe.prune)?;
        let block = block_shape(recipe, &cut)?;
        let pruned = cut.iter().map(|tensor| pruned(tensor, block)).collect::<Result<_, _>>()?;
        let tasks = recipe.tasks.iter().map(TaskInput::open).collect::<Result<Vec<_>, _>>()?;
        for source in tasks.iter().map(|task| &task.source).chain([&weights]) {
            source.check_output(&recipe.output)?;
        }
        recipe.check_output()?;
        let inputs = Self { block, weights, tasks, pruned, base };
        inputs.check_tasks()?;
        Ok(inputs)
    }

    /// A tensor of the weights.
    pub(super) fn weight(&self, name: &str) -> Result<Tensor<'_>, InputError> {
        self.weights.get(name)
    }

    /// The names of all tensors of the weights, in order.
    pub(super) fn weight_names(&self) -> impl Iterator<Item = &str> {
        self.weights.names()
    }

    /// What a task's files say of a tensor that is cut.
    pub(super) fn of_task(&self, task: TaskIndex, name: &str) -> Result<Tensor<'_>, InputError> {
        self.tasks[task.index()].source.get(name)
    }

    /// The tensor that a task takes its values from: the weights, or its own checkpoint.
    pub(super) fn values_of(&self, task: TaskIndex, name: &str) -> Result<Tensor<'_>, InputError> {
        if self.has_own_values(task) { self.of_task(task, name) } else { self.weight(name) }
    }

    /// Whether a task's values come from its own checkpoint.
    pub(super) fn has_own_values(&self, task: TaskIndex) -> bool {
        matches!(self.choice(task), Choice::Checkpoint { .. })
    }

    /// How a task's blocks are chosen.
    pub(super) fn choice(&self, task: TaskIndex) -> Choice {
        self.tasks[task.index()].choice
    }

    pub(super) fn task_indices(&self) -> impl Iterator<Item = TaskIndex> + use<> {
        (0..).map(TaskIndex).take(self.tasks.len())
    }

    fn check_tasks(&self) -> Result<(), InputError> {
        for task in self.task_indices() {
            for pruned in &self.pruned {
                let tensor = self.of_task(task, &pruned.name)?;
                check(&tensor, self.choice(task), pruned.tiling)?;
            }
        }
        Ok(())
    }
}

impl TaskInput {
    fn open(task: &Task) -> Result<Self, InputError> {
        let source = Source::open(&task.key(), task.files.paths())?;
        Ok(Self { choice: task.choice, source })
    }
}

/// Tells tensors that are cut from the names of those that are base.
fn classify<'w>(
    weights: &'w Source,
    prune: &Prune,
) -> Result<(Vec<Tensor<'w>>, Vec<String>), InputError> {
    let mut matched = vec![false; prune.include.len()];
    let (mut cut, mut base) = (Vec::new(), Vec::new());
    for name in weights.names() {
        let tensor = weights.get(name)?;
        if name.chars().any(char::is_control) {
            return Err(tensor.fault(TensorFault::Name));
        }
        let included = if tensor.shape.len() == 2 { prune.included_by(name) } else { vec![] };
        included.iter().for_each(|&pattern| matched[pattern] = true);
        if included.is_empty() || prune.excludes(name) {
            if tensor.bytes.is_empty() {
                return Err(tensor.fault(TensorFault::Empty));
            }
            base.push(name.to_owned());
        } else {
            cut.push(tensor);
        }
    }
    match matched.iter().position(|&matched| !matched) {
        Some(idle) => Err(InputError::Unmatched(prune.include[idle].glob().to_owned())),
        None => Ok((cut, base)),
    }
}

/// The shape of a block, whose type all tensors that are cut must have.
fn block_shape(recipe: &Recipe, cut: &[Tensor<'_>]) -> Result<BlockShape, InputError> {
    let Some(first) = cut.first() else { return Err(InputError::NothingToCut) };
    if let Some(odd) = cut.iter().find(|tensor| tensor.dtype != first.dtype) {
        return Err(odd.fault(TensorFault::Mixed {
            found: odd.dtype,
            other: first.name.to_owned(),
            expected: first.dtype,
        }));
    }
    Ok(BlockShape::new(recipe.block_rows, recipe.block_cols, first.dtype)?)
}

fn pruned(tensor: &Tensor<'_>, block: BlockShape) -> Result<Pruned, InputError> {
    let &[rows, cols] = tensor.shape else { return Err(tensor.fault(TensorFault::Size)) };
    let tiling = Tiling::new([rows as u64, cols as u64], block);
    let tiling = tiling.ok_or_else(|| tensor.fault(TensorFault::Size))?;
    Ok(Pruned { name: tensor.name.to_owned(), tiling })
}

/// Checks type and shape of what a task says of a weight.
fn check(tensor: &Tensor<'_>, choice: Choice, tiling: Tiling) -> Result<(), InputError> {
    let (expected, shape) = match choice {
        Choice::Norms { .. } => (Expected::Float, vec![tiling.shape()[1]]),
        Choice::Importance { .. } => (Expected::Float, tiling.shape().to_vec()),
        Choice::Mask => (Expected::Mask, tiling.grid().to_vec()),
        Choice::Checkpoint { .. } => {
            (Expected::Exactly(tiling.block().dtype()), tiling.shape().to_vec())
        }
    };
    if !expected.allows(tensor.dtype) {
        return Err(tensor.fault(TensorFault::Type { found: tensor.dtype, expected }));
    }
    if tensor.shape != shape {
        let found = tensor.shape.to_vec();
        return Err(tensor.fault(TensorFault::Shape { found, expected: shape }));
    }
    Ok(())
}
