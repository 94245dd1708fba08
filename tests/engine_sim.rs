//! The engine in a simulated world: thousands of random lives, each with its own faults, clients
//! that come, compute, die or write junk, and callers that repeat themselves or go away. After
//! every action the invariants of `faults` are checked; see `sim::check`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a simulation does not expect must stop the test"
)]

mod common;
mod sim;

use sim::{
    bundles::Content,
    coverage::Coverage,
    sequence::Sequence,
    wide::{Seen, Wide},
};
use std::{
    env, fs,
    rc::Rc,
    sync::{Mutex, PoisonError},
};

/// Lives, numbered from 0; the number is the seed.
const SEQUENCES: u64 = 10_000;
/// Tests of this program run one at a time: descriptors are counted for the whole process.
static TURN: Mutex<()> = Mutex::new(());
/// When this variable has a number, only that life is lived.
const ONE: &str = "SYNCHROMESH_SEED";

#[test]
#[allow(clippy::print_stdout, reason = "what was met is worth a look: cargo test -- --nocapture")]
fn ten_thousand_random_lives_keep_all_invariants() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let contents = [("alpha", 9, 3), ("beta", 16, 4), ("gamma", 28, 6)];
    let contents = contents.map(|(model, blocks, tasks)| Content::random(model, blocks, tasks));
    let contents = contents.map(Rc::new);
    let mut seen = Coverage::default();
    if let Ok(seed) = env::var(ONE) {
        return Sequence::run(seed.parse().unwrap(), &contents, &mut seen);
    }
    Sequence::run(0, &contents, &mut seen);
    let before = open_descriptors();
    (1..SEQUENCES).for_each(|seed| Sequence::run(seed, &contents, &mut seen));
    assert_eq!(open_descriptors(), before, "I6: no descriptor is left open");
    println!("{seen}");
    seen.assert_complete();
}

/// Lives of a model of many blocks.
const WIDE: u64 = 100;

#[test]
#[allow(clippy::print_stdout, reason = "what was met is worth a look: cargo test -- --nocapture")]
fn random_lives_of_a_wide_model_look_at_no_block_for_nothing_and_let_nothing_wait_in_vain() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let content = Rc::new(Content::random("wide", 1200, 4));
    if let Ok(seed) = env::var(ONE) {
        Wide::run(seed.parse().unwrap(), &content);
        return;
    }
    let mut seen = Seen::default();
    (0..WIDE).for_each(|seed| seen.add(Wide::run(seed, &content)));
    println!("{seen:?}");
    seen.assert_complete();
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
