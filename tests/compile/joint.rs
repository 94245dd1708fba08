//! What tasks decide together: transitions, aligned masks, masks out and in, required blocks, and
//! weights that are solved for anew.

use crate::kit::{Dense, Kit, masked, served};
use safetensors::{Dtype, SafeTensors};
use std::fs;
use synchromesh::{
    bundle::Bundle,
    compile::{self, CompileError},
    units::TaskIndex,
};

const SHAPE: [usize; 2] = [160, 192];
const BLOCK: [usize; 2] = [32, 32];
const GRID: [usize; 2] = [5, 6];
const TASKS: [&str; 3] = ["city", "park", "rain"];

const RECIPE: &str = "
model: m
output: o.mesh
weights: w.safetensors
block: {rows: 32, cols: 32}
prune: {include: [w]}
tasks:
- {name: city, keep: 0.5, norms: city.safetensors}
- {name: park, keep: 0.5, norms: park.safetensors}
- {name: rain, keep: 0.5, norms: rain.safetensors}
";

/// Weights and three tasks' norms, which agree in part.
fn kit() -> (Kit, Dense) {
    let kit = Kit::new();
    let mut rng = fastrand::Rng::with_seed(11);
    let weight: Vec<_> = (0..SHAPE[0] * SHAPE[1]).map(|_| rng.f32() - 0.5).collect();
    let weight = Dense::f32("w", &SHAPE, &weight);
    kit.tensors("w.safetensors", std::slice::from_ref(&weight));
    let common: Vec<_> = (0..GRID[1]).map(|_| 0.5 + rng.f32()).collect();
    for task in TASKS {
        let own: Vec<_> = (0..GRID[1]).map(|_| 0.9 + 0.2 * rng.f32()).collect();
        let norms: Vec<_> = (0..SHAPE[1]).map(|col| common[col / 32] * own[col / 32]).collect();
        kit.tensors(&format!("{task}.safetensors"), &[Dense::f32("w", &[SHAPE[1]], &norms)]);
    }
    (kit, weight)
}

fn transitions(kit: &Kit, text: &str) -> Vec<Vec<f64>> {
    kit.compile(&format!("{RECIPE}{text}")).unwrap().meta().transitions.clone()
}

fn assert_near(found: &[Vec<f64>], expected: [[f64; 3]; 3]) {
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    assert!(pairs.clone().count() == 9 && pairs.clone().all(|(a, b)| (a - b).abs() < 1e-9));
}

#[test]
fn transitions_come_as_a_matrix_as_pairs_as_a_trace_or_not_at_all() {
    let (kit, _) = kit();
    let sixth = 1.0 / 6.0;
    let uniform = [[0.0, sixth, sixth], [sixth, 0.0, sixth], [sixth, sixth, 0.0]];
    assert_near(&transitions(&kit, ""), uniform);
    let matrix = "transitions: {matrix: [[0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]]}\n";
    // In the long run: from the first 1/5, from the second 2/5, from the third 2/5.
    assert_near(&transitions(&kit, matrix), [[0.0, 0.2, 0.0], [0.0, 0.0, 0.4], [0.2, 0.2, 0.0]]);
    let pairs = "transitions: {pairs: [{from: city, to: park, weight: 3},
        {from: park, to: rain, weight: 0.5}, {from: park, to: rain, weight: 0.5}]}\n";
    let expected = [[0.0, 0.75, 0.0], [0.0, 0.0, 0.25], [0.0; 3]];
    assert_near(&transitions(&kit, pairs), expected);
    let steps = ["city", "city", "park", "city", "park", "rain"];
    let trace = steps
        .iter()
        .enumerate()
        .map(|(at, task)| format!("{{\"at_ms\": {at}, \"task\": \"{task}\", \"speed\": 3}}\n"));
    kit.text("drive.jsonl", &trace.collect::<String>());
    let trace = "transitions: {trace: drive.jsonl}\n";
    assert_near(&transitions(&kit, trace), [[0.0, 0.5, 0.0], [0.25, 0.0, 0.25], [0.0; 3]]);
}

/// Expected bytes of a switch, straight from the bundle's sets.
fn expected_bytes(bundle: &Bundle) -> f64 {
    let tasks: Vec<_> = bundle.task_indices().collect();
    let mut sum = 0.0;
    for &from in &tasks {
        for &to in &tasks {
            let share = bundle.meta().transitions[from.index()][to.index()];
            let new = bundle.task_blocks(to).difference(bundle.task_blocks(from)).count();
            sum += share * new as f64 * 4096.0;
        }
    }
    sum
}

