//! What each switch reads of a bundle: its blocks, the requests that they take, and what that
//! would be if the blocks lay in the order of the tensors.

use super::{
    layout::{Group, ReadCost, reads},
    taskset::TaskSet,
};
use crate::{
    bundle::{Bundle, PrunedTensor},
    units::TaskIndex,
};
use serde::Serialize;

/// What a switch reads from a pool that holds just the blocks of the task before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SwitchReads {
    /// Blocks that it needs.
    pub blocks: u64,
    /// Runs of blocks that it reads at once.
    pub extents: u64,
    /// Blocks that it reads, with those in gaps that are read through.
    pub read: u64,
    /// Runs if blocks lay in the order of the tensors, row by row.
    pub naive_extents: u64,
    /// Blocks read in that order.
    pub naive_read: u64,
}

/// For each ordered pair of tasks what the switch reads, by the task before, then after.
pub fn switch_reads(bundle: &Bundle) -> Vec<Vec<SwitchReads>> {
    let sets = task_sets(bundle);
    let cost = ReadCost::of(bundle.meta().layout.request_bytes, bundle.block());
    let on_disk = runs(sets.iter().copied());
    let naive = runs(in_tensor_order(bundle).into_iter().map(|block| sets[block]));
    let pair = |from: TaskIndex, to: TaskIndex| {
        let laid_out = reads(on_disk.iter().copied(), from, to, cost);
        let naive = reads(naive.iter().copied(), from, to, cost);
        SwitchReads {
            blocks: laid_out.blocks,
            extents: laid_out.requests,
            read: laid_out.read,
            naive_extents: naive.requests,
            naive_read: naive.read,
        }
    };
    let row = |from| bundle.task_indices().map(|to| pair(from, to)).collect();
    bundle.task_indices().map(row).collect()
}

/// By block: the tasks that keep it.
fn task_sets(bundle: &Bundle) -> Vec<TaskSet> {
    let mut sets = vec![TaskSet::EMPTY; bundle.len()];
    for task in bundle.task_indices() {
        bundle.task_blocks(task).ones().for_each(|block| sets[block].insert(task));
    }
    sets
}

fn runs(sets: impl Iterator<Item = TaskSet>) -> Vec<Group> {
    let mut runs = Vec::<Group>::new();
    for set in sets {
        match runs.last_mut() {
            Some(last) if last.set == set => last.blocks += 1,
            _ => runs.push(Group { set, blocks: 1 }),
        }
    }
    runs
}

/// All blocks, by where they first stand in the model.
fn in_tensor_order(bundle: &Bundle) -> Vec<usize> {
    let mut seen = vec![false; bundle.len()];
    let blocks = bundle.tensors().iter().flat_map(PrunedTensor::all_blocks);
    blocks
        .map(|block| block.index())
        .filter(|&block| !std::mem::replace(&mut seen[block], true))
        .collect()
}
