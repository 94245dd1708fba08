//! The engine's rules on reads, slots and leases, one a test. Names begin with the faults that they
//! are about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]
#![allow(clippy::single_range_in_vec_init, reason = "a range is a task's blocks")]

mod common;
mod sim;

use sim::{
    bundles::BLOCK_BYTES,
    rig::{FAULTS, Fate, Rig, now, open},
    small::*,
};
use std::time::Duration;
use synchromesh::{
    device::Active,
    engine::{Action, Command, EngineError, Limits, Outcome, SwitchCommand, Target},
    storage::{Completion, ReadError},
    units::{BlockIndex, Generation, TaskIndex},
};
use tokio::sync::oneshot;

#[test]
fn s1_a_read_that_fails_once_is_repeated_block_by_block() {
    for fate in [Fate::Error, Fate::Torn, Fate::Short] {
        let mut rig = rig(4, &[0..4]);
        let client = attach(&mut rig, "");
        let mut answer = switch(&mut rig, "", "city");
        assert_eq!(rig.reads.len(), 1, "neighbours are read together");
        rig.finish_read(0, fate, 1);
        assert!(open(&mut answer));
        assert_eq!(rig.reads.iter().map(|read| read.blocks.len()).sum::<usize>(), 4);
        assert!(rig.reads.iter().all(|read| read.attempt == 1 && read.blocks.len() == 1));
        rig.settle();
        let report = now(answer).unwrap();
        assert_eq!((report.outcome, report.read), (Outcome::Loaded, 4));
        client.assert_task(&rig.contents[0], TaskIndex(0));
    }
}

#[test]
fn s2_s4_s5_s6_a_block_that_stays_bad_harms_only_the_tasks_that_need_it() {
    for fate in FAULTS {
        let mut rig = rig(12, &[0..4, 2..6, 8..10]);
        rig.open("left");
        let client = attach(&mut rig, "");
        rig.switched("", "parking");
        rig.broken.insert((0, BlockIndex(1)), fate);

        let city = switch(&mut rig, "", "city");
        let highway = switch(&mut rig, "left", "highway");
        rig.settle();
        assert_eq!(now(city), Err(corrupt("city")), "{fate:?}");
        assert_eq!(now(highway).unwrap().generation, Generation(1), "{fate:?} in the same extent");
        assert_eq!(active(&mut rig).as_deref(), Some("parking"));
        client.assert_task(&rig.contents[0], TaskIndex(2));
        assert_eq!(rig.status()[0].quarantined, 1);

        rig.broken.clear();
        rig.asked.clear();
        rig.switched("", "city");
        assert_eq!(rig.asked, [(0, BlockIndex(1))], "the others were kept");
        assert_eq!(rig.status()[0].quarantined, 0, "what reads well is well");
    }
}

#[test]
fn s3_a_block_that_arrives_wrong_once_is_read_again() {
    for fate in [Fate::Flipped, Fate::Misdirected] {
        let mut rig = rig(4, &[0..4]);
        let client = attach(&mut rig, "");
        let mut answer = switch(&mut rig, "", "city");
        rig.finish_read(0, fate, 2);
        assert_eq!(rig.finish_verify(0).bad, [BlockIndex(2)]);
        assert!(open(&mut answer));
        let again: Vec<_> = rig.reads.iter().map(|read| read.blocks[0].0).collect();
        assert_eq!(again, [BlockIndex(2)], "only the wrong one");
        rig.settle();
        assert!(now(answer).is_ok());
        client.assert_task(&rig.contents[0], TaskIndex(0));
    }
}

#[test]
fn s7_a_slow_read_ends_the_switch_at_its_deadline_but_keeps_its_slots() {
    let mut rig = rig(8, &[0..4, 4..8]);
    rig.switched("", "city");
    let soon = rig.now() + Duration::from_millis(10);
    let mut answer =
        rig.switch(SwitchCommand { deadline: Some(soon), ..rig.command("", "highway") });
    assert_eq!(rig.engine.next_tick(), Some(soon));
    rig.wait(Duration::from_millis(9));
    assert!(open(&mut answer));
    rig.wait(Duration::from_millis(1));
    assert_eq!(now(answer), Err(EngineError::DeadlineExceeded));
    assert_eq!(rig.status()[0].pool.slots.filling, 4, "the device may still write there");
    assert_eq!(active(&mut rig).as_deref(), Some("city"));
    rig.settle();
    assert_eq!(rig.switched("", "highway").outcome, Outcome::Resident, "what came late is kept");
}

