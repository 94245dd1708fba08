//! The main job, end to end, on a real model: all-MiniLM-L6-v2 is packed for six text domains, each
//! with its own best mask, served from a pool that cannot hold all tasks, switched along every
//! ordered pair of tasks, and read back by another process after each switch. And it is aligned:
//! tasks must retain what they should, and differ little.
//!
//! What is expected is worked out here from the dense weights and the activation norms alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]
#![allow(clippy::print_stdout, reason = "the figures are for whoever runs this by hand")]

mod common;

use common::daemon::{Daemon, run};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashSet},
    env, fs,
    path::{Path, PathBuf},
    time::Instant,
};

const TASKS: [&str; 6] = ["c-headers", "changelogs", "licences", "manuals", "packages", "python"];
/// Rows and columns of a block.
const SIDE: usize = 32;
const ELEMENT_BYTES: usize = 4;
const BLOCK_BYTES: u64 = (SIDE * SIDE * ELEMENT_BYTES) as u64;

/// By weight that is cut: for each place of its grid, whether the task keeps it.
type Masks = BTreeMap<String, Vec<bool>>;

/// The model's file, or a failure that says how to get it.
fn model_file() -> PathBuf {
    let folder = env::var_os("SYNCHROMESH_MINILM")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/minilm"), PathBuf::from);
    let file = folder.join("model.safetensors");
    assert!(
        file.is_file(),
        "{} is not there: run scripts/fetch-minilm.sh, or set SYNCHROMESH_MINILM to the folder \
         that holds the model",
        file.display()
    );
    file.canonicalize().unwrap()
}

fn norms_file(task: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/minilm/{task}.safetensors"))
}

fn write_recipe(folder: &Path, model: &Path, more: &str) -> PathBuf {
    let tasks: String = TASKS
        .iter()
        .map(|task| {
            let norms = norms_file(task);
            format!("- {{name: {task}, keep: 0.5, norms: '{}'}}\n", norms.display())
        })
        .collect();
    let text = format!(
        "model: minilm\noutput: minilm.mesh\nweights: '{}'\nblock: {{rows: {SIDE}, cols: {SIDE}}}\n\
         prune: {{include: ['encoder.layer.*.weight']}}\ntasks:\n{tasks}{more}",
        model.display()
    );
    let recipe = folder.join("recipe.yaml");
    fs::write(&recipe, text).unwrap();
    recipe
}

/// Runs the program, which must succeed, and gives the object that it prints.
fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a task must keep, in an order of our own: each block's importance is the sum of
/// (|weight| x norm)^2, and the best half of each weight's blocks is kept, of equals the earlier.
fn expected_masks(dense: &SafeTensors<'_>, task: &str) -> Masks {
    let bytes = fs::read(norms_file(task)).unwrap();
    let norms = SafeTensors::deserialize(&bytes).unwrap();
    let mask = |(name, norms): (String, TensorView<'_>)| {
        let scores = block_scores(&dense.tensor(&name).unwrap(), &floats(norms.data()));
        (name, best_half(&scores))
    };
    norms.tensors().into_iter().map(mask).collect()
}

fn block_scores(weight: &TensorView<'_>, norms: &[f32]) -> Vec<f64> {
    let [rows, cols] = *weight.shape() else { panic!("a weight of two dimensions") };
    assert_eq!((rows % SIDE, cols % SIDE, cols), (0, 0, norms.len()), "no edges in this model");
    let grid_cols = cols / SIDE;
    let mut scores = vec![0.0; rows / SIDE * grid_cols];
    for (row, weights) in floats(weight.data()).chunks_exact(cols).enumerate() {
        for (col, (weight, norm)) in weights.iter().zip(norms).enumerate() {
            let importance = f64::from(weight.abs()) * f64::from(*norm);
            scores[row / SIDE * grid_cols + col / SIDE] += importance * importance;
        }
    }
    scores
}

