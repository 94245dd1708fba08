//! Where traces go: an address from the environment, and a request over plain HTTP/1.1. There is no
//! TLS: a collector beside the daemon passes on what has to leave the machine.

use axum::body::Body;
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use std::{fmt, io, time::Duration};
use thiserror::Error;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

/// The address of traces, as it is.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// The address of everything; what traces have below it is added.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_PATH: &str = "/v1/traces";
/// The port of HTTP where the address names none.
const PORT: u16 = 80;
/// How long a collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why an address cannot be used. It is not repeated: there may be a password in it.
#[derive(Debug, Error)]
pub(super) enum AddressError {
    #[error("{0} is no address such as http://localhost:4318")]
    Malformed(&'static str),
    #[error("{0} is no http:// address: others are for a collector beside the daemon to reach")]
    Scheme(&'static str),
}

/// Why a collector has not got what was sent.
#[derive(Debug, Error)]
pub(super) enum SendError {
    #[error("the collector cannot be reached: {0}")]
    Connect(#[from] io::Error),
    #[error("the collector broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the collector answered {0}")]
    Refused(StatusCode),
    #[error("the collector did not answer in time")]
    Late,
}

/// A collector of traces.
pub(super) struct Collector {
    /// Host and port.
    address: String,
    /// The same, for the request's head.
    host: HeaderValue,
    path: Uri,
}

impl Collector {
    /// The collector that the environment names, if it does.
    pub(super) fn from_env(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, AddressError> {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        let (name, text) = match (given(TRACES_ENDPOINT), given(ENDPOINT)) {
            (Some(traces), _) => (TRACES_ENDPOINT, traces),
            (None, Some(all)) => (ENDPOINT, all.trim_end_matches('/').to_owned() + TRACES_PATH),
            (None, None) => return Ok(None),
        };
        let uri: Uri = text.parse().map_err(|_| AddressError::Malformed(name))?;
        if uri.scheme_str().is_some_and(|scheme| scheme != "http") {
            return Err(AddressError::Scheme(name));
        }
        let (Some(_), Some(host)) = (uri.scheme(), uri.host().filter(|host| !host.is_empty()))
        else {
            return Err(AddressError::Malformed(name));
        };
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(PORT));
        let host = HeaderValue::from_str(&address).map_err(|_| AddressError::Malformed(name))?;
        let path = uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        Ok(Some(Self { address, host, path }))
    }

    /// Sends a request, over a connection of its own, and waits until it is taken.
    pub(super) async fn send(&self, body: Vec<u8>) -> Result<(), SendError> {
        timeout(TIMEOUT, self.post(body)).await.unwrap_or(Err(SendError::Late))
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), SendError> {
        let stream = TokioIo::new(TcpStream::connect(&self.address).await?);
        let (mut sender, connection) = http1::handshake(stream).await?;
        // Ends with this function, whether the collector has answered or not.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let status = sender.send_request(request).await?.status();
        if status.is_success() { Ok(()) } else { Err(SendError::Refused(status)) }
    }
}

/// Where it is, without what may be secret.
impl fmt::Display for Collector {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "http://{}{}", self.address, self.path.path())
    }
}
