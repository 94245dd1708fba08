//! Sessions over restarts without a service manager: what the state folder keeps, and what becomes of
//! files there that are damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    Fixture,
    calls::{bundle, runtime, switch, whole},
    daemon::{Daemon, run, write_config},
    soon,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};
use synchromesh::{
    client::BlockingControl,
    daemon::SessionKeeper,
    engine::{KeptSession, KeptSessions},
    proto::{self, OpenSessionRequest, SessionStatus, SwitchTaskRequest},
};

fn sessions(daemon: &Daemon) -> Vec<SessionStatus> {
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
        status.into_inner().models.remove(0).sessions
    })
}

/// Names and tasks.
fn tasks(daemon: &Daemon) -> Vec<(String, String)> {
    sessions(daemon).into_iter().map(|session| (session.session, session.task)).collect()
}

fn named(tasks: &[(&str, &str)]) -> Vec<(String, String)> {
    tasks.iter().map(|(name, task)| ((*name).to_owned(), (*task).to_owned())).collect()
}

fn open(daemon: &Daemon, request: OpenSessionRequest) {
    runtime().block_on(async { daemon.connect().await.open_session(request).await.unwrap() });
}

fn plain(session: &str) -> OpenSessionRequest {
    OpenSessionRequest { session: session.into(), ..Default::default() }
}

/// Switches, and gives the generation.
fn switch_to(daemon: &Daemon, session: &str, task: &str) -> u64 {
    let mut control = BlockingControl::connect(&daemon.control()).unwrap();
    let request = SwitchTaskRequest { session: session.into(), ..switch(task) };
    control.call(async |client| client.switch_task(request).await).unwrap().generation
}

/// Waits until the state folder says that a session has a task.
fn wait_for_stored(daemon: &Daemon, session: &str, task: &str) {
    let is_stored = |stored: KeptSessions| {
        let mut sessions = stored.sessions.iter();
        sessions.any(|kept| kept.name == session && kept.task.as_deref() == Some(task))
    };
    assert!(soon(|| stored(daemon.folder.path()).is_some_and(is_stored)), "{session} has {task}");
}

fn stored(folder: &Path) -> Option<KeptSessions> {
    SessionKeeper::open(folder).load("small")
}

fn files(folder: &Path) -> [PathBuf; 2] {
    ["a", "b"].map(|place| folder.join(format!("sessions-small.{place}")))
}

/// Kills a daemon and starts another in its folder.
fn crash(mut daemon: Daemon) -> Daemon {
    daemon.kill();
    // What counts starts would have its way after the third one.
    let _ = fs::remove_file(daemon.folder.path().join("starts"));
    daemon.again()
}

#[test]
fn sessions_tasks_and_generations_go_on_after_a_stop_and_after_a_kill() {
    let (folder, _, bundle) = bundle();
    let mut daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    open(&daemon, plain("rear"));
    open(&daemon, OpenSessionRequest { ttl_ms: Some(3_600_000), ..plain("idle") });
    open(&daemon, OpenSessionRequest { owner: 1, ..plain("owned") });
    switch_to(&daemon, "rear", "city");
    switch_to(&daemon, "", "highway");
    let mut latest = switch_to(&daemon, "rear", "parking");
    type Restart = fn(Daemon) -> Daemon;
    let restarts: [(Restart, &str); 2] = [(Daemon::restart, "city"), (crash, "highway")];
    for (restart, task) in restarts {
        wait_for_stored(&daemon, "default", "highway");
        wait_for_stored(&daemon, "rear", "parking");
        daemon = restart(daemon);
        let expected = named(&[("default", "highway"), ("idle", ""), ("rear", "parking")]);
        assert_eq!(tasks(&daemon), expected, "an owned session ends with its owner");
        let restored = sessions(&daemon);
        assert!(restored.iter().all(|session| session.generation > latest), "{restored:?}");
        assert!(restored[1].remaining_ms.is_some_and(|ms| ms > 3_500_000), "its full time");
        open(&daemon, plain("new"));
        latest = switch_to(&daemon, "new", task).max(latest);
        let of_new = sessions(&daemon).into_iter().find(|session| session.session == "new");
        assert!(of_new.unwrap().generation >= latest, "names that are used again count on, too");
        let close = proto::CloseSessionRequest { session: "new".into(), ..Default::default() };
        runtime().block_on(async {
            daemon.connect().await.close_session(close).await.unwrap();
        });
        latest = latest.max(switch_to(&daemon, "rear", "city"));
        latest = latest.max(switch_to(&daemon, "rear", "parking"));
    }
}

