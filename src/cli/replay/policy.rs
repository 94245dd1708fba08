//! What a replay tells the engine beyond the switches: how much it may load ahead and keep, and
//! hints of what comes next.
//!
//! All policies run the same engine. Those that foresee in their own way do so by hints, which
//! overrule what the engine has learnt.

use crate::{engine::Hint, trace::Step};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

/// Tasks that are hinted at once.
const HINTS: usize = 6;
/// Longer than any task lasts: hints hold until others take their place.
const HOLDS: Duration = Duration::from_secs(24 * 3600);

/// A way to foresee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    /// Nothing is loaded ahead, and nothing stays but the active task.
    None,
    /// Nothing is loaded ahead; what was used lately stays.
    Lru,
    /// The tasks that were used last are expected again.
    Recent,
    /// What followed the active task so far is expected to follow it again.
    Markov1,
    /// The daemon as it is.
    Full,
    /// The next tasks are known, and when they come.
    Oracle,
}

impl Policy {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lru => "lru",
            Self::Recent => "recent",
            Self::Markov1 => "markov1",
            Self::Full => "full",
            Self::Oracle => "oracle",
        }
    }

    /// Whether anything is loaded ahead.
    pub(super) fn prefetches(self) -> bool {
        !matches!(self, Self::None | Self::Lru)
    }

    /// Whether only the active task stays.
    pub(super) fn drops_all(self) -> bool {
        self == Self::None
    }
}

/// Gives the hints of a policy, and learns what it needs for them from the steps so far.
pub(super) struct Adviser<'a> {
    policy: Policy,
    steps: &'a [Step],
    /// Tasks by when they were last active, the active one first.
    recent: Vec<&'a str>,
    /// How often each task followed each.
    followed: HashMap<&'a str, Vec<(&'a str, u32)>>,
    /// How many tasks whoever knows the future names: no more than there are.
    named: usize,
}

impl<'a> Adviser<'a> {
    pub(super) fn new(policy: Policy, steps: &'a [Step]) -> Self {
        let tasks: HashSet<_> = steps.iter().map(|step| &step.task).collect();
        let named = HINTS.min(tasks.len().saturating_sub(1));
        Self { policy, steps, recent: Vec::new(), followed: HashMap::new(), named }
    }

    /// Learns that this step's task is active.
    pub(super) fn observe(&mut self, step: usize) {
        let task = self.steps[step].task.as_str();
        if let Some(&before) = self.recent.first().filter(|&&before| before != task) {
            let counts = self.followed.entry(before).or_default();
            match counts.iter_mut().find(|(after, _)| *after == task) {
                Some((_, count)) => *count += 1,
                None => counts.push((task, 1)),
            }
        }
        self.recent.retain(|&known| known != task);
        self.recent.insert(0, task);
    }

    /// What to tell once this step's task is active, so long after it was asked for; `None` where
    /// the engine is left to itself.
    pub(super) fn hints(&self, step: usize, waited: Duration) -> Option<Vec<Hint>> {
        match self.policy {
            Policy::None | Policy::Lru | Policy::Full => None,
            Policy::Recent => Some(self.recent_hints()),
            Policy::Markov1 => Some(self.counted_hints()),
            Policy::Oracle => Some(self.true_hints(step, waited)),
        }
    }

    /// The tasks before the active one, each half as likely as the one after it.
    fn recent_hints(&self) -> Vec<Hint> {
        let others = self.recent.iter().skip(1).take(HINTS);
        weighed(others.zip(halves()).map(|(task, weight)| (*task, weight)).collect())
    }

    /// The tasks that have followed the active one; where none has, those that were active last.
    fn counted_hints(&self) -> Vec<Hint> {
        let counts = self.recent.first().and_then(|active| self.followed.get(active));
        let Some(counts) = counts else { return self.recent_hints() };
        let mut counts = counts.clone();
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        counts.truncate(HINTS);
        weighed(counts.into_iter().map(|(task, count)| (task, f64::from(count))).collect())
    }

    /// The tasks that come next. The sooner one comes, the more it counts, where not all fit.
    fn true_hints(&self, step: usize, waited: Duration) -> Vec<Hint> {
        let active = &self.steps[step];
        let mut next: Vec<&Step> = Vec::new();
        for step in &self.steps[step + 1..] {
            let is_new = next.iter().all(|known| known.task != step.task);
            if is_new && step.task != active.task {
                next.push(step);
            }
            if next.len() == self.named {
                break;
            }
        }
        let hint = |(step, probability): (&Step, f64)| {
            let starts_in = Duration::from_millis(step.at_ms - active.at_ms);
            hint(&step.task, probability, Some(starts_in.saturating_sub(waited)))
        };
        next.into_iter().zip(halves()).map(hint).collect()
    }
}

/// 1, 1/2, 1/4 and so on.
fn halves() -> impl Iterator<Item = f64> {
    std::iter::successors(Some(1.0), |weight| Some(weight / 2.0))
}

/// Hints with probabilities that sum to 1.
fn weighed(weights: Vec<(&str, f64)>) -> Vec<Hint> {
    let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
    weights.into_iter().map(|(task, weight)| hint(task, weight / sum, None)).collect()
}

fn hint(task: &str, probability: f64, starts_in: Option<Duration>) -> Hint {
    Hint { task: task.to_owned(), probability, starts_in, expires_in: Some(HOLDS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step a second.
    fn steps(tasks: &[&str]) -> Vec<Step> {
        let step = |(at, task): (u64, &&str)| Step { at_ms: at * 1000, task: (*task).to_owned() };
        (0..).zip(tasks).map(step).collect()
    }

    /// What is told after the first so many steps, in percent.
    fn told(policy: Policy, steps: &[Step], seen: usize) -> Vec<(String, u32)> {
        let mut adviser = Adviser::new(policy, steps);
        (0..seen).for_each(|step| adviser.observe(step));
        let hints = adviser.hints(seen - 1, Duration::ZERO).unwrap_or_default();
        let percent = |hint: Hint| (hint.task, (hint.probability * 100.0).round() as u32);
        hints.into_iter().map(percent).collect()
    }

    fn pairs(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
        expected.iter().map(|&(task, percent)| (task.to_owned(), percent)).collect()
    }

    #[test]
    fn each_policy_tells_what_it_knows() {
        let steps = steps(&["a", "b", "a", "c", "a", "b", "a", "d"]);
        assert_eq!(told(Policy::Recent, &steps, 5), pairs(&[("c", 67), ("b", 33)]));
        assert_eq!(told(Policy::Markov1, &steps, 7), pairs(&[("b", 67), ("c", 33)]));
        assert_eq!(told(Policy::Markov1, &steps, 2), pairs(&[("a", 100)]));
        assert_eq!(told(Policy::Oracle, &steps, 5), pairs(&[("b", 100), ("d", 50)]));
        assert_eq!(told(Policy::Full, &steps, 5), []);
    }

    #[test]
    fn the_oracle_knows_when() {
        let steps = steps(&["a", "b", "a", "c"]);
        let hints =
            Adviser::new(Policy::Oracle, &steps).hints(0, Duration::from_millis(1)).unwrap();
        let starts = hints.iter().map(|hint| hint.starts_in.unwrap().as_millis());
        assert_eq!(starts.collect::<Vec<_>>(), [999, 2999]);
    }
}
