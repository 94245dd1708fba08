//! What harms the daemon or is asked of it wrongly, and what must happen, by fault where it has a
//! number.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    calls::{assert_serves, bundle, metadata, reason, runtime, switch, whole},
    daemon::{Daemon, program, run, write_config},
};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};
use synchromesh::{
    client::{AttachError, Attachment},
    proto::{self},
    units::TaskIndex,
};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

#[test]
fn m5_a_switch_that_cannot_fit_tells_needed_and_available_bytes_and_changes_nothing() {
    let (folder, fixture, bundle) = bundle();
    let largest = bundle.task_indices().map(|task| bundle.task(task).blocks).max().unwrap();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), largest * 4096);
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let refused = client.switch_task(switch("parking")).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason(&refused), "POOL_FULL");
        let [city, parking] = ["city", "parking"].map(|name| bundle.find_task(name).unwrap());
        let needed = bundle.diff(city, parking) as u64;
        let available = largest - bundle.task(city).blocks;
        assert!(needed > available, "the fixture makes this a pool too small for both");
        assert_eq!(metadata(&refused)["needed_bytes"], (needed * 4096).to_string());
        assert_eq!(metadata(&refused)["available_bytes"], (available * 4096).to_string());
        assert!(refused.get_error_details().retry_info().is_some());
        assert_serves(&daemon, &fixture, city);
    });
}

#[test]
fn b17_a_block_that_is_damaged_on_disk_is_data_loss_for_its_tasks_only() {
    let (folder, fixture, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    let [city, highway] = ["city", "highway"].map(|name| bundle.find_task(name).unwrap());
    let only_highway = bundle.task_blocks(highway).difference(bundle.task_blocks(city)).next();
    let block = synchromesh::units::BlockIndex(only_highway.unwrap() as u32);
    let mut bytes = fs::read(&path).unwrap();
    let sound = bytes.clone();
    bytes[bundle.block_offset(block) as usize + 77] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let daemon = Daemon::start(&path, whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let lost = client.switch_task(switch("highway")).await.unwrap_err();
        assert_eq!((lost.code(), reason(&lost).as_str()), (Code::DataLoss, "BLOCKS_CORRUPT"));
        assert!(!lost.message().contains("small.mesh"), "no path: {}", lost.message());
        assert_serves(&daemon, &fixture, city);
        let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
        assert_eq!(status.into_inner().models[0].quarantined_blocks, 1);
        // The file is mended in place, and the next switch succeeds with no restart.
        fs::write(&path, &sound).unwrap();
        client.switch_task(switch("highway")).await.unwrap();
        assert_serves(&daemon, &fixture, highway);
    });
}

#[test]
fn clients_killed_at_any_point_leave_the_daemon_whole() {
    let (folder, fixture, bundle) = bundle();
    let mut daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let descriptors = |pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let city = bundle.find_task("city").unwrap();
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    assert_serves(&daemon, &fixture, city);
    let before = descriptors(daemon.pid());
    let [control, attach] = [daemon.control(), daemon.attach()];
    for delay_us in (0..20_000).step_by(700) {
        let out = folder.path().join("killed.safetensors");
        let mut exporting = program();
        exporting.args(["export", "--out", out.to_str().unwrap()]).arg("--attach").arg(&attach);
        let mut switching = program();
        let task = if delay_us % 1400 == 0 { "highway" } else { "parking" };
        switching.args(["switch", task]).arg("--control").arg(&control);
        for mut command in [exporting, switching] {
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_micros(delay_us));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // A connection that says nothing, and one that says nonsense.
        drop(UnixStream::connect(&control).unwrap());
    }
    assert!(daemon.is_running());
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    assert_serves(&daemon, &fixture, city);
    let settled = (0..2000).any(|_| {
        thread::sleep(Duration::from_millis(1));
        descriptors(daemon.pid()) <= before
    });
    assert!(settled, "no descriptor is left over: {} > {before}", descriptors(daemon.pid()));
}

#[test]
fn a_refused_bundle_leaves_the_daemon_serving_what_it_served() {
    let (folder, fixture, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    let daemon = Daemon::start(&path, whole(&bundle));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });

    // A damaged bundle takes the place of the one that is served, which stays open, and a second
    // daemon tries to serve it elsewhere.
    let bad = folder.path().join("bad.mesh");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&bad, bytes).unwrap();
    fs::rename(&bad, &path).unwrap();
    let config = daemon.folder.path().join("synchromesh.yaml");
    let elsewhere = |key: &str| format!("listen.{key}={}/{key}", folder.path().display());
    let (control, attach) = (elsewhere("control"), elsewhere("attach"));
    let config = config.to_str().unwrap();
    let state = format!("state_dir={}", folder.path().display());
    let set = ["--set", &control, "--set", &attach, "--set", &state];
    let refused = run(&[&["serve", "--config", config][..], &set].concat());
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("small.mesh is refused"), "{said}");

    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
    let highway = bundle.find_task("highway").unwrap();
    runtime().block_on(async {
        let switched = daemon.connect().await.switch_task(switch("highway")).await.unwrap();
        assert!(switched.into_inner().read.unwrap().blocks > 0, "it reads the file it opened");
    });
    assert_serves(&daemon, &fixture, highway);
}

