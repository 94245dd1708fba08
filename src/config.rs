//! The daemon's configuration: what the YAML file says becomes a [`Config`] that holds only valid
//! values, or a list of everything that is wrong with it.
//!
//! Values are refused, never adjusted. Offline recipes are `compile::recipe`'s business.

mod raw;

use crate::files::{folder, read_text};
use raw::{RawConfig, RawLimits, RawListen, RawLog, RawModel, RawPeers, RawPrefetch, RawStorage};
use rustix::system::sysinfo;
use serde::Deserialize;
use std::{
    collections::HashSet,
    fmt, fs, io,
    net::SocketAddr,
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;

/// Largest configuration file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Longest path of a Unix socket that the kernel takes.
pub const MAX_SOCKET_PATH: usize = 107;
const MEBIBYTE: u64 = 1 << 20;

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
    /// Whether services describe themselves.
    pub reflection: bool,
}

/// Users and groups that may connect besides root and the daemon's own user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// User ids.
    pub uids: Vec<u32>,
    /// Primary group ids.
    pub gids: Vec<u32>,
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

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            backend: StorageBackend::Auto,
            read_threads: 4,
            reads_in_flight: 64,
            read_bytes: 256 << 10,
            stall: Duration::from_millis(2_000),
        }
    }
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

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self { enabled: true, waste_bytes_per_s: 64 << 20 }
    }
}

/// Which backend reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::default() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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

/// Why a configuration is not used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not YAML, or has keys or types that are not known.
    #[error("{}: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The cause, with line and column.
        source: serde_yaml::Error,
    },
    /// Values are wrong.
    #[error("{}: {}", path.display(), Problems(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them.
        problems: Vec<Problem>,
    },
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, such as `models[0].bundle`.
    pub key: String,
    /// What is wrong, and what to do.
    pub what: String,
}

struct Problems<'a>(&'a [Problem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { key, what }) in self.0.iter().enumerate() {
            write!(f, "{}{key}: {what}", if i == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl Peers {
    /// Whether a process of this user and primary group may connect.
    pub fn allow(&self, uid: u32, gid: u32) -> bool {
        let own = rustix::process::geteuid().as_raw();
        uid == 0 || uid == own || self.uids.contains(&uid) || self.gids.contains(&gid)
    }
}

impl Config {
    /// Reads a file and checks it, and the files that it names.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let invalid = |problems| ConfigError::Invalid { path: path.to_owned(), problems };
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        if let Some(what) = untrusted(path).map_err(read)? {
            return Err(invalid(vec![Problem { key: "the file itself".into(), what }]));
        }
        let text = read_text(path, MAX_FILE_BYTES).map_err(read)?;
        let config = Self::parse(&text, path)?;
        let problems = config.check_files();
        if problems.is_empty() { Ok(config) } else { Err(invalid(problems)) }
    }

    /// Checks a configuration's text; `path` is for messages. No other file is touched.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_yaml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })?;
        let mut check = Check::default();
        let config = check.config(raw);
        if check.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid { path: path.to_owned(), problems: check.problems })
        }
    }

    fn check_files(&self) -> Vec<Problem> {
        let mut check = Check::default();
        for (i, model) in self.models.iter().enumerate() {
            match untrusted(&model.bundle) {
                Ok(None) => {}
                Ok(Some(what)) => check.wrong(format!("models[{i}].bundle"), what),
                Err(error) => check.wrong(
                    format!("models[{i}].bundle"),
                    format!("cannot read {}: {error}", model.bundle.display()),
                ),
            }
        }
        check.problems
    }
}

