//! Metrics of the daemon as a whole.

use super::{
    Seen,
    families::{Families, flag, numbers},
};
use crate::{admission::Usage, proto::DaemonState};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What is counted of the daemon as a whole.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) events_lost: AtomicU64,
    pub(super) reloads: AtomicU64,
    pub(super) refused_reloads: AtomicU64,
}

/// The daemon at one moment.
#[derive(Debug)]
pub(super) struct Daemon {
    /// Whether the engine has answered.
    pub(super) engine_answers: bool,
    /// What it said last that it does.
    pub(super) state: i32,
    pub(super) commands_waiting: usize,
    pub(super) seen: Seen,
    pub(super) sockets: Vec<Usage>,
    pub(super) counts: Arc<Counts>,
}

impl Collector for Daemon {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = Families(encoder);
        let build = [[("version", env!("CARGO_PKG_VERSION"))]];
        to.infos(numbers("build", "The daemon's version"), build)?;
        let up =
            numbers("engine_up", "Whether the engine answers; what only it knows is absent if not");
        to.gauge(up, flag(self.engine_answers))?;
        let state = numbers("daemon_state", "1 for what the daemon does now, 0 for what it could");
        to.gauges(state, states().map(|state| ([("state", name(state))], self.is(state))))?;
        let waiting = numbers("engine_commands_waiting", "Commands that wait for the engine");
        to.gauge(waiting, self.commands_waiting as f64)?;
        let watchers = numbers("event_watchers", "Calls that watch events");
        to.gauge(watchers, self.seen.watchers as f64)?;
        let connections =
            numbers("http_connections", "Open connections of metrics and status page");
        to.gauge(connections, self.seen.connections as f64)?;
        let Counts { events_lost, reloads, refused_reloads } = &*self.counts;
        let lost = numbers("events_lost", "Events that came faster than they could be told");
        to.counter(lost, events_lost.load(Relaxed))?;
        let log = self.seen.log;
        let dropped = numbers("log_lines_dropped", "Log lines that could not be written in time");
        to.counter(dropped, log.lines_dropped)?;
        let left_out = "Log lines that were left out as there were too many like them";
        to.counter(numbers("log_lines_suppressed", left_out), log.lines_suppressed)?;
        let outcomes = [("applied", reloads), ("refused", refused_reloads)];
        let outcomes = outcomes.map(|(name, count)| ([("outcome", name)], count.load(Relaxed)));
        to.counters(
            numbers("config_reloads", "Times that the configuration was read again"),
            outcomes,
        )?;
        self.encode_connections(&mut to)
    }
}

impl Daemon {
    fn encode_connections(&self, to: &mut Families<'_>) -> fmt::Result {
        let of = |value: fn(&Usage) -> usize| {
            let usages = self.sockets.iter();
            usages.map(move |usage| ([("socket", usage.socket)], value(usage) as f64))
        };
        let taken = numbers("connections", "Open connections of admitted callers");
        to.gauges(taken, of(|usage| usage.taken))?;
        let limit = numbers("connections_limit", "Connections that are admitted at most");
        to.gauges(limit, of(|usage| usage.limit))?;
        let refused = self.sockets.iter().flat_map(|usage| {
            let label = |(reason, count)| ([("socket", usage.socket), ("reason", reason)], count);
            usage.rejected.map(label)
        });
        to.counters(numbers("connections_refused", "Connections that were refused"), refused)
    }

    fn is(&self, state: DaemonState) -> f64 {
        flag(self.state == i32::from(state))
    }
}

/// All states that the protocol has.
fn states() -> impl Iterator<Item = DaemonState> {
    (1..).map_while(|number| DaemonState::try_from(number).ok())
}

/// As the protocol names it, without what all begin with.
fn name(state: DaemonState) -> String {
    state.as_str_name().trim_start_matches("DAEMON_STATE_").to_ascii_lowercase()
}
