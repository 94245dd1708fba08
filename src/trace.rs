//! Traces of task switches: text in, steps out. One JSON object a line says which task became
//! active when.
//!
//! Where the text comes from, and what is done with the steps, is for others to say.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Largest trace.
pub const MAX_TRACE_BYTES: u64 = 64 << 20;

/// A line of a trace: a task became active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, in milliseconds from any start.
    pub at_ms: u64,
    /// The task.
    pub task: String,
}

/// A line that cannot be used.
#[derive(Debug, Error)]
#[error("line {line}: {fault}")]
pub struct BadLine {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: TraceFault,
}

/// What is wrong with a line of a trace.
#[derive(Debug, Error)]
pub enum TraceFault {
    /// Not an object with `at_ms` and `task`.
    #[error("not a JSON object with `at_ms` and `task`: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A task that nobody knows.
    #[error("no task is named {0:?}")]
    Task(String),
    /// Time that goes back.
    #[error("`at_ms` is {at_ms}, before that of the line before")]
    Order {
        /// The time.
        at_ms: u64,
    },
}

/// The steps of a trace, in order; all of them name tasks that are known. Empty lines do not count.
pub fn parse(text: &str, is_known: impl Fn(&str) -> bool) -> Result<Vec<Step>, BadLine> {
    let mut last_ms = 0;
    let lines = (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty());
    let step = |(line, text)| {
        let step = check(text, last_ms, &is_known).map_err(|fault| BadLine { line, fault })?;
        last_ms = step.at_ms;
        Ok(step)
    };
    lines.map(step).collect()
}

fn check(text: &str, last_ms: u64, is_known: impl Fn(&str) -> bool) -> Result<Step, TraceFault> {
    let step: Step = serde_json::from_str(text)?;
    if !is_known(&step.task) {
        return Err(TraceFault::Task(step.task));
    }
    if step.at_ms < last_ms {
        return Err(TraceFault::Order { at_ms: step.at_ms });
    }
    Ok(step)
}
