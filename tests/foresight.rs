//! What is loaded ahead of switches, and that it is never to anybody's harm. Names begin with the
//! faults that the tests are about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]

mod common;
mod sim;

use fastrand::Rng;
use sim::{
    bundles::{BLOCK_BYTES, TASKS},
    rig::{FAULTS, Fate, Rig, now, open, target},
    small::*,
};
use std::{ops::Range, time::Duration};
use synchromesh::{
    config::PrefetchConfig,
    engine::{
        Command, EngineError, Hint, HintCommand, HintReport, Limits, Outcome, PrefetchStatus,
        SwitchReport,
    },
    storage::Priority,
    units::BlockIndex,
};

const SECOND: Duration = Duration::from_secs(1);
/// Blocks a second that may be read in vain.
const WASTE: u64 = 50;
/// Three tasks that have nothing in common.
const APART: [Range<u32>; 3] = [0..4, 4..8, 8..12];

fn foreseeing(slots: usize, tasks: &[Range<u32>]) -> Rig {
    wasting(WASTE, slots, tasks)
}

fn wasting(waste: u64, slots: usize, tasks: &[Range<u32>]) -> Rig {
    let waste_bytes_per_s = waste * BLOCK_BYTES;
    let prefetch = PrefetchConfig { enabled: true, waste_bytes_per_s };
    rig_with(slots, tasks, Limits { prefetch, ..LIMITS })
}

fn prefetch(rig: &mut Rig) -> PrefetchStatus {
    rig.status().remove(0).prefetch
}

/// Switches after some time and completes everything.
fn later(rig: &mut Rig, time: Duration, task: &str) -> SwitchReport {
    rig.pass(time);
    rig.switched("", task)
}

fn hint(rig: &mut Rig, hints: &[(&str, f64)]) -> HintReport {
    let hint = |(task, probability): &(&str, f64)| Hint {
        task: (*task).into(),
        probability: *probability,
        starts_in: None,
        expires_in: None,
    };
    give(rig, hints.iter().map(hint).collect())
}

fn give(rig: &mut Rig, hints: Vec<Hint>) -> HintReport {
    let command = HintCommand { target: target(""), hints };
    now(rig.ask(|reply| Command::Hint(command, reply))).unwrap()
}

/// Lets time pass until something is read ahead.
fn until_read_ahead(rig: &mut Rig) {
    while rig.reads.is_empty() {
        rig.wait(Duration::from_millis(1));
    }
}

#[test]
fn what_is_likely_is_there_before_it_is_asked_for() {
    let mut rig = foreseeing(12, &APART);
    assert_eq!(rig.switched("", "city").outcome, Outcome::Loaded);
    let report = later(&mut rig, SECOND, "parking");
    assert_eq!((report.outcome, report.prefetched, report.read), (Outcome::Resident, 4, 0));
    let foreseen = report.foreseen.unwrap();
    assert!((foreseen.probability - 0.5).abs() < 0.1 && foreseen.rank <= 2, "{foreseen:?}");
    assert!(foreseen.lead > SECOND / 2 && foreseen.lead < SECOND, "{foreseen:?}");
    let status = prefetch(&mut rig);
    assert_eq!((status.switches, status.hits, status.read), (2, 1, 4));
    assert_eq!((status.loaded, status.used, status.waiting), (8, 4, 4));
    // What was used once was not loaded ahead the second time.
    let again = later(&mut rig, SECOND, "city");
    assert_eq!((again.outcome, again.prefetched), (Outcome::Resident, 0));
}

#[test]
fn a_round_is_learnt_that_age_alone_would_always_miss() {
    let mut rig = foreseeing(8, &APART);
    for turn in 0..30 {
        let report = later(&mut rig, 10 * SECOND, ["city", "highway", "parking"][turn % 3]);
        assert!(turn < 9 || report.outcome == Outcome::Resident, "turn {turn}: {report:?}");
    }
    let status = prefetch(&mut rig);
    assert!(status.used > 80 && status.wasted <= 12, "{status:?}");
}

#[test]
fn when_memory_is_short_what_comes_first_has_the_room_first() {
    let mut rig = foreseeing(8, &APART);
    let mut rng = Rng::with_seed(3);
    for _ in 0..60 {
        // After a second highway, in one case of three; else, after a minute, parking.
        later(&mut rig, SECOND, "city");
        match rng.u8(..3) {
            0 => drop(later(&mut rig, SECOND, "highway")),
            _ => drop(later(&mut rig, 60 * SECOND, "parking")),
        }
    }
    later(&mut rig, SECOND, "city");
    let client = attach(&mut rig, "");
    rig.pass(SECOND / 2);
    assert_eq!(session(&mut rig, "default").likely[0].task, "parking", "it is likelier");
    assert_eq!(resident(&client, 4..8).len(), 4, "but comes later");
    rig.pass(10 * SECOND);
    assert_eq!(resident(&client, 8..12).len(), 4, "the time of the other is over");
}

