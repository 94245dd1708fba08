//! A switch on its way. What moves it on is `switch`'s business.

use super::{Reply, SwitchReport, TraceContext};
use crate::{device::SessionEntry, units::TaskIndex};
use std::{collections::VecDeque, time::Duration};

/// A switch that is not published yet.
pub(super) struct Pending {
    pub(super) task: TaskIndex,
    pub(super) request_id: Option<String>,
    pub(super) trace: Option<TraceContext>,
    /// The caller, and those who repeated its request; never none.
    pub(super) callers: Vec<Caller>,
    pub(super) arrived: Duration,
    /// Whether the session may give up its task first.
    pub(super) in_place: bool,
    /// The task that the session gave up for this switch; pinned for as long as that waits.
    pub(super) given_up: Option<TaskIndex>,
    /// `None` while the switch waits for room; only then is its task not pinned.
    pub(super) load: Option<Load>,
}

impl Pending {
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
