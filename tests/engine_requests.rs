//! The engine's rules on requests and sessions, one a test. Names begin with the faults that they
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
    rig::{Fate, PEER, Rig, now, open, target},
    small::*,
};
use std::time::Duration;
use synchromesh::{
    engine::{Action, Command, EngineError, Lifetime, Limits, Outcome, SwitchCommand, Target},
    units::{BlockIndex, Generation},
};
use tokio::sync::oneshot;

#[test]
fn r4_what_is_unknown_is_refused_with_the_names_that_exist() {
    let models = ["alpha", "beta"].map(|model| (content(model, &[0..2, 2..4]), 4));
    let mut rig = Rig::new(&models, LIMITS, 0);
    let known = |names: [&str; 2]| names.map(String::from).to_vec();
    let mut ask = |model: &str, session: &str, task: &str| {
        let target = Target { model: model.into(), session: session.into() };
        let command = SwitchCommand { target, ..rig.command("", task) };
        now(rig.switch(command)).unwrap_err()
    };
    let name = || String::from("none");
    assert_eq!(
        ask("none", "", "city"),
        EngineError::UnknownModel { name: name(), known: known(["alpha", "beta"]) }
    );
    assert_eq!(
        ask("", "", "city"),
        EngineError::AmbiguousModel { known: known(["alpha", "beta"]) }
    );
    assert_eq!(
        ask("alpha", "none", "city"),
        EngineError::UnknownSession { name: name(), known: vec!["default".into()] }
    );
    assert_eq!(
        ask("alpha", "", "none"),
        EngineError::UnknownTask { name: name(), known: known(["city", "highway"]) }
    );
    assert!(rig.reads.is_empty());
}

#[test]
fn r11_a_caller_that_goes_away_does_not_stop_its_switch() {
    let mut rig = rig(4, &[0..4]);
    drop(switch(&mut rig, "", "city"));
    rig.settle();
    assert_eq!(active(&mut rig).as_deref(), Some("city"));
}

#[test]
fn r11_a_client_that_goes_away_while_it_attaches_is_no_member() {
    let mut rig = rig(4, &[0..4]);
    for _ in 0..5 {
        let (reply, _) = oneshot::channel();
        rig.apply(Action::Command(Command::Attach { target: target(""), peer: PEER, reply }));
    }
    assert_eq!(session(&mut rig, "default").clients, 0);
}

#[test]
fn r12_a_deadline_in_the_past_is_refused_and_no_deadline_means_the_limit() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let mut until = |deadline| rig.switch(SwitchCommand { deadline, ..rig.command("", "city") });
    let start = Duration::from_secs(1);
    for past in [Duration::ZERO, start - Duration::from_nanos(1), start] {
        assert_eq!(now(until(Some(past))), Err(EngineError::DeadlineExceeded));
    }
    for endless in [None, Some(Duration::MAX), Some(start + 2 * TIMEOUT)] {
        let mut answer = until(endless);
        assert!(open(&mut answer));
    }
    assert_eq!(rig.engine.next_tick(), Some(start + TIMEOUT));
    rig.wait(TIMEOUT);
    assert_eq!(session(&mut rig, "default").pending_task, None);
}

#[test]
fn r13_a_repeated_request_gets_the_first_answer() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let first = rig.switch(with_id(&rig, "city", "a"));
    let joined = rig.switch(with_id(&rig, "city", "a"));
    let other = rig.switch(with_id(&rig, "highway", "a"));
    assert_eq!(now(other), Err(EngineError::RequestIdReused));
    rig.settle();
    let report = now(first);
    assert!(report.is_ok());
    assert_eq!(now(joined), report, "while it runs");
    rig.switched("", "highway");
    let late = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(late), report, "when it is done");
    assert_eq!(active(&mut rig).as_deref(), Some("highway"), "and nothing happens");
}

