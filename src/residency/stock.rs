//! What may be evicted, in the order in which it should go: what is worth least first, of equal
//! worth what was used longest ago, of equal age what lies together, as it was read together.
//!
//! The order is found in one pass over what nothing pins, at once or a bit at a time.

use super::{
    Residency,
    missing::{blocks_of, ones},
};
use crate::{
    bundle::MAX_TASKS,
    units::{BlockIndex, TaskIndex},
};
use std::ops::Range;

/// What is worth less than this counts as worth nothing.
const LEAST_WORTH: f64 = 1.0 / 512.0;
/// Steps of worth, half an octave each.
const LEVELS: usize = 22;

/// How likely each task is to be needed, added up over sessions. A block is worth as much as all
/// the tasks that have it.
#[derive(Clone, Debug)]
pub struct Worth {
    by_task: [f64; MAX_TASKS],
    /// The tasks that are worth anything, a bit for each.
    valued: u64,
}

/// A step of worth. What differs by less than a step is not exchanged: it would be read in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

/// Blocks that may go, by rank; those that were pinned or went since do not count.
#[derive(Debug)]
pub struct Stock {
    worth: Worth,
    /// By task, how recently it was used; what no used task has was never asked for.
    recency: [usize; MAX_TASKS],
    recencies: usize,
    by_rank: Vec<Vec<BlockIndex>>,
    /// Words of the sets that were not looked at yet.
    left: Range<usize>,
    /// The last tasks looked at, and the level that they make: neighbours are alike.
    last: (u64, Level),
}

impl Default for Worth {
    fn default() -> Self {
        Self { by_task: [0.0; MAX_TASKS], valued: 0 }
    }
}

impl Worth {
    /// Adds to what a task is worth.
    pub fn add(&mut self, task: TaskIndex, worth: f64) {
        self.by_task[task.index()] += worth;
        if self.by_task[task.index()] > 0.0 {
            self.valued |= 1 << task.0;
        }
    }

    /// The same in proportion, with a sum of `whole`, or nothing if all is worth nothing.
    pub fn shares(mut self, whole: f64) -> Self {
        let sum: f64 = self.by_task.iter().sum();
        let factor = if sum > 0.0 { whole / sum } else { 0.0 };
        self.by_task.iter_mut().for_each(|worth| *worth *= factor);
        self
    }

    /// Both together.
    pub fn plus(mut self, other: &Self) -> Self {
        self.by_task.iter_mut().zip(other.by_task).for_each(|(worth, more)| *worth += more);
        self.valued |= other.valued;
        self
    }

    /// What a task is worth.
    pub fn of(&self, task: TaskIndex) -> f64 {
        self.by_task[task.index()]
    }

    /// The level of a block that these tasks have.
    fn level(&self, owners: u64) -> Level {
        Level::of(ones(owners & self.valued).map(|task| self.by_task[task]).sum())
    }
}

impl Level {
    /// Above all others.
    pub const MAX: Self = Self(u8::MAX);

    /// The level of so much worth.
    pub fn of(worth: f64) -> Self {
        let steps = 2.0 * (worth / LEAST_WORTH).log2() + 1.0;
        // What is worth nothing, or no number, has level 0.
        Self(steps.clamp(0.0, (LEVELS - 1) as f64) as u8)
    }
}

impl Residency {
    /// Sets what tasks are worth, until the next time.
    pub fn set_worth(&mut self, worth: Worth) {
        self.worth = worth;
    }

    /// Begins to look for what may be evicted.
    pub fn stock(&self) -> Stock {
        let mut recency = [0; MAX_TASKS];
        for ((task, ()), rank) in self.recency.iter().rev().zip(1..) {
            recency[task.index()] = rank;
        }
        let recencies = self.recency.len() + 1;
        Stock {
            worth: self.worth.clone(),
            recency,
            recencies,
            by_rank: vec![Vec::new(); LEVELS * recencies],
            left: 0..self.resident.as_slice().len(),
            last: (0, Level(0)),
        }
    }

    /// Looks at up to so many words more, and says whether all were looked at.
    pub fn search(&self, stock: &mut Stock, words: usize) -> bool {
        let until = stock.left.end.min(stock.left.start.saturating_add(words));
        for (at, blocks) in self.unpinned(self.pinned, stock.left.start..until) {
            for block in blocks_of(at, blocks) {
                self.missing.count(1);
                let rank = stock.rank(self.missing.owners(block));
                stock.by_rank[rank].push(block);
            }
        }
        stock.left.start = until;
        stock.left.is_empty()
    }

    /// Evicts up to so many blocks of lower levels than this, and gives their number.
    pub fn evict_from(&mut self, stock: &mut Stock, below: Level, count: usize) -> usize {
        let mut evicted = 0;
        let ranks = (usize::from(below.0) * stock.recencies).min(stock.by_rank.len());
        for blocks in &mut stock.by_rank[..ranks] {
            while evicted < count
                && let Some(block) = blocks.pop()
            {
                if self.resident[block.index()] && !self.is_pinned(block) {
                    self.evict(block);
                    evicted += 1;
                }
            }
        }
        evicted
    }
}

impl Stock {
    fn rank(&mut self, owners: u64) -> usize {
        if owners & self.worth.valued != self.last.0 {
            self.last = (owners & self.worth.valued, self.worth.level(owners));
        }
        let recency = ones(owners).map(|task| self.recency[task]).max();
        usize::from(self.last.1.0) * self.recencies + recency.unwrap_or_default()
    }

    /// The blocks that were found, in the order in which they should go.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = BlockIndex> {
        self.by_rank.into_iter().flatten()
    }
}
