//! The data-plane socket: hands an attaching client the descriptors of its session's memory, and
//! keeps the connection, whose end is the end of the client's leases.
//!
//! The messages are `wire`'s. What a client does with the memory is its own affair; the seals of
//! `device::memory` bound it.

use crate::{
    admission::{Admission, Admitted, Credentials, Full, Rejection, credentials},
    engine::{Command, EngineError, Handle, MemberId, Membership, Peer, Target},
    wire::{Hello, Refusal, Welcome, WireError},
};
use rustix::{
    io::{Errno, read},
    net::{SocketFlags, accept_with},
};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
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
    admission: Admission,
}

impl Attach {
    /// Serves a socket that listens, and does not block. Needs a tokio runtime.
    pub fn on(socket: OwnedFd, admission: Admission) -> io::Result<Self> {
        Ok(Self { socket: watched(socket)?, admission })
    }

    /// Serves clients until it is dropped. It never waits for a place: a rejected client is answered
    /// for a moment, and beyond a few of those connections are closed.
    pub async fn serve(self, engine: Handle) {
        loop {
            match self.accept().await {
                Ok((client, caller)) => self.check(client, caller, &engine),
                Err(error) => {
                    tracing::warn!(%error, "an attaching client was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<(Client, Credentials)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = |socket: &OwnedFd| Ok(accept_with(socket, flags)?);
        let socket = self.socket.async_io(Interest::READABLE, accept).await?;
        let caller = credentials(socket.as_fd())?;
        Ok((Client { socket: watched(socket)? }, caller))
    }

    /// Checks a client before a byte of it is read.
    fn check(&self, client: Client, caller: Credentials, engine: &Handle) {
        match self.admission.admit(Some(caller)) {
            Ok(admitted) => {
                let engine = engine.clone();
                tokio::spawn(async move { serve_client(&client, &admitted, &engine).await });
            }
            Err(why) => {
                if let Some(place) = self.admission.answer() {
                    tokio::spawn(async move {
                        client.refuse(why.into()).await;
                        drop(place);
                    });
                }
            }
        }
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

/// Serves a client that holds a place, until it leaves or is not admitted any more.
async fn serve_client(client: &Client, admitted: &Admitted, engine: &Handle) {
    let Some(caller) = admitted.caller() else { return };
    let (pid, uid) = (caller.pid, caller.uid);
    let served = async {
        match client.attach(caller, engine).await {
            Ok(_attached) => client.gone().await,
            Err(refused) => {
                tracing::warn!(pid, uid, why = refused.why, "not attached");
                client.refuse(refused).await;
            }
        }
    };
    tokio::select! {
        () = served => {}
        () = admitted.revoked() => {
            tracing::warn!(pid, uid, "detached: the user may not attach any more, see `peers`");
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

    /// Says why the client is not attached.
    async fn refuse(&self, Refused { code, why }: Refused) {
        // The client may have closed its end already.
        let _ = Welcome::refuse(self.socket.as_fd(), code, &why);
        // Closing with a hello unread would discard the refusal.
        let _ = timeout(LINGER, self.hello()).await;
    }

    /// Makes the client a member of its session for as long as the value lives.
    async fn attach(&self, caller: &Credentials, engine: &Handle) -> Result<Attached, Refused> {
        let hidden = "the daemon cannot see this process: let it share the daemon's pid namespace";
        let pid = caller.pid.ok_or_else(|| refused(Refusal::PERMISSION_DENIED, hidden))?;
        let peer = Peer { pid, uid: caller.uid };
        let hello = timeout(HELLO_TIMEOUT, self.hello()).await;
        let hello = hello.map_err(|_| refused(Refusal::DEADLINE_EXCEEDED, "no hello came"))??;
        let target = Target { model: hello.model, session: hello.session };
        let attach = |reply| Command::Attach { target, peer, reply };
        let membership = engine.ask(attach).await?;
        let Membership { member, entry, pool, table, index, cell, doorbell } = membership;
        let attached = Attached { member, engine: engine.clone() };
        let welcome = Welcome { entry, descriptors: [pool, table, index, cell, doorbell] };
        welcome.send(self.socket.as_fd())?;
        Ok(attached)
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

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        let (code, why) = match rejection {
            Rejection::NotAPeer => {
                let why = "this user may not attach: see `peers` in the configuration".into();
                (Refusal::PERMISSION_DENIED, why)
            }
            Rejection::Role(_) => (Refusal::PERMISSION_DENIED, rejection.to_string()),
            Rejection::Full(Full::Process(limit)) => {
                let why = format!(
                    "the process has {limit} attachments already: it leaks them, or \
                     `limits.attachments_per_process` is too low"
                );
                (Refusal::RESOURCE_EXHAUSTED, why)
            }
            Rejection::Full(_) => (Refusal::RESOURCE_EXHAUSTED, rejection.to_string()),
        };
        Self { code, why }
    }
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
            E::TooManyClients(_) | E::TooManyClientsOfUser(_) | E::NoClientMemory | E::Busy => {
                Refusal::RESOURCE_EXHAUSTED
            }
            _ => Refusal::UNAVAILABLE,
        };
        refused(code, error.to_string())
    }
}
