//! The order of the blocks on disk.
//!
//! Blocks that the same tasks keep lie together, so that what a switch reads is runs of whole
//! groups. How likely each switch is plays no part.

use super::taskset::TaskSet;
use std::collections::BTreeMap;

/// Where each block goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// By the order in which blocks were found: the position on disk.
    pub(super) position: Vec<u32>,
    /// Number of groups of blocks with equal task sets.
    pub(super) groups: u64,
}

/// Orders blocks, given their task sets in the order in which they were found (by tensor, then by
/// place). Within a group that order stays.
pub(super) fn lay_out(sets: &[TaskSet]) -> Layout {
    let sizes = group_sizes(sets);
    let mut order: Vec<_> = sizes.keys().copied().collect();
    order.sort_by_key(|&set| gray_rank(set));
    let mut next = sizes;
    let mut start = 0;
    for set in &order {
        if let Some(entry) = next.get_mut(set) {
            start += std::mem::replace(entry, start);
        }
    }
    let mut place = |set| {
        let at: &mut u32 = next.entry(set).or_default();
        *at += 1;
        *at - 1
    };
    let position = sets.iter().map(|&set| place(set)).collect();
    Layout { position, groups: order.len() as u64 }
}

/// The number of blocks of each task set.
pub(super) fn group_sizes(sets: &[TaskSet]) -> BTreeMap<TaskSet, u32> {
    let mut sizes = BTreeMap::new();
    for &set in sets {
        *sizes.entry(set).or_default() += 1;
    }
    sizes
}

/// A set's place in the reflected Gray code, whose neighbours differ in one task: a task's groups
/// then form about half as many runs as they would in the order of the bits.
fn gray_rank(set: TaskSet) -> u64 {
    [1, 2, 4, 8, 16, 32].into_iter().fold(set.bits(), |rank, shift| rank ^ (rank >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::TaskIndex;
    use proptest::prelude::*;

    fn set(bits: u32) -> TaskSet {
        let tasks = (0..32).filter(|task| bits >> task & 1 == 1);
        tasks.fold(TaskSet::EMPTY, |set, task| set.union(TaskSet::of(TaskIndex(task))))
    }

    #[test]
    fn groups_follow_the_gray_code_and_keep_the_order_within() {
        let layout = lay_out(&[set(0b10), set(0b01), set(0b11), set(0b10), set(0b01)]);
        assert_eq!(layout, Layout { position: vec![3, 0, 2, 4, 1], groups: 3 });
    }

    proptest! {
        #[test]
        fn every_block_has_a_position_and_equal_sets_lie_together(
            bits in prop::collection::vec(1u32..16, 0..200)
        ) {
            let sets: Vec<_> = bits.iter().map(|&bits| set(bits)).collect();
            let layout = lay_out(&sets);
            let mut on_disk = vec![None; sets.len()];
            for (&set, &position) in sets.iter().zip(&layout.position) {
                prop_assert_eq!(on_disk[position as usize].replace(set), None);
            }
            let runs = on_disk.chunk_by(|a, b| a == b).count();
            prop_assert_eq!(runs as u64, layout.groups);
            let distinct: std::collections::BTreeSet<_> = sets.iter().collect();
            prop_assert_eq!(runs, distinct.len());
        }
    }
}
