//! Anonymous shared memory in a sealed memfd.
//!
//! A descriptor passed read-only alone protects nothing, for it can be reopened writable. So the
//! owner maps first, and then `F_SEAL_FUTURE_WRITE` makes every later writable mapping, write and
//! hole punch fail, the owner's own included. Writable memory has no such protection: its user may
//! punch holes, and then the next access by either side asks the kernel for a page again.
//!
//! Large memory is had in huge pages where there are any: from the reserved ones if enough are
//! free, else the kernel is asked to find some. Fewer pages make for less work at every read.

use super::pages::{available_memory, huge_bytes, reserved_huge_pages, whole_huge_pages};
use crate::files::descriptor_advice;
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
        ftruncate, memfd_create,
    },
    io::Errno,
    param::page_size,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use thiserror::Error;

/// Less memory than this is allocated without a look at what the machine has: that means to read
/// several files of procfs and of cgroups, which takes longer than the allocation and can block. A
/// client's cell is that small, and the thread that creates it serves everybody.
pub(super) const WORTH_CHECKING: u64 = 1 << 20;
/// Smaller memory has no use for a huge page.
const WORTH_HUGE_PAGES: u64 = 2 << 20;

/// What holders of the descriptor may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Others may only map it for reading.
    ReadOnly,
    /// Others may write its content, but not change its size.
    Writable,
}

