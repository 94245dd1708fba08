//! Another configuration while the daemon runs, and the signals and faults around it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]

mod common;

use common::{
    HANG,
    calls::{assert_serves, bundle, runtime, switch},
    daemon::{Daemon, program, write_config, write_config_with},
    soon,
    systemd::{HeldThread, Manager},
};
use rustix::{
    process::{Gid, Pid, Signal, Uid, kill_process},
    thread::{set_thread_gid, set_thread_uid},
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};
use synchromesh::{
    client::{AttachError, Attachment},
    proto::{self, Client, ConfigReloaded, WatchEventsRequest, event::Kind},
    units::Generation,
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
    run_with(manager, bundle, "reflection: true", more)
}

fn run_with(manager: &Manager, bundle: &Path, listen: &str, more: &str) -> Daemon {
    let place = tempfile::tempdir().unwrap();
    let shown = bundle.display();
    let model = format!("{{bundle: {shown}/small.mesh, pool_bytes: 1MiB, initial_task: city}}");
    write_config_with(place.path(), listen, &format!("models: [{model}]\n{more}"));
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
    wait_until_all_have_gone(&daemon);
    fs::write(config(&daemon), more("")).unwrap();
    signal(&daemon, Signal::HUP);
    assert!(daemon.wait_for("reloaded"), "{:?}", daemon.log());
    let _two = [(); 2].map(|()| Attachment::connect(&daemon.attach(), "", "").unwrap());
    drop(_two);
    wait_until_all_have_gone(&daemon);
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}

/// Runs the program as another user, from where that user can reach it.
fn as_nobody(daemon: &Daemon, args: &[&str]) -> Output {
    nobody(daemon, args).output().unwrap()
}

fn nobody(daemon: &Daemon, args: &[&str]) -> Command {
    let program = daemon.folder.path().join("synchromesh");
    if !program.exists() {
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        open(daemon.folder.path(), 0o755);
        fs::copy(env!("CARGO_BIN_EXE_synchromesh"), &program).unwrap();
    }
    let mut command = Command::new(&program);
    command.args(args).uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn peers_limits_prefetching_and_log_levels_change_while_the_daemon_runs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let (folder, fixture, bundle) = bundle();
    let manager = Manager::start();
    let mut daemon = run_with(
        &manager,
        folder.path(),
        &format!("group: {NOBODY}"),
        "log: {filter: warn}\nlimits: {attachments_per_process: 1}\n",
    );
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
        text + "peers: [{user: nobody, role: command}]\n"
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
    wait_until_all_have_gone(&daemon);
    assert_serves(&daemon, &fixture, bundle.find_task("parking").unwrap());

    reload(&daemon, |text| text.replace("{user: nobody, role: command}", ""));
    assert!(manager.wait_for("READY=1").contains("; reloaded"));
    assert!(!as_nobody(&daemon, &status).status.success(), "and back");
}

#[test]
fn a_role_allows_its_methods_and_a_removed_peer_loses_its_streams_and_attachments() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let (folder, fixture, bundle) = bundle();
    let manager = Manager::start();
    let (listen, peers) = (format!("group: {NOBODY}"), "peers: [{user: nobody, role: observe}]\n");
    let daemon = run_with(&manager, folder.path(), &listen, peers);
    let (control, attach) = (daemon.control().display().to_string(), daemon.attach());
    let attach = attach.to_str().unwrap();
    let out = daemon.folder.path().join("out").display().to_string();
    assert!(as_nobody(&daemon, &["status", "--control", &control]).status.success());
    let switched = as_nobody(&daemon, &["switch", "parking", "--control", &control]);
    let said = String::from_utf8(switched.stderr).unwrap();
    assert!(said.contains("PermissionDenied, ROLE_NOT_ALLOWED"), "{said}");
    let exported = as_nobody(&daemon, &["export", "--out", &out, "--attach", attach]);
    let said = String::from_utf8(exported.stderr).unwrap();
    assert!(said.contains("this needs the role `attach`"), "{said}");

    reload(&daemon, |text| {
        text.replace("user: nobody, role: observe", "group: nogroup, role: attach")
    });
    assert!(manager.wait_for("READY=1").contains("; reloaded"));
    let mut watching = nobody(&daemon, &["events", "--since", "all", "--control", &control]);
    let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut attached = nobody(&daemon, &["export", "--out", "/dev/full", "--attach", attach]);
    assert!(!attached.output().unwrap().status.success(), "it attaches, and cannot write");
    let (holds, held) = mpsc::channel();
    let place = daemon.attach();
    let holder = thread::spawn(move || {
        // The kernel keeps users by thread.
        set_thread_gid(Gid::from_raw(NOBODY)).unwrap();
        set_thread_uid(Uid::from_raw(NOBODY)).unwrap();
        let mut attached = Attachment::connect(&place, "", "").unwrap();
        holds.send(()).unwrap();
        attached.wait(Generation(u64::MAX >> 16), HANG)
    });
    held.recv().unwrap();
    let mut first = [0];
    std::io::Read::read_exact(watching.stdout.as_mut().unwrap(), &mut first).unwrap();

    reload(&daemon, |text| text.replace("{group: nogroup, role: attach}", ""));
    assert!(manager.wait_for("READY=1").contains("; reloaded"));
    // The stream ends, or this test hangs.
    watching.wait().unwrap();
    assert!(matches!(holder.join().unwrap(), Err(AttachError::Closed)));
    assert!(!as_nobody(&daemon, &["status", "--control", &control]).status.success());
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}

#[test]
fn a_reload_names_the_process_that_asked_for_it() {
    let (folder, _, _bundle) = bundle();
    let mut daemon = run(&Manager::start(), folder.path(), "");
    let own = Client { pid: std::process::id(), uid: rustix::process::getuid().as_raw() };
    runtime().block_on(async {
        let request = WatchEventsRequest { only_new: true, ..Default::default() };
        let mut events = daemon.connect().await.watch_events(request).await.unwrap().into_inner();
        reload(&daemon, |text| text + "no_such_key: 1\n");
        let batch = events.message().await.unwrap().unwrap();
        let Some(Kind::ConfigReloaded(told)) = &batch.events[0].kind else { panic!("{batch:?}") };
        let ConfigReloaded { error, caller } = told;
        assert!(error.contains("no_such_key"), "{error}");
        assert_eq!(*caller, Some(own));
    });
    let said = format!("caller_pid={} caller_uid={}", own.pid, own.uid);
    assert!(daemon.wait_for(&said), "{:?}", daemon.log());
}

/// Waits until the daemon has taken note that its clients have detached.
fn wait_until_all_have_gone(daemon: &Daemon) {
    let clients = || {
        runtime().block_on(async {
            let request = proto::GetStatusRequest::default();
            let status = daemon.connect().await.get_status(request).await.unwrap().into_inner();
            status.models[0].sessions[0].clients
        })
    };
    assert!(soon(|| clients() == 0));
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
