//! A predictor as it is kept over restarts. Tasks are numbers in a list of names that is kept
//! beside it; what a bundle has no longer is left out when it is taken back.
//!
//! What is taken back is bounded and made sane: a file is as untrusted as any.

use super::{
    Predictor, Prior,
    contexts::{Context, Count, MAX_CONTEXTS, MAX_ORDER},
    dwell::Histogram,
};
use crate::units::TaskIndex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most that a count can be worth when it is taken back; fading counts stay far below.
const MAX_COUNT: f32 = 1e3;

/// What was learnt of a model's sessions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedForesight {
    /// The names that tasks' numbers stand for.
    pub tasks: Vec<String>,
    /// The sessions.
    pub sessions: Vec<SavedSession>,
}

/// What was learnt of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSession {
    /// Its name.
    pub name: String,
    /// What was learnt.
    pub predictor: SavedPredictor,
}

/// What a predictor has learnt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPredictor {
    /// The experts' weights.
    pub weights: Vec<f64>,
    /// The share of right forecasts.
    pub confidence: f64,
    /// What followed which history, the latest met first.
    pub contexts: Vec<SavedContext>,
    /// How long tasks lasted.
    pub dwells: Vec<SavedDwell>,
}

/// What followed a history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedContext {
    /// The history, the latest task first.
    pub after: Vec<u32>,
    /// Tasks with their counts, slow and fast.
    pub counts: Vec<(u32, f32, f32)>,
}

/// How long a task lasted before another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedDwell {
    /// The task that lasted.
    pub from: u32,
    /// The task that followed.
    pub to: u32,
    /// Buckets of the histogram that are not empty, with their counts.
    pub counts: Vec<(usize, f32)>,
}

impl Predictor {
    /// What is to be kept. The history is not: what comes after a restart does not follow from it.
    pub fn save(&self) -> SavedPredictor {
        let context = |(context, counts): (Context, &[Count])| SavedContext {
            after: context.tasks().iter().map(|task| task.0).collect(),
            counts: counts.iter().map(|c| (c.task.0, c.seen[0], c.seen[1])).collect(),
        };
        let dwell = |(&(from, to), histogram): (&(TaskIndex, TaskIndex), &Histogram)| {
            let counts = histogram.0.iter().copied().enumerate().filter(|(_, count)| *count > 1e-3);
            SavedDwell { from: from.0, to: to.0, counts: counts.collect() }
        };
        SavedPredictor {
            weights: self.mixture.0.to_vec(),
            confidence: self.confidence,
            contexts: self.contexts.iter().map(context).collect(),
            dwells: self.dwells.0.iter().map(dwell).collect(),
        }
    }

    /// A predictor that knows what was kept. `tasks` gives the tasks that the numbers stand for
    /// now; what cannot be, or is not there any more, is left out.
    pub fn restore(
        prior: Arc<Prior>,
        saved: &SavedPredictor,
        tasks: impl Fn(u32) -> Option<TaskIndex>,
    ) -> Self {
        let known = |task: u32| tasks(task).filter(|task| task.index() < prior.tasks());
        let mut predictor = Self::new(prior.clone());
        if let Ok(weights) = <[f64; _]>::try_from(&saved.weights[..])
            && weights.iter().all(|weight| (1e-9..=1.0).contains(weight))
        {
            let sum: f64 = weights.iter().sum();
            predictor.mixture.0 = weights.map(|weight| weight / sum);
        }
        predictor.confidence = saved.confidence.clamp(0.0, 1.0);
        if predictor.confidence.is_nan() {
            predictor.confidence = 0.0;
        }
        // The latest met last, so that it is the latest again.
        for SavedContext { after, counts } in saved.contexts.iter().take(MAX_CONTEXTS.get()).rev() {
            let after: Option<Vec<_>> = after.iter().take(MAX_ORDER).map(|&t| known(t)).collect();
            let Some(after) = after else { continue };
            let mut kept = Vec::<Count>::new();
            for &(task, slow, fast) in counts {
                let Some(task) = known(task) else { continue };
                let sane = [slow, fast].iter().all(|seen| (0.0..=MAX_COUNT).contains(seen));
                if sane && kept.iter().all(|count| count.task != task) {
                    kept.push(Count { task, seen: [slow, fast] });
                }
            }
            predictor.contexts.put(Context::of(&after), kept);
        }
        for SavedDwell { from, to, counts } in &saved.dwells {
            let (Some(from), Some(to)) = (known(*from), known(*to)) else { continue };
            let mut histogram = Histogram([0.0; _]);
            for &(bucket, count) in counts {
                if let Some(place) = histogram.0.get_mut(bucket)
                    && (0.0..=MAX_COUNT).contains(&count)
                {
                    *place = count;
                }
            }
            predictor.dwells.0.insert((from, to), histogram);
        }
        predictor
    }
}
