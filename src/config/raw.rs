//! The keys of the file, one place each: its type with unit and range, its default, and what it
//! means. The schema is made of this, what is checked is what the schema says, and the comments of
//! `config/synchromesh.yaml` are these, word for word.
//!
//! How keys must agree with one another is `relations`' business.

use super::{
    LogFormat, Role, StorageBackend,
    value::{
        AbsolutePath, Count, FileMode, LogFilter, LoopbackAddress, Millis, Name, Size, SocketPath,
    },
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const MEBIBYTE: u64 = 1 << 20;
const TEBIBYTE: u64 = 1 << 40;
const HOUR_MS: u64 = 3_600_000;

/// A section of which every key has a default.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$key_meta:meta])* $key:ident: $kind:ty = $default:expr,)*
    }) => {
        #[derive(Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        $(#[$meta])*
        pub(super) struct $name {
            $($(#[$key_meta])* pub(super) $key: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default),* }
            }
        }
    };
}

section! {
    /// Configuration of the Synchromesh daemon.
    #[schemars(extend("required" = ["models"]))]
    RawConfig {
        /// What is served: 1 to 64 models.
        #[schemars(length(min = 1, max = 64))]
        models: Vec<RawModel> = Vec::new(),
        listen: RawListen = RawListen::default(),
        /// Who may connect to the Unix sockets besides root and the daemon's own user: a list of users
        /// and groups with a role each. A peer that several entries name has the highest of their roles.
        /// Peers must also be able to reach the sockets: see mode and group in listen; under the shipped
        /// units that is the group synchromesh.
        peers: Vec<RawPeer> = Vec::new(),
        /// Whether pools must be locked into memory. If the limit (LimitMEMLOCK=, ulimit -l) forbids
        /// it, the daemon does not start.
        lock_memory: bool = true,
        storage: RawStorage = RawStorage::default(),
        prefetch: RawPrefetch = RawPrefetch::default(),
        /// Where sessions and what was learnt about switches are kept over restarts; absolute. Each
        /// daemon needs a folder of its own. If it cannot be written, sessions and learning begin anew
        /// with each start.
        state_dir: AbsolutePath = AbsolutePath("/var/lib/synchromesh".into()),
        limits: RawLimits = RawLimits::default(),
        log: RawLog = RawLog::default(),
    }
}

/// A model.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    /// The bundle, made by `synchromesh compile`. Absolute, no symbolic link, not world-writable.
    pub(super) bundle: AbsolutePath,
    /// Memory for the model's blocks, besides its base tensors. A switch without a stop needs room
    /// for the old task's and the new task's blocks together; what is left over is cache. Never more
    /// is taken than all blocks of the bundle need. All pools together fit into the machine's memory.
    pub(super) pool_bytes: Size<4096, { u64::MAX }>,
    /// The task that the default session has at start. Default: none.
    #[serde(default)]
    pub(super) initial_task: Option<String>,
}

section! {
    /// Where clients connect.
    RawListen {
        /// Unix socket of the gRPC services: absolute, at most 107 bytes. Under the shipped units, the
        /// path is that of synchromesh-control.socket (ListenStream=), and this one means nothing.
        control: SocketPath = SocketPath("/run/synchromesh/control.sock".into()),
        /// Unix socket of the data plane, where clients get their view of the pool: absolute, at
        /// most 107 bytes. Under the shipped units, the path is that of synchromesh-attach.socket
        /// (ListenSequentialPacket=), and this one means nothing.
        attach: SocketPath = SocketPath("/run/synchromesh/attach.sock".into()),
        /// gRPC over TCP, on loopback addresses only, such as 127.0.0.1:7420. Every local user can
        /// connect there. The shipped unit allows it with the drop-in network.conf only. Default:
        /// none.
        tcp: Option<LoopbackAddress> = None,
        /// HTTP for metrics (/metrics, OpenMetrics) and the status page, read-only, on loopback
        /// addresses only, such as 127.0.0.1:9464. Every local user can look. Under the shipped
        /// units, the address is that of synchromesh-metrics.socket, and this one means nothing: they
        /// are served without it, until that unit is masked and the daemon restarted. Default: none.
        metrics: Option<LoopbackAddress> = None,
        /// Unix socket of the same HTTP, absolute, at most 107 bytes: for who scrapes from where the
        /// loopback address cannot be reached, such as outside a container. Who may write to it can
        /// look. Under the shipped units, the path is that of synchromesh-metrics.socket, and this one
        /// means nothing. Default: none.
        metrics_socket: Option<SocketPath> = None,
        /// Whether the gRPC services describe themselves to tools such as grpcurl.
        reflection: bool = true,
        /// Permissions of the Unix sockets that the daemon binds, in octal and in quotes. Who may write
        /// to a socket can reach it. Under the shipped units, SocketMode= takes the place of this.
        mode: FileMode = FileMode("0660".into()),
        /// Group of the Unix sockets that the daemon binds, by name or number; the daemon's user must be
        /// a member of it. Under the shipped units, SocketGroup= takes the place of this. Without it, the
        /// daemon's own group. Default: none.
        group: Option<Name> = None,
    }
}