#[test]
fn s8_a_device_that_stalls_under_one_model_stops_no_other() {
    let limits = Limits { stall: Duration::from_secs(2), ..LIMITS };
    let models = [("alpha", 8), ("beta", 8)];
    let models = models.map(|(model, slots)| (content(model, &[0..4, 4..8]), slots));
    let mut rig = Rig::new(&models, limits, 0);
    let to = |rig: &mut Rig, model: &str| {
        let target = Target { model: model.into(), session: String::new() };
        rig.switch(SwitchCommand { target, ..rig.command("", "city") })
    };
    let stuck = to(&mut rig, "alpha");
    rig.wait(Duration::from_secs(2));
    assert_eq!(now(stuck), Err(EngineError::StorageUnavailable));
    assert_eq!(now(to(&mut rig, "alpha")), Err(EngineError::StorageUnavailable), "at once");
    let answer = to(&mut rig, "beta");
    let theirs = rig.reads.iter().position(|read| read.model == 1).unwrap();
    rig.finish_read(theirs, Fate::Good, 0);
    rig.finish_verify(0);
    assert!(now(answer).is_ok());
    rig.settle();
    assert_eq!(now(to(&mut rig, "alpha")).unwrap().outcome, Outcome::Resident, "what came late");
}

#[test]
fn s17_slots_of_a_lost_ring_are_never_used_again_and_their_blocks_are_read_elsewhere() {
    let mut rig = rig(12, &[0..4, 4..8, 8..12]);
    let client = attach(&mut rig, "");
    rig.switched("", "city");
    let answer = switch(&mut rig, "", "highway");
    let read = rig.reads.remove(0);
    let lost: Vec<_> = read.blocks.iter().map(|(_, window)| window.slot()).collect();
    rig.apply(Action::ReadDone(Completion { read, result: Err(ReadError::Lost) }));
    assert_eq!(now(answer), Err(EngineError::StorageUnavailable));
    assert_eq!(rig.status()[0].pool.slots.lost, 4);
    assert_eq!(rig.status()[0].quarantined, 0, "nothing is said of the blocks");
    client.assert_task(&rig.contents[0], TaskIndex(0));
    assert_eq!(rig.switched("", "highway").read, 4);
    client.assert_task(&rig.contents[0], TaskIndex(1));
    for block in (0..8).map(BlockIndex) {
        let slot = client.table.slot_of(block);
        assert!(slot.is_some_and(|slot| !lost.contains(&slot)), "{block} in {slot:?}");
    }
}

#[test]
fn s8_a_device_that_does_not_answer_gets_a_chance_from_time_to_time() {
    let limits = Limits { stall: Duration::from_secs(2), ..LIMITS };
    let mut rig = rig_with(8, &[0..4, 4..8], limits);
    let stuck = switch(&mut rig, "", "city");
    rig.wait(Duration::from_secs(2));
    assert_eq!(now(stuck), Err(EngineError::StorageUnavailable));
    rig.wait(Duration::from_millis(1999));
    let refused = switch(&mut rig, "", "highway");
    assert_eq!(now(refused), Err(EngineError::StorageUnavailable), "at once");
    rig.wait(Duration::from_millis(1));
    let mut answer = switch(&mut rig, "", "highway");
    assert!(open(&mut answer), "the device may answer again");
    let last = rig.reads.len() - 1;
    rig.finish_read(last, Fate::Good, 0);
    rig.finish_verify(0);
    assert!(now(answer).is_ok(), "one read that never ends costs its slots and no more");
    assert_eq!(rig.status()[0].pool.slots.filling, 4);
}