#[test]
fn blocks_that_several_likely_tasks_need_come_first() {
    // Highway and parking share two blocks, which follow their own on disk.
    let mut rig = foreseeing(7, &[0..4, 4..8, 6..10]);
    rig.switched("", "city");
    hint(&mut rig, &[("highway", 0.5), ("parking", 0.5)]);
    rig.asked.clear();
    rig.pass(SECOND);
    let asked: Vec<_> = rig.asked.iter().map(|(_, block)| block.0).collect();
    assert_eq!(asked[..2], [6, 7]);
    assert_eq!(asked.len(), 3, "there is no more room");
}

#[test]
fn hints_overrule_what_was_learnt_while_they_last() {
    let mut rig = foreseeing(8, &APART);
    for turn in 0..20 {
        later(&mut rig, 10 * SECOND, ["city", "highway"][turn % 2]);
    }
    let client = attach(&mut rig, "");
    assert_eq!(hint(&mut rig, &[("parking", 0.9)]), HintReport { accepted: 1, ignored: 0 });
    rig.pass(SECOND);
    assert_eq!(resident(&client, 8..12).len(), 4, "it takes the place of what is less likely");
    let likely = session(&mut rig, "default").likely;
    assert_eq!((&*likely[0].task, likely[0].probability), ("parking", 0.9));
    rig.pass(61 * SECOND);
    let likely = session(&mut rig, "default").likely;
    assert_eq!(likely[0].task, "city", "the hint is over");
    hint(&mut rig, &[("parking", 0.9)]);
    later(&mut rig, SECOND, "parking");
    rig.pass(SECOND);
    assert!(session(&mut rig, "default").likely[0].probability < 0.9, "it has come true");
}

#[test]
fn a_block_on_its_way_when_it_is_needed_is_late_and_waited_for() {
    let mut rig = foreseeing(12, &APART);
    rig.switched("", "city");
    hint(&mut rig, &[("parking", 1.0)]);
    until_read_ahead(&mut rig);
    let answer = switch(&mut rig, "", "parking");
    assert_eq!(rig.reads.len(), 1, "it is not read twice");
    rig.settle();
    let report = now(answer).unwrap();
    assert_eq!((report.outcome, report.read, report.prefetched), (Outcome::Loaded, 4, 0));
    assert_eq!(prefetch(&mut rig).late, 4);
}

#[test]
fn what_is_there_in_part_is_told_apart() {
    let mut rig = foreseeing(16, &[0..4, 4..16]);
    rig.switched("", "city");
    hint(&mut rig, &[("highway", 1.0)]);
    while prefetch(&mut rig).waiting < 4 {
        rig.wait(Duration::from_millis(1));
        if !rig.verifies.is_empty() {
            rig.finish_verify(0);
        } else if !rig.reads.is_empty() {
            rig.finish_read(0, Fate::Good, 0);
        }
    }
    let answer = switch(&mut rig, "", "highway");
    rig.settle();
    let report = now(answer).unwrap();
    assert_eq!((report.outcome, report.prefetched), (Outcome::PartlyPrefetched, 4));
    assert_eq!(report.read + report.reused, 12);
}

#[test]
fn sessions_have_their_own_forecasts_and_one_plan() {
    let mut rig = foreseeing(16, &[0..4, 4..8, 8..12, 12..16]);
    rig.open("rear");
    for turn in 0..20 {
        later(&mut rig, SECOND, ["city", "highway"][turn % 2]);
        rig.switched("rear", ["parking", "tunnel"][turn % 2]);
    }
    rig.pass(SECOND);
    let first = |rig: &mut Rig, name| session(rig, name).likely[0].task.clone();
    assert_eq!(first(&mut rig, "default"), "city");
    assert_eq!(first(&mut rig, "rear"), "parking");
    rig.close("rear").unwrap();
    rig.open("rear");
    rig.switched("rear", "parking");
    rig.pass(SECOND);
    assert_eq!(first(&mut rig, "rear"), "tunnel", "a session goes on where one of its name was");
}

