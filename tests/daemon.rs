//! The daemon as its users meet it: the built binary, real sockets, other processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    Fixture,
    daemon::{Daemon, program, run, write_config},
};
use safetensors::SafeTensors;
use std::{
    collections::HashMap,
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};
use synchromesh::{
    bundle::Bundle,
    client::{AttachError, Attachment},
    proto::{self, SwitchOutcome},
    units::TaskIndex,
};
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

/// A folder with the small bundle in it.
fn bundle() -> (TempDir, Fixture, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::small();
    let bundle = fixture.write(&folder.path().join("small.mesh"));
    (folder, fixture, bundle)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn switch(task: &str) -> proto::SwitchTaskRequest {
    proto::SwitchTaskRequest { task: task.into(), ..Default::default() }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "synchromesh");
    info.reason.clone()
}

fn metadata(status: &Status) -> HashMap<String, String> {
    status.get_error_details().error_info().unwrap().metadata.clone()
}

/// Bytes of a pool that holds all blocks.
fn whole(bundle: &Bundle) -> u64 {
    bundle.len() as u64 * bundle.block().bytes()
}

/// Compares everything that a file exported from a session has with the fixture.
fn assert_exported(file: &Path, fixture: &Fixture, bundle: &Bundle, task: TaskIndex) {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), bundle.tensors().len() + bundle.base().tensors.len());
    for (position, tensor) in bundle.tensors().iter().enumerate() {
        let view = tensors.tensor(tensor.name()).unwrap();
        assert_eq!(view.shape(), tensor.tiling().shape());
        assert_eq!(view.data(), fixture.expected_dense(task, position), "{}", tensor.name());
    }
    for (position, tensor) in (0..).zip(&bundle.base().tensors) {
        let view = tensors.tensor(&tensor.name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        assert_eq!(view.data(), fixture.base_bytes(position), "{}", tensor.name);
    }
}

#[test]
fn another_process_exports_exactly_what_each_task_keeps() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let control = daemon.control();
    let control = control.to_str().unwrap();
    for task in bundle.task_indices() {
        let name = &bundle.task(task).name;
        let switched = run(&["switch", name, "--control", control, "--json"]);
        assert!(switched.status.success(), "{switched:?}");
        let report: serde_json::Value = serde_json::from_slice(&switched.stdout).unwrap();
        assert_eq!(report["needed"]["blocks"], bundle.task(task).blocks);

        let out = folder.path().join("out.safetensors");
        let attach = daemon.attach();
        let args = ["export", "--out", out.to_str().unwrap(), "--attach", attach.to_str().unwrap()];
        let exported = run(&args);
        assert!(exported.status.success(), "{exported:?}");
        assert_exported(&out, &fixture, &bundle, task);
    }
}

#[test]
fn switching_reports_what_was_there_and_what_was_read() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let [first, second] = [TaskIndex(0), TaskIndex(1)];
    let name = |task| bundle.task(task).name.clone();
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let cold = client.switch_task(switch(&name(first))).await.unwrap().into_inner();
        assert_eq!((cold.outcome(), cold.generation), (SwitchOutcome::Loaded, 1));
        assert_eq!(cold.read.unwrap().blocks, bundle.task(first).blocks);

        let diff = client.switch_task(switch(&name(second))).await.unwrap().into_inner();
        assert_eq!((diff.outcome(), diff.generation), (SwitchOutcome::Loaded, 2));
        assert_eq!(diff.read.unwrap().blocks, bundle.diff(first, second) as u64);
        assert_eq!(diff.read.unwrap().bytes, bundle.diff(first, second) as u64 * 4096);
        let shared = bundle.task(second).blocks - bundle.diff(first, second) as u64;
        assert_eq!(diff.reused.unwrap().blocks, shared);

        let resident = client.switch_task(switch(&name(first))).await.unwrap().into_inner();
        assert_eq!((resident.outcome(), resident.generation), (SwitchOutcome::Resident, 3));
        let again = client.switch_task(switch(&name(first))).await.unwrap().into_inner();
        assert_eq!((again.outcome(), again.generation), (SwitchOutcome::AlreadyActive, 3));

        let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
        let status = status.into_inner();
        assert_eq!(status.state(), proto::DaemonState::Serving);
        let model = &status.models[0];
        let pool = model.pool.unwrap();
        assert_eq!(pool.slots, pool.free + pool.resident);
        assert_eq!(pool.pinned, bundle.task(first).blocks);
        assert_eq!(model.sessions[0].task, name(first));
        assert_eq!(model.sessions[0].generation, 3);
    });
}

