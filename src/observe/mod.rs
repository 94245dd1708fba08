//! What people see of the daemon: log lines, for now. Metrics and events come in beside them.

use crate::config::{LogConfig, LogFormat};
use std::io;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Sends log lines to standard error from now on. A second call changes nothing.
pub fn log_to_stderr(config: &LogConfig) {
    // The configuration has checked the filter.
    let filter: Targets = config.filter.parse().unwrap_or_default();
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
