//! Switches in place: a session gives up its task to make room for the next. One rule a test; names
//! begin with the faults that they are about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]

mod common;
mod sim;

use sim::{
    client::Client,
    rig::{Fate, Rig, now, open},
    small::*,
};
use std::{ops::Range, time::Duration};
use synchromesh::{
    device::Active,
    engine::{Action, Command, EngineError, Limits, Outcome, SwitchCommand},
    units::{BlockIndex, Generation, TaskIndex},
};

const MS: Duration = Duration::from_millis(1);
/// Tasks of four blocks, and one of eight, that have nothing in common.
const APART: [Range<u32>; 6] = [0..4, 4..8, 8..12, 12..20, 20..24, 24..28];

/// Room for one task, which is active, and which a client reads.
fn one_task_under_lease() -> (Rig, Client) {
    let mut rig = rig(4, &APART[..3]);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    (rig, client)
}

/// Room for three tasks, all in use: that of the session `owner`, that of `left`, and an old one of
/// `left` that a client reads. There is a session `right`.
fn three_tasks(owner: &str) -> (Rig, Client) {
    three_of(&APART, owner)
}

fn three_of(tasks: &[Range<u32>], owner: &str) -> (Rig, Client) {
    let mut rig = rig(12, tasks);
    rig.open("left");
    rig.open("right");
    let mut client = attach(&mut rig, "left");
    rig.switched("left", "highway");
    client.lease();
    rig.switched("left", "parking");
    rig.switched(owner, "city");
    (rig, client)
}

fn city(generation: u64) -> (u64, Option<String>) {
    (generation, Some("city".into()))
}

#[test]
fn with_room_for_one_task_it_gives_that_up_waits_for_readers_and_loads_the_next() {
    let (mut rig, mut client) = one_task_under_lease();
    let mut answer = in_place(&mut rig, "", "highway");
    let none = Active { generation: Generation(2), task: None };
    assert_eq!(client.active(), none, "no new reader comes");
    assert!(open(&mut answer) && rig.reads.is_empty(), "it waits");
    let kept: Vec<_> = session(&mut rig, "default").leases.iter().map(|l| l.kept).collect();
    assert_eq!(kept, [4], "for the reader's sake");
    client.assert_task(&rig.contents[0], TaskIndex(0));
    client.step();
    rig.wait(2 * MS);
    assert_eq!((rig.reads.len(), client.active()), (1, none), "nobody reads it any more");
    rig.settle();
    let report = now(answer).unwrap();
    assert!(report.in_place);
    assert_eq!((report.generation, report.outcome), (Generation(3), Outcome::Loaded));
    assert_eq!((report.read, report.evicted, report.timing.queue), (4, 4, 2 * MS));
    assert_eq!(client.rings(), 3, "for each generation");
    client.lease();
    client.assert_task(&rig.contents[0], TaskIndex(1));
}

#[test]
fn with_no_reader_it_begins_at_once_and_reads_only_what_the_tasks_do_not_share() {
    let mut rig = rig(4, &[0..4, 2..6]);
    let client = attach(&mut rig, "");
    rig.switched("", "city");
    let answer = in_place(&mut rig, "", "highway");
    assert_eq!((rig.reads.len(), serves(&mut rig)), (1, (2, None)));
    assert_eq!(resident(&client, 0..6), [2, 3]);
    rig.settle();
    let report = now(answer).unwrap();
    assert_eq!((report.in_place, report.generation), (true, Generation(3)));
    assert_eq!((report.reused, report.read, report.evicted), (2, 2, 2));
    client.assert_task(&rig.contents[0], TaskIndex(1));
    assert_eq!(rig.engine.next_tick(), None);
}

#[test]
fn where_both_fit_the_switch_is_like_any_other() {
    let mut rig = rig(8, &APART[..3]);
    rig.switched("", "city");
    let answer = in_place(&mut rig, "", "highway");
    assert_eq!(serves(&mut rig), city(1), "until the next is there");
    rig.settle();
    let report = now(answer).unwrap();
    assert_eq!((report.in_place, report.generation), (false, Generation(2)));
}

