//! What happened, for whoever watches: log, metrics, watchers. It is told after callers were
//! answered, as telling takes longer than a switch between resident tasks. Nothing here is
//! needed to serve: who does not listen misses it, and that is all.

use super::{EngineError, Peer, PrepareReport, SessionEnd, SwitchReport};
use crate::{
    bundle::Bundle,
    units::{BlockIndex, Generation, TaskIndex},
};
use std::{sync::Arc, time::Duration};

/// Something that happened to a model.
#[derive(Clone, Debug)]
pub struct Event {
    /// When, on the engine's clock.
    pub at: Duration,
    /// The model's bundle.
    pub bundle: Arc<Bundle>,
    /// What it was.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// A switch that had been begun has ended.
    Switch(SwitchEnd),
    /// A session gave up its task to make room for the next.
    GivenUp {
        /// The session.
        session: Arc<str>,
        /// The task.
        task: TaskIndex,
        /// The generation without a task.
        generation: Generation,
    },
    /// A preparation has ended, for one of those who asked for it.
    Prepared {
        /// The task.
        task: TaskIndex,
        /// The process that called, where the kernel says so.
        caller: Option<Peer>,
        /// What its caller was told.
        result: Result<PrepareReport, EngineError>,
    },
    /// A session was opened.
    Opened {
        /// The session.
        session: Arc<str>,
        /// The process that opened it, where the kernel says so.
        caller: Option<Peer>,
    },
    /// A session was closed.
    Closed {
        /// The session.
        session: Arc<str>,
        /// Why.
        end: SessionEnd,
    },
    /// A client has attached to a session.
    Attached {
        /// The session.
        session: Arc<str>,
        /// The client.
        peer: Peer,
    },
    /// A client has gone.
    Detached {
        /// The session.
        session: Arc<str>,
        /// The client.
        peer: Peer,
    },
    /// A call has ended a client's attachment.
    AttachmentEnded {
        /// The session.
        session: Arc<str>,
        /// The client.
        peer: Peer,
        /// The process that called, where the kernel says so.
        caller: Option<Peer>,
    },
    /// A client reads an old generation for too long and was told so.
    Revoked {
        /// The session.
        session: Arc<str>,
        /// The client.
        peer: Peer,
        /// The generation.
        generation: Generation,
        /// Its task.
        task: TaskIndex,
    },
    /// A block was read twice and is not to be had.
    Quarantined(BlockIndex),
    /// The device stalls: it did not answer in time, and so many switches were ended.
    Stalled {
        /// The switches.
        switches: usize,
    },
    /// The device answers again.
    Recovered {
        /// The time without an answer.
        stalled: Duration,
    },
}

impl EventKind {
    /// Whether a session may have been opened or closed, or have got another task.
    pub(super) fn changes_sessions(&self) -> bool {
        use EventKind::{Closed, GivenUp, Opened, Switch};
        matches!(self, Switch(_) | GivenUp { .. } | Opened { .. } | Closed { .. })
    }
}

/// A switch that has ended.
#[derive(Clone, Debug)]
pub struct SwitchEnd {
    /// The session.
    pub session: Arc<str>,
    /// The task before: of a switch that failed, the one that the session keeps.
    pub from: Option<TaskIndex>,
    /// The task that was asked for.
    pub task: TaskIndex,
    /// The call's request id.
    pub request_id: Option<String>,
    /// The call's trace.
    pub trace: Option<TraceContext>,
    /// The process that called, where the kernel says so.
    pub caller: Option<Peer>,
    /// What the caller was told.
    pub result: Result<SwitchReport, EngineError>,
}

/// The distributed trace that a call belongs to (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: u128,
    /// The caller's span.
    pub span_id: u64,
    /// Whether the caller records the trace.
    pub sampled: bool,
}
