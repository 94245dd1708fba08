//! Log lines, and where they go.
//!
//! Lines are written by a thread of their own, through a queue that drops what does not fit: a
//! reader of the log that has stopped reading must not stop the daemon.

use crate::config::{LogConfig, LogFormat};
use std::io;
use tracing::{Subscriber, dispatcher};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

/// Lines that may wait to be written.
const QUEUED_LINES: usize = 4096;

/// Writes what is queued when it is dropped, as far as that can be done within a second.
#[must_use = "without it, nothing is written"]
pub struct LogGuard {
    _worker: WorkerGuard,
    filter: reload::Handle<Targets, Registry>,
}

impl LogGuard {
    /// Writes lines of these levels from now on, such as `info`.
    pub fn set_filter(&self, filter: &str) {
        // It fails only where no line is written at all.
        let _ = self.filter.reload(parsed(filter));
    }
}

/// What became of lines that were not written. Counts begin with the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Lines that could not be written in time.
    pub lines_dropped: u64,
    /// Lines that were left out as there were too many like them.
    pub lines_suppressed: u64,
}

/// A part of the log that does nothing but tell.
struct Dropped(ErrorCounter);

impl<S: Subscriber> Layer<S> for Dropped {}

/// What became of lines that were not written; nothing if there is no log.
pub fn log_counters() -> LogCounters {
    let counters = |Dropped(count): &Dropped| LogCounters {
        lines_dropped: count.dropped_lines() as u64,
        lines_suppressed: 0,
    };
    dispatcher::get_default(|log| log.downcast_ref().map(counters)).unwrap_or_default()
}

/// Sends log lines there from now on. A second call changes nothing.
pub fn log_to(to: impl io::Write + Send + 'static, config: &LogConfig) -> LogGuard {
    let (levels, filter) = reload::Layer::new(parsed(&config.filter));
    let (queue, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .thread_name("log")
        .finish(to);
    let dropped = Dropped(queue.error_counter());
    let lines = fmt::layer().with_writer(queue);
    let lines = match config.format {
        LogFormat::Auto | LogFormat::Text | LogFormat::Journald => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let log = tracing_subscriber::registry().with(lines.with_filter(levels)).with(dropped);
    let _ = log.try_init();
    LogGuard { _worker: guard, filter }
}

/// The configuration has checked the filter.
fn parsed(filter: &str) -> Targets {
    filter.parse().unwrap_or_default()
}
