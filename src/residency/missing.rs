//! How many of each task's blocks are not resident, so that a switch need not look at all of them.
//!
//! Counted for each task in all, and for each stretch of neighbouring blocks, so that the blocks
//! that lack are found by looking only where some do: the work of a switch grows with the
//! difference, not with the model.

use crate::{
    bundle::{Bundle, MAX_TASKS},
    units::{BlockIndex, TaskIndex},
};
use fixedbitset::{Block as Word, FixedBitSet};
use std::{cell::Cell, ops::Range};

const WORD_BITS: usize = Word::BITS as usize;
/// Words of a stretch: 4096 blocks where words have 64 bits.
const STRETCH_WORDS: usize = 64;
const STRETCH: usize = STRETCH_WORDS * WORD_BITS;

const _: () = assert!(MAX_TASKS <= u64::BITS as usize, "a bit for each task");
const _: () = assert!(STRETCH <= u16::MAX as usize, "a stretch's blocks can be counted");

/// The counts, and which tasks each block belongs to.
#[derive(Debug)]
pub(super) struct Missing {
    /// For each block, a bit for each task that has it.
    owners: Vec<u64>,
    /// By task.
    total: Vec<u32>,
    /// By task and stretch.
    by_stretch: Vec<u16>,
    /// By task and stretch, all the blocks that the task has there.
    wanted: Vec<u16>,
    /// By stretch, the blocks that are resident.
    resident: Vec<u16>,
    stretches: usize,
    /// Words and stretches of the sets that were looked at so far.
    work: Cell<u64>,
}

impl Missing {
    /// Nothing is resident.
    pub(super) fn all(bundle: &Bundle) -> Self {
        let stretches = bundle.len().div_ceil(STRETCH);
        let tasks = bundle.task_indices().count();
        let mut missing = Self {
            owners: vec![0; bundle.len()],
            total: vec![0; tasks],
            by_stretch: vec![0; tasks * stretches],
            wanted: Vec::new(),
            resident: vec![0; stretches],
            stretches,
            work: Cell::new(0),
        };
        for task in bundle.task_indices() {
            for block in bundle.task_blocks(task).ones() {
                missing.owners[block] |= 1 << task.0;
                missing.total[task.index()] += 1;
                missing.by_stretch[task.index() * stretches + block / STRETCH] += 1;
            }
        }
        missing.wanted.clone_from(&missing.by_stretch);
        missing
    }

    /// The tasks that have a block, a bit for each.
    pub(super) fn owners(&self, block: BlockIndex) -> u64 {
        self.owners[block.index()]
    }

    /// How many of a task's blocks are not resident.
    pub(super) fn of(&self, task: TaskIndex) -> usize {
        self.total[task.index()] as usize
    }

    /// Words and stretches of the sets that were looked at so far.
    pub(super) fn work(&self) -> u64 {
        self.work.get()
    }

    /// Counts words that were looked at.
    pub(super) fn count(&self, words: usize) {
        self.work.set(self.work.get() + words as u64);
    }

    /// Notes that a block is resident now.
    pub(super) fn arrived(&mut self, block: BlockIndex) {
        self.resident[block.index() / STRETCH] += 1;
        for task in ones(self.owners(block)) {
            self.total[task] -= 1;
            self.by_stretch[task * self.stretches + block.index() / STRETCH] -= 1;
        }
    }

    /// Notes that a block is resident no more.
    pub(super) fn left(&mut self, block: BlockIndex) {
        self.resident[block.index() / STRETCH] -= 1;
        for task in ones(self.owners(block)) {
            self.total[task] += 1;
            self.by_stretch[task * self.stretches + block.index() / STRETCH] += 1;
        }
    }

