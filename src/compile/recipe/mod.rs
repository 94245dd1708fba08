//! The recipe: what to make of which files.
//!
//! Text becomes a [`Recipe`] only through the checks here. The files that it names are not looked
//! at: that is `inputs`.

mod fault;
mod joint;
mod paths;
mod raw;
mod tasks;

pub use fault::{KeyFault, RecipeError, RecipeFault};
pub(super) use joint::{Device, Reconstruct, Transitions};

use super::{
    align::{BudgetScope, Goal},
    error::{InputError, Origin},
};
use crate::files::{is_same_file, read_text};
use globset::{Glob, GlobSet};
use raw::RawRecipe;
use std::path::{Path, PathBuf};

/// Largest recipe.
const MAX_RECIPE_BYTES: u64 = 4 << 20;

/// A recipe whose keys are right, alone and together.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Where the recipe lies, so that nothing is written over it.
    pub(super) path: PathBuf,
    pub(super) model: String,
    pub(super) output: PathBuf,
    pub(super) weights: Files,
    pub(super) block_rows: u32,
    pub(super) block_cols: u32,
    pub(super) prune: Prune,
    /// 1 to [`MAX_TASKS`](crate::bundle::MAX_TASKS), with different names.
    pub(super) tasks: Vec<Task>,
    pub(super) transitions: Transitions,
    pub(super) budget: BudgetScope,
    pub(super) goal: Goal,
    pub(super) device: Device,
    pub(super) reconstruct: Option<Reconstruct>,
}

/// One or more files, as paths that the recipe's folder no longer matters to.
#[derive(Clone, Debug)]
pub(super) struct Files(Vec<PathBuf>);

/// Which tensors are cut into blocks, if they are 2-D.
#[derive(Clone, Debug)]
pub(super) struct Prune {
    pub(super) include: Vec<Glob>,
    pub(super) exclude: Vec<Glob>,
    included: GlobSet,
    excluded: GlobSet,
}

/// A task.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) choice: Choice,
    pub(super) files: Files,
    /// Masks of blocks that it keeps in any case; only where it has a share to keep.
    pub(super) require: Option<Files>,
    /// Second moments of the inputs of its layers, where weights are solved for anew.
    pub(super) moments: Option<Files>,
    /// Moments between those inputs and the dense model's; only with `moments`.
    pub(super) cross: Option<Files>,
}

/// How a task's blocks are chosen. Every share is above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    /// The best share by weight times activation norm of the input channel.
    Norms { keep: f64 },
    /// The best share by the sum of given importance.
    Importance { keep: f64 },
    /// The blocks that a mask says.
    Mask,
    /// All blocks of the task's own checkpoint, or the best share by magnitude.
    Checkpoint { keep: Option<f64> },
}

impl Recipe {
    /// Reads a recipe from a file; its paths are relative to the file's folder.
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let text = read_text(path, MAX_RECIPE_BYTES);
        let text = text.map_err(|e| RecipeError { path: path.to_owned(), fault: e.into() })?;
        Self::parse(&text, path)
    }

    /// Reads a recipe that lies, or might lie, at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let raw = serde_yaml::from_str::<RawRecipe>(text).map_err(RecipeFault::from);
        raw.and_then(|raw| raw.validate(path, folder))
            .map_err(|fault| RecipeError { path: path.to_owned(), fault })
    }

    /// Refuses to have the recipe or its trace replaced by what is made from it.
    pub(super) fn check_output(&self, output: &Path) -> Result<(), InputError> {
        let trace = match &self.transitions {
            Transitions::Trace(path) => Some(("transitions.trace", path)),
            _ => None,
        };
        let mut inputs = trace.into_iter().chain([("the recipe", &self.path)]);
        match inputs.find(|(_, path)| is_same_file(path, output)) {
            Some((key, path)) => {
                Err(InputError::IsOutput(Origin { key: key.into(), path: path.clone() }))
            }
            None => Ok(()),
        }
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Where the bundle goes.
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// The names of the tasks, in the order of their indices.
    pub fn task_names(&self) -> impl Iterator<Item = &str> {
        self.tasks.iter().map(|task| task.name.as_str())
    }
}

impl Files {
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

impl Prune {
    /// The patterns of `include` that match the name, by position.
    pub(super) fn included_by(&self, tensor: &str) -> Vec<usize> {
        self.included.matches(tensor)
    }

    /// Whether a pattern of `exclude` matches the name.
    pub(super) fn excludes(&self, tensor: &str) -> bool {
        self.excluded.is_match(tensor)
    }
}

impl Task {
    /// The key of the task's files in the recipe, and the role of what is read from them.
    pub(super) fn key(&self) -> String {
        self.key_of(self.choice.key())
    }