#[test]
fn unknown_names_are_not_found_and_the_names_there_are_are_told() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let task = client.switch_task(switch("submarine")).await.unwrap_err();
        assert_eq!((task.code(), reason(&task).as_str()), (Code::NotFound, "UNKNOWN_TASK"));
        for known in bundle.task_indices() {
            assert!(task.message().contains(&bundle.task(known).name), "{}", task.message());
        }
        let request = proto::SwitchTaskRequest { model: "other".into(), ..switch("city") };
        let model = client.switch_task(request).await.unwrap_err();
        assert_eq!((model.code(), reason(&model).as_str()), (Code::NotFound, "UNKNOWN_MODEL"));
        assert_eq!(metadata(&model)["known"], bundle.model());
        let request = proto::SwitchTaskRequest { session: "other".into(), ..switch("city") };
        let session = client.switch_task(request).await.unwrap_err();
        assert_eq!(
            (session.code(), reason(&session).as_str()),
            (Code::NotFound, "UNKNOWN_SESSION")
        );
        assert_eq!(metadata(&session)["known"], "default");
    });
}

#[test]
fn a_repeated_request_id_gets_the_first_answer_and_switches_once() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let request = |task: &str, id: &str| proto::SwitchTaskRequest {
            request_id: id.into(),
            ..switch(task)
        };
        let first = client.switch_task(request("city", "a")).await.unwrap().into_inner();
        let other = client.switch_task(request("highway", "b")).await.unwrap().into_inner();
        assert_eq!(other.generation, 2);
        let repeat = client.switch_task(request("city", "a")).await.unwrap().into_inner();
        assert_eq!(repeat, first, "the first answer, with its figures");
        let stale = client.switch_task(request("parking", "a")).await.unwrap_err();
        assert_eq!(reason(&stale), "REQUEST_ID_REUSED");
        let long = client.switch_task(request("city", &"x".repeat(129))).await.unwrap_err();
        assert_eq!(
            (long.code(), reason(&long).as_str()),
            (Code::InvalidArgument, "BAD_REQUEST_ID")
        );

        let mut conditional = switch("parking");
        conditional.expected_generation = Some(7);
        let refused = client.switch_task(conditional.clone()).await.unwrap_err();
        assert_eq!(reason(&refused), "GENERATION_MISMATCH");
        assert_eq!(metadata(&refused)["actual"], "2");
        conditional.expected_generation = Some(2);
        assert_eq!(client.switch_task(conditional).await.unwrap().into_inner().generation, 3);
    });
}

#[test]
fn sessions_open_switch_by_themselves_and_close() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let open =
            |name: &str| proto::OpenSessionRequest { session: name.into(), ..Default::default() };
        let close =
            |name: &str| proto::CloseSessionRequest { session: name.into(), ..Default::default() };
        let opened = client.open_session(open("rear")).await.unwrap().into_inner();
        assert_eq!(opened.session.unwrap().generation, 0);
        let twice = client.open_session(open("rear")).await.unwrap_err();
        assert_eq!(
            (twice.code(), reason(&twice).as_str()),
            (Code::AlreadyExists, "SESSION_EXISTS")
        );
        for bad in ["", "a/b", "é", &"x".repeat(65), "nul\0"] {
            let bad = client.open_session(open(bad)).await.unwrap_err();
            assert_eq!((bad.code(), reason(&bad).as_str()), (Code::InvalidArgument, "BAD_NAME"));
        }
        client.switch_task(switch("city")).await.unwrap();
        let rear = proto::SwitchTaskRequest { session: "rear".into(), ..switch("parking") };
        client.switch_task(rear).await.unwrap();

        let attach = daemon.attach();
        let mut attached = Attachment::connect(&attach, "", "rear").unwrap();
        let busy = client.close_session(close("rear")).await.unwrap_err();
        assert_eq!(reason(&busy), "SESSION_IN_USE");
        let lease = attached.lease().unwrap();
        let parking = bundle.find_task("parking").unwrap();
        assert_eq!(lease.task(), parking);
        for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
            assert_eq!(lease.to_dense(tensor), fixture.expected_dense(parking, position));
        }
        drop(lease);
        drop(attached);
        // The daemon learns of the end of the connection in its own time.
        while client.close_session(close("rear")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let default = client.close_session(close("default")).await.unwrap_err();
        assert_eq!(reason(&default), "DEFAULT_SESSION");
    });
}

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

/// Attaches and compares every tensor.
fn assert_serves(daemon: &Daemon, fixture: &Fixture, task: TaskIndex) {
    let mut attachment = Attachment::connect(&daemon.attach(), "", "").unwrap();
    let lease = attachment.lease().unwrap();
    assert_eq!(lease.task(), task);
    for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
        assert_eq!(lease.to_dense(tensor), fixture.expected_dense(task, position));
    }
    for (position, tensor) in (0..).zip(&lease.bundle().base().tensors) {
        assert_eq!(lease.base(tensor).unwrap(), fixture.base_bytes(position));
    }
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
fn m1_a_client_cannot_write_what_it_is_given() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let socket = common::seqpacket::connect(&daemon.attach());
    synchromesh::wire::Hello::default().send(&socket).unwrap();
    let welcome = synchromesh::wire::Welcome::receive(&socket).unwrap();
    let [pool, table, bundle_fd, cell, _] = welcome.descriptors;
    for (name, fd) in [("pool", &pool), ("table", &table), ("bundle", &bundle_fd)] {
        assert!(rustix::io::pwrite(fd, b"x", 0).is_err(), "{name} written");
        assert!(memmap2::MmapOptions::new().len(4096).map_raw(fd).is_err(), "{name} mapped");
        assert!(rustix::fs::ftruncate(fd, 0).is_err(), "{name} truncated");
    }
    assert!(rustix::fs::ftruncate(&cell, 0).is_err(), "the daemon's own view of the cell");
}

