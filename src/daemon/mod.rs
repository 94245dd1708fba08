//! The daemon, put together: take what the start brings, load models, listen, say that it is ready,
//! serve, drain.
//!
//! All of control, attach and engine share one thread; reading, verifying and HTTP have their own.

mod aside;
mod hangups;
mod inspect;
mod listeners;
mod lock;
mod models;
mod record;
mod reload;
mod saver;
mod sessions;
mod socket;
mod starts;
mod state;
mod status;
mod store;
mod systemd;
mod watchdog;

use crate::{
    attach::Attach,
    config::{Config, PrefetchConfig},
    control::{Server, ServerError},
    engine::{
        Clock, Command, Engine, EngineError, Estate, Handle, KeptSessions, Learnt, Limits,
        LoadError, Monotonic, RunError, Runtime, events, run,
    },
    files::more_descriptors,
    observe::{HttpServer, Hub, LogGuard, Observed},
    proto::{DaemonChanged, DaemonState, event::Kind},
};
use aside::aside;
use hangups::Hangups;
use listeners::{Listeners, PassedSockets};
use models::Loaded;
use reload::{Admissions, Reloader};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sd_notify::NotifyState;
use socket::SocketPath;
use starts::Start;
use status::Remarks;
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use store::Store;
use systemd::{Notifier, Passed};
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

pub use inspect::Inspector;
pub use listeners::PassedError;
pub use reload::Reread;
pub use sessions::SessionKeeper;
pub use socket::SocketError;
pub use state::Keeper;

/// Polls of tasks after which sockets are looked at again. By default these are 61, of which each may
/// take in the frames of a busy connection: another client's call would wait for milliseconds.
const POLLS: u32 = 8;
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
    /// Another daemon keeps its state where this one would.
    #[error(
        "another daemon uses the state folder {}: give each daemon a `state_dir` of its own",
        .0.display()
    )]
    StateInUse(PathBuf),
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
    #[error("cannot start: {error}{more}", error = .0, more = more_descriptors(.0))]
    System(#[from] io::Error),
}

impl DaemonError {
    /// Whether only another configuration helps: the same one fails again, whenever it is tried.
    pub fn is_misconfiguration(&self) -> bool {
        use EngineError::{BadName, UnknownTask};
        match self {
            Self::SameModel(_)
            | Self::StateInUse(_)
            | Self::Load(LoadError::PoolTooSmall { .. }) => true,
            Self::InitialTask { source, .. } => {
                matches!(source, UnknownTask { .. } | BadName { .. })
            }
            _ => false,
        }
    }
}

