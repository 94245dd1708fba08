//! Log lines, and where they go: text or JSON to standard error, or entries with fields to the
//! journal.
//!
//! Nobody waits for a line. It passes the [`gate`], which bounds floods, and is put into a
//! [`queue`], which drops what does not fit; a thread of its own writes.

mod gate;
mod journal;
mod queue;
mod text;

use crate::config::{LogConfig, LogFormat};
use gate::{Admission, Gate};
use journal::{Entries, Journal};
use queue::{Queue, Writer};
use std::{io, sync::Arc};
use text::{Text, Time};
use thiserror::Error;
use tracing::dispatcher;
use tracing_subscriber::{
    Layer, Registry, filter::ParseError, fmt, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Writes what is queued when it is dropped, as far as that can be done within a second.
#[must_use = "without it, nothing is written"]
pub struct LogGuard {
    gate: Arc<Gate>,
    _writer: Writer,
}

/// What became of lines that were not written. Counts begin with the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Lines that could not be written in time, or at all.
    pub lines_dropped: u64,
    /// Lines that were left out as there were too many like them.
    pub lines_suppressed: u64,
}

/// A filter is none.
#[derive(Debug, Error)]
#[error("log.filter: {0}; use a level such as `info`")]
pub struct FilterError(#[from] ParseError);

impl LogGuard {
    /// Logs by another filter from now on. One that is none changes nothing.
    pub fn set_filter(&self, filter: &str) -> Result<(), FilterError> {
        self.gate.set_levels(filter.parse()?);
        Ok(())
    }
}

/// What became of lines that were not written; nothing if there is no log.
pub fn log_counters() -> LogCounters {
    let counters = |Admission(gate): &Admission| LogCounters {
        lines_dropped: gate.queue().dropped(),
        lines_suppressed: gate.left_out(),
    };
    dispatcher::get_default(|log| log.downcast_ref().map(counters)).unwrap_or_default()
}

/// Sends log lines to standard error from now on, or to the journal if the configuration says so or
/// that is where standard error leads. A second call changes nothing.
pub fn log_to_stderr(config: &LogConfig) -> LogGuard {
    let wanted = match config.format {
        LogFormat::Auto => journal::is_standard_error(),
        LogFormat::Journald => true,
        LogFormat::Text | LogFormat::Json => false,
    };
    if !wanted {
        return log_to(io::stderr(), config);
    }
    match Journal::connect(journal::SOCKET) {
        Ok(journal) => begin(journal, config, |queue| Entries::new(queue).boxed()),
        Err(error) => {
            let guard = log_to(io::stderr(), config);
            tracing::warn!(%error, "the journal is not to be reached: lines go to standard error");
            guard
        }
    }
}

/// Sends log lines there from now on, as JSON if the configuration says so, else as text. A second
/// call changes nothing.
pub fn log_to(to: impl io::Write + Send + 'static, config: &LogConfig) -> LogGuard {
    begin(to, config, |queue| {
        let lines = fmt::layer().with_writer(queue).with_ansi(false);
        match config.format {
            LogFormat::Json => lines.with_timer(Time).json().boxed(),
            LogFormat::Auto | LogFormat::Text | LogFormat::Journald => {
                lines.event_format(Text).boxed()
            }
        }
    })
}

fn begin(
    to: impl io::Write + Send + 'static,
    config: &LogConfig,
    layer: impl FnOnce(Queue) -> Box<dyn Layer<Registry> + Send + Sync>,
) -> LogGuard {
    let (queue, lines) = Queue::new();
    // The configuration has checked the filter.
    let gate = Arc::new(Gate::new(config.filter.parse().unwrap_or_default(), queue.clone()));
    let layer = layer(queue).with_filter(Admission(gate.clone()));
    let _ = tracing_subscriber::registry().with(layer).try_init();
    let writer = Writer::start(to, lines, gate.clone());
    LogGuard { gate, _writer: writer }
}
