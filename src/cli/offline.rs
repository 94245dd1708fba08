//! `align`, `pack` and `compile`.

use super::{
    OutputArgs, bundle,
    failure::Failure,
    interrupt::Interrupt,
    output::{Table, bytes, percent, print, print_json},
    progress::Bars,
};
use crate::{
    compile::{self, Alignment, CompileError, Method, Progress, Recipe},
    files::write_text,
};
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

#[derive(Debug, Args)]
pub(super) struct AlignArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Write each task's masks to this safetensors file, for training under them. A recipe takes
    /// them back as `mask`.
    #[arg(long, value_name = "FILE", conflicts_with = "frontier")]
    masks_out: Option<PathBuf>,
    /// Show what can be had instead: retained importance against expected bytes of a switch, for
    /// a range of λ.
    #[arg(long)]
    frontier: bool,
    /// Draw the frontier into this file as well.
    #[arg(long, value_name = "FILE", requires = "frontier")]
    svg: Option<PathBuf>,
}

/// Chooses masks and shows what they retain and share.
pub(super) fn align(args: &AlignArgs) -> Result<(), Failure> {
    let json = args.recipe.output.json;
    if args.frontier {
        let svg = args.svg.as_deref();
        let frontier =
            |recipe: &Recipe, progress: &dyn Progress| compile::frontier(recipe, svg, progress);
        let shown = with_recipe(&args.recipe, frontier)?;
        if let Some(path) = svg {
            write_text(path, &super::frontier::svg(&shown)).map_err(Failure::failed)?;
        }
        return if json { print_json(&shown) } else { print(&super::frontier::text(&shown)) };
    }
    let masks = args.masks_out.as_deref();
    let align = |recipe: &Recipe, progress: &dyn Progress| compile::align(recipe, masks, progress);
    let alignment = with_recipe(&args.recipe, align)?;
    if json { print_json(&alignment) } else { print(&render(&alignment)) }
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
    step: impl FnOnce(&Recipe, &dyn Progress) -> Result<T, CompileError>,
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
        "model {}: {} blocks in {} groups, masks: {}\n\n{}\n{}\nexpected for a switch: {}\n{}",
        alignment.model,
        alignment.blocks,
        alignment.groups,
        alignment.method.algorithm,
        tasks.render(),
        diffs.render(),
        bytes(alignment.expected_switch_bytes as u64),
        describe(&alignment.method),
    )
}

/// What is proved of the choice.
fn describe(method: &Method) -> String {
    let Method { lambda, gap, least_switch, .. } = method;
    let optimum = format!(
        "λ = {lambda:.5}: no masks within the budgets are better by more than {gap:.1e} of the \
         tasks' importance\n"
    );
    let least = least_switch.filter(|least| *least > 0.0).map(|least| {
        format!("no masks with this quality floor let a switch load less than {}\n", percent(least))
    });
    optimum + &least.unwrap_or_default()
}