#[test]
fn p8_a_second_daemon_on_the_same_sockets_ends_and_the_first_is_unharmed() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    // It gets no further than the sockets: what it would load is not looked at, and would be refused.
    let bad = folder.path().join("bad.mesh");
    fs::write(&bad, "no bundle").unwrap();
    let bundle_key = format!("models.0.bundle={}", bad.display());
    let config = daemon.folder.path().join("synchromesh.yaml");
    let second = run(&["serve", "--config", config.to_str().unwrap(), "--set", &bundle_key]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another daemon serves") && !said.contains("bad.mesh"), "{said}");
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}

#[test]
fn p9_what_a_killed_daemon_left_does_not_hinder_the_next_and_sigterm_ends_cleanly() {
    let (folder, _, bundle) = bundle();
    let mut daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while daemon.is_running() {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(daemon.control().exists(), "a stale socket");
    let folder = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
    let mut next = Daemon::spawn(folder);
    assert!(next.wait_for("ready"), "{:?}", next.log());
    let connection = UnixStream::connect(next.control()).unwrap();
    assert_eq!(next.stop(), Some(0), "a connection that stays open does not hold it up");
    drop(connection);
    assert!(!next.control().exists() && !next.attach().exists());
}

#[test]
fn attached_clients_learn_that_the_daemon_has_gone_and_keep_what_they_lease() {
    let (folder, fixture, bundle) = bundle();
    let mut daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let mut early = Attachment::connect(&daemon.attach(), "", "").unwrap();
    assert!(matches!(early.lease(), Err(AttachError::NoTask)));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let city = bundle.find_task("city").unwrap();
    let lease = early.lease().unwrap();
    daemon.stop();
    for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
        assert_eq!(
            lease.sparse(tensor).to_dense().unwrap(),
            fixture.expected_dense(city, position)
        );
    }
    let gone = Attachment::connect(&daemon.attach(), "", "");
    assert!(matches!(gone, Err(AttachError::Connect { .. })));
}

#[test]
fn deadlines_that_have_passed_are_answered_as_such() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let mut request = Request::new(switch("city"));
        request.metadata_mut().insert("grpc-timeout", "1n".parse().unwrap());
        let late = client.switch_task(request).await.unwrap_err();
        // At one nanosecond the transport may cut the call off before it reaches the handler.
        assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
        let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
        assert_eq!(status.into_inner().models[0].sessions[0].generation, 0, "nothing switched");
    });
}

#[test]
fn r16_other_users_are_refused_on_both_sockets() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let (folder, fixture, bundle) = bundle();
    // The files' permissions let everybody in; so it is the daemon that refuses.
    let shown = folder.path().display();
    let mut daemon = Daemon::with_listen("mode: '0666'", |_| {
        format!("models: [{{bundle: {shown}/small.mesh, pool_bytes: {}}}]\n", whole(&bundle))
    });
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(daemon.folder.path(), 0o755).unwrap();
    // The program must be where that user can reach it.
    let program = daemon.folder.path().join("synchromesh");
    fs::copy(env!("CARGO_BIN_EXE_synchromesh"), &program).unwrap();
    let as_nobody = |args: &[&str], flag: &str, socket: &Path| {
        let mut command = std::process::Command::new(&program);
        let output = command.args(args).arg(flag).arg(socket).uid(NOBODY).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let status = as_nobody(&["status"], "--control", &daemon.control());
    assert!(status.contains("PermissionDenied, PEER_NOT_ALLOWED"), "{status}");
    let out = daemon.folder.path().join("out").display().to_string();
    let export = as_nobody(&["export", "--out", &out], "--attach", &daemon.attach());
    assert!(export.contains("this user may not attach"), "{export}");
    for socket in ["control", "attach"] {
        let line = format!("socket=\"{socket}\" uid={NOBODY}");
        assert!(daemon.wait_for(&line), "{:?}", daemon.log());
    }
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}

