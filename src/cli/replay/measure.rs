//! How fast the device is that holds a bundle, as a made-up device needs to know it.

use super::{device::Speed, setting::largest_task};
use crate::{
    bundle::Bundle,
    cli::{failure::Failure, interrupt::Interrupt, reader::Reader},
    config::StorageConfig,
};
use std::{path::Path, time::Duration};

/// Long reads, and single blocks.
const LONGS: usize = 5;
const SINGLES: usize = 101;

/// Reads as many blocks as the largest task has in one piece, and single blocks far apart.
pub(super) fn speed(bundle: &Bundle, path: &Path, interrupt: &Interrupt) -> Result<Speed, Failure> {
    let mut reader = Reader::new(bundle, path, &StorageConfig::default())?;
    let mut random = fastrand::Rng::with_seed(1);
    let blocks = largest_task(bundle) as usize;
    let longs = (0..LONGS).map(|_| reader.read(0, blocks, interrupt));
    let long = median(longs.collect::<Result<_, _>>()?);
    let mut one = || reader.read(random.u32(..bundle.len() as u32), 1, interrupt);
    let single = median((0..SINGLES).map(|_| one()).collect::<Result<_, _>>()?);
    let block_bytes = bundle.block().bytes();
    let bytes_per_s = (blocks as u64 * block_bytes) as f64 / long.as_secs_f64();
    let speed = Speed { bytes_per_s, latency: Duration::ZERO };
    Ok(Speed { latency: single.saturating_sub(speed.service(block_bytes)), ..speed })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