#[test]
fn r13_a_failure_is_an_answer_too_and_each_session_has_its_own_ids() {
    let mut rig = rig(8, &[0..4, 4..8]);
    rig.open("left");
    rig.broken.insert((0, BlockIndex(0)), Fate::Error);
    let first = rig.switch(with_id(&rig, "city", "a"));
    rig.settle();
    assert_eq!(now(first), Err(corrupt("city")));
    rig.broken.clear();
    let again = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(again), Err(corrupt("city")));
    let left = SwitchCommand { target: target("left"), ..with_id(&rig, "highway", "a") };
    let left = rig.switch(left);
    rig.settle();
    assert!(now(left).is_ok());
}

#[test]
fn r13_each_caller_of_a_request_waits_as_long_as_it_wants_to() {
    let mut rig = rig(4, &[0..4]);
    let first = rig.switch(with_id(&rig, "city", "a"));
    let soon = rig.now() + Duration::from_millis(1);
    let repeat = rig.switch(SwitchCommand { deadline: Some(soon), ..with_id(&rig, "city", "a") });
    assert_eq!(rig.engine.next_tick(), Some(soon));
    rig.wait(Duration::from_millis(1));
    assert_eq!(now(repeat), Err(EngineError::DeadlineExceeded));
    rig.settle();
    assert!(now(first).is_ok(), "a repeat that gives up early does not end the first call");
}

#[test]
fn r13_ids_of_another_session_do_not_make_a_repeat_switch_twice() {
    let mut rig = rig(8, &[0..4, 4..8]);
    rig.open("left");
    rig.switched("left", "highway");
    let first = rig.switch(with_id(&rig, "city", "a"));
    rig.settle();
    let report = now(first);
    many_ids(&mut rig, "left", 2000);
    rig.switched("", "highway");
    let repeat = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(repeat), report);
    assert_eq!(active(&mut rig).as_deref(), Some("highway"), "and nothing happens");
}

#[test]
fn r13_a_repeat_joins_its_running_request_after_any_number_of_others() {
    let mut rig = rig(8, &[0..4, 4..8]);
    rig.open("left");
    rig.switched("left", "highway");
    let first = rig.switch(with_id(&rig, "city", "a"));
    many_ids(&mut rig, "left", 2000);
    let mut repeat = rig.switch(with_id(&rig, "city", "a"));
    assert!(open(&mut repeat));
    rig.settle();
    let report = now(first);
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(now(repeat), report);
}

#[test]
fn r13_an_id_is_remembered_for_a_minute_and_while_it_is_among_the_newest() {
    let mut rig = rig(8, &[0..4, 4..8]);
    rig.switched("", "highway");
    let first = rig.switch(with_id(&rig, "city", "a"));
    rig.settle();
    let report = now(first);
    rig.switched("", "highway");
    rig.wait(Duration::from_secs(59));
    many_ids(&mut rig, "", 2000);
    let young = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(young), report);
    rig.wait(Duration::from_secs(3600));
    let newest = rig.switch(with_id(&rig, "highway", "r1999"));
    assert_eq!(now(newest).unwrap().outcome, Outcome::AlreadyActive);
    drop(rig.switch(with_id(&rig, "highway", "fresh")));
    let forgotten = now(rig.switch(with_id(&rig, "city", "a")));
    assert_ne!(forgotten, report, "it is a new request");
}

/// Sends switches of a session to `highway`, which it has, each with an id of its own.
fn many_ids(rig: &mut Rig, session: &str, count: usize) {
    for other in 0..count {
        let command = with_id(rig, "highway", &format!("r{other}"));
        drop(rig.switch(SwitchCommand { target: target(session), ..command }));
    }
}

#[test]
fn r13_a_full_pool_is_not_remembered_so_a_repeat_with_the_same_id_succeeds_once_there_is_room() {
    let mut rig = rig(4, &[0..4, 4..8]);
    rig.open("left");
    rig.switched("left", "highway");
    let full = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(full), Err(no_room(4, 0)));
    let still = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(still), Err(no_room(4, 0)));
    rig.close("left").unwrap();
    let retried = rig.switch(with_id(&rig, "city", "a"));
    rig.settle();
    let report = now(retried);
    assert!(report.is_ok(), "{report:?}");
    let repeat = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(repeat), report, "what has happened is remembered");
}

