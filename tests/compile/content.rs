//! What a bundle must hold.

use crate::kit::{Dense, Kit, base, masked, served};
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Dtype;
use std::{collections::HashSet, fs};
use synchromesh::{
    bundle::{Bundle, Tiling},
    compile::{self, Recipe},
    units::TaskIndex,
};

/// Random elements that are finite and not zero.
fn elements(dtype: Dtype, count: usize, rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let value = rng.f32() * 8.0 + 0.01;
        match dtype {
            Dtype::F32 => bytes.extend((-value).to_le_bytes()),
            Dtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            // Below the exponents of NaN and infinity in either format.
            _ => bytes.push(rng.u8(1..0x70) | rng.u8(..) & 0x80),
        }
    }
    bytes
}

fn mask(name: &str, grid: [usize; 2], kept: &[bool]) -> Dense {
    let bytes = kept.iter().map(|&keep| u8::from(keep)).collect();
    Dense::new(name, Dtype::BOOL, &grid, bytes)
}

#[test]
fn every_type_passes_through_bit_for_bit_with_edges_and_base() {
    use Dtype::{BF16, F8_E4M3, F8_E5M2, F16, F32, I8, U8};
    let mut rng = fastrand::Rng::with_seed(1);
    for (dtype, block) in [
        (F32, [32, 32]),
        (F16, [16, 128]),
        (BF16, [64, 32]),
        (I8, [64, 64]),
        (U8, [32, 128]),
        (F8_E4M3, [128, 32]),
        (F8_E5M2, [1, 4096]),
    ] {
        let kit = Kit::new();
        let shape = [block[0] * 2 + 1, block[1] * 3 + 5];
        let weight = Dense::new("w", dtype, &shape, elements(dtype, shape[0] * shape[1], &mut rng));
        let bias = Dense::new("bias", Dtype::I64, &[3], (0..24).collect());
        kit.tensors("w.safetensors", &[weight.clone(), bias.clone()]);
        let kept: Vec<bool> = (0..12).map(|place| place % 5 != 2).collect();
        kit.tensors("mask.safetensors", &[mask("w", [3, 4], &kept)]);
        let [rows, cols] = block;
        let bundle = kit
            .compile(&format!(
                "{{model: m, output: o.mesh, weights: w.safetensors, block: {{rows: {rows}, \
                 cols: {cols}}}, prune: {{include: [w]}}, \
                 tasks: [{{name: t, mask: mask.safetensors}}]}}"
            ))
            .unwrap();
        let file = kit.path("o.mesh");
        assert!(served(&bundle, &file, "t", "w") == masked(&weight, block, &kept), "{dtype:?}");
        assert_eq!(base(&bundle, &file, "bias"), bias.bytes);
        assert_eq!(bundle.base().tensors.len(), 1);
        assert_eq!(bundle.task(TaskIndex(0)).blocks, kept.iter().filter(|k| **k).count() as u64);
    }
}

/// The best blocks by the sum of a score over their elements, found by a plain sort.
fn best(score: &[f64], shape: [usize; 2], block: [usize; 2], count: usize) -> Vec<bool> {
    let grid = [shape[0].div_ceil(block[0]), shape[1].div_ceil(block[1])];
    let mut sums = vec![0.0; grid[0] * grid[1]];
    for (index, score) in score.iter().enumerate() {
        sums[index / shape[1] / block[0] * grid[1] + index % shape[1] / block[1]] += score;
    }
    let mut order: Vec<_> = (0..sums.len()).collect();
    order.sort_by(|&a, &b| sums[b].partial_cmp(&sums[a]).unwrap());
    let mut kept = vec![false; sums.len()];
    order[..count].iter().for_each(|&place| kept[place] = true);
    kept
}

const SHAPE: [usize; 2] = [150, 100];
const BLOCK: [usize; 2] = [32, 32];
/// Blocks of a grid of 5 x 4 that a share of 0.37 stands for.
const KEPT: usize = 7;