#[test]
fn a_prepared_task_is_there_and_held_until_its_time_is_over() {
    let mut rig = foreseeing(8, &APART);
    rig.switched("", "city");
    let mut answer = prepare(&mut rig, "parking", 10 * SECOND);
    assert!(open(&mut answer));
    rig.pass(Duration::from_millis(5));
    let report = now(answer).unwrap();
    assert_eq!((report.needed, report.reused), (4, 0));
    let client = attach(&mut rig, "");
    hint(&mut rig, &[("highway", 1.0)]);
    rig.pass(5 * SECOND);
    assert_eq!(resident(&client, 8..12).len(), 4, "it is held");
    assert_eq!(prefetch(&mut rig).prepared, 1);
    rig.pass(6 * SECOND);
    assert_eq!(prefetch(&mut rig).prepared, 0);
    assert_eq!(resident(&client, 4..8).len(), 4, "its room is free for others");
    assert_eq!(now(prepare(&mut rig, "city", SECOND)).unwrap().reused, 4, "at once");
    let unknown = now(prepare(&mut rig, "tunnel", SECOND));
    assert!(matches!(unknown, Err(EngineError::UnknownTask { .. })), "{unknown:?}");
}

#[test]
fn q10_a_switch_takes_the_room_of_what_is_prepared() {
    let mut rig = foreseeing(8, &APART);
    rig.switched("", "city");
    let held = prepare(&mut rig, "parking", 3600 * SECOND);
    rig.pass(SECOND);
    now(held).unwrap();
    let full = now(prepare(&mut rig, "highway", SECOND));
    assert!(matches!(full, Err(EngineError::NoRoom { .. })), "{full:?}");
    assert_eq!(rig.switched("", "highway").outcome, Outcome::Loaded);
    assert_eq!(prefetch(&mut rig).prepared, 0);
}

#[test]
fn what_is_prepared_gives_way_while_it_is_loaded() {
    let mut rig = foreseeing(8, &APART);
    rig.switched("", "city");
    let waiting = prepare(&mut rig, "parking", SECOND);
    rig.wait(Duration::ZERO);
    let switched = switch(&mut rig, "", "highway");
    rig.settle();
    assert!(now(waiting).is_ok(), "it was there, for a moment");
    assert_eq!(now(switched).unwrap().needed, 4);
}

#[test]
fn q1_a_forecast_that_is_always_wrong_costs_no_switch_more_than_a_cold_one() {
    let mut rig = foreseeing(8, &APART);
    let mut rng = Rng::with_seed(1);
    let names = ["city", "highway", "parking"];
    rig.switched("", "city");
    for _ in 0..300 {
        rig.pass(Duration::from_millis(rng.u64(1..3000)));
        let status = session(&mut rig, "default");
        // The one that is held to be least likely.
        let worst = status.likely.last().map_or("highway", |next| &next.task);
        let worst = names.iter().find(|name| **name == worst).unwrap();
        assert!(rig.reads.len() <= 1, "one request ahead at most");
        let report = rig.switched("", worst);
        assert!(report.read <= 4, "no more than a cold switch: {report:?}");
    }
    let status = prefetch(&mut rig);
    assert!(status.hits < 250, "the forecasts are wrong often enough: {status:?}");
}

#[test]
fn q2_what_is_read_in_vain_is_bounded_by_the_budget() {
    let waste = 2;
    let mut rig = wasting(waste, 8, &[0..4, 2..6, 4..8, 6..10, 8..12, 10..14]);
    let mut rng = Rng::with_seed(2);
    let (begun, mut met) = (rig.now(), 0);
    for _ in 0..500 {
        rig.pass(Duration::from_millis(rng.u64(1..300)));
        rig.switched("", TASKS[rng.usize(..6)]);
        let PrefetchStatus { loaded, used, late, budget_bytes, .. } = prefetch(&mut rig);
        let allowed = waste as f64 * (8.0 + (rig.now() - begun).as_secs_f64());
        assert!((loaded - used - late) as f64 <= allowed, "{loaded}, {used}, {late}: {allowed}");
        met += usize::from(budget_bytes < 4 * BLOCK_BYTES);
    }
    assert!(met > 100, "the bound is met: {met}");
}

#[test]
fn q2_when_nothing_changes_nothing_is_exchanged() {
    let mut rig = foreseeing(8, &APART);
    for task in ["city", "highway", "city", "parking", "city"] {
        later(&mut rig, SECOND, task);
    }
    rig.pass(60 * SECOND);
    let before = prefetch(&mut rig).loaded;
    rig.pass(24 * 3600 * SECOND);
    assert!(prefetch(&mut rig).loaded <= before + 4, "what was early may still come");
}

