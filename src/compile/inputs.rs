//! All files of a recipe, opened and checked against each other as far as headers tell: which
//! tensors are cut, and that every task has what it needs for each of them.
//!
//! Reads no tensor's bytes: their values are checked by `score`, where they are read.

use super::{
    error::{CompileError, Expected, InputError, TensorFault},
    recipe::{Choice, Files, Prune, Recipe, Reconstruct, Task},
    reconstruct::Rebuilt,
    source::{Source, Tensor},
    transitions::Switches,
};
use crate::{
    bundle::{BlockShape, Tiling},
    units::TaskIndex,
};
use safetensors::Dtype;
use std::path::Path;

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
    pub(super) switches: Switches,
    /// Values that take the place of the weights' in the blocks of tasks that share those.
    pub(super) rebuilt: Option<Rebuilt>,
}

/// A task's files.
#[derive(Debug)]
struct TaskInput {
    name: String,
    choice: Choice,
    source: Source,
    require: Option<Source>,
    moments: Option<Source>,
    cross: Option<Source>,
}

/// A tensor that is cut into blocks.
#[derive(Debug)]
pub(super) struct Pruned {
    pub(super) name: String,
    pub(super) tiling: Tiling,
    /// Whether its remaining weights are solved for anew.
    pub(super) reconstruct: bool,
}

impl Inputs {
    /// Opens all files. Whatever is wrong with their headers is found here, before any work.
    pub(super) fn open(recipe: &Recipe) -> Result<Self, CompileError> {
        let weights = Source::open("weights", recipe.weights.paths())?;
        let (cut, base) = classify(&weights, &recipe.prune)?;
        let block = block_shape(recipe, &cut)?;
        let anew = |name: &str| solved_anew(recipe.reconstruct.as_ref(), name);
        let pruned = cut.iter().map(|tensor| pruned(tensor, block, anew(tensor.name)));
        let pruned = pruned.collect::<Result<Vec<_>, _>>()?;
        check_reconstructed(recipe.reconstruct.as_ref(), block, &pruned)?;
        let tasks = recipe.tasks.iter().map(TaskInput::open).collect::<Result<Vec<_>, _>>()?;
        let switches = Switches::of(&recipe.transitions, &recipe.tasks)?;
        let inputs = Self { block, weights, tasks, pruned, base, switches, rebuilt: None };
        inputs.check_output(recipe, &recipe.output)?;
        inputs.check_tasks()?;
        Ok(inputs)
    }

    /// Refuses to have an input, or the recipe, replaced by what is written.
    pub(super) fn check_output(&self, recipe: &Recipe, output: &Path) -> Result<(), InputError> {
        self.sources().try_for_each(|source| source.check_output(output))?;
        recipe.check_output(output)
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        let own = self.tasks.iter().map(|task| &task.source);
        std::iter::once(&self.weights).chain(own).chain(self.extras())
    }

    /// The tasks' further files, in order.
    pub(super) fn extras(&self) -> impl Iterator<Item = &Source> {
        self.tasks.iter().flat_map(TaskInput::extras)
    }

    /// What each of these has of a tensor that is cut, as it is looked up where it is used.
    pub(super) fn extra_tensors<'s>(
        &'s self,
        name: &'s str,
    ) -> impl Iterator<Item = Option<Tensor<'s>>> + 's {
        self.tasks.iter().flat_map(move |task| task.extra_tensors(name))
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
        let task = &self.tasks[task.index()];
        if task.choice == Choice::Mask {
            task.mask(&task.source, name)
        } else {
            task.source.get(name)
        }
    }

    /// The values that tasks without a checkpoint share: the weights, or what was made of them.
    pub(super) fn shared_values(&self, name: &str) -> Result<Tensor<'_>, InputError> {
        let weight = self.weight(name)?;
        Ok(match &self.rebuilt {
            Some(rebuilt) => rebuilt.replace(weight),
            None => weight,
        })
    }

    /// The mask of what a task keeps of a tensor in any case, if it has one.
    pub(super) fn required(
        &self,
        task: TaskIndex,
        name: &str,
    ) -> Result<Option<Tensor<'_>>, InputError> {
        let task = &self.tasks[task.index()];
        let source =
            if task.choice == Choice::Mask { Some(&task.source) } else { task.require.as_ref() };
        source.map(|source| task.mask(source, name)).transpose()
    }

    /// The second moments of a task's inputs to a layer, and their cross moments if there are any.
    pub(super) fn moments(
        &self,
        task: TaskIndex,
        name: &str,
    ) -> Result<Option<(Tensor<'_>, Option<Tensor<'_>>)>, InputError> {
        let TaskInput { moments: Some(moments), cross, .. } = &self.tasks[task.index()] else {
            return Ok(None);
        };
        let cross = cross.as_ref().map(|cross| cross.get(name)).transpose()?;
        Ok(Some((moments.get(name)?, cross)))
    }

    /// The bytes that are digested: those of all weights, and of the tasks' tensors for those cut.
    pub(super) fn bytes_to_read(&self) -> Result<u64, InputError> {
        let mut bytes = 0;
        for name in self.weight_names() {
            bytes += self.weight(name)?.len as u64;
        }
        for pruned in &self.pruned {
            for task in self.task_indices() {
                bytes += self.of_task(task, &pruned.name)?.len as u64;
            }
            let extra = self.extra_tensors(&pruned.name).flatten();
            bytes += extra.map(|tensor| tensor.len as u64).sum::<u64>();
        }
        Ok(bytes)
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
                let Pruned { name, tiling, reconstruct } = pruned;
                let role = Role::of(self.choice(task));
                role.check(&self.of_task(task, name)?, *tiling)?;
                if let Some(mask) = self.required(task, name)? {
                    Role::Mask.check(&mask, *tiling)?;
                }
                if !reconstruct {
                    continue;
                }
                if let Some((moments, cross)) = self.moments(task, name)? {
                    Role::Moments.check(&moments, *tiling)?;
                    cross.map(|cross| Role::Moments.check(&cross, *tiling)).transpose()?;
                }
            }
        }
        Ok(())
    }
}