/// Collects what is wrong.
#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn wrong(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem { key: key.into(), what: what.into() });
    }

    fn config(&mut self, raw: RawConfig) -> Config {
        let RawConfig {
            listen,
            peers,
            models,
            lock_memory,
            storage,
            prefetch,
            state_dir,
            limits,
            log,
        } = raw;
        self.absolute("state_dir", &state_dir);
        let RawPeers { uids, gids } = peers;
        let RawLog { filter, format } = log;
        if let Err(error) = filter.parse::<tracing_subscriber::filter::Targets>() {
            self.wrong("log.filter", format!("{error}; use a level such as `info`"));
        }
        Config {
            listen: self.listen(listen),
            peers: Peers { uids, gids },
            models: self.models(models),
            lock_memory,
            storage: self.storage(storage),
            prefetch: self.prefetch(prefetch),
            state_dir,
            limits: self.limits(limits),
            log: LogConfig { filter, format },
        }
    }

    fn listen(&mut self, raw: RawListen) -> Listen {
        let RawListen { control, attach, tcp, metrics, reflection } = raw;
        for (key, path) in [("listen.control", &control), ("listen.attach", &attach)] {
            self.absolute(key, path);
            if path.as_os_str().len() > MAX_SOCKET_PATH {
                self.wrong(key, format!("a socket's path has at most {MAX_SOCKET_PATH} bytes"));
            }
        }
        if control == attach {
            self.wrong("listen.attach", "is the same path as listen.control: use another");
        }
        let tcp = tcp.and_then(|address| self.loopback("listen.tcp", &address));
        let metrics = metrics.and_then(|address| self.loopback("listen.metrics", &address));
        if tcp.is_some() && tcp == metrics {
            self.wrong("listen.metrics", "is the same address as listen.tcp: use another");
        }
        Listen { control, attach, tcp, metrics, reflection }
    }

    fn loopback(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => return Some(address),
            Ok(_) => self.wrong(key, "only loopback addresses are allowed: 127.0.0.1:PORT"),
            Err(_) => self.wrong(key, "is not an address: use 127.0.0.1:PORT"),
        }
        None
    }

    fn models(&mut self, raw: Vec<RawModel>) -> Vec<ModelConfig> {
        if raw.is_empty() {
            self.wrong("models", "name at least one model");
        }
        let info = sysinfo();
        let memory = info.totalram * u64::from(info.mem_unit);
        let mut seen = HashSet::new();
        let mut total = 0u64;
        let mut models = Vec::with_capacity(raw.len());
        for (i, RawModel { bundle, pool_bytes, initial_task }) in raw.into_iter().enumerate() {
            self.absolute(&format!("models[{i}].bundle"), &bundle);
            if !seen.insert(bundle.clone()) {
                self.wrong(format!("models[{i}].bundle"), "is served by another entry already");
            }
            let pool_bytes = pool_bytes.as_u64();
            total = total.saturating_add(pool_bytes);
            if pool_bytes == 0 {
                self.wrong(format!("models[{i}].pool_bytes"), "must be more than 0");
            } else if total > memory {
                self.wrong(
                    format!("models[{i}].pool_bytes"),
                    format!("pools of {total} bytes in all exceed the machine's {memory}"),
                );
            }
            models.push(ModelConfig { bundle, pool_bytes, initial_task });
        }
        models
    }

    fn storage(&mut self, raw: RawStorage) -> StorageConfig {
        let RawStorage { backend, read_threads, reads_in_flight, read_bytes, stall_ms } = raw;
        if reads_in_flight < read_threads {
            self.wrong("storage.reads_in_flight", "must not be below storage.read_threads");
        }
        let read_bytes = read_bytes.as_u64();
        let stall_ms = self.within("storage.stall_ms", stall_ms, 10..=3_600_000);
        StorageConfig {
            backend,
            stall: Duration::from_millis(stall_ms),
            read_threads: self.within("storage.read_threads", read_threads, 1..=64) as usize,
            reads_in_flight: self.within("storage.reads_in_flight", reads_in_flight, 1..=4096)
                as usize,
            read_bytes: self.within("storage.read_bytes", read_bytes, 4096..=64 * MEBIBYTE),
        }
    }

    fn prefetch(&mut self, raw: RawPrefetch) -> PrefetchConfig {
        let RawPrefetch { enabled, waste_bytes_per_s } = raw;
        let bytes = waste_bytes_per_s.as_u64();
        let range = MEBIBYTE..=1024 * 1024 * MEBIBYTE;
        let waste_bytes_per_s = self.within("prefetch.waste_bytes_per_s", bytes, range);
        PrefetchConfig { enabled, waste_bytes_per_s }
    }

    fn limits(&mut self, raw: RawLimits) -> LimitsConfig {
        let RawLimits {
            switch_timeout_ms,
            drain_timeout_ms,
            lease_patience_ms,
            clients_per_session,
            attachments_per_process,
            connections,
        } = raw;
        let mut ms =
            |key: &str, value| Duration::from_millis(self.within(key, value, 1..=3_600_000));
        let switch_timeout = ms("limits.switch_timeout_ms", switch_timeout_ms);
        let drain_timeout = ms("limits.drain_timeout_ms", drain_timeout_ms);
        let lease_patience = ms("limits.lease_patience_ms", lease_patience_ms);
        let mut count = |key: &str, value| self.within(key, value, 1..=4096) as usize;
        let per_process = "limits.attachments_per_process";
        LimitsConfig {
            switch_timeout,
            drain_timeout,
            lease_patience,
            clients_per_session: count("limits.clients_per_session", clients_per_session),
            attachments_per_process: count(per_process, attachments_per_process),
            connections: count("limits.connections", connections),
        }
    }

    fn within(&mut self, key: &str, value: u64, range: RangeInclusive<u64>) -> u64 {
        if !range.contains(&value) {
            let (low, high) = range.into_inner();
            self.wrong(key, format!("is {value}; {low} to {high} are allowed"));
        }
        value
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        let plain = |part| !matches!(part, std::path::Component::ParentDir);
        if !path.is_absolute() || !path.components().all(plain) {
            self.wrong(key, format!("`{}` must be an absolute path without `..`", path.display()));
        }
    }
}

/// Says why a file may not be relied on: somebody else could exchange it.
fn untrusted(path: &Path) -> io::Result<Option<String>> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let shown = path.display();
    if kind.is_symlink() {
        return Ok(Some(format!("{shown} is a symbolic link: name the file itself")));
    }
    if !kind.is_file() {
        return Ok(Some(format!("{shown} is not a regular file")));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Ok(Some(format!("{shown} belongs to another user: chown it to root")));
    }
    if meta.mode() & 0o002 != 0 {
        return Ok(Some(format!("{shown} is writable by everybody: chmod o-w")));
    }
    let mode = fs::metadata(folder(path))?.mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Ok(Some(format!("the folder of {shown} is writable by everybody: chmod o-w")));
    }
    Ok(None)
}
