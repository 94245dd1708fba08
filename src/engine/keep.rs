//! What of a model's sessions is kept over restarts: names, tasks, times to live, and which
//! generations may have been published. How it is stored is not known here.
//!
//! A session that a client owns is not kept: its owner's attachment ends with the daemon.

use super::{
    Adopted, EngineError, Predecessor, adopt::LAST_GENERATION, lifetime::Lifetime, model::Model,
    session::DEFAULT_SESSION,
};
use crate::{
    device::{Active, MAX_SESSIONS, SessionEntry},
    units::Generation,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Generations that are reserved ahead, so that a switch need not wait for a disk: at 20,000 switches
/// a second, they last for 50 s without a write.
const RESERVED: u64 = 1 << 20;

/// A model's sessions, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSessions {
    /// The generation of the default session when the daemon that wrote this started.
    pub begun: u64,
    /// No session was at a generation beyond this one, nor will be until this is written anew.
    pub ceiling: u64,
    /// The sessions that were open.
    pub sessions: Vec<KeptSession>,
}

/// A session, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptSession {
    /// Its name.
    pub name: String,
    /// The task that was active.
    pub task: Option<String>,
    /// Its time to live, in milliseconds.
    pub ttl_ms: Option<u64>,
}

/// Generations of a model's sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generations {
    /// Sessions that are opened start here: above all generations of earlier runs.
    pub(super) first: Generation,
    /// The default session started here.
    pub(super) begun: Generation,
    /// The latest that was published.
    pub(super) latest: Generation,
}

impl Generations {
    /// Those of a model that was never served before.
    pub(super) const NONE: Self =
        Self { first: Generation::NONE, begun: Generation::NONE, latest: Generation::NONE };
}

impl KeptSessions {
    /// Whether its generations can be.
    pub fn is_sound(&self) -> bool {
        self.begun <= self.ceiling && self.ceiling <= LAST_GENERATION.0
    }

    /// Whether there is no need to write `later` in the place of this.
    pub fn covers(&self, later: &Self) -> bool {
        let Self { begun, ceiling, sessions } = later;
        self.begun == *begun
            && self.sessions == *sessions
            && self.ceiling.saturating_add(RESERVED / 2) > *ceiling
    }
}

impl Model {
    /// What is to be stored of the sessions.
    pub fn kept(&self) -> KeptSessions {
        let bundle = self.bundle();
        let is_kept = |session: &&super::Session| !session.life.lifetime.owned;
        let session = |session: &super::Session| KeptSession {
            name: session.name.to_string(),
            task: session.active.task.map(|task| bundle.task(task).name.clone()),
            ttl_ms: session.life.lifetime.ttl.map(|ttl| ttl.as_millis() as u64),
        };
        let Generations { first, begun, latest } = self.generations;
        KeptSessions {
            begun: begun.0,
            ceiling: latest.max(first).0.saturating_add(RESERVED),
            sessions: self.served_sessions().filter(is_kept).map(session).collect(),
        }
    }

    /// Goes on from what earlier daemons have left: in memory, unless what is stored is of a later
    /// daemon; and in a record. To be called before the engine is made; `left` is of this bundle.
    pub fn go_on(
        &mut self,
        left: Option<&Predecessor>,
        kept: Option<&KeptSessions>,
    ) -> Option<Adopted> {
        if let Some(kept) = kept {
            self.begin_at(Generation(kept.ceiling));
        }
        let adopted = match (left, kept) {
            (Some(left), None) => Some(self.adopt(left)),
            (Some(left), Some(kept)) if left.begins_at_least_at(kept.begun) => {
                let adopted = self.adopt(left);
                self.set_lifetimes(kept);
                Some(adopted)
            }
            (left, Some(kept)) => Some(self.resume(kept, left)),
            (None, None) => None,
        };
        let default = self.open_sessions().next();
        self.generations.begun = default.map_or(Generation::NONE, |s| s.active.generation);
        adopted
    }

    /// Lets all sessions start at this generation.
    fn begin_at(&mut self, generation: Generation) {
        self.generations.first = generation;
        for session in self.sessions.iter_mut().flatten() {
            session.active = Active { generation, task: None };
            self.residency.table().publish(session.entry, session.active);
        }
    }

    /// Opens the sessions again that are stored. An older pool may still have their blocks.
    fn resume(&mut self, kept: &KeptSessions, left: Option<&Predecessor>) -> Adopted {
        let (mut resumed, mut tasks) = (Adopted::default(), Vec::new());
        for KeptSession { name, task, ttl_ms } in kept.sessions.iter().take(MAX_SESSIONS) {
            let entry = match self.reopen_kept(name, *ttl_ms) {
                Ok(entry) => entry,
                Err(error) => {
                    let model = self.name();
                    tracing::warn!(model, %error, "a stored session cannot be opened again");
                    continue;
                }
            };
            resumed.sessions += 1;
            let Some(task) = task else { continue };
            match self.bundle().find_task(task) {
                Some(task) => tasks.push((entry, task)),
                None => {
                    let (model, session) = (self.name(), name);
                    let what = "a stored session goes on without its task";
                    tracing::warn!(model, session, task, "{what}: the bundle has no such task");
                }
            }
        }
        self.serve_again(tasks, left, &mut resumed);
        resumed
    }

    fn reopen_kept(
        &mut self,
        name: &str,
        ttl_ms: Option<u64>,
    ) -> Result<SessionEntry, EngineError> {
        if name == DEFAULT_SESSION {
            return self.find_session(name);
        }
        let lifetime = Lifetime { ttl: ttl_ms.map(Duration::from_millis), owned: false };
        self.add_session(Duration::ZERO, name, lifetime)
    }

    /// Gives sessions that were adopted the times to live that are stored.
    fn set_lifetimes(&mut self, kept: &KeptSessions) {
        for KeptSession { name, ttl_ms, .. } in &kept.sessions {
            let of_name = |session: &&mut super::Session| *session.name == **name;
            let session = self.sessions.iter_mut().skip(1).flatten().find(of_name);
            if let Some(session) = session {
                session.life.lifetime.ttl = ttl_ms.map(Duration::from_millis);
            }
        }
    }
}