    /// Blocks of a task that are in neither of these sets, ascending. The first set holds what is
    /// resident.
    pub(super) fn absent<'a>(
        &'a self,
        bundle: &'a Bundle,
        task: TaskIndex,
        resident: &'a FixedBitSet,
        loading: &'a FixedBitSet,
    ) -> impl Iterator<Item = BlockIndex> + 'a {
        let counts = &self.by_stretch[task.index() * self.stretches..][..self.stretches];
        let lacking = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let (wanted, resident, loading) =
            (bundle.task_blocks(task).as_slice(), resident.as_slice(), loading.as_slice());
        self.count(counts.len());
        let words = lacking.flat_map(|(stretch, _)| words_of(stretch, wanted.len()));
        let words = words.inspect(|_| self.count(1));
        words.flat_map(move |word| blocks_of(word, wanted[word] & !resident[word] & !loading[word]))
    }

    /// Blocks from one on that all of these tasks have and that are in none of these sets,
    /// ascending. The first set holds what is resident.
    pub(super) fn lacking<'a>(
        &'a self,
        bundle: &'a Bundle,
        tasks: &'a [TaskIndex],
        out: [&'a FixedBitSet; 3],
        from: BlockIndex,
    ) -> impl Iterator<Item = BlockIndex> + 'a {
        let lacks = |task: &TaskIndex, stretch| {
            self.by_stretch[task.index() * self.stretches + stretch] > 0
        };
        let all_lack = move |stretch: &usize| tasks.iter().all(|task| lacks(task, *stretch));
        let stretches = (from.index() / STRETCH..self.stretches).filter(all_lack);
        let words = self.owners.len().div_ceil(WORD_BITS);
        let left = move |word: usize| {
            self.count(1);
            let blocks = |set: &FixedBitSet| set.as_slice()[word];
            let wanted = tasks.iter().map(|task| blocks(bundle.task_blocks(*task)));
            let wanted = wanted.fold(Word::MAX, |all, wanted| all & wanted);
            (word, out.iter().fold(wanted, |left, out| left & !blocks(out)))
        };
        let found = stretches.flat_map(move |stretch| words_of(stretch, words)).map(left);
        found.flat_map(|(word, left)| blocks_of(word, left)).filter(move |block| *block >= from)
    }

    /// Words of this part of the sets in which there may be a resident block that none of these
    /// tasks has; all other words have none.
    pub(super) fn words_beyond(
        &self,
        tasks: u64,
        part: Range<usize>,
    ) -> impl Iterator<Item = usize> + '_ {
        // If one task has all that is resident in a stretch, nothing else is there.
        let has_all = move |stretch: usize, task: usize| {
            let at = task * self.stretches + stretch;
            self.wanted[at] - self.by_stretch[at] == self.resident[stretch]
        };
        let beyond = move |&stretch: &usize| {
            self.count(1);
            self.resident[stretch] > 0 && !ones(tasks).any(|task| has_all(stretch, task))
        };
        let stretches = part.start / STRETCH_WORDS..part.end.div_ceil(STRETCH_WORDS);
        stretches.filter(beyond).flat_map(move |stretch| {
            let words = words_of(stretch, part.end);
            words.start.max(part.start)..words.end
        })
    }

    pub(super) fn assert_invariants(&self, bundle: &Bundle, resident: &FixedBitSet) {
        for task in bundle.task_indices() {
            let wanted = bundle.task_blocks(task);
            assert_eq!(wanted.difference_count(resident), self.of(task), "missing blocks");
            for stretch in 0..self.stretches {
                let range = stretch * STRETCH..((stretch + 1) * STRETCH).min(bundle.len());
                let lacks = |block: &usize| wanted[*block] && !resident[*block];
                let count = self.by_stretch[task.index() * self.stretches + stretch];
                assert_eq!(range.filter(lacks).count(), usize::from(count), "of a stretch");
            }
        }
        for (stretch, &count) in self.resident.iter().enumerate() {
            let range = stretch * STRETCH..((stretch + 1) * STRETCH).min(bundle.len());
            let there = range.filter(|&block| resident[block]).count();
            assert_eq!(there, usize::from(count), "resident blocks of a stretch");
        }
    }
}

fn words_of(stretch: usize, words: usize) -> Range<usize> {
    stretch * STRETCH_WORDS..((stretch + 1) * STRETCH_WORDS).min(words)
}

/// The blocks in a word of a set, given the word's position.
pub(super) fn blocks_of(at: usize, word: Word) -> impl Iterator<Item = BlockIndex> {
    ones(word as u64).map(move |bit| BlockIndex((at * WORD_BITS + bit) as u32))
}

/// The positions of the ones, ascending.
pub(super) fn ones(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let first = set.trailing_zeros() as usize;
        (set != 0).then(|| {
            set &= set - 1;
            first
        })
    })
}
