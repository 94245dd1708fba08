//! The daemon, put together: take what the start brings, load models, listen, say that it is ready,
//! serve, drain.
//!
//! All of control, attach and engine share one thread; reading and verifying have their own.

mod listeners;
mod models;
mod reload;
mod saver;
mod socket;
mod starts;
mod state;
mod status;
mod store;
mod systemd;
mod watchdog;

use crate::{
    attach::{Attach, Processes},
    config::{Config, PrefetchConfig},
    control::{Server, ServerError},
    engine::{
        Clock, Command, Engine, EngineError, Handle, Limits, LoadError, Monotonic, RunError,
        Runtime, events, run,
    },
    gate::Gate,
    observe::{Hub, LogGuard, Observed, serve_http},
    proto::{DaemonChanged, DaemonState, event::Kind},
};
use listeners::{Listeners, PassedSockets};
use models::Loaded;
use reload::Reloader;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sd_notify::NotifyState;
use starts::Start;
use status::Remarks;
use std::{io, sync::Arc, time::Duration};
use store::Store;
use systemd::Notifier;
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

pub use listeners::PassedError;
pub use reload::Reread;
pub use socket::SocketError;
pub use state::Keeper;

/// How long connections may take to end once switches are done.
const HANG_UP: Duration = Duration::from_millis(500);
/// How long writing what was learnt may take at the end.
const LAST_SAVE: Duration = Duration::from_secs(5);
/// A daemon that has lasted so long is well.
const WELL: Duration = Duration::from_secs(60);

