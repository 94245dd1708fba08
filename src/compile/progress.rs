//! How far the work is, and whether it should stop.
//!
//! Draws nothing: the command line does, behind [`Progress`].

use super::CompileError;

/// Hears how far the work is and says whether to go on. Called often and from several threads:
/// both must be quick.
pub trait Progress: Sync {
    /// A stage begins, in which `total_bytes` will be read or written.
    fn stage(&self, name: &str, total_bytes: u64);
    /// So many more bytes of the stage are done.
    fn advance(&self, bytes: u64);
    /// Whether the work should stop, leaving nothing behind.
    fn cancelled(&self) -> bool;
}

/// Nobody listens and nobody stops it.
impl Progress for () {
    fn stage(&self, _: &str, _: u64) {}

    fn advance(&self, _: u64) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// The work's view of its listener: every report is also a place where it can be stopped.
#[derive(Clone, Copy)]
pub(super) struct Run<'p>(pub(super) &'p dyn Progress);

impl Run<'_> {
    pub(super) fn stage(self, name: &str, total_bytes: u64) -> Result<(), CompileError> {
        self.0.stage(name, total_bytes);
        self.check()
    }

    pub(super) fn advance(self, bytes: usize) -> Result<(), CompileError> {
        self.0.advance(bytes as u64);
        self.check()
    }

    pub(super) fn check(self) -> Result<(), CompileError> {
        if self.0.cancelled() { Err(CompileError::Interrupted) } else { Ok(()) }
    }
}
