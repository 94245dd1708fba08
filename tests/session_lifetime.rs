//! How long sessions stay open: their time to live, and the clients that own them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]

mod common;
mod sim;

use common::{
    calls::{bundle, reason, runtime, switch as to, whole},
    daemon::{Daemon, run},
    soon,
};
use sim::{
    rig::{PEER, Rig, now, open, target},
    small::*,
};
use std::{ops::Range, time::Duration};
use synchromesh::{
    client::{AttachError, Attachment, BlockingControl},
    device::Notice,
    engine::{Command, EngineError, EventKind, HintCommand, Lifetime, Peer, SessionEnd},
    proto,
    units::{Generation, TaskIndex},
};

const TTL: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_nanos(1);
const WITH_TTL: Lifetime = Lifetime { ttl: Some(TTL), owned: false };
const OWNED: Lifetime = Lifetime { ttl: None, owned: true };
const TASKS: [Range<u32>; 2] = [0..4, 4..8];

fn is_open(rig: &mut Rig, name: &str) -> bool {
    rig.status()[0].sessions.iter().any(|session| session.session == name)
}

/// Why the last session was closed.
fn end(rig: &Rig) -> Option<SessionEnd> {
    let end = |event: &EventKind| match event {
        EventKind::Closed { end, .. } => Some(*end),
        _ => None,
    };
    rig.events.iter().rev().find_map(end)
}

#[test]
fn a_session_closes_when_its_time_to_live_passes_without_a_call() {
    let mut rig = rig(8, &TASKS);
    rig.open_for("left", WITH_TTL);
    rig.switched("left", "city");
    assert_eq!(session(&mut rig, "left").remaining, Some(TTL));
    rig.wait(TTL - SHORT);
    assert_eq!(session(&mut rig, "left").remaining, Some(SHORT));
    assert_eq!(rig.engine.next_tick(), Some(rig.now() + SHORT));
    rig.wait(SHORT);
    assert!(!is_open(&mut rig, "left"));
    assert_eq!(end(&rig), Some(SessionEnd::Expired));
    assert_eq!(rig.status()[0].pool.pinned, 0, "its task is unpinned");
    assert_eq!(rig.engine.next_tick(), None);
}

#[test]
fn each_call_that_names_a_session_renews_its_time_to_live() {
    let mut rig = rig(8, &TASKS);
    rig.open_for("left", WITH_TTL);
    rig.wait(TTL - SHORT);
    rig.switched("left", "city");
    rig.wait(TTL - SHORT);
    let command = HintCommand { target: target("left"), hints: Vec::new() };
    now(rig.ask(|reply| Command::Hint(command, reply))).unwrap();
    rig.wait(TTL - SHORT);
    let refused = switch(&mut rig, "left", "nowhere");
    assert!(matches!(now(refused), Err(EngineError::UnknownTask { .. })));
    rig.wait(TTL - SHORT);
    assert!(is_open(&mut rig, "left"), "to ask for the state renews nothing");
    rig.wait(SHORT);
    let late = switch(&mut rig, "left", "city");
    assert!(matches!(now(late), Err(EngineError::UnknownSession { .. })));
}

#[test]
fn the_time_to_live_does_not_run_while_a_switch_runs_or_a_client_is_attached() {
    let mut rig = rig(8, &TASKS);
    rig.open_for("left", WITH_TTL);
    let mut running = switch(&mut rig, "left", "city");
    rig.wait(2 * TTL);
    assert!(open(&mut running));
    assert_eq!(session(&mut rig, "left").remaining, None);
    rig.settle();
    assert_eq!(session(&mut rig, "left").remaining, Some(TTL), "it starts anew");
    let client = attach(&mut rig, "left");
    rig.wait(2 * TTL);
    assert_eq!(session(&mut rig, "left").remaining, None);
    detach(&mut rig, &client);
    assert_eq!(session(&mut rig, "left").remaining, Some(TTL));
    rig.wait(TTL);
    assert!(!is_open(&mut rig, "left"));
}

#[test]
fn owned_sessions_close_with_their_owners_and_leave_no_pin() {
    let mut rig = rig(8, &TASKS);
    let mut clients = Vec::new();
    for (at, task) in ["city", "highway"].repeat(4).into_iter().enumerate() {
        let name = format!("s{at}");
        rig.open_for(&name, OWNED);
        clients.push(attach(&mut rig, &name));
        rig.switched(&name, task);
        assert_eq!(session(&mut rig, &name).owner, Some(PEER));
    }
    assert_eq!(rig.status()[0].pool.pinned, 8);
    for client in &clients {
        detach(&mut rig, client);
        assert_eq!(end(&rig), Some(SessionEnd::Owner));
    }
    let status = rig.status().remove(0);
    assert_eq!((status.sessions.len(), status.pool.pinned), (1, 0));
    assert_eq!(rig.switched("", "city").read, 0, "the blocks stay as cache");
}

