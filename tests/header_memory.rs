//! A hostile header costs a small multiple of its own size, and its text reaches no message whole.

#![allow(clippy::unwrap_used, reason = "what a test does not expect must stop it")]

mod common;

use common::damage::framed;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};
use synchromesh::bundle::{Bundle, MAX_HEADER_TENSORS};

/// Counts the bytes in use, and their most.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is unsafe by nature")]
// SAFETY: all is left to the system's allocator; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(used, Relaxed);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of a long text.
const SIZE: usize = 12 << 20;

/// A header that describes so many tensors.
fn tensors(count: usize) -> String {
    let tensor = |at| format!(r#""{at}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    format!("{{{}}}", (0..count).map(tensor).collect::<Vec<_>>().join(","))
}

/// Headers with a type, a name and metadata that are one long text, and with many tensors.
fn hostile() -> [(&'static str, String); 5] {
    let long = "\\u001b[2J".repeat(SIZE / 9);
    [
        ("type", format!(r#"{{"a":{{"dtype":"{long}","shape":[1],"data_offsets":[0,1]}}}}"#)),
        ("name", format!(r#"{{"{long}":{{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}}}"#)),
        ("metadata", format!(r#"{{"__metadata__":{{"synchromesh":"{{\"{long}\":1}}"}}}}"#)),
        ("most tensors", tensors(MAX_HEADER_TENSORS)),
        ("more tensors", tensors(2 * MAX_HEADER_TENSORS)),
    ]
}

#[test]
fn b06_a_hostile_header_costs_a_small_multiple_of_its_size_and_its_message_is_short() {
    for (what, header) in hostile() {
        let file = framed(&header);
        let before = USED.load(Relaxed);
        MOST.store(before, Relaxed);
        let message = Bundle::parse(&file).unwrap_err().to_string();
        let times = (MOST.load(Relaxed) - before) as f64 / header.len() as f64;
        assert!(message.len() < 2_000, "{what}: a message of {} bytes", message.len());
        assert!(!message.contains(char::is_control), "{what}: {message}");
        assert!(times < 16.0, "{what}: {times:.1} times the header's size");
    }
}