#[test]
fn aligned_tasks_share_more_keep_their_budgets_and_retain_what_they_must() {
    let (kit, weight) = kit();
    let own = kit.pack(RECIPE).unwrap();
    let mut before = expected_bytes(&own);
    assert!(before > 0.0 && (own.expected_switch_bytes() - before).abs() < 1e-6);
    for floor in [0.999, 0.99, 0.9] {
        let text = format!("{RECIPE}align: {{quality_floor: {floor}}}\n");
        let bundle = kit.compile(&text).unwrap();
        let bytes = expected_bytes(&bundle);
        assert!(bytes <= before, "{floor}: {bytes} after {before}");
        before = bytes;
        for (task, own) in bundle.task_indices().map(|t| (bundle.task(t), own.task(t))) {
            assert_eq!((task.blocks, task.best), (15, own.best));
            assert!(task.retained >= floor * own.retained, "{task:?}");
        }
        let figures = compile::align(&kit.recipe(&text), None, &()).unwrap();
        assert!((figures.expected_switch_bytes - bytes).abs() < 1e-6);
        for task in TASKS {
            let kept = kept(&bundle, task);
            let expected = masked(&weight, BLOCK, &kept);
            assert!(served(&bundle, &kit.path("o.mesh"), task, "w") == expected);
        }
    }
    assert_eq!(before, 0.0, "at a low floor all tasks are alike");
}

fn kept(bundle: &Bundle, task: &str) -> Vec<bool> {
    let task = bundle.find_task(task).unwrap();
    bundle.tensors()[0].blocks_of(bundle, task).map(|block| block.is_some()).collect()
}

#[test]
fn the_order_on_disk_follows_the_transitions() {
    let (kit, _) = kit();
    // With these only the blocks of park that city has not are ever read.
    let pairs = "transitions: {pairs: [{from: city, to: park, weight: 1}]}
align: {lambda: 0}\n";
    let bundle = kit.compile(&format!("{RECIPE}{pairs}")).unwrap();
    let reads = compile::switch_reads(&bundle)[0][1];
    assert!(reads.blocks > 0 && reads.extents == 1 && reads.read == reads.blocks, "{reads:?}");
    assert!(reads.naive_extents >= reads.extents && reads.naive_read >= reads.blocks);
    assert_eq!(bundle.meta().layout.request_bytes, 12_000);
    let dear =
        kit.compile(&format!("{RECIPE}{pairs}layout: {{request_us: 100, mb_per_s: 2000}}\n"));
    let dear = dear.unwrap();
    assert_eq!(dear.meta().layout.request_bytes, 200_000);
    // Gaps of up to 48 blocks are read through: all of this model is one extent.
    let reads = compile::switch_reads(&dear);
    assert!(reads.iter().flatten().all(|reads| reads.extents <= 1 && reads.naive_extents <= 1));
    assert!(reads.iter().flatten().any(|reads| reads.naive_read > reads.blocks));
}

#[test]
fn masks_go_out_and_come_back_in() {
    let (kit, _) = kit();
    let text = format!("{RECIPE}align: {{quality_floor: 0.995}}\n");
    let masks = kit.path("masks.safetensors");
    let figures = compile::align(&kit.recipe(&text), Some(&masks), &()).unwrap();
    let bundle = kit.compile(&text).unwrap();
    let bytes = fs::read(&masks).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 3);
    for task in TASKS {
        let mask = tensors.tensor(&format!("{task}/w")).unwrap();
        assert_eq!((mask.dtype(), mask.shape()), (Dtype::U8, &GRID[..]));
        let flags: Vec<_> = mask.data().iter().map(|&keep| keep == 1).collect();
        assert_eq!(flags, kept(&bundle, task));
    }
    let given = RECIPE.replace("keep: 0.5, norms: city", "mask: masks");
    let given = given.replace("keep: 0.5, norms: park", "mask: masks");
    let given = given.replace("keep: 0.5, norms: rain", "mask: masks");
    let again = kit.compile(&given).unwrap();
    for from in bundle.task_indices() {
        for to in bundle.task_indices() {
            assert_eq!(again.diff(from, to) as u64, figures.diff[from.index()][to.index()]);
            assert_eq!(again.diff(from, to), bundle.diff(from, to));
        }
    }
}

