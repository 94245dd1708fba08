//! A connection to the control socket.

use crate::proto::task_service_client::TaskServiceClient;
use std::path::Path;
use tonic::transport::{Channel, Endpoint};

/// The generated client over a channel.
pub type Control = TaskServiceClient<Channel>;

/// Connects to a daemon's control socket.
pub async fn connect(path: &Path) -> Result<Control, tonic::transport::Error> {
    Ok(TaskServiceClient::new(channel(path).await?))
}

/// The same for clients of any service.
pub async fn channel(path: &Path) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("unix://{}", path.display()))?.connect().await
}