    /// A key of this task.
    pub(super) fn key_of(&self, key: &str) -> String {
        format!("tasks.{}.{key}", self.name)
    }

    /// Whether its values are those of the weights.
    pub(super) fn takes_weights(&self) -> bool {
        !matches!(self.choice, Choice::Checkpoint { .. })
    }
}

impl Choice {
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Norms { .. } => "norms",
            Self::Importance { .. } => "importance",
            Self::Mask => "mask",
            Self::Checkpoint { .. } => "checkpoint",
        }
    }

    /// The share to keep, where the recipe gives one.
    pub(super) fn keep(self) -> Option<f64> {
        match self {
            Self::Norms { keep } | Self::Importance { keep } => Some(keep),
            Self::Mask => None,
            Self::Checkpoint { keep } => keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
model: m
output: out/m.mesh
weights: [a.safetensors, /b.safetensors]
block: {rows: 32, cols: 64}
prune: {include: ['*.weight'], exclude: ['*norm*']}
tasks:
- {name: city, keep: 0.5, norms: city.safetensors}
- {name: park, mask: [park.safetensors]}
- {name: rain, checkpoint: rain.index.json}
";

    fn refuse(text: &str) -> String {
        Recipe::parse(text, Path::new("dir/r.yaml")).unwrap_err().to_string()
    }

    #[test]
    fn a_recipe_is_read_with_paths_relative_to_its_folder() {
        let recipe = Recipe::parse(GOOD, Path::new("dir/r.yaml")).unwrap();
        assert_eq!(recipe.output(), Path::new("dir/out/m.mesh"));
        assert_eq!(
            recipe.weights.paths(),
            [Path::new("dir/a.safetensors"), Path::new("/b.safetensors")]
        );
        assert_eq!(recipe.tasks[0].choice, Choice::Norms { keep: 0.5 });
        assert_eq!(recipe.tasks[2].choice, Choice::Checkpoint { keep: None });
        assert_eq!(recipe.tasks[1].key(), "tasks.park.mask");
        assert_eq!(recipe.prune.included_by("layers/0.weight"), [0]);
        assert!(recipe.prune.included_by("layers.0.bias").is_empty());
        assert!(recipe.prune.excludes("norm.weight") && !recipe.prune.excludes("0.weight"));
    }

    #[test]
    fn syntax_errors_name_file_key_line_and_column() {
        for (from, to, parts) in [
            ("model: m", "model: m\nmodell: n", "dir/r.yaml modell line 2"),
            ("rows: 32", "rows: -1", "block.rows line 4 column"),
            ("norms: city.safetensors", "norms: {}", "tasks[0].norms line 7 path"),
            ("norms: city", "nrms: city", "nrms line 7 column"),
            ("model: m\n", "", "missing model"),
        ] {
            let message = refuse(&GOOD.replace(from, to));
            for part in parts.split(' ') {
                assert!(message.contains(part), "no {part:?} in {message:?}");
            }
        }
    }

    #[test]
    fn every_wrong_value_is_refused_under_its_key() {
        let many: String = (0..65).map(|i| format!("- {{name: t{i}, mask: f}}\n")).collect();
        let city = "- {name: city, keep: 0.5, norms: city.safetensors}";
        for (from, to, message) in [
            ("model: m", "model: m/n", "model: \"m/n\" is not a name"),
            ("name: park", "name: ''", "tasks[1].name: \"\" is not a name"),
            ("name: park", "name: city", "tasks[1].name: another task is named `city`"),
            ("keep: 0.5", "keep: 0", "tasks[0].keep: 0 is not a share"),
            ("keep: 0.5", "keep: 1.01", "tasks[0].keep: 1.01 is not"),
            ("keep: 0.5", "keep: .nan", "tasks[0].keep: NaN is not"),
            ("keep: 0.5, norms", "importance", "tasks[0].keep: needed with `importance`"),
            ("keep: 0.5, ", "", "tasks[0].keep: needed with `norms`"),
            ("mask:", "keep: 0.5, mask:", "tasks[1].keep: not allowed with `mask`"),
            ("mask:", "norms: x, mask:", "tasks[1]: give one of"),
            (", mask: [park.safetensors]", "", "mask` and `checkpoint`; 0 are given"),
            ("mask:", "require: x, mask:", "tasks[1].require: only allowed with `keep`"),
            ("mask:", "moments: x, mask:", "tasks[1].moments: only allowed with `reconstruct`"),
            ("mask:", "cross: x, mask:", "tasks[1].cross: only allowed with `moments`"),
            (
                "checkpoint:",
                "moments: x, checkpoint:",
                "tasks[2].moments: only allowed with `norms`",
            ),
            ("[park.safetensors]", "[]", "tasks[1].mask: at least one"),
            ("['*.weight']", "[]", "prune.include: at least one"),
            ("['*norm*']", "['[']", "prune.exclude: error parsing glob"),
            ("weights: [a.safetensors, /b.safetensors]", "weights: []", "weights: at least one"),
            (city, &many, "tasks: 67 entries; at most 64"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from:?} is not in the recipe");
            let found = refuse(&text);
            assert!(found.contains(message), "no {message:?} in {found:?}");
            assert!(found.starts_with("recipe dir/r.yaml: "), "{found:?}");
        }
        let none = GOOD.split_at(GOOD.find("- {name").unwrap()).0.replace("tasks:", "tasks: []");
        assert!(refuse(&none).contains("tasks: at least one"));
    }

    #[test]
    fn what_is_said_of_all_tasks_is_refused_under_its_key() {
        for (more, message) in [
            ("transitions: {}", "transitions: give only one of `matrix`, `pairs` and `trace`"),
            ("transitions: {trace: a, pairs: []}", "transitions: give only one of"),
            (
                "transitions: {matrix: [[0, 1, 0]]}",
                "transitions.matrix: 1 entries, but there are 3",
            ),
            (
                "transitions: {matrix: [[0, 1], [0, 0, 1], [1, 0, 0]]}",
                "transitions.matrix[0]: 2 entries, but there are 3",
            ),
            (
                "transitions: {matrix: [[0, 1, 0], [0.5, 0, 0.4], [1, 0, 0]]}",
                "transitions.matrix[1]: the probabilities from `park` sum to 0.9,",
            ),
            (
                "transitions: {matrix: [[0, 2, -1], [1, 0, 0], [1, 0, 0]]}",
                "transitions.matrix[0]: 2 must be 0 to 1",
            ),
            (
                "transitions: {matrix: [[0, 1, 0], [0, 1, 0], [1, 0, 0]]}",
                "transitions.matrix[1]: `park` to itself is no switch",
            ),
            (
                "transitions: {pairs: [{from: city, to: snow, weight: 1}]}",
                "transitions.pairs[0].to: no task is named \"snow\"",
            ),
            (
                "transitions: {pairs: [{from: city, to: city, weight: 1}]}",
                "transitions.pairs[0]: `city` to itself",
            ),
            (
                "transitions: {pairs: [{from: city, to: park, weight: .nan}]}",
                "transitions.pairs[0].weight: NaN must be finite",
            ),
            ("transitions: {pairs: []}", "transitions.pairs: no switch has a weight above 0"),
            ("align: {lambda: 1, quality_floor: 1}", "align: give only one of `quality_floor`"),
            ("align: {lambda: -1}", "align.lambda: -1 must be 0 to"),
            ("align: {budget: layer}", "align.budget: unknown variant `layer`"),
            ("layout: {mb_per_s: 0}", "layout.mb_per_s: 0 must be 1 to"),
            ("layout: {request_us: .inf}", "layout.request_us: inf must be 0 to"),
            ("reconstruct: {damping: 0}", "reconstruct.damping: 0 must be"),
            ("reconstruct: {include: []}", "reconstruct.include: at least one"),
            ("reconstruct: {}", "tasks[0].moments: needed with `reconstruct`"),
        ] {
            let found = refuse(&format!("{GOOD}{more}\n"));
            assert!(found.contains(message), "no {message:?} in {found:?}");
        }
    }

    #[test]
    fn the_example_is_a_recipe() {
        let text = include_str!("../../../config/recipe.example.yaml");
        let recipe = Recipe::parse(text, Path::new("recipe.yaml")).unwrap();
        let keys: Vec<_> = recipe.tasks.iter().map(|task| task.choice.key()).collect();
        assert_eq!(keys, ["norms", "importance", "mask", "checkpoint", "checkpoint", "norms"]);
        assert_eq!(recipe.goal, Goal::QualityFloor(0.9985));
        // What stands there as the default is the default.
        let bare = Recipe::parse(GOOD, Path::new("r.yaml")).unwrap();
        assert_eq!((bare.goal, bare.budget), (recipe.goal, recipe.budget));
        assert_eq!(bare.device, recipe.device);
        let (head, commented) = text.split_once("# reconstruct:").unwrap();
        let solved = format!("{head}reconstruct:{}", commented.replace("\n# ", "\n"));
        let message = Recipe::parse(&solved, Path::new("r.yaml")).unwrap_err().to_string();
        assert!(message.contains("tasks[0].moments: needed with `reconstruct`"), "{message}");
    }
}