#[test]
fn where_both_will_fit_it_waits_for_readers_and_gives_up_nothing() {
    let mut rig = rig(8, &APART[..3]);
    let mut client = attach(&mut rig, "");
    rig.switched("", "highway");
    client.lease();
    rig.switched("", "city");
    let mut answer = in_place(&mut rig, "", "parking");
    assert!(open(&mut answer));
    assert_eq!(serves(&mut rig), city(2));
    client.step();
    rig.wait(2 * MS);
    assert_eq!(serves(&mut rig), city(2));
    rig.settle();
    let report = now(answer).unwrap();
    assert_eq!((report.in_place, report.generation), (false, Generation(3)));
}

#[test]
fn r20_to_the_active_task_it_changes_nothing() {
    let (mut rig, client) = one_task_under_lease();
    assert_eq!(client.rings(), 1);
    let report = now(in_place(&mut rig, "", "city")).unwrap();
    assert_eq!((report.outcome, report.in_place), (Outcome::AlreadyActive, false));
    assert_eq!((serves(&mut rig), client.rings()), (city(1), 0));
}

#[test]
fn m5_a_task_that_cannot_fit_all_the_same_is_refused_and_nothing_is_given_up() {
    let mut rig = rig(8, &APART);
    let client = attach(&mut rig, "");
    rig.open("left");
    rig.switched("", "city");
    rig.switched("left", "highway");
    assert_eq!(client.rings(), 1);
    let answer = in_place(&mut rig, "", "tunnel");
    assert_eq!(now(answer), Err(no_room(8, 0)));
    assert_eq!((serves(&mut rig), client.rings()), (city(1), 0));
    client.assert_task(&rig.contents[0], TaskIndex(0));
}

#[test]
fn s2_s4_a_block_that_cannot_be_read_leaves_the_session_without_a_task_and_says_so() {
    for fate in [Fate::Error, Fate::Flipped] {
        let mut rig = rig(4, &APART[..3]);
        rig.switched("", "city");
        rig.broken.insert((0, BlockIndex(5)), fate);
        let answer = in_place(&mut rig, "", "highway");
        rig.settle();
        let error = now(answer).unwrap_err();
        assert_eq!(error, emptied(corrupt("highway")));
        let text = error.to_string();
        assert!(text.contains("`highway`") && text.contains("has none now"), "{text}");
        assert_eq!(serves(&mut rig), (2, None));
        assert_eq!(rig.status()[0].pool.pinned, 0);
        let report = rig.switched("", "city");
        assert_eq!((report.generation, report.in_place), (Generation(3), false), "no restart");
    }
}

#[test]
fn s8_a_device_that_does_not_answer_leaves_none_but_is_not_asked_again_in_vain() {
    let limits = Limits { stall: 2000 * MS, ..LIMITS };
    let mut rig = rig_with(8, &APART, limits);
    rig.switched("", "city");
    let answer = in_place(&mut rig, "", "tunnel");
    rig.wait(2000 * MS);
    assert_eq!(now(answer), Err(emptied(EngineError::StorageUnavailable)));
    assert_eq!(serves(&mut rig), (2, None));
    let next = in_place(&mut rig, "", "city");
    assert_eq!(now(next), Err(EngineError::StorageUnavailable), "there was no task to give up");
    rig.settle();
    assert_eq!(rig.switched("", "tunnel").outcome, Outcome::Resident, "what came late is kept");
}

#[test]
fn s8_nothing_is_given_up_for_a_device_that_is_known_not_to_answer() {
    let limits = Limits { stall: 2000 * MS, ..LIMITS };
    let mut rig = rig_with(8, &APART, limits);
    rig.switched("", "city");
    drop(switch(&mut rig, "", "highway"));
    rig.wait(2000 * MS);
    let answer = in_place(&mut rig, "", "tunnel");
    assert_eq!(now(answer), Err(EngineError::StorageUnavailable));
    assert_eq!(serves(&mut rig), city(1));
}

