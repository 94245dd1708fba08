//! A word in shared memory that the kernel marks when this process ends, however it ends.
//!
//! It is a robust futex (`man 2 set_robust_list`): a thread that does nothing else owns the word,
//! and when a thread ends, the kernel sets [`OWNER_DIED`] in the words of its robust list. So readers
//! in other processes learn of a killed daemon by one load. Nobody waits for the futex here.
//!
//! The list lies in shared memory. When the kernel kills a process for lack of memory, it may take
//! the private memory (the heap, stacks) away before the threads end, and then finds no list there.
//! It takes no shared memory away.

use super::memory::allocate;
use memmap2::MmapRaw;
use rustix::{fs::MemfdFlags, param::page_size};
use std::{
    io,
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
    /// What the kernel walks when the thread ends; it stays mapped until the thread is joined.
    _list: RobustList,
}

/// A list of one futex, in the kernel's layout: `struct robust_list_head` (the address of the first
/// entry, the distance from an entry to its futex, the address of a pending entry), then the entry
/// (the address of the next one).
#[derive(Debug)]
struct RobustList(MmapRaw);

/// Words of the list.
const WORDS: usize = 4;
/// What the kernel takes for the length of the list's head.
const HEAD_BYTES: usize = 3 * size_of::<usize>();

impl Life {
    /// Begins with this word.
    ///
    /// # Safety
    /// The word stays mapped at its address until the `Life` is dropped.
    #[expect(unsafe_code, reason = "the kernel writes to the word when the thread ends")]
    pub(super) unsafe fn begin(word: &AtomicU32) -> io::Result<Self> {
        let list = RobustList::of(word)?;
        let head = list.address();
        let (stop, stopped) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        let hold = move || {
            let _ = started.send(own_list(head));
            // Nothing is ever sent: this is the end of the sender.
            let _ = stopped.recv();
        };
        let builder = thread::Builder::new().name("life".into()).stack_size(STACK_BYTES);
        let thread = Some(builder.spawn(hold)?);
        let life = Self { stop: Some(stop), thread, _list: list };
        let owner = start.recv().map_err(io::Error::other)??;
        word.store(owner, Ordering::Release);
        Ok(life)
    }
}

impl RobustList {
    fn of(word: &AtomicU32) -> io::Result<Self> {
        let bytes = size_of::<[usize; WORDS]>() as u64;
        // The mapping keeps the memory; the descriptor is closed here.
        let (_, map) = allocate("life", bytes, page_size() as u64, MemfdFlags::empty())?;
        let head = map.as_ptr().addr();
        let entry = head + HEAD_BYTES;
        // The kernel finds the word at this distance from the entry.
        let distance = word.as_ptr().addr().wrapping_sub(entry);
        // Nothing is pending. The last entry leads back to the head.
        let list: [usize; WORDS] = [entry, distance, 0, head];
        #[expect(unsafe_code, reason = "the list is written into the mapping")]
        // SAFETY: the mapping begins at a page and is a page long at least, is writable, and nobody
        // else knows of it yet.
        unsafe {
            map.as_mut_ptr().cast::<[usize; WORDS]>().write(list);
        }
        Ok(Self(map))
    }

    fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }
}

/// Makes the calling thread the owner of a list's futexes, and gives its number.
#[expect(unsafe_code, reason = "no crate at hand has this system call")]
fn own_list(head: usize) -> io::Result<u32> {
    // SAFETY: the kernel notes the address and reads it when the thread ends; `Life` keeps the list
    // mapped there until it has joined the thread. The standard library's own list for this thread, which
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

    #[test]
    #[expect(unsafe_code, reason = "the word is borrowed for longer than the life")]
    fn the_word_says_that_its_owner_lives_and_then_that_it_does_not() {
        let word = AtomicU32::new(0);
        // SAFETY: `word` is dropped after `life`.
        let life = unsafe { Life::begin(&word) }.unwrap();
        let owner = word.load(Ordering::Acquire);
        assert!(owner != 0 && owner & OWNER_DIED == 0, "{owner:x}");
        drop(life);
        assert_eq!(word.load(Ordering::Acquire) & OWNER_DIED, OWNER_DIED);
    }

    #[test]
    #[expect(unsafe_code, reason = "the word is borrowed for longer than the life")]
    fn the_list_lies_in_shared_memory_that_the_kernel_does_not_reap() {
        let word = AtomicU32::new(0);
        // SAFETY: `word` is dropped after `life`.
        let life = unsafe { Life::begin(&word) }.unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let holds_list = |line: &&str| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap());
            (start..end).contains(&life._list.address())
        };
        let line = maps.lines().find(holds_list).unwrap();
        assert!(line.split(' ').nth(1) == Some("rw-s") && line.contains("memfd:life"), "{line}");
    }
}