/// Why the daemon does not serve.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// A model cannot be served.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Two bundles hold a model of the same name.
    #[error("two bundles hold a model `{0}`: names must differ")]
    SameModel(String),
    /// A model's initial task cannot be made active.
    #[error("model `{model}`: initial task: {source}")]
    InitialTask {
        /// The model.
        model: String,
        /// The cause.
        source: EngineError,
    },
    /// A socket that came with the start cannot be used.
    #[error(transparent)]
    Passed(#[from] PassedError),
    /// A socket's path cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A socket cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A thread cannot be started.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Something does not answer that has just been started.
    #[error("{0} does not answer: the daemon is not ready")]
    SelfCheck(String),
    /// The system refuses what every program needs.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT, then finishes what runs. At SIGHUP the configuration is read again.
pub fn serve(config: Config, reread: Reread, log: &LogGuard) -> Result<(), DaemonError> {
    // No other user may look into this process, stop it, or find it in a dump.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    let notifier = Arc::new(Notifier::from_env());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Arc::new(Start::begin(&config.state_dir));
    let served = runtime.block_on(serve_all(config, reread, log, &start, notifier));
    match &served {
        Ok(()) => start.went_well(),
        Err(_) => start.was_refused(),
    }
    // Its end would wait for reads and writes that a device may never finish. Slots own their
    // memory, and the process ends next.
    std::mem::forget(runtime);
    served
}

async fn serve_all(
    config: Config,
    reread: Reread,
    log: &LogGuard,
    start: &Arc<Start>,
    notifier: Arc<Notifier>,
) -> Result<(), DaemonError> {
    // First of all: until then, the signal would end the process.
    let mut hangups = signal(SignalKind::hangup())?;
    let passed = systemd::passed().map_err(PassedError::from)?;
    let (sockets, kept) = PassedSockets::pick(passed)?;
    let mut store = Store::sort(kept);
    let safe_mode = start.is_safe_mode();
    if safe_mode {
        let (starts, what) = (start.number(), "safe mode: earlier starts crashed");
        tracing::warn!(starts, "{what}; nothing is copied from old pools or loaded ahead");
        store.forget_memory();
    }
    let mut keeper = Keeper::open(&config.state_dir);
    let mut loaded = models::load(&config, &mut keeper, &mut store, &notifier)?;
    let estates = store::estates(&loaded.models, &notifier);
    let mut stop = StopSignal::new()?;
    let Listeners { control, attach, metrics, claims: _claims } =
        Listeners::open(sockets, &config.listen)?;

    let clock: Arc<dyn Clock> = Arc::new(Monotonic::start());
    let (engine, runtime) = Runtime::start(&config.storage, &loaded.models)?;
    let models = std::mem::take(&mut loaded.models);
    let state = Engine::new(models, limits(&config, safe_mode), clock.clone());
    let (sink, source) = events();
    let engine_loop = tokio::spawn(run(state, runtime, clock.clone(), sink));
    let observed = Observed::new(engine.clone(), clock.clone());
    let hub = observed.hub.clone();
    tokio::spawn(hub.clone().run(source));
    // Before anybody can connect: a session's first task must not be superseded by its clients.
    tokio::select! {
        begun = begin(&engine, &*clock, &loaded) => begun?,
        () = stop.wait() => return Ok(()),
    }

    let gate = || Gate::new(config.peers.clone(), config.limits.connections);
    let (control_gates, attach_gate) = ([gate(), gate()], gate());
    let processes = Processes::new(config.limits.attachments_per_process);
    let [unix_gate, tcp_gate] = control_gates.clone();
    let reflection = config.listen.reflection;
    let server = Server::new(engine.clone(), clock, observed.clone(), unix_gate, reflection);
    let mut server = server.await?;
    server.serve_unix(control)?;
    if let Some(address) = config.listen.tcp {
        server.serve_tcp(address, tcp_gate).await?;
    }
    let attach = Attach::on(attach, attach_gate.clone(), processes.clone())?;
    let attach = tokio::spawn(attach.serve(engine.clone()));
    if let Some(metrics) = metrics {
        tokio::spawn(serve_http(metrics, observed));
    }
    let (last, last_learnt) = oneshot::channel();
    let saver = tokio::spawn(saver::run(engine.clone(), keeper, last_learnt));

    let mode = safe_mode.then_some("safe mode");
    let remarks = watch::Sender::new(Remarks { mode, reload: None });
    let serving = watchdog::check(&engine).await.map_err(DaemonError::SelfCheck)?;
    server.set_serving(true).await;
    let (at_control, at_attach) = (config.listen.control.display(), config.listen.attach.display());
    tracing::info!(control = %at_control, attach = %at_attach, "ready");
    hub.tell(changed(DaemonState::Serving, mode));
    let line = status::line(&serving, &remarks.borrow());
    notifier.tell(&[NotifyState::Ready, NotifyState::Status(&line)]).await;
    store.replace(estates, &notifier).await;
    look_after(&engine, &notifier, &remarks, line, start);

    let (control, attach_to) = (control_gates, attach_gate);
    let mut reloader = Reloader {
        config,
        safe_mode,
        reread,
        log,
        engine: engine.clone(),
        control,
        attach: attach_to,
        processes,
        remarks,
        hub: hub.clone(),
        refused: 0,
    };
    tokio::select! {
        () = stop.wait() => {}
        () = reloader.attend(&mut hangups, &notifier) => {}
    }
    let drain_timeout = reloader.config.limits.drain_timeout;
    stop_all(
        Stopping { engine, engine_loop, hub, server, attach, last, saver, drain_timeout },
        &notifier,
    )
    .await;
    Ok(())
}

/// Makes all sessions' first tasks active.
async fn begin(engine: &Handle, clock: &dyn Clock, loaded: &Loaded) -> Result<(), DaemonError> {
    let mut read = Vec::new();
    for first in &loaded.first {
        read.push((first.model(), models::activate(engine, clock, first).await?));
    }
    loaded.tell_adopted(&read);
    Ok(())
}

/// Starts what goes on beside serving.
fn look_after(
    engine: &Handle,
    notifier: &Arc<Notifier>,
    remarks: &watch::Sender<Remarks>,
    told: String,
    start: &Arc<Start>,
) {
    if notifier.is_heard() {
        let (engine, notifier) = (engine.clone(), notifier.clone());
        tokio::spawn(status::run(engine, notifier, remarks.subscribe(), told));
    }
    if let Some(every) = watchdog::wanted() {
        tokio::spawn(watchdog::run(engine.clone(), notifier.clone(), every));
    }
    let start = start.clone();
    tokio::spawn(async move {
        sleep(WELL).await;
        // If it cannot be noted, that was said.
        let _ = spawn_blocking(move || start.went_well()).await;
    });
}

/// What ends with the daemon.
struct Stopping {
    engine: Handle,
    engine_loop: JoinHandle<()>,
    hub: Arc<Hub>,
    server: Server,
    attach: JoinHandle<()>,
    last: oneshot::Sender<Vec<crate::engine::Learnt>>,
    saver: JoinHandle<()>,
    drain_timeout: Duration,
}

async fn stop_all(stopping: Stopping, notifier: &Notifier) {
    let Stopping { engine, engine_loop, hub, server, attach, last, saver, drain_timeout } =
        stopping;
    tracing::info!("stopping");
    let time = (drain_timeout + HANG_UP + LAST_SAVE).as_micros();
    let time = NotifyState::ExtendTimeoutUsec(u32::try_from(time).unwrap_or(u32::MAX));
    hub.tell(changed(DaemonState::Draining, None));
    notifier.tell_now(&[NotifyState::Stopping, time]);
    server.set_serving(false).await;
    // A drained engine answers no more.
    let learnt = saver::learnt(&engine).await;
    engine.tell(Command::Drain).await;
    if timeout(drain_timeout, engine_loop).await.is_err() {
        tracing::warn!("switches were still running at the drain timeout; they are given up");
    }
    // Clients may keep connections open for as long as they live.
    let _ = timeout(HANG_UP, server.stop()).await;
    attach.abort();
    // If it has ended already, there is nobody to tell.
    let _ = last.send(learnt);
    if timeout(LAST_SAVE, saver).await.is_err() {
        tracing::warn!("what was learnt was not written in time; it is given up");
    }
}

/// What is told of the daemon as a whole.
fn changed(state: DaemonState, remark: Option<&str>) -> Kind {
    let (version, remark) = (env!("CARGO_PKG_VERSION").into(), remark.unwrap_or_default().into());
    Kind::DaemonChanged(DaemonChanged { state: state.into(), version, remark })
}

/// What the engine goes by.
fn limits(config: &Config, safe_mode: bool) -> Limits {
    Limits {
        reads_in_flight: config.storage.reads_in_flight,
        read_bytes: config.storage.read_bytes,
        stall: config.storage.stall,
        switch_timeout: config.limits.switch_timeout,
        clients_per_session: config.limits.clients_per_session,
        lease_patience: config.limits.lease_patience,
        prefetch: if safe_mode { PrefetchConfig::OFF } else { config.prefetch },
    }
}

/// SIGTERM or SIGINT.
struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
