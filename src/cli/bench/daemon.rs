//! The daemon's parts in a thread of this process, with one model and no clients but ours.

use crate::{
    admission::{self, Admission},
    cli::failure::Failure,
    client,
    config::{Peers, PrefetchConfig, Role, StorageConfig},
    control::Server,
    engine::{
        Clock, Command, Engine, Handle, Limits, Model, ModelSpec, Monotonic, Runtime,
        StorageStatus, events, run,
    },
    files::listen_privately,
    observe::Observed,
    proto::{self, task_service_client::TaskServiceClient},
};
use rustix::net::SocketType;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(600);
const CONNECTIONS: usize = 4;

/// A daemon. It ends with the process.
pub(super) struct Daemon {
    engine: Handle,
    socket: PathBuf,
    _folder: TempDir,
}

/// A connection to it.
pub(super) struct Client {
    control: TaskServiceClient<Channel>,
    health: HealthClient<Channel>,
    engine: Handle,
}

impl Daemon {
    /// Serves a bundle from a pool of this size.
    pub(super) fn start(
        bundle: &Path,
        pool_bytes: u64,
        config: &StorageConfig,
    ) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("synchromesh-bench-").tempdir();
        let folder = folder.map_err(Failure::failed)?;
        let socket = folder.path().join("control.sock");
        let spec = ModelSpec { bundle: bundle.to_owned(), pool_bytes, lock_memory: false };
        let mut model = Model::load(&spec).map_err(Failure::failed)?;
        model.measure(config);
        let (ready, started) = mpsc::channel();
        let (config, path) = (*config, socket.clone());
        thread::Builder::new()
            .name("daemon".into())
            .spawn(move || {
                let failed = |error: Failure| drop(ready.send(Err(error)));
                if let Err(error) = serve(model, &config, &path, &ready) {
                    failed(error);
                }
            })
            .map_err(Failure::failed)?;
        let engine = started.recv().map_err(Failure::failed)??;
        Ok(Self { engine, socket, _folder: folder })
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let channel = client::channel(&self.socket).await.map_err(Failure::failed)?;
        Ok(Client {
            control: TaskServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
            engine: self.engine.clone(),
        })
    }

    /// How it reads.
    pub(super) fn storage(&self, model: &str) -> Option<StorageStatus> {
        self.engine.storage(model)
    }
}

/// Serves for as long as the process lives, and tells when it does.
fn serve(
    model: Model,
    config: &StorageConfig,
    socket: &Path,
    ready: &mpsc::Sender<Result<Handle, Failure>>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::failed)?.block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(Monotonic::start());
        let models = vec![model];
        let (engine, threads) = Runtime::start(config, &models).map_err(Failure::failed)?;
        let limits = Limits {
            reads_in_flight: config.reads_in_flight,
            read_bytes: config.read_bytes,
            stall: config.stall,
            switch_timeout: TIMEOUT,
            clients_per_session: 1,
            lease_patience: Duration::from_secs(60),
            // What is measured has to be missing.
            prefetch: PrefetchConfig::OFF,
        };
        let state = Engine::new(models, limits, clock.clone());
        let observed = Observed::new(engine.clone(), clock.clone());
        let (sink, source) = events();
        tokio::spawn(observed.hub.clone().run(source));
        // All connections are this process's.
        let limits =
            admission::Limits { all: CONNECTIONS, per_user: CONNECTIONS, per_process: CONNECTIONS };
        let admission = Admission::new("control", Role::Observe, Peers::default(), limits);
        let server = Server::new(engine.clone(), clock.clone(), observed, admission, false).await;
        let mut server = server.map_err(Failure::failed)?;
        let socket = listen_privately(socket, SocketType::STREAM, 128).map_err(Failure::failed)?;
        server.serve_unix(socket.into()).map_err(Failure::failed)?;
        server.set_serving(true).await;
        // Who does not wait any more has failed.
        let _ = ready.send(Ok(engine));
        run(state, threads, clock, sink).await;
        Ok(())
    })
}

impl Client {
    /// Switches, and gives what the daemon says of it.
    pub(super) async fn switch(
        &mut self,
        task: &str,
    ) -> Result<proto::SwitchTaskResponse, Failure> {
        let request = proto::SwitchTaskRequest { task: task.into(), ..Default::default() };
        let answer = self.control.switch_task(request).await;
        let failed = |status: tonic::Status| {
            Failure::failed(format!("the switch to `{task}` failed: {}", status.message()))
        };
        Ok(answer.map_err(failed)?.into_inner())
    }

    /// Calls the smallest method of the same server: a health check.
    pub(super) async fn empty_call(&mut self) -> Result<(), Failure> {
        let answer = self.health.check(HealthCheckRequest::default()).await;
        answer.map(drop).map_err(Failure::failed)
    }

    /// Drops cached blocks.
    pub(super) async fn trim(&mut self, blocks: usize) -> Result<usize, Failure> {
        let trim = |reply| Command::Trim { model: String::new(), blocks, reply };
        self.engine.ask(trim).await.map_err(Failure::failed)
    }
}
