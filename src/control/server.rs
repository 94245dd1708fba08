//! Sockets, limits, health and reflection around the service.

use super::{
    access::CheckAccess,
    calls::CountCalls,
    http2::{BURST_OF_RESETS, Http2},
    incoming,
    service::{MAX_WATCHERS, Service},
    shape::CheckShape,
    turns::Turns,
};
use crate::{
    admission::{Admission, Limit, Limits, credentials},
    engine::{Clock, Handle},
    observe::Observed,
    proto::{DESCRIPTORS, task_service_server::TaskServiceServer},
};
use std::{
    io,
    net::SocketAddr,
    os::{fd::AsFd as _, unix},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};
use tokio_stream::StreamExt as _;
use tonic::{codec::CompressionEncoding, service::Routes, transport::server::Connected as _};
use tonic_health::server::HealthReporter;

/// No request of this service is larger.
const MAX_REQUEST_BYTES: usize = 64 << 10;
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Calls of one connection at once; a client's further ones wait on its own side.
const MAX_STREAMS: u32 = 64;
/// Calls that their client has given up before the daemon looked at them, as they come together after the
/// daemon was stopped for a while. The budget of a connection bounds their rate, so this is never reached.
const MAX_PENDING_RESETS: usize = 2 * BURST_OF_RESETS;
/// Streams of a connection that the daemon resets because of errors of its client.
const MAX_ERROR_RESETS: usize = 1024;
/// A peer that is silent this long is asked whether it still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

type Health = tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService>;

/// Serves gRPC on the sockets that it is given.
pub struct Server {
    routes: Routes,
    health: HealthReporter,
    admission: Admission,
    tasks: JoinSet<Result<(), tonic::transport::Error>>,
    stop: watch::Sender<bool>,
    observed: Observed,
}

/// Why the server cannot serve.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A socket cannot be used.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The socket's path or address.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// A socket cannot get its group or mode.
    #[error("cannot apply {key} to {}: {source}", path.display())]
    Access {
        /// The socket's path.
        path: PathBuf,
        /// The key of the configuration.
        key: String,
        /// The cause.
        source: io::Error,
    },
    /// The descriptors of the protocol are not valid.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl Server {
    /// A server that reports NOT_SERVING and listens nowhere yet.
    pub async fn new(
        engine: Handle,
        clock: Arc<dyn Clock>,
        observed: Observed,
        admission: Admission,
        reflection: bool,
    ) -> Result<Self, ServerError> {
        let watchers = Limit::new(Limits::shared(MAX_WATCHERS));
        let turns = Turns::default();
        let service = Service { engine, clock, observed: observed.clone(), watchers, turns };
        // The limit holds for decompressed requests.
        let service = TaskServiceServer::new(service)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .accept_compressed(CompressionEncoding::Gzip);
        let health = HealthReporter::new();
        let health_service =
            tonic_health::server::HealthService::from_health_reporter(health.clone());
        let mut routes = Routes::new(service).add_service(Health::new(health_service));
        if reflection {
            let describe = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            routes =
                routes.add_service(describe().build_v1()?).add_service(describe().build_v1alpha()?);
        }
        let (stop, tasks) = (watch::Sender::new(false), JoinSet::new());
        let server = Self { routes, health, admission, tasks, stop, observed };
        server.set_serving(false).await;
        Ok(server)
    }

    /// Serves on a Unix socket that listens.
    pub fn serve_unix(&mut self, socket: unix::net::UnixListener) -> Result<(), ServerError> {
        let failed = |source| ServerError::Listen { address: "the control socket".into(), source };
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = Arc::new(UnixListener::from_std(socket).map_err(failed)?);
        let accept = move || {
            let listener = listener.clone();
            async move { Ok(listener.accept().await?.0) }
        };
        let caller = |stream: &UnixStream| credentials(stream.as_fd()).map(Some);
        let incoming = incoming::accept(self.admission.clone(), accept, caller);
        let incoming = incoming.map(|accepted| {
            let stream = accepted?;
            let caller = stream.connect_info();
            Ok::<_, io::Error>(Http2::any_authority(stream, caller))
        });
        let router = builder().layer(self.count_calls()).layer(CheckAccess);
        let mut router = router.layer(CheckShape);
        let router = router.add_routes(self.routes.clone());
        let stop = self.stopped();
        self.tasks.spawn(router.serve_with_incoming_shutdown(incoming, stop));
        Ok(())
    }

    /// Serves on a loopback address, where the kernel does not say who connects: everybody may call
    /// everything. Its limit of connections is its own, so that its callers take no place of others.
    pub async fn serve_tcp(
        &mut self,
        address: SocketAddr,
        admission: Admission,
    ) -> Result<(), ServerError> {
        let failed = |source| ServerError::Listen { address: address.to_string(), source };
        let listener = Arc::new(TcpListener::bind(address).await.map_err(failed)?);
        let accept = move || {
            let listener = listener.clone();
            async move {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
        };
        let incoming = incoming::accept(admission, accept, |_| Ok(None))
            .map(|accepted| Ok::<_, io::Error>(Http2::new(accepted?)));
        let router = builder().layer(self.count_calls()).layer(CheckAccess);
        let mut router = router.layer(CheckShape);
        let router = router.add_routes(self.routes.clone());
        let stop = self.stopped();
        self.tasks.spawn(router.serve_with_incoming_shutdown(incoming, stop));
        Ok(())
    }

    /// Tells health checks whether switches are taken.
    pub async fn set_serving(&self, serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};
        self.observed.view.set_serving(serving);
        let status = if serving { Serving } else { NotServing };
        self.health.set_service_status("", status).await;
        self.health.set_service_status("synchromesh.v1.TaskService", status).await;
    }

    /// Takes no new connections, lets calls end, and returns when they have.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        self.observed.hub.close().await;
        while self.tasks.join_next().await.is_some() {}
    }

    fn count_calls(&self) -> CountCalls {
        CountCalls(self.observed.hub.rpc().clone())
    }

    fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.subscribe();
        // An error means that the server is gone, which is a stop as well.
        async move { drop(stop.wait_for(|stop| *stop).await.map(drop)) }
    }
}

fn builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}
