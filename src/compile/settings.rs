//! What of a recipe counts towards a bundle's content: all but the paths, whose files count by
//! their digests.

use super::recipe::{Recipe, Task};
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
    /// How the masks were chosen.
    masks: &'static str,
}

#[derive(Serialize)]
struct TaskSettings<'a> {
    name: &'a str,
    source: &'static str,
    keep: Option<f64>,
}

impl<'a> Settings<'a> {
    pub(super) fn of(recipe: &'a Recipe, masks: &'static str) -> Self {
        let Recipe { path: _, model, output: _, weights: _, block_rows, block_cols, prune, tasks } =
            recipe;
        Self {
            model,
            block: [*block_rows, *block_cols],
            include: prune.include.iter().map(Glob::glob).collect(),
            exclude: prune.exclude.iter().map(Glob::glob).collect(),
            tasks: tasks.iter().map(TaskSettings::of).collect(),
            masks,
        }
    }
}

impl<'a> TaskSettings<'a> {
    fn of(task: &'a Task) -> Self {
        let Task { name, choice, files: _ } = task;
        Self { name, source: choice.key(), keep: choice.keep() }
    }
}
