//! The daemon, put together: load models, open sockets, say that it is ready, serve, drain.
//!
//! All of control, attach and engine share one thread; reading, verifying and HTTP have their own.

mod saver;
mod socket;
mod state;

use crate::{
    attach::Attach,
    config::{Config, ModelConfig},
    control::{Server, ServerError},
    engine::{
        Clock, Command, Engine, EngineError, Handle, Limits, LoadError, Model, ModelSpec,
        Monotonic, RunError, Runtime, SwitchCommand, Target, events, run,
    },
    observe::{Observed, serve_http},
    proto::{DaemonChanged, DaemonState, event::Kind},
};
use sd_notify::NotifyState;
use socket::SocketPath;
use std::{io, net::TcpListener, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

pub use socket::SocketError;
pub use state::Keeper;

/// How long connections may take to end once switches are done.
const HANG_UP: Duration = Duration::from_millis(500);
/// How long writing what was learnt may take at the end.
const LAST_SAVE: Duration = Duration::from_secs(5);

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
    /// A socket's path cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A socket cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A thread cannot be started.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The system refuses what every program needs.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT, then finishes what runs.
pub fn serve(config: &Config) -> Result<(), DaemonError> {
    let mut keeper = Keeper::open(&config.state_dir);
    let models = load(config, &mut keeper)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(serve_models(config, models, keeper));
    // Its end would wait for reads and writes that a device may never finish. Slots own their
    // memory, and the process ends next.
    std::mem::forget(runtime);
    served
}

fn load(config: &Config, keeper: &mut Keeper) -> Result<Vec<Model>, DaemonError> {
    let mut models = Vec::<Model>::with_capacity(config.models.len());
    for ModelConfig { bundle, pool_bytes, initial_task: _ } in &config.models {
        let (bundle, lock_memory) = (bundle.clone(), config.lock_memory);
        let spec = ModelSpec { bundle, pool_bytes: *pool_bytes, lock_memory };
        let mut model = Model::load(&spec)?;
        let request_bytes = model.measure(&config.storage);
        if models.iter().any(|other| other.name() == model.name()) {
            return Err(DaemonError::SameModel(model.name().to_owned()));
        }
        if let Some(foresight) = keeper.load(model.name()) {
            model.relearn(&foresight);
        }
        tracing::info!(
            model = model.name(),
            bundle = %model.bundle().id(),
            blocks = model.bundle().len(),
            tasks = model.bundle().task_indices().count(),
            request_bytes,
            huge_bytes = model.pool_status().huge_bytes,
            "loaded"
        );
        models.push(model);
    }
    Ok(models)
}

async fn serve_models(
    config: &Config,
    models: Vec<Model>,
    keeper: Keeper,
) -> Result<(), DaemonError> {
    let mut stop = StopSignal::new()?;
    let listen = &config.listen;
    // Held until the end: dropped, they remove the sockets.
    let control_path = SocketPath::claim(&listen.control)?;
    let attach_path = SocketPath::claim(&listen.attach)?;

    let clock: Arc<dyn Clock> = Arc::new(Monotonic::start());
    let (engine, runtime) = Runtime::start(&config.storage, &models)?;
    let names: Vec<_> = models.iter().map(|model| model.name().to_owned()).collect();
    let state = Engine::new(models, limits(config), clock.clone());
    let (sink, source) = events();
    let engine_loop = tokio::spawn(run(state, runtime, clock.clone(), sink));

    // Before anybody can connect: a session's first task must not be superseded by its clients.
    for (model, config) in names.into_iter().zip(&config.models) {
        if let Some(task) = &config.initial_task {
            tokio::select! {
                activated = activate(&engine, &*clock, model, task.clone()) => activated?,
                () = stop.wait() => return Ok(()),
            }
        }
    }
    let connections = config.limits.connections;
    let peers = config.peers.clone();
    let observed = Observed::new(engine.clone(), clock.clone());
    let hub = observed.hub.clone();
    tokio::spawn(hub.clone().run(source));
    let server =
        Server::new(engine.clone(), clock, observed.clone(), peers, listen.reflection, connections);
    let mut server = server.await?;
    server.serve_unix(control_path.path())?;
    if let Some(address) = listen.tcp {
        server.serve_tcp(address).await?;
    }
    let attach = Attach::bind(attach_path.path(), config.peers.clone(), &config.limits);
    let failed =
        |source| ServerError::Listen { address: attach_path.path().display().to_string(), source };
    let attach = tokio::spawn(attach.map_err(failed)?.serve(engine.clone()));
    if let Some(address) = listen.metrics {
        let failed = |source| ServerError::Listen { address: address.to_string(), source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        serve_http(listener, observed)?;
    }
    let (last, last_learnt) = oneshot::channel();
    let saver = tokio::spawn(saver::run(engine.clone(), keeper, last_learnt));

    server.set_serving(true).await;
    tracing::info!(control = %listen.control.display(), attach = %listen.attach.display(), "ready");
    hub.tell(changed(DaemonState::Serving));
    notify(&[NotifyState::Ready]);

    stop.wait().await;
    tracing::info!("stopping");
    hub.tell(changed(DaemonState::Draining));
    notify(&[NotifyState::Stopping]);
    server.set_serving(false).await;
    // A drained engine answers no more.
    let learnt = saver::learnt(&engine).await;
    engine.tell(Command::Drain).await;
    if timeout(config.limits.drain_timeout, engine_loop).await.is_err() {
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
    Ok(())
}

/// What is told of the daemon as a whole.
fn changed(state: DaemonState) -> Kind {
    let (version, remark) = (env!("CARGO_PKG_VERSION").to_owned(), String::new());
    Kind::DaemonChanged(DaemonChanged { state: state.into(), version, remark })
}

fn limits(config: &Config) -> Limits {
    Limits {
        reads_in_flight: config.storage.reads_in_flight,
        read_bytes: config.storage.read_bytes,
        stall: config.storage.stall,
        switch_timeout: config.limits.switch_timeout,
        clients_per_session: config.limits.clients_per_session,
        lease_patience: config.limits.lease_patience,
        prefetch: config.prefetch,
    }
}

/// Makes a model's initial task active. A task whose blocks cannot be read must not keep the other
/// tasks and models from being served; one that does not exist is a mistake to be told.
async fn activate(
    engine: &Handle,
    clock: &dyn Clock,
    model: String,
    task: String,
) -> Result<(), DaemonError> {
    let command = SwitchCommand {
        target: Target { model: model.clone(), session: String::new() },
        task,
        request_id: None,
        expected_generation: None,
        arrived: clock.now(),
        deadline: None,
        in_place: false,
        trace: None,
    };
    match engine.ask(|reply| Command::Switch(command, reply)).await {
        Ok(_) => Ok(()),
        Err(
            error @ (EngineError::Corrupt { .. }
            | EngineError::StorageUnavailable
            | EngineError::DeadlineExceeded),
        ) => {
            tracing::error!(model, %error, "served without its initial task");
            Ok(())
        }
        Err(source) => Err(DaemonError::InitialTask { model, source }),
    }
}

/// Tells systemd, if it is there to be told.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd was not notified");
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
