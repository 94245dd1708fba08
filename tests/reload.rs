//! Another configuration while the daemon runs, and the signals and faults around it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]

mod common;

use common::{
    calls::{assert_serves, bundle, runtime, switch},
    daemon::{Daemon, program, write_config},
    soon,
    systemd::{HeldThread, Manager},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use synchromesh::{
    client::{AttachError, Attachment},
    proto,
};

const NOBODY: u32 = 65534;

fn signal(daemon: &Daemon, signal: Signal) {
    kill_process(Pid::from_raw(daemon.pid() as i32).unwrap(), signal).unwrap();
}

fn config(daemon: &Daemon) -> PathBuf {
    daemon.folder.path().join("synchromesh.yaml")
}

/// Changes the configuration's text and has the daemon read it.
fn reload(daemon: &Daemon, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(config(daemon)).unwrap();
    fs::write(config(daemon), change(text)).unwrap();
    signal(daemon, Signal::HUP);
}

fn run(manager: &Manager, bundle: &Path, more: &str) -> Daemon {
    let place = tempfile::tempdir().unwrap();
    let shown = bundle.display();
    let model = format!("{{bundle: {shown}/small.mesh, pool_bytes: 1MiB, initial_task: city}}");
    write_config(place.path(), &format!("models: [{model}]\n{more}"));
    let daemon = manager.run(place, &[], &[]);
    manager.wait_for("READY=1");
    daemon
}

#[test]
fn c7_a_configuration_that_cannot_be_taken_over_changes_nothing_and_is_counted() {
    const LIMITS: &str = "clients_per_session: 1, attachments_per_process: 1";
    let (folder, fixture, bundle) = bundle();
    let manager = Manager::start();
    let mut daemon = run(&manager, folder.path(), &format!("limits: {{{LIMITS}}}\n"));
    let sound = fs::read_to_string(config(&daemon)).unwrap();
    let more = |key: &str| {
        let more = "clients_per_session: 2, attachments_per_process: 2";
        format!("{}{key}\n", sound.replace(LIMITS, more))
    };
    let control = daemon.control().display().to_string();
    let cases = [
        ("models: [".to_owned(), "synchromesh.yaml"),
        (more("no_such_key: 1"), "no_such_key"),
        (more("log: {filter: '=x=y'}"), "log.filter"),
        (more("storage: {read_threads: 2}"), "error=storage cannot change while the daemon runs"),
        (
            more("").replace(&control, &format!("{control}.2")).replace("1MiB", "2MiB"),
            "error=listen.control, models cannot change while the daemon runs",
        ),
        (more("log: {format: json}"), "error=log.format cannot change"),
        ((0..200).fold(more(""), |text, key| format!("{text}no_such_key_{key}: 1\n")), "tells all"),
    ];
    for (count, (text, said)) in (1..).zip(cases) {
        reload(&daemon, |_| text);
        let reloading = manager.wait_for("RELOADING=1");
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        let ready = manager.wait_for("READY=1");
        assert!(ready.contains(&format!("; reload refused ({count} so far): ")), "{ready}");
        assert!(daemon.wait_for(&format!("refused={count} ")), "{:?}", daemon.log());
        let log = daemon.log();
        let line = log.iter().find(|line| line.contains(&format!("refused={count} "))).unwrap();
        assert!(line.contains(said), "{line}");
    }
    fs::remove_file(config(&daemon)).unwrap();
    signal(&daemon, Signal::HUP);
    assert!(daemon.wait_for("refused=8 "), "{:?}", daemon.log());

    // Not even what could have changed has.
    let _one = Attachment::connect(&daemon.attach(), "", "").unwrap();
    assert!(matches!(Attachment::connect(&daemon.attach(), "", ""), Err(AttachError::Wire(_))));
    drop(_one);
    fs::write(config(&daemon), more("")).unwrap();
    signal(&daemon, Signal::HUP);
    assert!(daemon.wait_for("reloaded"), "{:?}", daemon.log());
    let _two = [(); 2].map(|()| Attachment::connect(&daemon.attach(), "", "").unwrap());
    drop(_two);
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}

/// Runs the program as another user, from where that user can reach it.
fn as_nobody(daemon: &Daemon, args: &[&str]) -> Output {
    let program = daemon.folder.path().join("synchromesh");
    if !program.exists() {
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        open(daemon.folder.path(), 0o755);
        open(&daemon.control(), 0o777);
        open(&daemon.attach(), 0o777);
        fs::copy(env!("CARGO_BIN_EXE_synchromesh"), &program).unwrap();
    }
    Command::new(&program).args(args).uid(NOBODY).output().unwrap()
}

#[test]
fn peers_limits_prefetching_and_log_levels_change_while_the_daemon_runs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let (folder, fixture, bundle) = bundle();
    let manager = Manager::start();
    let mut daemon =
        run(&manager, folder.path(), "log: {filter: warn}\nlimits: {attachments_per_process: 1}\n");
    let (control, attach) = (daemon.control().display().to_string(), daemon.attach());
    let out = daemon.folder.path().join("out").display().to_string();
    let status = ["status", "--control", &control];
    let export = ["export", "--out", &out, "--attach", attach.to_str().unwrap()];
    assert!(!as_nobody(&daemon, &status).status.success());
    assert!(!as_nobody(&daemon, &export).status.success());
    let _first = Attachment::connect(&attach, "", "").unwrap();
    assert!(Attachment::connect(&attach, "", "").is_err());
    switch_to(&daemon, "highway");
    switch_to(&daemon, "city");
    assert_eq!(loaded_ahead(&daemon), 0);

    reload(&daemon, |text| {
        let text = text.replace("filter: warn", "filter: info");
        let text = text.replace("attachments_per_process: 1", "attachments_per_process: 2");
        let text = text.replace("prefetch: {enabled: false}", "prefetch: {enabled: true}");
        text + &format!("peers: {{uids: [{NOBODY}]}}\n")
    });
    assert!(manager.wait_for("READY=1").contains("; reloaded"));
    assert!(daemon.wait_for("reloaded"), "lines of this level are written now");
    let asked = as_nobody(&daemon, &status);
    assert!(asked.status.success(), "{asked:?}");
    // It may attach, and only then learns that it may not write there.
    let exported = as_nobody(&daemon, &export);
    let said = String::from_utf8(exported.stderr).unwrap();
    assert!(!said.contains("may not attach"), "{said}");
    let _second = Attachment::connect(&attach, "", "").unwrap();
    assert!(soon(|| loaded_ahead(&daemon) > 0), "what is foreseen is loaded now");
    switch_to(&daemon, "parking");
    drop((_first, _second));
    assert_serves(&daemon, &fixture, bundle.find_task("parking").unwrap());

    reload(&daemon, |text| text.replace(&format!("uids: [{NOBODY}]"), "uids: []"));
    assert!(manager.wait_for("READY=1").contains("; reloaded"));
    assert!(!as_nobody(&daemon, &status).status.success(), "and back");
}

