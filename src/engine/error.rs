//! What the engine refuses, and why. Each variant says what its caller can do about it.

use crate::units::Generation;
use thiserror::Error;

/// Why a command was not carried out. The active task of every session is as it was, except with
/// [`Emptied`](Self::Emptied).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EngineError {
    /// No such model.
    #[error("there is no model `{name}`; loaded: {}", list(known))]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// No model was named, and there is not exactly one.
    #[error("name a model; loaded: {}", list(known))]
    AmbiguousModel {
        /// The names there are.
        known: Vec<String>,
    },
    /// No such session.
    #[error("there is no session `{name}`; open: {}", list(known))]
    UnknownSession {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// No such task.
    #[error("there is no task `{name}`; the bundle has: {}", list(known))]
    UnknownTask {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A name that cannot be one.
    #[error("{what} must be 1 to {limit} letters, digits, '.', '_' or '-', not '.' or '..'")]
    BadName {
        /// What is named.
        what: &'static str,
        /// Most characters.
        limit: usize,
    },
    /// The session exists already.
    #[error("session `{0}` is open already")]
    SessionExists(String),
    /// All places for sessions are taken.
    #[error("all {0} sessions of the model are open: close one first")]
    TooManySessions(usize),
    /// A user or a process has opened as many sessions as it may.
    #[error("the {whom} has opened {limit} sessions of the model, its share: close one first")]
    TooManySessionsOf {
        /// The user or the process.
        whom: &'static str,
        /// Most sessions that it may have opened.
        limit: usize,
    },
    /// The session cannot be closed.
    #[error("the default session cannot be closed")]
    DefaultSession,
    /// The session is in use.
    #[error("{clients} clients are attached to session `{name}`: let them detach first")]
    SessionInUse {
        /// The session.
        name: String,
        /// Clients attached.
        clients: usize,
    },
    /// The process is not attached.
    #[error("process {pid} is not attached to session `{session}`")]
    NotAttached {
        /// The session.
        session: String,
        /// The process.
        pid: u32,
    },
    /// All places for clients are taken.
    #[error("all {0} client places of the session are taken")]
    TooManyClients(usize),
    /// Too many callers wait for the same already.
    #[error(
        "{0} callers wait for this already: a caller should wait for the answer of its first call"
    )]
    TooManyCallers(usize),
    /// One user has as many clients of the session as it may have.
    #[error(
        "the user has {0} client places of the session already: use a session of its own, or raise \
         `limits.clients_per_session`"
    )]
    TooManyClientsOfUser(usize),
    /// The daemon cannot give the client its cell or doorbell.
    #[error("the daemon is out of descriptors or memory for another client")]
    NoClientMemory,
    /// The session is at another generation than the caller expects.
    #[error("the session is at generation {actual}, not {expected}")]
    GenerationMismatch {
        /// What the caller expects.
        expected: Generation,
        /// What it is.
        actual: Generation,
    },
    /// The request id was used for another task.
    #[error("this request id was used for another task: use a fresh one for each switch")]
    RequestIdReused,
    /// The task does not fit beside what is in use.
    #[error(
        "the task needs {needed_bytes} bytes more, but {available_bytes} can be made available \
         beside the tasks in use: enlarge the pool or close a session"
    )]
    NoRoom {
        /// Bytes to load.
        needed_bytes: u64,
        /// Bytes that could be freed for them.
        available_bytes: u64,
    },
    /// A later switch of the same session took this one's place.
    #[error("a later switch of the session took this one's place")]
    Superseded,
    /// The session was closed while it switched.
    #[error("the session was closed")]
    SessionClosed,
    /// The deadline came before the task was there.
    #[error("the deadline passed before the task was loaded")]
    DeadlineExceeded,
    /// Blocks of the task cannot be read, or are not what they should be.
    #[error(
        "a block of task `{task}` cannot be read or does not match its checksum: restore the bundle"
    )]
    Corrupt {
        /// The task.
        task: String,
    },
    /// The device does not answer, or is gone. What is resident can still be switched to.
    #[error("the storage device does not answer: tasks that are resident can be switched to")]
    StorageUnavailable,
    /// The session gave up its task for the switch, which then failed.
    #[error("{0}. The session had given up its task for this switch and has none now")]
    Emptied(Box<EngineError>),
    /// Too many commands wait already.
    #[error("too many commands wait already: try again later")]
    Busy,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Draining,
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}

impl EngineError {
    /// Whether the same switch may work a little later. The failed one had no effect, except with
    /// [`Emptied`](Self::Emptied).
    pub(super) fn may_pass(&self) -> bool {
        use EngineError as E;
        match self {
            E::Emptied(cause) => cause.may_pass(),
            E::NoRoom { .. } | E::StorageUnavailable | E::DeadlineExceeded => true,
            E::Busy | E::Draining | E::Stopped => true,
            _ => false,
        }
    }
}

/// Most names that an error lists: an answer has to fit into the trailers of a call.
pub const LISTED_NAMES: usize = 16;

/// Names in words: all of them, or the first ones and how many more there are.
fn list(names: &[String]) -> String {
    let (listed, more) = names.split_at(names.len().min(LISTED_NAMES));
    match (listed, more) {
        ([], _) => "none".into(),
        (_, []) => listed.join(", "),
        _ => format!("{} and {} more", listed.join(", "), more.len()),
    }
}
