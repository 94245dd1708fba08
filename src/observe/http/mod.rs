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
use std::{
    io::{self, Write as _},
    net,
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::sleep,
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
    /// Serves a socket that listens already.
    pub fn start(listener: net::TcpListener, observed: Observed) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let places = Places::new(CONNECTIONS);
        let snapshot = Arc::new(Shared::new(SHARED));
        let served = Served { observed, places: places.clone(), snapshot };
        let work = move || {
            if let Err(error) = runtime.block_on(accept(listener, served)) {
                tracing::error!(%error, "metrics are not served any more");
            }
        };
        thread::Builder::new().name("http".into()).spawn(work)?;
        tracing::info!(%address, "metrics are served");
        Ok(Self { places })
    }

    /// Serves nobody any more who comes from now on, and returns when all others have gone. Those
    /// who listen go when the hub tells them of the end.
    pub async fn stop(self) {
        self.places.close().await;
    }
}

async fn accept(listener: net::TcpListener, served: Served) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = served.places.clone();
    let routes = routes(served);
    loop {
        match listener.accept().await {
            Ok(_) if places.is_closed() => return Ok(()),
            Ok((stream, _)) => {
                serve(stream, &places, &routes);
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
fn serve(stream: TcpStream, places: &Arc<Places>, routes: &Router) {
    let Some((place, ended)) = places.take() else {
        // A new connection has room for so little, and nothing waits for its peer.
        let _ = stream.into_std().and_then(|mut stream| stream.write_all(FULL));
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
    let routes = Router::new().route("/metrics", get(metrics)).with_state(served).merge(page);
    routes.layer(middleware::from_fn(host::check))
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