fn switch_to(daemon: &Daemon, task: &str) {
    runtime().block_on(async { daemon.connect().await.switch_task(switch(task)).await.unwrap() });
}

/// Blocks that were loaded because a task was foreseen.
fn loaded_ahead(daemon: &Daemon) -> u64 {
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
        status.into_inner().models[0].prefetch.unwrap().loaded.unwrap().blocks
    })
}

/// A daemon whose only reading thread is held while a switch waits for it.
fn switching(drain_timeout_ms: u32) -> Option<(Daemon, HeldThread, std::process::Child)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can hold a thread of the daemon");
        return None;
    }
    let (folder, _, _bundle) = bundle();
    let manager = Manager::start();
    let more = format!(
        "storage: {{backend: preadv, read_threads: 1}}\nlimits: {{drain_timeout_ms: {drain_timeout_ms}}}\n"
    );
    let daemon = run(&manager, folder.path(), &more);
    let held = HeldThread::hold(&daemon, "read-0");
    let mut switching = program();
    switching.args(["switch", "parking", "--control"]).arg(daemon.control());
    let switching = switching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        loop {
            let status =
                client.get_status(proto::GetStatusRequest::default()).await.unwrap().into_inner();
            if status.models[0].sessions[0].pending_task == "parking" {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    Some((daemon, held, switching))
}

#[test]
fn p7_a_switch_that_is_under_way_at_sigterm_is_finished() {
    let Some((mut daemon, held, switching)) = switching(60_000) else { return };
    signal(&daemon, Signal::TERM);
    assert!(daemon.wait_for("stopping"), "{:?}", daemon.log());
    held.let_go();
    assert!(switching.wait_with_output().unwrap().status.success());
    assert!(daemon.ends(), "{:?}", daemon.log());
    assert!(!daemon.log().iter().any(|line| line.contains("given up")), "{:?}", daemon.log());
}

#[test]
fn p7_a_switch_that_does_not_end_in_time_is_given_up() {
    let Some((mut daemon, held, switching)) = switching(100) else { return };
    signal(&daemon, Signal::TERM);
    assert!(daemon.wait_for("they are given up"), "{:?}", daemon.log());
    let output = switching.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(told.contains("the daemon went away before it answered"), "{told}");
    // A process is not gone before those who hold its threads have let them go.
    held.let_go();
    assert!(daemon.ends(), "{:?}", daemon.log());
}

#[test]
fn p16_not_even_its_own_user_may_look_into_the_daemon() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let (folder, fixture, bundle) = bundle();
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let place = tempfile::tempdir().unwrap();
    let shown = folder.path().display();
    write_config(
        place.path(),
        &format!(
            "models: [{{bundle: {shown}/small.mesh, pool_bytes: 1MiB, initial_task: city}}]\n"
        ),
    );
    open(folder.path(), 0o755);
    std::os::unix::fs::chown(place.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let copy = place.path().join("synchromesh");
    fs::copy(env!("CARGO_BIN_EXE_synchromesh"), &copy).unwrap();
    open(place.path(), 0o755);
    let mut command = Command::new(&copy);
    command.uid(NOBODY).gid(NOBODY);
    let mut daemon = Daemon::spawn_by(command, place);
    assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
    // `mem` and `maps` are what a debugger may have, and nothing else is.
    let read = |pid: u32, file: &str| {
        let mut head = Command::new("head");
        head.args(["-c1"]).arg(format!("/proc/{pid}/{file}")).uid(NOBODY).gid(NOBODY);
        head.output().unwrap()
    };
    for file in ["maps", "environ", "mem"] {
        let output = read(daemon.pid(), file);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("Permission denied"), "{file}: {said}");
    }
    let mut other = Command::new("sleep").arg("60").uid(NOBODY).gid(NOBODY).spawn().unwrap();
    assert!(read(other.id(), "maps").status.success(), "of another program it may");
    other.kill().unwrap();
    other.wait().unwrap();
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}
