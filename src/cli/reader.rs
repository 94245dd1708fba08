//! Reads many blocks in one piece: what the device can do, and the other way to switch, which is
//! to read the next task's whole sparse checkpoint.
//!
//! Reads as the daemon does by default, with the same requests, into memory of the same kind. It
//! verifies and publishes nothing, which only makes it faster.

use super::{failure::Failure, interrupt::Interrupt};
use crate::{
    bundle::Bundle,
    config::StorageConfig,
    device::{Pool, Window},
    storage::{BlockFile, Completion, Read, Resources, Storage, carry_out, start},
    units::BlockIndex,
};
use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Reads pieces of a bundle, one at a time.
pub(super) struct Reader<'a> {
    bundle: &'a Bundle,
    file: Arc<BlockFile>,
    storage: Box<dyn Storage>,
    done: mpsc::Receiver<Completion>,
    /// All windows between reloads, in the order of their slots.
    windows: Vec<Window>,
    /// Blocks of a request.
    longest: usize,
}

impl<'a> Reader<'a> {
    /// Takes memory for the largest task.
    pub(super) fn new(
        bundle: &'a Bundle,
        path: &Path,
        config: &StorageConfig,
    ) -> Result<Self, Failure> {
        let largest = bundle.task_indices().map(|task| bundle.task_blocks(task).count_ones(..));
        let largest = largest.max().unwrap_or_default();
        let (pool, windows) =
            Pool::of_slots(bundle.block().bytes(), largest as u32).map_err(Failure::failed)?;
        let file = Arc::new(BlockFile::open(path).map_err(Failure::failed)?);
        let (sender, done) = mpsc::channel();
        let sink = Arc::new(move |completion| drop(sender.send(completion)));
        let resources = Resources { files: vec![file.clone()], pools: vec![pool] };
        let storage = start(config, resources, sink).map_err(Failure::failed)?.storage;
        let longest = (config.read_bytes / bundle.block().bytes()).max(1) as usize;
        Ok(Self { bundle, file, storage, done, windows, longest })
    }

    /// Whether reads go past the page cache.
    pub(super) fn direct(&self) -> bool {
        self.file.direct()
    }

    /// Reads as many bytes as `count` blocks have, in one piece from `first` on, and gives the
    /// time from the first request to the last completion.
    pub(super) fn read(
        &mut self,
        first: u32,
        count: usize,
        interrupt: &Interrupt,
    ) -> Result<Duration, Failure> {
        let reads = self.reads(first, count);
        let begun = Instant::now();
        let next = || {
            interrupt.check()?;
            let Completion { read, result } = self.done.recv().map_err(Failure::failed)?;
            result.map(|()| read).map_err(Failure::failed)
        };
        self.windows.extend(carry_out(&*self.storage, reads, next)?);
        let time = begun.elapsed();
        self.windows.sort_by_key(Window::slot);
        Ok(time)
    }

    /// The requests that the daemon would make for these blocks.
    fn reads(&mut self, first: u32, count: usize) -> Vec<Read> {
        let count = count.min(self.windows.len());
        let mut blocks = (first..).map(BlockIndex).zip(self.windows.drain(..count));
        let mut reads = Vec::new();
        loop {
            let blocks: Vec<_> = blocks.by_ref().take(self.longest).collect();
            let Some((start, _)) = blocks.first() else { return reads };
            let offset = self.bundle.block_offset(*start);
            reads.push(Read::new(self.file.clone(), offset, blocks));
        }
    }
}
