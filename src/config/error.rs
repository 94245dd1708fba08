//! What is wrong with a configuration, and where.

use std::{fmt, io, path::PathBuf};
use thiserror::Error;

/// Why a configuration is not used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What it says cannot be used.
    #[error("{}", Listed { path, problems })]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All that is wrong, in the order of the file; then what other places say.
        problems: Vec<Problem>,
    },
}

/// Something that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is said.
    pub place: Place,
    /// The key, as `--set` takes it, such as `models.0.bundle`; empty if it is about the whole.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

/// Where something is said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file as a whole.
    File,
    /// At a place of the file. Both count from 1, columns in characters.
    At {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// In this environment variable, or in this argument.
    Override(String),
}

struct Listed<'a> {
    path: &'a PathBuf,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if self.problems.len() > 1 {
            writeln!(f, "{path}: {} problems", self.problems.len())?;
        }
        for (i, Problem { place, key, what }) in self.problems.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "\n" })?;
            match place {
                Place::File => write!(f, "{path}: ")?,
                Place::At { line, column } => write!(f, "{path}:{line}:{column}: ")?,
                Place::Override(name) => write!(f, "{name}: ")?,
            }
            if !key.is_empty() {
                write!(f, "{key}: ")?;
            }
            f.write_str(what)?;
        }
        Ok(())
    }
}