const FOUR_TASKS: &str = "
model: m
output: o.mesh
weights: w.safetensors
block: {rows: 32, cols: 32}
prune: {include: ['*'], exclude: [head]}
tasks:
- {name: norms, keep: 0.37, norms: norms.safetensors}
- {name: importance, keep: 0.37, importance: importance.safetensors}
- {name: magnitude, keep: 0.37, checkpoint: w.safetensors}
- {name: all, checkpoint: w.safetensors}
";

/// The inputs of [`FOUR_TASKS`]: weights, norms and importance.
fn four_tasks(kit: &Kit) -> [Vec<f32>; 3] {
    let mut rng = fastrand::Rng::with_seed(2);
    let count = SHAPE[0] * SHAPE[1];
    let [weights, norms, importance] = [(count, -1.0), (SHAPE[1], 0.0), (count, 0.0)]
        .map(|(n, low)| (0..n).map(|_| low + rng.f32() * (1.0 - low)).collect::<Vec<f32>>());
    let head = Dense::f32("head", &SHAPE, &weights);
    kit.tensors("w.safetensors", &[Dense::f32("w", &SHAPE, &weights), head]);
    kit.tensors("norms.safetensors", &[Dense::f32("w", &[SHAPE[1]], &norms)]);
    kit.tensors("importance.safetensors", &[Dense::f32("w", &SHAPE, &importance)]);
    [weights, norms, importance]
}

#[test]
fn each_source_of_importance_keeps_its_best_blocks() {
    let kit = Kit::new();
    let [weights, norms, importance] = four_tasks(&kit);
    let bundle = kit.pack(FOUR_TASKS).unwrap();
    let squares = weights.iter().map(|&w| f64::from(w).powi(2));
    let wanda = weights.iter().enumerate();
    let wanda = wanda.map(|(i, &w)| (f64::from(w) * f64::from(norms[i % SHAPE[1]])).powi(2));
    let weight = Dense::f32("w", &SHAPE, &weights);
    for (task, score) in [
        ("norms", wanda.collect::<Vec<_>>()),
        ("importance", importance.iter().map(|&v| f64::from(v)).collect()),
        ("magnitude", squares.collect()),
    ] {
        let kept = best(&score, SHAPE, BLOCK, KEPT);
        let expected = masked(&weight, BLOCK, &kept);
        assert!(served(&bundle, &kit.path("o.mesh"), task, "w") == expected, "{task}");
        let of_element = |index: usize| kept[index / 100 / 32 * 4 + index % 100 / 32];
        let in_kept: f64 = (0..score.len()).filter(|&i| of_element(i)).map(|i| score[i]).sum();
        let meta = bundle.task(bundle.find_task(task).unwrap());
        assert!((meta.retained - in_kept / score.iter().sum::<f64>()).abs() < 1e-12, "{task}");
        assert_eq!((meta.blocks, meta.keep), (KEPT as u64, Some(0.37)));
    }
    let all = bundle.task(bundle.find_task("all").unwrap());
    assert_eq!((all.blocks, all.keep, all.retained, all.best), (20, None, 1.0, 1.0));
    assert!(served(&bundle, &kit.path("o.mesh"), "all", "w") == weight.bytes);
    assert!(base(&bundle, &kit.path("o.mesh"), "head") == weight.bytes);
    assert_eq!(bundle.len(), 20, "what several tasks keep is stored once");
}