#[test]
fn r13_a_request_that_ended_at_its_deadline_may_be_tried_again_with_the_same_id() {
    let mut rig = rig(4, &[0..4]);
    let soon = rig.now() + Duration::from_millis(1);
    let late = rig.switch(SwitchCommand { deadline: Some(soon), ..with_id(&rig, "city", "a") });
    rig.wait(Duration::from_millis(1));
    assert_eq!(now(late), Err(EngineError::DeadlineExceeded));
    let again = rig.switch(with_id(&rig, "city", "a"));
    rig.settle();
    assert!(now(again).is_ok());
}

#[test]
fn r13_a_device_that_does_not_answer_is_not_remembered() {
    let stall = Duration::from_secs(2);
    let mut rig = rig_with(4, &[0..4], Limits { stall, ..LIMITS });
    let first = rig.switch(with_id(&rig, "city", "a"));
    rig.wait(stall);
    assert_eq!(now(first), Err(EngineError::StorageUnavailable));
    rig.settle();
    let again = rig.switch(with_id(&rig, "city", "a"));
    rig.settle();
    assert!(now(again).is_ok());
}

#[test]
fn r13_a_superseded_request_is_remembered_so_its_repeat_does_not_undo_the_later_one() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let first = rig.switch(with_id(&rig, "city", "a"));
    rig.switched("", "highway");
    assert_eq!(now(first), Err(EngineError::Superseded));
    let repeat = rig.switch(with_id(&rig, "city", "a"));
    assert_eq!(now(repeat), Err(EngineError::Superseded));
}

#[test]
fn r14_of_two_switches_the_later_wins_and_shares_the_reads() {
    let mut rig = rig(8, &[0..4, 2..6]);
    let first = switch(&mut rig, "", "city");
    let second = switch(&mut rig, "", "highway");
    assert_eq!(now(first), Err(EngineError::Superseded));
    rig.settle();
    assert_eq!(now(second).unwrap().generation, Generation(1));
    let twice = rig.asked.iter().filter(|(_, block)| block.0 == 2 || block.0 == 3).count();
    assert_eq!(twice, 2, "what was under way is not read again");
}

#[test]
fn r15_a_switch_that_expects_another_generation_is_refused() {
    let mut rig = rig(8, &[0..4, 4..8]);
    rig.switched("", "city");
    let expecting = |rig: &mut Rig, generation| {
        let expected_generation = Some(Generation(generation));
        rig.switch(SwitchCommand { expected_generation, ..rig.command("", "highway") })
    };
    for wrong in [0, 2, u64::MAX] {
        let (expected, actual) = (Generation(wrong), Generation(1));
        let answer = now(expecting(&mut rig, wrong));
        assert_eq!(answer, Err(EngineError::GenerationMismatch { expected, actual }));
    }
    let right = expecting(&mut rig, 1);
    rig.settle();
    assert_eq!(now(right).unwrap().generation, Generation(2));
}

#[test]
fn r20_a_switch_to_the_active_task_changes_nothing() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let client = attach(&mut rig, "");
    rig.switched("", "city");
    assert_eq!(client.rings(), 1);
    let pending = switch(&mut rig, "", "highway");
    let before = client.active();
    let report = now(switch(&mut rig, "", "city")).unwrap();
    assert_eq!((report.outcome, report.generation), (Outcome::AlreadyActive, Generation(1)));
    assert_eq!((report.needed, report.reused, report.read, report.evicted), (4, 4, 0, 0));
    assert_eq!((client.active(), client.rings()), (before, 0));
    assert_eq!(now(pending), Err(EngineError::Superseded), "it is the later wish all the same");
}

