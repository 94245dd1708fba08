//! Answers of switches that carried a request id, so that a repeat gets the same one.

use super::{EngineError, SwitchReport};
use crate::units::TaskIndex;
use lru::LruCache;
use std::num::NonZeroUsize;

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
