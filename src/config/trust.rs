//! Which files may be relied on, and reading one that somebody may be writing.

use crate::files::folder;
use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
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
    // Both as the path is written and as it leads there: folders may be symbolic links.
    let (written, real) = (folder(path), folder(path).canonicalize()?);
    for above in written.ancestors().filter(|above| *above != Path::new("")).chain(real.ancestors())
    {
        let mode = fs::metadata(above)?.mode();
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            let above = above.display();
            return Ok(Some(format!(
                "{above}, a folder of {shown}, is writable by everybody: chmod o-w"
            )));
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
