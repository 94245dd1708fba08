//! What should be loaded ahead, and in which order: the plan over all sessions of a model.
//!
//! Tasks that are likely next, in whatever session, are worth their probability, mostly that of
//! coming soon, and a block is worth as much as all the tasks together that have it. So blocks fall
//! into classes by which of the few likeliest tasks have them, and the classes are loaded in the
//! order of their worth. The plan is no list of blocks: those are found as they are read, a request
//! at a time, so that a switch makes nothing obsolete but the order. How it is carried out is
//! `ahead`'s business.

use super::{
    Foreseen,
    budget::Budget,
    model::{Context, Model},
};
use crate::{
    bundle::MAX_TASKS,
    config::PrefetchConfig,
    predict::Forecast,
    residency::{Level, Stock, Worth},
    units::{BlockIndex, TaskIndex},
};
use std::time::Duration;

/// How long after a switch a plan is made: first its caller gets its answer.
const PLAN_DELAY: Duration = Duration::from_millis(1);
/// Tasks that are reckoned with at once.
const CONSIDERED: usize = 6;
/// What is less likely is not reckoned with.
const LEAST_LIKELY: f64 = 0.01;
/// What is near enough to be loaded now: so many times what the largest difference takes, and so
/// much more.
const LEAD_FACTOR: u32 = 2;
const LEAD: Duration = Duration::from_millis(100);
/// The share of a task's worth that is there long before its time: where memory has no better use,
/// the likeliest is loaded at once.
const EVENTUALLY: f64 = 0.1;

/// A model's plan, and what came of earlier ones.
pub(super) struct Foresight {
    pub(super) enabled: bool,
    pub(super) budget: Budget,
    /// When a plan is to be made; none is due if nothing has changed.
    pub(super) due: Option<Duration>,
    /// Since when each task is reckoned with.
    since: [Option<Duration>; MAX_TASKS],
    /// The classes, the one that is worth most first, and how far the first of them is.
    pub(super) classes: Vec<Class>,
    pub(super) cursor: BlockIndex,
    /// What may go for the sake of the plan.
    pub(super) stock: Option<Stock>,
    /// Blocks whose read failed once; they are read again each by itself.
    pub(super) suspects: Vec<BlockIndex>,
    /// Nothing is read ahead before.
    pub(super) rests_until: Duration,
    /// When to go on with the plan, if nothing happens before.
    pub(super) next_step: Option<Duration>,
    /// Whether something is left to be read that had to wait for switches or their reads.
    pub(super) held_up: bool,
    /// Whether preparations found no room at the last step, and room has not changed since.
    pub(super) no_room: bool,
    pub(super) counts: Counts,
}

/// Blocks that all of some likely tasks have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Class {
    pub(super) tasks: Vec<TaskIndex>,
    worth: f64,
}

/// What came of it so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) switches: u64,
    pub(super) hits: u64,
    pub(super) loaded: u64,
    pub(super) used: u64,
    pub(super) late: u64,
    pub(super) read: u64,
    pub(super) ignored_hints: u64,
}

/// A task that may come next, and what it is worth to have it there.
type Candidate = (TaskIndex, f64);

impl Foresight {
    pub(super) fn new(config: &PrefetchConfig) -> Self {
        Self {
            enabled: config.enabled,
            budget: Budget::new(config.waste_bytes_per_s),
            due: None,
            since: [None; MAX_TASKS],
            classes: Vec::new(),
            cursor: BlockIndex(0),
            stock: None,
            suspects: Vec::new(),
            rests_until: Duration::ZERO,
            next_step: None,
            held_up: false,
            no_room: false,
            counts: Counts::default(),
        }
    }

    /// Goes by another configuration. The budget begins anew where that has changed it.
    pub(super) fn configure(&mut self, now: Duration, config: &PrefetchConfig) {
        if self.budget.is_of(config.waste_bytes_per_s) && self.enabled == config.enabled {
            return;
        }
        let counts = self.counts;
        // A preparation may have had its next step to come.
        *self = Self { counts, held_up: true, ..Self::new(config) };
        self.budget.fill(now);
        self.changed(now);
    }

