//! What is known of sessions that are closed, so that one of the same name goes on from there; and
//! all that is known, as it is kept over restarts.

use super::{
    Hint, HintReport, Learnt,
    model::Model,
    outlook::{HeldHint, Outlook},
};
use crate::{
    bundle::{Bundle, is_name},
    device::MAX_SESSIONS,
    predict::{Predictor, Prior, SavedForesight, SavedSession},
};
use lru::LruCache;
use std::{num::NonZeroUsize, sync::Arc, time::Duration};

/// Closed sessions that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(MAX_SESSIONS).unwrap();
/// Hints of a call that are looked at.
const MAX_HINTS: usize = 64;

/// Predictors of sessions that are not open, by name.
pub(super) struct Shelf {
    prior: Arc<Prior>,
    predictors: LruCache<String, Predictor>,
    /// Switches that sessions had learnt from when they were closed.
    learnt: u64,
}

impl Shelf {
    pub(super) fn new(bundle: &Bundle) -> Self {
        let prior = Arc::new(Prior::new(&bundle.meta().transitions));
        Self { prior, predictors: LruCache::new(REMEMBERED), learnt: 0 }
    }

    /// A predictor that has seen nothing.
    pub(super) fn fresh(&self) -> Predictor {
        Predictor::new(self.prior.clone())
    }

    /// The outlook of a session that is opened.
    pub(super) fn take(&mut self, session: &str) -> Outlook {
        Outlook::new(self.predictors.pop(session).unwrap_or_else(|| self.fresh()))
    }

    /// Keeps what a session that is closed has learnt.
    pub(super) fn put(&mut self, session: &str, outlook: Outlook) {
        self.learnt += outlook.learnt();
        let mut predictor = outlook.into_predictor();
        predictor.interrupt();
        self.predictors.put(session.to_owned(), predictor);
    }
}

impl Model {
    /// Takes hints in the place of the session's earlier ones. What cannot be is left out.
    pub(super) fn hint(&mut self, now: Duration, session: usize, hints: &[Hint]) -> HintReport {
        let mut held = Vec::<HeldHint>::new();
        for Hint { task, probability, starts_in, expires_in } in hints.iter().take(MAX_HINTS) {
            let known = self.bundle().find_task(task);
            let known = known.filter(|task| held.iter().all(|hint| hint.task != *task));
            let hint = known
                .and_then(|task| HeldHint::new(now, task, *probability, *starts_in, *expires_in));
            held.extend(hint);
        }
        let report = HintReport { accepted: held.len(), ignored: hints.len() - held.len() };
        self.foresight.counts.ignored_hints += report.ignored as u64;
        if let Some(session) = &mut self.sessions[session] {
            session.outlook.hint(held);
        }
        self.foresight.changed(now);
        report
    }

    /// All that was learnt of this model's sessions.
    pub(super) fn learnt(&mut self) -> Learnt {
        self.sessions.iter_mut().flatten().for_each(|session| session.outlook.learn());
        let bundle = self.bundle();
        let open = self.served_sessions();
        let switches = open.map(|session| session.outlook.learnt()).sum::<u64>();
        let open = self.served_sessions();
        let open = open.map(|session| (&*session.name, session.outlook.predictor()));
        let closed = self.shelf.predictors.iter().map(|(name, predictor)| (&**name, predictor));
        let saved = |(name, predictor): (&str, &Predictor)| SavedSession {
            name: name.to_owned(),
            predictor: predictor.save(),
        };
        let tasks = bundle.task_indices().map(|task| bundle.task(task).name.clone()).collect();
        let sessions = open.chain(closed).map(saved).collect();
        Learnt {
            model: self.name().to_owned(),
            switches: switches + self.shelf.learnt,
            foresight: SavedForesight { tasks, sessions },
        }
    }

    /// Takes back what was learnt before a restart. What the bundle has no longer is left out.
    pub fn relearn(&mut self, saved: &SavedForesight) {
        let bundle = self.bundle().clone();
        let task = |task: u32| bundle.find_task(saved.tasks.get(task as usize)?);
        let sessions = &saved.sessions[..saved.sessions.len().min(2 * MAX_SESSIONS)];
        // They were open, or closed of late, the earlier the later here: the last ones stay longest.
        let sessions = sessions.iter().rev().filter(|session| is_name(&session.name));
        for SavedSession { name, predictor } in sessions {
            let predictor = Predictor::restore(self.shelf.prior.clone(), predictor, task);
            match self.sessions.iter_mut().flatten().find(|session| *session.name == **name) {
                Some(session) => session.outlook = Outlook::new(predictor),
                None => drop(self.shelf.predictors.put(name.clone(), predictor)),
            }
        }
    }
}