#[test]
fn shares_of_importance_are_in_order_and_given_masks_are_measured() {
    let kit = Kit::new();
    let [weights, ..] = four_tasks(&kit);
    let kept: Vec<bool> = (0..20).map(|place| place % 3 == 0).collect();
    kit.tensors("mask.safetensors", &[mask("w", [5, 4], &kept)]);
    let text = format!("{FOUR_TASKS}- {{name: given, mask: mask.safetensors}}\n");
    let bundle = kit.compile(&text).unwrap();
    for task in bundle.task_indices() {
        let meta = bundle.task(task);
        assert!(0.0 < meta.retained && meta.retained <= meta.best && meta.best <= 1.0, "{meta:?}");
    }
    let squares: Vec<f64> = weights.iter().map(|&w| f64::from(w).powi(2)).collect();
    let share = |kept: &[bool]| {
        let inside = |index: usize| kept[index / 100 / 32 * 4 + index % 100 / 32];
        let sum: f64 = (0..squares.len()).filter(|&i| inside(i)).map(|i| squares[i]).sum();
        sum / squares.iter().sum::<f64>()
    };
    let given = bundle.task(bundle.find_task("given").unwrap());
    assert_eq!(given.blocks, 7);
    assert!((given.retained - share(&kept)).abs() < 1e-12);
    assert!((given.best - share(&best(&squares, SHAPE, BLOCK, 7))).abs() < 1e-12);
    assert!(given.retained < given.best);
}

#[test]
fn the_same_inputs_give_the_same_bytes_whatever_the_files_are_called() {
    let kit = Kit::new();
    let [weights, ..] = four_tasks(&kit);
    let first = kit.compile(FOUR_TASKS).unwrap().id();
    let bytes = fs::read(kit.path("o.mesh")).unwrap();
    kit.compile(FOUR_TASKS).unwrap();
    assert!(fs::read(kit.path("o.mesh")).unwrap() == bytes);

    // As shards with an index, and as a list of files.
    kit.tensors("1.safetensors", &[Dense::f32("w", &SHAPE, &weights)]);
    let unlisted = Dense::f32("unlisted", &[1], &[1.0]);
    kit.tensors("2.safetensors", &[Dense::f32("head", &SHAPE, &weights), unlisted]);
    let index =
        r#"{"metadata": {}, "weight_map": {"w": "1.safetensors", "head": "2.safetensors"}}"#;
    kit.text("model.safetensors.index.json", index);
    let sharded =
        FOUR_TASKS.replace("weights: w.safetensors", "weights: model.safetensors.index.json");
    kit.compile(&sharded).unwrap();
    assert!(fs::read(kit.path("o.mesh")).unwrap() == bytes);
    kit.tensors("2.safetensors", &[Dense::f32("head", &SHAPE, &weights)]);
    let listed =
        FOUR_TASKS.replace("weights: w.safetensors", "weights: [2.safetensors, 1.safetensors]");
    kit.compile(&listed).unwrap();
    assert!(fs::read(kit.path("o.mesh")).unwrap() == bytes);

    // Whatever changes the content changes the identity.
    for (from, to) in [("keep: 0.37, norms", "keep: 0.38, norms"), ("model: m", "model: n")] {
        assert_ne!(kit.compile(&FOUR_TASKS.replace(from, to)).unwrap().id(), first);
    }
    let mut changed = weights;
    changed[0] += 1.0;
    kit.tensors("2.safetensors", &[Dense::f32("head", &SHAPE, &changed)]);
    assert_ne!(kit.compile(&listed).unwrap().id(), first);
}

#[test]
fn the_figures_of_an_alignment_are_those_of_its_bundle() {
    let kit = Kit::new();
    four_tasks(&kit);
    let recipe = kit.recipe(FOUR_TASKS);
    let figures = compile::align(&recipe, None, &()).unwrap();
    assert!(!kit.path("o.mesh").exists(), "align writes nothing");
    let bundle = compile::compile(&recipe, &()).unwrap();
    assert_eq!(figures.blocks, bundle.len() as u64);
    assert_eq!(figures.groups, bundle.meta().layout.groups);
    for (task, own) in bundle.task_indices().zip(&figures.tasks) {
        let meta = bundle.task(task);
        assert_eq!(
            (&own.name, own.blocks, own.bytes),
            (&meta.name, meta.blocks, meta.blocks * 4096)
        );
        assert_eq!((own.retained, own.best), (meta.retained, meta.best));
        for to in bundle.task_indices() {
            assert_eq!(figures.diff[task.index()][to.index()], bundle.diff(task, to) as u64);
        }
    }
    assert!(figures.diff[0][1] > 0 && figures.diff[3][0] == 0);
}

