//! A gate before connections, a bound on the time that each may take to begin, and an accept loop
//! that survives a lack of descriptors. tonic has none of these.

use crate::gate::{Gate, Place};
use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Sleep, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Pause after the kernel refuses a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take to send what every HTTP/2 connection begins with. Later
/// silence is met by keepalive.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
const PREFACE_LEN: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// A connection that holds one of the places there are.
pub(super) struct Limited<S> {
    stream: S,
    /// What is left of the beginning, and of the time for it.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: Place,
}

/// Accepts those who have a place; the others wait in the kernel's queue. Who is not welcome is there to be
/// told so, and has no more time for that than a connection has to begin.
pub(super) fn accept<S, F>(
    gate: Gate,
    mut accept: impl FnMut() -> F + Send + 'static,
    is_welcome: impl Fn(&S) -> bool + Send + 'static,
) -> ReceiverStream<io::Result<Limited<S>>>
where
    S: Send + 'static,
    F: Future<Output = io::Result<S>> + Send,
{
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(place) = gate.place().await {
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                // The server has stopped.
                () = sender.closed() => return,
            };
            match accepted {
                Ok(stream) => {
                    let missing = if is_welcome(&stream) { PREFACE_LEN } else { usize::MAX };
                    let preface = Some((missing, Box::pin(sleep(PREFACE_TIMEOUT))));
                    let limited = Limited { stream, preface, _place: place };
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
        let Self { stream, preface, .. } = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(stream).poll_read(cx, buffer);
        if let Some((missing, time)) = preface {
            *missing = missing.saturating_sub(buffer.filled().len() - before);
            if *missing == 0 {
                *preface = None;
            } else if time.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Peers;
    use std::future::ready;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
    };
    use tokio_stream::StreamExt as _;

    #[tokio::test]
    async fn r16_who_is_not_welcome_keeps_no_place_however_busy() {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let mut ours = Some(ours);
        let accept_once = move || ready(ours.take().ok_or(io::ErrorKind::WouldBlock.into()));
        let mut incoming = accept(Gate::new(Peers::default(), 1), accept_once, |_| false);
        let mut limited = incoming.next().await.unwrap().unwrap();
        let mut buffer = [0; 64];
        let end = loop {
            guest.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            match limited.read(&mut buffer).await {
                Ok(_) => sleep(Duration::from_millis(50)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), io::ErrorKind::TimedOut);
    }
}
