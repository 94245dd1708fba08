//! Which files and folders may be relied on, and reading one that somebody may be writing.

use crate::files::folder;
use std::{
    fmt,
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Says why a file may not be relied on: somebody else could exchange it.
pub(super) fn untrusted(path: &Path) -> io::Result<Option<String>> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let shown = path.display();
    if kind.is_symlink() {
        return Ok(Some(format!("{shown} is a symbolic link: name the file itself")));
    }
    if !kind.is_file() {
        return Ok(Some(format!("{shown} is not a regular file")));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Ok(Some(format!("{shown} belongs to another user: chown it to root")));
    }
    if let Some(writers) = Writers::of(&meta) {
        return Ok(Some(format!("{shown} {writers}")));
    }
    Ok(open_to_others(folder(path))?.map(|(above, writers)| {
        let above = above.display();
        format!("{above}, a folder of {shown}, {writers}")
    }))
}

/// Says why a folder may not be relied on: somebody else could put there, or take away, what is the
/// daemon's. One that is not there harms nobody, and one that cannot be looked at is of no use to
/// the daemon either; who wants to use it says so.
pub(super) fn untrusted_folder(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok().filter(Metadata::is_dir)?;
    let shown = path.display();
    // Root looks on behalf of the daemon, whose folder it may be.
    let own = rustix::process::geteuid();
    if !own.is_root() && meta.uid() != 0 && meta.uid() != own.as_raw() {
        return Some(format!("{shown} belongs to another user: chown it to the daemon's"));
    }
    let (above, writers) = open_to_others(path).ok()??;
    let of = if above == path { String::new() } else { format!(", a folder of {shown},") };
    Some(format!("{}{of} {writers}", above.display()))
}

/// Users besides the owner that can write to a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writers {
    Everybody,
    /// The members of this group.
    Group(u32),
}

impl Writers {
    /// The root group may write: its members are administrators, and some distributions give it
    /// folders such as /srv. The daemon's own group may not: clients are members of it.
    fn of(meta: &Metadata) -> Option<Self> {
        match meta.mode() {
            mode if mode & 0o002 != 0 => Some(Self::Everybody),
            mode if mode & 0o020 != 0 && meta.gid() != 0 => Some(Self::Group(meta.gid())),
            _ => None,
        }
    }
}

impl fmt::Display for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("is writable by everybody: chmod o-w"),
            Self::Group(gid) => write!(f, "is writable by its group {gid}: chmod g-w"),
        }
    }
}

/// Which of a folder and those above it others can exchange things in. The path counts both as it
/// is written and as it leads there: folders may be symbolic links. A sticky folder protects what is
/// in it.
fn open_to_others(folder: &Path) -> io::Result<Option<(PathBuf, Writers)>> {
    let real = folder.canonicalize()?;
    let written = folder.ancestors().filter(|above| *above != Path::new(""));
    for above in written.chain(real.ancestors()) {
        let meta = fs::metadata(above)?;
        if meta.mode() & 0o1000 == 0
            && let Some(writers) = Writers::of(&meta)
        {
            return Ok(Some((above.to_owned(), writers)));
        }
    }
    Ok(None)
}

/// Reads at most one byte more than `limit`, and gives nothing if the file changes meanwhile.
pub(super) fn read_still(file: &File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    still(file, || {
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    })
}

/// What `read` gives, if the file is the same before and after.
fn still(file: &File, read: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    let before = version(&file.metadata()?);
    let bytes = read()?;
    Ok((version(&file.metadata()?) == before).then_some(bytes))
}

/// What is different after a write, and not after another file has taken the name.
fn version(meta: &Metadata) -> (u64, i64, i64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn c9_a_file_that_is_written_while_it_is_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        fs::write(&path, "models: []\n").unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_still(&file, 100).unwrap().unwrap(), b"models: []\n");

        let file = File::open(&path).unwrap();
        let written = still(&file, || {
            let mut half = vec![0; 4];
            (&file).read_exact(&mut half)?;
            File::options().append(true).open(&path)?.write_all(b"listen: {}\n")?;
            (&file).read_to_end(&mut half)?;
            Ok(half)
        });
        assert!(written.unwrap().is_none(), "appended to");
        let emptied = still(&file, || File::create(&path).map(|_| Vec::new()));
        assert!(emptied.unwrap().is_none(), "emptied, to be written anew");
        let renamed = still(&file, || {
            fs::write(folder.path().join("new"), "models: [1]\n")?;
            fs::rename(folder.path().join("new"), &path)?;
            Ok(vec![1])
        });
        assert_eq!(renamed.unwrap().unwrap(), [1], "the old file is whole, whoever replaced it");
    }
}