/// A U8 tensor of 64 x 64 blocks, each filled with one value.
fn filled(name: &str, blocks: [usize; 2], fill: &[u8]) -> Dense {
    let shape = [blocks[0] * 64, blocks[1] * 64];
    let at = |index: usize| fill[index / shape[1] / 64 * blocks[1] + index % shape[1] / 64];
    Dense::new(name, Dtype::U8, &shape, (0..shape[0] * shape[1]).map(at).collect())
}

const FILLED: &str = "
model: m
output: o.mesh
weights: w.safetensors
block: {rows: 64, cols: 64}
prune: {include: ['*']}
tasks:
";

fn numbers(bundle: &Bundle, task: u32) -> Vec<Option<u32>> {
    bundle.tensors()[0].blocks_of(bundle, TaskIndex(task)).map(|b| b.map(|b| b.0)).collect()
}

#[test]
fn equal_blocks_of_equal_task_sets_are_stored_once_and_zero_blocks_never() {
    let kit = Kit::new();
    kit.tensors("w.safetensors", &[filled("a", [1, 5], &[7, 7, 0, 7, 8])]);
    kit.tensors("x.safetensors", &[mask("a", [1, 5], &[true, true, true, false, true])]);
    kit.tensors("y.safetensors", &[mask("a", [1, 5], &[true, true, true, true, false])]);
    let tasks = "- {name: x, mask: x.safetensors}\n- {name: y, mask: y.safetensors}\n";
    let bundle = kit.compile(&format!("{FILLED}{tasks}")).unwrap();
    // Sevens for both, at two places; sevens for y alone; the eight for x alone.
    let [x, y] = [0, 1].map(|task| numbers(&bundle, task));
    assert_eq!(bundle.len(), 3);
    assert_eq!(x, [y[0], y[0], None, None, x[4]]);
    assert_eq!(y, [x[0], x[0], None, y[3], None]);
    assert!(y[3].is_some() && y[3] != x[0]);
    assert_eq!(bundle.meta().layout.places, 4);
}

#[test]
fn a_checkpoint_has_values_of_its_own_and_the_most_common_value_is_shared() {
    let kit = Kit::new();
    kit.tensors("w.safetensors", &[filled("a", [1, 4], &[1, 2, 3, 4])]);
    kit.tensors("ones.safetensors", &[mask("a", [1, 4], &[true; 4])]);
    kit.tensors("tuned.safetensors", &[filled("a", [1, 4], &[1, 9, 9, 0])]);
    kit.tensors("other.safetensors", &[filled("a", [1, 4], &[1, 2, 9, 5])]);
    let tasks = "- {name: plain, mask: ones.safetensors}
- {name: tuned, checkpoint: tuned.safetensors}
- {name: other, checkpoint: other.safetensors}\n";
    let bundle = kit.compile(&format!("{FILLED}{tasks}")).unwrap();
    let file = kit.path("o.mesh");
    for (task, fill) in [("plain", [1, 2, 3, 4]), ("tuned", [1, 9, 9, 0]), ("other", [1, 2, 9, 5])]
    {
        assert_eq!(served(&bundle, &file, task, "a"), filled("a", [1, 4], &fill).bytes, "{task}");
    }
    let [plain, tuned, other] = [0, 1, 2].map(|task| numbers(&bundle, task));
    assert!(plain[0] == tuned[0] && plain[0] == other[0]);
    assert!(plain[1] == other[1] && plain[1] != tuned[1]);
    assert!(tuned[2] == other[2] && plain[2] != tuned[2]);
    assert_eq!(tuned[3], None);
    // 1 | 2, 9 | 3, 9 | 4, 5; the nines have different sets.
    assert_eq!(bundle.len(), 7);
    // One grid of its own each: the last is other's, as a tie goes to the weights.
    let bytes = fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let own: HashSet<_> = tensors.names().into_iter().filter(|n| n.starts_with("own/")).collect();
    assert_eq!(own, HashSet::from(["own/plain/a", "own/tuned/a", "own/other/a"]));
    let absent = |name: &str| -> Vec<bool> {
        let grid = tensors.tensor(name).unwrap().data();
        grid.chunks(4).map(|block| block == [0xff; 4]).collect()
    };
    assert_eq!(absent("own/plain/a"), [true, true, false, true]);
    assert_eq!(absent("own/tuned/a"), [true, false, true, true]);
    assert_eq!(absent("own/other/a"), [true, true, true, false]);
}

