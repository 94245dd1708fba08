//! What the engine tells of what happens, and what a model looks like. One kind of event a test;
//! names begin with the faults that they are about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]
#![allow(clippy::single_range_in_vec_init, reason = "a range is a task's blocks")]

mod common;
mod sim;

use sim::{
    rig::{Fate, PEER, Rig, now, target},
    small::*,
};
use std::time::Duration;
use synchromesh::{
    config::PrefetchConfig,
    engine::{
        Cell, CellState, Command, EngineError, EventKind, Limits, Picture, SwitchCommand,
        SwitchEnd, TraceContext,
    },
    units::{BlockIndex, Generation, TaskIndex},
};

const CITY: TaskIndex = TaskIndex(0);
const HIGHWAY: TaskIndex = TaskIndex(1);
const PATIENCE: Duration = Duration::from_secs(2);

/// What has happened since this was asked last.
fn events(rig: &mut Rig) -> Vec<EventKind> {
    std::mem::take(&mut rig.events)
}

/// The switch that has ended since, which is all that has happened.
fn switch_end(rig: &mut Rig) -> SwitchEnd {
    match &events(rig)[..] {
        [EventKind::Switch(end)] => end.clone(),
        other => panic!("one switch has ended: {other:?}"),
    }
}

fn picture(rig: &mut Rig) -> Picture {
    now(rig.ask(|reply| Command::Picture { model: String::new(), reply })).unwrap()
}

#[test]
fn a_switch_is_told_with_what_its_caller_was_told() {
    let mut rig = rig(8, &[0..4, 2..6]);
    let trace = Some(TraceContext { trace_id: 7, span_id: 8, sampled: true });
    let answer = rig.switch(SwitchCommand { trace, ..with_id(&rig, "city", "first") });
    assert_eq!(events(&mut rig).len(), 0, "it has not ended yet");
    rig.settle();
    let end = switch_end(&mut rig);
    assert_eq!((&*end.session, end.from, end.task), ("default", None, CITY));
    assert_eq!((end.request_id.as_deref(), end.trace), (Some("first"), trace));
    assert_eq!(end.result, now(answer));
    let report = rig.switched("", "highway");
    let end = switch_end(&mut rig);
    assert_eq!((end.from, end.task), (Some(CITY), HIGHWAY));
    assert_eq!((end.request_id, end.trace, end.result), (None, None, Ok(report)));
}

#[test]
fn a_switch_that_fails_is_told_with_the_task_that_stays() {
    let mut rig = rig(8, &[0..4, 2..6]);
    rig.switched("", "city");
    events(&mut rig);
    rig.broken.insert((0, BlockIndex(5)), Fate::Flipped);
    let answer = switch(&mut rig, "", "highway");
    rig.settle();
    assert_eq!(now(answer), Err(corrupt("highway")));
    let told = events(&mut rig);
    let [EventKind::Quarantined(block), EventKind::Switch(end)] = &told[..] else {
        panic!("the block and the switch: {told:?}");
    };
    assert_eq!(*block, BlockIndex(5));
    assert_eq!((end.from, end.task), (Some(CITY), HIGHWAY));
    assert_eq!(end.result, Err(corrupt("highway")));
}

#[test]
fn a_switch_that_never_began_is_not_told() {
    let mut rig = rig(4, &[0..4]);
    assert!(now(switch(&mut rig, "", "sea")).is_err());
    assert!(now(switch(&mut rig, "other", "city")).is_err());
    assert_eq!(events(&mut rig).len(), 0);
}

#[test]
fn r3_of_two_switches_both_ends_are_told_in_their_order() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let _first = switch(&mut rig, "", "city");
    let _second = switch(&mut rig, "", "highway");
    rig.settle();
    let told = events(&mut rig);
    let [EventKind::Switch(first), EventKind::Switch(second)] = &told[..] else {
        panic!("two switches: {told:?}");
    };
    assert_eq!((first.task, &first.result), (CITY, &Err(EngineError::Superseded)));
    assert_eq!((second.task, second.result.is_ok()), (HIGHWAY, true));
}

