//! The data-plane socket: hands an attaching client the descriptors of its session's memory, and
//! keeps the connection, whose end is the end of the client's leases.
//!
//! The messages are `wire`'s. What a client does with the memory is its own affair; the seals of
//! `device::memory` bound it.

mod peer;

pub use peer::Processes;

use crate::{
    engine::{Command, EngineError, Handle, MemberId, Membership, Peer, Target},
    gate::Gate,
    wire::{Hello, Refusal, Welcome, WireError},
};
use peer::{Credentials, Seat, credentials};
use rustix::{
    io::{Errno, read},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
        socket_with,
    },
};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{sleep, timeout},
};

/// How long a client may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the hello of a client that is refused before it may still come.
const LINGER: Duration = Duration::from_millis(100);
/// Pause after the kernel refuses a connection, so that a lack of descriptors is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening socket.
pub struct Attach {
    socket: AsyncFd<OwnedFd>,
    gate: Gate,
    processes: Processes,
}

/// A socket that listens at a path where nothing is.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 64)?;
    Ok(socket)
}

impl Attach {
    /// Serves a socket that listens, and does not block. Needs a tokio runtime.
    pub fn on(socket: OwnedFd, gate: Gate, processes: Processes) -> io::Result<Self> {
        Ok(Self { socket: watched(socket)?, gate, processes })
    }

    /// Serves clients until it is dropped.
    pub async fn serve(self, engine: Handle) {
        loop {
            // Clients beyond the limit wait in the kernel's queue.
            let Some(place) = self.gate.place().await else { return };
            match self.accept().await {
                Ok(client) => {
                    let (engine, processes) = (engine.clone(), self.processes.clone());
                    tokio::spawn(async move {
                        serve_client(&client, &engine, &processes).await;
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
        let peer = credentials(socket.as_fd())?;
        let allowed = self.gate.allows(peer.uid, peer.gid);
        Ok(Client { socket: watched(socket)?, peer, allowed })
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
    peer: Credentials,
    allowed: bool,
}

/// Why a client is not attached.
struct Refused {
    code: Refusal,
    why: String,
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

async fn serve_client(client: &Client, engine: &Handle, processes: &Processes) {
    match client.admit(engine, processes).await {
        Ok((_seat, _attached)) => client.gone().await,
        Err(Refused { code, why }) => {
            tracing::warn!(pid = client.peer.pid, uid = client.peer.uid, why, "not attached");
            // It may have gone already.
            let _ = Welcome::refuse(client.socket.as_fd(), code, &why);
            // A hello that is not read by the end would take the refusal with it.
            let _ = timeout(LINGER, client.hello()).await;
        }
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

    /// Lets the client in, if it may come in. It is a member for as long as both values live.
    async fn admit(
        &self,
        engine: &Handle,
        processes: &Processes,
    ) -> Result<(Seat, Attached), Refused> {
        // First of all, so that who may not come in, or has come in too often, holds no place that
        // others wait for.
        let peer = self.peer()?;
        let full = |limit| {
            let why = format!(
                "the process has {limit} attachments already: it leaks them, or \
                 `limits.attachments_per_process` is too low"
            );
            refused(Refusal::RESOURCE_EXHAUSTED, why)
        };
        let seat = processes.seat(peer).map_err(full)?;
        let hello = timeout(HELLO_TIMEOUT, self.hello()).await;
        let hello = hello.map_err(|_| refused(Refusal::DEADLINE_EXCEEDED, "no hello came"))??;
        let target = Target { model: hello.model, session: hello.session };
        let attach = |reply| Command::Attach { target, peer, reply };
        let membership = engine.ask(attach).await?;
        let Membership { member, entry, pool, table, index, cell, doorbell } = membership;
        let attached = Attached { member, engine: engine.clone() };
        let welcome = Welcome { entry, descriptors: [pool, table, index, cell, doorbell] };
        welcome.send(self.socket.as_fd())?;
        Ok((seat, attached))
    }

    /// The client's process, if it may attach.
    fn peer(&self) -> Result<Peer, Refused> {
        let denied = |why: &str| refused(Refusal::PERMISSION_DENIED, why);
        if !self.allowed {
            return Err(denied("this user may not attach: see `peers` in the configuration"));
        }
        let hidden = "the daemon cannot see this process: let it share the daemon's pid namespace";
        let pid = self.peer.pid.ok_or_else(|| denied(hidden))?;
        Ok(Peer { pid, uid: self.peer.uid })
    }

    /// Waits for the end of the connection. A client has nothing more to say: whatever comes ends
    /// it as well.
    async fn gone(&self) {
        let receive = |socket: &OwnedFd| Ok(read(socket, &mut [0u8; 1])?);
        let _ = self.socket.async_io(Interest::READABLE, receive).await;
    }
}

fn refused(code: Refusal, why: impl Into<String>) -> Refused {
    Refused { code, why: why.into() }
}

impl From<WireError> for Refused {
    fn from(error: WireError) -> Self {
        let code = match error {
            WireError::Version(_) => Refusal::UNIMPLEMENTED,
            WireError::Io(_) | WireError::Closed => Refusal::UNAVAILABLE,
            _ => Refusal::INVALID_ARGUMENT,
        };
        refused(code, error.to_string())
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        use EngineError as E;
        let code = match error {
            E::UnknownModel { .. } | E::UnknownSession { .. } => Refusal::NOT_FOUND,
            E::AmbiguousModel { .. } | E::BadName { .. } => Refusal::INVALID_ARGUMENT,
            E::TooManyClients(_) | E::NoClientMemory | E::Busy => Refusal::RESOURCE_EXHAUSTED,
            _ => Refusal::UNAVAILABLE,
        };
        refused(code, error.to_string())
    }
}