#[test]
fn a_session_is_closed_only_when_no_client_is_attached() {
    let mut rig = rig(8, &[0..4, 4..8]);
    rig.open("left");
    let client = attach(&mut rig, "left");
    rig.switched("left", "city");
    let in_use = EngineError::SessionInUse { name: "left".into(), clients: 1 };
    assert_eq!(rig.close("left"), Err(in_use));
    assert_eq!(rig.close("default"), Err(EngineError::DefaultSession));
    assert_eq!(rig.close(""), Err(EngineError::DefaultSession));
    let pending = switch(&mut rig, "left", "highway");
    detach(&mut rig, &client);
    assert_eq!(rig.close("left"), Ok(()));
    assert_eq!(now(pending), Err(EngineError::SessionClosed));
    rig.settle();
    assert_eq!(rig.status()[0].pool.pinned, 0);
    assert!(matches!(rig.close("left"), Err(EngineError::UnknownSession { .. })));
}

#[test]
fn sessions_and_clients_are_bounded_and_places_come_back() {
    let mut rig = rig(4, &[0..4]);
    (1..64).for_each(|place| rig.open(&format!("s{place}")));
    let open = |rig: &mut Rig| {
        let (target, lifetime) = (target("more"), Lifetime::default());
        now(rig.ask(|reply| Command::OpenSession { target, lifetime, opener: None, reply }))
            .map(drop)
    };
    assert_eq!(open(&mut rig), Err(EngineError::TooManySessions(64)));
    rig.close("s7").unwrap();
    assert_eq!(open(&mut rig), Ok(()));
    let clients = [attach(&mut rig, "more"), attach(&mut rig, "more")];
    assert_eq!(clients[0].entry.number(), 7, "the place of the closed one");
    let third = rig.attach(target("more"));
    assert_eq!(third.map(drop), Err(EngineError::TooManyClients(2)));
    detach(&mut rig, &clients[0]);
    assert!(rig.attach(target("more")).is_ok());
}

#[test]
fn a_drained_engine_finishes_what_runs_and_takes_nothing_else() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let running = switch(&mut rig, "", "city");
    rig.apply(Action::Command(Command::Drain));
    assert!(!rig.engine.is_drained());
    assert_eq!(now(switch(&mut rig, "", "highway")), Err(EngineError::Draining));
    rig.settle();
    assert!(rig.engine.is_drained());
    assert!(now(running).is_ok());
}

#[test]
fn repeats_of_a_running_switch_are_limited_and_callers_that_went_away_make_place() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let repeat = |rig: &mut Rig| rig.switch(with_id(rig, "city", "one"));
    let mut callers: Vec<_> = (0..64).map(|_| repeat(&mut rig)).collect();
    assert_eq!(now(repeat(&mut rig)), Err(EngineError::TooManyCallers(64)));
    callers.truncate(10);
    callers.push(repeat(&mut rig));
    rig.settle();
    assert!(callers.into_iter().all(|caller| now(caller).is_ok()));
}

#[test]
fn a_switch_outlasts_its_last_caller_for_those_that_went_away() {
    let mut rig = rig(8, &[0..4, 4..8]);
    (0..64).for_each(|_| drop(rig.switch(with_id(&rig, "city", "one"))));
    let deadline = Some(rig.now() + Duration::from_secs(1));
    let last = rig.switch(SwitchCommand { deadline, ..with_id(&rig, "city", "one") });
    rig.wait(Duration::from_secs(2));
    assert_eq!(now(last), Err(EngineError::DeadlineExceeded));
    assert_eq!(rig.engine.next_tick(), Some(Duration::from_secs(1) + TIMEOUT), "until theirs");
    rig.settle();
    assert_eq!(active(&mut rig).as_deref(), Some("city"));
}

#[test]
fn callers_that_wait_for_preparations_are_limited_and_those_that_went_away_make_place() {
    let mut rig = rig(8, &[0..4, 4..8]);
    let callers: Vec<_> = (0..256).map(|_| prepare(&mut rig, "city", Duration::ZERO)).collect();
    let refused = now(prepare(&mut rig, "highway", Duration::ZERO));
    assert_eq!(refused, Err(EngineError::TooManyCallers(256)));
    drop(callers);
    let last = prepare(&mut rig, "highway", Duration::ZERO);
    rig.pass(Duration::from_secs(1));
    assert!(now(last).is_ok());
}
