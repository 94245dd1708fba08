//! The daemon as its users meet it: the built binary, real sockets, other processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    Fixture,
    calls::{assert_exported, bundle, metadata, reason, runtime, switch, whole},
    daemon::{Daemon, program, run, write_config},
};
use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};
use synchromesh::{
    client::Attachment,
    proto::{self, SwitchOutcome},
    units::TaskIndex,
};
use tonic::Code;

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
            assert_eq!(
                lease.sparse(tensor).to_dense().unwrap(),
                fixture.expected_dense(parking, position)
            );
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

#[test]
fn a_client_that_calls_at_once_does_not_harm_the_initial_task() {
    let (folder, _, bundle) = bundle();
    let shown = folder.path().display();
    for _ in 0..5 {
        let place = tempfile::tempdir().unwrap();
        let models = format!(
            "models: [{{bundle: {shown}/small.mesh, pool_bytes: 1MiB, initial_task: city}}]\n"
        );
        write_config(place.path(), &models);
        let mut daemon = Daemon::spawn(place);
        let switched = runtime().block_on(async {
            let mut client = loop {
                match synchromesh::client::connect(&daemon.control()).await {
                    Ok(client) => break client,
                    Err(_) => tokio::time::sleep(Duration::from_micros(100)).await,
                }
            };
            client.switch_task(switch("highway")).await
        });
        assert_eq!(switched.unwrap().into_inner().generation, 2, "the first was the initial task");
        assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
        drop(daemon);
    }
    drop(bundle);
}

#[test]
fn an_exported_file_is_new_whole_and_as_readable_as_any_other() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("out.safetensors");
    fs::write(&out, "what was there").unwrap();
    let attach = daemon.attach().display().to_string();
    let exported = run(&["export", "--out", out.to_str().unwrap(), "--attach", &attach]);
    assert!(exported.status.success(), "{exported:?}");
    assert_exported(&out, &fixture, &bundle, bundle.find_task("city").unwrap());
    let ordinary = place.path().join("ordinary");
    fs::write(&ordinary, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&out), mode(&ordinary));
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "nothing else is left");
    let refused = run(&["export", "--out", "/dev/null", "--attach", &attach]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}