fn best_half(scores: &[f64]) -> Vec<bool> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let mut mask = vec![false; scores.len()];
    for &place in &places[..scores.len() / 2] {
        mask[place] = true;
    }
    mask
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (words, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    words.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// Every task keeps half the places of every weight, as any safetensors reader sees the bundle.
fn assert_halves(file: &Path) {
    let bytes = fs::read(file).unwrap();
    let bundle = SafeTensors::deserialize(&bytes).unwrap();
    let (mut grids, mut places) = (0, 0);
    for (name, grid) in bundle.tensors() {
        let Some(weight) = name.strip_prefix("grid/") else { continue };
        let grid: Vec<_> =
            grid.data().as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
        for task in TASKS {
            let set = bundle.tensor(&format!("tasks/{task}")).unwrap();
            let has = |block: &&u32| {
                let byte = set.data().get(**block as usize / 8);
                byte.is_some_and(|byte| byte >> (**block % 8) & 1 == 1)
            };
            assert_eq!(grid.iter().filter(has).count() * 2, grid.len(), "{task}, {weight}");
        }
        grids += 1;
        places += grid.len();
    }
    assert_eq!((grids, places), (36, 10368), "six layers of six weights");
}

/// Tasks in an order that follows each with each other one exactly once.
fn walk_of_all_pairs() -> Vec<usize> {
    let later = |a| (a + 1..TASKS.len()).flat_map(move |b| [a, b]);
    let walk: Vec<_> = (0..TASKS.len()).flat_map(later).chain([0]).collect();
    let pairs: HashSet<_> = walk.windows(2).map(|pair| (pair[0], pair[1])).collect();
    assert_eq!((walk.len(), pairs.len()), (31, 30), "every ordered pair, once");
    assert!(pairs.iter().all(|(a, b)| a != b));
    walk
}

/// A task's row of `inspect`.
struct Figures {
    blocks: u64,
    /// Blocks to load after each other task.
    diff_from: Vec<u64>,
}

/// Reads what `inspect` tells, and checks that it can be.
fn figures(inspection: &Value) -> Vec<Figures> {
    let whole_blocks = |bytes: &Value| {
        let bytes = bytes.as_u64().unwrap();
        assert_eq!(bytes % BLOCK_BYTES, 0);
        bytes / BLOCK_BYTES
    };
    assert_eq!(inspection["block_bytes"], BLOCK_BYTES);
    let tasks = inspection["tasks"].as_array().unwrap();
    let tasks = tasks.iter().zip(TASKS).map(|(task, name)| {
        assert_eq!(task["name"], name);
        let [retained, of_best] = ["retained", "of_best"].map(|key| task[key].as_f64().unwrap());
        assert!(retained > 0.5 && retained < 1.0 && of_best > 0.5 && of_best <= 1.0, "{task}");
        let diff_from = task["diff_bytes_from"].as_array().unwrap();
        Figures {
            blocks: whole_blocks(&task["bytes"]),
            diff_from: diff_from.iter().map(whole_blocks).collect(),
        }
    });
    let tasks: Vec<_> = tasks.collect();
    assert_eq!(tasks.len(), TASKS.len());
    // More means that tasks share less than chance would.
    let mean_diff = inspection["mean_diff"].as_f64().unwrap();
    assert!(mean_diff > 0.0 && mean_diff <= 0.15, "{mean_diff}");
    tasks
}

/// The bundle's figures are those of the masks that are expected.
fn assert_diffs(tasks: &[Figures], masks: &[Masks; TASKS.len()]) {
    let places = |masks: &Masks| masks.values().flatten().copied().collect::<Vec<_>>();
    let masks = masks.each_ref().map(places);
    for (task, to) in tasks.iter().zip(&masks) {
        assert_eq!(task.blocks, to.iter().filter(|&&keeps| keeps).count() as u64);
        for (&diff, from) in task.diff_from.iter().zip(&masks) {
            let new = to.iter().zip(from).filter(|&(&to, &from)| to && !from);
            assert_eq!(diff, new.count() as u64);
        }
    }
}

/// Slots for the largest two tasks that follow one another, and so for every switch; fewer than
/// there are blocks, so that not all tasks fit.
fn slots_for_any_pair(tasks: &[Figures], blocks: u64) -> u64 {
    let pairs = tasks
        .iter()
        .flat_map(|to| to.diff_from.iter().zip(tasks).map(|(diff, from)| from.blocks + diff));
    let slots = pairs.max().unwrap();
    assert!(slots < blocks, "the pool is too small for all tasks together");
    slots
}

/// Compares a file with all that the task must have of the model, bit for bit.
fn assert_exported(file: &Path, dense: &SafeTensors<'_>, masks: &Masks) {
    let bytes = fs::read(file).unwrap();
    let exported = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(exported.len(), dense.len());
    for (name, dense) in dense.tensors() {
        let got = exported.tensor(&name).unwrap();
        assert_eq!((got.dtype(), got.shape()), (dense.dtype(), dense.shape()), "{name}");
        match masks.get(&name) {
            None => assert!(got.data() == dense.data(), "{name}, of the base"),
            Some(mask) => assert_masked(&name, &got, &dense, mask),
        }
    }
}

fn assert_masked(name: &str, got: &TensorView<'_>, dense: &TensorView<'_>, mask: &[bool]) {
    const RUN: usize = SIDE * ELEMENT_BYTES;
    let grid_cols = dense.shape()[1] / SIDE;
    // A run is one row of one block; runs follow one another along the tensor's rows.
    let runs = got.data().chunks_exact(RUN).zip(dense.data().chunks_exact(RUN));
    for (at, (got, dense)) in runs.enumerate() {
        let (row, grid_col) = (at / grid_cols, at % grid_cols);
        let kept = mask[row / SIDE * grid_cols + grid_col];
        let expected = if kept { dense } else { &[0; RUN] };
        assert!(got == expected, "{name}, row {row}, block column {grid_col}, kept: {kept}");
    }
}

/// The blocks of one amount in the answer to a switch.
fn blocks(report: &Value, amount: &str) -> u64 {
    let blocks = report[amount]["blocks"].as_u64().unwrap();
    assert_eq!(report[amount]["bytes"], blocks * BLOCK_BYTES);
    blocks
}

/// A daemon that is led along the walk, and what must be in its pool.
struct Drive<'a> {
    daemon: Daemon,
    tasks: &'a [Figures],
    slots: u64,
    resident: u64,
    needed: u64,
    read: u64,
    evicted: u64,
    generation: u64,
}

