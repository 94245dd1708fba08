//! Clients that hold on to what their session has left: what that costs, who is told, and when it is
//! over. One rule a test; names begin with the faults that they are about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]

mod common;
mod sim;

use sim::{
    bundles::BLOCK_BYTES,
    client::Client,
    rig::{PEER, Rig, now, open},
    small::*,
};
use std::{ops::Range, time::Duration};
use synchromesh::{
    engine::{LeaseStatus, Limits, Outcome},
    units::{Generation, TaskIndex},
};

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(2);
const LIMITS: Limits = Limits { lease_patience: PATIENCE, ..sim::small::LIMITS };
/// The fourth shares half of its blocks with the first, and half with the second.
const TASKS: [Range<u32>; 4] = [0..4, 4..8, 8..12, 2..6];

/// A client that reads the first task; its session has the second, and `left` has none.
fn stuck(slots: usize) -> (Rig, Client) {
    let mut rig = rig_with(slots, &TASKS, LIMITS);
    rig.open("left");
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.switched("", "highway");
    assert_eq!(client.rings(), 2);
    (rig, client)
}

fn leases(rig: &mut Rig) -> Vec<LeaseStatus> {
    session(rig, "default").leases
}

/// Generation, blocks kept, whether revoked.
fn told(lease: &LeaseStatus) -> (u64, usize, bool) {
    (lease.generation.0, lease.kept, lease.revoked)
}

#[test]
fn m3_a_client_that_never_lets_go_is_told_and_nobody_waits_for_it_any_more() {
    let (mut rig, client) = stuck(10);
    let mut waiting = switch(&mut rig, "left", "parking");
    rig.wait(PATIENCE - Duration::from_nanos(1));
    assert!(open(&mut waiting), "the lease may still end");
    assert_eq!((client.revoked(), client.rings()), (None, 0));
    assert_eq!(rig.engine.next_tick(), Some(rig.now() + Duration::from_nanos(1)));

    rig.wait(Duration::from_nanos(1));
    assert_eq!(now(waiting), Err(no_room(4, 2)), "at that moment");
    assert_eq!((client.revoked(), client.rings()), (Some(Generation(1)), 1));
    client.assert_task(&rig.contents[0], TaskIndex(0));
    for _ in 0..3 {
        let refused = switch(&mut rig, "left", "parking");
        assert_eq!(now(refused), Err(no_room(4, 2)), "at once");
        assert_eq!(rig.switched("left", "tunnel").read, 0, "what needs no room goes on");
        rig.wait(PATIENCE);
        client.assert_task(&rig.contents[0], TaskIndex(0));
    }
    assert_eq!(client.rings(), 0, "it was told once");
    assert_eq!(client.revoked(), Some(Generation(1)));
}

#[test]
fn m3_what_fits_beside_a_lease_is_loaded_though_that_is_revoked() {
    let (mut rig, client) = stuck(12);
    rig.wait(PATIENCE);
    let report = rig.switched("left", "parking");
    assert_eq!((report.outcome, report.evicted), (Outcome::Loaded, 0));
    client.assert_task(&rig.contents[0], TaskIndex(0));
    client.assert_task(&rig.contents[0], TaskIndex(2));
}

#[test]
fn m3_when_a_revoked_lease_ends_its_room_is_back() {
    let (mut rig, mut client) = stuck(8);
    rig.wait(PATIENCE);
    let refused = switch(&mut rig, "left", "parking");
    assert_eq!(now(refused), Err(no_room(4, 0)));
    client.step();
    // The command comes before the daemon would have looked again.
    let report = rig.switched("left", "parking");
    assert_eq!(report.evicted, 4);
    assert!(leases(&mut rig).is_empty());
    assert_eq!(rig.engine.next_tick(), None);
}

#[test]
fn m3_a_revoked_client_that_goes_away_leaves_nothing_behind() {
    let (mut rig, client) = stuck(8);
    rig.wait(PATIENCE);
    detach(&mut rig, &client);
    assert_eq!(rig.status()[0].pool.pinned, 4, "the active task");
    let after = session(&mut rig, "default");
    assert_eq!((after.clients, after.draining_generations, after.leases.len()), (0, 0, 0));
    assert_eq!(rig.switched("left", "parking").evicted, 4);
    let mut again = attach(&mut rig, "");
    again.lease();
    assert_eq!(again.revoked(), None, "it begins anew");
}

