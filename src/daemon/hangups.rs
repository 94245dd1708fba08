//! SIGHUP, and who sent it. What it asks for is `reload`'s matter.

use crate::engine::Peer;
use signal_hook::{
    consts::SIGHUP,
    iterator::{
        SignalsInfo,
        exfiltrator::{WithOrigin, origin::Process},
    },
};
use std::{io, thread};
use tokio::sync::mpsc;

/// The signals that come from now on. Those that come while one is attended to may become one.
pub(super) struct Hangups(mpsc::Receiver<Option<Peer>>);

impl Hangups {
    /// Listens for signals.
    pub(super) fn listen() -> io::Result<Self> {
        let mut signals = SignalsInfo::<WithOrigin>::new([SIGHUP])?;
        let (sender, receiver) = mpsc::channel(1);
        let work = move || {
            for origin in &mut signals {
                if sender.blocking_send(origin.process.and_then(peer)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("hangups".into()).spawn(work)?;
        Ok(Self(receiver))
    }

    /// The next signal's sender, where the kernel says who it is.
    pub(super) async fn next(&mut self) -> Option<Peer> {
        match self.0.recv().await {
            Some(sender) => sender,
            // The thread ends when this value does.
            None => std::future::pending().await,
        }
    }
}

/// A process of another pid namespace has no number here.
fn peer(sender: Process) -> Option<Peer> {
    let pid = u32::try_from(sender.pid).ok().filter(|pid| *pid > 0)?;
    Some(Peer { pid, uid: sender.uid })
}
