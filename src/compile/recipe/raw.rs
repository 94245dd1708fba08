//! A recipe as it is written, key by key, and the way from there to one that can be used.

use super::{
    Prune, Recipe,
    fault::{KeyFault, RecipeFault, wrong},
    joint::{self, RawAlign, RawLayout, RawReconstruct, RawTransitions, Transitions},
    paths::RawPaths,
    tasks::{RawTask, validate_tasks},
};
use crate::bundle::is_name;
use globset::{Glob, GlobSet};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRecipe {
    model: String,
    output: PathBuf,
    weights: RawPaths,
    block: RawBlock,
    prune: RawPrune,
    tasks: Vec<RawTask>,
    transitions: Option<RawTransitions>,
    #[serde(default)]
    align: RawAlign,
    #[serde(default)]
    layout: RawLayout,
    reconstruct: Option<RawReconstruct>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBlock {
    rows: u32,
    cols: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrune {
    pub(super) include: Vec<String>,
    #[serde(default)]
    pub(super) exclude: Vec<String>,
}

impl RawRecipe {
    pub(super) fn validate(self, path: &Path, folder: &Path) -> Result<Recipe, RecipeFault> {
        let Self {
            model,
            output,
            weights,
            block,
            prune,
            tasks,
            transitions,
            align,
            layout,
            reconstruct,
        } = self;
        if !is_name(&model) {
            return Err(wrong("model", KeyFault::Name(model)));
        }
        let RawBlock { rows: block_rows, cols: block_cols } = block;
        let tasks = validate_tasks(tasks, folder)?;
        let transitions = match transitions {
            Some(transitions) => transitions.validate(&tasks, folder)?,
            None => Transitions::Uniform,
        };
        let reconstruct = reconstruct.map(RawReconstruct::validate).transpose()?;
        joint::check_moments(reconstruct.as_ref(), &tasks)?;
        let (budget, goal) = align.validate()?;
        Ok(Recipe {
            path: path.to_owned(),
            model,
            output: folder.join(output),
            weights: weights.validate("weights", folder)?,
            block_rows,
            block_cols,
            prune: prune.validate("prune")?,
            tasks,
            transitions,
            budget,
            goal,
            device: layout.validate()?,
            reconstruct,
        })
    }
}

impl RawPrune {
    pub(super) fn validate(self, key: &str) -> Result<Prune, RecipeFault> {
        let Self { include, exclude } = self;
        let key_of = |part| format!("{key}.{part}");
        if include.is_empty() {
            return Err(wrong(&key_of("include"), KeyFault::None));
        }
        let (include, included) = globs(&key_of("include"), &include)?;
        let (exclude, excluded) = globs(&key_of("exclude"), &exclude)?;
        Ok(Prune { include, exclude, included, excluded })
    }
}

fn globs(key: &str, patterns: &[String]) -> Result<(Vec<Glob>, GlobSet), RecipeFault> {
    let fault = |error: globset::Error| wrong(key, error.into());
    let globs = patterns.iter().map(|pattern| Glob::new(pattern)).collect::<Result<Vec<_>, _>>();
    let globs = globs.map_err(fault)?;
    let set = GlobSet::new(&globs).map_err(fault)?;
    Ok((globs, set))
}
