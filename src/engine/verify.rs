//! Comparing blocks with their checksums, in the slots where they were read to.

use crate::{bundle::Bundle, device::Window, storage::Priority, units::BlockIndex};
use std::{fmt, sync::Arc};

/// Blocks to be verified.
pub struct Verify {
    /// Whose blocks, in the engine's numbering.
    pub model: usize,
    /// How often they were read in vain before.
    pub attempt: u8,
    /// Whether somebody waited for them when they were read.
    pub priority: Priority,
    /// The bundle that has their checksums.
    pub bundle: Arc<Bundle>,
    /// The blocks with the windows that hold them.
    pub blocks: Vec<(BlockIndex, Window)>,
}

/// Blocks that were verified.
#[derive(Debug)]
pub struct Verified {
    /// Whose blocks.
    pub model: usize,
    /// How often they were read in vain before.
    pub attempt: u8,
    /// Whether somebody waited for them when they were read.
    pub priority: Priority,
    /// Blocks that are what they should be.
    pub good: Vec<(BlockIndex, Window)>,
    /// Blocks that are not.
    pub bad: Vec<(BlockIndex, Window)>,
}

impl Verify {
    /// Compares every block with its checksum.
    pub fn run(self) -> Verified {
        let Self { model, attempt, priority, bundle, blocks } = self;
        let matches =
            |(block, window): &(BlockIndex, Window)| bundle.block_matches(*block, window.bytes());
        let (good, bad) = blocks.into_iter().partition(matches);
        Verified { model, attempt, priority, good, bad }
    }
}

impl fmt::Debug for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verify {{ model {}, {} blocks }}", self.model, self.blocks.len())
    }
}