#[test]
fn an_initial_task_that_does_not_exist_is_told_and_one_that_is_damaged_is_left_out() {
    let (folder, _, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    let start = |task: &str| {
        let place = tempfile::tempdir().unwrap();
        let shown = path.display();
        let models =
            format!("models: [{{bundle: {shown}, pool_bytes: 1MiB, initial_task: {task}}}]\n");
        write_config(place.path(), &models);
        Daemon::spawn(place)
    };
    let mut unknown = start("submarine");
    assert!(unknown.wait_for("initial task: there is no task"), "{:?}", unknown.log());
    assert!(unknown.ends());

    let city = bundle.find_task("city").unwrap();
    let block = bundle.task_blocks(city).ones().next().unwrap();
    let at = bundle.block_offset(synchromesh::units::BlockIndex(block as u32)) as usize;
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut damaged = start("city");
    assert!(damaged.wait_for("ready"), "{:?}", damaged.log());
    assert!(damaged.wait_for("served without its initial task"), "{:?}", damaged.log());
}

#[test]
fn sockets_and_their_locks_have_the_mode_and_group_that_the_configuration_says() {
    let (folder, _, _bundle) = bundle();
    let shown = folder.path().display();
    let model = format!("models: [{{bundle: {shown}/small.mesh, pool_bytes: 1MiB}}]\n");
    let root = rustix::process::geteuid().is_root();
    let group = if root { 4711 } else { rustix::process::getegid().as_raw() };
    let explicit = format!("mode: '0640', group: {group}");
    for (listen, mode) in [("reflection: true", 0o660), (&*explicit, 0o640)] {
        let daemon = Daemon::with_listen(listen, |_| model.clone());
        for socket in [daemon.control(), daemon.attach()] {
            let meta = fs::metadata(&socket).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, mode, "{listen}");
            assert!(listen != explicit || meta.gid() == group);
            let lock = fs::metadata(format!("{}.lock", socket.display())).unwrap();
            assert_eq!(lock.permissions().mode() & 0o777, 0o600);
        }
    }
}

#[test]
fn r10_silent_connections_of_one_process_leave_places_to_others_and_it_is_told_why() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let control = daemon.control();
    // As many as there are places in all; a quarter of them is one process's.
    let silent: Vec<_> = (0..64).map(|_| UnixStream::connect(&control).unwrap()).collect();
    let switched = run(&["switch", "city", "--control", control.to_str().unwrap()]);
    assert!(switched.status.success(), "{switched:?}");
    runtime().block_on(async {
        // Those of the silent connections that were rejected are closed soon; until then this
        // connection may be closed, too, without an answer.
        let refused = loop {
            let Ok(mut client) = synchromesh::client::connect(&control).await else { continue };
            let refused = client.switch_task(switch("city")).await;
            match refused {
                Err(status) if status.code() == Code::ResourceExhausted => break Some(status),
                Err(_) => {}
                // The silent connections have run out meanwhile: this machine is slow.
                Ok(_) => break None,
            }
        };
        if let Some(refused) = refused {
            assert_eq!(reason(&refused), "TOO_MANY_CONNECTIONS");
            assert_eq!(metadata(&refused)["scope"], "process");
        }
    });
    drop(silent);
    runtime().block_on(async {
        while daemon.connect().await.switch_task(switch("city")).await.is_err() {}
    });
}

#[test]
fn r5_names_that_cannot_be_are_invalid_and_are_not_echoed() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let long = "x".repeat(60_000);
        for bad in ["", "nul\0", "é", "a b", &long] {
            let task = client.switch_task(switch(bad)).await.unwrap_err();
            assert_eq!((task.code(), reason(&task).as_str()), (Code::InvalidArgument, "BAD_NAME"));
            assert!(task.message().len() < 200);
        }
        for bad in ["nul\0", "é", &long] {
            let request = proto::SwitchTaskRequest { session: bad.into(), ..switch("city") };
            assert_eq!(reason(&client.switch_task(request).await.unwrap_err()), "BAD_NAME");
            let request = proto::GetStatusRequest { model: bad.into(), picture: false };
            assert_eq!(reason(&client.get_status(request).await.unwrap_err()), "BAD_NAME");
        }
        client.switch_task(switch("city")).await.expect("the connection lives");
    });
}

#[test]
fn a_deadline_that_passes_while_the_switch_waits_is_told_as_such() {
    let (folder, fixture, bundle) = bundle();
    let tasks = ["city", "highway", "parking"].map(|name| bundle.find_task(name).unwrap());
    let set = |task| bundle.task_blocks(task).clone();
    let union = |tasks: &[TaskIndex]| {
        let mut blocks = set(tasks[0]);
        tasks.iter().for_each(|&task| blocks.union_with(&set(task)));
        blocks.count_ones(..) as u64
    };
    let [city, highway, parking] = tasks;
    let pairs = [[city, highway], [highway, parking], [city, parking]];
    let slots = pairs.iter().map(|pair| union(pair)).max().unwrap();
    assert!(slots < union(&tasks), "the pool holds two of the tasks, not three");
    let daemon = Daemon::start(&folder.path().join("small.mesh"), slots * 4096);
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
        let lease = attached.lease().unwrap();
        client.switch_task(switch("highway")).await.unwrap();
        let mut request = Request::new(switch("parking"));
        request.set_timeout(Duration::from_millis(200));
        let late = client.switch_task(request).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
        assert_eq!(reason(&late), "DEADLINE_EXCEEDED");
        assert_eq!(lease.task(), city);
        for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
            assert_eq!(
                lease.sparse(tensor).to_dense().unwrap(),
                fixture.expected_dense(city, position)
            );
        }
        drop(lease);
        client.switch_task(switch("parking")).await.expect("the lease has ended");
    });
    assert_serves(&daemon, &fixture, parking);
}
