//! Progress bars on standard error; without a terminal nothing is drawn.

use super::interrupt::Interrupt;
use crate::compile::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::{borrow::Cow, sync::Mutex, sync::PoisonError};

const TEMPLATE: &str =
    "{prefix:>10} {bar:30} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}, {eta} left";
const STEPS_TEMPLATE: &str = "{prefix:>10} {bar:30} {pos:>10} of {len}";

/// A bar with bytes, rate and time left.
pub(super) fn bar(stage: impl Into<Cow<'static, str>>, total_bytes: u64) -> ProgressBar {
    styled(TEMPLATE, stage.into(), total_bytes)
}

/// A bar that counts.
pub(super) fn steps(stage: impl Into<Cow<'static, str>>, total: usize) -> ProgressBar {
    styled(STEPS_TEMPLATE, stage.into(), total as u64)
}

fn styled(template: &str, stage: Cow<'static, str>, total: u64) -> ProgressBar {
    // Templates are constants that a test renders.
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_prefix(stage)
}

/// Shows the stages of a compilation, one bar after another.
pub(super) struct Bars {
    interrupt: Interrupt,
    current: Mutex<ProgressBar>,
}

impl Bars {
    pub(super) fn new(interrupt: Interrupt) -> Self {
        Self { interrupt, current: Mutex::new(ProgressBar::hidden()) }
    }

    fn with(&self, step: impl FnOnce(&mut ProgressBar)) {
        step(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Bars {
    fn stage(&self, name: &str, total_bytes: u64) {
        self.with(|current| {
            current.finish_and_clear();
            *current = bar(name.to_owned(), total_bytes);
        });
    }

    fn advance(&self, bytes: u64) {
        self.with(|current| current.inc(bytes));
    }

    fn cancelled(&self) -> bool {
        self.interrupt.came()
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.with(|current| current.finish_and_clear());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        assert!(ProgressStyle::with_template(STEPS_TEMPLATE).is_ok());
    }
}