#[test]
fn required_blocks_are_kept_and_more_than_the_budget_are_refused() {
    let (kit, _) = kit();
    let own = kept(&kit.pack(RECIPE).unwrap(), "park");
    // All that it would drop, up to its budget of 15.
    let flags: Vec<_> = own.iter().map(|&kept| u8::from(!kept)).collect();
    kit.tensors("must.safetensors", &[Dense::new("w", Dtype::U8, &GRID, flags.clone())]);
    let text = RECIPE.replace("norms: park", "require: must.safetensors, norms: park");
    let bundle = kit.compile(&text).unwrap();
    let now = kept(&bundle, "park");
    assert!(now.iter().zip(&own).all(|(now, own)| now != own), "{now:?} {own:?}");

    let mut many = flags;
    many[own.iter().position(|&kept| kept).unwrap()] = 1;
    kit.tensors("must.safetensors", &[Dense::new("w", Dtype::U8, &GRID, many)]);
    fs::remove_file(kit.path("o.mesh")).unwrap();
    let error = kit.compile(&text).unwrap_err();
    let message = error.to_string();
    for part in ["tasks.park.require", "16 blocks", "tensor `w`", "allows 15"] {
        assert!(message.contains(part), "no {part:?} in {message:?}");
    }
    assert!(error.is_usage() && !kit.path("o.mesh").exists());
    let whole = kit.compile(&format!("{text}align: {{budget: model}}\n")).unwrap_err();
    assert!(whole.to_string().contains("in the model, but"), "{whole}");
}

#[test]
fn a_task_that_would_keep_nothing_is_refused_before_the_work() {
    let (kit, _) = kit();
    kit.tensors("none.safetensors", &[Dense::new("w", Dtype::U8, &GRID, vec![0; 30])]);
    let text = RECIPE.replace("keep: 0.5, norms: park", "mask: none");
    let refused = [
        kit.compile(&text).map(drop),
        compile::frontier(&kit.recipe(&text), None, &()).map(drop),
        compile::align(&kit.recipe(&text), None, &()).map(drop),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(error.is_usage() && error.to_string().contains("tasks.park: "), "{error}");
    }
    assert!(!kit.path("o.mesh").exists());
}

#[test]
fn what_is_required_counts_for_the_identity_however_its_tensor_is_named() {
    let (kit, _) = kit();
    let text = RECIPE.replace("norms: park", "require: must.safetensors, norms: park");
    let mut ids = Vec::new();
    for name in ["w", "park/w"] {
        for place in [0, 1] {
            let mut flags = vec![0; 30];
            flags[place] = 1;
            kit.tensors("must.safetensors", &[Dense::new(name, Dtype::U8, &GRID, flags)]);
            ids.push(kit.compile(&text).unwrap().id());
        }
    }
    assert!(ids[0] != ids[1] && ids[2] != ids[3], "{ids:?}");
}

#[test]
fn over_the_whole_model_a_budget_goes_to_the_tensors_where_it_is_worth_most() {
    let (kit, weight) = kit();
    let small = Dense::f32("w2", &SHAPE, &[0.001; SHAPE[0] * SHAPE[1]]);
    kit.tensors("w.safetensors", &[weight, small]);
    for task in TASKS {
        let bytes = fs::read(kit.path(&format!("{task}.safetensors"))).unwrap();
        let norms = SafeTensors::deserialize(&bytes).unwrap().tensor("w").unwrap().data().to_vec();
        let named = ["w", "w2"].map(|name| Dense::new(name, Dtype::F32, &[192], norms.clone()));
        kit.tensors(&format!("{task}.safetensors"), &named);
    }
    let text = RECIPE.replace("include: [w]", "include: ['w*']");
    let bundle = kit.compile(&format!("{text}align: {{budget: model}}\n")).unwrap();
    let count =
        |tensor: usize| bundle.tensors()[tensor].blocks_of(&bundle, TaskIndex(0)).flatten().count();
    assert_eq!((count(0), count(1)), (30, 0));
    let bundle = kit.compile(&text).unwrap();
    assert_eq!(
        bundle.task(TaskIndex(0)).blocks,
        15 + 1,
        "one block of equal values for all places"
    );
}

#[test]
fn the_frontier_leads_from_all_alike_to_every_task_for_itself() {
    let (kit, _) = kit();
    let frontier = compile::frontier(&kit.recipe(RECIPE), None, &()).unwrap();
    let own = kit.pack(RECIPE).unwrap();
    let (first, last) = (frontier.points.first().unwrap(), frontier.points.last().unwrap());
    assert_eq!((first.switch_blocks, last.least_quality), (0.0, 1.0));
    assert!((last.switch_blocks * 4096.0 - expected_bytes(&own)).abs() < 1e-6);
    assert!(first.mean_quality < 1.0 && frontier.points.len() > 10);
}

