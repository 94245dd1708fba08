//! How far the work is, and whether it should stop.
//!
//! Draws nothing: the command line does, behind [`Progress`].

use super::{CompileError, error::InputError};
use rayon::prelude::*;

/// Rows of blocks between two looks at whether to stop.
const BANDS_AT_ONCE: usize = 16;

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

    /// Works on rows of blocks, several side by side, and hands on what came of each in their order.
    /// Of several errors the one of the first row is given.
    pub(super) fn bands<B: Default, T: Send>(
        self,
        rows: usize,
        work: impl Fn(&mut B, usize) -> Result<T, InputError> + Sync,
        mut then: impl FnMut(usize, T) -> Result<(), CompileError>,
    ) -> Result<(), CompileError> {
        let rows: Vec<_> = (0..rows).collect();
        for rows in rows.chunks(BANDS_AT_ONCE) {
            self.check()?;
            let done = rows.par_iter().map_init(B::default, |buffers, &row| work(buffers, row));
            // Collected before errors are looked at.
            let done = done.collect::<Vec<_>>();
            rows.iter().zip(done).try_for_each(|(&row, done)| then(row, done?))?;
        }
        Ok(())
    }

    pub(super) fn advance(self, bytes: usize) -> Result<(), CompileError> {
        self.0.advance(bytes as u64);
        self.check()
    }

    pub(super) fn check(self) -> Result<(), CompileError> {
        if self.0.cancelled() { Err(CompileError::Interrupted) } else { Ok(()) }
    }
}