#[test]
fn m3_all_readers_of_a_generation_are_told_and_the_last_frees_the_room() {
    let mut rig = rig_with(8, &TASKS, LIMITS);
    rig.open("left");
    let mut clients = [attach(&mut rig, ""), attach(&mut rig, "")];
    rig.switched("", "city");
    clients.iter_mut().for_each(Client::lease);
    rig.switched("", "highway");
    let waiting = switch(&mut rig, "left", "parking");
    assert_eq!(session(&mut rig, "default").draining_generations, 1);
    rig.wait(PATIENCE);
    assert_eq!(now(waiting), Err(no_room(4, 0)));
    for client in &clients {
        assert_eq!((client.revoked(), client.rings()), (Some(Generation(1)), 3));
    }
    detach(&mut rig, &clients[0]);
    assert_eq!(now(switch(&mut rig, "left", "parking")), Err(no_room(4, 0)));
    clients[1].assert_task(&rig.contents[0], TaskIndex(0));
    clients[1].step();
    assert_eq!(rig.switched("left", "parking").evicted, 4);
}

#[test]
fn m3_a_reader_that_lets_go_in_time_is_not_told() {
    let mut rig = rig_with(8, &TASKS, LIMITS);
    let mut clients = [attach(&mut rig, ""), attach(&mut rig, "")];
    rig.switched("", "city");
    clients.iter_mut().for_each(Client::lease);
    rig.switched("", "highway");
    rig.wait(PATIENCE / 2);
    clients[0].step();
    clients[0].lease();
    rig.wait(PATIENCE / 2);
    assert_eq!(clients[0].revoked(), None);
    assert_eq!(clients[1].revoked(), Some(Generation(1)));
}

#[test]
fn m3_patience_counts_from_when_the_task_is_left_however_long_it_was_read() {
    let mut rig = rig_with(8, &TASKS, LIMITS);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    rig.wait(10 * PATIENCE);
    assert_eq!((rig.engine.next_tick(), client.revoked()), (None, None));
    rig.switched("", "highway");
    rig.wait(PATIENCE - MS);
    assert_eq!(client.revoked(), None);
    rig.wait(MS);
    assert_eq!(client.revoked(), Some(Generation(1)));
}

#[test]
fn m3_the_state_tells_who_keeps_what_and_for_how_long() {
    let (mut rig, mut client) = stuck(8);
    rig.wait(PATIENCE / 2);
    let lease = LeaseStatus {
        peer: PEER,
        generation: Generation(1),
        task: "city".into(),
        kept: 4,
        block_bytes: BLOCK_BYTES,
        superseded_for: PATIENCE / 2,
        revoked: false,
    };
    assert_eq!(leases(&mut rig), vec![lease.clone()]);
    // Half of it is part of another session's task now.
    rig.switched("left", "tunnel");
    rig.wait(PATIENCE);
    let later = LeaseStatus { kept: 2, superseded_for: 3 * PATIENCE / 2, revoked: true, ..lease };
    assert_eq!(leases(&mut rig), vec![later]);
    client.step();
    assert!(leases(&mut rig).is_empty());
}

#[test]
fn m3_what_several_leases_on_a_task_keep_together_is_told_with_each() {
    let mut rig = rig_with(8, &TASKS, LIMITS);
    let mut clients = [attach(&mut rig, ""), attach(&mut rig, "")];
    for client in &mut clients {
        rig.switched("", "city");
        client.lease();
        rig.switched("", "highway");
    }
    let state: Vec<_> = leases(&mut rig).iter().map(told).collect();
    assert_eq!(state, [(1, 4, false), (3, 4, false)]);
    rig.switched("", "tunnel");
    let state: Vec<_> = leases(&mut rig).iter().map(told).collect();
    assert_eq!(state, [(1, 2, false), (3, 2, false)]);
    rig.switched("", "city");
    let state: Vec<_> = leases(&mut rig).iter().map(told).collect();
    assert_eq!(state, [(1, 0, false), (3, 0, false)], "the session has it itself");
}