#[test]
fn a_deadline_that_comes_while_it_waits_for_readers_gives_the_task_back() {
    let (mut rig, mut client) = one_task_under_lease();
    let deadline = Some(rig.now() + 10 * MS);
    let command = SwitchCommand { deadline, in_place: true, ..rig.command("", "highway") };
    let answer = rig.switch(command);
    assert_eq!(serves(&mut rig), (2, None));
    rig.wait(10 * MS);
    assert_eq!(now(answer), Err(EngineError::DeadlineExceeded), "a failure like any other");
    assert_eq!((serves(&mut rig), client.rings()), (city(3), 3));
    client.assert_task(&rig.contents[0], TaskIndex(0));
    // The old lease ends, a new one begins, and so does the next switch.
    client.step();
    client.lease();
    rig.wait(2 * MS);
    assert_eq!(session(&mut rig, "default").draining_generations, 0);
    assert_eq!(rig.status()[0].pool.pinned, 4);
    let answer = in_place(&mut rig, "", "highway");
    client.step();
    rig.wait(2 * MS);
    rig.settle();
    assert_eq!(now(answer).unwrap().generation, Generation(5));
    assert_eq!(rig.status()[0].pool.pinned, 4);
}

#[test]
fn s7_a_deadline_that_comes_while_it_loads_leaves_none() {
    let mut rig = rig(4, &APART[..3]);
    rig.switched("", "city");
    let deadline = Some(rig.now() + 10 * MS);
    let command = SwitchCommand { deadline, in_place: true, ..rig.command("", "highway") };
    let answer = rig.switch(command);
    rig.wait(10 * MS);
    assert_eq!(now(answer), Err(emptied(EngineError::DeadlineExceeded)));
    rig.settle();
    assert_eq!(serves(&mut rig), (2, None), "too late is too late");
    assert_eq!(rig.switched("", "highway").outcome, Outcome::Resident);
}

#[test]
fn r14_a_later_switch_that_has_no_room_beside_the_old_task_finds_that_active_again() {
    let (mut rig, client) = one_task_under_lease();
    let first = in_place(&mut rig, "", "highway");
    let second = switch(&mut rig, "", "parking");
    assert_eq!(now(first), Err(EngineError::Superseded));
    assert_eq!(now(second), Err(no_room(4, 0)));
    assert_eq!(serves(&mut rig), city(3));
    client.assert_task(&rig.contents[0], TaskIndex(0));
}

#[test]
fn r14_a_later_switch_in_place_takes_over() {
    let (mut rig, mut client) = one_task_under_lease();
    let first = in_place(&mut rig, "", "highway");
    let second = in_place(&mut rig, "", "parking");
    assert_eq!(now(first), Err(EngineError::Superseded));
    assert_eq!(serves(&mut rig), (4, None), "it was there in between");
    client.step();
    rig.wait(2 * MS);
    rig.settle();
    assert_eq!(now(second).unwrap().generation, Generation(5));
    assert!(rig.asked.iter().all(|(_, block)| !(4..8).contains(&block.0)), "not the first's");
}

#[test]
fn r14_a_later_switch_back_finds_the_task_active_again() {
    let (mut rig, client) = one_task_under_lease();
    let first = in_place(&mut rig, "", "highway");
    let back = now(switch(&mut rig, "", "city")).unwrap();
    assert_eq!(now(first), Err(EngineError::Superseded));
    assert_eq!((back.outcome, back.generation), (Outcome::AlreadyActive, Generation(3)));
    assert!(!back.in_place && rig.reads.is_empty());
    client.assert_task(&rig.contents[0], TaskIndex(0));
}

#[test]
fn r14_a_later_switch_back_that_comes_too_late_reads_the_task_again() {
    let mut rig = rig(4, &APART[..3]);
    let client = attach(&mut rig, "");
    rig.switched("", "city");
    let first = in_place(&mut rig, "", "highway");
    let mut back = switch(&mut rig, "", "city");
    assert_eq!(now(first), Err(emptied(EngineError::Superseded)));
    assert!(open(&mut back), "the device may still write to the slots");
    rig.settle();
    let report = now(back).unwrap();
    assert_eq!((report.generation, report.read, report.in_place), (Generation(3), 4, false));
    client.assert_task(&rig.contents[0], TaskIndex(0));
}

