//! A client of the data plane: it maps what the daemon hands out and takes leases.

use super::bundles::Content;
use fixedbitset::FixedBitSet;
use std::{os::fd::OwnedFd, sync::atomic::Ordering};
use synchromesh::{
    device::{Active, ActiveTask, Cell, Notice, PoolView, SessionEntry, TableView},
    engine::{MemberId, Membership},
    units::{BlockIndex, Generation, SlotId, TaskIndex},
};

pub(crate) struct Client {
    pub(crate) model: usize,
    pub(crate) member: MemberId,
    pub(crate) entry: SessionEntry,
    pub(crate) table: TableView,
    pub(crate) pool: PoolView,
    pub(crate) cell: Cell,
    doorbell: OwnedFd,
    pub(crate) phase: Phase,
    /// It never lets a lease go.
    pub(crate) stuck: bool,
    /// The generation whose lease it must have been told to be revoked.
    pub(crate) told: Option<Generation>,
    /// Rings that it must hear, of those that it did not hear yet.
    pub(crate) due: u64,
    /// Changes of its session's task up to the last of these rings.
    pub(crate) heard: u64,
}

/// How far a client is on its way to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Idle,
    /// It has looked at the table.
    Seen(ActiveTask),
    /// It has announced what it saw, and not yet looked again.
    Announced(ActiveTask),
    /// It computes.
    Leased(ActiveTask),
    /// It has written what it should not.
    Junk,
}

impl Client {
    pub(crate) fn open(model: usize, membership: Membership) -> Self {
        let Membership { member, entry, pool, table, index: _, cell, doorbell } = membership;
        let table = TableView::open(table).unwrap();
        let pool = PoolView::open(pool, table.layout()).unwrap();
        let cell = Cell::open(cell).unwrap();
        let (phase, stuck, told) = (Phase::Idle, false, None);
        let (due, heard) = (0, 0);
        Self { model, member, entry, table, pool, cell, doorbell, phase, stuck, told, due, heard }
    }

    /// Model and place of its session.
    pub(crate) fn place(&self) -> (usize, u32) {
        (self.model, self.entry.number())
    }

    /// The blocks that are in a slot, by the table.
    pub(crate) fn resident(&self) -> FixedBitSet {
        let blocks = 0..self.table.blocks();
        let mut resident = FixedBitSet::with_capacity(blocks.len());
        let there = blocks.filter(|&block| self.table.slot_of(BlockIndex(block)).is_some());
        there.for_each(|block| resident.insert(block as usize));
        resident
    }

    /// One step towards a lease, or out of it.
    pub(crate) fn step(&mut self) {
        self.phase = match self.phase {
            Phase::Idle => match self.active().task() {
                Some(task) => Phase::Seen(task),
                None => Phase::Idle,
            },
            Phase::Seen(seen) => {
                self.announce(seen.generation);
                Phase::Announced(seen)
            }
            Phase::Announced(seen) if self.active().task() == Some(seen) => Phase::Leased(seen),
            Phase::Leased(leased) if self.stuck => Phase::Leased(leased),
            Phase::Announced(_) | Phase::Leased(_) | Phase::Junk => {
                self.announce(Generation::NONE);
                Phase::Idle
            }
        };
    }

    /// Takes a lease at once.
    pub(crate) fn lease(&mut self) {
        assert_eq!(self.phase, Phase::Idle, "one lease at a time");
        (0..3).for_each(|_| self.step());
        assert!(matches!(self.phase, Phase::Leased(_)), "there is something to lease");
    }

    pub(crate) fn write_junk(&mut self, value: u64) {
        self.announce(Generation(value));
        self.phase = Phase::Junk;
    }

    fn announce(&self, generation: Generation) {
        self.cell.epoch().store(generation.0, Ordering::SeqCst);
    }

    /// The generation whose lease it was told to be revoked.
    pub(crate) fn revoked(&self) -> Option<Generation> {
        self.cell.notice().map(|notice| match notice {
            Notice::Revoked(generation) => generation,
            Notice::Ended => panic!("nobody ended the membership"),
        })
    }

    /// What the client announces that it reads.
    pub(crate) fn announced(&self) -> Generation {
        Generation(self.cell.epoch().load(Ordering::SeqCst))
    }

    pub(crate) fn active(&self) -> Active {
        self.table.active(self.entry)
    }

    /// The task under lease.
    pub(crate) fn leased(&self) -> Option<TaskIndex> {
        if let Phase::Leased(leased) = self.phase { Some(leased.task) } else { None }
    }

    /// How often the doorbell rang since it was last asked.
    pub(crate) fn rings(&self) -> u64 {
        match rustix::io::read(&self.doorbell, &mut [0; 4096]) {
            Ok(rings) => rings as u64,
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN, "the doorbell is silent");
                0
            }
        }
    }

    /// What a slot holds now. The engine runs on this thread, so nothing writes meanwhile.
    #[expect(unsafe_code, reason = "the simulation looks at slots whether or not it may")]
    fn slot(&self, slot: SlotId) -> &[u8] {
        // SAFETY: the borrow ends before the engine's next action or the store's next write.
        unsafe { self.pool.slot(slot) }.expect("the slot exists")
    }

    /// Whether all blocks of a task are where the table says, bit for bit.
    pub(crate) fn assert_task(&self, content: &Content, task: TaskIndex) {
        for block in content.task_blocks(task).ones() {
            let index = BlockIndex(block as u32);
            let slot = self.table.slot_of(index).expect("the table says where the block is");
            let bytes = self.slot(slot);
            assert!(bytes == content.blocks[block], "{task:?} has its block {block} in {slot:?}");
        }
    }
}