#[test]
fn an_owned_session_that_no_client_attaches_to_closes_after_30_s_or_its_time_to_live() {
    let mut rig = rig(8, &TASKS);
    rig.open_for("left", OWNED);
    rig.open_for("right", Lifetime { ttl: Some(TTL), owned: true });
    rig.wait(TTL);
    assert!(is_open(&mut rig, "left") && !is_open(&mut rig, "right"));
    rig.wait(Duration::from_secs(30) - TTL);
    assert!(!is_open(&mut rig, "left"));
}

#[test]
fn other_attachments_end_with_the_owner_and_what_they_lease_stays_until_they_let_go() {
    let mut rig = rig(8, &TASKS);
    rig.open_for("left", OWNED);
    let owner = attach(&mut rig, "left");
    let mut other = attach(&mut rig, "left");
    rig.switched("left", "city");
    other.lease();
    detach(&mut rig, &owner);
    assert_eq!(other.cell.notice(), Some(Notice::Ended));
    assert!(other.rings() > 0, "its doorbell rings");
    assert_eq!(other.active().task, None, "there is nothing more to lease");
    assert!(!is_open(&mut rig, "left"));

    rig.switched("", "highway");
    other.assert_task(&rig.contents[0], TaskIndex(0));
    assert_eq!(rig.status()[0].pool.pinned, 8, "what it reads stays");
    rig.open("left");
    rig.switched("left", "highway");
    assert_eq!(other.active().task, None, "the new session has another place");
    other.step();
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.status()[0].pool.pinned, 4);
    detach(&mut rig, &other);
    rig.open("right");
    assert_eq!(attach(&mut rig, "right").entry, other.entry, "its place is free again");
}

#[test]
fn an_owned_session_stays_when_another_client_detaches() {
    let mut rig = rig(8, &TASKS);
    rig.open_for("left", OWNED);
    let _owner = attach(&mut rig, "left");
    let other = attach(&mut rig, "left");
    detach(&mut rig, &other);
    rig.wait(Duration::from_secs(3600));
    assert_eq!(session(&mut rig, "left").clients, 1);
}

#[test]
fn a_session_cannot_be_named_dot_or_dot_dot() {
    let mut rig = rig(4, &TASKS[..1]);
    for name in [".", ".."] {
        let (target, lifetime) = (target(name), Lifetime::default());
        let opened =
            now(rig.ask(|reply| Command::OpenSession { target, lifetime, opener: None, reply }));
        assert!(matches!(opened, Err(EngineError::BadName { .. })), "{name}");
    }
    rig.open("...");
}

#[test]
fn a_process_and_a_user_open_their_share_of_the_sessions_and_root_any_number() {
    let mut rig = rig(4, &TASKS[..1]);
    let mut count = 0;
    let mut open = |pid, uid| {
        count += 1;
        let (target, lifetime) = (target(&format!("s{count}")), Lifetime::default());
        let opener = Some(Peer { pid, uid });
        now(rig.ask(|reply| Command::OpenSession { target, lifetime, opener, reply })).map(drop)
    };
    for pid in [7, 8] {
        assert!((0..16).all(|_| open(pid, 4711).is_ok()), "process {pid}");
        let refused = open(pid, 4711).unwrap_err();
        assert!(matches!(refused, EngineError::TooManySessionsOf { .. }), "{refused}");
    }
    let refused = open(9, 4711).unwrap_err();
    assert_eq!(refused, EngineError::TooManySessionsOf { whom: "user", limit: 32 });
    assert!(open(9, 4712).is_ok(), "another user");
    assert!((0..30).all(|_| open(1, 0).is_ok()), "root, up to all places");
    assert_eq!(open(1, 0).unwrap_err(), EngineError::TooManySessions(64));
}

fn end_attachment(rig: &mut Rig, session: &str, pid: u32) -> Result<usize, EngineError> {
    let (target, caller) = (target(session), Some(Peer { pid: 1, uid: 0 }));
    now(rig.ask(|reply| Command::EndAttachment { target, pid, caller, reply }))
}

#[test]
fn an_attachment_that_an_operator_ends_keeps_what_it_reads_and_gets_no_more() {
    let mut rig = rig(8, &TASKS);
    rig.open("left");
    let mut client = attach(&mut rig, "left");
    rig.switched("left", "city");
    client.lease();
    client.rings();
    let stranger = end_attachment(&mut rig, "left", PEER.pid + 1);
    assert!(matches!(stranger, Err(EngineError::NotAttached { .. })), "{stranger:?}");
    assert_eq!(client.cell.notice(), None);
    assert_eq!(end_attachment(&mut rig, "left", PEER.pid), Ok(1));
    assert_eq!(client.cell.notice(), Some(Notice::Ended));
    assert_eq!(client.rings(), 1, "it is told at once");
    let told = rig.events.iter().find_map(|event| match event {
        EventKind::AttachmentEnded { session, peer, caller } => Some((session, *peer, *caller)),
        _ => None,
    });
    let (session_name, peer, caller) = told.unwrap();
    assert_eq!((&**session_name, peer, caller.unwrap().pid), ("left", PEER, 1));

    // It is slow to let go: what it reads stays, and what its cell says, too.
    rig.switched("left", "highway");
    rig.wait(Duration::from_secs(3600));
    client.assert_task(&rig.contents[0], TaskIndex(0));
    assert_eq!(client.cell.notice(), Some(Notice::Ended), "not that its lease was revoked");
    assert_eq!(session(&mut rig, "left").clients, 0);
    let again = end_attachment(&mut rig, "left", PEER.pid);
    assert!(matches!(again, Err(EngineError::NotAttached { .. })), "{again:?}");

    let close = |rig: &mut Rig| {
        let target = target("left");
        now(rig.ask(|reply| Command::CloseSession { target, caller: None, reply }))
    };
    close(&mut rig).unwrap();
    client.assert_task(&rig.contents[0], TaskIndex(0));
    assert_eq!(rig.status()[0].pool.pinned, 4, "what it reads stays");
    detach(&mut rig, &client);
    assert_eq!(rig.status()[0].pool.pinned, 0);
}

