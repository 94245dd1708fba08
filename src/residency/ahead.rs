//! Blocks that were loaded before anybody asked for them, and what became of them. It does not know
//! why they were loaded.

use crate::units::BlockIndex;
use fixedbitset::FixedBitSet;

/// Resident blocks that nobody has used since they were loaded ahead.
#[derive(Debug)]
pub struct Ahead {
    blocks: FixedBitSet,
    /// How many those are.
    waiting: usize,
    /// How many went before anybody used them.
    wasted: u64,
}

impl Ahead {
    pub(super) fn new(blocks: usize) -> Self {
        Self { blocks: FixedBitSet::with_capacity(blocks), waiting: 0, wasted: 0 }
    }

    /// How many wait to be used.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many went before anybody used them.
    pub fn wasted(&self) -> u64 {
        self.wasted
    }

    /// Whether a block waits to be used.
    pub fn contains(&self, block: BlockIndex) -> bool {
        self.blocks[block.index()]
    }

    pub(super) fn insert(&mut self, block: BlockIndex) {
        if !self.blocks.put(block.index()) {
            self.waiting += 1;
        }
    }

    /// Notes that a block is not resident any more.
    pub(super) fn went(&mut self, block: BlockIndex) {
        if self.blocks[block.index()] {
            self.blocks.remove(block.index());
            self.waiting -= 1;
            self.wasted += 1;
        }
    }

    /// Takes out the blocks of a set that are used now, and gives their number.
    pub(super) fn take(&mut self, set: &FixedBitSet) -> usize {
        if self.waiting == 0 {
            return 0;
        }
        let used = self.blocks.intersection_count(set);
        if used > 0 {
            self.blocks.difference_with(set);
            self.waiting -= used;
        }
        used
    }

    pub(super) fn assert_invariants(&self, resident: &FixedBitSet) {
        assert!(self.blocks.is_subset(resident), "what waits to be used is there");
        assert_eq!(self.blocks.count_ones(..), self.waiting, "and is counted");
    }
}
