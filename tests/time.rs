//! Clocks that misbehave. The daemon lives by a monotonic clock alone, which stands still while the
//! machine is suspended: a deadline then has as much left as before. Names begin with the faults.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]
#![allow(clippy::single_range_in_vec_init, reason = "a range is a task's blocks")]

mod common;
mod sim;

use common::daemon::{Daemon, run};
use fastrand::Rng;
use sim::{
    bundles::Content,
    rig::{Fate, now, open},
    small::*,
};
use std::{
    fs::{self, File, FileTimes},
    path::Path,
    time::{Duration, SystemTime},
};
use synchromesh::{
    config::PrefetchConfig,
    engine::{Action, EngineError, Limits, Outcome},
};

const NANOSECOND: Duration = Duration::from_nanos(1);
const FORESEEING: Limits =
    Limits { prefetch: PrefetchConfig { enabled: true, waste_bytes_per_s: 1 << 20 }, ..LIMITS };

/// All sources.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found)
        } else {
            found.push(fs::read_to_string(path).unwrap())
        }
    }
}

#[test]
fn t2_nothing_is_decided_by_the_time_of_day() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 100, "the sources are found");
    // What people are told carries the time of day; nothing goes by it.
    let told = include_str!("../src/observe/wall.rs");
    assert!(found.iter().any(|text| text == told), "it has one place");
    for text in found.into_iter().filter(|text| text != told) {
        for clock in ["SystemTime", "REALTIME", "Realtime", "gettimeofday"] {
            assert!(!text.contains(clock), "{clock}, which can be set, in {}", &text[..80]);
        }
    }
}

#[test]
fn t1_t5_a_file_of_any_age_is_served_and_goes_on_being_served() {
    // Times of files are all that a daemon sees of the time of day: at a boot in 1970 they lie ahead.
    let content = Content::write("alpha", &[(0..4).collect(), (2..6).collect()]);
    let seconds = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let daemon = Daemon::start(&content.path, 1 << 20);
    let control = daemon.folder.path().join("control.sock");
    let switch = |task| run(&["switch", task, "--control", control.to_str().unwrap()]);
    for age in [seconds(0), seconds(4_102_444_800)] {
        let file = File::options().write(true).open(&content.path).unwrap();
        file.set_times(FileTimes::new().set_modified(age).set_accessed(age)).unwrap();
        assert!(switch("city").status.success(), "what is served goes on");
        assert!(switch("highway").status.success());
        let anew = Daemon::start(&content.path, 1 << 20);
        drop(anew);
    }
}

#[test]
fn t3_after_a_suspend_a_deadline_has_as_much_left_as_before() {
    let mut rig = rig(4, &[0..4]);
    let command = rig.command("", "city");
    let deadline = Some(rig.now() + Duration::from_secs(2));
    let mut answer = rig.switch(synchromesh::engine::SwitchCommand { deadline, ..command });
    rig.wait(Duration::from_millis(1900));
    // Suspended: however long, the clock does not move, and the timer comes when it comes.
    rig.apply(Action::Tick);
    assert!(open(&mut answer), "not late");
    rig.wait(Duration::from_millis(100));
    assert_eq!(now(answer), Err(EngineError::DeadlineExceeded));
}

#[test]
fn t4_a_clock_that_stands_still_or_goes_back_a_little_harms_nothing() {
    for seed in 0..100 {
        let mut rng = Rng::with_seed(seed);
        let mut rig = rig_with(8, &[0..4, 4..8, 8..12], FORESEEING);
        let mut answers = Vec::new();
        for _ in 0..60 {
            match rng.u8(..6) {
                0 => rig.clock.go_back(NANOSECOND),
                1 => rig.wait(Duration::ZERO),
                2 => rig.wait(Duration::from_millis(rng.u64(..100))),
                3 if !rig.reads.is_empty() => drop(rig.finish_read(0, Fate::Good, 0)),
                4 if !rig.verifies.is_empty() => drop(rig.finish_verify(0)),
                _ => {
                    let task = ["city", "highway", "parking"][rng.usize(..3)];
                    answers.push(switch(&mut rig, "", task));
                }
            }
        }
        rig.pass(Duration::from_secs(1));
        for answer in answers {
            let result = now(answer);
            let fair = matches!(result, Ok(_) | Err(EngineError::Superseded));
            assert!(fair, "{seed}: {result:?}");
        }
    }
}

#[test]
fn t6_ticks_in_storms_or_a_second_late_leave_every_caller_with_one_answer() {
    let mut rig = rig_with(12, &[0..4, 4..8, 8..12], FORESEEING);
    let second = Duration::from_secs(1);
    for turn in 0..50 {
        let task = ["city", "highway", "parking"][turn % 3];
        let command = rig.command("", task);
        let deadline = Some(rig.now() + second);
        let mut answer = rig.switch(synchromesh::engine::SwitchCommand { deadline, ..command });
        for _ in 0..200 {
            rig.apply(Action::Tick);
        }
        if turn % 2 == 0 && !rig.reads.is_empty() {
            assert!(open(&mut answer));
            // The timer comes a second after the deadline; the reads end later still.
            rig.wait(2 * second);
            assert_eq!(now(answer), Err(EngineError::DeadlineExceeded));
            rig.settle();
        } else {
            rig.settle();
            let report = now(answer).unwrap();
            assert!(report.outcome != Outcome::AlreadyActive || turn > 0);
        }
        rig.pass(second);
    }
}
