//! Which files and folders may be relied on, and reading one that somebody may be writing.

use crate::files::folder;
use std::{
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
    if meta.mode() & 0o002 != 0 {
        return Ok(Some(format!("{shown} is writable by everybody: chmod o-w")));
    }
    Ok(open_to_all(folder(path))?.map(|above| {
        let above = above.display();
        format!("{above}, a folder of {shown}, is writable by everybody: chmod o-w")
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
    let above = open_to_all(path).ok()??;
    let of = if above == path { String::new() } else { format!(", a folder of {shown},") };
    Some(format!("{}{of} is writable by everybody: chmod o-w", above.display()))
}

/// Which of a folder and those above it everybody can exchange things in. The path counts both as it
/// is written and as it leads there: folders may be symbolic links.
fn open_to_all(folder: &Path) -> io::Result<Option<PathBuf>> {
    let real = folder.canonicalize()?;
    let written = folder.ancestors().filter(|above| *above != Path::new(""));
    for above in written.chain(real.ancestors()) {
        let mode = fs::metadata(above)?.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            return Ok(Some(above.to_owned()));
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
