//! Work that may wait for a disk, on a thread of its own: switches are served on the daemon's.

use crate::engine::RunError;
use std::{io, thread};
use tokio::sync::oneshot;

/// Gives what comes of the work, unless there can be no thread for it.
pub(super) async fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RunError> {
    let (done, result) = oneshot::channel();
    let work = move || drop(done.send(work()));
    thread::Builder::new().name(name.into()).spawn(work)?;
    Ok(result.await.map_err(io::Error::other)?)
}
