//! Answers of switches: what the log tells of each, and the memory of requests that carried an id,
//! so that a repeat gets the same one.

use super::{EngineError, SwitchReport, SwitchTiming};
use crate::{bundle::Bundle, units::TaskIndex};
use lru::LruCache;
use std::{num::NonZeroUsize, sync::Arc, time::Duration};

/// Request ids that a model remembers.
const REMEMBERED_REQUESTS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

pub(super) type SwitchResult = Result<SwitchReport, EngineError>;

/// The requests of a model's sessions, the latest used.
pub(super) struct Answers(LruCache<(String, String), Answer>);

/// A request that was met before.
pub(super) struct Answer {
    pub(super) task: TaskIndex,
    /// `None` while the switch runs.
    pub(super) result: Option<SwitchResult>,
}

impl Default for Answers {
    fn default() -> Self {
        Self(LruCache::new(REMEMBERED_REQUESTS))
    }
}

impl Answers {
    pub(super) fn get(&mut self, session: &str, id: &str) -> Option<&Answer> {
        self.0.get(&(session.to_owned(), id.to_owned()))
    }

    pub(super) fn put(&mut self, session: &str, id: &str, answer: Answer) {
        self.0.put((session.to_owned(), id.to_owned()), answer);
    }

    /// Forgets the requests of a session.
    pub(super) fn forget(&mut self, session: &str) {
        let keys: Vec<_> = self.0.iter().map(|(key, _)| key.clone()).collect();
        for key in keys.into_iter().filter(|(owner, _)| owner == session) {
            self.0.pop(&key);
        }
    }
}

/// A switch that has ended, for the log. It is told after its caller was answered: writing the line
/// takes longer than a switch between resident tasks.
#[derive(Debug)]
pub struct Ended {
    pub(super) bundle: Arc<Bundle>,
    pub(super) session: Arc<str>,
    pub(super) task: TaskIndex,
    pub(super) result: SwitchResult,
}

impl Ended {
    /// Whether it was not done.
    pub fn failed(&self) -> bool {
        self.result.is_err()
    }

    /// Writes one line that says where the time went.
    pub fn log(&self) {
        log(self.bundle.model(), &self.session, &self.bundle.task(self.task).name, &self.result);
    }
}

fn log(model: &str, session: &str, task: &str, result: &SwitchResult) {
    match result {
        Ok(report) => {
            let SwitchTiming { queue, plan, read, verify, publish } = report.timing;
            let us = |time: Duration| time.as_micros() as u64;
            tracing::info!(
                model,
                session,
                task,
                generation = report.generation.0,
                outcome = ?report.outcome,
                needed = report.needed,
                prefetched = report.prefetched,
                read = report.read,
                evicted = report.evicted,
                in_place = report.in_place.then_some(true),
                rank = report.foreseen.map(|foreseen| foreseen.rank),
                lead_us = report.foreseen.map(|foreseen| us(foreseen.lead)),
                queue_us = us(queue),
                plan_us = us(plan),
                read_us = us(read),
                verify_us = us(verify),
                publish_us = us(publish),
                "switched"
            );
        }
        Err(error) => tracing::warn!(model, session, task, %error, "not switched"),
    }
}