/// Serves until SIGTERM or SIGINT, then finishes what runs. At SIGHUP the configuration is read again.
pub fn serve(config: Config, reread: Reread, log: &LogGuard) -> Result<(), DaemonError> {
    // No other user may look into this process, stop it, or find it in a dump.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    let notifier = Arc::new(Notifier::from_env());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().event_interval(POLLS).build()?;
    let signals = {
        let _inside = runtime.enter();
        Signals { hangups: Hangups::listen()?, stop: StopSignal::new()? }
    };
    // Until now a signal has ended the process, and that is no crash.
    let start = Arc::new(Start::begin(&config.state_dir));
    let served = runtime.block_on(serve_all(config, reread, log, &start, notifier, signals));
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
    signals: Signals,
) -> Result<(), DaemonError> {
    let Signals { mut hangups, mut stop } = signals;
    let passed = systemd::passed().map_err(PassedError::from)?;
    let (sockets, kept) = PassedSockets::pick(passed)?;
    // Before there is anything large: another daemon may serve here.
    let listeners = Listeners::open(sockets, &config.listen)?;
    let _state = lock::take(&config.state_dir)?;
    let taking_up = {
        let (config, start, notifier) = (config.clone(), start.clone(), notifier.clone());
        aside("load", move || take_up(&config, &start, &notifier, kept))
    };
    let Beginning { store, keeper, sessions, mut loaded, estates } = tokio::select! {
        taken_up = taking_up => taken_up??,
        () = stop.wait() => return Ok(()),
    };

    let clock: Arc<dyn Clock> = Arc::new(Monotonic::start());
    let (engine, runtime) = Runtime::start(&config.storage, &loaded.models)?;
    let limits = limits(&config, start.is_safe_mode());
    let state = Engine::new(std::mem::take(&mut loaded.models), limits, clock.clone());
    let (sink, source) = events();
    let changes = sink.changes();
    let engine_loop = tokio::spawn(run(state, runtime, clock.clone(), sink));
    let observed = Observed::new(engine.clone(), clock.clone());
    let hub = observed.hub.clone();
    tokio::spawn(hub.clone().run(source));
    // Before anybody can connect: a session's first task must not be superseded by its clients.
    tokio::select! {
        begun = begin(&engine, &clock, &mut loaded, &notifier, config.limits.switch_timeout) => begun?,
        () = stop.wait() => return Ok(()),
    }

    // Nor may anybody be told what the next daemon would not know of.
    tokio::select! {
        () = store.replace(estates, &notifier) => {}
        () = stop.wait() => return Ok(()),
    }

    let admissions = Admissions::new(&config);
    let at = listeners.addresses();
    let Open { server, attach, http, claims: _claims } =
        open(&config, &admissions, &engine, clock, observed, listeners).await?;
    let (last, last_learnt) = oneshot::channel();
    let saver = tokio::spawn(saver::run(engine.clone(), keeper, last_learnt));
    let (last_sessions, ending) = oneshot::channel();
    let sessions = tokio::spawn(sessions::run(engine.clone(), sessions, changes, ending));
    let mode = start.is_safe_mode().then_some("safe mode");
    let remarks = watch::Sender::new(Remarks { mode, reload: None });
    let serving = watchdog::check(&engine).await.map_err(DaemonError::SelfCheck)?;
    server.set_serving(true).await;
    let metrics = at.metrics.map(tracing::field::display);
    let metrics_socket = at.metrics_socket.map(tracing::field::display);
    let tcp = config.listen.tcp.map(tracing::field::display);
    tracing::info!(control = %at.control, attach = %at.attach, tcp, metrics, metrics_socket, "ready");
    hub.tell(changed(DaemonState::Serving, mode));
    let line = status::line(&serving, &remarks.borrow());
    notifier.tell(&[NotifyState::Ready, NotifyState::Status(&line)]).await;
    look_after(&engine, &notifier, &remarks, line, start);

    let (engine_too, safe_mode, refused) = (engine.clone(), start.is_safe_mode(), 0);
    let told = hub.clone();
    let mut reloader = Reloader {
        config,
        safe_mode,
        reread,
        log,
        engine: engine_too,
        admissions,
        remarks,
        hub: told,
        refused,
    };
    tokio::select! {
        () = stop.wait() => {}
        () = reloader.attend(&mut hangups, &notifier) => {}
    }
    let drain_timeout = reloader.config.limits.drain_timeout;
    let stopping = Stopping {
        engine,
        engine_loop,
        hub,
        server,
        attach,
        http,
        last,
        saver,
        last_sessions,
        sessions,
        drain_timeout,
    };
    stopping.stop(&notifier).await;
    Ok(())
}

/// What the daemon begins with.
struct Beginning {
    store: Store,
    keeper: Keeper,
    sessions: SessionKeeper,
    loaded: Loaded,
    /// What the next daemon begins with.
    estates: Vec<Estate>,
}

/// Takes what systemd has kept, and loads the models.
fn take_up(
    config: &Config,
    start: &Start,
    notifier: &Notifier,
    kept: Vec<Passed>,
) -> Result<Beginning, DaemonError> {
    let mut store = Store::sort(kept, notifier);
    if start.is_safe_mode() {
        let (starts, what) = (start.number(), "safe mode: earlier starts crashed");
        tracing::warn!(starts, "{what}; nothing is copied from old pools or loaded ahead");
        store.give_up_memory(notifier);
    }
    let mut keeper = Keeper::open(&config.state_dir);
    let mut sessions = SessionKeeper::open(&config.state_dir);
    let loaded = models::load(config, &mut keeper, &mut sessions, &mut store, notifier)?;
    let estates = store::estates(&loaded.models, notifier);
    Ok(Beginning { store, keeper, sessions, loaded, estates })
}

/// Sockets that are served.
struct Open {
    server: Server,
    attach: JoinHandle<()>,
    http: Option<HttpServer>,
    /// Dropped, they remove the sockets.
    claims: Vec<SocketPath>,
}

