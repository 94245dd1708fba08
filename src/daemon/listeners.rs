//! The sockets that the daemon listens at: those that systemd has opened, by their names, and of the
//! others those that the configuration names, which are bound here.
//!
//! A socket that systemd has opened is systemd's: it is never removed here. Who is let in is the
//! business of whoever serves it.

use super::{
    DaemonError,
    socket::{SocketError, SocketPath},
    systemd::Passed,
};
use crate::{
    config::Listen,
    control::ServerError,
    files::{is_same_file, listen_privately},
};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketType, getsockname,
        sockopt::{socket_acceptconn, socket_domain, socket_type},
    },
};
use std::{
    ffi::OsStr,
    fmt, fs, io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{PermissionsExt as _, chown},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};
use thiserror::Error;

/// What socket units call the sockets (`FileDescriptorName=`).
const CONTROL: &str = "control";
const ATTACH: &str = "attach";
const METRICS: &str = "metrics";
/// Connections that wait while the daemon is busy or starts.
const BACKLOG: i32 = 128;

/// Why a socket that came with the start is not used.
#[derive(Debug, Error)]
pub enum PassedError {
    /// The environment does not say what there is.
    #[error("the descriptors that came with the start cannot be taken: {0}; see LISTEN_FDS")]
    Environment(#[from] std::io::Error),
    /// Nobody knows what it is for.
    #[error(
        "systemd passed a socket named `{0}`: use FileDescriptorName={CONTROL}, {ATTACH} or \
         {METRICS} in its socket unit"
    )]
    Unknown(String),
    /// There are two of a name and kind.
    #[error("systemd passed two sockets named `{0}`: keep one ListenStream= of them")]
    Twice(&'static str),
    /// It is of another kind.
    #[error("the socket `{name}` that systemd passed is not {expected}: see its socket unit")]
    Kind {
        /// Its name.
        name: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// The kernel does not tell of it.
    #[error("the socket `{name}` that systemd passed cannot be used: {source}")]
    Io {
        /// Its name.
        name: &'static str,
        /// The cause.
        source: Errno,
    },
}

/// Sockets that listen.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) control: UnixListener,
    pub(super) attach: OwnedFd,
    pub(super) metrics: Option<TcpListener>,
    pub(super) metrics_socket: Option<UnixListener>,
    /// Held until the end: dropped, they remove the sockets that were bound here.
    pub(super) claims: Vec<SocketPath>,
}

/// The sockets among what came with the start.
#[derive(Debug, Default)]
pub(super) struct PassedSockets {
    control: Option<OwnedFd>,
    attach: Option<OwnedFd>,
    metrics: Option<OwnedFd>,
    metrics_socket: Option<OwnedFd>,
}

impl PassedSockets {
    /// Picks the listening sockets; what is none is left for others.
    pub(super) fn pick(passed: Vec<Passed>) -> Result<(Self, Vec<Passed>), PassedError> {
        let (mut sockets, mut rest) = (Self::default(), Vec::new());
        for Passed { name, fd } in passed {
            if !socket_acceptconn(&fd).unwrap_or(false) {
                rest.push(Passed { name, fd });
                continue;
            }
            let (name, place) = match &*name {
                CONTROL => (CONTROL, &mut sockets.control),
                ATTACH => (ATTACH, &mut sockets.attach),
                METRICS if socket_domain(&fd) == Ok(AddressFamily::UNIX) => {
                    (METRICS, &mut sockets.metrics_socket)
                }
                METRICS => (METRICS, &mut sockets.metrics),
                _ => return Err(PassedError::Unknown(name)),
            };
            if place.is_some() {
                return Err(PassedError::Twice(name));
            }
            let io = |source| PassedError::Io { name, source };
            let flags = fcntl_getfl(&fd).map_err(io)?;
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(io)?;
            *place = Some(fd);
        }
        Ok((sockets, rest))
    }
}

/// A Unix socket of the daemon.
struct Unix {
    name: &'static str,
    /// The key of the configuration that has its path.
    key: &'static str,
    kind: SocketType,
}

const CONTROL_SOCKET: Unix =
    Unix { name: CONTROL, key: "listen.control", kind: SocketType::STREAM };
const ATTACH_SOCKET: Unix =
    Unix { name: ATTACH, key: "listen.attach", kind: SocketType::SEQPACKET };
const METRICS_SOCKET: Unix =
    Unix { name: METRICS, key: "listen.metrics_socket", kind: SocketType::STREAM };

impl Unix {
    /// What systemd has opened, or else a socket that is bound here.
    fn open(
        &self,
        passed: Option<OwnedFd>,
        path: &Path,
        listen: &Listen,
        claims: &mut Vec<SocketPath>,
    ) -> Result<OwnedFd, DaemonError> {
        let Some(fd) = passed else {
            claims.push(SocketPath::claim(path)?);
            let address = path.display().to_string();
            let failed = |source| ServerError::Listen { address, source };
            let socket = listen_privately(path, self.kind, BACKLOG).map_err(failed)?;
            open_to_peers(path, listen)?;
            return Ok(socket);
        };
        let served = self.take(&fd, claims)?;
        if !served.is_path(path) {
            tell_unheeded(self.key, &path.display(), &served);
        }
        Ok(fd)
    }

    /// Checks what systemd has opened, and keeps other daemons from it.
    fn take(&self, fd: &OwnedFd, claims: &mut Vec<SocketPath>) -> Result<Address, DaemonError> {
        check(self.name, fd, self.kind, &[AddressFamily::UNIX])?;
        claims.extend(guard(fd)?);
        Ok(Address::of(fd))
    }
}

