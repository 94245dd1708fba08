//! One daemon at a time uses a state folder: it holds a lock on a file there for as long as it lives.

use super::DaemonError;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use std::{fs::File, os::unix::fs::OpenOptionsExt as _, path::Path};

const NAME: &str = "lock";

/// Takes the lock, which the kernel frees when the file is closed, however the daemon ends. `None`
/// where nothing can be kept: the folder is missing or cannot be written.
pub(super) fn take(folder: &Path) -> Result<Option<File>, DaemonError> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let path = folder.join(NAME);
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    let locked = options.open(&path).and_then(|file| {
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    });
    match locked {
        Ok(file) => Ok(Some(file)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::WOULDBLOCK) => {
            Err(DaemonError::StateInUse(folder.to_owned()))
        }
        Err(error) => {
            let what = "it is not checked whether another daemon uses the state folder";
            tracing::warn!(file = %path.display(), %error, "{what}");
            Ok(None)
        }
    }
}