#[test]
fn q3_q6_hints_that_cannot_be_are_ignored_and_counted() {
    let mut rig = foreseeing(12, &APART);
    rig.switched("", "city");
    let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5, 0.0, 1.5];
    let bad: Vec<_> = bad.iter().map(|probability| ("parking", *probability)).collect();
    assert_eq!(hint(&mut rig, &bad), HintReport { accepted: 0, ignored: 6 });
    let mixed = [("highway", 0.1), ("tunnel", 0.5), ("parking", 0.7), ("parking", 0.2)];
    assert_eq!(hint(&mut rig, &mixed), HintReport { accepted: 2, ignored: 2 }, "in any order");
    rig.pass(Duration::from_millis(10));
    assert_eq!(session(&mut rig, "default").likely[0].probability, 0.7);
    let late = Hint {
        task: "parking".into(),
        probability: 0.5,
        starts_in: Some(Duration::MAX),
        expires_in: Some(Duration::ZERO),
    };
    assert_eq!(give(&mut rig, vec![late]).ignored, 1);
    assert_eq!(prefetch(&mut rig).ignored_hints, 9);
    let many: Vec<_> = (0..1_000_000).map(|_| ("highway", 0.5)).collect();
    assert_eq!(hint(&mut rig, &many), HintReport { accepted: 1, ignored: 999_999 });
    assert_eq!(hint(&mut rig, &[]), HintReport::default(), "none are left");
}

#[test]
fn q4_blocks_that_cannot_be_read_ahead_are_left_alone_and_nobody_notices() {
    for fate in FAULTS {
        let mut rig = foreseeing(12, &APART);
        rig.broken.insert((0, BlockIndex(9)), fate);
        rig.switched("", "city");
        rig.pass(600 * SECOND);
        let bad = rig.asked.iter().filter(|(_, block)| block.0 == 9).count();
        assert_eq!(bad, 2, "read once more, then left alone: {fate:?}");
        let status = rig.status().remove(0);
        assert_eq!((status.quarantined, status.prefetch.waiting), (1, 7), "{fate:?}");
        assert_eq!(rig.switched("", "highway").outcome, Outcome::Resident);
        let answer = switch(&mut rig, "", "parking");
        rig.settle();
        assert_eq!(now(answer), Err(corrupt("parking")), "who needs it is told");
        // Restored, it is loaded by who needs it.
        rig.broken.clear();
        assert_eq!(rig.switched("", "parking").read, 1);
    }
}

#[test]
fn q5_a_demand_meets_one_request_at_most_and_no_other_follows() {
    let mut rig = foreseeing(64, &[0..4, 4..40, 40..64]);
    rig.switched("", "city");
    hint(&mut rig, &[("highway", 1.0)]);
    until_read_ahead(&mut rig);
    let answer = switch(&mut rig, "", "parking");
    let ahead = |rig: &Rig| rig.reads.iter().filter(|r| r.priority == Priority::Ahead).count();
    assert_eq!(ahead(&rig), 1);
    // The demand goes on while the one ahead hangs, and nothing else is read ahead meanwhile.
    while rig.reads.len() > 1 {
        rig.finish_read(1, Fate::Good, 0);
        while !rig.verifies.is_empty() {
            rig.finish_verify(0);
        }
        rig.wait(Duration::from_millis(1));
        assert_eq!(ahead(&rig), 1);
    }
    assert_eq!(now(answer).unwrap().outcome, Outcome::Loaded);
}

#[test]
fn q7_when_looking_ahead_takes_too_long_it_rests_and_switches_go_on() {
    let mut rig = foreseeing(12, &APART);
    rig.switched("", "city");
    rig.clock.slow_down(Duration::from_millis(60));
    rig.wait(Duration::from_millis(5));
    rig.clock.slow_down(Duration::ZERO);
    let loaded = prefetch(&mut rig).loaded;
    rig.pass(5 * SECOND);
    assert!(prefetch(&mut rig).loaded <= loaded.max(4), "it rests");
    assert_eq!(rig.switched("", "highway").needed, 4);
    rig.pass(60 * SECOND);
    assert!(prefetch(&mut rig).loaded > loaded, "and tries again");
}

