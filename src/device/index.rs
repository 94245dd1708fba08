//! A bundle's index, shared: a sealed memfd that is as long as the bundle's file and has its header
//! and its index, at their offsets. Where the file has blocks and base there are holes.
//!
//! So the index is in memory once, however many read it. The holes cost nothing as long as nobody
//! looks at them through a mapping, which would ask the kernel for pages: the header and padding
//! are read with `pread`, and only the index is mapped. What the tables mean is `bundle`'s affair.

use super::memory::{self, MemoryError, Sharing};
use crate::bundle::{Bundle, IndexBytes, OpenError, Outline};
use memmap2::{Mmap, MmapOptions};
use rustix::fs::{MemfdFlags, ftruncate};
use std::{
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
    sync::Arc,
};

/// What it is called in `/proc` and in errors.
const WHAT: &str = "index";
/// What its bundle is called in errors where there is no file.
const NAME: &str = "handed out by the daemon";
/// Bytes that are copied at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// The daemon's side of a shared index: what is handed out.
#[derive(Debug)]
pub struct SharedIndex(OwnedFd);

impl SharedIndex {
    /// Shares the index of a bundle's file, which is read once. What is checked is the copy, which
    /// the bundle then reads as clients do. `path` is for messages.
    pub fn create<E>(file: &File, path: &Path) -> Result<(Self, Bundle), E>
    where
        E: From<OpenError> + From<MemoryError>,
    {
        let outline = Outline::of_file(file, path)?;
        let copy = copy::<E>(&outline, file, path)?;
        let map = map(&copy, outline.index()).map_err(failed)?;
        let bundle = outline.validate(map).map_err(OpenError::refused(path))?;
        Ok((Self(copy), bundle))
    }

    /// Checks and maps an index that another process shares.
    pub fn open<E>(fd: OwnedFd) -> Result<Bundle, E>
    where
        E: From<OpenError> + From<MemoryError>,
    {
        memory::check_sealed(WHAT, &fd, 1, Sharing::ReadOnly)?;
        let (file, path) = (File::from(fd), Path::new(NAME));
        let outline = Outline::of_file(&file, path)?;
        let map = map(&file, outline.index()).map_err(failed)?;
        Ok(outline.validate(map).map_err(OpenError::refused(path))?)
    }
}

impl AsFd for SharedIndex {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A sealed memfd with a file's header, which has been read, and its index, which has not.
fn copy<E>(outline: &Outline, file: &File, path: &Path) -> Result<OwnedFd, E>
where
    E: From<OpenError> + From<MemoryError>,
{
    let index = outline.index();
    let bytes = outline.header().len() as u64 + (index.end - index.start);
    memory::check_available(WHAT, bytes)?;
    let fail = |source| MemoryError::Allocate { what: WHAT, bytes, source };
    let copy = memory::memfd(WHAT, MemfdFlags::empty()).map_err(|e| fail(e.into()))?;
    ftruncate(&copy, outline.file_len()).map_err(|e| fail(e.into()))?;
    let copy = File::from(copy);
    copy.write_all_at(outline.header(), 0).map_err(fail)?;
    let mut chunk = Vec::new();
    for start in index.clone().step_by(CHUNK_BYTES as usize) {
        chunk.resize(CHUNK_BYTES.min(index.end - start) as usize, 0);
        file.read_exact_at(&mut chunk, start).map_err(OpenError::io(path))?;
        copy.write_all_at(&chunk, start).map_err(fail)?;
    }
    let copy = OwnedFd::from(copy);
    memory::seal(&copy, Sharing::ReadOnly).map_err(|e| fail(e.into()))?;
    Ok(copy)
}

/// Maps a part of a memfd that is sealed and at least so long.
#[expect(unsafe_code, reason = "what is mapped is borrowed from whoever shares it")]
fn map(sealed: &impl AsFd, part: Range<u64>) -> io::Result<IndexBytes> {
    let len = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    let mut options = MmapOptions::new();
    options.offset(part.start).len(len);
    let fd = sealed.as_fd();
    // SAFETY: both callers have seen to the seals: nothing is cut off, and nobody can write but
    // through a mapping that is older than the seals. The daemon makes none of those (`copy`), as
    // clients rely on it not to for the pool.
    let map: Mmap = unsafe { options.map(&fd) }?;
    Ok(Arc::new(map))
}

fn failed(source: io::Error) -> MemoryError {
    MemoryError::Map { what: WHAT, source }
}
