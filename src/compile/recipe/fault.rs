//! What can be wrong with a recipe.

use std::{io, path::PathBuf};
use thiserror::Error;

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
    #[error("{0:?} is not a name: use 1 to 64 letters, digits, '.', '_' or '-', not '.' or '..'")]
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
    /// Out of range.
    #[error("{found} must be {expected}")]
    Range {
        /// The value.
        found: f64,
        /// What is allowed.
        expected: &'static str,
    },
    /// No share where one is needed.
    #[error("needed with `{0}`: the share of blocks to keep, above 0 and at most 1")]
    ShareMissing(&'static str),
    /// A share where nothing is chosen by share.
    #[error("not allowed with `mask`, which says itself what to keep")]
    ShareWithMask,
    /// No source of importance, or several.
    #[error("give one of `norms`, `importance`, `mask` and `checkpoint`; {0} are given")]
    Sources(usize),
    /// Blocks are required of a task that does not choose.
    #[error("only allowed with `keep`, which says how many blocks to choose beyond these")]
    RequireWithoutKeep,
    /// A key that says nothing without another.
    #[error("only allowed with {0}")]
    Without(&'static str),
    /// A key that another makes necessary.
    #[error("needed with {0}")]
    NeededWith(&'static str),
    /// More than one way to say the same.
    #[error("give only one of {0}")]
    OnlyOne(&'static str),
    /// A task that is not in the recipe.
    #[error("no task is named {0:?}")]
    UnknownTask(String),
    /// Probabilities that are none.
    #[error("the probabilities from `{from}` sum to {sum}, but must sum to 1")]
    RowSum {
        /// The task of the row.
        from: String,
        /// Their sum.
        sum: f64,
    },
    /// A matrix of the wrong size.
    #[error("{found} entries, but there are {expected} tasks: give one for each, in their order")]
    MatrixSize {
        /// Entries found.
        found: usize,
        /// Tasks.
        expected: usize,
    },
    /// A switch from a task to itself.
    #[error("`{0}` to itself is no switch: give 0, or leave it out")]
    SelfSwitch(String),
    /// Weights without any.
    #[error("no switch has a weight above 0")]
    NoSwitch,
}

pub(super) fn wrong(key: &str, fault: KeyFault) -> RecipeFault {
    RecipeFault::Key { key: key.to_owned(), fault }
}
