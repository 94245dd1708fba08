//! What of a recipe counts towards a bundle's content: all but the paths, whose files count by
//! their digests.

use super::{
    align::{BudgetScope, Goal},
    recipe::{Device, Recipe, Reconstruct, Task},
};
use globset::Glob;
use serde::Serialize;

/// A recipe without its paths, as the bundle tells it.
#[derive(Serialize)]
pub(super) struct Settings<'a> {
    model: &'a str,
    block: [u32; 2],
    include: Vec<&'a str>,
    exclude: Vec<&'a str>,
    tasks: Vec<TaskSettings<'a>>,
    /// The share of each switch, by from and to.
    switches: &'a [Vec<f64>],
    budget: BudgetScope,
    goal: Goal,
    request_us: f64,
    mb_per_s: f64,
    reconstruct: Option<ReconstructSettings<'a>>,
    /// How the masks were chosen.
    masks: &'static str,
}

#[derive(Serialize)]
struct ReconstructSettings<'a> {
    damping: f64,
    include: Vec<&'a str>,
}

#[derive(Serialize)]
struct TaskSettings<'a> {
    name: &'a str,
    source: &'static str,
    keep: Option<f64>,
}

impl<'a> Settings<'a> {
    pub(super) fn of(recipe: &'a Recipe, masks: &'static str, switches: &'a [Vec<f64>]) -> Self {
        let Recipe {
            path: _,
            model,
            output: _,
            weights: _,
            block_rows,
            block_cols,
            prune,
            tasks,
            transitions: _,
            budget,
            goal,
            device: Device { request_us, mb_per_s },
            reconstruct,
        } = recipe;
        Self {
            model,
            block: [*block_rows, *block_cols],
            include: globs(&prune.include),
            exclude: globs(&prune.exclude),
            tasks: tasks.iter().map(TaskSettings::of).collect(),
            switches,
            budget: *budget,
            goal: *goal,
            request_us: *request_us,
            mb_per_s: *mb_per_s,
            reconstruct: reconstruct.as_ref().map(ReconstructSettings::of),
            masks,
        }
    }
}

fn globs(patterns: &[Glob]) -> Vec<&str> {
    patterns.iter().map(Glob::glob).collect()
}

impl<'a> ReconstructSettings<'a> {
    fn of(reconstruct: &'a Reconstruct) -> Self {
        let Reconstruct { damping, tensors } = reconstruct;
        Self { damping: *damping, include: globs(&tensors.include) }
    }
}

impl<'a> TaskSettings<'a> {
    fn of(task: &'a Task) -> Self {
        let Task { name, choice, files: _, require: _, moments: _, cross: _ } = task;
        Self { name, source: choice.key(), keep: choice.keep() }
    }
}