#[test]
fn s8_during_a_stall_one_switch_in_each_interval_may_read_and_all_others_fail_at_once() {
    let stall = Duration::from_secs(2);
    let mut rig = rig_with(16, &[0..4, 4..8, 8..12, 12..16], Limits { stall, ..LIMITS });
    ["left", "right"].into_iter().for_each(|session| rig.open(session));
    let stuck = switch(&mut rig, "", "city");
    rig.wait(stall);
    assert_eq!(now(stuck), Err(EngineError::StorageUnavailable));
    rig.wait(stall);
    let mut probe = switch(&mut rig, "", "highway");
    assert!(open(&mut probe), "the first may try");
    for session in ["left", "right"] {
        let other = switch(&mut rig, session, "parking");
        assert_eq!(now(other), Err(EngineError::StorageUnavailable), "{session} fails at once");
    }
    rig.wait(stall);
    assert_eq!(now(probe), Err(EngineError::StorageUnavailable), "nothing came of it");
    rig.settle();
    assert_eq!(rig.switched("left", "parking").needed, 4, "the device answers again");
}

#[test]
fn doorbells_ring_after_the_caller_has_its_answer() {
    let mut rig = rig(8, &[0..4, 4..8]);
    for task in ["city", "highway"] {
        rig.switched("", task);
    }
    let client = attach(&mut rig, "");
    let (reply, answer) = oneshot::channel();
    let command = rig.command("", "city");
    rig.engine.apply(Action::Command(Command::Switch(command, reply)));
    assert!(now(answer).is_ok());
    assert!(rig.engine.has_rings());
    assert_eq!(client.rings(), 0, "not yet");
    rig.engine.ring();
    assert_eq!(client.rings(), 1);
    assert!(!rig.engine.has_rings());
}

#[test]
fn s8_switches_that_come_in_a_steady_flow_do_not_hide_a_stall() {
    let limits = Limits { stall: Duration::from_secs(2), ..LIMITS };
    let mut rig = rig_with(12, &[0..4, 4..8, 8..12], limits);
    rig.open("left");
    let stuck = switch(&mut rig, "", "city");
    // The next switch comes before any tick does.
    rig.clock.advance(Duration::from_secs(3));
    let next = switch(&mut rig, "left", "highway");
    assert_eq!(now(stuck), Err(EngineError::StorageUnavailable));
    assert_eq!(now(next), Err(EngineError::StorageUnavailable));
}

#[test]
fn s11_reads_that_end_one_after_the_other_are_no_stall_however_long_all_take() {
    let limits = Limits { stall: Duration::from_secs(2), read_bytes: BLOCK_BYTES, ..LIMITS };
    let mut rig = rig_with(8, &[0..8], limits);
    let answer = switch(&mut rig, "", "city");
    for _ in 0..8 {
        rig.wait(Duration::from_millis(1900));
        rig.finish_read(0, Fate::Good, 0);
    }
    rig.settle();
    assert!(now(answer).is_ok());
}

#[test]
fn m2_a_client_that_dies_gives_its_lease_back() {
    let mut rig = rig(8, &[0..4, 4..8, 8..12]);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    assert_eq!(session(&mut rig, "default").draining_generations, 1);
    let answer = switch(&mut rig, "", "parking");
    assert!(rig.reads.is_empty(), "there is no room beside the lease");
    detach(&mut rig, &client);
    rig.settle();
    assert_eq!(now(answer).unwrap().evicted, 4);
    assert_eq!(session(&mut rig, "default").draining_generations, 0);
}

#[test]
fn m3_a_lease_that_never_ends_costs_room_and_nothing_else() {
    let mut rig = rig(8, &[0..4, 4..8, 8..12, 2..6]);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    for _ in 0..3 {
        let soon = rig.now() + Duration::from_millis(10);
        let parking = rig.command("", "parking");
        let answer = rig.switch(SwitchCommand { deadline: Some(soon), ..parking });
        rig.settle();
        rig.wait(Duration::from_millis(10));
        assert_eq!(now(answer), Err(EngineError::DeadlineExceeded), "the lease could have ended");
        client.assert_task(&rig.contents[0], TaskIndex(0));
    }
    assert_eq!(rig.switched("", "tunnel").outcome, Outcome::Resident, "what needs no room goes on");
    client.assert_task(&rig.contents[0], TaskIndex(0));
}