#[test]
fn an_owned_session_closes_when_an_operator_ends_its_owners_attachment() {
    let mut rig = rig(8, &TASKS);
    rig.open_for("left", OWNED);
    let owner = attach(&mut rig, "left");
    rig.switched("left", "city");
    assert_eq!(end_attachment(&mut rig, "left", PEER.pid), Ok(1));
    assert!(!is_open(&mut rig, "left"));
    assert_eq!(end(&rig), Some(SessionEnd::Owner));
    let closed = |rig: &Rig| {
        rig.events.iter().filter(|event| matches!(event, EventKind::Closed { .. })).count()
    };
    assert_eq!((closed(&rig), rig.status()[0].pool.pinned), (1, 0));
    detach(&mut rig, &owner);
    assert_eq!(closed(&rig), 1, "it closes once");
}

#[test]
fn an_operator_ends_an_attachment_from_the_command_line() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
    let (control, pid) = (daemon.control(), std::process::id().to_string());
    let detach = || run(&["sessions", "detach", &pid, "--control", control.to_str().unwrap()]);
    let output = detach();
    assert!(output.status.success(), "{output:?}");
    assert!(matches!(attached.lease().unwrap_err(), AttachError::Closed));
    let waited = attached.wait(Generation(u64::MAX >> 16), common::HANG);
    assert!(matches!(waited, Err(AttachError::Closed)), "{waited:?}");
    let output = detach();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("NOT_ATTACHED"), "{said}");
    drop(attached);
    let mut again = Attachment::connect(&daemon.attach(), "", "").unwrap();
    assert!(matches!(again.lease().unwrap_err(), AttachError::NoTask), "it may attach again");
}

/// Sessions and pinned slots of the only model.
fn state(control: &mut BlockingControl) -> (Vec<proto::SessionStatus>, u64) {
    let request = proto::GetStatusRequest::default();
    let status = control.call(async |client| client.get_status(request).await).unwrap();
    let model = status.models.into_iter().next().unwrap();
    (model.sessions, model.pool.unwrap().pinned)
}

#[test]
fn eight_attachments_that_end_leave_no_session_and_no_pin() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let mut control = BlockingControl::connect(&daemon.control()).unwrap();
    let mut attachments = Vec::new();
    for at in 0..8 {
        let session = format!("s{at}");
        let open = proto::OpenSessionRequest {
            session: session.clone(),
            ttl_ms: Some(60_000),
            owner: proto::SessionOwner::Attachment.into(),
            ..Default::default()
        };
        let opened = control.call(async |client| client.open_session(open).await).unwrap();
        assert!(opened.session.unwrap().remaining_ms.is_some_and(|ms| ms <= 60_000));
        attachments.push(Attachment::connect(&daemon.attach(), "", &session).unwrap());
        let switch = proto::SwitchTaskRequest { session, ..to("city") };
        let switched = control.call(async |client| client.switch_task(switch).await).unwrap();
        assert_eq!(switched.instance, opened.instance, "it is one run of the daemon");
    }
    let (sessions, pinned) = state(&mut control);
    assert_eq!(sessions.len(), 9);
    assert!(pinned > 0);
    let owned = &sessions[1];
    let own = proto::Client { pid: std::process::id(), uid: rustix::process::getuid().as_raw() };
    assert_eq!((owned.owner, owned.owned_by()), (Some(own), proto::SessionOwner::Attachment));
    drop(attachments);
    assert!(soon(|| state(&mut control).0.len() == 1), "they close with their owners");
    assert_eq!(state(&mut control).1, 0);
}

#[test]
fn a_time_to_live_or_an_owner_that_cannot_be_is_refused() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        let mut open = async |ttl_ms: Option<u64>, owner| {
            let session = "left".into();
            let request =
                proto::OpenSessionRequest { session, ttl_ms, owner, ..Default::default() };
            control.open_session(request).await.map(drop)
        };
        for ttl in [0, 99, 86_400_001, u64::MAX] {
            assert_eq!(reason(&open(Some(ttl), 0).await.unwrap_err()), "BAD_TTL", "{ttl}");
        }
        assert_eq!(reason(&open(None, 7).await.unwrap_err()), "BAD_OWNER");
        open(Some(86_400_000), 0).await.unwrap();
    });
}
