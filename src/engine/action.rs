//! What goes into the engine and what comes out of it.

use super::{
    EngineError, KeptSessions, Lifetime, Limits, ModelStatus, Picture, Serving, SessionStatus,
    TraceContext,
    verify::{Verified, Verify},
};
use crate::{
    bundle::Bundle,
    device::SessionEntry,
    predict::SavedForesight,
    storage::{Completion, Read},
    units::Generation,
};
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// Where an answer goes. A caller that has gone is no error.
pub type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// Something that happened.
#[derive(Debug)]
pub enum Action {
    /// Somebody wants something.
    Command(Command),
    /// A read that the engine asked for has ended.
    ReadDone(Completion),
    /// Blocks that the engine wanted verified are.
    Verified(Verified),
    /// Time has passed.
    Tick,
}

/// Something to be done outside.
#[derive(Debug)]
pub enum Effect {
    /// Carry out a read, then apply [`Action::ReadDone`].
    Read(Read),
    /// Verify blocks, then apply [`Action::Verified`].
    Verify(Verify),
}

/// Something that somebody wants.
#[derive(Debug)]
pub enum Command {
    /// Make a task active.
    Switch(SwitchCommand, Reply<SwitchReport>),
    /// Tell what is likely to be switched to.
    Hint(HintCommand, Reply<HintReport>),
    /// Load a task without making it active.
    Prepare(PrepareCommand, Reply<PrepareReport>),
    /// Tell what was learnt of all models' sessions.
    Learnt {
        /// Gets it.
        reply: Reply<Vec<Learnt>>,
    },
    /// Open a session.
    OpenSession {
        /// Which one.
        target: Target,
        /// How long it is to stay open.
        lifetime: Lifetime,
        /// The process that opens it, where the kernel says so.
        opener: Option<Peer>,
        /// Gets the session as it starts.
        reply: Reply<SessionStatus>,
    },
    /// Close a session that no client is attached to.
    CloseSession {
        /// Which one.
        target: Target,
        /// The process that closes it, where the kernel says so.
        caller: Option<Peer>,
        /// Learns that it is closed.
        reply: Reply<()>,
    },
    /// Let a client read a session's memory.
    Attach {
        /// The session.
        target: Target,
        /// The client.
        peer: Peer,
        /// Gets the descriptors.
        reply: Reply<Membership>,
    },
    /// A client has gone; its leases are void.
    Detach(MemberId),
    /// End the attachments of a process to a session.
    EndAttachment {
        /// The session.
        target: Target,
        /// The process.
        pid: u32,
        /// The process that asks for it, where the kernel says so.
        caller: Option<Peer>,
        /// Gets how many have ended.
        reply: Reply<usize>,
    },
    /// List what is loaded.
    ListModels {
        /// Gets the bundles.
        reply: Reply<Vec<Arc<Bundle>>>,
    },
    /// Tell the state.
    Status {
        /// Only this model; empty for all.
        model: String,
        /// Gets the state.
        reply: Reply<Vec<ModelStatus>>,
    },
    /// Draw a picture of a model.
    Picture {
        /// The model; empty for the only one.
        model: String,
        /// Gets the picture.
        reply: Reply<Picture>,
    },
    /// Tell what is to be stored of the sessions.
    Kept {
        /// Gets it, by model.
        reply: Reply<Vec<(String, KeptSessions)>>,
    },
    /// Tell what is served, and no more.
    Serving {
        /// Gets it, by model and session.
        reply: Reply<Vec<Serving>>,
    },
    /// Go by other limits from now on. What is under way keeps the deadlines that it has.
    Configure(Limits),
    /// Let cached blocks go, the least recently used first.
    Trim {
        /// The model; empty for the only one.
        model: String,
        /// At most so many blocks.
        blocks: usize,
        /// Gets the number of blocks that went.
        reply: Reply<usize>,
    },
    /// Finish the switches that run and take no others.
    Drain,
}

/// A session by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The model; empty for the only one.
    pub model: String,
    /// The session; empty for the default one.
    pub session: String,
}

/// A wish to switch.
#[derive(Clone, Debug)]
pub struct SwitchCommand {
    /// The session.
    pub target: Target,
    /// The task.
    pub task: String,
    /// Makes a repeat of the command get the first one's answer.
    pub request_id: Option<String>,
    /// Refuse unless the session is at this generation.
    pub expected_generation: Option<Generation>,
    /// When the command arrived.
    pub arrived: Duration,
    /// When its caller stops waiting.
    pub deadline: Option<Duration>,
    /// Whether the session may give up its task first, if there is no room for both.
    pub in_place: bool,
    /// The trace that the call belongs to.
    pub trace: Option<TraceContext>,
    /// The process that calls, where the kernel says so.
    pub caller: Option<Peer>,
}

