//! What followed each recent history, counted, and what each length of history makes of it.

use super::normalize;
use crate::units::TaskIndex;
use lru::LruCache;
use std::num::NonZeroUsize;

/// Longest history that is told apart.
pub(super) const MAX_ORDER: usize = 4;
/// Histories that are remembered, the latest met; this bounds memory and the state on disk.
pub(super) const MAX_CONTEXTS: NonZeroUsize = NonZeroUsize::new(2048).unwrap();
/// What is left of a count when its history is met the next time: slow and fast.
const RATES: [f32; 2] = [0.98, 0.8];
/// How many observations the opinion of the next shorter history is worth, by length. The longer a
/// history, the more surely the same follows again.
const BACKED_BY: [f64; MAX_ORDER + 1] = [2.0, 1.0, 0.5, 0.5, 0.5];
/// A count below is as good as none.
const FORGOTTEN: f32 = 1e-3;
/// One for each length of history, from none on, and each speed.
pub(super) const EXPERTS: usize = (MAX_ORDER + 1) * RATES.len();
/// Counts by history.
#[derive(Clone, Debug)]
pub(super) struct Contexts {
    followers: LruCache<Context, Followers>,
    /// Grows when what was learnt before counts little.
    era: u32,
}

/// What followed a history.
#[derive(Clone, Debug, Default)]
struct Followers {
    counts: Vec<Count>,
    /// When the history was met last.
    era: u32,
}

/// A history of a certain length, packed: 7 bits a task, the latest in the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Context(u32);

/// How often a task followed, fading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Count {
    pub(super) task: TaskIndex,
    pub(super) seen: [f32; RATES.len()],
}

impl Default for Contexts {
    fn default() -> Self {
        Self { followers: LruCache::new(MAX_CONTEXTS), era: 0 }
    }
}

impl Context {
    /// The history's first tasks are the latest; it has at most [`MAX_ORDER`].
    pub(super) fn of(history: &[TaskIndex]) -> Self {
        Self(history.iter().rev().fold(0, |packed, task| packed << 7 | (task.0 + 1)))
    }

    pub(super) fn tasks(self) -> Vec<TaskIndex> {
        let places = (0..MAX_ORDER).map(|place| self.0 >> (7 * place) & 0x7F);
        places.take_while(|&task| task > 0).map(|task| TaskIndex(task - 1)).collect()
    }
}

impl Contexts {
    /// Counts a task for every length of the history that it followed.
    pub(super) fn observe(&mut self, history: &[TaskIndex], task: TaskIndex) {
        for order in 0..=history.len().min(MAX_ORDER) {
            let context = Context::of(&history[..order]);
            let followers = self.followers.get_or_insert_mut(context, Followers::default);
            let fade = followers.fade(self.era);
            followers.era = self.era;
            let counts = &mut followers.counts;
            for count in counts.iter_mut() {
                let fading = count.seen.iter_mut().zip(RATES).zip(fade);
                fading.for_each(|((seen, rate), fade)| *seen *= rate * fade);
            }
            counts.retain(|count| count.seen[0] > FORGOTTEN);
            match counts.iter_mut().find(|count| count.task == task) {
                Some(count) => count.seen.iter_mut().for_each(|seen| *seen += 1.0),
                None => counts.push(Count { task, seen: [1.0; RATES.len()] }),
            }
        }
    }

    /// What each expert holds each task's probability to be, given what is known without having
    /// seen anything. The task before is no candidate.
    pub(super) fn experts(&self, history: &[TaskIndex], prior: Vec<f64>) -> Vec<Vec<f64>> {
        let mut opinions = vec![prior; RATES.len()];
        let mut experts = Vec::with_capacity(EXPERTS);
        for (order, backed_by) in BACKED_BY.into_iter().enumerate() {
            let known =
                history.get(..order).and_then(|tasks| self.followers.peek(&Context::of(tasks)));
            for (speed, opinion) in opinions.iter_mut().enumerate() {
                if let Some(followers) = known {
                    let fade = followers.fade(self.era);
                    let seen = |count: &Count| f64::from(count.seen[speed] * fade[speed]);
                    let seen = followers.counts.iter().map(|count| (count.task, seen(count)));
                    revise(
                        opinion,
                        seen.filter(|seen| Some(&seen.0) != history.first()),
                        backed_by,
                    );
                }
                experts.push(opinion.clone());
            }
        }
        experts
    }

    /// What follows a task by the slow counts of that task alone, given what is known without having
    /// seen anything.
    pub(super) fn first_order(&self, task: TaskIndex, prior: Vec<f64>) -> Vec<f64> {
        let mut opinion = prior;
        for (history, backed_by) in [&[][..], &[task]].into_iter().zip(BACKED_BY) {
            if let Some(followers) = self.followers.peek(&Context::of(history)) {
                let fade = followers.fade(self.era)[0];
                let seen = followers.counts.iter().filter(|count| count.task != task);
                let seen = seen.map(|count| (count.task, f64::from(count.seen[0] * fade)));
                revise(&mut opinion, seen, backed_by);
            }
        }
        opinion
    }

    /// Begins an era: from now on, what followed a history before is worth one observation.
    pub(super) fn begin_era(&mut self) {
        self.era += 1;
    }

    /// Everything, the latest met first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Context, &[Count])> {
        self.followers.iter().map(|(context, f)| (*context, &f.counts[..]))
    }

    /// Puts counts back, as the latest met.
    pub(super) fn put(&mut self, context: Context, counts: Vec<Count>) {
        self.followers.put(context, Followers { counts, era: self.era });
    }
}

impl Followers {
    /// What is left of the counts in a later era, by speed.
    fn fade(&self, era: u32) -> [f32; RATES.len()] {
        let mut fade = [1.0; RATES.len()];
        if self.era < era {
            for (speed, fade) in fade.iter_mut().enumerate() {
                let seen: f32 = self.counts.iter().map(|count| count.seen[speed]).sum();
                *fade = 1.0 / seen.max(1.0);
            }
        }
        fade
    }
}

/// An opinion in the light of what was seen how often.
fn revise(
    opinion: &mut [f64],
    seen: impl Iterator<Item = (TaskIndex, f64)> + Clone,
    backed_by: f64,
) {
    let all: f64 = seen.clone().map(|(_, seen)| seen).sum::<f64>() + backed_by;
    opinion.iter_mut().for_each(|probability| *probability *= backed_by / all);
    seen.for_each(|(task, seen)| opinion[task.index()] += seen / all);
    normalize(opinion);
}
