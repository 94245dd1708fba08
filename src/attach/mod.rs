//! The data-plane socket: hands an attaching client the descriptors of its session's memory, and
//! keeps the connection, whose end is the end of the client's leases.
//!
//! The messages are `wire`'s. What a client does with the memory is its own affair; the seals of
//! `device::memory` bound it.

use crate::{
    config::Peers,
    engine::{Command, Handle, MemberId, Membership, Target},
    wire::{Hello, Welcome, WireError},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
        listen, recv, socket_with, sockopt::socket_peercred,
    },
};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// How long a client may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the kernel refuses a connection, so that a lack of descriptors is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening socket.
pub struct Attach {
    socket: AsyncFd<OwnedFd>,
    peers: Peers,
    places: Arc<Semaphore>,
}

impl Attach {
    /// Listens at a path where nothing is, for at most `connections` clients at once. Needs a
    /// tokio runtime.
    pub fn bind(path: &Path, peers: Peers, connections: usize) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 64)?;
        let socket = watched(socket)?;
        Ok(Self { socket, peers, places: Arc::new(Semaphore::new(connections)) })
    }

    /// Serves clients until it is dropped.
    pub async fn serve(self, engine: Handle) {
        loop {
            // Clients beyond the limit wait in the kernel's queue.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            match self.accept().await {
                Ok(client) => {
                    let engine = engine.clone();
                    tokio::spawn(async move {
                        serve_client(&client, &engine).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "an attaching client was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Client> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = |socket: &OwnedFd| Ok(accept_with(socket, flags)?);
        let socket = self.socket.async_io(Interest::READABLE, accept).await?;
        let peer = socket_peercred(&socket)?;
        let allowed = self.peers.allow(peer.uid.as_raw(), peer.gid.as_raw());
        let socket = watched(socket)?;
        Ok(Client { socket, allowed })
    }
}

/// Lets the runtime watch a socket for input.
#[expect(unsafe_code, reason = "tokio asks its caller to vouch for the descriptor")]
fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor, always the same, until it is dropped; and it
    // is dropped by the `AsyncFd`, after it was deregistered.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

/// A connected client.
struct Client {
    socket: AsyncFd<OwnedFd>,
    allowed: bool,
}

/// Tells the engine that a client has gone, also when the task that serves it is cancelled.
struct Attached {
    member: MemberId,
    engine: Handle,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let (member, engine) = (self.member, self.engine.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.tell(Command::Detach(member)).await });
        }
    }
}

async fn serve_client(client: &Client, engine: &Handle) {
    let hello = match timeout(HELLO_TIMEOUT, client.hello()).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return client.refuse(&error.to_string()),
        Err(_) => return client.refuse("no hello came"),
    };
    if !client.allowed {
        return client.refuse("this user may not attach: see `peers` in the configuration");
    }
    let target = Target { model: hello.model, session: hello.session };
    let membership = match engine.ask(|reply| Command::Attach { target, reply }).await {
        Ok(membership) => membership,
        Err(error) => return client.refuse(&error.to_string()),
    };
    let _attached = Attached { member: membership.member, engine: engine.clone() };
    if client.welcome(membership).is_ok() {
        client.gone().await;
    }
}

impl Client {
    async fn hello(&self) -> Result<Hello, WireError> {
        loop {
            let Ok(mut ready) = self.socket.readable().await else { return Err(WireError::Closed) };
            match Hello::receive(self.socket.get_ref()) {
                Err(WireError::Io(Errno::AGAIN)) => ready.clear_ready(),
                result => return result,
            }
        }
    }

    fn welcome(&self, membership: Membership) -> Result<(), WireError> {
        let Membership { member: _, entry, pool, table, bundle, cell, doorbell } = membership;
        let welcome = Welcome { entry, descriptors: [pool, table, bundle, cell, doorbell] };
        welcome.send(self.socket.as_fd())
    }

    fn refuse(&self, why: &str) {
        tracing::warn!(why, "a client was not attached");
        // It may have gone already.
        let _ = Welcome::refuse(self.socket.as_fd(), why);
    }

    /// Waits for the end of the connection. A client has nothing more to say: whatever comes ends
    /// it as well.
    async fn gone(&self) {
        let receive =
            |socket: &OwnedFd| Ok(recv(socket, &mut [0u8; 1], RecvFlags::CMSG_CLOEXEC)?.0);
        let _ = self.socket.async_io(Interest::READABLE, receive).await;
    }
}
