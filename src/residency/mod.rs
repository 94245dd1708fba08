//! Which blocks are in which slots, what pins them, and what has to go when room is needed.
//!
//! A block's recency is that of the latest task that used it, so recency is kept by task: a
//! switch costs one entry, not one for each block. Pins are kept by task too: a block is pinned
//! while any pinned task has it. This module plans no reads and knows no sessions.

mod slots;

pub use slots::{SlotCounts, SlotState, Slots};

use crate::{
    bundle::Bundle,
    device::{TableWriter, Window},
    units::{BlockIndex, TaskIndex},
};
use fixedbitset::FixedBitSet;
use lru::LruCache;
use std::sync::Arc;

/// The residency of one model's blocks.
pub struct Residency {
    bundle: Arc<Bundle>,
    /// Says where each resident block is; readers in other processes rely on it.
    table: TableWriter,
    slots: Slots,
    /// Blocks in a slot, verified.
    resident: FixedBitSet,
    /// Blocks whose slot is filling or verifying.
    loading: FixedBitSet,
    /// Blocks whose last read failed for good.
    quarantined: FixedBitSet,
    /// For each task, how many hold it.
    pins: Vec<u32>,
    /// Tasks by last use.
    recency: LruCache<TaskIndex, ()>,
}

/// Blocks that could be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Into empty slots.
    pub free: usize,
    /// Into slots of resident blocks that nothing pins.
    pub evictable: usize,
}

impl Room {
    /// Blocks in all.
    pub fn total(self) -> usize {
        self.free + self.evictable
    }
}

impl Residency {
    /// An empty pool with these windows, one for each slot.
    pub fn new(bundle: Arc<Bundle>, table: TableWriter, windows: Vec<Window>) -> Self {
        let blocks = bundle.len();
        Self {
            slots: Slots::new(windows),
            resident: FixedBitSet::with_capacity(blocks),
            loading: FixedBitSet::with_capacity(blocks),
            quarantined: FixedBitSet::with_capacity(blocks),
            pins: vec![0; bundle.task_indices().count()],
            recency: LruCache::unbounded(),
            bundle,
            table,
        }
    }

    /// The bundle whose blocks these are.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The table that clients read.
    pub fn table(&self) -> &TableWriter {
        &self.table
    }

    /// The slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Blocks that are in a slot, verified.
    pub fn resident(&self) -> &FixedBitSet {
        &self.resident
    }

    /// Blocks on their way into a slot.
    pub fn loading(&self) -> &FixedBitSet {
        &self.loading
    }

    /// Blocks that pinned tasks need. Worked out anew: a switch that reads nothing does without.
    pub fn pinned(&self) -> FixedBitSet {
        let mut pinned = FixedBitSet::with_capacity(self.bundle.len());
        for task in self.bundle.task_indices().filter(|task| self.pins[task.index()] > 0) {
            pinned.union_with(self.bundle.task_blocks(task));
        }
        pinned
    }

    /// Blocks whose last read failed for good. Nothing but a task that needs them reads them
    /// again.
    pub fn quarantined(&self) -> &FixedBitSet {
        &self.quarantined
    }

    /// How many blocks could be loaded without harm to a pinned task.
    pub fn room(&self) -> Room {
        let evictable = self.resident.difference_count(&self.pinned());
        Room { free: self.slots.counts().free, evictable }
    }

    /// Keeps a task's blocks from eviction until [`unpin`](Self::unpin) was called as often.
    pub fn pin(&mut self, task: TaskIndex) {
        self.pins[task.index()] += 1;
    }

    /// Takes one pin back.
    pub fn unpin(&mut self, task: TaskIndex) {
        let pins = &mut self.pins[task.index()];
        assert!(*pins > 0, "a task is unpinned as often as it was pinned");
        *pins -= 1;
    }

    /// Notes that a task is used now.
    pub fn touch(&mut self, task: TaskIndex) {
        self.recency.put(task, ());
    }

    /// Makes `count` slots free, if that many blocks may go, least recently used first. Gives the
    /// number of blocks evicted.
    pub fn make_room(&mut self, count: usize) -> usize {
        let missing = count.saturating_sub(self.slots.counts().free);
        if missing == 0 {
            return 0;
        }
        let victims = self.victims(missing);
        for &block in &victims {
            self.evict(block);
        }
        victims.len()
    }

    /// Takes a free slot for a block that is about to be read; its window comes with it.
    pub fn allot(&mut self, block: BlockIndex) -> Option<Window> {
        assert!(!self.resident[block.index()] && !self.loading[block.index()], "no block twice");
        let window = self.slots.allot(block)?;
        self.loading.insert(block.index());
        Some(window)
    }

    /// Notes that the kernel has filled a window and verification begins.
    pub fn filled(&mut self, window: &Window) {
        self.slots.filled(window.slot());
    }

    /// Makes a verified block available to readers.
    pub fn admit(&mut self, window: Window) -> BlockIndex {
        let slot = window.slot();
        let block = self.slots.admit(window);
        self.loading.remove(block.index());
        self.quarantined.remove(block.index());
        self.resident.insert(block.index());
        self.table.place(block, Some(slot));
        block
    }

    /// Takes back a window that holds nothing: its read was withdrawn, or failed, or what was
    /// read is wrong.
    pub fn release(&mut self, window: Window) -> BlockIndex {
        let block = self.slots.release(window);
        self.loading.remove(block.index());
        block
    }

    /// Notes that a block cannot be read.
    pub fn quarantine(&mut self, block: BlockIndex) {
        self.quarantined.insert(block.index());
    }

    fn evict(&mut self, block: BlockIndex) {
        let slot = self.table.slot_of(block);
        self.table.place(block, None);
        self.resident.remove(block.index());
        if let Some(slot) = slot {
            self.slots.evict(slot);
        }
    }

    /// Up to `count` unpinned resident blocks, least recently used first.
    fn victims(&self, count: usize) -> Vec<BlockIndex> {
        let mut rest = self.resident.clone();
        rest.difference_with(&self.pinned());
        let mut by_age = Vec::with_capacity(self.recency.len() + 1);
        for (task, ()) in &self.recency {
            let mut used = rest.clone();
            used.intersect_with(self.bundle.task_blocks(*task));
            rest.difference_with(&used);
            by_age.push(used);
        }
        // What no used task has was never asked for: it goes first.
        by_age.push(rest);
        let oldest_first = by_age.into_iter().rev().flat_map(FixedBitSet::into_ones);
        oldest_first.take(count).map(|block| BlockIndex(block as u32)).collect()
    }

    /// Checks what must hold between any two steps; for tests.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn assert_invariants(&self) {
        assert!(self.resident.is_disjoint(&self.loading), "a block is resident or loading");
        let (mut resident, mut loading) = (0, 0);
        self.slots.assert_invariants();
        for (slot, state) in self.slots.iter() {
            match state {
                SlotState::Free => {}
                SlotState::Filling(block) | SlotState::Verifying(block) => {
                    assert!(self.loading[block.index()], "{block} is loading");
                    assert_eq!(self.table.slot_of(block), None, "{block} is not published");
                    loading += 1;
                }
                SlotState::Resident(block) => {
                    assert!(self.resident[block.index()], "{block} is resident");
                    assert_eq!(self.table.slot_of(block), Some(slot), "{block} is published");
                    resident += 1;
                }
            }
        }
        assert_eq!(resident, self.resident.count_ones(..), "each resident block has one slot");
        assert_eq!(loading, self.loading.count_ones(..), "each loading block has one slot");
    }
}