#[test]
fn m3_a_lease_is_looked_at_less_often_the_longer_it_lasts_but_told_in_time() {
    let (mut rig, _client) = stuck(8);
    let mut looks = Vec::new();
    for age in [0, 64, 640, 1600, 1990, 2000, 3200, 60_000] {
        let start = Duration::from_secs(1);
        rig.wait(start + age * MS - rig.now());
        looks.push((rig.engine.next_tick().unwrap() - rig.now()).as_millis());
    }
    assert_eq!(looks, [2, 2, 20, 50, 10, 62, 100, 100]);
}

#[test]
fn m3_a_switch_in_place_whose_own_client_never_lets_go_fails_and_the_task_is_back() {
    let mut rig = rig_with(4, &TASKS, LIMITS);
    let mut client = attach(&mut rig, "");
    rig.switched("", "city");
    client.lease();
    let answer = in_place(&mut rig, "", "highway");
    rig.wait(PATIENCE);
    assert_eq!(now(answer), Err(no_room(4, 0)));
    assert_eq!(serves(&mut rig), (3, Some("city".into())));
    assert_eq!((client.revoked(), client.rings()), (Some(Generation(1)), 4));
    client.assert_task(&rig.contents[0], TaskIndex(0));
    let again = in_place(&mut rig, "", "highway");
    assert_eq!(now(again), Err(no_room(4, 0)), "at once");
    assert_eq!(serves(&mut rig).0, 3, "and nothing is given up in vain");
    detach(&mut rig, &client);
    let answer = in_place(&mut rig, "", "highway");
    rig.settle();
    assert_eq!(now(answer).unwrap().generation, Generation(5));
}

#[test]
fn m3_a_switch_in_place_gives_its_task_up_when_a_reader_turns_out_to_be_stuck() {
    let (mut rig, client) = stuck(8);
    let mut answer = in_place(&mut rig, "", "parking");
    assert!(open(&mut answer), "both tasks fit once the lease ends");
    assert_eq!(serves(&mut rig), (2, Some("highway".into())));
    rig.wait(PATIENCE);
    assert_eq!(serves(&mut rig), (3, None));
    rig.settle();
    let report = now(answer).unwrap();
    assert_eq!((report.in_place, report.generation), (true, Generation(4)));
    client.assert_task(&rig.contents[0], TaskIndex(0));
}

#[test]
fn m3_a_stuck_client_of_one_model_is_no_matter_of_another() {
    let models = ["alpha", "beta"].map(|model| (content(model, &TASKS), 8));
    let mut rig = Rig::new(&models, LIMITS, 0);
    let ask = |rig: &mut Rig, model: &str, task: &str| {
        let mut command = rig.command("", task);
        command.target.model = model.into();
        let answer = rig.switch(command);
        rig.settle();
        now(answer)
    };
    ask(&mut rig, "alpha", "city").unwrap();
    let mut target = sim::rig::target("");
    target.model = "alpha".into();
    let mut client = Client::open(0, rig.attach(target).unwrap());
    client.lease();
    ask(&mut rig, "alpha", "highway").unwrap();
    rig.wait(PATIENCE);
    assert_eq!(ask(&mut rig, "alpha", "parking"), Err(no_room(4, 0)));
    for task in ["city", "highway", "parking"] {
        assert!(ask(&mut rig, "beta", task).is_ok(), "{task}");
    }
}

#[test]
fn m3_a_revoked_client_may_go_on_with_what_is_current() {
    // It should attach again; if it does not, its next lease is as good as any.
    let (mut rig, mut client) = stuck(8);
    rig.wait(PATIENCE);
    client.step();
    client.lease();
    assert_eq!(client.leased(), Some(TaskIndex(1)));
    rig.switched("", "parking");
    client.assert_task(&rig.contents[0], TaskIndex(1));
    let waiting = switch(&mut rig, "", "city");
    rig.wait(PATIENCE);
    assert_eq!(now(waiting), Err(no_room(4, 0)));
    assert_eq!(client.revoked(), Some(Generation(2)), "it is told again");
}