/// Inputs of a layer whose channels depend on one another, by token.
fn inputs(rng: &mut fastrand::Rng, tokens: usize) -> Vec<Vec<f32>> {
    let mixing: Vec<f32> = (0..SHAPE[1] * 8).map(|_| rng.f32() - 0.5).collect();
    let token = |_| {
        let hidden: Vec<f32> = (0..8).map(|_| rng.f32() - 0.5).collect();
        let channel = |col: usize| {
            let row = &mixing[col * 8..][..8];
            row.iter().zip(&hidden).map(|(a, b)| a * b).sum::<f32>() + 0.05 * (rng.f32() - 0.5)
        };
        (0..SHAPE[1]).map(channel).collect()
    };
    (0..tokens).map(token).collect()
}

fn moments(tokens: &[Vec<f32>]) -> Dense {
    let mut sums = vec![0f64; SHAPE[1] * SHAPE[1]];
    for token in tokens {
        for (row, a) in token.iter().enumerate() {
            for (col, b) in token.iter().enumerate() {
                sums[row * SHAPE[1] + col] += f64::from(*a) * f64::from(*b);
            }
        }
    }
    let mean: Vec<_> = sums.iter().map(|sum| (sum / tokens.len() as f64) as f32).collect();
    Dense::f32("w", &[SHAPE[1], SHAPE[1]], &mean)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// How far the answers of a layer are from the dense one's, over tokens.
fn error(weight: &[f32], pruned: &[f32], tokens: &[Vec<f32>]) -> f64 {
    let mut sum = 0.0;
    for token in tokens {
        for (dense, pruned) in weight.chunks(SHAPE[1]).zip(pruned.chunks(SHAPE[1])) {
            let rows = dense.iter().zip(pruned).zip(token);
            let off: f32 = rows.map(|((dense, pruned), x)| (dense - pruned) * x).sum();
            sum += f64::from(off * off);
        }
    }
    sum
}

#[test]
fn weights_that_are_solved_for_anew_answer_like_the_dense_ones_and_stay_shared() {
    let (kit, weight) = kit();
    let mut rng = fastrand::Rng::with_seed(12);
    let seen = TASKS.map(|_| inputs(&mut rng, 600));
    for (task, tokens) in TASKS.iter().zip(&seen) {
        kit.tensors(&format!("{task}-moments.safetensors"), &[moments(&tokens[..500])]);
    }
    let mut text = format!("{RECIPE}align: {{quality_floor: 0.999}}\n");
    let plain = kit.compile(&text).unwrap();
    let pruned = TASKS.map(|task| floats(&served(&plain, &kit.path("o.mesh"), task, "w")));
    for task in TASKS {
        let with = format!("moments: {task}-moments.safetensors, norms: {task}.");
        text = text.replace(&format!("norms: {task}."), &with);
    }
    let solved = kit.compile(&format!("{text}reconstruct: {{}}\n")).unwrap();
    assert_ne!(solved.id(), plain.id());
    let dense = floats(&weight.bytes);
    for (task, (pruned, tokens)) in TASKS.iter().zip(pruned.iter().zip(&seen)) {
        assert_eq!(kept(&plain, task), kept(&solved, task), "masks do not change");
        let values = floats(&served(&solved, &kit.path("o.mesh"), task, "w"));
        // On tokens that were not calibrated with.
        let [before, after] = [pruned, &values].map(|w| error(&dense, w, &tokens[500..]));
        assert!(after < 0.5 * before, "{task}: {after} of {before}");
    }
    for from in plain.task_indices() {
        for to in plain.task_indices() {
            assert_eq!(plain.diff(from, to), solved.diff(from, to), "values are shared as before");
        }
    }
    // Drawn to the dense values as strongly as can be, nothing changes but by a hair.
    let drawn = kit.compile(&format!("{text}reconstruct: {{damping: 1000}}\n")).unwrap();
    let values = floats(&served(&drawn, &kit.path("o.mesh"), "city", "w"));
    assert!(values.iter().zip(&pruned[0]).all(|(a, b)| (a - b).abs() < 0.01));
}

#[test]
fn a_checkpoint_does_not_count_as_sharing_what_is_solved_for_anew() {
    let (kit, _) = kit();
    let mut rng = fastrand::Rng::with_seed(14);
    kit.tensors("moments.safetensors", &[moments(&inputs(&mut rng, 300))]);
    let text = "
model: m
output: o.mesh
weights: w.safetensors
block: {rows: 32, cols: 32}
prune: {include: [w]}
tasks:
- {name: city, keep: 0.5, norms: city.safetensors, moments: moments.safetensors}
- {name: own, keep: 0.5, checkpoint: w.safetensors}
reconstruct: {}
align: {quality_floor: 0}
";
    let frontier = compile::frontier(&kit.recipe(text), None, &()).unwrap();
    let bundle = kit.compile(text).unwrap();
    // Nothing is shared, so whatever the masks, a switch loads all of the next task.
    assert!(frontier.points.iter().all(|point| point.switch_blocks == 15.0), "{frontier:?}");
    assert_eq!(bundle.diff(TaskIndex(0), TaskIndex(1)), 15);
}

#[test]
fn moments_that_cannot_be_are_refused_by_name() {
    let (kit, _) = kit();
    let mut text = RECIPE.to_owned();
    for task in TASKS {
        let with = format!("moments: good.safetensors, norms: {task}.");
        text = text.replace(&format!("norms: {task}."), &with);
    }
    let mut rng = fastrand::Rng::with_seed(13);
    let good = moments(&inputs(&mut rng, 50));
    kit.tensors("good.safetensors", std::slice::from_ref(&good));
    let text = format!("{text}reconstruct: {{}}\n").replacen("good", "bad", 1);
    let spoil = |change: &dyn Fn(&mut Vec<f32>)| {
        let mut values = floats(&good.bytes);
        change(&mut values);
        Dense::f32("w", &[SHAPE[1], SHAPE[1]], &values)
    };
    for (tensor, part) in [
        (Dense::f32("w", &[4, 4], &[1.0; 16]), "shape [4, 4], but must have [192, 192]"),
        (Dense::f32("x", &[4, 4], &[1.0; 16]), "tensor `w` is missing"),
        (spoil(&|values| values[5] = f32::NAN), "row 0, column 5: NaN is not finite"),
        (spoil(&|values| values[193] = -1.0), "row 1, column 1: -1 is negative"),
        (spoil(&|values| values[2] += 9.0), "row 0, column 2"),
    ] {
        kit.tensors("bad.safetensors", &[tensor]);
        let error = kit.compile(&text).unwrap_err();
        let message = error.to_string();
        for part in ["tasks.city.moments: ", "bad.safetensors", part] {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        assert!(error.is_usage() && !kit.path("o.mesh").exists());
    }
    let idle = text.replace("reconstruct: {}", "reconstruct: {include: ['v*']}");
    let message = kit.compile(&idle).unwrap_err().to_string();
    assert!(message.contains("reconstruct.include: \"v*\" matches no tensor that is cut"));
    let whole = Dense::new("w", Dtype::U8, &SHAPE, vec![1; SHAPE[0] * SHAPE[1]]);
    kit.tensors("w.safetensors", &[whole]);
    let bytes = text.replace("cols: 32", "cols: 128");
    let message = kit.compile(&bytes).unwrap_err().to_string();
    assert!(message.contains("reconstruct: weights of U8 cannot be solved for"), "{message}");
}

#[test]
fn traces_that_cannot_be_used_are_refused_with_their_line() {
    let (kit, _) = kit();
    let text = format!("{RECIPE}transitions: {{trace: t.jsonl}}\n");
    for (trace, part) in [
        ("{\"at_ms\": 1, \"task\": \"city\"}\nnonsense\n", "line 2: not a JSON object"),
        ("{\"at_ms\": 1, \"task\": \"snow\"}\n", "line 1: no task is named \"snow\""),
        ("{\"at_ms\": -1, \"task\": \"city\"}\n", "line 1: not a JSON object"),
        (
            "{\"at_ms\": 9, \"task\": \"city\"}\n\n{\"at_ms\": 8, \"task\": \"park\"}\n",
            "line 3: `at_ms` is 8, before",
        ),
        ("{\"at_ms\": 9, \"task\": \"city\"}\n", "no switch from one task to another"),
        ("", "no switch from one task to another"),
    ] {
        kit.text("t.jsonl", trace);
        let error = kit.compile(&text).unwrap_err();
        let message = error.to_string();
        for part in ["transitions.trace: ", "t.jsonl", part] {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
        assert!(error.is_usage() && !kit.path("o.mesh").exists());
    }
    fs::remove_file(kit.path("t.jsonl")).unwrap();
    assert!(matches!(kit.compile(&text), Err(CompileError::Input(_))));
}
