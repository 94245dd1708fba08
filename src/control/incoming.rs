//! A bound on the number of connections, and an accept loop that survives a lack of descriptors.
//! tonic has neither.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Pause after the kernel refuses a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection that holds one of the places there are.
pub(super) struct Limited<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
}

/// Accepts at most `connections` at once; more wait in the kernel's queue.
pub(super) fn accept<S, F>(
    connections: usize,
    mut accept: impl FnMut() -> F + Send + 'static,
) -> ReceiverStream<io::Result<Limited<S>>>
where
    S: Send + 'static,
    F: Future<Output = io::Result<S>> + Send,
{
    let places = Arc::new(Semaphore::new(connections));
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok(place) = places.clone().acquire_owned().await {
            match accept().await {
                Ok(stream) => {
                    let limited = Limited { stream, _place: place };
                    if sender.send(Ok(limited)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

impl<S: Connected> Connected for Limited<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
