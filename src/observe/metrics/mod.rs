//! What is counted and measured, in OpenMetrics' text. Counters and histograms go by the engine's
//! events; everything that the engine knows anyway is asked for when somebody scrapes.

use crate::{
    engine::{Event, EventKind},
    proto::event::Kind,
};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, info::Info},
    registry::Registry,
};

/// The type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is counted and measured.
pub(super) struct Metrics {
    registry: Registry,
    switches: Counter,
    events_lost: Counter,
}

impl Metrics {
    /// Nothing has happened yet.
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("synchromesh");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The daemon's version", build);
        let (switches, events_lost) = (Counter::default(), Counter::default());
        registry.register("switches", "Switches that were published", switches.clone());
        registry.register("events_lost", "Events that could not be told", events_lost.clone());
        Self { registry, switches, events_lost }
    }

    /// Counts an event of the engine.
    pub(super) fn observe(&self, event: &Event) {
        if let EventKind::Switch(end) = &event.kind
            && end.result.is_ok()
        {
            self.switches.inc();
        }
    }

    /// Counts what happened to the daemon as a whole.
    pub(super) fn observe_daemon(&self, kind: &Kind) {
        if let Kind::Lost(lost) = kind {
            self.events_lost.inc_by(lost.count);
        }
    }

    /// Everything, as text.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
