//! Offline: from dense weights and what matters to each task to a bundle.
//!
//! The steps are a line: `inputs` opens and checks what the `recipe` names, `score` measures each
//! block, `align` chooses the masks, `content` finds the distinct blocks, `layout` orders them and
//! `pack` writes. All but the last make a `Plan`, so that [`align`] shows the figures that
//! [`compile`] will give. Inputs are mapped, so their pages come and go as the system sees fit; the
//! memory of its own stays near the largest tensor, and what is kept of a block is its scores
//! (8 bytes a task) and then some 50 bytes.

mod align;
mod content;
mod error;
mod inputs;
mod layout;
mod number;
mod pack;
mod progress;
mod recipe;
mod score;
mod settings;
mod source;
mod taskset;

pub use error::{CompileError, Expected, InputError, Origin, TensorFault};
pub use progress::Progress;
pub use recipe::{KeyFault, Recipe, RecipeError, RecipeFault};

use crate::bundle::{BlockShape, Bundle, InputDigest};
use align::{Masks, Problem, Retention};
use content::Contents;
use inputs::Inputs;
use layout::Layout;
use progress::Run;
use serde::Serialize;
use taskset::TaskSet;

/// The figures of a choice of masks, as its bundle will have them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alignment {
    /// The model's name.
    pub model: String,
    /// How the masks were chosen.
    pub algorithm: &'static str,
    /// The shape of every block.
    pub block: BlockShape,
    /// Distinct blocks of all tasks together.
    pub blocks: u64,
    /// Distinct task sets.
    pub groups: u64,
    /// By task.
    pub tasks: Vec<TaskFigures>,
    /// Blocks that a switch must read, by the task before (row) and after (column), if just the
    /// former's blocks are in memory.
    pub diff: Vec<Vec<u64>>,
}

/// A task's figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskFigures {
    /// The task's name.
    pub name: String,
    /// Distinct blocks that the task keeps.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Share of the task's importance that its blocks retain, 0 to 1.
    pub retained: f64,
    /// The same for the best mask of this size, chosen for this task alone; not below `retained`.
    pub best: f64,
}

/// Chooses masks for all tasks together and gives the figures; writes nothing.
pub fn align(recipe: &Recipe, progress: &dyn Progress) -> Result<Alignment, CompileError> {
    Ok(plan(recipe, align::align, Run(progress))?.figures)
}

/// Writes the bundle of each task's own best mask.
pub fn pack(recipe: &Recipe, progress: &dyn Progress) -> Result<Bundle, CompileError> {
    build(recipe, align::independent, Run(progress))
}

/// Chooses masks for all tasks together and writes the bundle.
pub fn compile(recipe: &Recipe, progress: &dyn Progress) -> Result<Bundle, CompileError> {
    build(recipe, align::align, Run(progress))
}

/// A way to choose masks.
type Choose = fn(&Problem, Run<'_>) -> Result<Masks, CompileError>;

/// All that is settled before the first byte is written.
struct Plan {
    inputs: Inputs,
    digests: Vec<InputDigest>,
    algorithm: &'static str,
    contents: Contents,
    layout: Layout,
    figures: Alignment,
}

fn build(recipe: &Recipe, choose: Choose, run: Run<'_>) -> Result<Bundle, CompileError> {
    pack::check_output(&recipe.output)?;
    pack::write(recipe, plan(recipe, choose, run)?, run)
}

fn plan(recipe: &Recipe, choose: Choose, run: Run<'_>) -> Result<Plan, CompileError> {
    let inputs = Inputs::open(recipe)?;
    let score::Scored { problem, digests } = score::score(recipe, &inputs, run)?;
    let masks = choose(&problem, run)?;
    drop(problem);
    let contents = content::identify(&inputs, &masks, run)?;
    let layout = layout::lay_out(&contents.sets);
    let Masks { algorithm, tensors: _, retention } = masks;
    let figures = figures(recipe, &inputs, &contents, &layout, algorithm, &retention);
    if let Some(empty) = figures.tasks.iter().find(|task| task.blocks == 0) {
        return Err(CompileError::EmptyTask(empty.name.clone()));
    }
    Ok(Plan { inputs, digests, algorithm, contents, layout, figures })
}

fn figures(
    recipe: &Recipe,
    inputs: &Inputs,
    contents: &Contents,
    layout: &Layout,
    algorithm: &'static str,
    retention: &[Retention],
) -> Alignment {
    let groups = layout::group_sizes(&contents.sets);
    let count = |keeps: &dyn Fn(TaskSet) -> bool| -> u64 {
        groups.iter().filter(|&(&set, _)| keeps(set)).map(|(_, &size)| u64::from(size)).sum()
    };
    let task = |((task, index), retention): ((&recipe::Task, _), &Retention)| {
        let blocks = count(&|set| set.contains(index));
        TaskFigures {
            name: task.name.clone(),
            blocks,
            bytes: blocks * inputs.block.bytes(),
            retained: retention.retained,
            best: retention.best,
        }
    };
    let diff = |from| {
        let to = inputs.task_indices();
        to.map(|to| count(&|set| set.contains(to) && !set.contains(from))).collect()
    };
    Alignment {
        model: recipe.model.clone(),
        algorithm,
        block: inputs.block,
        blocks: contents.sets.len() as u64,
        groups: layout.groups,
        tasks: recipe.tasks.iter().zip(inputs.task_indices()).zip(retention).map(task).collect(),
        diff: inputs.task_indices().map(diff).collect(),
    }
}
