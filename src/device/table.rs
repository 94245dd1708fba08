//! The table that tells clients what is where: for each session its active task and generation,
//! for each block its slot.
//!
//! ```text
//! offset  bytes  content (little endian)
//!      0      8  magic "SMTABLE1"
//!      8      4  blocks
//!     12      4  slots
//!     16     16  bundle id
//!     32      8  bytes of a slot
//!     40      8  bytes of the base
//!     48      4  life: bit 30 is set once the daemon is gone
//!     52     12  zero
//!     64    512  64 sessions: u64 = generation << 16 | task, task 0xFFFF for none
//!    576   4*n   slot of each block: u32, 0xFFFFFFFF if it is in none
//! ```
//!
//! A session's word changes in one store, which is the publication. The slots of a task's blocks
//! are stored before a word names the task and stay while any lease on that generation lasts.

use super::{
    lease::{self, Active},
    life::{Life, OWNER_DIED},
    memory::{MemoryError, SharedMemory, Sharing},
    pool::PoolLayout,
};
use crate::{
    bundle::BundleId,
    units::{BlockIndex, Generation, SlotId},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

/// Most sessions of a model: the table has a fixed place for each.
pub const MAX_SESSIONS: usize = 64;

const MAGIC: [u8; 8] = *b"SMTABLE1";
const SESSIONS_OFFSET: usize = 64;
const LIFE_OFFSET: usize = 48;
const SLOTS_OFFSET: usize = SESSIONS_OFFSET + MAX_SESSIONS * 8;
const NOWHERE: u32 = u32::MAX;
const _: () = assert!(size_of::<Header>() == LIFE_OFFSET, "life comes right behind the header");
const _: () = assert!(SLOTS_OFFSET == 576, "the documented offset");

/// A session's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionEntry(u32);

impl SessionEntry {
    /// The place of this number, or `None` past the last.
    pub fn new(place: u32) -> Option<Self> {
        ((place as usize) < MAX_SESSIONS).then_some(Self(place))
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    blocks: le::U32,
    slots: le::U32,
    bundle_id: [u8; 16],
    slot_bytes: le::U64,
    base_bytes: le::U64,
}

/// The daemon's side: the only writer.
#[derive(Debug)]
pub struct TableWriter {
    /// Dropped before the table, in which its word lies.
    _life: Life,
    table: Table,
}

/// A client's side.
#[derive(Debug)]
pub struct TableView {
    table: Table,
    bundle_id: BundleId,
    layout: PoolLayout,
}

#[derive(Debug)]
struct Table {
    memory: SharedMemory,
    blocks: u32,
}

/// Why a descriptor is not a table.
#[derive(Debug, Error)]
pub enum TableError {
    /// It cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// It has another layout.
    #[error("the table is not one that this client can read: daemon and client differ in version")]
    Layout,
}

impl TableWriter {
    /// A table in which no session has a task and no block a slot.
    pub fn create(id: BundleId, blocks: u32, layout: PoolLayout) -> Result<Self, MemoryError> {
        let bytes = SLOTS_OFFSET as u64 + u64::from(blocks) * 4;
        let memory = SharedMemory::create("table", bytes, Sharing::ReadOnly, false)?;
        let header = Header {
            magic: MAGIC,
            blocks: blocks.into(),
            slots: layout.slots().into(),
            bundle_id: id.0,
            slot_bytes: layout.slot_bytes().into(),
            base_bytes: layout.base_bytes().into(),
        };
        let table = Table { memory, blocks };
        table.store_header(header);
        let none = Active { generation: Generation::NONE, task: None };
        for place in 0..MAX_SESSIONS {
            table.session(SessionEntry(place as u32)).store(none.word(), Ordering::Relaxed);
        }
        for block in 0..blocks {
            table.slot(BlockIndex(block)).store(NOWHERE, Ordering::Relaxed);
        }
        let word = table.life();
        #[expect(unsafe_code, reason = "the kernel writes to the word when the daemon ends")]
        // SAFETY: the word lies in `table`, which is dropped after the `Life` (the order of the
        // fields); moving the `Table` does not move its mapping.
        let life = unsafe { Life::begin(word) }?;
        Ok(Self { _life: life, table })
    }

    /// Publishes what a session serves.
    pub fn publish(&self, session: SessionEntry, active: Active) {
        lease::publish(self.table.session(session), active);
    }

    /// Says where a block is.
    pub fn place(&self, block: BlockIndex, slot: Option<SlotId>) {
        let slot = slot.map_or(NOWHERE, |slot| slot.0);
        self.table.slot(block).store(slot, Ordering::Release);
    }

    /// Where a block is.
    pub fn slot_of(&self, block: BlockIndex) -> Option<SlotId> {
        self.table.slot_of(block)
    }
}

impl AsFd for TableWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.table.memory.as_fd()
    }
}

