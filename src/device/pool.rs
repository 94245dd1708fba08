//! The pool: a base region, then slots of one block each.
//!
//! A [`Window`] is the right to write one slot. Each slot's window is made once, with the pool,
//! and cannot be copied, so that two writers of a slot cannot be expressed: whoever fills a slot
//! owns its window, and while a slot holds a published block its window rests in the slot table.

use super::memory::{MemoryError, SharedMemory, Sharing};
use crate::units::{SlotId, align_up};
use rustix::param::page_size;
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    slice,
    sync::Arc,
};

/// Where base and slots lie. Checked: no size overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLayout {
    base_bytes: u64,
    slots_offset: u64,
    slot_bytes: u64,
    slots: u32,
    total_bytes: u64,
}

impl PoolLayout {
    /// Room for `base_bytes` of base tensors and `slots` slots of `slot_bytes`; the slots begin on
    /// a page. `None` if the size overflows.
    pub fn new(base_bytes: u64, slot_bytes: u64, slots: u32) -> Option<Self> {
        let slots_offset = align_up(base_bytes, page_size() as u64)?;
        let total_bytes = slot_bytes.checked_mul(u64::from(slots))?.checked_add(slots_offset)?;
        isize::try_from(total_bytes).ok()?;
        Some(Self { base_bytes, slots_offset, slot_bytes, slots, total_bytes })
    }

    /// Bytes of the base region.
    pub fn base_bytes(&self) -> u64 {
        self.base_bytes
    }

    /// Where slot 0 begins.
    pub fn slots_offset(&self) -> u64 {
        self.slots_offset
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Bytes of the whole pool.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn slot_start(&self, slot: SlotId) -> usize {
        (self.slots_offset + u64::from(slot.0) * self.slot_bytes) as usize
    }
}

/// The daemon's side of a pool. A copy is the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: SharedMemory,
    layout: PoolLayout,
}

/// The exclusive right to write one slot.
#[derive(Debug)]
pub struct Window {
    shared: Arc<Shared>,
    slot: SlotId,
}

impl Pool {
    /// Allocates the pool, lets `fill_base` write the base region, and gives the windows of all
    /// slots in their order.
    pub fn create<E: From<MemoryError>>(
        layout: PoolLayout,
        lock: bool,
        fill_base: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(Self, Vec<Window>), E> {
        let mut memory = SharedMemory::create("pool", layout.total_bytes, Sharing::ReadOnly, lock)?;
        fill_base(base_mut(&mut memory, &layout))?;
        let shared = Arc::new(Shared { memory, layout });
        let windows =
            (0..layout.slots).map(|slot| Window { shared: shared.clone(), slot: SlotId(slot) });
        let windows = windows.collect();
        Ok((Self { shared }, windows))
    }

    /// A pool of slots alone, for reads that no daemon serves.
    pub fn of_slots(slot_bytes: u64, slots: u32) -> Result<(Self, Vec<Window>), MemoryError> {
        let layout = PoolLayout::new(0, slot_bytes, slots);
        let layout = layout.ok_or(MemoryError::TOO_LARGE)?;
        Self::create(layout, false, |_| Ok(()))
    }

    /// Where base and slots lie.
    pub fn layout(&self) -> PoolLayout {
        self.shared.layout
    }

    /// Where all slots lie in this process, and their bytes. Only who has a window writes there.
    pub(crate) fn slots_region(&self) -> (*mut u8, usize) {
        let Shared { memory, layout } = &*self.shared;
        let offset = layout.slots_offset as usize;
        (memory.ptr().wrapping_add(offset), layout.total_bytes as usize - offset)
    }

    /// Bytes of the pool that lie in huge pages.
    pub fn huge_bytes(&self) -> u64 {
        self.shared.memory.huge_bytes()
    }

    /// Whether the pool is locked into memory.
    pub fn locked(&self) -> bool {
        self.shared.memory.locked()
    }
}

impl AsFd for Pool {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.memory.as_fd()
    }
}

#[expect(unsafe_code, reason = "the base region is written once, before anyone else sees it")]
fn base_mut<'a>(memory: &'a mut SharedMemory, layout: &PoolLayout) -> &'a mut [u8] {
    // SAFETY: the region lies within the mapping, whose size is the layout's. `Pool::create` is
    // the only caller, once per pool, before the descriptor or any window leaves it.
    unsafe { slice::from_raw_parts_mut(memory.ptr(), layout.slots_offset as usize) }
}

impl Window {
    /// The slot.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Bytes of the slot.
    pub fn len(&self) -> usize {
        self.shared.layout.slot_bytes as usize
    }

    /// Whether the slot has no bytes; never so in a pool of blocks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the slot's memory mapped for as long as the process lives, because somebody may write
    /// there who cannot be stopped.
    pub(crate) fn keep_mapped(&self) {
        std::mem::forget(self.shared.clone());
    }