/// An entry of `peers`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPeer {
    /// A user by name or number; or else a group. Default: none.
    #[serde(default)]
    pub(super) user: Option<Name>,
    /// A group by name or number, primary or supplementary. Default: none.
    #[serde(default)]
    pub(super) group: Option<Name>,
    /// observe: status, models, events and health. attach: also the attach socket, and so the weights.
    /// command: also every other call, such as switches and sessions.
    pub(super) role: Role,
}

section! {
    /// How bundles are read.
    RawStorage {
        /// auto: by io_uring where the kernel allows it, else by blocking calls on threads. preadv:
        /// always by blocking calls. `synchromesh status` tells which it is, and why.
        backend: StorageBackend = StorageBackend::Auto,
        /// Threads of blocking calls.
        read_threads: Count<1, 64> = Count(4),
        /// Reads of a model queued or under way, not below read_threads.
        reads_in_flight: Count<1, 4096> = Count(64),
        /// Largest read. A block is always read whole.
        read_bytes: Size<4096, { 64 * MEBIBYTE }> = Size(256 << 10),
        /// How long nothing at all may end of what is being read before the device is held not to
        /// answer. Then switches that have to read are refused, except that in each such time one may
        /// see whether it answers again.
        stall_ms: Millis<10, HOUR_MS> = Millis(2_000),
    }
}

section! {
    /// What is loaded ahead of switches: the daemon learns how tasks follow one another, and has the
    /// blocks of those that are likely next in place before they are asked for.
    RawPrefetch {
        /// Whether anything is. If not, cached blocks go by age alone, and only `synchromesh prepare`
        /// loads what is not active.
        enabled: bool = true,
        /// Bytes a second that may be read in vain, in the long run. Less where the device wears or
        /// the current is dear.
        waste_bytes_per_s: Size<MEBIBYTE, TEBIBYTE> = Size(64 * MEBIBYTE),
    }
}

section! {
    /// What bounds the daemon's work.
    RawLimits {
        /// Longest switch when its caller sets no earlier deadline.
        switch_timeout_ms: Millis<1, HOUR_MS> = Millis(30_000),
        /// Longest wait for running switches when stopping.
        drain_timeout_ms: Millis<1, HOUR_MS> = Millis(5_000),
        /// How long a client may go on reading a task that is not active any more before its lease is
        /// revoked and switches that need the room are refused instead of waiting. Longer than the
        /// longest inference.
        lease_patience_ms: Millis<1, HOUR_MS> = Millis(2_000),
        /// Clients attached to a session, not above connections. One user has at most three quarters of
        /// them, unless it is root or the daemon's own.
        clients_per_session: Count<1, 4096> = Count(16),
        /// Attachments of one process, not above clients_per_session: one that leaks them harms
        /// itself only.
        attachments_per_process: Count<1, 4096> = Count(8),
        /// Connections to each socket. One user has at most half of them, unless it is root or the
        /// daemon's own, for which 8 more are reserved. One process has at most a quarter of them on the
        /// control socket.
        connections: Count<1, 4096> = Count(64),
    }
}

section! {
    /// What is logged, to standard error or to the journal.
    RawLog {
        /// Levels: error, warn, info, debug, trace; for one module: synchromesh::engine=debug.
        filter: LogFilter = LogFilter("info".into()),
        /// auto: to the journal, with fields, if standard error leads there, else text. text: for
        /// people. json: one object a line. journald: to the journal in any case.
        format: LogFormat = LogFormat::Auto,
    }
}
