//! The slots' states.
//!
//! ```text
//! Free ──allot──► Filling ──filled──► Verifying ──admit──► Resident
//!   ▲                │                    │                    │
//!   └────release─────┴──────release───────┘                    │
//!   └──────────────────────────evict───────────────────────────┘
//! ```
//!
//! A slot's window rests here while the slot is free or resident. While it is away, somebody may
//! be writing, and the slot cannot become anything else: every way out of `Filling` and
//! `Verifying` takes the window back.

use crate::{
    device::Window,
    units::{BlockIndex, SlotId},
};
use fixedbitset::FixedBitSet;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing.
    Free,
    /// A read may be writing the block.
    Filling(BlockIndex),
    /// The block is being compared with its checksum.
    Verifying(BlockIndex),
    /// The block, verified. Nobody can write it.
    Resident(BlockIndex),
}

/// Number of slots in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Empty.
    pub free: usize,
    /// Being read into.
    pub filling: usize,
    /// Being verified.
    pub verifying: usize,
    /// Holding a block.
    pub resident: usize,
}

/// The slots of a pool.
#[derive(Debug)]
pub struct Slots {
    states: Vec<SlotState>,
    /// `None` while the window is with a read or the verifier.
    windows: Vec<Option<Window>>,
    free: FixedBitSet,
    /// No slot below is free: where the search for one begins.
    first_free: usize,
    counts: SlotCounts,
}

impl Slots {
    /// Free slots, one for each window. The windows come in the order of their slots.
    pub fn new(windows: Vec<Window>) -> Self {
        let mut free = FixedBitSet::with_capacity(windows.len());
        free.insert_range(..);
        Self {
            states: vec![SlotState::Free; windows.len()],
            counts: SlotCounts { free: windows.len(), ..SlotCounts::default() },
            windows: windows.into_iter().map(Some).collect(),
            free,
            first_free: 0,
        }
    }

    /// How many slots there are in each state.
    pub fn counts(&self) -> SlotCounts {
        self.counts
    }

    /// The slots with their states.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, SlotState)> {
        (0..).map(SlotId).zip(self.states.iter().copied())
    }

    /// Gives away the lowest free slot's window, so that blocks read together lie together.
    pub(super) fn allot(&mut self, block: BlockIndex) -> Option<Window> {
        let slot = (self.first_free..self.states.len()).find(|&slot| self.free[slot])?;
        self.first_free = slot + 1;
        let slot = SlotId(slot as u32);
        self.set(slot, SlotState::Filling(block));
        self.windows[slot.index()].take()
    }

    pub(super) fn filled(&mut self, slot: SlotId) {
        let block = self.loading(slot);
        self.set(slot, SlotState::Verifying(block));
    }

    pub(super) fn admit(&mut self, window: Window) -> BlockIndex {
        self.put_back(window, SlotState::Resident)
    }

    pub(super) fn release(&mut self, window: Window) -> BlockIndex {
        self.put_back(window, |_| SlotState::Free)
    }

    pub(super) fn evict(&mut self, slot: SlotId) {
        self.set(slot, SlotState::Free);
    }

    fn put_back(&mut self, window: Window, to: impl FnOnce(BlockIndex) -> SlotState) -> BlockIndex {
        let slot = window.slot();
        let block = self.loading(slot);
        self.set(slot, to(block));
        self.windows[slot.index()] = Some(window);
        block
    }

    fn loading(&self, slot: SlotId) -> BlockIndex {
        match self.states[slot.index()] {
            SlotState::Filling(block) | SlotState::Verifying(block) => block,
            other => panic!("{slot:?} is not being loaded but {other:?}"),
        }
    }

    /// The one way from state to state.
    fn set(&mut self, slot: SlotId, to: SlotState) {
        use SlotState::{Filling, Free, Resident, Verifying};
        let from = self.states[slot.index()];
        let allowed = matches!(
            (from, to),
            (Free, Filling(_))
                | (Filling(_), Verifying(_) | Free)
                | (Verifying(_), Resident(_) | Free)
                | (Resident(_), Free)
        );
        assert!(allowed, "{slot:?} cannot go from {from:?} to {to:?}");
        *self.counts.of(from) -= 1;
        *self.counts.of(to) += 1;
        self.free.set(slot.index(), to == Free);
        if to == Free {
            self.first_free = self.first_free.min(slot.index());
        }
        self.states[slot.index()] = to;
    }

    pub(super) fn assert_invariants(&self) {
        let mut counts = SlotCounts::default();
        for (slot, state) in self.iter() {
            *counts.of(state) += 1;
            let window = &self.windows[slot.index()];
            let rests = matches!(state, SlotState::Free | SlotState::Resident(_));
            assert_eq!(window.is_some(), rests, "the window of {slot:?}, which is {state:?}");
            assert!(window.as_ref().is_none_or(|window| window.slot() == slot), "its own window");
            assert_eq!(self.free[slot.index()], state == SlotState::Free, "the free set");
            assert!(!self.free[slot.index()] || self.first_free <= slot.index(), "the search");
        }
        assert_eq!(counts, self.counts, "slots are counted by state");
    }
}

impl SlotCounts {
    fn of(&mut self, state: SlotState) -> &mut usize {
        match state {
            SlotState::Free => &mut self.free,
            SlotState::Filling(_) => &mut self.filling,
            SlotState::Verifying(_) => &mut self.verifying,
            SlotState::Resident(_) => &mut self.resident,
        }
    }
}
