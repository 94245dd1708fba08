//! Paths of Unix sockets: what a crashed daemon left behind is removed, a living one's is not.

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Why a socket's path cannot be used.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another daemon serves there.
    #[error("another daemon serves {}: stop it, or use other paths in `listen`", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is there.
    #[error("{} exists and is not a socket: remove it, or use another path", .0.display())]
    NotASocket(PathBuf),
    /// The folder or the lock file cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A path that this process alone may bind, for as long as this value lives. A lock on a file
/// beside the socket tells the living from the dead, so there is no moment in which two daemons
/// that start together could each remove the other's socket.
#[derive(Debug)]
pub(super) struct SocketPath {
    /// What is removed at the end, if it was bound here.
    bound: Option<PathBuf>,
    _lock: File,
}

impl SocketPath {
    /// Claims a path and removes a socket that nobody serves any more.
    pub(super) fn claim(path: &Path) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        let lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => {
                if is_heard(path) {
                    return Err(SocketError::InUse(path.to_owned()));
                }
                fs::remove_file(path).map_err(io)?;
            }
            Ok(_) => return Err(SocketError::NotASocket(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        Ok(Self { bound: Some(path.to_owned()), _lock: lock })
    }

    /// Keeps others from a path that somebody else has bound for this process, and leaves it as it
    /// is. `None` if no lock may be put beside it.
    pub(super) fn guard(path: &Path) -> Result<Option<Self>, SocketError> {
        match lock(path) {
            Ok(lock) => Ok(Some(Self { bound: None, _lock: lock })),
            Err(SocketError::InUse(path)) => Err(SocketError::InUse(path)),
            Err(_) => Ok(None),
        }
    }
}

fn lock(path: &Path) -> Result<File, SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = File::options().create(true).append(true).mode(0o600).open(lock_path).map_err(io)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(io(error.into())),
    }
}

/// Whether anybody listens at a socket, who need not hold the lock: systemd, for a daemon that is
/// not started yet.
fn is_heard(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let answer = SocketAddrUnix::new(path).and_then(|address| {
        connect(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?, &address)
    });
    // One that listens for other messages, or whose queue is full, says so.
    matches!(answer, Ok(()) | Err(Errno::PROTOTYPE | Errno::AGAIN))
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // The lock's file stays: removing it would let two others lock different files.
        if let Some(path) = &self.bound {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_path_is_claimed_once_and_what_a_dead_daemon_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a stale socket");

        let first = SocketPath::claim(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(SocketPath::claim(&path), Err(SocketError::InUse(_))));
        assert!(path.exists(), "the living daemon keeps its socket");
        drop(listener);
        drop(first);
        assert!(!path.exists());
        SocketPath::claim(&path).unwrap();
    }

    #[test]
    fn a_socket_that_somebody_else_listens_at_is_in_use_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(
            matches!(SocketPath::claim(&path), Err(SocketError::InUse(_))),
            "nobody has a lock"
        );
        let guarded = SocketPath::guard(&path).unwrap().unwrap();
        assert!(matches!(SocketPath::guard(&path), Err(SocketError::InUse(_))));
        drop(guarded);
        assert!(path.exists(), "it is not removed by who did not bind it");
        drop(listener);
        assert!(SocketPath::guard(Path::new("/nowhere/socket")).unwrap().is_none());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(SocketPath::claim(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