#[test]
fn r15_the_generation_without_a_task_counts() {
    let (mut rig, mut client) = one_task_under_lease();
    let expecting = |rig: &mut Rig, generation| {
        let expected_generation = Some(Generation(generation));
        let command = rig.command("", "highway");
        rig.switch(SwitchCommand { expected_generation, in_place: true, ..command })
    };
    let mut running = expecting(&mut rig, 1);
    let (expected, actual) = (Generation(1), Generation(2));
    let refused = now(expecting(&mut rig, 1));
    assert_eq!(refused, Err(EngineError::GenerationMismatch { expected, actual }));
    assert!(open(&mut running), "what is refused supersedes nothing");
    client.step();
    rig.wait(2 * MS);
    rig.settle();
    assert_eq!(now(running).unwrap().generation, Generation(3));
}

#[test]
fn r13_a_repeat_joins_its_first_call_or_gets_the_answer_of_one_that_has_ended() {
    let (mut rig, mut client) = one_task_under_lease();
    let ask = |rig: &mut Rig, id| {
        rig.switch(SwitchCommand { in_place: true, ..with_id(rig, "highway", id) })
    };
    let first = ask(&mut rig, "a");
    let joined = ask(&mut rig, "a");
    assert_eq!(serves(&mut rig), (2, None), "it is given up once");
    rig.wait(TIMEOUT);
    assert_eq!(now(first), Err(EngineError::DeadlineExceeded));
    assert_eq!(now(joined), Err(EngineError::DeadlineExceeded));
    assert_eq!(serves(&mut rig), city(3), "and taken back");

    client.step();
    rig.broken.insert((0, BlockIndex(4)), Fate::Torn);
    let first = ask(&mut rig, "b");
    rig.settle();
    assert_eq!(now(first), Err(emptied(corrupt("highway"))));
    rig.broken.clear();
    assert_eq!(now(ask(&mut rig, "b")), Err(emptied(corrupt("highway"))));
    assert!(rig.reads.is_empty());

    rig.switched("", "city");
    let first = ask(&mut rig, "c");
    rig.settle();
    let report = now(first);
    assert!(report.as_ref().unwrap().in_place);
    rig.switched("", "highway");
    assert_eq!(now(ask(&mut rig, "c")), report);
}

#[test]
fn a_session_that_is_closed_meanwhile_leaves_nothing_behind() {
    let mut rig = rig(4, &APART[..3]);
    rig.open("left");
    rig.switched("left", "city");
    let answer = in_place(&mut rig, "left", "highway");
    assert_eq!(rig.close("left"), Ok(()));
    assert_eq!(now(answer), Err(EngineError::SessionClosed), "there is no session to be empty");
    rig.settle();
    assert_eq!(rig.status()[0].pool.pinned, 0);
    rig.open("left");
    assert_eq!(session(&mut rig, "left").generation, Generation(0));
    assert_eq!(rig.switched("left", "parking").generation, Generation(1));
}

#[test]
fn a_session_that_is_closed_before_anything_was_evicted_leaves_nothing_behind() {
    let (mut rig, _client) = three_tasks("right");
    let mut answer = in_place(&mut rig, "right", "tunnel");
    assert!(open(&mut answer), "it waits for the reader of the other session");
    assert_eq!(rig.close("right"), Ok(()));
    assert_eq!(now(answer), Err(EngineError::SessionClosed));
    assert_eq!(rig.status()[0].pool.pinned, 8, "what the other has, and what is read there");
}

#[test]
fn what_is_prepared_gives_way_before_a_task_does() {
    let mut rig = rig(8, &APART);
    rig.switched("", "city");
    let prepared = prepare(&mut rig, "highway", TIMEOUT);
    rig.pass(MS);
    assert!(now(prepared).is_ok());
    let answer = in_place(&mut rig, "", "parking");
    rig.settle();
    assert!(!now(answer).unwrap().in_place);
    assert_eq!(rig.status()[0].prefetch.prepared, 0);
}