#[test]
fn giving_a_task_up_is_told_and_so_is_what_it_was_given_up_for() {
    let mut rig = rig(4, &[0..4, 4..8]);
    rig.switched("", "city");
    events(&mut rig);
    let _answer = in_place(&mut rig, "", "highway");
    rig.settle();
    let told = events(&mut rig);
    let [EventKind::GivenUp { session, task, generation }, EventKind::Switch(end)] = &told[..]
    else {
        panic!("given up, then switched: {told:?}");
    };
    assert_eq!((&**session, *task, *generation), ("default", CITY, Generation(2)));
    assert_eq!((end.from, end.task, end.result.is_ok()), (Some(CITY), HIGHWAY, true));
}

#[test]
fn preparations_are_told_whether_they_succeed_or_not() {
    let prefetch = PrefetchConfig { enabled: true, waste_bytes_per_s: 1 << 30 };
    let mut rig = rig_with(8, &[0..4, 4..8], Limits { prefetch, ..LIMITS });
    let told = |rig: &mut Rig| match &events(rig)[..] {
        [EventKind::Prepared { task, result, .. }] => (*task, result.clone()),
        other => panic!("one preparation has ended: {other:?}"),
    };
    let late = prepare(&mut rig, "highway", Duration::ZERO);
    rig.wait(TIMEOUT);
    assert_eq!(told(&mut rig), (HIGHWAY, now(late)));
    let answer = prepare(&mut rig, "city", Duration::ZERO);
    rig.pass(Duration::from_secs(1));
    let (task, result) = told(&mut rig);
    assert!(result.is_ok());
    assert_eq!((task, result), (CITY, now(answer)));
}

#[test]
fn sessions_and_clients_are_told_when_they_come_and_go() {
    let mut rig = rig(4, &[0..4]);
    rig.open("rear");
    let client = attach(&mut rig, "rear");
    detach(&mut rig, &client);
    rig.close("rear").unwrap();
    let told = events(&mut rig);
    let about = |session: &str, peer| session == "rear" && peer == PEER;
    assert!(matches!(&told[0], EventKind::Opened { session, .. } if &**session == "rear"));
    assert!(matches!(&told[1], EventKind::Attached { session, peer } if about(session, *peer)));
    assert!(matches!(&told[2], EventKind::Detached { session, peer } if about(session, *peer)));
    assert!(matches!(&told[3], EventKind::Closed { session, .. } if &**session == "rear"));
    assert_eq!(told.len(), 4);
    assert!(rig.attach(target("none")).is_err());
    detach(&mut rig, &client);
    assert_eq!(events(&mut rig).len(), 0, "nobody came or went");
}

#[test]
fn m3_a_lease_that_is_revoked_is_told_once_with_its_client() {
    let mut rig = rig_with(8, &[0..4, 4..8], Limits { lease_patience: PATIENCE, ..LIMITS });
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    events(&mut rig);
    rig.wait(PATIENCE);
    let told = events(&mut rig);
    let [EventKind::Revoked { session, peer, generation, task }] = &told[..] else {
        panic!("one lease: {told:?}");
    };
    assert_eq!((&**session, *peer), ("default", PEER));
    assert_eq!((*generation, *task), (Generation(1), CITY));
    rig.wait(PATIENCE);
    assert_eq!(events(&mut rig).len(), 0);
}

#[test]
fn s8_a_device_that_does_not_answer_is_told_with_the_switches_that_it_ended() {
    let mut rig = rig_with(8, &[0..4, 4..8], Limits { stall: PATIENCE, ..LIMITS });
    rig.open("rear");
    let _one = switch(&mut rig, "", "city");
    let _other = switch(&mut rig, "rear", "highway");
    events(&mut rig);
    rig.wait(PATIENCE);
    let told = events(&mut rig);
    assert!(matches!(told[0], EventKind::Stalled { switches: 2 }), "{told:?}");
    let ended = |event: &&EventKind| matches!(event, EventKind::Switch(end) if end.result.is_err());
    assert_eq!(told.iter().filter(ended).count(), 2);
}

