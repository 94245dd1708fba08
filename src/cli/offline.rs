//! `align`, `pack` and `compile`.

use super::{
    OutputArgs, bundle,
    failure::Failure,
    interrupt::Interrupt,
    output::{Table, bytes, percent, print, print_json},
    progress::Bars,
};
use crate::compile::{self, Alignment, CompileError, Progress, Recipe};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct RecipeArgs {
    /// The recipe; `config/recipe.example.yaml` explains its keys.
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Chooses masks and shows what they retain and share; writes nothing.
pub(super) fn align(args: &RecipeArgs) -> Result<(), Failure> {
    let alignment = with_recipe(args, compile::align)?;
    if args.output.json { print_json(&alignment) } else { print(&render(&alignment)) }
}

/// Packs each task's own best mask.
pub(super) fn pack(args: &RecipeArgs) -> Result<(), Failure> {
    bundle::show(&with_recipe(args, compile::pack)?, args.output)
}

/// Aligns and packs.
pub(super) fn compile(args: &RecipeArgs) -> Result<(), Failure> {
    bundle::show(&with_recipe(args, compile::compile)?, args.output)
}

fn with_recipe<T>(
    args: &RecipeArgs,
    step: fn(&Recipe, &dyn Progress) -> Result<T, CompileError>,
) -> Result<T, Failure> {
    let recipe = Recipe::load(&args.recipe).map_err(Failure::usage)?;
    let bars = Bars::new(Interrupt::listen().map_err(Failure::failed)?);
    step(&recipe, &bars).map_err(failure)
}

/// Wrong input is the user's to mend; the rest may go better another time.
pub(super) fn failure(error: CompileError) -> Failure {
    if error.is_usage() { Failure::usage(error) } else { Failure::failed(error) }
}

fn render(alignment: &Alignment) -> String {
    let mut tasks = Table::new(&["task", "blocks", "size", "retained", "own best"]);
    for task in &alignment.tasks {
        tasks.row(vec![
            task.name.clone(),
            task.blocks.to_string(),
            bytes(task.bytes),
            percent(task.retained),
            percent(task.best),
        ]);
    }
    let names: Vec<_> = alignment.tasks.iter().map(|task| task.name.as_str()).collect();
    let diffs = Table::matrix("blocks to load, from \\ to", &names, |from, to| {
        alignment.diff[from][to].to_string()
    });
    format!(
        "model {}: {} blocks in {} groups, masks: {}\n\n{}\n{}",
        alignment.model,
        alignment.blocks,
        alignment.groups,
        alignment.algorithm,
        tasks.render(),
        diffs.render()
    )
}