#[test]
fn what_is_prepared_gives_way_after_the_task_has_where_both_must() {
    let mut rig = rig(8, &APART);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    let held = prepare(&mut rig, "highway", TIMEOUT);
    rig.pass(MS);
    assert!(now(held).is_ok());
    let answer = in_place(&mut rig, "", "tunnel");
    assert_eq!(serves(&mut rig), (2, None));
    assert_eq!(rig.status()[0].prefetch.prepared, 1, "it would not help yet");
    assert!(now(prepare(&mut rig, "city", TIMEOUT)).is_ok(), "it is still there");
    client.step();
    rig.wait(2 * MS);
    assert_eq!(rig.status()[0].prefetch.prepared, 0);
    rig.settle();
    assert!(now(answer).unwrap().in_place);
}

#[test]
fn a_task_that_is_prepared_while_it_is_given_up_can_be_taken_back() {
    let (mut rig, client) = one_task_under_lease();
    let answer = in_place(&mut rig, "", "highway");
    assert!(now(prepare(&mut rig, "city", TIMEOUT)).is_ok(), "it is still there");
    rig.wait(TIMEOUT);
    assert_eq!(now(answer), Err(EngineError::DeadlineExceeded));
    assert_eq!(serves(&mut rig), city(3));
    client.assert_task(&rig.contents[0], TaskIndex(0));
}

#[test]
fn what_a_session_gave_up_is_held_for_it_until_its_next_task_has_the_room() {
    let (mut rig, mut client) = three_tasks("");
    let mut answer = in_place(&mut rig, "", "tunnel");
    let mut right = switch(&mut rig, "right", "rain");
    assert!(open(&mut answer) && open(&mut right), "both wait for the reader of the other session");
    assert_eq!((rig.reads.len(), serves(&mut rig)), (0, (2, None)));
    assert_eq!(resident(&client, 0..4), [0, 1, 2, 3]);
    client.step();
    rig.wait(2 * MS);
    assert_eq!(now(right), Err(no_room(4, 0)), "it came later");
    rig.settle();
    assert!(now(answer).unwrap().in_place);
}

#[test]
fn who_waits_before_it_begins_before_it_and_then_the_task_is_back() {
    let (mut rig, mut client) = three_tasks("");
    let mut right = switch(&mut rig, "right", "rain");
    let mut answer = in_place(&mut rig, "", "tunnel");
    assert!(open(&mut right) && open(&mut answer), "both wait for the reader");
    assert_eq!((rig.reads.len(), serves(&mut rig)), (0, (2, None)));
    client.step();
    rig.wait(2 * MS);
    assert_eq!(now(answer), Err(no_room(8, 4)), "a failure like any other");
    assert_eq!((rig.reads.len(), serves(&mut rig)), (1, city(3)));
    rig.settle();
    assert!(now(right).is_ok());
}

#[test]
fn of_two_that_gave_up_their_tasks_one_has_the_room_and_the_other_its_task_again() {
    for lets_go in [true, false] {
        let (mut rig, mut client) = three_of(&[0..4, 4..8, 8..12, 12..20, 20..28], "");
        let first = in_place(&mut rig, "", "tunnel");
        let second = in_place(&mut rig, "left", "rain");
        assert_eq!(session(&mut rig, "left").task, None, "each hopes for the same reader");
        assert_eq!((rig.reads.len(), serves(&mut rig)), (0, (2, None)));
        if lets_go {
            client.step();
            rig.wait(2 * MS);
            assert_eq!(now(second), Err(no_room(8, 4)));
            rig.settle();
            assert!(now(first).unwrap().in_place);
        } else {
            rig.wait(TIMEOUT);
            assert_eq!(now(first), Err(EngineError::DeadlineExceeded));
            assert_eq!(now(second), Err(EngineError::DeadlineExceeded));
            assert_eq!(serves(&mut rig), city(3));
        }
        let left = session(&mut rig, "left");
        assert_eq!((left.generation, left.task.as_deref()), (Generation(4), Some("parking")));
    }
}

