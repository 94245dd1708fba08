//! Numbers for the demo that look like a transformer's: heavy-tailed, and the same in every run.
//!
//! Not for statistics: a normal is a sum of four uniforms here.

use fastrand::Rng;
use half::bf16;
use std::thread;

/// Rows that share a scale, like those of an attention head.
const BAND_ROWS: usize = 64;
/// Spread of the scales of bands, as the sigma of a lognormal.
const BAND_SPREAD: f32 = 0.3;
/// Spread of what a channel matters to all tasks.
const SHARED_SPREAD: f32 = 1.0;
/// Spread of what a channel matters to one task besides. Large enough that the best halves of two
/// tasks differ by some 10 %.
const OWN_SPREAD: f32 = 0.22;
const WEIGHT_SCALE: f32 = 0.02;

/// A generator that depends on nothing but these words.
pub(super) fn seeded(words: &[&str]) -> Rng {
    let mut hasher = blake3::Hasher::new();
    for word in words {
        hasher.update(&(word.len() as u64).to_le_bytes()).update(word.as_bytes());
    }
    let mut seed = [0; 8];
    hasher.finalize_xof().fill(&mut seed);
    Rng::with_seed(u64::from_le_bytes(seed))
}

/// Nearly normal, with mean 0 and variance 1.
fn normal(rng: &mut Rng) -> f32 {
    let bits = rng.u64(..);
    let sum: u64 = (0..4).map(|lane| bits >> (16 * lane) & 0xffff).sum();
    (sum as f32 / 65535.0 - 2.0) * 1.732_050_8
}

/// A weight of `rows` x `cols` in bf16: each band of rows has its scale.
pub(super) fn weight(tensor: &str, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = vec![0; rows * cols * 2];
    let bands = rows.div_ceil(BAND_ROWS);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let bands_each = bands.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let shares = bytes.chunks_mut((bands_each * BAND_ROWS * cols * 2).max(1));
        for (share, bytes) in shares.enumerate() {
            scope.spawn(move || {
                let bands = bytes.chunks_mut((BAND_ROWS * cols * 2).max(1));
                for (band, bytes) in (share * bands_each..).zip(bands) {
                    fill_band(&mut seeded(&["weight", tensor, &band.to_string()]), bytes);
                }
            });
        }
    });
    bytes
}

fn fill_band(rng: &mut Rng, bytes: &mut [u8]) {
    let scale = (BAND_SPREAD * normal(rng)).exp() * WEIGHT_SCALE;
    for element in bytes.as_chunks_mut().0 {
        *element = bf16::from_f32(normal(rng) * scale).to_le_bytes();
    }
}

/// A vector in bf16 around 1, as those of normalisation layers are.
pub(super) fn gains(tensor: &str, len: usize) -> Vec<u8> {
    let mut rng = seeded(&["gains", tensor]);
    (0..len).flat_map(|_| bf16::from_f32(1.0 + 0.1 * normal(&mut rng)).to_le_bytes()).collect()
}

/// The norms of a weight's input channels in one task: what they are in all tasks, times a
/// smaller factor of the task's own. Both are lognormal.
pub(super) fn norms(task: &str, tensor: &str, channels: usize) -> Vec<f32> {
    let mut shared = seeded(&["norms", tensor]);
    let mut own = seeded(&["norms", tensor, task]);
    let mut norm = || (SHARED_SPREAD * normal(&mut shared) + OWN_SPREAD * normal(&mut own)).exp();
    (0..channels).map(|_| norm()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_each_time_and_differ_by_name() {
        assert_eq!(weight("a", 130, 40), weight("a", 130, 40));
        assert_ne!(weight("a", 130, 40), weight("b", 130, 40));
        assert_eq!(norms("city", "a", 9), norms("city", "a", 9));
        assert_ne!(norms("city", "a", 9), norms("rain", "a", 9));
    }

    #[test]
    fn normals_have_mean_0_and_variance_1() {
        let mut rng = seeded(&["test"]);
        let values: Vec<_> = (0..100_000).map(|_| normal(&mut rng)).collect();
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
