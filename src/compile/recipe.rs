//! The recipe: what to make of which files.
//!
//! Text becomes a [`Recipe`] only through the checks here. The files that it names are not looked
//! at: that is `inputs`.

use super::error::{InputError, Origin};
use crate::{
    bundle::{MAX_TASKS, is_name},
    files::read_text,
};
use globset::{Glob, GlobSet};
use serde::{Deserialize, Deserializer, de};
use std::{
    collections::HashSet,
    fmt, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

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
    /// 1 to [`MAX_TASKS`], with different names.
    pub(super) tasks: Vec<Task>,
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

/// A recipe that cannot be used.
#[derive(Debug, Error)]
#[error("recipe {}: {fault}", path.display())]
pub struct RecipeError {
    /// The recipe.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: RecipeFault,
}

/// What is wrong with a recipe.
#[derive(Debug, Error)]
pub enum RecipeFault {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Not YAML, or not the keys and types of a recipe.
    #[error("{0}")]
    Syntax(#[from] serde_yaml::Error),
    /// A key has a value that it must not have.
    #[error("{key}: {fault}")]
    Key {
        /// The key, such as `tasks[2].keep`.
        key: String,
        /// What is wrong with its value.
        fault: KeyFault,
    },
}

/// What is wrong with the value of a key.
#[derive(Debug, Error)]
pub enum KeyFault {
    /// Not a name.
    #[error("{0:?} is not a name: use 1 to 64 letters, digits, '.', '_' or '-'")]
    Name(String),
    /// Two tasks of one name.
    #[error("another task is named `{0}` too")]
    NameTwice(String),
    /// No entries.
    #[error("at least one is needed")]
    None,
    /// Too many entries.
    #[error("{count} entries; at most {limit} are allowed")]
    TooMany {
        /// Entries found.
        count: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// Not a pattern.
    #[error("{0}")]
    Glob(#[from] globset::Error),
    /// Not a share.
    #[error("{0} is not a share: give more than 0 and at most 1")]
    Share(f64),
    /// No share where one is needed.
    #[error("needed with `{0}`: the share of blocks to keep, above 0 and at most 1")]
    ShareMissing(&'static str),
    /// A share where nothing is chosen by share.
    #[error("not allowed with `mask`, which says itself what to keep")]
    ShareWithMask,
    /// No source of importance, or several.
    #[error("give one of `norms`, `importance`, `mask` and `checkpoint`; {0} are given")]
    Sources(usize),
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

    /// Refuses to have the recipe replaced by its bundle.
    pub(super) fn check_output(&self) -> Result<(), InputError> {
        let [recipe, output] = [&self.path, &self.output].map(|path| path.canonicalize().ok());
        if recipe.is_none() || recipe != output {
            return Ok(());
        }
        Err(InputError::IsOutput(Origin { key: "the recipe".into(), path: self.path.clone() }))
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
        format!("tasks.{}.{}", self.name, self.choice.key())
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    model: String,
    output: PathBuf,
    weights: RawPaths,
    block: RawBlock,
    prune: RawPrune,
    tasks: Vec<RawTask>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBlock {
    rows: u32,
    cols: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrune {
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTask {
    name: String,
    keep: Option<f64>,
    norms: Option<RawPaths>,
    importance: Option<RawPaths>,
    mask: Option<RawPaths>,
    checkpoint: Option<RawPaths>,
}

/// One path or a list of them.
struct RawPaths(Vec<PathBuf>);

impl RawRecipe {
    fn validate(self, path: &Path, folder: &Path) -> Result<Recipe, RecipeFault> {
        let Self { model, output, weights, block, prune, tasks } = self;
        if !is_name(&model) {
            return Err(wrong("model", KeyFault::Name(model)));
        }
        let RawBlock { rows: block_rows, cols: block_cols } = block;
        Ok(Recipe {
            path: path.to_owned(),
            model,
            output: folder.join(output),
            weights: weights.validate("weights", folder)?,
            block_rows,
            block_cols,
            prune: prune.validate()?,
            tasks: validate_tasks(tasks, folder)?,
        })
    }
}

impl RawPrune {
    fn validate(self) -> Result<Prune, RecipeFault> {
        let Self { include, exclude } = self;
        if include.is_empty() {
            return Err(wrong("prune.include", KeyFault::None));
        }
        let (include, included) = globs("prune.include", &include)?;
        let (exclude, excluded) = globs("prune.exclude", &exclude)?;
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

fn validate_tasks(raw: Vec<RawTask>, folder: &Path) -> Result<Vec<Task>, RecipeFault> {
    match raw.len() {
        0 => return Err(wrong("tasks", KeyFault::None)),
        1..=MAX_TASKS => {}
        count => return Err(wrong("tasks", KeyFault::TooMany { count, limit: MAX_TASKS })),
    }
    let mut names = HashSet::new();
    let mut tasks = Vec::with_capacity(raw.len());
    for (position, raw) in raw.into_iter().enumerate() {
        let task = raw.validate(&format!("tasks[{position}]"), folder)?;
        if !names.insert(task.name.clone()) {
            let key = format!("tasks[{position}].name");
            return Err(wrong(&key, KeyFault::NameTwice(task.name)));
        }
        tasks.push(task);
    }
    Ok(tasks)
}

impl RawTask {
    fn validate(self, key: &str, folder: &Path) -> Result<Task, RecipeFault> {
        let Self { name, keep, norms, importance, mask, checkpoint } = self;
        let wrong_keep = |fault| wrong(&format!("{key}.keep"), fault);
        if !is_name(&name) {
            return Err(wrong(&format!("{key}.name"), KeyFault::Name(name)));
        }
        if let Some(share) = keep
            && !(share > 0.0 && share <= 1.0)
        {
            return Err(wrong_keep(KeyFault::Share(share)));
        }
        let needed = |source| keep.ok_or_else(|| wrong_keep(KeyFault::ShareMissing(source)));
        let (choice, files) = match (norms, importance, mask, checkpoint) {
            (Some(files), None, None, None) => (Choice::Norms { keep: needed("norms")? }, files),
            (None, Some(files), None, None) => {
                (Choice::Importance { keep: needed("importance")? }, files)
            }
            (None, None, Some(_), None) if keep.is_some() => {
                return Err(wrong_keep(KeyFault::ShareWithMask));
            }
            (None, None, Some(files), None) => (Choice::Mask, files),
            (None, None, None, Some(files)) => (Choice::Checkpoint { keep }, files),
            (norms, importance, mask, checkpoint) => {
                let sources = [norms, importance, mask, checkpoint];
                let given = sources.into_iter().flatten().count();
                return Err(wrong(key, KeyFault::Sources(given)));
            }
        };
        let files = files.validate(&format!("{key}.{}", choice.key()), folder)?;
        Ok(Task { name, choice, files })
    }
}

impl RawPaths {
    fn validate(self, key: &str, folder: &Path) -> Result<Files, RecipeFault> {
        let Self(paths) = self;
        if paths.is_empty() {
            return Err(wrong(key, KeyFault::None));
        }
        Ok(Files(paths.into_iter().map(|path| folder.join(path)).collect()))
    }
}

fn wrong(key: &str, fault: KeyFault) -> RecipeFault {
    RecipeFault::Key { key: key.to_owned(), fault }
}

impl<'de> Deserialize<'de> for RawPaths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// By hand, since an untagged enum would lose line and column of an error.
        struct OneOrMany;

        impl<'de> de::Visitor<'de> for OneOrMany {
            type Value = RawPaths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<RawPaths, E> {
                Ok(RawPaths(vec![path.into()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<RawPaths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Ok(RawPaths(paths))
            }
        }

        deserializer.deserialize_any(OneOrMany)
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
    fn the_example_is_a_recipe() {
        let text = include_str!("../../config/recipe.example.yaml");
        let recipe = Recipe::parse(text, Path::new("recipe.yaml")).unwrap();
        let keys: Vec<_> = recipe.tasks.iter().map(|task| task.choice.key()).collect();
        assert_eq!(keys, ["norms", "importance", "mask", "checkpoint", "checkpoint"]);
    }
}
