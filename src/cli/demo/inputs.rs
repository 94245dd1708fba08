//! What the offline part is given: activation norms for each task, and a recipe.
//!
//! The norms are made up here, from seeds; a real model's come from its activations.

use super::{
    Stop,
    place::Place,
    random,
    subject::{self, Subject},
    tensors::{self, Spec},
};
use crate::{cli::failure::Failure, compile::Recipe};
use safetensors::Dtype;
use std::fs;

/// The tasks, in the order of their indices.
pub(super) const TASKS: [&str; 6] =
    ["highway", "city", "parking", "night", "rain", "traffic-lights"];
/// The share of each tensor's blocks that every task keeps.
pub(super) const KEEP: f64 = 0.5;

/// The share of what its own best mask retains that every task must retain.
pub(super) const QUALITY_FLOOR: f64 = 0.9985;
/// The file of all tasks' masks within the temporary folder.
pub(super) const MASKS: &str = "masks.safetensors";

/// A task's file of norms within the temporary folder.
pub(super) fn norms_file(task: &str) -> String {
    format!("norms-{task}.safetensors")
}

/// Writes each task's norms: for each weight `[out, in]` a vector `[in]`.
pub(super) fn write_norms(place: &Place, subject: &Subject, stop: &Stop) -> Result<(), Failure> {
    let specs = subject.pruned.iter();
    let specs = specs.map(|spec| Spec::new(&spec.name, Dtype::F32, &[Subject::channels(spec)]));
    let specs: Vec<_> = specs.collect();
    for task in TASKS {
        tensors::write(&place.file(&norms_file(task)), &specs, stop, |spec| {
            let norms = random::norms(task, &spec.name, spec.elements());
            norms.into_iter().flat_map(f32::to_le_bytes).collect()
        })?;
    }
    Ok(())
}

/// Writes the recipe and reads it as `synchromesh compile` would.
pub(super) fn recipe(place: &Place, subject: &Subject) -> Result<Recipe, Failure> {
    let include: Vec<_> = subject.pruned.iter().map(|spec| globset::escape(&spec.name)).collect();
    let tasks = TASKS
        .map(|name| serde_json::json!({ "name": name, "keep": KEEP, "norms": norms_file(name) }));
    // JSON is YAML.
    let recipe = serde_json::json!({
        "model": "demo",
        "output": place.bundle(),
        "weights": subject::FILE,
        "block": { "rows": subject.block.rows(), "cols": subject.block.cols() },
        "prune": { "include": include },
        "tasks": tasks,
        "align": { "quality_floor": QUALITY_FLOOR },
    });
    let path = place.file("recipe.yaml");
    fs::write(&path, recipe.to_string()).map_err(Failure::failed)?;
    Recipe::load(&path).map_err(Failure::failed)
}
