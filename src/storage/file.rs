//! A bundle's file, opened for block reads past the page cache where the file system allows it.

use super::{Piece, Read, ReadError};
use crate::units::BLOCK_ALIGN;
use memmap2::MmapMut;
use rustix::{
    fs::{AtFlags, Mode, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, fstatfs, open, statx},
    io::{Errno, preadv, retry_on_intr},
};
use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// Most buffers that the kernel takes in one call (`UIO_MAXIOV`).
const MAX_BUFFERS: usize = 1024;

/// An open bundle.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    direct: bool,
}

impl BlockFile {
    /// Opens a file with O_DIRECT. Where the file system refuses that, or would silently fall back
    /// to the page cache (fs-verity), the file is read through the cache, and
    /// [`direct`](Self::direct) says so.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let (file, direct) = match open(path, flags | OFlags::DIRECT, Mode::empty()) {
            Ok(file) if supports_direct(&file) => (file, true),
            Ok(_) | Err(Errno::INVAL) => (open(path, flags, Mode::empty())?, false),
            Err(error) => return Err(error.into()),
        };
        // It was for the opening alone, which a FIFO would have held up: a read through io_uring
        // would fail where it cannot be begun without waiting.
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        Ok(Self { file: file.into(), direct })
    }

    /// Whether reads go past the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills the buffers one after another from `offset`. Offset, sizes and addresses must be
    /// multiples of [`BLOCK_ALIGN`](crate::units::BLOCK_ALIGN).
    pub fn read_exact_at(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> Result<(), ReadError> {
        let wanted: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let done = self.read_up_to(buffers, offset)?;
        if done == wanted { Ok(()) } else { Err(ReadError::Eof { end: offset + done }) }
    }

    /// Like [`read_exact_at`](Self::read_exact_at), but stops at the end of the file. Gives the
    /// bytes read.
    pub fn read_up_to(
        &self,
        mut buffers: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> Result<u64, ReadError> {
        let len = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        let mut done = 0;
        while !buffers.is_empty() {
            let batch = buffers.len().min(MAX_BUFFERS);
            let read = retry_on_intr(|| preadv(&self.file, &mut buffers[..batch], offset + done));
            let read = read.map_err(|e| ReadError::Io { offset, len, source: e.into() })?;
            if read == 0 {
                break;
            }
            done += read as u64;
            IoSliceMut::advance_slices(&mut buffers, read);
        }
        Ok(done)
    }
}

/// Memory for what is read and dropped.
#[derive(Default)]
pub(super) struct Scratch(Option<MmapMut>);

impl Scratch {
    /// Grows to `bytes` if need be, and gives the memory. It is aligned to pages.
    pub(super) fn with_room(&mut self, bytes: u64) -> Result<&mut [u8], ReadError> {
        let fail = |source| ReadError::Io { offset: 0, len: bytes, source };
        if bytes as usize > self.0.as_ref().map_or(0, |memory| memory.len()) {
            self.0 = Some(MmapMut::map_anon(bytes as usize).map_err(fail)?);
        }
        Ok(self.0.as_deref_mut().unwrap_or_default())
    }
}

impl Read {
    /// Carries the request out by blocking calls. The scratch takes what is dropped.
    pub(super) fn carry_out(&mut self, scratch: &mut Scratch) -> Result<(), ReadError> {
        let (file, offset) = (self.file.clone(), self.offset);
        let scratch = scratch.with_room(self.gap_bytes())?;
        file.read_exact_at(&mut self.buffers(scratch), offset)
    }

    /// Where the request's bytes go, one after another.
    fn buffers<'a>(&'a mut self, mut scratch: &'a mut [u8]) -> Vec<IoSliceMut<'a>> {
        let mut buffers = Vec::with_capacity(self.blocks.len());
        for piece in self.pieces() {
            buffers.push(IoSliceMut::new(match piece {
                Piece::Block(window) => window.bytes_mut(),
                Piece::Gap(bytes) => {
                    let (dropped, rest) = scratch.split_at_mut(bytes as usize);
                    scratch = rest;
                    dropped
                }
            }));
        }
        buffers
    }
}

impl AsFd for BlockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether O_DIRECT, which was accepted, is honoured for blocks as we align them. The kernel tells
/// (since 6.1) of most file systems; of others it is believed, except of those in memory,
/// which have no storage to read from.
fn supports_direct(file: &OwnedFd) -> bool {
    if in_memory(file) {
        return false;
    }
    match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
            let fits = |align: u32| (1..=BLOCK_ALIGN).contains(&u64::from(align));
            fits(stat.stx_dio_offset_align) && fits(stat.stx_dio_mem_align)
        }
        _ => true,
    }
}

/// Whether a file lies in memory (tmpfs, ramfs), where nothing is read from a device.
pub fn in_memory(file: impl AsFd) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    fstatfs(file).is_ok_and(|stat| matches!(stat.f_type as u64, TMPFS | RAMFS))
}
