//! Offline: from dense weights and what matters to each task to a bundle.
//!
//! The steps are a line: `inputs` opens and checks what the `recipe` names, `score` measures each
//! block, `align` chooses the masks, `reconstruct` solves for the weights that remain, `content`
//! finds the distinct blocks, `layout` orders them and `pack` writes. All but the last make a
//! `Plan`, so that [`align`] shows the figures that [`compile`] will give. Tensors are read band by
//! band, a row of blocks at a time, and scores lie in a scratch file, so that memory stays near the
//! largest tensor and at most 64 bytes a block.

mod align;
mod content;
mod diffs;
mod error;
mod inputs;
mod layout;
mod masks;
mod number;
mod pack;
mod progress;
mod recipe;
mod reconstruct;
mod score;
mod settings;
mod source;
mod taskset;
mod transitions;

pub use align::{FrontierPoint, Method};
pub use diffs::{SwitchReads, switch_reads};
pub use error::{CompileError, Expected, InputError, Origin, TensorFault};
pub use progress::Progress;
pub use recipe::{KeyFault, Recipe, RecipeError, RecipeFault};
pub use reconstruct::{MomentFault, SolveError};

use crate::{
    bundle::{BlockShape, Bundle, InputDigest},
    files::is_same_file,
};
use align::{BudgetScope, Masks, Problem, Retention};
use content::Contents;
use inputs::Inputs;
use layout::{Layout, ReadCost};
use progress::Run;
use serde::Serialize;
use std::path::Path;
use taskset::TaskSet;

/// The figures of a choice of masks, as its bundle will have them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alignment {
    /// The model's name.
    pub model: String,
    /// How the masks were chosen.
    #[serde(flatten)]
    pub method: Method,
    /// The shape of every block.
    pub block: BlockShape,
    /// Distinct blocks of all tasks together.
    pub blocks: u64,
    /// Distinct task sets.
    pub groups: u64,
    /// Bytes that a switch is expected to load, over the transitions of the recipe.
    pub expected_switch_bytes: f64,
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

/// What can be had: from all tasks alike to every task for itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Frontier {
    /// The model's name.
    pub model: String,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// By falling λ; the last is each task's own best mask.
    pub points: Vec<FrontierPoint>,
}

/// Chooses masks for all tasks together and gives the figures. Writes nothing but the masks, and
/// those only where a file for them is named.
pub fn align(
    recipe: &Recipe,
    masks_out: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Alignment, CompileError> {
    let inputs = open(recipe, masks_out)?;
    let plan = plan(recipe, inputs, align::align, Run(progress))?;
    if let Some(path) = masks_out {
        masks::write(recipe, &plan.inputs, &plan.masks, path)?;
    }
    Ok(plan.figures)
}

/// Opens the inputs. A file that is to be written besides the bundle must not be the recipe, its
/// bundle or an input; that is told before any work is put into it.
fn open(recipe: &Recipe, written: Option<&Path>) -> Result<Inputs, CompileError> {
    if let Some(path) = written {
        pack::check_output(path)?;
        if path == recipe.output || is_same_file(path, &recipe.output) {
            return Err(CompileError::IsBundle(path.to_owned()));
        }
    }
    let inputs = Inputs::open(recipe)?;
    written.map_or(Ok(()), |path| inputs.check_output(recipe, path))?;
    Ok(inputs)
}

/// What masks for a range of λ retain and share. Writes nothing, but refuses a path that is not fit
/// for a drawing of it.
pub fn frontier(
    recipe: &Recipe,
    drawing: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Frontier, CompileError> {
    let run = Run(progress);
    let inputs = open(recipe, drawing)?;
    let (problem, _) = problem(recipe, &inputs, run)?;
    let points = align::frontier(&problem, run)?;
    Ok(Frontier { model: recipe.model.clone(), block_bytes: inputs.block.bytes(), points })
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
    method: Method,
    /// By place through all tensors: the tasks that keep it.
    masks: Vec<TaskSet>,
    contents: Contents,
    layout: Layout,
    figures: Alignment,
}

fn build(recipe: &Recipe, choose: Choose, run: Run<'_>) -> Result<Bundle, CompileError> {
    pack::check_output(&recipe.output)?;
    pack::write(recipe, plan(recipe, open(recipe, None)?, choose, run)?, run)
}

fn plan(
    recipe: &Recipe,
    mut inputs: Inputs,
    choose: Choose,
    run: Run<'_>,
) -> Result<Plan, CompileError> {
    let (problem, digests) = problem(recipe, &inputs, run)?;
    let Masks { sets: masks, retention, method } = choose(&problem, run)?;
    drop(problem);
    inputs.rebuilt = reconstruct::reconstruct(recipe, &inputs, &masks, run)?;
    let contents = content::identify(&inputs, &masks, run)?;
    let cost = ReadCost::of(recipe.device.request_bytes(), inputs.block);
    let layout = layout::lay_out(&contents.sets, &inputs.switches, cost);
    let figures = figures(recipe, &inputs, &contents, &layout, method, &retention);
    if let Some(empty) = figures.tasks.iter().find(|task| task.blocks == 0) {
        return Err(CompileError::EmptyTask(empty.name.clone()));
    }
    Ok(Plan { inputs, digests, method, masks, contents, layout, figures })
}

fn problem(
    recipe: &Recipe,
    inputs: &Inputs,
    run: Run<'_>,
) -> Result<(Problem, Vec<InputDigest>), CompileError> {
    let score::Scored { scores, demands, digests } = score::score(recipe, inputs, run)?;
    let (budget, goal) = (recipe.budget, recipe.goal);
    let problem = Problem { demands, scores, switches: inputs.switches.clone(), budget, goal };
    if let Some(empty) = problem.empty_task() {
        return Err(CompileError::EmptyTask(recipe.tasks[empty.index()].name.clone()));
    }
    if let Some(broken) = problem.broken_budget() {
        return Err(CompileError::BrokenBudget {
            task: recipe.tasks[broken.task.index()].name.clone(),
            scope: match recipe.budget {
                BudgetScope::Tensor => format!("tensor `{}`", inputs.pruned[broken.scope].name),
                BudgetScope::Model => "the model".to_owned(),
            },
            required: broken.required,
            budget: broken.budget,
        });
    }
    Ok((problem, digests))
}

fn figures(
    recipe: &Recipe,
    inputs: &Inputs,
    contents: &Contents,
    layout: &Layout,
    method: Method,
    retention: &[Retention],
) -> Alignment {
    let groups = &layout.groups;
    let count = |keeps: &dyn Fn(TaskSet) -> bool| -> u64 {
        let kept = groups.iter().filter(|group| keeps(group.set));
        kept.map(|group| u64::from(group.blocks)).sum()
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
    let loaded =
        groups.iter().map(|group| inputs.switches.expected(group.set) * f64::from(group.blocks));
    Alignment {
        model: recipe.model.clone(),
        method,
        block: inputs.block,
        blocks: contents.sets.len() as u64,
        groups: layout.groups.len() as u64,
        expected_switch_bytes: loaded.fold(0.0, |sum, part| sum + part)
            * inputs.block.bytes() as f64,
        tasks: recipe.tasks.iter().zip(inputs.task_indices()).zip(retention).map(task).collect(),
        diff: inputs.task_indices().map(diff).collect(),
    }
}