#[test]
fn many_values_at_one_place_are_all_stored() {
    let kit = Kit::new();
    kit.tensors("w.safetensors", &[filled("a", [1, 1], &[1])]);
    let mut text = FILLED.to_owned();
    // The shared value is 3, of three tasks; 2 has more tasks than 4 but a later first one.
    let fills = [3, 4, 2, 3, 2, 3, 1];
    for (task, fill) in fills.into_iter().enumerate() {
        kit.tensors(&format!("{task}.safetensors"), &[filled("a", [1, 1], &[fill])]);
        text += &format!("- {{name: t{task}, checkpoint: {task}.safetensors}}\n");
    }
    let bundle = kit.compile(&text).unwrap();
    assert_eq!(bundle.len(), 4);
    for (task, fill) in fills.into_iter().enumerate() {
        let bytes = served(&bundle, &kit.path("o.mesh"), &format!("t{task}"), "a");
        assert_eq!(bytes, [fill; 64 * 64]);
    }
}

#[test]
fn a_tie_goes_to_the_weights_even_where_only_checkpoints_keep_the_place() {
    let kit = Kit::new();
    kit.tensors("w.safetensors", &[filled("a", [1, 1], &[1])]);
    kit.tensors("tuned.safetensors", &[filled("a", [1, 1], &[2])]);
    let tasks = "- {name: tuned, checkpoint: tuned.safetensors}
- {name: same, checkpoint: w.safetensors}\n";
    kit.compile(&format!("{FILLED}{tasks}")).unwrap();
    let bytes = fs::read(kit.path("o.mesh")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let own: Vec<_> = tensors.names().into_iter().filter(|n| n.starts_with("own/")).collect();
    assert_eq!(own, ["own/tuned/a"]);
}

#[test]
fn sixty_four_tasks_with_a_block_each() {
    let kit = Kit::new();
    let fill: Vec<u8> = (1..=64).collect();
    kit.tensors("w.safetensors", &[filled("a", [8, 8], &fill)]);
    let mut text = FILLED.to_owned();
    for task in 0..64 {
        let kept: Vec<bool> = (0..64).map(|place| place == task).collect();
        kit.tensors(&format!("{task}.safetensors"), &[mask("a", [8, 8], &kept)]);
        text += &format!("- {{name: t{task}, mask: {task}.safetensors}}\n");
    }
    let bundle = kit.compile(&text).unwrap();
    for task in 0..64 {
        let found: Vec<_> = numbers(&bundle, task).iter().map(Option::is_some).collect();
        assert_eq!(found, (0..64).map(|place| place == task).collect::<Vec<_>>());
        assert_eq!(bundle.diff(TaskIndex(task), TaskIndex(63 - task)), 1);
    }
}

#[test]
fn blocks_of_equal_sets_lie_together_on_disk() {
    let kit = Kit::new();
    four_tasks(&kit);
    let bundle = kit.compile(FOUR_TASKS).unwrap();
    let set =
        |block| bundle.task_indices().map(|t| bundle.task_blocks(t).contains(block)).collect();
    let sets: Vec<Vec<bool>> = (0..bundle.len()).map(set).collect();
    let distinct: HashSet<_> = sets.iter().collect();
    assert_eq!(sets.chunk_by(|a, b| a == b).count(), distinct.len());
    assert_eq!(bundle.meta().layout.groups, distinct.len() as u64);
}

/// A random model of few distinct blocks, so that blocks coincide in every way, and what each of
/// its tasks should see of each tensor.
fn random_model(kit: &Kit, rng: &mut fastrand::Rng) -> (Recipe, Vec<Vec<Vec<u8>>>) {
    let grids: Vec<[usize; 2]> =
        (0..rng.usize(1..4)).map(|_| [rng.usize(1..4), rng.usize(1..5)]).collect();
    // The last row and column of an edge block are cut off.
    let cut = rng.usize(0..2);
    let block = [64, 64];
    let random = |rng: &mut fastrand::Rng| -> Vec<Dense> {
        let tensors = grids.iter().enumerate().map(|(t, &grid)| {
            let fill: Vec<u8> = (0..grid[0] * grid[1]).map(|_| rng.u8(0..3)).collect();
            let whole = filled(&format!("t{t}"), grid, &fill);
            let shape = grid.map(|blocks| blocks * 64 - cut);
            let cells = whole.bytes.chunks(grid[1] * 64).take(shape[0]);
            let bytes = cells.flat_map(|row| &row[..shape[1]]).copied().collect();
            Dense::new(&whole.name, Dtype::U8, &shape, bytes)
        });
        tensors.collect()
    };
    let mut weights = random(rng);
    // At least one block that is not zero, for every task.
    weights[0].bytes[0] = 77;
    kit.tensors("w.safetensors", &weights);
    let mut text = FILLED.to_owned();
    let mut expected = Vec::new();
    for task in 0..rng.usize(1..9) {
        let file = format!("{task}.safetensors");
        if rng.u8(0..3) == 0 {
            let mut masks: Vec<Vec<bool>> =
                grids.iter().map(|g| (0..g[0] * g[1]).map(|_| rng.bool()).collect()).collect();
            masks[0][0] = true;
            let files = weights.iter().zip(&masks).zip(&grids);
            let files: Vec<_> = files.map(|((w, kept), &grid)| mask(&w.name, grid, kept)).collect();
            kit.tensors(&file, &files);
            text += &format!("- {{name: k{task}, mask: {file}}}\n");
            expected.push(weights.iter().zip(&masks).map(|(w, k)| masked(w, block, k)).collect());
        } else {
            let mut own = random(rng);
            own[0].bytes[0] = 77;
            kit.tensors(&file, &own);
            text += &format!("- {{name: k{task}, checkpoint: {file}}}\n");
            expected.push(own.into_iter().map(|tensor| tensor.bytes).collect());
        }
    }
    (kit.recipe(&text), expected)
}

/// The fewest blocks for what each task sees: one for each pair of content and set of tasks.
fn fewest_blocks(bundle: &Bundle, expected: &[Vec<Vec<u8>>]) -> usize {
    let mut distinct = HashSet::new();
    for (position, tensor) in bundle.tensors().iter().enumerate() {
        let tiling: Tiling = tensor.tiling();
        for place in 0..tiling.places() {
            let blocks: Vec<Vec<u8>> = expected
                .iter()
                .map(|tensors| {
                    let mut block = vec![0; tiling.block().len()];
                    tiling.cut(&tensors[position], place, &mut block);
                    block
                })
                .collect();
            for block in blocks.iter().filter(|block| block.iter().any(|&byte| byte != 0)) {
                let set: Vec<bool> = blocks.iter().map(|other| other == block).collect();
                distinct.insert((block.clone(), set));
            }
        }
    }
    distinct.len()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]
    #[test]
    fn every_task_sees_its_own_tensors_and_nothing_is_stored_twice(seed in any::<u64>()) {
        let kit = Kit::new();
        let (recipe, expected) = random_model(&kit, &mut fastrand::Rng::with_seed(seed));
        let bundle = compile::pack(&recipe, &()).unwrap();
        for (task, tensors) in recipe.task_names().zip(&expected) {
            for (tensor, bytes) in bundle.tensors().iter().zip(tensors) {
                let found = served(&bundle, recipe.output(), task, tensor.name());
                prop_assert!(found == *bytes, "{} of {}", tensor.name(), task);
            }
        }
        prop_assert_eq!(bundle.len(), fewest_blocks(&bundle, &expected));
    }
}