impl Drive<'_> {
    /// Switches and checks the answer's figures against those of the bundle.
    fn switch(&mut self, from: Option<usize>, to: usize) {
        let control = self.daemon.control();
        let report = json(&["switch", TASKS[to], "--control", control.to_str().unwrap(), "--json"]);
        let needed = self.tasks[to].blocks;
        let [read, reused, evicted] = ["read", "reused", "evicted"].map(|a| blocks(&report, a));
        assert_eq!(blocks(&report, "needed"), needed);
        assert_eq!(read + reused, needed);
        match from {
            None => assert_eq!((read, evicted), (needed, 0), "a cold start"),
            Some(from) => {
                let diff = self.tasks[to].diff_from[from];
                assert!(
                    read <= diff,
                    "{read} blocks read from {from} to {to}, which differ in {diff}"
                );
            }
        }
        self.generation += 1;
        assert_eq!(report["generation"], self.generation);
        self.resident = self.resident + read - evicted;
        assert!(self.resident <= self.slots);
        self.needed += needed;
        self.read += read;
        self.evicted += evicted;
    }

    /// Lets another process write what the session has.
    fn export(&self, out: &Path, task: usize) {
        let attach = self.daemon.attach();
        let [out, attach] = [out, &attach].map(|path| path.to_str().unwrap());
        let exported = json(&["export", "--out", out, "--attach", attach, "--json"]);
        assert_eq!(exported["task"], TASKS[task]);
        assert_eq!(exported["generation"], self.generation);
    }
}

#[test]
#[ignore = "needs the model: run scripts/fetch-minilm.sh, then cargo test --test minilm -- --ignored"]
fn every_pair_of_tasks_of_a_real_model_switches_to_exactly_the_weights_that_the_task_keeps() {
    let model = model_file();
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let lap = |what: &str| println!("{:>7.2} s  {what}", started.elapsed().as_secs_f64());

    let recipe = write_recipe(folder.path(), &model, "");
    let compiled = json(&["pack", recipe.to_str().unwrap(), "--json"]);
    lap("packed");
    let bundle = folder.path().join("minilm.mesh");
    let name = bundle.to_str().unwrap();
    let verified = json(&["verify", name, "--json"]);
    assert_eq!(verified["blocks"], compiled["blocks"]);
    lap("verified");
    let inspection = json(&["inspect", name, "--json"]);
    assert_eq!(inspection, compiled, "the file is what the compiler said");
    let tasks = figures(&inspection);
    assert_halves(&bundle);

    let bytes = fs::read(&model).unwrap();
    let dense = SafeTensors::deserialize(&bytes).unwrap();
    let masks = TASKS.map(|task| expected_masks(&dense, task));
    assert_diffs(&tasks, &masks);
    lap("masks expected");

    let all = inspection["blocks"].as_u64().unwrap();
    let slots = slots_for_any_pair(&tasks, all);
    let daemon = Daemon::start(&bundle, slots * BLOCK_BYTES);
    lap("serving");
    let (tasks, generation) = (&tasks, 0);
    let (resident, needed, read, evicted) = (0, 0, 0, 0);
    let mut drive = Drive { daemon, tasks, slots, resident, needed, read, evicted, generation };
    let out = folder.path().join("out.safetensors");
    let mut from = None;
    for to in walk_of_all_pairs() {
        drive.switch(from.replace(to), to);
        drive.export(&out, to);
        assert_exported(&out, &dense, &masks[to]);
        fs::remove_file(&out).unwrap();
    }
    lap("31 switches, each exported and compared");
    assert!(drive.evicted > 0, "the pool was too small");
    println!(
        "mean diff {:.2} % of a task; slots for {slots} of {all} blocks; {} blocks read of {} that \
         the tasks needed ({:.1} %), {} evicted",
        100.0 * inspection["mean_diff"].as_f64().unwrap(),
        drive.read,
        drive.needed,
        100.0 * drive.read as f64 / drive.needed as f64,
        drive.evicted,
    );
}

