//! Each wrong input is refused by its name: file, key, tensor and what is wrong.

use crate::kit::{Dense, Kit};
use safetensors::Dtype;

const RECIPE: &str = "
model: m
output: o.mesh
weights: w.safetensors
block: {rows: 32, cols: 32}
prune: {include: ['a*'], exclude: ['*x']}
tasks:
- {name: city, keep: 0.5, norms: norms.safetensors}
- {name: park, keep: 0.5, importance: importance.safetensors}
- {name: road, mask: mask.safetensors}
- {name: rain, checkpoint: own.safetensors}
";

const SHAPE: [usize; 2] = [40, 33];
const COUNT: usize = 40 * 33;

fn weight(value: f32) -> Dense {
    let mut values = [1.0; COUNT];
    values[34] = value;
    Dense::f32("a", &SHAPE, &values)
}

fn norms(value: f32) -> Dense {
    let mut values = [1.0; 33];
    values[5] = value;
    Dense::f32("a", &[33], &values)
}

fn mask(bytes: [u8; 4]) -> Dense {
    Dense::new("a", Dtype::U8, &[2, 2], bytes.into())
}

fn good() -> Kit {
    let kit = Kit::new();
    kit.tensors("w.safetensors", &[weight(2.0), Dense::f32("bias", &[1], &[0.5])]);
    kit.tensors("norms.safetensors", &[norms(0.0)]);
    kit.tensors("importance.safetensors", &[weight(0.0)]);
    kit.tensors("mask.safetensors", &[mask([0, 1, 1, 1])]);
    kit.tensors("own.safetensors", &[weight(3.0)]);
    kit
}

