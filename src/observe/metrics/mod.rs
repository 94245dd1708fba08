//! What is counted and measured. Counters and histograms go by the engine's events and by calls;
//! everything that the engine knows anyway is asked for when somebody scrapes.
//!
//! To count a switch asks for no memory: everything that it touches is found by the model's name
//! among the few that there are. What is counted never has more labels than models, tasks and open
//! sessions, and what is fixed here: no blocks, requests or clients.

mod counted;
mod daemon;
mod families;
mod models;
mod process;
mod rpc;
mod sessions;
mod storage;
mod text;

pub use rpc::{Call, Rpc};
pub(super) use text::Format;

use super::{log::LogCounters, view::Snapshot};
use crate::{
    admission::Admission,
    engine::Event,
    proto::{DaemonState, event::Kind},
};
use counted::Counted;
use daemon::Daemon;
use prometheus_client::{
    encoding::text::{encode, encode_registry},
    registry::Registry,
};
use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
};

/// Where the kernel tells about processes.
const PROC: &str = "/proc";

/// What is counted and measured.
pub(super) struct Metrics {
    models: Mutex<Vec<Arc<Counted>>>,
    counts: Arc<daemon::Counts>,
    rpc: Arc<Rpc>,
    /// What the daemon said last that it does.
    state: AtomicI32,
    /// Sockets whose connections are shown; none until they are served.
    sockets: OnceLock<Vec<Admission>>,
    process: process::Source,
}

/// What nobody but the places themselves know, at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Who watches events.
    pub(super) watchers: usize,
    /// Connections of HTTP.
    pub(super) connections: usize,
    /// Lines of the log that were not written.
    pub(super) log: LogCounters,
}

impl Metrics {
    /// Nothing has happened yet.
    pub(super) fn new() -> Self {
        Self {
            models: Mutex::default(),
            counts: Arc::default(),
            rpc: Arc::default(),
            state: AtomicI32::new(DaemonState::Unspecified.into()),
            sockets: OnceLock::new(),
            process: process::Source::open(&Path::new(PROC).join("self"), Path::new(PROC)),
        }
    }

    /// Where calls are counted.
    pub(super) fn rpc(&self) -> &Arc<Rpc> {
        &self.rpc
    }

    /// Shows the connections of these sockets from now on. Later calls change nothing.
    pub(super) fn show_connections(&self, sockets: Vec<Admission>) {
        let _ = self.sockets.set(sockets);
    }

    /// Counts an event of the engine.
    pub(super) fn observe(&self, event: &Event) {
        self.counted(event.bundle.model()).observe(&event.kind);
    }

    /// Counts what happened to the daemon as a whole.
    pub(super) fn observe_daemon(&self, kind: &Kind) {
        match kind {
            Kind::Lost(lost) => drop(self.counts.events_lost.fetch_add(lost.count, Relaxed)),
            Kind::DaemonChanged(changed) => self.state.store(changed.state, Relaxed),
            Kind::ConfigReloaded(reload) if reload.error.is_empty() => {
                self.counts.reloads.fetch_add(1, Relaxed);
            }
            Kind::ConfigReloaded(_) => drop(self.counts.refused_reloads.fetch_add(1, Relaxed)),
            _ => {}
        }
    }

    /// Everything, as text.
    pub(super) fn render(&self, snapshot: Snapshot, seen: Seen, format: Format) -> String {
        let Snapshot { models, storage, commands_waiting } = snapshot;
        let daemon = Daemon {
            engine_answers: models.is_some(),
            state: self.state.load(Relaxed),
            commands_waiting,
            seen,
            sockets: self.sockets.get().into_iter().flatten().map(Admission::usage).collect(),
            counts: self.counts.clone(),
        };
        let models = models.unwrap_or_default().into_iter().map(|(bundle, now)| {
            let counted = self.counted(&now.name);
            models::Model { bundle, now, counted }
        });
        let mut registry = Registry::with_prefix("synchromesh");
        registry.register_collector(Box::new(daemon));
        registry.register_collector(Box::new(self.rpc.clone()));
        registry.register_collector(Box::new(storage::Storages(storage)));
        registry.register_collector(Box::new(models::Models(models.collect())));
        let processes = registry_of_process(self.process.read());
        format.text(|text| {
            encode_registry(text, &registry)?;
            encode(text, &processes)
        })
    }

    /// What is counted of a model.
    fn counted(&self, model: &str) -> Arc<Counted> {
        let mut models = self.models();
        if let Some(counted) = models.iter().find(|counted| counted.model() == model) {
            return counted.clone();
        }
        let counted = Arc::new(Counted::new(model));
        models.push(counted.clone());
        counted
    }

    fn models(&self) -> MutexGuard<'_, Vec<Arc<Counted>>> {
        // Nothing that is done under the lock can be left half done.
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the names that every program has for these.
fn registry_of_process(process: process::Process) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process));
    registry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Monotonic, Runtime},
        observe::View,
        proto::{ConfigReloaded, DaemonChanged, EventsLost},
    };

    fn metrics_of(metrics: &Metrics, view: &View) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let snapshot = runtime.block_on(view.snapshot());
        metrics.render(snapshot, Seen::default(), Format::Plain)
    }

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|found| found == line)
    }

    #[test]
    fn of_an_engine_that_does_not_answer_there_is_what_is_known() {
        let (engine, runtime) = Runtime::with_storage(&[], |_, _| unreachable!()).unwrap();
        let (metrics, view) = (Metrics::new(), View::new(engine, Arc::new(Monotonic::start()), ""));
        // Nobody takes commands up.
        let text = metrics_of(&metrics, &view);
        assert!(has(&text, "synchromesh_engine_up 0"), "{text}");
        assert!(has(&text, "synchromesh_rpc_requests_total{method=\"SwitchTask\",code=\"OK\"} 0"));
        // The queue is gone.
        drop(runtime);
        let text = metrics_of(&metrics, &view);
        assert!(
            has(&text, "synchromesh_engine_up 0") && text.contains("process_start_time_seconds")
        );
        assert!(has(&text, "synchromesh_engine_commands_waiting 0"), "{text}");
    }

    #[test]
    fn what_happens_to_the_daemon_as_a_whole_is_counted() {
        let (engine, _) = Runtime::with_storage(&[], |_, _| unreachable!()).unwrap();
        let (metrics, view) = (Metrics::new(), View::new(engine, Arc::new(Monotonic::start()), ""));
        let reloaded = |error: &str| {
            Kind::ConfigReloaded(ConfigReloaded { error: error.into(), caller: None })
        };
        let state = DaemonState::Draining.into();
        for kind in [
            Kind::Lost(EventsLost { count: 3 }),
            Kind::Lost(EventsLost { count: 4 }),
            reloaded(""),
            reloaded("line 1: no"),
            reloaded("line 2: no"),
            Kind::DaemonChanged(DaemonChanged { state, ..Default::default() }),
        ] {
            metrics.observe_daemon(&kind);
        }
        let text = metrics_of(&metrics, &view);
        for line in [
            "synchromesh_events_lost_total 7",
            "synchromesh_config_reloads_total{outcome=\"applied\"} 1",
            "synchromesh_config_reloads_total{outcome=\"refused\"} 2",
            "synchromesh_daemon_state{state=\"draining\"} 1",
            "synchromesh_daemon_state{state=\"serving\"} 0",
        ] {
            assert!(has(&text, line), "{line} in {text}");
        }
    }
}
