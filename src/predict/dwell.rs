//! How long tasks last before each other task: fading histograms over the logarithm of time.
//!
//! What was never seen falls back on how long the task lasts before any other, and that on a guess
//! wide enough to be wrong with dignity.

use crate::units::TaskIndex;
use std::{collections::BTreeMap, time::Duration};

/// From a millisecond to three days, two an octave: what lasts longer counts as three days.
pub(super) const BUCKETS: usize = 56;
/// What is left of a count when its pair is met the next time.
const RATE: f32 = 0.95;
/// How many observations what is known without them is worth.
const BACKED_BY: f64 = 1.0;
/// How long a task of which nothing is known lasts, in the middle.
const GUESS: Duration = Duration::from_secs(10);

/// Histograms by the task that lasted and the task that followed.
#[derive(Clone, Debug, Default)]
pub(super) struct Dwells(pub(super) BTreeMap<(TaskIndex, TaskIndex), Histogram>);

/// Counts by duration.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram(pub(super) [f32; BUCKETS]);

impl Dwells {
    /// Learns how long a task was active before another.
    pub(super) fn observe(&mut self, from: TaskIndex, to: TaskIndex, dwell: Duration) {
        let histogram = self.0.entry((from, to)).or_insert(Histogram([0.0; BUCKETS]));
        histogram.0.iter_mut().for_each(|count| *count *= RATE);
        histogram.0[(position(dwell) as usize).min(BUCKETS - 1)] += 1.0;
    }

    /// The probability that a task that is followed by this other one lasts longer than that.
    pub(super) fn survival(&self, from: TaskIndex, to: TaskIndex, elapsed: Duration) -> f64 {
        let guess = 1.0 / (1.0 + elapsed.as_secs_f64() / GUESS.as_secs_f64());
        let (mut longer, mut all) = (0.0, 0.0);
        let before_any = (from, TaskIndex(0))..=(from, TaskIndex(u32::MAX));
        for (_, histogram) in self.0.range(before_any) {
            longer += histogram.longer(elapsed);
            all += histogram.all();
        }
        let before_any = (longer + BACKED_BY * guess) / (all + BACKED_BY);
        let Some(histogram) = self.0.get(&(from, to)) else { return before_any };
        (histogram.longer(elapsed) + BACKED_BY * before_any) / (histogram.all() + BACKED_BY)
    }

    /// How much longer a task that has lasted so long will last before this other one: shorter than
    /// the answer in this share of cases. As coarse as the histograms, and then rather too short.
    pub(super) fn remaining(
        &self,
        from: TaskIndex,
        to: TaskIndex,
        elapsed: Duration,
        share: f64,
    ) -> Duration {
        let left = self.survival(from, to, elapsed) * (1.0 - share);
        let later = (position(elapsed) as usize + 1)..BUCKETS;
        let last = later.take_while(|&at| self.survival(from, to, time(at as f64)) > left).last();
        last.map_or(Duration::ZERO, |at| time(at as f64).saturating_sub(elapsed))
    }
}

impl Histogram {
    fn all(&self) -> f64 {
        self.0.iter().copied().map(f64::from).sum()
    }

    /// How much of it is longer than this; within a bucket durations lie evenly.
    fn longer(&self, than: Duration) -> f64 {
        let at = position(than);
        let beyond = |(bucket, &count): (usize, &f32)| {
            let share = (bucket as f64 + 1.0 - at).clamp(0.0, 1.0);
            f64::from(count) * share
        };
        self.0.iter().enumerate().map(beyond).sum()
    }
}

/// The bucket of a duration, and how far in it.
fn position(time: Duration) -> f64 {
    (2.0 * (time.as_secs_f64() * 1e3).max(1.0).log2()).min(BUCKETS as f64)
}

/// Where a bucket begins.
fn time(position: f64) -> Duration {
    Duration::from_secs_f64((position / 2.0).exp2() / 1e3)
}