#[test]
fn a_switch_that_waits_for_a_lease_begins_when_it_ends() {
    let mut rig = rig(8, &[0..4, 4..8, 8..12]);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    let mut answer = switch(&mut rig, "", "parking");
    let poll = rig.engine.next_tick().unwrap() - rig.now();
    assert_eq!(poll, Duration::from_millis(2), "leases are looked at");
    rig.wait(poll);
    assert!(open(&mut answer));
    client.step();
    rig.wait(poll);
    rig.settle();
    let report = now(answer).unwrap();
    assert_eq!(report.timing.queue, 2 * poll, "it waited");
    assert_eq!(rig.engine.next_tick(), None, "and are not looked at in vain");
}

#[test]
fn leases_are_looked_at_with_every_action_for_a_steady_flow_lets_no_tick_through() {
    let mut rig = rig(8, &[0..4, 4..8, 8..12]);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    let answer = switch(&mut rig, "", "parking");
    client.step();
    rig.status();
    rig.settle();
    assert!(now(answer).is_ok());
}

#[test]
fn a_client_that_writes_junk_into_its_cell_holds_nothing() {
    let mut rig = rig(8, &[0..4, 4..8, 8..12]);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    for junk in [7, u64::MAX, 1 << 48] {
        client.write_junk(junk);
        rig.switched("", "highway");
        rig.switched("", "parking");
        rig.switched("", "city");
        assert_eq!(session(&mut rig, "default").draining_generations, 0);
    }
}

#[test]
fn m5_a_task_that_cannot_fit_is_refused_at_once_with_the_sizes() {
    let mut rig = rig(6, &[0..4, 3..8]);
    let client = attach(&mut rig, "");
    rig.switched("", "city");
    let answer = switch(&mut rig, "", "highway");
    let (needed_bytes, available_bytes) = (4 * BLOCK_BYTES, 2 * BLOCK_BYTES);
    assert_eq!(now(answer), Err(EngineError::NoRoom { needed_bytes, available_bytes }));
    assert!(rig.reads.is_empty(), "nothing was begun");
    client.assert_task(&rig.contents[0], TaskIndex(0));
    assert_eq!(client.active().task, Some(TaskIndex(0)));
}

#[test]
fn m5_room_that_another_session_is_loading_into_is_taken() {
    let mut rig = rig(8, &[0..4, 4..8, 8..12]);
    rig.open("left");
    rig.switched("", "city");
    let highway = switch(&mut rig, "left", "highway");
    let parking = switch(&mut rig, "", "parking");
    assert!(matches!(now(parking), Err(EngineError::NoRoom { available_bytes: 0, .. })));
    rig.settle();
    assert!(now(highway).is_ok());
}

#[test]
fn m10_slots_of_a_superseded_switch_are_not_reused_before_their_reads_end() {
    let mut rig = rig(8, &[0..4, 4..8, 8..12]);
    rig.switched("", "city");
    let highway = switch(&mut rig, "", "highway");
    let slots: Vec<_> = rig.on_the_way().map(|(_, _, slot)| slot).collect();
    let mut parking = switch(&mut rig, "", "parking");
    assert_eq!(now(highway), Err(EngineError::Superseded));
    assert_eq!(rig.reads.len(), 1, "only the old read is under way");
    assert!(open(&mut parking), "it waits for the slots");
    rig.finish_read(0, Fate::Good, 0);
    assert!(rig.reads.is_empty(), "the verifier reads them still");
    rig.finish_verify(0);
    assert_eq!(rig.on_the_way().map(|(_, _, slot)| slot).collect::<Vec<_>>(), slots);
    rig.settle();
    assert_eq!(now(parking).unwrap().evicted, 4);
}