#[test]
fn a_daemon_of_another_run_has_another_instance() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let instance = |daemon: &Daemon| {
        let request = proto::GetStatusRequest::default();
        let mut control = BlockingControl::connect(&daemon.control()).unwrap();
        control.call(async |client| client.get_status(request).await).unwrap().instance
    };
    let before = instance(&daemon);
    assert_eq!(before, instance(&daemon));
    assert!(!before.is_empty());
    assert_ne!(instance(&daemon.restart()), before);
}

#[test]
fn a_task_that_another_bundle_does_not_have_is_left_out_with_a_warning() {
    let (folder, _, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    let daemon = Daemon::start(&path, whole(&bundle));
    open(&daemon, plain("rear"));
    switch_to(&daemon, "", "city");
    switch_to(&daemon, "rear", "parking");
    wait_for_stored(&daemon, "rear", "parking");
    let mut other = Fixture { seed: 2, ..Fixture::small() };
    other.tasks[2].name = "tunnel";
    other.write(&path);
    let daemon = daemon.restart();
    assert_eq!(tasks(&daemon), named(&[("default", "city"), ("rear", "")]));
    let log = daemon.log();
    assert!(log.iter().any(|line| line.contains("the bundle has no such task")), "{log:?}");
}

/// A file with a checksum that matches.
fn file_of(magic: &str, version: u32, sequence: &str, body: &[u8]) -> Vec<u8> {
    let checksum = blake3::hash(body).to_hex();
    let mut file = format!("{magic} {version} {sequence} {checksum}\n").into_bytes();
    file.extend(body);
    file
}

fn kept(begun: u64, ceiling: u64, names: &[&str]) -> KeptSessions {
    let session = |name: &&str| KeptSession {
        name: (*name).to_owned(),
        task: Some("city".into()),
        ttl_ms: None,
    };
    KeptSessions { begun, ceiling, sessions: names.iter().map(session).collect() }
}

#[test]
fn what_is_damaged_is_left_out_and_the_older_record_holds() {
    const MAGIC: &str = "synchromesh-sessions";
    let body = serde_json::to_vec(&kept(0, 9, &["default"])).unwrap();
    let unsound = serde_json::to_vec(&kept(0, u64::MAX, &["default"])).unwrap();
    let reversed = serde_json::to_vec(&kept(9, 1, &["default"])).unwrap();
    let mut flipped = file_of(MAGIC, 1, "7", &body);
    *flipped.last_mut().unwrap() ^= 1;
    let cut = file_of(MAGIC, 1, "7", &body);
    let damaged = [
        Vec::new(),
        b"\xFF\xFE".to_vec(),
        flipped,
        cut[..cut.len() / 2].to_vec(),
        file_of("synchromesh-foresight", 1, "7", &body),
        file_of(MAGIC, 2, "7", &body),
        file_of(MAGIC, 1, "-7", &body),
        file_of(MAGIC, 1, &u64::MAX.to_string(), &body),
        file_of(MAGIC, 1, "7", b"{}"),
        vec![b'x'; 17 << 20],
    ];
    for (number, bytes) in damaged.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = files(folder.path());
        fs::write(&a, bytes).unwrap();
        assert_eq!(stored(folder.path()), None, "damage {number}");
        let older = kept(0, 5, &["default", "rear"]);
        fs::write(b, file_of(MAGIC, 1, "3", &serde_json::to_vec(&older).unwrap())).unwrap();
        assert_eq!(stored(folder.path()), Some(older), "damage {number}");
    }
    for body in [unsound, reversed] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(&files(folder.path())[0], file_of(MAGIC, 1, "7", &body)).unwrap();
        assert_eq!(stored(folder.path()), None);
    }
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = files(folder.path());
    fs::create_dir(&a).unwrap();
    symlink("/nowhere", &b).unwrap();
    assert_eq!(stored(folder.path()), None);
}

