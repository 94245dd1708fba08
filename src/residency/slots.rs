//! The slots' states.
//!
//! ```text
//! Free ──allot──► Filling ──filled──► Verifying ──admit──► Resident
//!   ▲                │                    │                    │
//!   └────release─────┴──────release───────┘                    │
//!   └──────────────────────────evict───────────────────────────┘
//! ```
//! `Lost` is where a slot goes from `Filling` if the kernel does not tell any more what became of its
//! read; it never comes back.
//!
//! A slot's window rests here while the slot is free or resident. While it is away, somebody may
//! be writing, and the slot cannot become anything else: every way out of `Filling` and
//! `Verifying` takes the window back.

use crate::{
    device::Window,
    units::{BlockIndex, SlotId},
};
use fixedbitset::{Block as Word, FixedBitSet};
use std::ops::Range;

/// Rows of free slots that are looked at for one that is long enough.
const NEAR_RUNS: usize = 16;

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
    /// Nothing of any use: the kernel may write there at any time.
    Lost,
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
    /// Out of use until a restart.
    pub lost: usize,
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

    /// A slot's state. The slot is one of this pool.
    pub fn state(&self, slot: SlotId) -> SlotState {
        self.states[slot.index()]
    }

    /// The slots with their states.
    pub fn iter(&self) -> impl Iterator<Item = (SlotId, SlotState)> {
        (0..).map(SlotId).zip(self.states.iter().copied())
    }

    /// Free slots in a row, at most `wanted`: of the first few rows one that is long enough, or
    /// the longest.
    pub(super) fn free_run(&mut self, wanted: usize) -> Option<Range<usize>> {
        let mut runs = Runs { words: self.free.as_slice(), at: self.first_free };
        let first = runs.next()?;
        self.first_free = first.start;
        let mut best = first;
        for run in runs.take(NEAR_RUNS) {
            if best.len() >= wanted {
                break;
            }
            if run.len() > best.len() {
                best = run;
            }
        }
        Some(best.start..best.start + best.len().min(wanted))
    }

    /// Gives a free slot's window away, to be filled with a block.
    pub(super) fn allot(&mut self, block: BlockIndex, slot: usize) -> Option<Window> {
        self.set(SlotId(slot as u32), SlotState::Filling(block));
        self.windows[slot].take()
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

    pub(super) fn lose(&mut self, window: Window) -> BlockIndex {
        let slot = window.slot();
        let block = self.loading(slot);
        self.set(slot, SlotState::Lost);
        block
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
        use SlotState::{Filling, Free, Lost, Resident, Verifying};
        let from = self.states[slot.index()];
        let allowed = matches!(
            (from, to),
            (Free, Filling(_))
                | (Filling(_), Verifying(_) | Free | Lost)
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
            let found = !self.free[slot.index()] || self.first_free <= slot.index();
            assert!(found, "the search begins before {slot:?}");
        }
        assert_eq!(counts, self.counts, "slots are counted by state");
    }
}

/// Rows of ones in a set, ascending.
struct Runs<'a> {
    words: &'a [Word],
    at: usize,
}

impl Runs<'_> {
    /// The first position from here on whose bit is set after `flip`, if there is one.
    fn seek(&self, from: usize, flip: Word) -> Option<usize> {
        let bits = Word::BITS as usize;
        let (first, rest) = (from / bits, self.words.get(from / bits + 1..).unwrap_or_default());
        let ahead = (self.words.get(first)? ^ flip) >> (from % bits);
        if ahead != 0 {
            return Some(from + ahead.trailing_zeros() as usize);
        }
        let (at, word) = rest.iter().enumerate().find(|(_, word)| **word ^ flip != 0)?;
        Some((first + 1 + at) * bits + (word ^ flip).trailing_zeros() as usize)
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.seek(self.at, 0)?;
        // Past the last slot bits are clear; but there may be no bit.
        let end = self.seek(start, Word::MAX).unwrap_or(self.words.len() * Word::BITS as usize);
        self.at = end;
        Some(start..end)
    }
}

impl SlotCounts {
    fn of(&mut self, state: SlotState) -> &mut usize {
        match state {
            SlotState::Free => &mut self.free,
            SlotState::Filling(_) => &mut self.filling,
            SlotState::Verifying(_) => &mut self.verifying,
            SlotState::Resident(_) => &mut self.resident,
            SlotState::Lost => &mut self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_all_ones_in_rows_as_long_as_can_be(
            ones in prop::collection::btree_set(0usize..300, 0..200), from in 0usize..300,
        ) {
            let mut set = FixedBitSet::with_capacity(300);
            ones.iter().for_each(|&one| set.insert(one));
            let runs: Vec<_> = Runs { words: set.as_slice(), at: from }.collect();
            let found: Vec<_> = runs.iter().cloned().flatten().collect();
            prop_assert_eq!(found, ones.range(from..).copied().collect::<Vec<_>>());
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }

    #[test]
    fn a_run_may_end_with_the_last_word() {
        let words = [Word::MAX, Word::MAX];
        let mut runs = Runs { words: &words, at: 3 };
        assert_eq!(runs.next(), Some(3..2 * Word::BITS as usize));
        assert_eq!(runs.next(), None);
    }
}