impl Listeners {
    /// Listens at what systemd has opened, and else at what the configuration names.
    pub(super) fn open(passed: PassedSockets, listen: &Listen) -> Result<Self, DaemonError> {
        let PassedSockets { control, attach, metrics, metrics_socket } = passed;
        let mut claims = Vec::new();
        let control = CONTROL_SOCKET.open(control, &listen.control, listen, &mut claims)?;
        let attach = ATTACH_SOCKET.open(attach, &listen.attach, listen, &mut claims)?;
        let metrics_socket = match (metrics_socket, &listen.metrics_socket) {
            (passed, Some(path)) => Some(METRICS_SOCKET.open(passed, path, listen, &mut claims)?),
            (Some(fd), None) => {
                METRICS_SOCKET.take(&fd, &mut claims)?;
                Some(fd)
            }
            (None, None) => None,
        };
        let metrics = match (metrics, listen.metrics) {
            (Some(fd), configured) => {
                let internet = [AddressFamily::INET, AddressFamily::INET6];
                check(METRICS, &fd, SocketType::STREAM, &internet)?;
                let served = Address::of(&fd);
                if let Some(configured) = configured.filter(|&other| !served.is_at(other)) {
                    tell_unheeded("listen.metrics", &configured, &served);
                }
                Some(fd.into())
            }
            (None, Some(address)) => {
                let failed = |source| ServerError::Listen { address: address.to_string(), source };
                Some(TcpListener::bind(address).map_err(failed)?)
            }
            (None, None) => None,
        };
        let metrics_socket = metrics_socket.map(Into::into);
        Ok(Self { control: control.into(), attach, metrics, metrics_socket, claims })
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            control: Address::of(&self.control),
            attach: Address::of(&self.attach),
            metrics: self.metrics.as_ref().map(Address::of),
            metrics_socket: self.metrics_socket.as_ref().map(Address::of),
        }
    }
}

/// Gives a socket that was bound here its group and mode. Until then it is the daemon's user's
/// alone (`files::listen_privately`).
fn open_to_peers(path: &Path, listen: &Listen) -> Result<(), ServerError> {
    let failed = |key: &str, source: io::Error| ServerError::Access {
        path: path.to_owned(),
        key: key.to_owned(),
        source,
    };
    if listen.group.is_some() {
        chown(path, None, listen.group).map_err(|error| failed("listen.group", error))?;
    }
    let mode = fs::Permissions::from_mode(listen.mode);
    fs::set_permissions(path, mode).map_err(|error| failed("listen.mode", error))
}

/// Where the daemon listens, whoever has opened the sockets.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) control: Address,
    pub(super) attach: Address,
    pub(super) metrics: Option<Address>,
    pub(super) metrics_socket: Option<Address>,
}

/// Where a socket listens.
#[derive(Debug)]
pub(super) enum Address {
    Path(PathBuf),
    /// A name that is in no folder.
    Abstract(Vec<u8>),
    Internet(SocketAddr),
    Unknown,
}

impl Address {
    fn of(socket: impl AsFd) -> Self {
        let Ok(any) = getsockname(socket) else { return Self::Unknown };
        if let Ok(address) = SocketAddr::try_from(any.clone()) {
            return Self::Internet(address);
        }
        let Ok(address) = SocketAddrUnix::try_from(any) else { return Self::Unknown };
        match (address.path_bytes(), address.abstract_name()) {
            (Some(path), _) => Self::Path(OsStr::from_bytes(path).into()),
            (None, Some(name)) => Self::Abstract(name.to_vec()),
            (None, None) => Self::Unknown,
        }
    }

    fn is_path(&self, other: &Path) -> bool {
        matches!(self, Self::Path(path) if path == other || is_same_file(path, other))
    }

    fn is_at(&self, other: SocketAddr) -> bool {
        matches!(self, Self::Internet(address) if *address == other)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
            Self::Internet(address) => address.fmt(f),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Tells of a key that is not heeded, as systemd listens elsewhere.
fn tell_unheeded(key: &str, configured: &dyn fmt::Display, served: &Address) {
    let what = "the key is not heeded: systemd has opened the socket, where its socket unit says";
    tracing::warn!(key, %configured, %served, "{what}");
}

/// Checks that a socket is of the kind that its name stands for.
fn check(
    name: &'static str,
    fd: &OwnedFd,
    kind: SocketType,
    families: &[AddressFamily],
) -> Result<(), PassedError> {
    let io = |source| PassedError::Io { name, source };
    let family = socket_domain(fd).map_err(io)?;
    if socket_type(fd).map_err(io)? == kind && families.contains(&family) {
        return Ok(());
    }
    let expected = match name {
        CONTROL => "a Unix stream socket (ListenStream=/path)",
        ATTACH => "a Unix seqpacket socket (ListenSequentialPacket=/path)",
        _ => {
            "a TCP socket (ListenStream=127.0.0.1:PORT) or a Unix stream socket (ListenStream=/path)"
        }
    };
    Err(PassedError::Kind { name, expected })
}

/// Keeps others from a socket of systemd, as far as its folder allows that.
fn guard(fd: &OwnedFd) -> Result<Option<SocketPath>, SocketError> {
    match Address::of(fd) {
        Address::Path(path) => SocketPath::guard(&path),
        _ => Ok(None),
    }
}