impl TableView {
    /// Maps a table that the daemon has created.
    pub fn open(fd: OwnedFd) -> Result<Self, TableError> {
        let memory = SharedMemory::open("the table", fd, SLOTS_OFFSET as u64, Sharing::ReadOnly)?;
        let table = Table { memory, blocks: 0 };
        let header = table.load_header();
        let blocks = header.blocks.get();
        if header.magic != MAGIC || table.memory.len() < SLOTS_OFFSET + blocks as usize * 4 {
            return Err(TableError::Layout);
        }
        let (base, slot) = (header.base_bytes.get(), header.slot_bytes.get());
        let layout = PoolLayout::new(base, slot, header.slots.get()).ok_or(TableError::Layout)?;
        let table = Table { blocks, ..table };
        Ok(Self { table, bundle_id: BundleId(header.bundle_id), layout })
    }

    /// The bundle whose blocks are named.
    pub fn bundle_id(&self) -> BundleId {
        self.bundle_id
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.table.blocks
    }

    /// The layout of the pool.
    pub fn layout(&self) -> PoolLayout {
        self.layout
    }

    /// What a session serves now.
    pub fn active(&self, session: SessionEntry) -> Active {
        Active::from_word(self.word(session).load(Ordering::Acquire))
    }

    /// A session's word, for [`lease::acquire`].
    pub fn word(&self, session: SessionEntry) -> &AtomicU64 {
        self.table.session(session)
    }

    /// Whether the daemon that wrote the table is gone.
    pub fn is_orphaned(&self) -> bool {
        self.table.life().load(Ordering::Acquire) & OWNER_DIED != 0
    }

    /// Where a block is now.
    pub fn slot_of(&self, block: BlockIndex) -> Option<SlotId> {
        if block.0 >= self.table.blocks { None } else { self.table.slot_of(block) }
    }
}

#[expect(unsafe_code, reason = "the table lies in memory that is mapped, not borrowed")]
impl Table {
    fn store_header(&self, header: Header) {
        let bytes: [u8; LIFE_OFFSET] = zerocopy::transmute!(header);
        // SAFETY: the mapping has room for the header (both constructors), and bytes have no
        // alignment; `TableWriter::create` calls this before the descriptor leaves it.
        unsafe { self.memory.ptr().cast::<[u8; LIFE_OFFSET]>().write(bytes) };
    }

    fn load_header(&self) -> Header {
        // SAFETY: as for `store_header`; the daemon does not change it any more. The life word, which
        // the kernel may change, is no part of it.
        let bytes = unsafe { self.memory.ptr().cast::<[u8; LIFE_OFFSET]>().read() };
        zerocopy::transmute!(bytes)
    }

    fn life(&self) -> &AtomicU32 {
        // SAFETY: the mapping has room for the header (both constructors).
        let word = unsafe { self.memory.ptr().add(LIFE_OFFSET) };
        // SAFETY: the word is 4-aligned, lives as long as `self`, and is accessed so by everybody
        // once the header is written.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    fn session(&self, session: SessionEntry) -> &AtomicU64 {
        // SAFETY: a `SessionEntry` is below `MAX_SESSIONS`, so the word lies within the mapping.
        let word = unsafe { self.memory.ptr().add(SESSIONS_OFFSET + session.0 as usize * 8) };
        // SAFETY: the word is 8-aligned, lives as long as `self`, and is only accessed so.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    fn slot(&self, block: BlockIndex) -> &AtomicU32 {
        assert!(block.0 < self.blocks, "a block of this bundle");
        // SAFETY: the mapping has a word for each block (both constructors).
        let word = unsafe { self.memory.ptr().add(SLOTS_OFFSET + block.index() * 4) };
        // SAFETY: the word is 4-aligned, lives as long as `self`, and is only accessed so.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    fn slot_of(&self, block: BlockIndex) -> Option<SlotId> {
        let slot = self.slot(block).load(Ordering::Acquire);
        (slot != NOWHERE).then_some(SlotId(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TaskIndex;

    fn duplicate(fd: &impl AsFd) -> OwnedFd {
        fd.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_view_sees_what_the_writer_publishes() {
        let layout = PoolLayout::new(5000, 4096, 9).unwrap();
        let writer = TableWriter::create(BundleId([7; 16]), 1000, layout).unwrap();
        let view = TableView::open(duplicate(&writer)).unwrap();
        let session = SessionEntry::new(63).unwrap();
        assert_eq!((view.bundle_id(), view.layout()), (BundleId([7; 16]), layout));
        assert_eq!(view.active(session), Active { generation: Generation::NONE, task: None });
        assert_eq!(view.slot_of(BlockIndex(999)), None);

        let active = Active { generation: Generation(0x1234_5678_9abc), task: Some(TaskIndex(63)) };
        writer.publish(session, active);
        writer.place(BlockIndex(999), Some(SlotId(8)));
        assert_eq!(view.active(session), active);
        assert_eq!(view.slot_of(BlockIndex(999)), Some(SlotId(8)));
        assert_eq!(view.slot_of(BlockIndex(1000)), None);
        assert!(!view.is_orphaned());
        drop(writer);
        assert!(view.is_orphaned(), "it goes on being readable");
        assert_eq!(view.active(session), active);
    }

    #[test]
    fn memory_that_is_no_table_is_refused() {
        let other = SharedMemory::create("other", 4096, Sharing::ReadOnly, false).unwrap();
        assert!(matches!(TableView::open(duplicate(&other)), Err(TableError::Layout)));
        assert!(SessionEntry::new(64).is_none());
    }
}
