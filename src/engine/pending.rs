//! A switch on its way. What moves it on is `switch`'s business.

use super::{EngineError, Peer, Reply, SwitchReport, TraceContext};
use crate::{device::SessionEntry, units::TaskIndex};
use std::{collections::VecDeque, time::Duration};

/// A switch that is not published yet.
pub(super) struct Pending {
    pub(super) task: TaskIndex,
    pub(super) request_id: Option<String>,
    pub(super) trace: Option<TraceContext>,
    /// The process whose call began the switch.
    pub(super) caller: Option<Peer>,
    /// The caller, and those who repeated its request.
    pub(super) callers: Vec<Caller>,
    /// The latest deadline of callers that were dropped because nobody listens to them any more: the
    /// switch goes on for them, too.
    pub(super) unheard_until: Option<Duration>,
    pub(super) arrived: Duration,
    /// Whether the session may give up its task first.
    pub(super) in_place: bool,
    /// The task that the session gave up for this switch; pinned for as long as that waits.
    pub(super) given_up: Option<TaskIndex>,
    /// `None` while the switch waits for room; only then is its task not pinned.
    pub(super) load: Option<Load>,
}

/// Callers that wait for one switch.
const MAX_CALLERS: usize = 64;

impl Pending {
    /// Lets one more caller wait. If there are too many, even without those that nobody listens to
    /// any more, it is told so.
    pub(super) fn join(&mut self, caller: Caller) {
        if self.callers.len() >= MAX_CALLERS {
            let closed = self.callers.extract_if(.., |caller| caller.reply.is_closed());
            self.unheard_until =
                closed.map(|caller| caller.deadline).chain(self.unheard_until).max();
        }
        if self.callers.len() >= MAX_CALLERS {
            return drop(caller.reply.send(Err(EngineError::TooManyCallers(MAX_CALLERS))));
        }
        self.callers.push(caller);
    }

    /// Whether all deadlines have come.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        let mut deadlines = self.callers.iter().map(|caller| caller.deadline);
        deadlines.all(|at| at <= now) && self.unheard_until.is_none_or(|at| at <= now)
    }

    /// When the next deadline comes.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        // The switch outlasts that of callers that were dropped for as long as another one waits.
        let next = self.callers.iter().map(|caller| caller.deadline).min();
        next.or(self.unheard_until)
    }

    /// The task that was given up and is still held.
    pub(super) fn held(&self) -> Option<TaskIndex> {
        self.given_up.filter(|_| self.load.is_none())
    }
}

/// Somebody who waits for a switch.
pub(super) struct Caller {
    pub(super) reply: Reply<SwitchReport>,
    /// How long. The switch goes on for as long as anybody waits.
    pub(super) deadline: Duration,
}

/// How far the loading is.
pub(super) struct Load {
    pub(super) reused: usize,
    pub(super) read: usize,
    pub(super) evicted: usize,
    pub(super) taken_up: Duration,
    pub(super) planned: Duration,
    pub(super) last_read: Duration,
}

/// Sessions whose switch waits for room.
pub(super) type Waiting = VecDeque<SessionEntry>;
