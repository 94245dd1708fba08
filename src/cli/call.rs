//! Calls of a daemon, and what to say if it fails. Shows no response.

use super::{DaemonArgs, failure::Failure};
use crate::client::{BlockingControl, Control};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Request, Status};

/// The longest loading that a daemon can be configured to allow.
const LOADING_LIMIT: Duration = Duration::from_secs(3600);
/// How long a daemon may take to answer what needs no reading.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

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

/// Connects, makes one call, and gives its response.
pub(super) fn call<T>(
    daemon: &DaemonArgs,
    limit: Duration,
    call: impl AsyncFnOnce(&mut Control) -> Result<tonic::Response<T>, Status>,
) -> Result<T, Failure> {
    let mut control = BlockingControl::connect(&daemon.control).map_err(Failure::failed)?;
    let answer = control.call(async |client| match timeout(limit, call(client)).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::cancelled("")),
    });
    answer.map_err(|status| Failure::failed(refused(&status)))
}

/// A status in words, with the stable reason.
pub(super) fn refused(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| info.reason.as_str());
    match reason {
        // Our own end of the transport gave up; the daemon would have given a reason.
        "" if status.code() == Code::Cancelled => "no answer from the daemon in time".into(),
        // So are errors of the connection told, which is not the daemon's doing.
        "" if status.code() == Code::Unknown => {
            format!("the daemon went away before it answered ({})", status.message())
        }
        "" => format!("{} ({:?})", status.message(), status.code()),
        _ => format!("{} ({:?}, {reason})", status.message(), status.code()),
    }
}