#[test]
fn records_are_written_in_turn_and_only_when_something_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = files(folder.path());
    let mut keeper = SessionKeeper::open(folder.path());
    keeper.save("small", kept(0, 1 << 20, &["default"]));
    keeper.save("small", kept(0, (1 << 20) + 7, &["default"]));
    assert!(a.exists() && !b.exists(), "the generations that are reserved suffice");
    keeper.save("small", kept(0, 2 << 20, &["default"]));
    assert!(b.exists());
    assert_eq!(stored(folder.path()), Some(kept(0, 2 << 20, &["default"])));
    keeper.save("small", kept(0, 2 << 20, &["default", "rear"]));
    assert_eq!(stored(folder.path()).unwrap().sessions.len(), 2);
    SessionKeeper::open(Path::new("/nowhere")).save("small", kept(0, 1, &[]));
}

#[test]
fn a_daemon_starts_with_stored_sessions_that_cannot_be() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let state = daemon.folder.path().to_owned();
    let mut daemon = daemon;
    assert_eq!(daemon.stop(), Some(0));
    let names: Vec<_> = (0..100).map(|number| format!("s{number}")).collect();
    let mut names: Vec<_> = names.iter().map(String::as_str).collect();
    names.splice(0..0, ["..", "", "a/b", "default", "rear", "rear"]);
    for file in files(&state) {
        let _ = fs::remove_file(file);
    }
    SessionKeeper::open(&state).save("small", kept(0, 5, &names));
    let daemon = daemon.again();
    let restored = tasks(&daemon);
    assert_eq!(restored[0], ("default".into(), "city".into()));
    assert!(restored.iter().any(|(name, task)| name == "rear" && task == "city"), "{restored:?}");
    assert!(restored.len() <= 64);
}

#[test]
fn a_second_daemon_with_the_same_state_folder_is_refused_with_exit_code_2() {
    let (folder, _, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    let daemon = Daemon::start(&path, whole(&bundle));
    let lock = daemon.folder.path().join("lock");
    assert_eq!(fs::metadata(lock).unwrap().permissions().mode() & 0o777, 0o600);
    let place = tempfile::tempdir().unwrap();
    let (shown, state) = (path.display(), daemon.folder.path().display());
    let model = format!("{{bundle: {shown}, pool_bytes: {}}}", whole(&bundle));
    write_config(place.path(), &format!("models: [{model}]\nstate_dir: {state}\n"));
    let config = place.path().join("synchromesh.yaml");
    let second = run(&["serve", "--config", config.to_str().unwrap()]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains("another daemon uses the state folder"), "{said}");
    switch_to(&daemon, "", "city");
    drop(daemon.restart());
}

#[test]
fn a_daemon_without_a_state_folder_serves_as_before() {
    let (folder, _, bundle) = bundle();
    let shown = folder.path().join("small.mesh").display().to_string();
    let daemon = Daemon::with_config(|_| {
        let model = format!("{{bundle: {shown}, pool_bytes: {}}}", whole(&bundle));
        format!("models: [{model}]\nstate_dir: /nowhere/at/all\n")
    });
    assert_eq!(switch_to(&daemon, "", "city"), 1);
    let daemon = daemon.restart();
    assert_eq!(switch_to(&daemon, "", "city"), 1);
}