/// Checks that what `spoil` does to a good recipe's files is refused in words that hold all parts.
fn refused(recipe: &str, spoil: impl Fn(&Kit), parts: &[&str]) {
    let kit = good();
    spoil(&kit);
    let before = kit.files();
    let error = kit.compile(recipe).unwrap_err();
    for part in parts {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
    assert!(error.is_usage(), "{error}");
    assert_eq!(kit.files(), before, "{error}");
}

/// The same, where one file is replaced.
fn refused_file(file: &str, tensors: &[Dense], parts: &[&str]) {
    let parts = [parts, &[file]].concat();
    refused(RECIPE, |kit| kit.tensors(file, tensors), &parts);
}

#[test]
fn the_good_recipe_is_good() {
    good().compile(RECIPE).unwrap();
}

#[test]
fn files_that_are_no_safetensors_files() {
    for (file, key) in [
        ("w.safetensors", "weights: "),
        ("norms.safetensors", "tasks.city.norms: "),
        ("own.safetensors", "tasks.rain.checkpoint: "),
    ] {
        let remove = |kit: &Kit| std::fs::remove_file(kit.path(file)).unwrap();
        refused(RECIPE, remove, &[key, file, "No such file"]);
        let folder = |kit: &Kit| {
            remove(kit);
            std::fs::create_dir(kit.path(file)).unwrap();
        };
        refused(RECIPE, folder, &[key, file, "not a regular file"]);
        let cut_off = |kit: &Kit| {
            let bytes = std::fs::read(kit.path(file)).unwrap();
            std::fs::write(kit.path(file), &bytes[..bytes.len() - 1]).unwrap();
        };
        refused(RECIPE, cut_off, &[key, file, "not a valid safetensors file"]);
        for text in ["", "garbage that is no header"] {
            refused(RECIPE, |kit| kit.text(file, text), &[key, file, "not a valid safetensors"]);
        }
    }
}

#[test]
fn weights_that_cannot_be_cut() {
    let bias = || Dense::f32("a1", &[1], &[0.5]);
    let file = "w.safetensors";
    let half = Dense::new("b", Dtype::F16, &[2, 2], vec![0; 8]);
    let both = RECIPE.replace("['a*']", "['a*', 'b']");
    refused(
        &both,
        |kit| kit.tensors(file, &[weight(1.0), half.clone()]),
        &["weights: ", file, "tensor `b` is F16, but `a` is F32"],
    );
    refused(&both, |_| {}, &["prune.include: \"b\" matches no 2-D tensor"]);
    refused_none(&[bias()]);
    let all = RECIPE.replace("'*x'", "'*'");
    refused(&all, |_| {}, &["prune.exclude: every tensor"]);
    let wide = Dense::new("a", Dtype::I64, &[1, 1], vec![0; 8]);
    refused(
        RECIPE,
        |kit| kit.tensors(file, std::slice::from_ref(&wide)),
        &["block: blocks of I64"],
    );
    let small = RECIPE.replace("rows: 32", "rows: 31");
    refused(&small, |_| {}, &["block: a block of 31 x 32 F32", "multiple of 4096"]);
    refused(&RECIPE.replace("rows: 32", "rows: 0"), |_| {}, &["block: a block of 0 x 32 F32"]);
    refused_file(
        file,
        &[Dense::f32("a", &[0, 4], &[])],
        &["weights: ", "tensor `a` cannot be cut"],
    );
    refused_file(
        file,
        &[weight(f32::NAN)],
        &["weights: ", "tensor `a` has NaN at element 34, but must be finite"],
    );
}

#[test]
fn a_base_tensor_without_elements() {
    let empty = Dense::new("no rows", Dtype::F32, &[0, 7], vec![]);
    let parts = ["weights", "`no rows`", "has no elements"];
    refused_file("w.safetensors", &[weight(2.0), empty], &parts);
}

fn refused_none(tensors: &[Dense]) {
    let none = ["prune.include: \"a*\" matches no 2-D tensor"];
    refused(RECIPE, |kit| kit.tensors("w.safetensors", tensors), &none);
}

#[test]
fn norms_that_are_none() {
    let wrong = |tensor: Dense, parts: &[&str]| {
        refused_file("norms.safetensors", &[tensor], &[&["tasks.city.norms: "], parts].concat());
    };
    let misnamed = Dense::f32("b", &[33], &[1.0; 33]);
    wrong(misnamed, &["tensor `a` is missing"]);
    wrong(Dense::f32("a", &[40], &[1.0; 40]), &["tensor `a` has shape [40]", "must have [33]"]);
    wrong(
        Dense::new("a", Dtype::I32, &[33], vec![0; 132]),
        &["tensor `a` is I32, but must be F64"],
    );
    for (value, text) in [(-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        wrong(norms(value), &["tensor `a` has ", text, " at element 5, but must be 0 to 3.4e38"]);
    }
}

#[test]
fn importance_that_is_none() {
    let wrong = |tensor: Dense, parts: &[&str]| {
        let parts = [&["tasks.park.importance: "], parts].concat();
        refused_file("importance.safetensors", &[tensor], &parts);
    };
    wrong(Dense::f32("b", &[1], &[1.0]), &["tensor `a` is missing"]);
    wrong(Dense::f32("a", &[33, 40], &[1.0; COUNT]), &["has shape [33, 40]", "must have [40, 33]"]);
    wrong(Dense::new("a", Dtype::U8, &SHAPE, vec![1; COUNT]), &["tensor `a` is U8, but must be"]);
    for (value, text) in [(-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        wrong(weight(value), &["tensor `a` has ", text, " at element 34, but must be 0 to"]);
    }
    let huge: Vec<u8> = [1e200f64; COUNT].iter().flat_map(|v| v.to_le_bytes()).collect();
    wrong(Dense::new("a", Dtype::F64, &SHAPE, huge), &["at element 0, but must be 0 to 3.4e38"]);
}

#[test]
fn masks_that_are_none() {
    let wrong = |tensor: Dense, parts: &[&str]| {
        refused_file("mask.safetensors", &[tensor], &[&["tasks.road.mask: "], parts].concat());
    };
    wrong(Dense::new("b", Dtype::U8, &[1], vec![1]), &["tensor `a` is missing"]);
    wrong(Dense::new("a", Dtype::U8, &[4], vec![1; 4]), &["has shape [4]", "must have [2, 2]"]);
    wrong(Dense::f32("a", &[2, 2], &[1.0; 4]), &["tensor `a` is F32, but must be U8 or BOOL"]);
    wrong(mask([0, 1, 2, 1]), &["tensor `a` has 2 at element 2, but must be 0 or 1"]);
}

#[test]
fn checkpoints_that_do_not_suit_the_weights() {
    let wrong = |tensor: Dense, parts: &[&str]| {
        refused_file("own.safetensors", &[tensor], &[&["tasks.rain.checkpoint: "], parts].concat());
    };
    wrong(Dense::f32("b", &[1], &[1.0]), &["tensor `a` is missing"]);
    wrong(Dense::f32("a", &[33, 40], &[1.0; COUNT]), &["has shape [33, 40]", "must have [40, 33]"]);
    let half = Dense::new("a", Dtype::BF16, &SHAPE, vec![1; COUNT * 2]);
    wrong(half, &["tensor `a` is BF16, but must be F32"]);
    wrong(weight(f32::NEG_INFINITY), &["tensor `a` has -inf at element 34, but must be finite"]);
}

#[test]
fn shards_that_do_not_fit_together() {
    let sharded = RECIPE.replace("weights: w.safetensors", "weights: i.json");
    let index = |json: &'static str| move |kit: &Kit| kit.text("i.json", json);
    let map = r#"{"weight_map": {"a": "w.safetensors", "bias": "w.safetensors"}}"#;
    let kit = good();
    kit.text("i.json", map);
    kit.compile(&sharded).unwrap();

    let at = ["weights: ", "i.json: "];
    let wrong = |json, part| refused(&sharded, index(json), &[at[0], at[1], part]);
    wrong("{", "not an index of a sharded checkpoint");
    wrong("{\"a\": 1}", "missing field `weight_map`");
    for outside in [r#"{"weight_map": {"a": "../w"}}"#, r#"{"weight_map": {"a": "/w"}}"#] {
        wrong(outside, "which is not inside the index's own folder");
    }
    let gone = index(r#"{"weight_map": {"a": "gone.safetensors"}}"#);
    refused(&sharded, gone, &["weights: ", "gone.safetensors: No such file"]);
    let elsewhere = index(r#"{"weight_map": {"a": "w.safetensors", "c": "w.safetensors"}}"#);
    refused(&sharded, elsewhere, &["weights: ", "w.safetensors: tensor `c` is missing"]);
    let twice = RECIPE.replace("weights: w.safetensors", "weights: [w.safetensors, v.safetensors]");
    let copy = |kit: &Kit| kit.tensors("v.safetensors", &[weight(1.0)]);
    refused(&twice, copy, &["weights: ", "v.safetensors: tensor `a` is also in", "w.safetensors"]);
}

#[test]
fn tasks_without_blocks() {
    let none = |kit: &Kit| kit.tensors("mask.safetensors", &[mask([0; 4])]);
    refused(RECIPE, none, &["tasks.road: the task keeps no block"]);
    let zeros = Dense::f32("a", &SHAPE, &[0.0; COUNT]);
    let zero = |kit: &Kit| kit.tensors("own.safetensors", std::slice::from_ref(&zeros));
    refused(RECIPE, zero, &["tasks.rain: the task keeps no block that is not all zeros"]);
}

#[test]
fn outputs_that_cannot_be() {
    let nowhere = RECIPE.replace("o.mesh", "no/o.mesh");
    refused(&nowhere, |_| {}, &["output: ", "no is not a folder: create it first"]);
    let folder = |kit: &Kit| std::fs::create_dir(kit.path("o.mesh")).unwrap();
    refused(RECIPE, folder, &["output: ", "o.mesh is a folder"]);
}

#[test]
fn an_output_that_would_replace_an_input() {
    let onto = |file: &str| RECIPE.replace("o.mesh", file);
    let is = "this is also the output";
    refused(&onto("w.safetensors"), |_| {}, &["weights: ", "w.safetensors: ", is]);
    refused(&onto("./mask.safetensors"), |_| {}, &["tasks.road.mask: ", "mask.safetensors: ", is]);
    let link = |kit: &Kit| {
        std::os::unix::fs::symlink(kit.path("own.safetensors"), kit.path("link")).unwrap();
    };
    refused(&onto("link"), link, &["tasks.rain.checkpoint: ", "own.safetensors: ", is]);
    let index = |kit: &Kit| {
        kit.text("w.json", r#"{"weight_map": {"a": "w.safetensors", "bias": "w.safetensors"}}"#);
    };
    let by_index = onto("w.json").replace("weights: w.safetensors", "weights: w.json");
    refused(&by_index, index, &["weights: ", "w.json: ", is]);
}

#[test]
fn an_output_that_would_replace_the_recipe() {
    let kit = good();
    kit.text("recipe.yaml", &RECIPE.replace("o.mesh", "recipe.yaml"));
    let before = kit.files();
    let recipe = synchromesh::compile::Recipe::load(&kit.path("recipe.yaml")).unwrap();
    let error = synchromesh::compile::compile(&recipe, &()).unwrap_err();
    assert!(error.is_usage() && error.to_string().starts_with("the recipe: "), "{error}");
    assert_eq!(kit.files(), before);
}

#[test]
fn a_tensor_whose_name_would_garble_a_terminal() {
    let odd = Dense::f32("a\u{1b}[31m", &SHAPE, &[1.0; COUNT]);
    refused_file("w.safetensors", &[weight(2.0), odd], &["weights", "control characters"]);
}

#[test]
fn recipes_that_are_no_files() {
    let kit = good();
    let fifo = kit.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [fifo, kit.path("."), "/dev/zero".into()] {
        let error = synchromesh::compile::Recipe::load(&path).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
}