/// What somebody knows of a session's next tasks.
#[derive(Clone, Debug)]
pub struct HintCommand {
    /// The session.
    pub target: Target,
    /// They take the place of the session's earlier hints.
    pub hints: Vec<Hint>,
}

/// A task that may be switched to.
#[derive(Clone, Debug, PartialEq)]
pub struct Hint {
    /// The task.
    pub task: String,
    /// How likely, above 0 and at most 1.
    pub probability: f64,
    /// In how long; at once if nothing is said.
    pub starts_in: Option<Duration>,
    /// For how long the hint holds, at most; a minute beyond its start if nothing is said. It ends
    /// in any case when the session switches to the task.
    pub expires_in: Option<Duration>,
}

/// What became of hints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintReport {
    /// Hints that hold now.
    pub accepted: usize,
    /// Hints that cannot be, and are as if they had not been given.
    pub ignored: usize,
}

/// A wish to have a task loaded.
#[derive(Clone, Debug)]
pub struct PrepareCommand {
    /// The model; empty for the only one.
    pub model: String,
    /// The task.
    pub task: String,
    /// How long it is to stay, once it is there. A switch that needs its room gets it.
    pub hold: Duration,
    /// When the command arrived.
    pub arrived: Duration,
    /// When its caller stops waiting.
    pub deadline: Option<Duration>,
    /// The process that called, where the kernel says so.
    pub caller: Option<Peer>,
}

/// What a preparation did. Amounts are blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareReport {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks of the task.
    pub needed: usize,
    /// Of these, blocks that were resident when it was asked for.
    pub reused: usize,
    /// From arrival to the last block's verification.
    pub took: Duration,
}

/// What was learnt of a model's sessions.
#[derive(Clone, Debug)]
pub struct Learnt {
    /// The model.
    pub model: String,
    /// Switches that were learnt from since the start.
    pub switches: u64,
    /// What is to be kept.
    pub foresight: SavedForesight,
}

/// How much of a task was there when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was the active task.
    AlreadyActive,
    /// All of it.
    Resident,
    /// Not all of it, but some had been loaded ahead.
    PartlyPrefetched,
    /// Not all of it.
    Loaded,
}

/// What had been foreseen of a switch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Foreseen {
    /// How likely the task was held to be.
    pub probability: f64,
    /// Its place among the tasks that were held to be likely; the likeliest has 1.
    pub rank: usize,
    /// Since when it was reckoned with, until it was needed.
    pub lead: Duration,
}

/// What a switch did. Amounts are blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct SwitchReport {
    /// The generation that serves the task.
    pub generation: Generation,
    /// How much was there.
    pub outcome: Outcome,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks of the task.
    pub needed: usize,
    /// Of these, blocks that were resident.
    pub reused: usize,
    /// Of the resident, blocks that had been loaded ahead and not been used before.
    pub prefetched: usize,
    /// Of these, blocks that had to be read.
    pub read: usize,
    /// Blocks evicted to make room.
    pub evicted: usize,
    /// Whether the session gave up its task first.
    pub in_place: bool,
    /// What had been foreseen, if the task was among what was reckoned with.
    pub foreseen: Option<Foreseen>,
    /// Where the time went.
    pub timing: SwitchTiming,
}

/// Phases of a switch, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchTiming {
    /// From arrival to being taken up.
    pub queue: Duration,
    /// Working out what to read.
    pub plan: Duration,
    /// To the completion of the last read.
    pub read: Duration,
    /// From there to the verification of the last block.
    pub verify: Duration,
    /// The publication.
    pub publish: Duration,
}

impl SwitchTiming {
    /// From arrival to publication.
    pub fn total(&self) -> Duration {
        let Self { queue, plan, read, verify, publish } = *self;
        queue + plan + read + verify + publish
    }
}

/// Identifies an attached client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// The process of an attached client, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// What an attached client gets.
#[derive(Debug)]
pub struct Membership {
    /// Names the client when it goes.
    pub member: MemberId,
    /// The session's place in the table.
    pub entry: SessionEntry,
    /// The pool, for reading.
    pub pool: OwnedFd,
    /// The table, for reading.
    pub table: OwnedFd,
    /// The bundle's header and index, for reading.
    pub index: OwnedFd,
    /// The client's cell, for writing.
    pub cell: OwnedFd,
    /// The client's doorbell.
    pub doorbell: OwnedFd,
}