    /// Notes that something has changed, so that a plan is to be made, if anything is loaded ahead.
    pub(super) fn changed(&mut self, now: Duration) {
        if self.enabled {
            let soon = now.saturating_add(PLAN_DELAY);
            self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// Lets a new preparation have its first step.
    pub(super) fn begin_preparation(&mut self, now: Duration) {
        self.no_room = false;
        self.next_step = Some(now);
    }

    /// Notes that room has changed: preparations that had none may go on.
    pub(super) fn room_changed(&mut self, now: Duration) {
        if std::mem::take(&mut self.no_room) {
            self.next_step = Some(now);
        }
    }

    /// Notes that no switch waits and that nothing is read: what was held up may go on.
    pub(super) fn quiet(&mut self, now: Duration) {
        if std::mem::take(&mut self.held_up) {
            self.next_step = Some(now);
        }
    }

    /// Notes that a session has switched to a task of which so many blocks had to be read, and
    /// others had been loaded ahead.
    pub(super) fn published(
        &mut self,
        now: Duration,
        read: usize,
        prefetched: usize,
        block_bytes: u64,
    ) {
        self.counts.switches += 1;
        self.counts.hits += u64::from(read == 0);
        self.counts.read += read as u64;
        self.counts.used += prefetched as u64;
        self.budget.give_back(prefetched as u64 * block_bytes);
        self.changed(now);
    }

    /// What had been foreseen of a task that is needed now.
    pub(super) fn foreseen(
        &self,
        likely: &[Forecast],
        task: TaskIndex,
        now: Duration,
    ) -> Option<Foreseen> {
        let since = self.since[task.index()]?;
        let at = likely.iter().position(|next| next.task == task)?;
        let (probability, rank) = (likely[at].probability, at + 1);
        Some(Foreseen { probability, rank, lead: now.saturating_sub(since) })
    }

    /// Takes a plan over.
    fn follow(&mut self, now: Duration, candidates: &[Candidate]) {
        for task in (0..MAX_TASKS as u32).map(TaskIndex) {
            let reckoned = candidates.iter().any(|(candidate, _)| *candidate == task);
            let since = &mut self.since[task.index()];
            *since = reckoned.then(|| since.unwrap_or(now));
        }
        self.classes = classes(candidates);
        (self.cursor, self.stock) = (BlockIndex(0), None);
    }
}

impl Class {
    /// What may go to make room for its blocks: what has a lower level.
    pub(super) fn level(&self) -> Level {
        Level::of(self.worth)
    }
}

impl Model {
    /// Makes a plan out of what is likely next in each session.
    pub(super) fn make_plan(&mut self, cx: &Context<'_>) {
        let lead = self.lead();
        let (mut near, mut all) = (Worth::default(), Worth::default());
        let mut look_again = None;
        for session in self.sessions.iter_mut().flatten() {
            session.outlook.refresh(cx.now, lead);
            look_again = look_again.into_iter().chain(session.outlook.next_look(cx.now)).min();
            for next in session.outlook.likely() {
                near.add(next.task, next.near);
                all.add(next.task, next.probability);
            }
        }
        let worth = near.shares(1.0 - EVENTUALLY).plus(&all.shares(EVENTUALLY));
        let tasks = self.bundle().task_indices();
        let mut candidates: Vec<_> = tasks.map(|task| (task, worth.of(task))).collect();
        candidates.retain(|(_, worth)| *worth >= LEAST_LIKELY);
        candidates.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        self.residency.set_worth(worth);
        self.foresight.follow(cx.now, &candidates);
        self.foresight.due = look_again;
    }

    /// How long before its time a task has to be thought of.
    fn lead(&self) -> Duration {
        let missing = self.bundle().task_indices().map(|task| self.residency.missing(task));
        let bytes = missing.max().unwrap_or_default() as u64 * self.bundle().block().bytes();
        let takes = self.foresight.budget.time_for(bytes);
        takes.saturating_mul(LEAD_FACTOR).saturating_add(LEAD)
    }
}

/// All classes of the likeliest tasks, the one that is worth most first. A block of several tasks is
/// met in the class of all of them before it is met in others, where it is not missing any more.
fn classes(candidates: &[Candidate]) -> Vec<Class> {
    let candidates = &candidates[..candidates.len().min(CONSIDERED)];
    let class = |members: u32| {
        let members = (0..).zip(candidates).filter(|(at, _)| members >> at & 1 == 1);
        let (tasks, worths): (Vec<_>, Vec<_>) = members.map(|(_, candidate)| *candidate).unzip();
        Class { tasks, worth: worths.iter().sum() }
    };
    let mut classes: Vec<_> = (1..1 << candidates.len()).map(class).collect();
    classes.sort_by(|a, b| b.worth.total_cmp(&a.worth));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_likely_tasks_need_comes_first() {
        let candidates = [(0, 0.5), (1, 0.3), (2, 0.25)].map(|(task, w)| (TaskIndex(task), w));
        let classes = classes(&candidates);
        let tasks: Vec<Vec<_>> =
            classes.iter().map(|class| class.tasks.iter().map(|task| task.0).collect()).collect();
        let expected: [&[u32]; 7] = [&[0, 1, 2], &[0, 1], &[0, 2], &[1, 2], &[0], &[1], &[2]];
        assert_eq!(tasks, expected);
        assert!(classes[0].level() > classes[6].level());
    }
}