/// Why memory could not be had or used.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The kernel has no memory of this size for us.
    #[error("cannot get {bytes} bytes of shared memory for {what}: {source}; {}", remedy(.source))]
    Allocate {
        /// What it is for.
        what: &'static str,
        /// Size.
        bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// The machine has not that much memory left.
    #[error(
        "{what} needs {bytes} bytes of memory, but only {available} are available: make the pool \
         smaller"
    )]
    Exceeds {
        /// What it is for.
        what: &'static str,
        /// Size.
        bytes: u64,
        /// What the machine could give.
        available: u64,
    },
    /// The memory cannot be locked.
    #[error(
        "cannot lock {bytes} bytes of {what} into memory: {source}; raise LimitMEMLOCK= (ulimit \
         -l) or set `lock_memory: false`"
    )]
    Lock {
        /// What it is for.
        what: &'static str,
        /// Size.
        bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// The kernel does not take note of this process's end.
    #[error("cannot start what tells clients of the daemon's end: {source}")]
    Life {
        /// The cause.
        source: io::Error,
    },
    /// A descriptor from elsewhere cannot be mapped.
    #[error("cannot map {what}: {source}")]
    Map {
        /// What it is for.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A descriptor from elsewhere could change under its mapping.
    #[error("{0} is not sealed as it must be")]
    NotSealed(&'static str),
    /// A descriptor from elsewhere is smaller than it must be.
    #[error("{what} has {len} bytes, {needed} are needed")]
    TooSmall {
        /// What it is for.
        what: &'static str,
        /// Size found.
        len: u64,
        /// Size needed.
        needed: u64,
    },
}

impl MemoryError {
    /// A pool whose size cannot be counted.
    pub const TOO_LARGE: Self = Self::Exceeds { what: "pool", bytes: u64::MAX, available: 0 };
}

/// What helps where memory cannot be had: it is a file, too, of which a process may have so many.
fn remedy(error: &io::Error) -> &'static str {
    descriptor_advice(error)
        .unwrap_or("make the pool smaller or raise the memory limit (MemoryMax=, container limit)")
}

/// A memfd and this process's mapping of it.
#[derive(Debug)]
pub struct SharedMemory {
    map: MmapRaw,
    fd: OwnedFd,
    locked: bool,
    huge_bytes: u64,
}

impl SharedMemory {
    /// Allocates `bytes` (rounded up to whole pages), touches every page, and seals. With `lock`,
    /// the pages are locked too. `what` names the memory in `/proc` and in errors.
    pub fn create(
        what: &'static str,
        bytes: u64,
        sharing: Sharing,
        lock: bool,
    ) -> Result<Self, MemoryError> {
        let fail = |source: io::Error| MemoryError::Allocate { what, bytes, source };
        let is_large = bytes >= WORTH_HUGE_PAGES;
        let reserved = is_large.then(|| reserved_huge_pages(bytes)).flatten();
        let reserved = reserved
            .and_then(|page_bytes| allocate(what, bytes, page_bytes, MemfdFlags::HUGETLB).ok());
        let (fd, map) = match reserved {
            Some(allocated) => allocated,
            None => {
                if bytes >= WORTH_CHECKING {
                    check_available(what, bytes)?;
                }
                allocate(what, bytes, page_size() as u64, MemfdFlags::empty()).map_err(fail)?
            }
        };
        if lock {
            map.lock().map_err(|source| MemoryError::Lock { what, bytes, source })?;
        }
        seal(&fd, sharing).map_err(|e| fail(e.into()))?;
        let huge_bytes = if is_large { huge_bytes(map.as_ptr().addr()) } else { 0 };
        Ok(Self { map, fd, locked: lock, huge_bytes })
    }

    /// Maps what another process has created: at least `needed` bytes, sealed so that it cannot
    /// shrink and, for reading only, cannot be written by whoever handed it out either, except
    /// through mappings that are older than the seal.
    pub fn open(
        what: &'static str,
        fd: OwnedFd,
        needed: u64,
        sharing: Sharing,
    ) -> Result<Self, MemoryError> {
        let fail = |source: io::Error| MemoryError::Map { what, source };
        let len = check_sealed(what, &fd, needed, sharing)?;
        let size = usize::try_from(len).map_err(|e| fail(io::Error::other(e)))?;
        let mut options = MmapOptions::new();
        options.len(size);
        let map = match sharing {
            Sharing::ReadOnly => options.map_raw_read_only(&fd),
            Sharing::Writable => options.map_raw(&fd),
        };
        Ok(Self { map: map.map_err(fail)?, fd, locked: false, huge_bytes: 0 })
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is mapped; never so.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Whether the pages are locked.
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// Bytes that lay in huge pages when the memory was created.
    pub fn huge_bytes(&self) -> u64 {
        self.huge_bytes
    }

    pub(super) fn ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

/// Refuses more than the machine has: the kernel would try, and kill other processes on the way.
pub(super) fn check_available(what: &'static str, bytes: u64) -> Result<(), MemoryError> {
    #[cfg(test)]
    tests::LOOKS.set(tests::LOOKS.get() + 1);
    match available_memory() {
        available if bytes > available => Err(MemoryError::Exceeds { what, bytes, available }),
        _ => Ok(()),
    }
}

/// Seals a memfd for good. A mapping for writing that is there already stays one.
pub(super) fn seal(fd: &OwnedFd, sharing: Sharing) -> Result<(), Errno> {
    let mut seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    if sharing == Sharing::ReadOnly {
        seals |= SealFlags::FUTURE_WRITE;
    }
    fcntl_add_seals(fd, seals)
}

/// Checks the size and the seals of a descriptor from elsewhere, and gives the size.
pub(super) fn check_sealed(
    what: &'static str,
    fd: &OwnedFd,
    needed: u64,
    sharing: Sharing,
) -> Result<u64, MemoryError> {
    let stat = fstat(fd).map_err(|e| MemoryError::Map { what, source: e.into() })?;
    let len = stat.st_size.cast_unsigned();
    if len < needed || len == 0 {
        return Err(MemoryError::TooSmall { what, len, needed });
    }
    let mut seals = SealFlags::SHRINK;
    if sharing == Sharing::ReadOnly {
        seals |= SealFlags::FUTURE_WRITE;
    }
    if !fcntl_get_seals(fd).is_ok_and(|found| found.contains(seals)) {
        return Err(MemoryError::NotSealed(what));
    }
    Ok(len)
}

/// A memfd of whole pages, all of them there, and its mapping.
fn allocate(
    what: &str,
    bytes: u64,
    page_bytes: u64,
    flags: MemfdFlags,
) -> io::Result<(OwnedFd, MmapRaw)> {
    let len = bytes.max(1).checked_next_multiple_of(page_bytes).ok_or(Errno::NOMEM)?;
    let size = usize::try_from(len).map_err(io::Error::other)?;
    let fd = memfd(what, flags)?;
    ftruncate(&fd, len)?;
    let map = MmapOptions::new().len(size).map_raw(&fd)?;
    if len >= WORTH_HUGE_PAGES {
        // Some kernels have no huge pages; then there are small ones.
        let _ = map.advise_range(Advice::HugePage, 0, whole_huge_pages(len) as usize);
    }
    // Pages come now or never: a page that is missing later would be a SIGBUS.
    match map.advise(Advice::PopulateWrite) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            fallocate(&fd, FallocateFlags::empty(), 0, len)?;
        }
        result => result?,
    }
    Ok((fd, map))
}

/// A memfd that can be sealed, and never executed where the kernel (6.3 and later) knows that.
pub(super) fn memfd(what: &str, flags: MemfdFlags) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
    match memfd_create(what, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(what, flags),
        result => result,
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{Errno, pwrite};
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsRawFd as _;

    thread_local! {
        /// How often this thread has asked how much memory is available.
        pub(super) static LOOKS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    fn duplicate(memory: &SharedMemory) -> OwnedFd {
        memory.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn small_memory_is_allocated_without_a_look_at_procfs() {
        let before = LOOKS.get();
        SharedMemory::create("test", 8192, Sharing::Writable, false).unwrap();
        assert_eq!(LOOKS.get(), before);
        SharedMemory::create("test", WORTH_CHECKING, Sharing::Writable, false).unwrap();
        assert_eq!(LOOKS.get(), before + 1);
    }

    #[test]
    fn sealed_memory_cannot_be_written_shrunk_grown_punched_reopened_or_unsealed() {
        let memory = SharedMemory::create("test", 8192, Sharing::ReadOnly, false).unwrap();
        let fd = duplicate(&memory);
        assert!(MmapOptions::new().len(4096).map_raw(&fd).is_err(), "mmap for writing");
        assert_eq!(pwrite(&fd, b"x", 0), Err(Errno::PERM));
        let file = File::from(duplicate(&memory));
        assert!(file.set_len(0).is_err(), "shrink");
        assert!(file.set_len(1 << 20).is_err(), "grow");
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(fallocate(&fd, punch, 0, 4096), Err(Errno::PERM));
        assert_eq!(fcntl_add_seals(&fd, SealFlags::WRITE), Err(Errno::PERM));
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let reopened = OpenOptions::new().read(true).write(true).open(path).unwrap();
        assert!(MmapOptions::new().len(4096).map_raw(&reopened).is_err(), "reopened for writing");
        assert_eq!(pwrite(&reopened, b"x", 0), Err(Errno::PERM));
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error_and_names_its_purpose() {
        let error = SharedMemory::create("the pool", 1 << 60, Sharing::ReadOnly, false);
        let error = error.unwrap_err();
        assert!(matches!(error, MemoryError::Exceeds { bytes: 0x1000_0000_0000_0000, .. }));
        assert!(error.to_string().starts_with("the pool needs 1152921504606846976 bytes"));
    }

    #[test]
    fn a_descriptor_that_is_too_small_is_refused() {
        let memory = SharedMemory::create("test", 10, Sharing::ReadOnly, false).unwrap();
        let small = SharedMemory::open("test", duplicate(&memory), 1 << 20, Sharing::ReadOnly);
        assert!(matches!(small, Err(MemoryError::TooSmall { needed: 1_048_576, .. })));
    }

    #[test]
    fn p11_where_descriptors_are_short_more_memory_is_not_advised() {
        let refused = |errno: Errno| {
            MemoryError::Allocate { what: "pool", bytes: 1, source: errno.into() }.to_string()
        };
        assert!(refused(Errno::MFILE).ends_with("raise LimitNOFILE= (ulimit -n)"));
        assert!(refused(Errno::NOMEM).contains("MemoryMax="));
    }
}
