//! A word in shared memory that the kernel marks when this process ends, however it ends.
//!
//! It is a robust futex (`man 2 set_robust_list`): a thread that does nothing else owns the word,
//! and when a thread ends, the kernel sets [`OWNER_DIED`] in the words of its robust list. So readers
//! in other processes learn of a killed daemon by one load. Nobody waits for the futex here.
//!
//! The list lies in shared memory. When the kernel kills a process for lack of memory, its OOM reaper
//! unmaps private memory at once, possibly before the thread ends and the kernel walks the list; it
//! leaves shared mappings alone.

use super::memory::{MemoryError, SharedMemory, Sharing};
use std::{
    ffi::c_long,
    io,
    mem::offset_of,
    ptr,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
};

/// Set in the word once its owner is gone (`FUTEX_OWNER_DIED`).
pub(super) const OWNER_DIED: u32 = 0x4000_0000;

/// Little is called in the thread.
const STACK_BYTES: usize = 64 << 10;

/// As long as it lives, the word says so.
#[derive(Debug)]
pub(super) struct Life {
    /// Dropped to end the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Holds the list that the kernel walks when the thread ends; dropped after the thread is joined.
    _list: SharedMemory,
}

/// A list of one futex, in the kernel's layout (`struct robust_list_head`, then the entry).
#[derive(Debug)]
#[repr(C)]
struct RobustList {
    first: *const Entry,
    futex_offset: c_long,
    pending: *const Entry,
    entry: Entry,
}

#[derive(Debug)]
#[repr(C)]
struct Entry {
    next: *const Entry,
}

/// What the kernel takes for the length of the list's head.
const HEAD_BYTES: usize = 3 * size_of::<usize>();

impl Life {
    /// Begins with this word.
    ///
    /// # Safety
    /// The word stays mapped at its address until the `Life` is dropped.
    #[expect(unsafe_code, reason = "the kernel writes to the word when the thread ends")]
    pub(super) unsafe fn begin(word: &AtomicU32) -> Result<Self, MemoryError> {
        let bytes = size_of::<RobustList>() as u64;
        let list = SharedMemory::create("life", bytes, Sharing::ReadOnly, false)?;
        let head = list.ptr().cast::<RobustList>();
        // SAFETY: the mapping is page-aligned and has room for the list, and nobody else has it yet.
        unsafe { head.write(RobustList::at(head, word)) };
        let head = head.addr();
        let (stop, stopped) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        let hold = move || {
            let _ = started.send(own_list(head));
            // Nothing is ever sent: this is the end of the sender.
            let _ = stopped.recv();
        };
        let failed = |source| MemoryError::Life { source };
        let builder = thread::Builder::new().name("life".into()).stack_size(STACK_BYTES);
        let thread = Some(builder.spawn(hold).map_err(failed)?);
        let life = Self { stop: Some(stop), thread, _list: list };
        let owner = start.recv().map_err(io::Error::other).and_then(|owner| owner);
        word.store(owner.map_err(failed)?, Ordering::Release);
        Ok(life)
    }
}

impl RobustList {
    /// The list of one word, to be written at this address.
    fn at(head: *mut Self, word: &AtomicU32) -> Self {
        let entry = head.wrapping_byte_add(offset_of!(Self, entry)).cast_const().cast::<Entry>();
        // The kernel finds the word at this distance from the entry.
        let distance = word.as_ptr().addr().wrapping_sub(entry.addr());
        Self {
            first: entry,
            futex_offset: distance.cast_signed() as c_long,
            pending: ptr::null(),
            // The last entry leads back to the head.
            entry: Entry { next: head.cast_const().cast() },
        }
    }
}

/// Makes the calling thread the owner of a list's futexes, and gives its number.
#[expect(unsafe_code, reason = "no crate at hand has this system call")]
fn own_list(head: usize) -> io::Result<u32> {
    // SAFETY: the kernel notes the address and reads it when the thread ends; `Life` keeps the list
    // there until it has joined the thread. The standard library's own list for this thread, which
    // this call replaces, is for robust mutexes, of which this thread has none.
    let result = unsafe { libc::syscall(libc::SYS_set_robust_list, head, HEAD_BYTES) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned())
}

impl Drop for Life {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an address lies in a shared mapping, by the kernel's account of this process.
    fn is_shared(address: usize) -> bool {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut mappings = maps.lines().map(|line| line.split_once(' ').unwrap());
        let holds = |range: &str| {
            let (from, to) = range.split_once('-').unwrap();
            let [from, to] = [from, to].map(|at| usize::from_str_radix(at, 16).unwrap());
            (from..to).contains(&address)
        };
        mappings.any(|(range, rest)| holds(range) && rest.as_bytes()[3] == b's')
    }

    #[test]
    #[expect(unsafe_code, reason = "the word is borrowed for longer than the life")]
    fn the_word_says_that_its_owner_lives_and_then_that_it_does_not() {
        let word = AtomicU32::new(0);
        // SAFETY: `word` is dropped after `life`.
        let life = unsafe { Life::begin(&word) }.unwrap();
        assert!(is_shared(life._list.ptr().addr()), "the OOM reaper leaves the list alone");
        let owner = word.load(Ordering::Acquire);
        assert!(owner != 0 && owner & OWNER_DIED == 0, "{owner:x}");
        drop(life);
        assert_eq!(word.load(Ordering::Acquire) & OWNER_DIED, OWNER_DIED);
    }
}
