//! A switch between resident tasks asks for no memory: it would be the one thing in it that can take
//! any time. (With a request id it does, to remember it; and for a task's first use.)

#![allow(clippy::unwrap_used, reason = "what a test does not expect must stop it")]
#![allow(clippy::single_range_in_vec_init, reason = "a range is a task's blocks")]

mod common;
mod sim;

use sim::{
    client::Phase,
    small::{attach, rig},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};
use synchromesh::engine::{Action, Command, Outcome};
use tokio::sync::oneshot;

/// Counts what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe by nature")]
// SAFETY: all is left to the system's allocator; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: as the caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller vouches.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_switch_between_resident_tasks_asks_for_no_memory() {
    let mut rig = rig(12, &[0..8, 4..12]);
    let mut client = attach(&mut rig, "");
    let mut counted = Vec::with_capacity(100);
    for turn in 0..20 {
        let task = ["city", "highway"][turn % 2];
        // What the caller brings, and where its answer goes, is the caller's.
        let (reply, mut answer) = oneshot::channel();
        let action = Action::Command(Command::Switch(rig.command("", task), reply));
        let before = ASKED.get();
        let effects = rig.engine.apply(action);
        counted.push(ASKED.get() - before);
        assert!(effects.is_empty() || turn < 2, "nothing is to be done");
        effects.into_iter().for_each(|effect| match effect {
            synchromesh::engine::Effect::Read(read) => rig.reads.push(read),
            synchromesh::engine::Effect::Verify(verify) => rig.verifies.push(verify),
        });
        rig.settle();
        // What is logged of it is told afterwards.
        rig.engine.events().for_each(drop);
        let report = answer.try_recv().unwrap().unwrap();
        assert!(turn < 2 || report.outcome == Outcome::Resident);
        // An old generation under lease is part of every day.
        if client.phase != Phase::Idle {
            client.step();
        }
        client.lease();
    }
    assert!(counted[0] > 0, "what is asked for is counted");
    assert_eq!(counted[6..], [0; 14]);
}
