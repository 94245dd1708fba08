//! Paths of Unix sockets: what a crashed daemon left behind is removed, a living one's is not.

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileTypeExt as _,
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
    path: PathBuf,
    _lock: File,
}

impl SocketPath {
    /// Claims a path and removes a socket that nobody serves any more.
    pub(super) fn claim(path: &Path) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = File::options().create(true).append(true).open(lock_path).map_err(io)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SocketError::InUse(path.to_owned())),
            Err(error) => return Err(io(error.into())),
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path).map_err(io)?,
            Ok(_) => return Err(SocketError::NotASocket(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // The lock's file stays: removing it would let two others lock different files.
        let _ = fs::remove_file(&self.path);
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
        let listener = UnixListener::bind(first.path()).unwrap();
        assert!(matches!(SocketPath::claim(&path), Err(SocketError::InUse(_))));
        assert!(path.exists(), "the living daemon keeps its socket");
        drop(listener);
        drop(first);
        assert!(!path.exists());
        SocketPath::claim(&path).unwrap();
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