#[test]
fn a_refused_bundle_stops_the_start_and_harms_no_daemon_that_serves() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });

    let bad = folder.path().join("bad.mesh");
    let mut bytes = fs::read(folder.path().join("small.mesh")).unwrap();
    bytes[100] ^= 1;
    fs::write(&bad, bytes).unwrap();
    let other = tempfile::tempdir().unwrap();
    let models = format!("models: [{{bundle: {}, pool_bytes: 1MiB}}]\n", bad.display());
    write_config(other.path(), &models);
    let config = other.path().join("synchromesh.yaml");
    let refused = run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("bad.mesh") && said.contains("refused"), "{said}");
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}

#[test]
fn p8_a_second_daemon_on_the_same_sockets_ends_and_the_first_is_unharmed() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let config = daemon.folder.path().join("synchromesh.yaml");
    let second = run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("another daemon serves"));
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
        assert_eq!(lease.to_dense(tensor), fixture.expected_dense(city, position));
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
fn two_models_have_arenas_and_sessions_of_their_own() {
    let (folder, _, bundle) = bundle();
    let other = Fixture { model: "other", ..Fixture::small() };
    other.write(&folder.path().join("other.mesh"));
    let shown = folder.path().display();
    let daemon = Daemon::with_config(|_| {
        format!(
            "models:\n- {{bundle: {shown}/small.mesh, pool_bytes: 1MiB, initial_task: city}}\n\
             - {{bundle: {shown}/other.mesh, pool_bytes: 1MiB}}\n"
        )
    });
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let unnamed = client.switch_task(switch("city")).await.unwrap_err();
        assert_eq!(reason(&unnamed), "MODEL_NOT_NAMED");
        let request = proto::SwitchTaskRequest { model: "other".into(), ..switch("parking") };
        client.switch_task(request).await.unwrap();
        let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
        let tasks: Vec<_> = status
            .into_inner()
            .models
            .iter()
            .map(|model| (model.name.clone(), model.sessions[0].task.clone()))
            .collect();
        let expected = [("other", "parking"), (bundle.model(), "city")];
        let mut expected = expected.map(|(model, task)| (model.to_owned(), task.to_owned()));
        expected.sort();
        assert_eq!(tasks, expected);
        let models = client.list_models(proto::ListModelsRequest {}).await.unwrap().into_inner();
        assert_eq!(models.models.len(), 2);
        assert_eq!(models.models[0].tasks.len(), 3);
    });
}

#[test]
fn calls_are_taken_on_a_loopback_address_when_one_is_configured() {
    let (folder, _, bundle) = bundle();
    // The system chooses a port that is free, and we hope that it stays so for a moment.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let shown = folder.path().display();
    let daemon = Daemon::with_listen(&format!("tcp: \"{address}\""), |_| {
        format!("models: [{{bundle: {shown}/small.mesh, pool_bytes: 1MiB}}]\n")
    });
    runtime().block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut client = proto::task_service_client::TaskServiceClient::new(channel);
        let switched = client.switch_task(switch("city")).await.unwrap().into_inner();
        let city = bundle.find_task("city").unwrap();
        assert_eq!(switched.needed.unwrap().blocks, bundle.task(city).blocks);
    });
    drop(daemon);
}

#[test]
fn r16_other_users_are_refused_on_both_sockets() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    // The files' permissions would let everybody in; so it is the daemon that refuses.
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    open(daemon.folder.path(), 0o755).unwrap();
    open(&daemon.control(), 0o777).unwrap();
    open(&daemon.attach(), 0o777).unwrap();
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
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
}

#[test]
fn sessions_and_status_are_shown_as_text_and_as_json() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let control = daemon.control();
    let say = |args: &[&str]| {
        let output = program().args(args).arg("--control").arg(&control).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(say(&["sessions", "open", "rear"]).contains("rear"));
    say(&["switch", "parking", "--session", "rear"]);
    let listed: serde_json::Value = serde_json::from_str(&say(&["sessions", "--json"])).unwrap();
    assert_eq!(listed["sessions"][1]["session"], "rear");
    assert_eq!(listed["sessions"][1]["task"], "parking");
    let status: serde_json::Value = serde_json::from_str(&say(&["status", "--json"])).unwrap();
    assert_eq!(status["state"], "DAEMON_STATE_SERVING");
    assert_eq!(status["models"][0]["sessions"][0]["session"], "default");
    assert!(say(&["status"]).contains("serving, up"));
    assert_eq!(say(&["sessions", "close", "rear"]), "rear is closed\n");
    let gone = run(&["sessions", "close", "rear", "--control", control.to_str().unwrap()]);
    assert_eq!(gone.status.code(), Some(1));
    let said = String::from_utf8(gone.stderr).unwrap();
    assert!(said.contains("NotFound, UNKNOWN_SESSION") && said.contains("default"), "{said}");
}
