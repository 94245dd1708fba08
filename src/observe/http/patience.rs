//! Connections whose peer must take what is sent: one that takes nothing for too long is hung up on,
//! so that it does not keep a place for ever. How long a peer may be silent is no matter of this.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A stream that fails once a write has waited for too long.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Ends when patience does; there is none while nothing waits to be written.
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Waits for so long whenever the peer takes nothing.
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, end: None }
    }

    /// What to tell of a write, given what the stream tells.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.end = None;
            return written;
        }
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, os::unix::net};
    use tokio::net::UnixStream;

    /// Bytes that were written until a write failed, and how it failed.
    async fn fill(stream: &mut Patient<UnixStream>) -> (usize, ErrorKind) {
        let (bytes, mut sum) = ([0; 4096], 0);
        loop {
            match poll_fn(|context| Pin::new(&mut *stream).poll_write(context, &bytes)).await {
                Ok(written) => sum += written,
                Err(error) => return (sum, error.kind()),
            }
        }
    }

    #[tokio::test]
    async fn r10_a_peer_that_takes_nothing_is_hung_up_on() {
        let (ours, peer) = net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = UnixStream::from_std(ours).unwrap();
        let mut stream = Patient::new(stream, Duration::from_millis(20));
        let (taken, kind) = fill(&mut stream).await;
        assert!(taken > 0, "the kernel takes some");
        assert_eq!(kind, ErrorKind::TimedOut);
        drop(peer);
    }
}
