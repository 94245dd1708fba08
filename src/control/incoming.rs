//! Admission of connections, bounds on the time and bytes that each may take to begin, and an accept
//! loop that survives a lack of descriptors. tonic has none of these.

use super::access::Caller;
use crate::admission::{Admission, Credentials};
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

/// How long a rejected caller has to send a call and to read the reason.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// What is read from a rejected caller: the beginning of a connection and some calls.
const ANSWER_BYTES: usize = 16 << 10;

/// A connection whose caller was checked.
pub(super) struct Limited<S> {
    stream: S,
    caller: Arc<Caller>,
    /// Ends when the caller is not admitted any more.
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    start: Option<Start>,
}

/// Bounds until a connection has begun. One of a rejected caller never has.
struct Start {
    time: Pin<Box<Sleep>>,
    /// Bytes until it has begun.
    missing: usize,
    /// Bytes that are read until then.
    budget: usize,
}

/// Accepts connections, and checks each caller before a byte is read. It never waits for a place: a
/// rejected caller is answered for a moment, and beyond a few of those connections are closed.
pub(super) fn accept<S, F>(
    admission: Admission,
    mut accept: impl FnMut() -> F + Send + 'static,
    caller: impl Fn(&S) -> io::Result<Option<Credentials>> + Send + 'static,
) -> ReceiverStream<io::Result<Limited<S>>>
where
    S: Send + 'static,
    F: Future<Output = io::Result<S>> + Send,
{
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                // The server has stopped.
                () = sender.closed() => return,
            };
            match accepted.and_then(|stream| Ok((caller(&stream)?, stream))) {
                Ok((caller, stream)) => {
                    if let Some(limited) = Limited::admit(&admission, caller, stream)
                        && sender.send(Ok(limited)).await.is_err()
                    {
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

impl<S> Limited<S> {
    /// `None` if the connection is to be closed without an answer.
    fn admit(admission: &Admission, caller: Option<Credentials>, stream: S) -> Option<Self> {
        let start =
            |time, missing, budget| Some(Start { time: Box::pin(sleep(time)), missing, budget });
        match admission.admit(caller) {
            Ok(admitted) => {
                let start = start(PREFACE_TIMEOUT, PREFACE_LEN, usize::MAX);
                let revoked = admitted.caller().map(|_| admitted.revoked());
                let revoked = revoked.map(|revoked| Box::pin(revoked) as Pin<Box<_>>);
                let caller = Arc::new(Caller::Admitted(admitted));
                Some(Self { stream, caller, revoked, start })
            }
            Err(why) => {
                let start = start(ANSWER_TIME, usize::MAX, ANSWER_BYTES);
                let caller = Arc::new(Caller::Rejected { why, _answer: admission.answer()? });
                Some(Self { stream, caller, revoked: None, start })
            }
        }
    }
}

impl Start {
    /// Counts bytes that were read. Gives whether the connection has begun, or why it must end.
    fn read(&mut self, cx: &mut Context<'_>, bytes: usize) -> io::Result<bool> {
        self.missing = self.missing.saturating_sub(bytes);
        self.budget = self.budget.saturating_sub(bytes);
        if self.missing == 0 {
            return Ok(true);
        }
        if self.budget == 0 || self.time.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(false)
    }
}

impl<S> Connected for Limited<S> {
    type ConnectInfo = Arc<Caller>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, revoked, start, .. } = &mut *self;
        if revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready()) {
            *revoked = None;
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(stream).poll_read(cx, buffer);
        if let Some(bounds) = start {
            match bounds.read(cx, buffer.filled().len() - before) {
                Ok(true) => *start = None,
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(error)),
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
    use crate::{
        admission::Limits,
        config::{Peers, Role},
    };
    use std::future::ready;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
    };
    use tokio_stream::StreamExt as _;

    fn caller() -> Credentials {
        Credentials { pid: Some(1), uid: 4711, gid: 4711, groups: Vec::new() }
    }

    /// One connection of a user that is not a peer.
    async fn rejected() -> (Admission, Limited<UnixStream>, UnixStream) {
        let (ours, guest) = UnixStream::pair().unwrap();
        let mut ours = Some(ours);
        let accept_once = move || ready(ours.take().ok_or(io::ErrorKind::WouldBlock.into()));
        let admission =
            Admission::new("control", Role::Observe, Peers::default(), Limits::shared(4));
        let mut incoming = accept(admission.clone(), accept_once, |_| Ok(Some(caller())));
        let limited = incoming.next().await.unwrap().unwrap();
        (admission, limited, guest)
    }

    #[tokio::test]
    async fn r16_a_caller_that_is_no_peer_takes_no_place_and_is_closed_soon_however_busy() {
        let (admission, mut limited, mut guest) = rejected().await;
        assert_eq!(admission.usage().taken, 0);
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

    #[tokio::test]
    async fn a_flood_of_bytes_of_a_rejected_caller_is_not_read() {
        let (_, mut limited, mut guest) = rejected().await;
        tokio::spawn(async move { while guest.write_all(&[0; 4096]).await.is_ok() {} });
        let (mut buffer, mut read) = ([0; 4096], 0);
        while let Ok(bytes) = limited.read(&mut buffer).await {
            read += bytes;
        }
        assert!(read <= ANSWER_BYTES, "{read} bytes");
    }

    #[tokio::test]
    async fn beyond_a_few_rejected_connections_are_closed_without_an_answer() {
        let (admission, limited, _guest) = rejected().await;
        let answers: Vec<_> = std::iter::from_fn(|| admission.answer()).collect();
        let (ours, _other) = UnixStream::pair().unwrap();
        assert!(Limited::admit(&admission, Some(caller()), ours).is_none());
        drop((limited, answers));
        let (ours, _other) = UnixStream::pair().unwrap();
        assert!(Limited::admit(&admission, Some(caller()), ours).is_some());
    }
}
