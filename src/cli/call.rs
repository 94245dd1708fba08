//! Calls of a daemon, and what to say if it fails. Shows no response.

use super::{DaemonArgs, failure::Failure};
use crate::client::{self, Control};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Request, Status};

/// The longest loading that a daemon can be configured to allow.
const LOADING_LIMIT: Duration = Duration::from_secs(3600);
/// How long a daemon may take to answer what needs no reading.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Nobody answers at a socket.
#[derive(Debug, Error)]
#[error("cannot reach a daemon at {}; is it running?", socket.display())]
struct Unreachable {
    socket: PathBuf,
    source: tonic::transport::Error,
}

/// A request for something to be loaded, and how long its answer may take, if the caller stops
/// waiting after so many milliseconds.
pub(super) fn loading<T>(message: T, timeout_ms: Option<u64>) -> (Request<T>, Duration) {
    let given = timeout_ms.map(Duration::from_millis);
    let mut request = Request::new(message);
    if let Some(given) = given {
        request.set_timeout(given);
    }
    // The daemon answers at the deadline; the rest is for one that does not.
    (request, given.unwrap_or(LOADING_LIMIT) + ANSWER_LIMIT)
}

/// Connects to a daemon.
pub(super) async fn connect(control: &Path) -> Result<Control, Failure> {
    let unreachable = |source| Unreachable { socket: control.to_owned(), source };
    client::connect(control).await.map_err(unreachable).map_err(Failure::failed)
}

/// Connects, makes one call, and gives its response.
pub(super) fn call<T>(
    daemon: &DaemonArgs,
    limit: Duration,
    call: impl AsyncFnOnce(&mut Control) -> Result<tonic::Response<T>, Status>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::failed)?.block_on(async {
        let answer = async {
            let mut client = connect(&daemon.control).await?;
            call(&mut client).await.map_err(|status| Failure::failed(refused(&status)))
        };
        match timeout(limit, answer).await {
            Ok(response) => Ok(response?.into_inner()),
            Err(_) => Err(Failure::failed(format!("no answer from the daemon in {limit:?}"))),
        }
    })
}

/// A status in words, with the stable reason.
pub(super) fn refused(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| info.reason.as_str());
    match reason {
        // Our own end of the transport gave up; the daemon would have given a reason.
        "" if status.code() == Code::Cancelled => "no answer from the daemon in time".into(),
        "" => format!("{} ({:?})", status.message(), status.code()),
        _ => format!("{} ({:?}, {reason})", status.message(), status.code()),
    }
}