#[test]
fn nothing_is_given_up_for_room_that_another_session_gave_up() {
    let mut rig = rig(8, &APART);
    rig.open("right");
    let mut client = attach(&mut rig, "");
    rig.switched("right", "highway");
    rig.switched("", "city");
    client.lease();
    let mut answer = in_place(&mut rig, "", "parking");
    assert_eq!(serves(&mut rig), (2, None));
    let refused = in_place(&mut rig, "right", "tunnel");
    assert_eq!(now(refused), Err(no_room(8, 0)));
    assert_eq!(session(&mut rig, "right").task.as_deref(), Some("highway"));
    assert!(open(&mut answer));
}

#[test]
fn who_gives_up_its_task_when_a_reader_turns_out_to_be_stuck_holds_it_until_its_turn() {
    let limits = Limits { lease_patience: 2000 * MS, ..LIMITS };
    let mut rig = rig_with(16, &[0..4, 4..12, 12..16, 16..20, 20..24, 24..28], limits);
    rig.open("left");
    rig.open("right");
    let mut readers = [attach(&mut rig, "left"), attach(&mut rig, "left")];
    for (reader, (task, next)) in readers.iter_mut().zip([("rain", "night"), ("night", "parking")])
    {
        rig.switched("left", task);
        reader.lease();
        rig.wait(1000 * MS);
        rig.switched("left", next);
    }
    rig.switched("", "city");
    let mut right = switch(&mut rig, "right", "tunnel");
    let mut answer = in_place(&mut rig, "", "highway");
    assert!(open(&mut right) && open(&mut answer));
    assert_eq!(serves(&mut rig), city(1), "there would be room for both tasks");
    // The first lease is revoked, long before the second.
    rig.wait(1000 * MS);
    assert!(open(&mut right) && open(&mut answer), "both wait for the second");
    assert_eq!((rig.reads.len(), serves(&mut rig)), (0, (2, None)));
    readers[1].step();
    rig.wait(100 * MS);
    assert_eq!(rig.reads.len(), 1, "the other switch has begun");
    assert_eq!(now(answer), Err(no_room(8, 4)));
    assert_eq!(serves(&mut rig), city(3));
    rig.settle();
    assert!(now(right).is_ok());
}

#[test]
fn p7_a_daemon_that_stops_finishes_it() {
    let (mut rig, mut client) = one_task_under_lease();
    let answer = in_place(&mut rig, "", "highway");
    rig.apply(Action::Command(Command::Drain));
    assert!(!rig.engine.is_drained(), "it is not done");
    assert_eq!(now(in_place(&mut rig, "", "parking")), Err(EngineError::Draining));
    client.step();
    rig.wait(2 * MS);
    rig.settle();
    assert!(now(answer).unwrap().in_place && rig.engine.is_drained());
}

#[test]
fn p7_a_daemon_that_stops_waits_for_readers_no_longer_than_the_switch_does() {
    let (mut rig, _client) = one_task_under_lease();
    let answer = in_place(&mut rig, "", "highway");
    rig.apply(Action::Command(Command::Drain));
    rig.wait(TIMEOUT);
    assert_eq!(now(answer), Err(EngineError::DeadlineExceeded));
    assert_eq!(serves(&mut rig), city(3));
    assert!(rig.engine.is_drained());
}

#[test]
fn what_is_given_up_is_neither_trimmed_nor_room_for_what_is_prepared() {
    let mut rig = rig(8, &APART);
    let mut client = attach(&mut rig, "");
    rig.switched("", "rain");
    client.lease();
    rig.switched("", "city");
    let deadline = Some(rig.now() + MS);
    let command = rig.command("", "tunnel");
    let answer = rig.switch(SwitchCommand { in_place: true, deadline, ..command });
    assert_eq!(serves(&mut rig), (3, None), "it waits for the reader of the first");
    let model = String::new();
    let trimmed = rig.ask(|reply| Command::Trim { model, blocks: 1, reply });
    assert_eq!(now(trimmed), Ok(0));
    assert_eq!(now(prepare(&mut rig, "highway", TIMEOUT)), Err(no_room(4, 0)));
    rig.wait(MS);
    assert_eq!(now(answer), Err(EngineError::DeadlineExceeded));
    assert_eq!(serves(&mut rig), city(4));
    client.assert_task(&rig.contents[0], TaskIndex(4));
}
