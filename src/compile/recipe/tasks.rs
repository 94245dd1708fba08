//! The tasks of a recipe: where their importance comes from, and what they keep.

use super::{
    Choice, Task,
    fault::{KeyFault, RecipeFault, wrong},
    paths::RawPaths,
};
use crate::bundle::{MAX_TASKS, is_name};
use serde::Deserialize;
use std::{collections::HashSet, path::Path};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTask {
    name: String,
    keep: Option<f64>,
    norms: Option<RawPaths>,
    importance: Option<RawPaths>,
    mask: Option<RawPaths>,
    checkpoint: Option<RawPaths>,
    require: Option<RawPaths>,
    moments: Option<RawPaths>,
    cross: Option<RawPaths>,
}

pub(super) fn validate_tasks(raw: Vec<RawTask>, folder: &Path) -> Result<Vec<Task>, RecipeFault> {
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
        let Self { name, keep, norms, importance, mask, checkpoint, require, moments, cross } =
            self;
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
        let optional = |files: Option<RawPaths>, name: &str| {
            files.map(|files| files.validate(&format!("{key}.{name}"), folder)).transpose()
        };
        let task = Task {
            name,
            choice,
            files: files.validate(&format!("{key}.{}", choice.key()), folder)?,
            require: optional(require, "require")?,
            moments: optional(moments, "moments")?,
            cross: optional(cross, "cross")?,
        };
        task.check(key)?;
        Ok(task)
    }
}

impl Task {
    fn check(&self, key: &str) -> Result<(), RecipeFault> {
        let wrong = |name: &str, fault| Err(wrong(&format!("{key}.{name}"), fault));
        if self.require.is_some() && self.choice.keep().is_none() {
            return wrong("require", KeyFault::RequireWithoutKeep);
        }
        if self.moments.is_some() && matches!(self.choice, Choice::Checkpoint { .. }) {
            return wrong("moments", KeyFault::Without("`norms`, `importance` or `mask`"));
        }
        if self.cross.is_some() && self.moments.is_none() {
            return wrong("cross", KeyFault::Without("`moments`"));
        }
        Ok(())
    }
}
