//! Faults of all kinds at random, while tasks are switched, superseded and leased.

use crate::{
    rig::{Answer, Rig},
    sim::bundles::{Content, TASKS},
};
use std::{collections::BTreeSet, ops::Range, path::Path};
use synchromesh::{
    engine::{EngineError, SwitchReport},
    storage::Backend,
    units::TaskIndex,
};

const BLOCKS: u32 = 96;
const SEEDS: Range<u64> = 0..10;
/// Switches, or pairs of them, for each seed.
const STEPS: usize = 100;
/// Of a hundred reads, so many meet a fault.
const FAULTS: u32 = 20;

struct Walk {
    rig: Rig,
    rng: fastrand::Rng,
    /// The task that must be active.
    active: &'static str,
    /// How switches ended.
    ends: BTreeSet<&'static str>,
}

/// For each task a set of blocks; each block is in one or two.
fn sets(seed: u64) -> [Vec<u32>; TASKS.len()] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut sets = [const { Vec::new() }; TASKS.len()];
    for block in 0..BLOCKS {
        let [one, other] = [rng.usize(..TASKS.len()), rng.usize(..TASKS.len())];
        sets[one].push(block);
        if one != other {
            sets[other].push(block);
        }
    }
    sets
}

impl Walk {
    /// A pool that holds any two tasks, and not all of them.
    fn new(backend: Backend, seed: u64) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let content = Content::write_in(folder, "alpha", &sets(seed));
        let tasks = || (0..TASKS.len() as u32).map(TaskIndex);
        let pairs = tasks().flat_map(|one| tasks().map(move |other| [one, other]));
        let slots = pairs.map(|pair| content.union(pair).count_ones(..)).max().unwrap();
        assert!(slots < BLOCKS as usize, "something has to be evicted");
        let rig = Rig::with(backend, content, slots, 1);
        let active = TASKS[0];
        rig.load(active);
        Self { rig, rng: fastrand::Rng::with_seed(seed), active, ends: BTreeSet::new() }
    }

    fn step(&mut self) {
        self.rig.faults.random(self.rng.u64(..), FAULTS);
        if self.rng.u8(..4) == 0 {
            self.switch_twice();
        } else {
            self.switch_with_lease();
        }
        self.rig.assert_serves(self.active);
    }

    /// A client computes on the old task meanwhile.
    fn switch_with_lease(&mut self) {
        self.rig.client.lease();
        let task = self.task();
        let answer = self.rig.begin(task);
        self.rig.check();
        assert_ne!(self.end(answer, task), "superseded");
        self.rig.check();
        self.rig.client.step();
    }

    fn switch_twice(&mut self) {
        let [first, second] = [self.task(), self.task()];
        let early = self.rig.begin(first);
        self.rig.status();
        let late = self.rig.begin(second);
        self.end(early, first);
        assert_ne!(self.end(late, second), "superseded");
    }

    fn task(&mut self) -> &'static str {
        TASKS[self.rng.usize(..TASKS.len())]
    }

    /// Waits for an answer, which must be a right one. Reads are not held for longer than it takes
    /// to see that they are. Tells how the switch ended.
    fn end(&mut self, mut answer: Answer<SwitchReport>, task: &'static str) -> &'static str {
        let Self { rig, rng, .. } = self;
        let result = rig.until(async {
            loop {
                tokio::select! {
                    answer = &mut answer => return answer.expect("there is an answer"),
                    () = rig.faults.holding(1) => rig.faults.release(|held| rng.shuffle(held)),
                }
            }
        });
        let end = match result {
            Ok(_) => {
                self.active = task;
                "well"
            }
            Err(EngineError::Corrupt { task: lost }) => {
                assert_eq!(lost, task);
                "corrupt"
            }
            Err(EngineError::StorageUnavailable) => "unavailable",
            Err(EngineError::Superseded) => "superseded",
            Err(other) => panic!("{task}: {other}"),
        };
        self.ends.insert(end);
        end
    }
}

fn s1_to_s10_and_s19_at_random_show_nobody_a_wrong_byte(backend: Backend) {
    let mut ends = BTreeSet::new();
    for seed in SEEDS {
        let mut walk = Walk::new(backend, seed);
        (0..STEPS).for_each(|_| walk.step());
        ends.append(&mut walk.ends);
        walk.rig.finish();
    }
    assert_eq!(Vec::from_iter(ends), ["corrupt", "superseded", "unavailable", "well"]);
}

on_both_backends! {
    s1_to_s10_and_s19_at_random_show_nobody_a_wrong_byte,
}
