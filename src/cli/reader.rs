//! Reads many blocks in one piece: what the device can do, and the other way to switch, which is
//! to read the next task's whole sparse checkpoint.
//!
//! Reads as the daemon does by default, with the same requests, into memory of the same kind. It
//! verifies and publishes nothing, which only makes it faster.

use super::{failure::Failure, interrupt::Interrupt};
use crate::{
    bundle::Bundle,
    config::StorageConfig,
    daemon::settings,
    device::{MemoryError, Pool, PoolLayout, Window},
    storage::{BlockFile, Completion, Priority, Read, Resources, Storage, start},
    units::BlockIndex,
};
use std::{
    collections::VecDeque,
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
        let layout = PoolLayout::new(0, bundle.block().bytes(), largest as u32);
        let layout = layout.ok_or_else(|| Failure::failed("a task is larger than memory"))?;
        let (pool, windows) =
            Pool::create::<MemoryError>(layout, false, |_| Ok(())).map_err(Failure::failed)?;
        let file = Arc::new(BlockFile::open(path).map_err(Failure::failed)?);
        let (sender, done) = mpsc::channel();
        let sink = Arc::new(move |completion| drop(sender.send(completion)));
        let resources = Resources { files: vec![file.clone()], pools: vec![pool] };
        let storage = start(settings(config), resources, sink).map_err(Failure::failed)?.storage;
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
        let mut reads = self.reads(first, count);
        let mut under_way = 0;
        let begun = Instant::now();
        while !reads.is_empty() || under_way > 0 {
            while let Some(read) = reads.pop_front() {
                if let Err(read) = self.storage.submit(read) {
                    reads.push_front(read);
                    break;
                }
                under_way += 1;
            }
            let Completion { read, result } = self.done.recv().map_err(Failure::failed)?;
            under_way -= 1;
            result.map_err(Failure::failed)?;
            self.windows.extend(read.blocks.into_iter().map(|(_, window)| window));
            interrupt.check()?;
        }
        let time = begun.elapsed();
        self.windows.sort_by_key(Window::slot);
        Ok(time)
    }

    /// The requests that the daemon would make for these blocks.
    fn reads(&mut self, first: u32, count: usize) -> VecDeque<Read> {
        let count = count.min(self.windows.len());
        let mut blocks = (first..).map(BlockIndex).zip(self.windows.drain(..count));
        let mut reads = VecDeque::new();
        loop {
            let blocks: Vec<_> = blocks.by_ref().take(self.longest).collect();
            let Some((start, _)) = blocks.first() else { return reads };
            let offset = self.bundle.block_offset(*start);
            reads.push_back(Read {
                model: 0,
                attempt: 0,
                priority: Priority::Demand,
                begun: Duration::ZERO,
                file: self.file.clone(),
                offset,
                blocks,
            });
        }
    }
}
