//! Stopping and failing leave nothing behind.

use crate::kit::{Dense, Kit};
use std::sync::{
    Mutex,
    atomic::{AtomicU32, Ordering::Relaxed},
};
use synchromesh::compile::{self, CompileError, Progress};

const RECIPE: &str = "
model: m
output: o.mesh
weights: w.safetensors
block: {rows: 32, cols: 32}
prune: {include: [w]}
tasks: [{name: t, keep: 0.5, norms: n.safetensors}]
";

fn kit() -> Kit {
    let kit = Kit::new();
    let values: Vec<f32> = (0..96 * 96u16).map(|i| f32::from(i) - 999.5).collect();
    let bias = Dense::f32("bias", &[3], &[1.0, 2.0, 3.0]);
    kit.tensors("w.safetensors", &[Dense::f32("w", &[96, 96], &values), bias]);
    kit.tensors("n.safetensors", &[Dense::f32("w", &[96], &[1.0; 96])]);
    kit
}

/// Stops the work when it was asked so many times whether to.
struct StopAfter(AtomicU32);

impl Progress for StopAfter {
    fn stage(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) {}

    fn cancelled(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

#[test]
fn wherever_it_is_stopped_nothing_is_left() {
    let kit = kit();
    let recipe = kit.recipe(RECIPE);
    let mut asked = 0;
    while let Err(error) = compile::compile(&recipe, &StopAfter(asked.into())) {
        assert!(matches!(error, CompileError::Interrupted), "{error}");
        assert!(!error.is_usage());
        assert_eq!(kit.files(), ["n.safetensors", "w.safetensors"]);
        asked += 1;
    }
    assert!(asked > 12, "asked {asked} times only");
    assert_eq!(kit.files(), ["n.safetensors", "o.mesh", "w.safetensors"]);
}

#[derive(Default)]
struct Log(Mutex<Vec<(String, u64, u64)>>);

impl Progress for Log {
    fn stage(&self, name: &str, total_bytes: u64) {
        self.0.lock().unwrap().push((name.to_owned(), total_bytes, 0));
    }

    fn advance(&self, bytes: u64) {
        self.0.lock().unwrap().last_mut().unwrap().2 += bytes;
    }

    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn each_stage_does_the_bytes_that_it_announced() {
    let kit = kit();
    let log = Log::default();
    compile::compile(&kit.recipe(RECIPE), &log).unwrap();
    let tensor = 96 * 96 * 4;
    // Nine scores; nine λ on the way up, five halvings, and forty rounds of weights.
    let align = 9 * 8 * (9 + 5 + 40);
    let stages = [
        ("score", tensor + 12 + 96 * 4),
        ("align", align),
        ("compare", tensor),
        ("write", 5 * 4096 + 12),
    ];
    let stages = stages.map(|(name, bytes)| (name.to_owned(), bytes, bytes));
    // Half of nine blocks rounds up to five.
    assert_eq!(log.0.into_inner().unwrap(), stages);
}

#[test]
fn a_failure_to_write_is_told_from_a_wrong_recipe_and_leaves_the_old_bundle() {
    let kit = kit();
    let long = "x".repeat(300);
    let error = kit.compile(&RECIPE.replace("o.mesh", &long)).unwrap_err();
    assert!(matches!(error, CompileError::Output { .. }) && !error.is_usage(), "{error}");
    assert_eq!(kit.files(), ["n.safetensors", "w.safetensors"]);

    kit.text("o.mesh", "old");
    let stopped = compile::compile(&kit.recipe(RECIPE), &StopAfter(12.into()));
    assert!(matches!(stopped, Err(CompileError::Interrupted)));
    assert_eq!(std::fs::read(kit.path("o.mesh")).unwrap(), b"old");
}
