//! The temporary folder in which everything of the demo lies, so that removing it removes all.
//!
//! Knows paths, room and the kind of file system; writes no files itself.

use crate::{
    cli::{failure::Failure, output::bytes},
    config::MAX_SOCKET_PATH,
    storage,
};
use rustix::fs::statvfs;
use std::{
    env, fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Room beside model and bundle: indices, norms, logs.
const SPARE_BYTES: u64 = 64 << 20;

/// The folder. Dropped, it and all that is in it are removed.
#[derive(Debug)]
pub(super) struct Place {
    /// Removes the folder.
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    /// Makes a folder where `TMPDIR` says, if `needed` bytes fit there.
    pub(super) fn make(needed: u64) -> Result<Self, Failure> {
        let parent = env::temp_dir();
        let failed = |what: String| {
            Failure::failed(format!(
                "{what} in {}; TMPDIR says where else to work",
                parent.display()
            ))
        };
        let folder = tempfile::Builder::new().prefix("synchromesh-demo-").tempdir();
        let folder = folder.map_err(|error| failed(format!("cannot make a folder: {error}")))?;
        let path = fs::canonicalize(folder.path()).map_err(Failure::failed)?;
        let place = Self { _folder: folder, path };
        place.check_paths()?;
        let stat = statvfs(&place.path).map_err(Failure::failed)?;
        let (free, needed) = (stat.f_bavail.saturating_mul(stat.f_frsize), needed + SPARE_BYTES);
        if free < needed {
            let (needed, free) = (bytes(needed), bytes(free));
            return Err(failed(format!("{needed} are needed, but only {free} are free")));
        }
        Ok(place)
    }

    /// The daemon's configuration is text, and the kernel limits the paths of sockets.
    fn check_paths(&self) -> Result<(), Failure> {
        if self.path.to_str().is_none() {
            let folder = self.path.display();
            return Err(Failure::usage(format!("TMPDIR must be UTF-8, unlike {folder}")));
        }
        match self.control().as_os_str().len() {
            ..=MAX_SOCKET_PATH => Ok(()),
            len => Err(Failure::usage(format!(
                "sockets would have paths of {len} bytes, but at most {MAX_SOCKET_PATH} are \
                 allowed: let TMPDIR name a folder with a shorter path"
            ))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn bundle(&self) -> PathBuf {
        self.file("model.mesh")
    }

    /// The longer path of the two sockets.
    pub(super) fn control(&self) -> PathBuf {
        self.file("control.sock")
    }

    pub(super) fn attach(&self) -> PathBuf {
        self.file("attach.sock")
    }

    /// Whether the files lie in memory, where nothing is read from a device.
    pub(super) fn in_memory(&self) -> bool {
        fs::File::open(&self.path).is_ok_and(storage::in_memory)
    }
}
