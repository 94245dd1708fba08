//! The roster: which sessions a daemon had open, for the one that is started after it. Clients never
//! see it; of what it says, its reader believes nothing.
//!
//! ```text
//! offset  bytes  content (little endian)
//!      0      8  magic "SMROST01"
//!      8     16  bundle id
//!     24     72  the model's name: u64 length, then 64 bytes
//!     96     72  for each of 64 places, its session's name: u64 length, 0 for none, then 64 bytes
//! ```
//!
//! A name's length is stored last, so a daemon that is killed on the way leaves no half a name.

use super::{
    memory::{MemoryError, SharedMemory, Sharing},
    table::{MAX_SESSIONS, SessionEntry},
};
use crate::bundle::{BundleId, MAX_NAME_LEN};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

const WORD: usize = size_of::<u64>();
const MAGIC: u64 = u64::from_le_bytes(*b"SMROST01");
/// Words of a name: its length, then its bytes.
const NAME: usize = 1 + MAX_NAME_LEN / WORD;
const MODEL: usize = 3;
const SESSIONS: usize = MODEL + NAME;
const WORDS: usize = SESSIONS + MAX_SESSIONS * NAME;
const _: () = assert!(SESSIONS * WORD == 96, "the documented offset");

/// The sessions of a model by their places in the table.
#[derive(Debug)]
pub struct Roster {
    memory: SharedMemory,
}

impl Roster {
    /// A roster without sessions.
    pub fn create(id: BundleId, model: &str) -> Result<Self, MemoryError> {
        let bytes = (WORDS * WORD) as u64;
        let memory = SharedMemory::create("roster", bytes, Sharing::ReadOnly, false)?;
        let roster = Self { memory };
        let (low, high) = halves(id);
        roster.word(1).store(low, Ordering::Relaxed);
        roster.word(2).store(high, Ordering::Relaxed);
        roster.store_name(MODEL, model);
        roster.word(0).store(MAGIC, Ordering::Release);
        Ok(roster)
    }

    /// Maps what may be a roster; `None` if it is of another kind or version.
    pub fn open(fd: OwnedFd) -> Result<Option<Self>, MemoryError> {
        let bytes = (WORDS * WORD) as u64;
        let memory = SharedMemory::open("the roster", fd, bytes, Sharing::ReadOnly)?;
        let roster = Self { memory };
        Ok((roster.word(0).load(Ordering::Acquire) == MAGIC).then_some(roster))
    }

    /// Notes which session is at a place; `None` if there is none any more. Only who has created the
    /// roster may do so.
    pub fn note(&self, entry: SessionEntry, session: Option<&str>) {
        self.store_name(place(entry), session.unwrap_or_default());
    }

    /// The bundle that is served.
    pub fn bundle_id(&self) -> BundleId {
        let [low, high] = [1, 2].map(|at| self.word(at).load(Ordering::Relaxed).to_le_bytes());
        let mut id = [0; 16];
        id[..WORD].copy_from_slice(&low);
        id[WORD..].copy_from_slice(&high);
        BundleId(id)
    }

    /// The session at a place, if there is one.
    pub fn session(&self, entry: SessionEntry) -> Option<String> {
        self.load_name(place(entry))
    }

    /// Longer names do not come here: they would be no names.
    fn store_name(&self, at: usize, name: &str) {
        let len = name.len().min(MAX_NAME_LEN);
        self.word(at).store(0, Ordering::Release);
        for (word, bytes) in (at + 1..).zip(name.as_bytes()[..len].chunks(WORD)) {
            let mut padded = [0; WORD];
            padded[..bytes.len()].copy_from_slice(bytes);
            self.word(word).store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.word(at).store(len as u64, Ordering::Release);
    }

    fn load_name(&self, at: usize) -> Option<String> {
        let len = usize::try_from(self.word(at).load(Ordering::Acquire)).ok()?;
        if len == 0 || len > MAX_NAME_LEN {
            return None;
        }
        let words = (at + 1..at + NAME).map(|word| self.word(word).load(Ordering::Relaxed));
        let bytes = words.flat_map(u64::to_le_bytes).take(len).collect();
        String::from_utf8(bytes).ok()
    }

    #[expect(unsafe_code, reason = "the roster lies in memory that is mapped, not borrowed")]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < WORDS, "a word of the roster");
        // SAFETY: the mapping has `WORDS` words (both constructors).
        let word = unsafe { self.memory.ptr().add(at * WORD) };
        // SAFETY: the mapping is page-aligned, so the word is 8-aligned; it cannot be cut off
        // (sealed), lives as long as `self`, and is only accessed so.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }
}

impl AsFd for Roster {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn place(entry: SessionEntry) -> usize {
    SESSIONS + entry.number() as usize * NAME
}

fn halves(id: BundleId) -> (u64, u64) {
    let half = |from: usize| std::array::from_fn(|at| id.0[from + at]);
    (u64::from_le_bytes(half(0)), u64::from_le_bytes(half(WORD)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duplicate(fd: &impl AsFd) -> OwnedFd {
        fd.as_fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn what_is_noted_is_read_and_what_is_taken_back_is_not() {
        let id = BundleId(std::array::from_fn(|at| at as u8));
        let written = Roster::create(id, "model").unwrap();
        let read = Roster::open(duplicate(&written)).unwrap().unwrap();
        assert_eq!((read.bundle_id(), read.load_name(MODEL).as_deref()), (id, Some("model")));
        let places = [0, 63].map(|place| SessionEntry::new(place).unwrap());
        let longest = "x".repeat(MAX_NAME_LEN);
        for (place, name) in places.into_iter().zip(["rear", &longest]) {
            assert_eq!(read.session(place), None);
            written.note(place, Some(name));
            assert_eq!(read.session(place).as_deref(), Some(name));
        }
        written.note(places[1], Some("y"));
        assert_eq!(read.session(places[1]).as_deref(), Some("y"), "nothing of the longer one");
        written.note(places[0], None);
        assert_eq!(read.session(places[0]), None);
    }

    #[test]
    fn memory_that_is_no_roster_is_refused_and_hostile_lengths_are_no_names() {
        let other = SharedMemory::create("other", 8192, Sharing::ReadOnly, false).unwrap();
        assert!(Roster::open(duplicate(&other)).unwrap().is_none());
        let small = SharedMemory::create("small", 64, Sharing::ReadOnly, false).unwrap();
        // One page has room for no roster where pages are small.
        assert!(Roster::open(duplicate(&small)).is_err() || rustix::param::page_size() > 4096);
        let unsealed = SharedMemory::create("unsealed", 8192, Sharing::Writable, false).unwrap();
        assert!(Roster::open(duplicate(&unsealed)).is_err());

        let roster = Roster::create(BundleId([1; 16]), "model").unwrap();
        let entry = SessionEntry::new(5).unwrap();
        for len in [65, u64::MAX] {
            roster.word(place(entry)).store(len, Ordering::Relaxed);
            assert_eq!(roster.session(entry), None);
        }
        roster.word(place(entry)).store(8, Ordering::Relaxed);
        roster.word(place(entry) + 1).store(u64::MAX, Ordering::Relaxed);
        assert_eq!(roster.session(entry), None, "no text");
    }
}