#[test]
fn s8_a_stall_is_told_once_at_its_begin_and_once_at_its_end() {
    let mut rig = rig_with(12, &[0..4, 4..8, 8..12], Limits { stall: PATIENCE, ..LIMITS });
    let _stuck = switch(&mut rig, "", "city");
    rig.wait(PATIENCE);
    for _ in 0..8 {
        drop(switch(&mut rig, "", "highway"));
        rig.wait(PATIENCE / 2);
    }
    let told = events(&mut rig);
    let begins = |event: &&EventKind| matches!(event, EventKind::Stalled { .. });
    assert_eq!(told.iter().filter(begins).count(), 1, "{told:?}");
    assert_eq!(rig.status()[0].stalled_for, Some(5 * PATIENCE));
    rig.settle();
    assert_eq!(rig.status()[0].stalled_for, None);
    let told = events(&mut rig);
    let lasted = |event: &EventKind| match event {
        EventKind::Recovered { stalled } => Some(*stalled),
        _ => None,
    };
    let ends: Vec<_> = told.iter().filter_map(lasted).collect();
    assert_eq!(ends, [5 * PATIENCE], "{told:?}");
}

#[test]
fn a_picture_shows_each_slot_with_the_tasks_that_need_it() {
    let mut rig = rig(8, &[0..4, 2..6, 6..10]);
    let free = Cell { state: CellState::Free, tasks: 0, pinned: false, ahead: false };
    assert_eq!(picture(&mut rig).cells, [(8, free)]);
    let _loading = switch(&mut rig, "", "city");
    let filling = |tasks| Cell { state: CellState::Filling, tasks, pinned: true, ahead: false };
    assert_eq!(picture(&mut rig).cells, [(2, filling(1)), (2, filling(3)), (4, free)]);
    rig.settle();
    rig.switched("", "highway");
    let there = |tasks, pinned| Cell { state: CellState::Resident, tasks, pinned, ahead: false };
    let cells = [(2, there(1, false)), (2, there(3, true)), (2, there(2, true)), (2, free)];
    let drawn = picture(&mut rig);
    assert_eq!((drawn.cells, drawn.slots_per_cell), (cells.to_vec(), 1));
    assert_eq!(drawn.tasks, ["city", "highway", "parking"]);
}

#[test]
fn a_picture_shows_what_was_loaded_ahead_and_how_tasks_follow_one_another() {
    let prefetch = PrefetchConfig { enabled: true, waste_bytes_per_s: 1 << 30 };
    let mut rig = rig_with(12, &[0..4, 4..8, 8..12], Limits { prefetch, ..LIMITS });
    for _ in 0..20 {
        rig.switched("", "city");
        rig.pass(Duration::from_secs(1));
        rig.switched("", "highway");
        rig.pass(Duration::from_secs(1));
    }
    let drawn = picture(&mut rig);
    let ahead: u32 = drawn.cells.iter().filter(|(_, cell)| cell.ahead).map(|(n, _)| *n).sum();
    assert_eq!(ahead, 4, "parking was never used, but waits: {:?}", drawn.cells);
    let likely = |from, to| {
        let found = drawn.transitions.iter().find(|next| (next.from, next.to) == (from, to));
        found.map_or(0.0, |next| next.probability)
    };
    assert!(likely(0, 1) > 0.9 && likely(1, 0) > 0.9, "{:?}", drawn.transitions);
    assert!(likely(2, 0) > 0.1, "what was never left is known from the bundle");
    assert!(drawn.transitions.iter().all(|next| next.from != next.to));
}

#[test]
fn a_picture_of_a_large_pool_is_a_sample() {
    let blocks = 20_000;
    let mut rig = rig(blocks as usize, &[0..blocks]);
    let drawn = picture(&mut rig);
    assert_eq!(drawn.slots_per_cell, 5);
    assert_eq!(drawn.cells.iter().map(|(count, _)| count).sum::<u32>(), 4_000);
}