/// Random lives with everything at once: sessions, hints, preparations, bad blocks, reads that end
/// in any order. The rig checks all invariants after every action, among them that what is active
/// stays.
#[test]
fn q9_nothing_that_is_active_goes_whatever_is_foreseen() {
    let names = ["city", "highway", "parking", "tunnel"];
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        // Any two tasks fit together, so no switch of one session may ever be refused.
        let mut rig = foreseeing(12 + rng.usize(..4), &[0..6, 4..10, 8..14, 12..16]);
        let mut answers = Vec::new();
        for _ in 0..100 {
            let task = names[rng.usize(..4)];
            match rng.u8(..10) {
                0..3 => answers.push(switch(&mut rig, "", task)),
                3 => drop(hint(&mut rig, &[(task, rng.f64()), ("tunnel", 0.3)])),
                4 => drop(prepare(&mut rig, task, SECOND * rng.u32(..5))),
                5 => rig.wait(Duration::from_millis(rng.u64(..2000))),
                _ if !rig.verifies.is_empty() => drop(rig.finish_verify(0)),
                _ if !rig.reads.is_empty() => {
                    let fate = if rng.u8(..20) == 0 { Fate::Flipped } else { Fate::Good };
                    drop(rig.finish_read(rng.usize(..rig.reads.len()), fate, 0));
                }
                _ => rig.wait(Duration::from_millis(1)),
            }
        }
        rig.pass(SECOND);
        for answer in answers {
            let result = now(answer);
            assert!(!matches!(result, Err(EngineError::NoRoom { .. })), "{seed}: {result:?}");
        }
    }
}

#[test]
fn a_switch_that_waits_for_room_waits_for_one_request_ahead_and_no_other() {
    // Room for both tasks, if nothing else is loaded ahead meanwhile.
    let mut rig = foreseeing(11, &[0..5, 5..11, 11..21]);
    rig.switched("", "city");
    hint(&mut rig, &[("parking", 1.0)]);
    until_read_ahead(&mut rig);
    let mut answer = switch(&mut rig, "", "highway");
    assert!(open(&mut answer), "its room is taken for the moment");
    rig.finish_read(0, Fate::Good, 0);
    rig.wait(Duration::from_millis(5));
    assert!(rig.reads.is_empty(), "nothing more is read ahead");
    rig.settle();
    assert_eq!(now(answer).unwrap().needed, 6);
}

#[test]
fn q4_a_prepared_block_that_cannot_be_read_is_told_and_holds_up_no_other() {
    let mut rig = foreseeing(12, &APART);
    rig.broken.insert((0, BlockIndex(9)), Fate::Flipped);
    rig.switched("", "city");
    rig.pass(SECOND);
    let bad = prepare(&mut rig, "parking", SECOND);
    let good = prepare(&mut rig, "highway", SECOND);
    rig.pass(SECOND);
    assert!(matches!(now(bad), Err(EngineError::Corrupt { .. })));
    assert_eq!(now(good).unwrap().needed, 4);
    rig.broken.clear();
    let restored = prepare(&mut rig, "parking", SECOND);
    rig.pass(SECOND);
    assert!(now(restored).is_ok(), "it is tried again");
}

#[test]
fn room_is_promised_to_one_preparation_only() {
    let mut rig = foreseeing(8, &APART);
    rig.switched("", "city");
    let first = prepare(&mut rig, "parking", SECOND);
    let second = now(prepare(&mut rig, "highway", SECOND));
    assert!(matches!(second, Err(EngineError::NoRoom { .. })), "{second:?}");
    rig.pass(SECOND / 2);
    assert!(now(first).is_ok());
}

#[test]
fn a_preparation_meanwhile_does_not_make_the_plan_skip_anything() {
    let mut rig = foreseeing(40, &[0..4, 4..20, 20..36]);
    rig.switched("", "city");
    hint(&mut rig, &[("highway", 1.0)]);
    until_read_ahead(&mut rig);
    let prepared = prepare(&mut rig, "parking", 600 * SECOND);
    rig.pass(SECOND / 4);
    assert!(now(prepared).is_ok());
    let client = attach(&mut rig, "");
    assert_eq!(resident(&client, 4..20).len(), 16);
}

#[test]
fn a_preparation_without_room_goes_on_when_a_closed_session_makes_room() {
    let mut rig = rig(8, &APART);
    rig.open("rear");
    rig.switched("", "city");
    let mut prepared = prepare(&mut rig, "parking", SECOND);
    rig.switched("rear", "highway");
    rig.pass(SECOND);
    assert!(open(&mut prepared), "the switch took its room");
    rig.close("rear").unwrap();
    rig.pass(SECOND);
    assert_eq!(now(prepared).unwrap().needed, 4);
}

#[test]
fn a_preparation_goes_on_when_the_switch_that_it_waits_for_is_closed() {
    let mut rig = rig(9, &[0..4, 4..8, 8..12, 12..13]);
    rig.open("rear");
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    let _waiting = switch(&mut rig, "rear", "parking");
    let mut prepared = prepare(&mut rig, "tunnel", SECOND);
    rig.pass(SECOND);
    assert!(open(&mut prepared), "switches come first");
    rig.close("rear").unwrap();
    detach(&mut rig, &client);
    rig.pass(SECOND);
    assert_eq!(now(prepared).unwrap().needed, 1);
}
