//! HTTP for people and for what scrapes: metrics, and a page with the daemon's state. Read-only:
//! nothing that comes in here changes anything. It has a thread of its own, as texts take longer to
//! write than switches; of the engine's loop it asks no more than a call for the state does.

mod host;
mod live;
mod page;
mod patience;
mod picture;
mod places;
mod shared;

use super::{
    Observed,
    log::log_counters,
    metrics::{Format, Seen},
    view::Snapshot,
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, header},
    middleware,
    response::IntoResponse,
    routing::get,
};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use patience::Patient;
use places::Places;
use shared::Shared;
use std::{io, net, os::unix, sync::Arc, thread, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
    task::yield_now,
    time::{sleep, timeout},
};

/// Connections at once. Each waits for a second at most where the engine does not answer.
const CONNECTIONS: usize = 128;
/// The answer to a new connection while all others have sent a request.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                      Content-Length: 34\r\n\r\nall connections are in use: later\n";
/// Callers share a snapshot of the engine's state for so long, so that many of them cost the engine
/// no more than one.
const SHARED: Duration = Duration::from_secs(1);
/// How long a request's head may take to come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may take nothing of what is sent to it.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the kernel refuses a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the routes use.
#[derive(Clone)]
struct Served {
    observed: Observed,
    places: Arc<Places>,
    snapshot: Arc<Shared<Snapshot>>,
}

/// Serves for as long as the process lives.
pub struct HttpServer {
    places: Arc<Places>,
}

impl HttpServer {
    /// Serves sockets that listen already. Who reaches the Unix socket may look: its file's mode says
    /// who does.
    pub fn start(
        tcp: Option<net::TcpListener>,
        unix: Option<unix::net::UnixListener>,
        observed: Observed,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tcp, unix) = {
            let _inside = runtime.enter();
            (tcp.map(watched_tcp).transpose()?, unix.map(watched_unix).transpose()?)
        };
        let places = Places::new(CONNECTIONS);
        let snapshot = Arc::new(Shared::new(SHARED));
        let served = Served { observed, places: places.clone(), snapshot };
        let work = move || {
            let places = served.places.clone();
            let routes = routes(served);
            // A browser, which a page from elsewhere could make ask, does not reach a Unix socket.
            let checked = routes.clone().layer(middleware::from_fn(host::check));
            let tcp = async {
                let Some(tcp) = tcp else { return };
                accept(async || Ok(tcp.accept().await?.0), &places, &checked).await;
            };
            let unix = async {
                let Some(unix) = unix else { return };
                accept(async || Ok(unix.accept().await?.0), &places, &routes).await;
            };
            runtime.block_on(async { tokio::join!(tcp, unix) });
        };
        thread::Builder::new().name("http".into()).spawn(work)?;
        Ok(Self { places })
    }

    /// Serves nobody any more who comes from now on, and returns when all others have gone. Those
    /// who listen go when the hub tells them of the end.
    pub async fn stop(self) {
        self.places.close().await;
    }
}

fn watched_tcp(listener: net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    tracing::info!(address = %listener.local_addr()?, "metrics are served");
    Ok(listener)
}

fn watched_unix(listener: unix::net::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    let path = listener.local_addr()?;
    let path = path.as_pathname().map(|path| tracing::field::display(path.display()));
    tracing::info!(path, "metrics are served");
    UnixListener::from_std(listener)
}

/// Serves the connections that come, until nobody gets a place any more.
async fn accept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    next: impl AsyncFn() -> io::Result<S>,
    places: &Arc<Places>,
    routes: &Router,
) {
    loop {
        match next().await {
            Ok(_) if places.is_closed() => return,
            Ok(stream) => {
                serve(stream, places, routes).await;
                // What has come on other connections is read first: they are not silent then.
                yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection in a task of its own, or refuses it at once.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    places: &Arc<Places>,
    routes: &Router,
) {
    let Some((place, ended)) = places.take() else {
        // A new connection has room for so little, and nothing waits for its peer.
        let _ = timeout(Duration::ZERO, stream.write_all(FULL)).await;
        return;
    };
    let place = Arc::new(place);
    let (held, routes) = (place.clone(), TowerToHyperService::new(routes.clone()));
    let service = service_fn(move |request: Request<Incoming>| {
        place.hears();
        hyper::service::Service::call(&routes, request)
    });
    // Who asks again and again would have a place for ever, and others none.
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(Patient::new(stream, SEND_TIMEOUT)), service);
    tokio::spawn(async move {
        tokio::select! {
            // A peer that goes away or talks nonsense is no matter of ours.
            _ = connection => {}
            _ = ended => {}
        }
        drop(held);
    });
}

fn routes(served: Served) -> Router {
    let page = page::routes(served.observed.clone());
    Router::new().route("/metrics", get(metrics)).with_state(served).merge(page)
}

async fn metrics(State(served): State<Served>, headers: HeaderMap) -> impl IntoResponse {
    let Served { observed: Observed { hub, view }, places, snapshot } = served;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    let snapshot = snapshot.get(view.snapshot()).await;
    let seen = Seen { watchers: hub.watchers(), connections: places.taken(), log: log_counters() };
    let text = hub.metrics().render(snapshot, seen, format);
    ([(header::CONTENT_TYPE, format.content_type())], text)
}
