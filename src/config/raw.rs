//! The configuration as the file has it: types and defaults. Whether values are any good is the
//! parent's business.

use super::{LogConfig, LogFormat, PrefetchConfig, StorageBackend, StorageConfig};
use bytesize::ByteSize;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) listen: RawListen,
    #[serde(default)]
    pub(super) peers: RawPeers,
    pub(super) models: Vec<RawModel>,
    #[serde(default = "enabled")]
    pub(super) lock_memory: bool,
    #[serde(default)]
    pub(super) storage: RawStorage,
    #[serde(default)]
    pub(super) prefetch: RawPrefetch,
    #[serde(default = "state_dir")]
    pub(super) state_dir: PathBuf,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) log: RawLog,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    pub(super) control: PathBuf,
    pub(super) attach: PathBuf,
    pub(super) tcp: Option<String>,
    pub(super) metrics: Option<String>,
    pub(super) reflection: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPeers {
    pub(super) uids: Vec<u32>,
    pub(super) gids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) bundle: PathBuf,
    pub(super) pool_bytes: ByteSize,
    #[serde(default)]
    pub(super) initial_task: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStorage {
    pub(super) backend: StorageBackend,
    pub(super) read_threads: u64,
    pub(super) reads_in_flight: u64,
    pub(super) read_bytes: ByteSize,
    pub(super) stall_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPrefetch {
    pub(super) enabled: bool,
    pub(super) waste_bytes_per_s: ByteSize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) switch_timeout_ms: u64,
    pub(super) drain_timeout_ms: u64,
    pub(super) lease_patience_ms: u64,
    pub(super) clients_per_session: u64,
    pub(super) attachments_per_process: u64,
    pub(super) connections: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) filter: String,
    pub(super) format: LogFormat,
}

fn enabled() -> bool {
    true
}

fn state_dir() -> PathBuf {
    "/var/lib/synchromesh".into()
}

impl Default for RawListen {
    fn default() -> Self {
        Self {
            control: "/run/synchromesh/control.sock".into(),
            attach: "/run/synchromesh/attach.sock".into(),
            tcp: None,
            metrics: None,
            reflection: true,
        }
    }
}

impl Default for RawStorage {
    fn default() -> Self {
        let StorageConfig { backend, read_threads, reads_in_flight, read_bytes, stall } =
            StorageConfig::default();
        Self {
            backend,
            read_threads: read_threads as u64,
            reads_in_flight: reads_in_flight as u64,
            read_bytes: ByteSize(read_bytes),
            stall_ms: stall.as_millis() as u64,
        }
    }
}

impl Default for RawPrefetch {
    fn default() -> Self {
        let PrefetchConfig { enabled, waste_bytes_per_s } = PrefetchConfig::default();
        Self { enabled, waste_bytes_per_s: ByteSize(waste_bytes_per_s) }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            switch_timeout_ms: 30_000,
            drain_timeout_ms: 5_000,
            lease_patience_ms: 2_000,
            clients_per_session: 16,
            attachments_per_process: 8,
            connections: 64,
        }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        let LogConfig { filter, format } = LogConfig::default();
        Self { filter, format }
    }
}