#[test]
fn m10_reads_that_have_not_begun_are_withdrawn() {
    let limits = Limits { reads_in_flight: 1, read_bytes: BLOCK_BYTES, ..LIMITS };
    let mut rig = rig_with(8, &[0..4, 4..8, 2..6], limits);
    drop(switch(&mut rig, "", "city"));
    drop(switch(&mut rig, "", "tunnel"));
    let answer = switch(&mut rig, "", "parking");
    rig.settle();
    assert_eq!(now(answer).unwrap().read, 4);
    let mut asked: Vec<_> = rig.asked.iter().map(|(_, block)| block.0).collect();
    asked.sort_unstable();
    assert_eq!(asked, [0, 2, 3, 4, 5], "one was under way, and none is read twice");
}

#[test]
fn the_doorbell_rings_once_a_publication() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let client = attach(&mut rig, "");
    for (task, rings) in [("city", 1), ("highway", 1), ("highway", 0), ("city", 1)] {
        rig.switched("", task);
        assert_eq!(client.rings(), rings, "{task}");
    }
    let active = Active { generation: Generation(3), task: Some(TaskIndex(0)) };
    assert_eq!(client.active(), active);
}

#[test]
fn the_least_recently_used_tasks_own_blocks_go_first() {
    let mut rig = rig(10, &[0..4, 3..7, 6..9, 9..12]);
    let client = attach(&mut rig, "");
    rig.switched("", "city");
    rig.switched("", "highway");
    rig.switched("", "parking");
    assert_eq!(resident(&client, 0..12).len(), 9);
    assert_eq!(rig.switched("", "tunnel").evicted, 2);
    assert_eq!(resident(&client, 0..12), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
}

#[test]
fn a_task_counts_as_used_until_it_is_left() {
    let mut rig = rig(8, &[0..2, 2..4, 4..6, 6..8, 8..10]);
    rig.open("left");
    let client = attach(&mut rig, "");
    rig.switched("left", "city");
    rig.switched("", "highway");
    rig.switched("", "parking");
    rig.switched("left", "tunnel");
    assert_eq!(rig.switched("", "rain").evicted, 2);
    assert_eq!(resident(&client, 0..4), [0, 1], "city was in use after highway");
}

#[test]
fn what_was_loaded_but_never_used_goes_before_all_else() {
    let mut rig = rig(8, &[0..4, 4..8, 8..10]);
    let client = attach(&mut rig, "");
    rig.switched("", "city");
    drop(switch(&mut rig, "", "highway"));
    rig.switched("", "city");
    assert_eq!(resident(&client, 0..8).len(), 8);
    rig.switched("", "parking");
    assert_eq!(resident(&client, 0..10), [0, 1, 2, 3, 6, 7, 8, 9]);
}

#[test]
fn a_model_that_is_full_starves_no_other() {
    let models = [("alpha", 4), ("beta", 8)];
    let mut rig = Rig::new(&models.map(|(m, slots)| (content(m, &[0..4, 4..8]), slots)), LIMITS, 0);
    let mut ask = |model: &str, task: &str| {
        let target = Target { model: model.into(), session: String::new() };
        let answer = rig.switch(SwitchCommand { target, ..rig.command("", task) });
        rig.settle();
        now(answer)
    };
    assert!(ask("alpha", "city").is_ok());
    assert!(matches!(ask("alpha", "highway"), Err(EngineError::NoRoom { .. })));
    assert!(ask("beta", "city").is_ok());
    assert!(ask("beta", "highway").is_ok());
}

#[test]
fn a_switch_that_waits_for_room_costs_other_actions_nothing() {
    let mut rig = rig(1600, &[0..400, 400..800, 800..2000, 2000..2600]);
    for session in ["rear", "left"] {
        rig.open(session);
    }
    let mut client = attach(&mut rig, "");
    rig.switched("left", "tunnel");
    rig.close("left").unwrap();
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    let mut waiting = switch(&mut rig, "rear", "parking");
    assert!(open(&mut waiting), "a lease holds the room");
    let before = rig.work;
    for _ in 0..100 {
        rig.wait(Duration::from_millis(5));
        rig.open("left");
        rig.close("left").unwrap();
    }
    assert_eq!(rig.work - before, 0, "nothing changed for the switch");
    client.step();
    rig.wait(Duration::from_millis(5));
    rig.settle();
    assert_eq!(now(waiting).unwrap().needed, 1200);
}
