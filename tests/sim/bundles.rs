//! Bundles of small blocks, with their content at hand.

use crate::common::{Base, Fixture, Pruned, Task};
use fixedbitset::FixedBitSet;
use safetensors::Dtype;
use std::path::{Path, PathBuf};
use synchromesh::{
    bundle::BlockShape,
    units::{BlockIndex, TaskIndex},
};
use tempfile::TempDir;

/// Bytes of every block.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// The names of tasks, by position.
pub(crate) const TASKS: [&str; 6] = ["city", "highway", "parking", "tunnel", "rain", "night"];

/// A bundle's file and what it holds.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) path: PathBuf,
    pub(crate) model: &'static str,
    pub(crate) tasks: Vec<FixedBitSet>,
    pub(crate) blocks: Vec<Vec<u8>>,
    _folder: TempDir,
}

impl Content {
    /// Writes a bundle whose tasks have these blocks; each block must be in one.
    pub(crate) fn write(model: &'static str, tasks: &[Vec<u32>]) -> Self {
        Self::write_in(&std::env::temp_dir(), model, tasks)
    }

    /// The same in a folder of its own under `parent`.
    pub(crate) fn write_in(parent: &Path, model: &'static str, tasks: &[Vec<u32>]) -> Self {
        let count = tasks.iter().flatten().max().map_or(0, |last| last + 1);
        let fixture = fixture(model, tasks, count);
        let folder = tempfile::tempdir_in(parent).unwrap();
        let path = folder.path().join(format!("{model}.mesh"));
        fixture.write(&path);
        Self {
            path,
            model,
            tasks: fixture.tables().tasks,
            blocks: (0..count).map(|block| fixture.block_bytes(BlockIndex(block))).collect(),
            _folder: folder,
        }
    }

    /// Writes a bundle of `blocks` blocks and `tasks` tasks that overlap at random.
    pub(crate) fn random(model: &'static str, blocks: u32, tasks: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(u64::from(blocks));
        let mut sets: Vec<_> = (0..tasks)
            .map(|_| {
                let share = rng.u32(2..7);
                (0..blocks).filter(|_| rng.u32(..10) < share).collect::<Vec<_>>()
            })
            .collect();
        for block in 0..blocks {
            let set = rng.usize(..tasks);
            if !sets.iter().any(|set| set.contains(&block)) {
                sets[set].push(block);
            }
        }
        Self::write(model, &sets)
    }

    pub(crate) fn task(&self, name: &str) -> Option<TaskIndex> {
        let position = TASKS[..self.tasks.len()].iter().position(|&task| task == name)?;
        Some(TaskIndex(position as u32))
    }

    pub(crate) fn task_blocks(&self, task: TaskIndex) -> &FixedBitSet {
        &self.tasks[task.index()]
    }

    /// Blocks that these tasks have together.
    pub(crate) fn union(&self, tasks: impl IntoIterator<Item = TaskIndex>) -> FixedBitSet {
        let mut union = FixedBitSet::with_capacity(self.blocks.len());
        tasks.into_iter().for_each(|task| union.union_with(self.task_blocks(task)));
        union
    }

    pub(crate) fn largest_task(&self) -> usize {
        self.tasks.iter().map(|set| set.count_ones(..)).max().unwrap_or(0)
    }
}

fn fixture(model: &'static str, tasks: &[Vec<u32>], blocks: u32) -> Fixture {
    let task = |(&name, blocks): (&&'static str, &Vec<u32>)| Task { name, blocks: blocks.clone() };
    Fixture {
        model,
        seed: 1,
        block: BlockShape::new(32, 32, Dtype::F32).unwrap(),
        blocks,
        tensors: vec![Pruned {
            name: "weight",
            shape: [32, 32 * blocks as usize],
            grid: (0..blocks).collect(),
        }],
        tasks: TASKS.iter().zip(tasks).map(task).collect(),
        own: Vec::new(),
        base: vec![Base { name: "norm", dtype: Dtype::F32, shape: vec![100] }],
    }
}
