//! The configuration: faults C1 to C9 but C7, what is set besides the file, and that documents,
//! schema and checks say the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]

#[path = "../common/mod.rs"]
mod common;

mod commands;
mod documents;
mod faults;
mod overrides;
mod places;

use std::{fs, path::Path};
use synchromesh::config::{Config, ConfigError, Place, Problem, Source};
use tempfile::TempDir;

const MODEL: &str = "models: [{bundle: /m.mesh, pool_bytes: 1MiB}]\n";

/// A valid configuration with something more.
fn with(text: &str) -> String {
    format!("{MODEL}{text}\n")
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.yaml"))
}

/// All that is wrong.
fn problems_of(result: Result<Config, ConfigError>) -> Vec<Problem> {
    match result.expect_err("something is wrong") {
        ConfigError::Invalid { problems, .. } => problems,
        other => panic!("{other}"),
    }
}

/// All that is wrong with a text.
fn problems(text: &str) -> Vec<Problem> {
    problems_of(parse(text))
}

/// The keys of those problems.
fn keys(text: &str) -> Vec<String> {
    problems(text).into_iter().map(|problem| problem.key).collect()
}

/// The only problem.
fn only(text: &str) -> Problem {
    let mut found = problems(text);
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    found.remove(0)
}

fn at(line: usize, column: usize) -> Place {
    Place::At { line, column }
}

/// A folder with a bundle and a configuration that names it.
fn files() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().display().to_string();
    fs::write(folder.path().join("m.mesh"), b"content does not matter here").unwrap();
    let text = format!("models: [{{bundle: {shown}/m.mesh, pool_bytes: 1MiB}}]\n");
    fs::write(folder.path().join("c.yaml"), text).unwrap();
    (folder, shown)
}

fn source(folder: &TempDir) -> Source {
    Source::new(folder.path().join("c.yaml"))
}

fn load(folder: &TempDir) -> Result<Config, ConfigError> {
    source(folder).load()
}