/// Lets clients in. Calls are answered, and told that nothing is served yet.
async fn open(
    config: &Config,
    admissions: &Admissions,
    engine: &Handle,
    clock: Arc<dyn Clock>,
    observed: Observed,
    listeners: Listeners,
) -> Result<Open, DaemonError> {
    let Listeners { control, attach, metrics, metrics_socket, claims } = listeners;
    let Admissions { control: on_control, tcp, attach: on_attach } = admissions.clone();
    let mut sockets = vec![on_control, on_attach];
    if config.listen.tcp.is_some() {
        sockets.push(tcp);
    }
    observed.hub.show_connections(sockets);
    let (admission, reflection) = (admissions.control.clone(), config.listen.reflection);
    let server = Server::new(engine.clone(), clock, observed.clone(), admission, reflection);
    let mut server = server.await?;
    server.serve_unix(control)?;
    if let Some(address) = config.listen.tcp {
        server.serve_tcp(address, admissions.tcp.clone()).await?;
    }
    let attach = Attach::on(attach, admissions.attach.clone())?;
    let attach = tokio::spawn(attach.serve(engine.clone()));
    let http = match (&metrics, &metrics_socket) {
        (None, None) => None,
        _ => Some(HttpServer::start(metrics, metrics_socket, observed)?),
    };
    Ok(Open { server, attach, http, claims })
}

/// Makes all sessions' first tasks active, together: one that has to wait holds up no other.
async fn begin(
    engine: &Handle,
    clock: &Arc<dyn Clock>,
    loaded: &mut Loaded,
    notifier: &Notifier,
    limit: Duration,
) -> Result<(), DaemonError> {
    let time = u32::try_from((limit + HANG_UP).as_micros()).unwrap_or(u32::MAX);
    notifier.tell_now(&[NotifyState::ExtendTimeoutUsec(time)]);
    let mut switches = JoinSet::new();
    for first in std::mem::take(&mut loaded.first) {
        let (engine, clock) = (engine.clone(), clock.clone());
        switches.spawn(async move {
            let read = models::activate(&engine, &*clock, &first).await?;
            Ok::<_, DaemonError>((first.model(), read))
        });
    }
    let mut read = Vec::new();
    while let Some(switched) = switches.join_next().await {
        read.push(switched.map_err(io::Error::other)??);
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
        if let Err(error) = aside("starts", move || start.went_well()).await {
            tracing::warn!(%error, "it is not noted that this start went well");
        }
    });
}

/// What ends with the daemon.
struct Stopping {
    engine: Handle,
    engine_loop: JoinHandle<Engine>,
    hub: Arc<Hub>,
    server: Server,
    attach: JoinHandle<()>,
    http: Option<HttpServer>,
    last: oneshot::Sender<Vec<Learnt>>,
    saver: JoinHandle<()>,
    last_sessions: oneshot::Sender<Vec<(String, KeptSessions)>>,
    sessions: JoinHandle<()>,
    drain_timeout: Duration,
}

impl Stopping {
    async fn stop(self, notifier: &Notifier) {
        let Self { engine, engine_loop, hub, server, attach, http, .. } = self;
        let Self { last, saver, last_sessions, sessions, drain_timeout, .. } = self;
        tracing::info!("stopping");
        hub.tell(changed(DaemonState::Draining, None));
        let time = (drain_timeout + HANG_UP + LAST_SAVE).as_micros();
        let time = NotifyState::ExtendTimeoutUsec(u32::try_from(time).unwrap_or(u32::MAX));
        notifier.tell_now(&[NotifyState::Stopping, time]);
        server.set_serving(false).await;
        // A drained engine answers no more.
        let learnt = saver::learnt(&engine).await;
        engine.tell(Command::Drain).await;
        let drained = timeout(drain_timeout, engine_loop).await;
        if drained.is_err() {
            tracing::warn!("switches were still running at the drain timeout; they are given up");
        }
        let kept = drained.ok().and_then(Result::ok).map(|engine| engine.kept());
        // Clients may keep connections open for as long as they live.
        let hung_up = async {
            server.stop().await;
            if let Some(http) = http {
                http.stop().await;
            }
        };
        let _ = timeout(HANG_UP, hung_up).await;
        attach.abort();
        // If it has ended already, there is nobody to tell.
        let _ = last.send(learnt);
        let _ = last_sessions.send(kept.unwrap_or_default());
        if timeout(LAST_SAVE, sessions).await.is_err() {
            tracing::warn!("sessions were not written in time; they are given up");
        }
        if timeout(LAST_SAVE, saver).await.is_err() {
            tracing::warn!("what was learnt was not written in time; it is given up");
        }
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

/// What the daemon is told by signals.
struct Signals {
    hangups: Hangups,
    stop: StopSignal,
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
