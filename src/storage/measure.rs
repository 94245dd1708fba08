//! What one more request costs on this device, measured by reading from the bundle itself.
//!
//! Two ways to read are timed in turn: single blocks far apart, and one piece in long requests,
//! both with as many under way as the daemon has. A request costs what a single block takes
//! beyond its share of the long ones, told in bytes that could be read meanwhile: gaps up to that
//! size are worth reading through.

use super::{BlockFile, Completion, Read, Resources, Storage, carry_out, start};
use crate::{
    config::StorageConfig,
    device::{Pool, Window},
    units::BlockIndex,
};
use std::{
    ops::Range,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Single blocks of a round, and long requests of a round with their size.
const SINGLES: u32 = 128;
const LONGS: u32 = 16;
const LONG_BYTES: u64 = 256 << 10;
/// Rounds, and the time after which no other is begun.
const ROUNDS: usize = 3;
const ENOUGH: Duration = Duration::from_millis(40);
/// Files that are smaller are not worth it.
const LEAST_BYTES: u64 = 16 << 20;
/// A read that has not ended by then is no measure of anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that could be read in the time that one more request costs; `None` if this file cannot
/// tell, or reading fails. `region` is where its blocks of `block_bytes` lie.
pub fn request_bytes(
    config: &StorageConfig,
    file: &Arc<BlockFile>,
    region: Range<u64>,
    block_bytes: u64,
) -> Option<u64> {
    // Where blocks are as long as requests there are no gaps to be read through.
    if region.end - region.start < LEAST_BYTES || block_bytes >= LONG_BYTES || !file.direct() {
        return None;
    }
    let (sender, done) = mpsc::channel();
    let sink = Arc::new(move |completion| drop(sender.send(completion)));
    let resources = Resources { files: vec![file.clone()], pools: Vec::new() };
    let storage = start(config, resources, sink).ok()?.storage;
    let cost = Meter { region, file, storage: &*storage, done }.cost(block_bytes);
    if cost.is_none() {
        // Its end would wait for reads that may never be done.
        std::mem::forget(storage);
    }
    cost
}

struct Meter<'a> {
    region: Range<u64>,
    file: &'a Arc<BlockFile>,
    storage: &'a dyn Storage,
    done: mpsc::Receiver<Completion>,
}

impl Meter<'_> {
    /// Bytes that could be read in the time that one more request costs.
    fn cost(&mut self, block_bytes: u64) -> Option<u64> {
        let mut random = fastrand::Rng::with_seed(1);
        let begun = Instant::now();
        let (_, mut singles) = Pool::of_slots(block_bytes, SINGLES).ok()?;
        let (_, mut longs) = Pool::of_slots(LONG_BYTES, LONGS).ok()?;
        let row_bytes = LONG_BYTES * u64::from(LONGS);
        let blocks = (self.region.end - self.region.start) / block_bytes;
        let row_blocks = row_bytes.div_ceil(block_bytes);
        let mut costs = Vec::new();
        while costs.len() < ROUNDS && (costs.is_empty() || begun.elapsed() < ENOUGH) {
            let apart = |_| random.u64(..blocks) * block_bytes;
            let single = self.time(&mut singles, apart)?.as_secs_f64() / f64::from(SINGLES);
            let first = random.u64(..blocks - row_blocks) * block_bytes;
            let in_a_row = |number| first + u64::from(number) * LONG_BYTES;
            let row = self.time(&mut longs, in_a_row)?.as_secs_f64();
            costs.push((single / row * row_bytes as f64 - block_bytes as f64).max(0.0));
        }
        costs.sort_by(f64::total_cmp);
        Some(costs[costs.len() / 2] as u64)
    }

    /// Time to fill all windows from these offsets of the region, in any order.
    fn time(
        &mut self,
        windows: &mut Vec<Window>,
        mut offset: impl FnMut(u32) -> u64,
    ) -> Option<Duration> {
        let reads = (0..).zip(windows.drain(..)).map(|(number, window)| {
            let offset = self.region.start + offset(number);
            Read::new(self.file.clone(), offset, vec![(BlockIndex(0), window)])
        });
        let reads = reads.collect();
        let begun = Instant::now();
        let next = || {
            let Completion { read, result } = self.done.recv_timeout(PATIENCE).map_err(drop)?;
            result.map(|()| read).map_err(drop)
        };
        *windows = carry_out(self.storage, reads, next).ok()?;
        Some(begun.elapsed())
    }
}
