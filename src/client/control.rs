//! Connections to the control socket: for programs with a tokio runtime, and for those without.
//!
//! Calls and messages are the generated ones (`proto`), with nothing put over them.

use crate::proto::task_service_client::TaskServiceClient;
use std::{
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Response, Status,
    transport::{self, Channel, Endpoint},
};

/// The generated client over a channel.
pub type Control = TaskServiceClient<Channel>;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody answers at the socket.
    #[error("cannot reach a daemon at {}; is it running?", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        source: transport::Error,
    },
    /// Blocking calls cannot be made here.
    #[error("cannot make blocking calls: {0}")]
    Runtime(#[from] io::Error),
}

/// Connects to a daemon's control socket.
pub async fn connect(path: &Path) -> Result<Control, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { socket: path.to_owned(), source };
    Ok(TaskServiceClient::new(channel(path).await.map_err(unreachable)?))
}

/// The same for clients of any service.
pub async fn channel(path: &Path) -> Result<Channel, transport::Error> {
    Endpoint::from_shared(format!("unix://{}", path.display()))?.connect().await
}

/// A connection whose calls block the calling thread, which must not be one of a runtime.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use synchromesh::{client::BlockingControl, proto::SwitchTaskRequest};
/// let mut control = BlockingControl::connect("/run/synchromesh/control.sock".as_ref())?;
/// let request = SwitchTaskRequest { task: "night".into(), ..Default::default() };
/// let switched = control.call(async |client| client.switch_task(request).await)?;
/// println!("generation {}", switched.generation);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BlockingControl {
    runtime: Runtime,
    client: Control,
}

impl BlockingControl {
    /// Connects to a daemon's control socket.
    pub fn connect(path: &Path) -> Result<Self, ConnectError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(connect(path))?;
        Ok(Self { runtime, client })
    }

    /// Makes a call and gives its response. A request's own timeout is what bounds it.
    pub fn call<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Control) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let response = self.runtime.block_on(call(&mut self.client))?;
        Ok(response.into_inner())
    }
}
