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

/// How long one task lasts.
pub(super) struct Lasting<'a> {
    dwells: &'a Dwells,
    from: TaskIndex,
    before_any: Survival,
}

/// The probability to last beyond the beginning of each bucket, and beyond the last one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survival([f64; BUCKETS + 1]);

impl Dwells {
    /// Learns how long a task was active before another.
    pub(super) fn observe(&mut self, from: TaskIndex, to: TaskIndex, dwell: Duration) {
        let histogram = self.0.entry((from, to)).or_insert(Histogram([0.0; BUCKETS]));
        histogram.0.iter_mut().for_each(|count| *count *= RATE);
        histogram.0[(position(dwell) as usize).min(BUCKETS - 1)] += 1.0;
    }

    /// How long a task lasts, to be asked for each that may follow.
    pub(super) fn of(&self, from: TaskIndex) -> Lasting<'_> {
        let mut all = Histogram([0.0; BUCKETS]);
        let before_any = (from, TaskIndex(0))..=(from, TaskIndex(u32::MAX));
        for (_, histogram) in self.0.range(before_any) {
            all.0.iter_mut().zip(histogram.0).for_each(|(all, count)| *all += count);
        }
        Lasting { dwells: self, from, before_any: all.revise(&guess()) }
    }
}

impl Lasting<'_> {
    /// How long the task lasts if it is followed by this other one.
    pub(super) fn before(&self, to: TaskIndex) -> Survival {
        let known = self.dwells.0.get(&(self.from, to));
        known.map_or(self.before_any, |histogram| histogram.revise(&self.before_any))
    }
}

impl Survival {
    /// The probability to last longer than that.
    pub(super) fn at(&self, elapsed: Duration) -> f64 {
        let position = position(elapsed);
        let (bucket, within) = (position as usize, position.fract());
        let after = self.0.get(bucket + 1).unwrap_or(&self.0[BUCKETS]);
        self.0[bucket.min(BUCKETS)] * (1.0 - within) + after * within
    }

    /// How much longer what has lasted so long will last: shorter than the answer in this share of
    /// cases. As coarse as the histograms, and then rather too short.
    pub(super) fn remaining(&self, elapsed: Duration, share: f64) -> Duration {
        let left = self.at(elapsed) * (1.0 - share);
        let later = (position(elapsed) as usize + 1)..BUCKETS;
        let last = later.take_while(|&bucket| self.0[bucket] > left).last();
        last.map_or(Duration::ZERO, |bucket| time(bucket).saturating_sub(elapsed))
    }
}

/// What is held of durations before anything is known.
fn guess() -> Survival {
    let share = |bucket| 1.0 / (1.0 + time(bucket).as_secs_f64() / GUESS.as_secs_f64());
    Survival(std::array::from_fn(share))
}

impl Histogram {
    /// What the counts make of what is held without them. Within a bucket durations lie evenly.
    fn revise(&self, without: &Survival) -> Survival {
        let all: f64 = self.0.iter().copied().map(f64::from).sum();
        let (mut longer, mut revised) = (all, *without);
        for (bucket, survival) in revised.0.iter_mut().enumerate() {
            *survival = (longer + BACKED_BY * *survival) / (all + BACKED_BY);
            longer = (longer - self.0.get(bucket).map_or(0.0, |count| f64::from(*count))).max(0.0);
        }
        revised
    }
}

/// The bucket of a duration, and how far in it.
fn position(time: Duration) -> f64 {
    (2.0 * (time.as_secs_f64() * 1e3).max(1.0).log2()).min(BUCKETS as f64)
}

/// Where a bucket begins.
fn time(bucket: usize) -> Duration {
    Duration::from_secs_f64((bucket as f64 / 2.0).exp2() / 1e3)
}
