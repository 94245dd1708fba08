//! How a command fails: a message on standard error, and an exit code.

use crate::text::{escape_lines, shown};
use std::{error::Error, io::Write as _, process::ExitCode};

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// It could not be done.
    pub(super) fn failed(error: impl Into<Box<dyn Error>>) -> Self {
        Self { message: describe(error.into()), code: 1 }
    }

    /// It was asked for wrongly.
    pub(super) fn usage(error: impl Into<Box<dyn Error>>) -> Self {
        Self { message: describe(error.into()), code: 2 }
    }

    /// Says so.
    pub(super) fn report(self) -> ExitCode {
        // If standard error is gone, the code still tells.
        let _ = writeln!(std::io::stderr(), "error: {}", escape_lines(&self.message));
        ExitCode::from(self.code)
    }
}

/// The error's text with those of its causes that it does not repeat itself.
fn describe(error: Box<dyn Error>) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = shown(error).to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