    /// The slot's bytes, for writing.
    #[expect(unsafe_code, reason = "slots lie in memory that is mapped, not borrowed")]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let Shared { memory, layout } = &*self.shared;
        let start = layout.slot_start(self.slot);
        // SAFETY: the slot lies within the mapping (`PoolLayout::new`), which the `Arc` keeps.
        let first = unsafe { memory.ptr().add(start) };
        // SAFETY: slots do not overlap, each has one window, and it is borrowed mutably here.
        // Clients map the pool read-only and look only at slots that the table names, which are
        // resident: their windows rest in the slot table.
        unsafe { slice::from_raw_parts_mut(first, layout.slot_bytes as usize) }
    }

    /// The slot's bytes.
    #[expect(unsafe_code, reason = "slots lie in memory that is mapped, not borrowed")]
    pub fn bytes(&self) -> &[u8] {
        let Shared { memory, layout } = &*self.shared;
        let start = layout.slot_start(self.slot);
        // SAFETY: as for `bytes_mut`.
        let first = unsafe { memory.ptr().add(start) };
        // SAFETY: writing takes the same window, mutably.
        unsafe { slice::from_raw_parts(first, layout.slot_bytes as usize) }
    }
}

/// A client's view of a pool.
#[derive(Debug)]
pub struct PoolView {
    memory: SharedMemory,
    layout: PoolLayout,
}

impl PoolView {
    /// Maps a pool that has this layout.
    pub fn open(fd: OwnedFd, layout: PoolLayout) -> Result<Self, MemoryError> {
        let memory = SharedMemory::open("the pool", fd, layout.total_bytes, Sharing::ReadOnly)?;
        Ok(Self { memory, layout })
    }

    /// The base region.
    #[expect(unsafe_code, reason = "the pool lies in memory that is mapped, not borrowed")]
    pub fn base(&self) -> &[u8] {
        // SAFETY: the layout fits the mapping (`open`), and the daemon writes the base before it
        // hands out the descriptor, never after.
        unsafe { slice::from_raw_parts(self.memory.ptr(), self.layout.base_bytes as usize) }
    }

    /// Copies the bytes of a slot, if there is such a slot and it has as many. They may be torn if
    /// somebody writes there: whoever copies them verifies them.
    #[expect(unsafe_code, reason = "the pool lies in memory that is mapped, not borrowed")]
    pub fn copy_slot(&self, slot: SlotId, into: &mut [u8]) -> bool {
        if slot.0 >= self.layout.slots || into.len() as u64 != self.layout.slot_bytes {
            return false;
        }
        // SAFETY: the slot exists, and the layout fits the mapping (`open`).
        let first = unsafe { self.memory.ptr().add(self.layout.slot_start(slot)) };
        // SAFETY: as many bytes are mapped there and in `into`, which are not the same memory: this
        // view is mapped for reading only. Nothing borrows the source.
        unsafe { first.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        true
    }

    /// The bytes of a slot, or `None` if there is no such slot.
    ///
    /// # Safety
    /// While the bytes are borrowed, the caller holds a lease on a generation in which the table
    /// names this slot for a block of the active task. Only then does the daemon not write them.
    #[expect(unsafe_code, reason = "the pool lies in memory that is mapped, not borrowed")]
    pub unsafe fn slot(&self, slot: SlotId) -> Option<&[u8]> {
        if slot.0 >= self.layout.slots {
            return None;
        }
        // SAFETY: the slot exists, and the layout fits the mapping (`open`).
        let first = unsafe { self.memory.ptr().add(self.layout.slot_start(slot)) };
        // SAFETY: the bytes stay mapped while `self` lives, and the caller vouches that they do
        // not change.
        Some(unsafe { slice::from_raw_parts(first, self.layout.slot_bytes as usize) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(unsafe_code, reason = "there is no daemon here that could write")]
    fn slot_of(view: &PoolView, slot: u32) -> Option<&[u8]> {
        // SAFETY: the windows are borrowed by nobody while the bytes are looked at.
        unsafe { view.slot(SlotId(slot)) }
    }

    #[test]
    fn slots_are_disjoint_and_views_see_what_windows_write() {
        let layout = PoolLayout::new(100, 4096, 3).unwrap();
        let (pool, mut windows) = Pool::create::<MemoryError>(layout, false, |base| {
            base[..100].fill(9);
            Ok(())
        })
        .unwrap();
        for (value, window) in (1..).zip(&mut windows) {
            window.bytes_mut().fill(value);
        }
        let view = PoolView::open(pool.as_fd().try_clone_to_owned().unwrap(), layout).unwrap();
        assert_eq!(view.base(), [9; 100]);
        for slot in 0..3 {
            assert_eq!(slot_of(&view, slot).unwrap(), [slot as u8 + 1; 4096]);
        }
        assert_eq!(slot_of(&view, 3), None);
    }

    #[test]
    fn a_layout_that_overflows_is_none() {
        assert!(PoolLayout::new(u64::MAX, 4096, 1).is_none());
        assert!(PoolLayout::new(0, u64::MAX / 2, 3).is_none());
        assert!(PoolLayout::new(0, 1 << 62, 2).is_none());
    }
}
