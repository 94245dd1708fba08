//! The daemon's configuration: what a YAML file, environment variables and arguments say becomes a
//! [`Config`] that holds only valid values, or a list of everything that is wrong.
//!
//! `raw` has the keys, `schema` makes a JSON Schema of them, `check` holds what is written against
//! it, and `relations` what keys say of one another and of files. Values are refused, never adjusted.
//! Offline recipes are `compile::recipe`'s business.

mod accounts;
mod check;
mod convert;
mod error;
mod marks;
mod overrides;
mod raw;
mod relations;
mod schema;
mod source;
mod suggest;
mod tree;
mod trust;
mod value;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use error::{ConfigError, Place, Problem};
pub use overrides::is_override;
pub use schema::schema;
pub use source::{Inspect, Source};
pub use value::MAX_SOCKET_PATH;

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where clients connect.
    pub listen: Listen,
    /// Who may connect.
    pub peers: Peers,
    /// What is served.
    pub models: Vec<ModelConfig>,
    /// Whether pools must be locked into memory.
    pub lock_memory: bool,
    /// How bundles are read.
    pub storage: StorageConfig,
    /// What may be loaded ahead of switches.
    pub prefetch: PrefetchConfig,
    /// Where what was learnt about switches is kept.
    pub state_dir: PathBuf,
    /// What bounds the daemon's work.
    pub limits: LimitsConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Unix socket of the gRPC services.
    pub control: PathBuf,
    /// Unix socket of the data plane.
    pub attach: PathBuf,
    /// Loopback address of the gRPC services.
    pub tcp: Option<SocketAddr>,
    /// Loopback address of metrics and the status page.
    pub metrics: Option<SocketAddr>,
    /// Unix socket of the same.
    pub metrics_socket: Option<PathBuf>,
    /// Whether services describe themselves.
    pub reflection: bool,
    /// Permissions of the Unix sockets that the daemon binds.
    pub mode: u32,
    /// Group of the Unix sockets that the daemon binds; without one, the daemon's own.
    pub group: Option<u32>,
}

/// Who may connect besides root and the daemon's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(pub Vec<PeerRule>);

/// A user or a group, and its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// Who has the role.
    pub account: Account,
    /// The role.
    pub role: Role,
}

/// A user or a group, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// A user.
    User(u32),
    /// A group, primary or supplementary.
    Group(u32),
}

/// What a peer may do. Each role includes those before it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read status, models and events.
    Observe,
    /// Also attach, and so read the weights.
    Attach,
    /// Also every other call, such as a switch.
    Command,
}

/// A model to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelConfig {
    /// The bundle.
    pub bundle: PathBuf,
    /// Room for its blocks.
    pub pool_bytes: u64,
    /// Task of the default session at start.
    pub initial_task: Option<String>,
}

/// How bundles are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// Which backend reads.
    pub backend: StorageBackend,
    /// Threads of blocking reads.
    pub read_threads: usize,
    /// Reads queued or under way.
    pub reads_in_flight: usize,
    /// Largest read.
    pub read_bytes: u64,
    /// How long nothing may end of what is being read before the device is held not to answer.
    pub stall: Duration,
}

/// What may be loaded ahead of switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchConfig {
    /// Whether anything is.
    pub enabled: bool,
    /// Bytes a second that may be read in vain, in the long run.
    pub waste_bytes_per_s: u64,
}

impl PrefetchConfig {
    /// Nothing is loaded ahead.
    pub const OFF: Self = Self { enabled: false, waste_bytes_per_s: 0 };
}

/// Which backend reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageBackend {
    /// io_uring where the kernel allows it, else blocking calls.
    #[default]
    Auto,
    /// Blocking calls.
    Preadv,
}

/// What bounds the daemon's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Longest switch.
    pub switch_timeout: Duration,
    /// Longest wait for running switches when stopping.
    pub drain_timeout: Duration,
    /// How long a lease on an old generation may keep room from others.
    pub lease_patience: Duration,
    /// Clients attached to a session.
    pub clients_per_session: usize,
    /// Attachments of one process.
    pub attachments_per_process: usize,
    /// Connections to each socket.
    pub connections: usize,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Levels, such as `info` or `synchromesh::engine=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The journal's own if that is where standard error goes, else text.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// To the journal, with fields.
    Journald,
}

impl Role {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Attach => "attach",
            Self::Command => "command",
        }
    }
}

impl Peers {
    /// The highest role that these rules give to a user, by its own number or by one of its groups.
    pub fn role(&self, uid: u32, gid: u32, groups: &[u32]) -> Option<Role> {
        let matches = |account| match account {
            Account::User(user) => user == uid,
            Account::Group(group) => group == gid || groups.contains(&group),
        };
        self.0.iter().filter(|rule| matches(rule.account)).map(|rule| rule.role).max()
    }
}
