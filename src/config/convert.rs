//! Checked keys become a [`Config`]. Each section is taken apart whole, so that a key that is new
//! cannot be forgotten here.

use super::{
    Config, LimitsConfig, Listen, LogConfig, ModelConfig, PeerRule, Peers, PrefetchConfig,
    StorageConfig,
    accounts::{Kind, account_of, number_of},
    raw::{RawConfig, RawLimits, RawListen, RawLog, RawModel, RawPeer, RawPrefetch, RawStorage},
    value::{LoopbackAddress, mode_of},
};
use std::time::Duration;

impl From<RawConfig> for Config {
    fn from(raw: RawConfig) -> Self {
        let RawConfig {
            models,
            listen,
            peers,
            lock_memory,
            storage,
            prefetch,
            state_dir,
            limits,
            log,
        } = raw;
        Self {
            listen: listen.into(),
            peers: Peers(peers.iter().filter_map(rule_of).collect()),
            models: models.into_iter().map(ModelConfig::from).collect(),
            lock_memory,
            storage: storage.into(),
            prefetch: prefetch.into(),
            state_dir: state_dir.0,
            limits: limits.into(),
            log: log.into(),
        }
    }
}

impl From<RawModel> for ModelConfig {
    fn from(raw: RawModel) -> Self {
        let RawModel { bundle, pool_bytes, initial_task } = raw;
        Self { bundle: bundle.0, pool_bytes: pool_bytes.0, initial_task }
    }
}

impl From<RawListen> for Listen {
    fn from(raw: RawListen) -> Self {
        let RawListen { control, attach, tcp, metrics, metrics_socket, reflection, mode, group } =
            raw;
        let address = |address: LoopbackAddress| address.0;
        let (tcp, metrics) = (tcp.map(address), metrics.map(address));
        let mode = mode_of(&mode.0).unwrap_or(0o600);
        let group = group.and_then(|group| number_of(Kind::Group, &group).ok());
        let (control, attach) = (control.0, attach.0);
        let metrics_socket = metrics_socket.map(|socket| socket.0);
        Self { control, attach, tcp, metrics, metrics_socket, reflection, mode, group }
    }
}

/// `None` for an entry that `relations` has refused, and for one whose account was removed since: it
/// admits nobody.
fn rule_of(raw: &RawPeer) -> Option<PeerRule> {
    let account = account_of(raw).ok()?;
    Some(PeerRule { account, role: raw.role })
}

impl From<RawStorage> for StorageConfig {
    fn from(raw: RawStorage) -> Self {
        let RawStorage { backend, read_threads, reads_in_flight, read_bytes, stall_ms } = raw;
        Self {
            backend,
            read_threads: read_threads.0 as usize,
            reads_in_flight: reads_in_flight.0 as usize,
            read_bytes: read_bytes.0,
            stall: Duration::from_millis(stall_ms.0),
        }
    }
}

impl From<RawPrefetch> for PrefetchConfig {
    fn from(raw: RawPrefetch) -> Self {
        let RawPrefetch { enabled, waste_bytes_per_s } = raw;
        Self { enabled, waste_bytes_per_s: waste_bytes_per_s.0 }
    }
}

impl From<RawLimits> for LimitsConfig {
    fn from(raw: RawLimits) -> Self {
        let RawLimits {
            switch_timeout_ms,
            drain_timeout_ms,
            lease_patience_ms,
            clients_per_session,
            attachments_per_process,
            connections,
        } = raw;
        Self {
            switch_timeout: Duration::from_millis(switch_timeout_ms.0),
            drain_timeout: Duration::from_millis(drain_timeout_ms.0),
            lease_patience: Duration::from_millis(lease_patience_ms.0),
            clients_per_session: clients_per_session.0 as usize,
            attachments_per_process: attachments_per_process.0 as usize,
            connections: connections.0 as usize,
        }
    }
}

impl From<RawLog> for LogConfig {
    fn from(raw: RawLog) -> Self {
        let RawLog { filter, format } = raw;
        Self { filter: filter.0, format }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        RawStorage::default().into()
    }
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        RawPrefetch::default().into()
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        RawLog::default().into()
    }
}
