//! Which blocks are in which slots, what pins them, and what has to go when room is needed.
//!
//! A block's recency is that of the latest task that used it, so recency is kept by task: a
//! switch costs one entry, not one for each block. Pins are kept by task too: a block is pinned
//! while any pinned task has it. What a task lacks is counted as blocks come and go, so that a
//! switch to a task that is there looks at no block at all. This module plans no reads, knows
//! no sessions, and does not know why a task is worth what it is.

mod ahead;
mod missing;
mod slots;
mod stock;

pub use ahead::Ahead;
use missing::{Missing, ones};
pub use slots::{SlotCounts, SlotState, Slots};
pub use stock::{Level, Stock, Worth};

use crate::{
    bundle::Bundle,
    device::{TableWriter, Window},
    units::{BlockIndex, TaskIndex},
};
use fixedbitset::{Block as Word, FixedBitSet};
use lru::LruCache;
use std::{ops::Range, sync::Arc};

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
    missing: Missing,
    /// For each task, how many hold it.
    pins: Vec<u32>,
    /// The tasks that anybody holds, a bit for each.
    pinned: u64,
    /// Tasks by last use.
    recency: LruCache<TaskIndex, ()>,
    worth: Worth,
    ahead: Ahead,
    /// Blocks that were evicted so far.
    evicted: u64,
    /// Whether something that waits for room may find it, or may never find it, since the last
    /// [`take_room_change`](Residency::take_room_change).
    room_changed: bool,
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
            missing: Missing::all(&bundle),
            pinned: 0,
            pins: vec![0; bundle.task_indices().count()],
            recency: LruCache::unbounded(),
            worth: Worth::default(),
            ahead: Ahead::new(blocks),
            evicted: 0,
            room_changed: false,
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

    /// How many of a task's blocks are not resident.
    pub fn missing(&self, task: TaskIndex) -> usize {
        self.missing.of(task)
    }

    /// Blocks of a task that are neither resident nor on their way, ascending.
    pub fn absent(&self, task: TaskIndex) -> impl Iterator<Item = BlockIndex> + '_ {
        self.missing.absent(&self.bundle, task, &self.resident, &self.loading)
    }

    /// Whether a pinned task needs the block.
    pub fn is_pinned(&self, block: BlockIndex) -> bool {
        self.missing.owners(block) & self.pinned != 0
    }

    /// The tasks that need a block, a bit for each.
    pub fn tasks_of(&self, block: BlockIndex) -> u64 {
        self.missing.owners(block)
    }

    /// How many hold a task.
    pub fn pins(&self, task: TaskIndex) -> usize {
        self.pins[task.index()] as usize
    }

    /// How many blocks are pinned for this task alone, if it is pinned no more often than this.
    pub fn pinned_by(&self, task: TaskIndex, times: usize) -> usize {
        let pins = self.pins(task);
        if pins == 0 || pins > times {
            return 0;
        }
        let others = ones(self.pinned & !(1 << task.0)).map(|task| TaskIndex(task as u32));
        let mut alone = self.bundle.task_blocks(task).clone();
        self.missing.count(alone.as_slice().len());
        others.for_each(|other| alone.difference_with(self.bundle.task_blocks(other)));
        alone.count_ones(..)
    }

    /// Blocks whose last read failed for good. Nothing but a task that needs them reads them
    /// again.
    pub fn quarantined(&self) -> &FixedBitSet {
        &self.quarantined
    }

    /// Blocks that all of these tasks have and that are neither resident nor on their way nor known
    /// to be unreadable, ascending, from one on.
    pub fn lacking<'a>(
        &'a self,
        tasks: &'a [TaskIndex],
        from: BlockIndex,
    ) -> impl Iterator<Item = BlockIndex> + 'a {
        let out = [&self.resident, &self.loading, &self.quarantined];
        self.missing.lacking(&self.bundle, tasks, out, from)
    }

    /// What was loaded ahead of its use.
    pub fn ahead(&self) -> &Ahead {
        &self.ahead
    }

    /// Notes that a block that is there now was loaded before anybody asked for it.
    pub fn note_ahead(&mut self, block: BlockIndex) {
        self.ahead.insert(block);
    }

    /// Notes that a task's blocks are used, and gives the number of those that had been loaded
    /// ahead.
    pub fn use_ahead(&mut self, task: TaskIndex) -> usize {
        self.ahead.take(self.bundle.task_blocks(task))
    }

    /// How many blocks could be loaded without harm to a pinned task.
    pub fn room(&self) -> Room {
        self.room_beside(self.pinned)
    }

    /// The same if this task were pinned, too.
    pub fn room_for(&self, task: TaskIndex) -> Room {
        self.room_beside(self.pinned | 1 << task.0)
    }

    /// The same if each of these tasks, which are pinned, had one pin less.
    pub fn room_without(&self, tasks: impl Iterator<Item = TaskIndex>) -> Room {
        let only_pin = tasks.filter(|task| self.pins(*task) == 1);
        self.room_beside(only_pin.fold(self.pinned, |pinned, task| pinned & !(1 << task.0)))
    }

    fn room_beside(&self, pinned: u64) -> Room {
        let all = 0..self.resident.as_slice().len();
        let words = self.unpinned(pinned, all);
        let evictable = words.map(|(_, blocks)| blocks.count_ones() as usize).sum();
        Room { free: self.slots.counts().free, evictable }
    }

    /// How many blocks of these tasks are resident or being loaded.
    pub fn held(&self, tasks: impl Iterator<Item = TaskIndex>) -> usize {
        let mut held = FixedBitSet::with_capacity(self.bundle.len());
        for task in tasks {
            held.union_with(self.bundle.task_blocks(task));
            self.missing.count(held.as_slice().len());
        }
        let loading = held.intersection_count(&self.loading);
        held.intersection_count(&self.resident) + loading
    }

    /// Notes that a switch or a preparation that waits for room has to be judged anew.
    pub fn note_room_change(&mut self) {
        self.room_changed = true;
    }

    /// Whether room has changed since the last call.
    pub fn take_room_change(&mut self) -> bool {
        std::mem::take(&mut self.room_changed)
    }

    /// How many blocks were evicted so far.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Keeps a task's blocks from eviction until [`unpin`](Self::unpin) was called as often.
    pub fn pin(&mut self, task: TaskIndex) {
        self.pins[task.index()] += 1;
        self.pinned |= 1 << task.0;
    }

    /// Takes one pin back. Room changes even if the task has other pins: what is prepared gives
    /// way to a switch, and a pin of a preparation may be all that is left.
    pub fn unpin(&mut self, task: TaskIndex) {
        self.retract(task);
        self.room_changed = true;
    }

    /// Takes one pin back for a trial: either it is pinned again, or no block was loaded meanwhile.
    pub fn retract(&mut self, task: TaskIndex) {
        let pins = &mut self.pins[task.index()];
        assert!(*pins > 0, "a task is unpinned as often as it was pinned");
        *pins -= 1;
        if *pins == 0 {
            self.pinned &= !(1 << task.0);
        }
    }

    /// Notes that a task is used now.
    pub fn touch(&mut self, task: TaskIndex) {
        self.recency.put(task, ());
    }

    /// Makes `count` slots free by evicting the blocks that are worth least and were used longest
    /// ago, and gives their number. If not that many may go, none does.
    pub fn make_room(&mut self, count: usize) -> Option<usize> {
        let needed = count.saturating_sub(self.slots.counts().free);
        if needed == 0 {
            return Some(0);
        }
        // To count words is much cheaper than to put blocks in order.
        if self.room().evictable < needed {
            return None;
        }
        let victims = self.victims(needed);
        (victims.len() == needed).then(|| self.evict_all(&victims))
    }

    /// Evicts up to `count` blocks that nothing pins, in the same order, and gives their number.
    pub fn trim(&mut self, count: usize) -> usize {
        let victims = self.victims(count);
        self.evict_all(&victims)
    }

    fn evict_all(&mut self, victims: &[BlockIndex]) -> usize {
        victims.iter().for_each(|&block| self.evict(block));
        self.room_changed |= !victims.is_empty();
        victims.len()
    }

    /// Takes free slots for blocks that are about to be read together, in a row as far as can be;
    /// their windows come with them. Blocks for which there is no slot are left out.
    pub fn allot(&mut self, blocks: &[BlockIndex]) -> Vec<(BlockIndex, Window)> {
        let mut allotted = Vec::with_capacity(blocks.len());
        while let Some(rest @ [_, ..]) = blocks.get(allotted.len()..) {
            let Some(run) = self.slots.free_run(rest.len()) else { break };
            for (&block, slot) in rest.iter().zip(run) {
                let known = self.resident[block.index()] || self.loading[block.index()];
                assert!(!known, "no block twice");
                self.loading.insert(block.index());
                allotted.extend(self.slots.allot(block, slot).map(|window| (block, window)));
            }
        }
        allotted
    }

    /// Notes that the kernel has filled a window and verification begins.
    pub fn filled(&mut self, window: &Window) {
        self.slots.filled(window.slot());
    }

    /// Makes a verified block available to readers.
    pub fn admit(&mut self, window: Window) {
        let slot = window.slot();
        let block = self.slots.admit(window);
        self.loading.remove(block.index());
        self.quarantined.remove(block.index());
        self.resident.insert(block.index());
        self.missing.arrived(block);
        self.table.place(block, Some(slot));
        // It may be evicted from now on.
        self.room_changed |= !self.is_pinned(block);
    }

    /// Takes back a window that holds nothing: its read was withdrawn, or failed, or what was
    /// read is wrong.
    pub fn release(&mut self, window: Window) {
        let block = self.slots.release(window);
        self.loading.remove(block.index());
        self.room_changed = true;
    }

    /// Gives up a slot that the kernel may write to at any time.
    pub fn lose(&mut self, window: Window) {
        let block = self.slots.lose(window);
        self.loading.remove(block.index());
        self.room_changed = true;
    }

    /// Notes that a block cannot be read.
    pub fn quarantine(&mut self, block: BlockIndex) {
        self.quarantined.insert(block.index());
    }

    fn evict(&mut self, block: BlockIndex) {
        let slot = self.table.slot_of(block);
        self.table.place(block, None);
        self.resident.remove(block.index());
        self.missing.left(block);
        self.ahead.went(block);
        self.evicted += 1;
        if let Some(slot) = slot {
            self.slots.evict(slot);
        }
    }

    /// Resident blocks that none of these tasks has: words of this part of the set that are not
    /// empty, with the position of each.
    fn unpinned(&self, tasks: u64, part: Range<usize>) -> impl Iterator<Item = (usize, Word)> + '_ {
        let blocks = |task| self.bundle.task_blocks(TaskIndex(task as u32)).as_slice();
        let pinned: Vec<_> = ones(tasks).map(blocks).collect();
        let resident = self.resident.as_slice();
        let free = move |at: usize| {
            (at, pinned.iter().fold(resident[at], |left, pinned| left & !pinned[at]))
        };
        let words = self.missing.words_beyond(tasks, part);
        words.inspect(|_| self.missing.count(1)).map(free).filter(|(_, blocks)| *blocks != 0)
    }

    /// Up to `count` unpinned resident blocks, in the order in which they should go.
    fn victims(&self, count: usize) -> Vec<BlockIndex> {
        let mut stock = self.stock();
        self.search(&mut stock, usize::MAX);
        stock.into_blocks().take(count).collect()
    }

    /// Words and blocks that were looked at so far to find room or to find what lacks; for tests.
    pub fn work(&self) -> u64 {
        self.missing.work()
    }

    /// Checks what must hold between any two steps; for tests.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn assert_invariants(&self) {
        assert!(self.resident.is_disjoint(&self.loading), "a block is resident or loading");
        self.missing.assert_invariants(&self.bundle, &self.resident);
        self.ahead.assert_invariants(&self.resident);
        for (task, pins) in self.pins.iter().enumerate() {
            assert_eq!(self.pinned >> task & 1 == 1, *pins > 0, "pinned tasks have their bit");
        }
        let (mut resident, mut loading) = (0, 0);
        self.slots.assert_invariants();
        for (slot, state) in self.slots.iter() {
            match state {
                SlotState::Free | SlotState::Lost => {}
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
