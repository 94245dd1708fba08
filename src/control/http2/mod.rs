//! What HTTP/2 lacks for us on accepted connections: an adaptor between a socket and the HTTP/2
//! library, which reads the client's frames before the library does.
//!
//! It replaces authorities that the library rejects (`authority`), and bounds the rate of frames that
//! cost the daemon work and carry no call (`budget`). Bytes of a connection without such an authority
//! go straight into the library's buffer; only the nine-byte heads of frames are looked at.

mod authority;
mod budget;
mod frame;

pub(super) use budget::BURST_OF_RESETS;

use super::access::Caller;
use authority::Authorities;
use budget::{Budget, Verdict};
use frame::{Head, Walker};
use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

/// Bytes that are read at once where header blocks are inspected.
const READ: usize = 8 << 10;
/// The same where control frames come too fast: it bounds those that come past an exhausted budget.
const SMALL_READ: usize = 1024;
/// Control frames of one connection that the library takes in before other tasks on the thread run. Calls are
/// not counted: the library reads as many as there are before it serves the first one, so it sees which of
/// them their client has given up.
const SHARE: u32 = 64;

/// A connection whose client's frames are read here before the HTTP/2 library reads them.
pub(super) struct Http2<S> {
    stream: S,
    /// None over TCP.
    caller: Option<Arc<Caller>>,
    /// None once the client's header blocks can pass unchanged.
    authorities: Option<Authorities>,
    walker: Walker,
    budget: Budget,
    /// Control frames since other tasks could run.
    turn: u32,
    /// While this runs, nothing is read.
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether a pause of this connection is in the log.
    is_logged: bool,
}

impl<S> Http2<S> {
    /// A connection over TCP. Its authorities are judged by the library.
    pub(super) fn new(stream: S) -> Self {
        let (walker, budget) = (Walker::new(), Budget::new(Instant::now()));
        Self {
            stream,
            caller: None,
            authorities: None,
            walker,
            budget,
            turn: 0,
            pause: None,
            is_logged: false,
        }
    }

    /// A connection over a Unix socket, where any authority is accepted.
    pub(super) fn any_authority(stream: S, caller: Arc<Caller>) -> Self {
        Self { caller: Some(caller), authorities: Some(Authorities::new()), ..Self::new(stream) }
    }

    /// Counts the frames whose heads these bytes complete.
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (budget, turn) = (&mut self.budget, &mut self.turn);
        self.walker.walk(bytes, |head: Head| {
            *turn += u32::from(budget.charge(head));
        });
        match self.budget.verdict(Instant::now()) {
            Verdict::Within => {}
            Verdict::Pause(until) => {
                let (uid, pid) = self.peer();
                if !std::mem::replace(&mut self.is_logged, true) {
                    let frame = self.budget.scarce();
                    tracing::warn!(
                        uid,
                        pid,
                        frame,
                        "a connection sends too many control frames: it is read more slowly"
                    );
                }
                self.pause = Some(Box::pin(sleep_until(until)));
            }
            Verdict::End => {
                let (uid, pid) = self.peer();
                tracing::warn!(
                    uid,
                    pid,
                    "a connection was closed: it did not stop to send too many control frames"
                );
                return Err(io::Error::other("too many control frames"));
            }
        }
        Ok(())
    }

    /// The user and the process at the other end, as far as they are known.
    fn peer(&self) -> (Option<u32>, Option<u32>) {
        let credentials = self.caller.as_deref().and_then(Caller::credentials);
        (credentials.map(|of| of.uid), credentials.and_then(|of| of.pid))
    }
}

impl<S: AsyncRead + Unpin> Http2<S> {
    /// Reads little, counts the frames, and hands on what the client's bytes have become.
    fn poll_inspected(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ];
        loop {
            if let Some(authorities) = &mut self.authorities
                && authorities.hand_on(buffer)
            {
                return Poll::Ready(Ok(()));
            }
            if self.authorities.as_ref().is_some_and(Authorities::is_done) {
                self.authorities = None;
            }
            let most = if self.budget.is_low() { SMALL_READ } else { READ };
            let most = match self.authorities {
                Some(_) => most,
                None => most.min(buffer.remaining()),
            };
            let mut read = ReadBuf::new(&mut bytes[..most]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            let Some(authorities) = &mut self.authorities else {
                buffer.put_slice(bytes);
                return Poll::Ready(self.count(bytes));
            };
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = authorities.take_in(bytes) {
                let (uid, pid) = self.peer();
                tracing::warn!(uid, pid, %error, "a connection was closed");
                return Poll::Ready(Err(error));
            }
            self.count(bytes)?;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http2<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        if this.turn >= SHARE {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.authorities.is_some() || this.budget.is_low() {
            return this.poll_inspected(cx, buffer);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        Poll::Ready(this.count(&buffer.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http2<S> {
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

impl<S: Connected> Connected for Http2<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
