//! HTTP for people and for what scrapes: metrics, and a page with the daemon's state. Read-only:
//! nothing that comes in here changes anything. It has a thread of its own, as texts take longer to
//! write than switches; of the engine's loop it asks no more than a call for the state does.

mod host;
mod live;
mod page;
mod patience;
mod picture;

use super::{
    Observed,
    log::log_counters,
    metrics::{Format, Seen},
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, header},
    middleware,
    response::IntoResponse,
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use patience::Patient;
use std::{io, net, sync::Arc, thread, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 32;
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
    /// Places for connections.
    places: Arc<Semaphore>,
}

/// Serves for as long as the process lives.
pub struct HttpServer {
    /// Places for connections.
    places: Arc<Semaphore>,
}

impl HttpServer {
    /// Serves a socket that listens already.
    pub fn start(listener: net::TcpListener, observed: Observed) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let served = Served { observed, places: places.clone() };
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
        // Whoever wants a place later comes after this, and gets none.
        if let Ok(places) = self.places.acquire_many(CONNECTIONS as u32).await {
            places.forget();
        }
    }
}

async fn accept(listener: net::TcpListener, served: Served) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = served.places.clone();
    let routes = routes(served);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                let stream = Patient::new(stream, SEND_TIMEOUT);
                let service = TowerToHyperService::new(routes.clone());
                // Who asks again and again would have a place for ever, and others none.
                let connection = http1::Builder::new()
                    .keep_alive(false)
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    // A peer that goes away or talks nonsense is no matter of ours.
                    let _ = connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn routes(served: Served) -> Router {
    let page = page::routes(served.observed.clone());
    let routes = Router::new().route("/metrics", get(metrics)).with_state(served).merge(page);
    routes.layer(middleware::from_fn(host::check))
}

async fn metrics(State(served): State<Served>, headers: HeaderMap) -> impl IntoResponse {
    let Served { observed: Observed { hub, view }, places } = served;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    let snapshot = view.snapshot().await;
    let connections = CONNECTIONS - places.available_permits();
    let seen = Seen { watchers: hub.watchers(), connections, log: log_counters() };
    let text = hub.metrics().render(snapshot, seen, format);
    ([(header::CONTENT_TYPE, format.content_type())], text)
}