impl TaskInput {
    fn open(task: &Task) -> Result<Self, InputError> {
        let open = |files: &Option<Files>, key| {
            let source = files.as_ref().map(|files| Source::open(&task.key_of(key), files.paths()));
            source.transpose()
        };
        Ok(Self {
            name: task.name.clone(),
            choice: task.choice,
            source: Source::open(&task.key(), task.files.paths())?,
            require: open(&task.require, "require")?,
            moments: open(&task.moments, "moments")?,
            cross: open(&task.cross, "cross")?,
        })
    }

    /// A file of masks may be for several tasks, as `align --masks-out` writes it.
    fn mask<'s>(&self, source: &'s Source, name: &str) -> Result<Tensor<'s>, InputError> {
        self.find_mask(source, name).map_or_else(|| source.get(name), Ok)
    }

    fn find_mask<'s>(&self, source: &'s Source, name: &str) -> Option<Tensor<'s>> {
        source.find(&format!("{}/{name}", self.name)).or_else(|| source.find(name))
    }

    /// One for each of `extras`, in the same order.
    fn extra_tensors(&self, name: &str) -> impl Iterator<Item = Option<Tensor<'_>>> {
        let Self { name: _, choice: _, source: _, require, moments, cross } = self;
        let require = require.as_ref().map(|source| self.find_mask(source, name));
        let [moments, cross] =
            [moments, cross].map(|source| source.as_ref().map(|source| source.find(name)));
        [require, moments, cross].into_iter().flatten()
    }

    fn extras(&self) -> impl Iterator<Item = &Source> {
        let Self { name: _, choice: _, source: _, require, moments, cross } = self;
        [require, moments, cross].into_iter().flatten()
    }
}

/// Whether a tensor's remaining weights are solved for anew.
fn solved_anew(reconstruct: Option<&Reconstruct>, name: &str) -> bool {
    reconstruct.is_some_and(|reconstruct| !reconstruct.tensors.included_by(name).is_empty())
}

/// Refuses patterns that stand for nothing, and weights that are no real numbers.
fn check_reconstructed(
    reconstruct: Option<&Reconstruct>,
    block: BlockShape,
    pruned: &[Pruned],
) -> Result<(), InputError> {
    let Some(reconstruct) = reconstruct else { return Ok(()) };
    let matched: Vec<_> =
        pruned.iter().flat_map(|pruned| reconstruct.tensors.included_by(&pruned.name)).collect();
    let include = reconstruct.tensors.include.iter().enumerate();
    if let Some((_, idle)) = include.into_iter().find(|(number, _)| !matched.contains(number)) {
        return Err(InputError::NotReconstructed(idle.glob().to_owned()));
    }
    match block.dtype() {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
        dtype => Err(InputError::ReconstructType(dtype)),
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
            if tensor.len == 0 {
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

fn pruned(tensor: &Tensor<'_>, block: BlockShape, reconstruct: bool) -> Result<Pruned, InputError> {
    let &[rows, cols] = tensor.shape else { return Err(tensor.fault(TensorFault::Size)) };
    let tiling = Tiling::new([rows as u64, cols as u64], block);
    let tiling = tiling.ok_or_else(|| tensor.fault(TensorFault::Size))?;
    Ok(Pruned { name: tensor.name.to_owned(), tiling, reconstruct })
}

/// What a task's tensor says of a weight.
#[derive(Clone, Copy)]
enum Role {
    Norms,
    Importance,
    Mask,
    Values,
    Moments,
}

impl Role {
    fn of(choice: Choice) -> Self {
        match choice {
            Choice::Norms { .. } => Self::Norms,
            Choice::Importance { .. } => Self::Importance,
            Choice::Mask => Self::Mask,
            Choice::Checkpoint { .. } => Self::Values,
        }
    }

    /// Checks type and shape.
    fn check(self, tensor: &Tensor<'_>, tiling: Tiling) -> Result<(), InputError> {
        let [rows, cols] = tiling.shape();
        let (expected, shape) = match self {
            Self::Norms => (Expected::Float, vec![cols]),
            Self::Importance => (Expected::Float, vec![rows, cols]),
            Self::Mask => (Expected::Mask, tiling.grid().to_vec()),
            Self::Values => (Expected::Exactly(tiling.block().dtype()), vec![rows, cols]),
            Self::Moments => (Expected::Float, vec![cols, cols]),
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
}
