//! Files as this program reads and writes them.
//!
//! What is read is a regular file, of bounded size where it is text. What is written appears whole
//! or not at all: a temporary file beside the target, synced, renamed over it, and the folder
//! synced. A second attempt at a failed sync is never trusted: the file is dropped instead.

use rustix::{
    fs::{Mode, OFlags, fchmod},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// What helps where there is no descriptor left for a file, if that is what an error says.
pub fn descriptor_advice(error: &io::Error) -> Option<&'static str> {
    let errno = Errno::from_io_error(error);
    let is_short = matches!(errno, Some(Errno::MFILE | Errno::NFILE));
    is_short.then_some("raise LimitNOFILE= (ulimit -n)")
}

/// The same as the end of a sentence; nothing if something else is wrong.
pub fn more_descriptors(error: &io::Error) -> String {
    descriptor_advice(error).map(|advice| format!("; {advice}")).unwrap_or_default()
}

/// A Unix socket that listens at a path where nothing is, and that only its owner can connect to.
///
/// The mode is set before the path exists: Linux gives the path the mode of the socket. A umask would
/// do the same, but the system call filter of the shipped unit forbids to change it.
pub fn listen_privately(path: &Path, kind: SocketType, backlog: i32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// A file under construction. Dropped before [`commit`](Self::commit), it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    target: PathBuf,
}

impl AtomicFile {
    /// Starts a file that is to appear at `target`, in a folder that exists. It takes the place of
    /// a file or a symbolic link that is there; of anything else it is refused to.
    pub fn create(target: &Path) -> io::Result<Self> {
        if let Ok(kind) = fs::symlink_metadata(target).map(|meta| meta.file_type())
            && !kind.is_file()
            && !kind.is_symlink()
        {
            let what = "it exists and is not a regular file";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        let name = target.file_name().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the target has no file name")
        })?;
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{}.", name.to_string_lossy()))
            .suffix(".tmp")
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(folder(target))?;
        Ok(Self { temporary, target: target.to_owned() })
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// The file's path until it is committed.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Makes the content durable and lets it take the target's place. Only if the folder cannot be
    /// synced is the new file there all the same, and the error says so.
    pub fn commit(self) -> io::Result<()> {
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.target).map_err(|failed| failed.error)?;
        let synced = File::open(folder(&self.target)).and_then(|folder| folder.sync_all());
        synced.map_err(|error| {
            let what = "the new file is in place, but may be gone after a power cut";
            io::Error::new(error.kind(), format!("{what}: its folder cannot be synced: {error}"))
        })
    }
}

/// Opens a regular file for reading. Anything else is refused, and does not hold us up.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // A FIFO would wait for a writer; regular files ignore the flag.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

/// Reads a text file of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    text_of(open_regular(path)?, limit)
}

/// Reads text of at most `limit` bytes to its end.
pub fn text_of(source: impl Read, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    source.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        let what = format!("larger than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

/// Writes a text file, whole or not at all.
pub fn write_text(target: &Path, text: &str) -> io::Result<()> {
    let file = AtomicFile::create(target)?;
    file.file().write_all(text.as_bytes())?;
    file.commit()
}

/// Whether both paths lead to one file that exists, under whatever names.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|path| path.canonicalize().ok());
    one.is_some() && one == other
}

/// The folder of a file.
pub fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_regular_file_is_neither_replaced_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [Path::new("/dev/null"), &socket, folder.path()] {
            assert!(AtomicFile::create(path).is_err(), "{}", path.display());
            assert!(read_text(path, 100).is_err(), "{}", path.display());
        }
        let text = folder.path().join("text");
        fs::write(&text, "12345").unwrap();
        assert_eq!(read_text(&text, 5).unwrap(), "12345");
        assert!(read_text(&text, 4).is_err());
    }

    #[test]
    fn a_dropped_file_leaves_nothing_and_a_committed_one_replaces_the_target() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x");
        fs::write(&target, b"old").unwrap();

        let dropped = AtomicFile::create(&target).unwrap();
        dropped.file().write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read(&target).unwrap(), b"old");

        let committed = AtomicFile::create(&target).unwrap();
        committed.file().write_all(b"new").unwrap();
        committed.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