/// By place through all weights that are cut, in the order of their names: what it is worth.
fn all_scores(dense: &SafeTensors<'_>, task: &str) -> Vec<Vec<f64>> {
    let bytes = fs::read(norms_file(task)).unwrap();
    let norms = SafeTensors::deserialize(&bytes).unwrap();
    let norms: BTreeMap<_, _> = norms.tensors().into_iter().collect();
    let score = |(name, norms): (&String, &TensorView<'_>)| {
        block_scores(&dense.tensor(name).unwrap(), &floats(norms.data()))
    };
    norms.iter().map(score).collect()
}

/// The same for whether the task keeps it, as any safetensors reader sees the bundle.
fn all_masks(bundle: &SafeTensors<'_>, task: &str) -> Vec<Vec<bool>> {
    let set = bundle.tensor(&format!("tasks/{task}")).unwrap();
    let has = |block: u32| {
        set.data().get(block as usize / 8).is_some_and(|byte| byte >> (block % 8) & 1 == 1)
    };
    let grids: BTreeMap<_, _> =
        bundle.tensors().into_iter().filter(|(name, _)| name.starts_with("grid/")).collect();
    let mask = |grid: &TensorView<'_>| {
        grid.data().as_chunks().0.iter().map(|&block| has(u32::from_le_bytes(block))).collect()
    };
    grids.values().map(mask).collect()
}

/// Importance in the best half of the places.
fn best_sum(scores: &[f64]) -> f64 {
    let mask = best_half(scores);
    scores.iter().zip(mask).filter(|(_, kept)| *kept).map(|(score, _)| score).sum()
}

#[test]
#[ignore = "needs the model: run scripts/fetch-minilm.sh, then cargo test --test minilm -- --ignored"]
fn aligned_tasks_of_a_real_model_differ_little_and_retain_what_they_must() {
    let model = model_file();
    let folder = tempfile::tempdir().unwrap();
    let bytes = fs::read(&model).unwrap();
    let dense = SafeTensors::deserialize(&bytes).unwrap();
    // Half of every weight for every task leaves less to agree on than half of the whole model.
    for (budget, most_diff) in [("tensor", 0.0055), ("model", 0.002)] {
        let more = format!("align: {{budget: {budget}, quality_floor: 0.9985}}\n");
        let recipe = write_recipe(folder.path(), &model, &more);
        let compiled = json(&["compile", recipe.to_str().unwrap(), "--json"]);
        let mean_diff = compiled["mean_diff"].as_f64().unwrap();
        assert!(mean_diff <= most_diff, "{budget}: {mean_diff}");
        let bytes = fs::read(folder.path().join("minilm.mesh")).unwrap();
        let bundle = SafeTensors::deserialize(&bytes).unwrap();
        let mut least: f64 = 1.0;
        for task in TASKS {
            let (scores, masks) = (all_scores(&dense, task), all_masks(&bundle, task));
            let pairs = || scores.iter().zip(&masks);
            let halves = pairs().all(|(scores, mask)| {
                mask.iter().filter(|&&kept| kept).count() * 2 == scores.len()
            });
            assert!(halves || budget == "model", "{task} keeps half of every weight");
            let kept: usize = masks.iter().flatten().filter(|&&kept| kept).count();
            assert_eq!(kept * 2, scores.iter().map(Vec::len).sum::<usize>(), "{task}");
            let retained: f64 = pairs()
                .flat_map(|(scores, mask)| scores.iter().zip(mask))
                .filter(|(_, kept)| **kept)
                .map(|(score, _)| score)
                .sum();
            let best = match budget {
                "tensor" => scores.iter().map(|scores| best_sum(scores)).sum(),
                _ => best_sum(&scores.concat()),
            };
            least = least.min(retained / best);
        }
        assert!(least >= 0.9985 - 1e-9, "{budget}: {least}");
        println!(
            "budget by {budget}: mean diff {:.4} % of a task, the least quality {:.4} %",
            100.0 * mean_diff,
            100.0 * least
        );
    }
}
