//! Hints, preparations, and what a daemon learns of switches, as its users meet them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    calls::{assert_serves, bundle, reason, runtime, switch, whole},
    daemon::{Daemon, run},
};
use std::{fs, path::Path, time::Duration};
use synchromesh::{
    client::Control,
    proto::{self, SwitchOutcome},
};
use tokio::time::sleep;
use tonic::Code;

const BLOCK: u64 = 4096;

/// A daemon that loads ahead.
fn foresighted(bundle: &Path, pool_bytes: u64) -> Daemon {
    let bundle = bundle.display();
    Daemon::with_config(|_| {
        let model = format!("{{bundle: {bundle}, pool_bytes: {pool_bytes}}}");
        format!("models: [{model}]\nprefetch: {{enabled: true}}\n")
    })
}

fn prepare(task: &str) -> proto::PrepareTaskRequest {
    proto::PrepareTaskRequest { task: task.into(), hold_ms: 60_000, ..Default::default() }
}

fn hint(task: &str, probability: f64) -> proto::TaskHint {
    proto::TaskHint { task: task.into(), probability, ..Default::default() }
}

/// Gives hints for the default session; how many hold and how many were ignored.
async fn tell(client: &mut Control, hints: Vec<proto::TaskHint>) -> (u32, u32) {
    let request = proto::HintTasksRequest { hints, ..Default::default() };
    let told = client.hint_tasks(request).await.unwrap().into_inner();
    (told.accepted, told.ignored)
}

async fn status(client: &mut Control) -> proto::ModelStatus {
    let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
    status.into_inner().models.remove(0)
}

/// Waits until the state is as it should become.
async fn until(client: &mut Control, is_there: impl Fn(&proto::ModelStatus) -> bool) {
    for _ in 0..5_000 {
        if is_there(&status(client).await) {
            return;
        }
        sleep(Duration::from_millis(2)).await;
    }
    panic!("it did not come: {:?}", status(client).await);
}

/// Runs a command on the daemon; what it printed.
fn said(daemon: &Daemon, args: &[&str]) -> String {
    let control = daemon.control();
    let args: Vec<_> =
        args.iter().copied().chain(["--control", control.to_str().unwrap()]).collect();
    let output = run(&args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(daemon: &Daemon, args: &[&str]) -> serde_json::Value {
    let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&said(daemon, &args)).unwrap()
}

#[test]
fn a_prepared_task_is_resident_when_it_is_switched_to() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let parking = bundle.find_task("parking").unwrap();
    let needed = bundle.task(parking).blocks;
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let first = client.prepare_task(prepare("parking")).await.unwrap().into_inner();
        assert_eq!(first.needed.unwrap(), proto::Amount { blocks: needed, bytes: needed * BLOCK });
        assert_eq!(first.reused.unwrap().blocks, 0);
        assert!(first.total_us > 0);
        let again = client.prepare_task(prepare("parking")).await.unwrap().into_inner();
        assert_eq!(again.reused, again.needed);

        let before = status(&mut client).await;
        assert_eq!(before.sessions[0].generation, 0, "nothing became active");
        let prefetch = before.prefetch.unwrap();
        assert_eq!((prefetch.prepared, prefetch.waiting.unwrap().blocks), (1, needed));

        let switched = client.switch_task(switch("parking")).await.unwrap().into_inner();
        assert_eq!(switched.outcome(), SwitchOutcome::Resident);
        assert_eq!((switched.prefetched, switched.reused), (first.needed, first.needed));
        let prefetch = status(&mut client).await.prefetch.unwrap();
        assert_eq!((prefetch.switches, prefetch.hits), (1, 1));
        assert_eq!((prefetch.loaded, prefetch.used), (first.needed, first.needed));
        assert_eq!(prefetch.waiting.unwrap().blocks, 0);
    });
    assert_serves(&daemon, &fixture, parking);
}

#[test]
fn what_cannot_be_prepared_is_refused_with_its_reason() {
    let (folder, _, _) = bundle();
    // Room for any task, but not for the 15 blocks of one and 6 more of another.
    let daemon = Daemon::start(&folder.path().join("small.mesh"), 20 * BLOCK);
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let refusals = [
            (prepare("submarine"), Code::NotFound, "UNKNOWN_TASK"),
            (prepare(""), Code::InvalidArgument, "BAD_NAME"),
            (
                proto::PrepareTaskRequest { hold_ms: 3_600_001, ..prepare("city") },
                Code::InvalidArgument,
                "BAD_HOLD",
            ),
            (
                proto::PrepareTaskRequest { hold_ms: u64::MAX, ..prepare("city") },
                Code::InvalidArgument,
                "BAD_HOLD",
            ),
            (
                proto::PrepareTaskRequest { model: "other".into(), ..prepare("city") },
                Code::NotFound,
                "UNKNOWN_MODEL",
            ),
            (prepare("parking"), Code::ResourceExhausted, "POOL_FULL"),
        ];
        for (request, code, why) in refusals {
            let refused = client.prepare_task(request).await.unwrap_err();
            assert_eq!((refused.code(), reason(&refused).as_str()), (code, why));
        }
        let longest = proto::PrepareTaskRequest { hold_ms: 3_600_000, ..prepare("city") };
        client.prepare_task(longest).await.unwrap();
    });
}

#[test]
fn a_hinted_task_is_there_before_it_is_asked_for() {
    let (folder, fixture, bundle) = bundle();
    let daemon = foresighted(&folder.path().join("small.mesh"), whole(&bundle));
    let parking = bundle.find_task("parking").unwrap();
    let needed = bundle.task(parking).blocks;
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        assert_eq!(tell(&mut client, vec![hint("parking", 1.0)]).await, (1, 0));
        until(&mut client, |model| {
            let pool = model.pool.unwrap();
            let waiting = model.prefetch.unwrap().waiting.unwrap().blocks;
            waiting >= needed && pool.filling + pool.verifying == 0
        })
        .await;
        let likely = status(&mut client).await.sessions.remove(0).likely;
        assert_eq!((likely[0].task.as_str(), likely[0].probability), ("parking", 1.0));

        let switched = client.switch_task(switch("parking")).await.unwrap().into_inner();
        assert_eq!(switched.outcome(), SwitchOutcome::Resident);
        assert_eq!(switched.prefetched.unwrap().blocks, needed);
        let foresight = switched.foresight.unwrap();
        assert_eq!((foresight.probability, foresight.rank), (1.0, 1));
        assert!(foresight.lead_us > 0);
    });
    assert_serves(&daemon, &fixture, parking);
}

#[test]
fn q3_hints_that_cannot_be_are_ignored_and_counted() {
    let (folder, _, bundle) = bundle();
    let daemon = foresighted(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let wrong = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5, 0.0, -0.0, 1.000_001, 1e300];
        let mut hints: Vec<_> = wrong.map(|probability| hint("highway", probability)).into();
        hints.push(proto::TaskHint { expires_in_ms: Some(0), ..hint("highway", 0.5) });
        hints.extend([hint("submarine", 0.5), hint("", 0.5), hint(&"x".repeat(1000), 0.5)]);
        let ignored = hints.len() as u32;
        assert_eq!(tell(&mut client, hints.clone()).await, (0, ignored));

        // Neither those nor repetitions spoil the others, and order means nothing.
        hints.extend([hint("parking", 0.2), hint("highway", 0.7), hint("parking", 0.9)]);
        assert_eq!(tell(&mut client, hints).await, (2, ignored + 1));
        let is_hinted = |model: &proto::ModelStatus| {
            let likely = &model.sessions[0].likely;
            let likely: Vec<_> = likely.iter().map(|l| (&*l.task, l.probability)).collect();
            likely.starts_with(&[("highway", 0.7), ("parking", 0.2)])
        };
        until(&mut client, is_hinted).await;
        assert_eq!(
            status(&mut client).await.prefetch.unwrap().ignored_hints,
            u64::from(2 * ignored + 1)
        );

        let far = u64::MAX;
        let hints = [Some(0), Some(far), None].map(|starts_in_ms| proto::TaskHint {
            starts_in_ms,
            expires_in_ms: Some(far),
            ..hint("highway", f64::MIN_POSITIVE)
        });
        assert_eq!(tell(&mut client, hints.into()).await, (1, 2));
        let nobody = proto::HintTasksRequest { session: "other".into(), ..Default::default() };
        let refused = client.hint_tasks(nobody).await.unwrap_err();
        assert_eq!(reason(&refused), "UNKNOWN_SESSION");

        assert_eq!(tell(&mut client, Vec::new()).await, (0, 0));
        until(&mut client, |model| !is_hinted(model)).await;
    });
}

#[test]
fn q6_of_very_many_hints_few_are_looked_at_and_too_large_a_message_is_refused() {
    let (folder, _, bundle) = bundle();
    let daemon = foresighted(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let request = proto::HintTasksRequest {
            hints: vec![hint("highway", 0.5); 100_000],
            ..Default::default()
        };
        assert_eq!(client.hint_tasks(request).await.unwrap_err().code(), Code::OutOfRange);
        // As many as a message can hold.
        let empty = vec![proto::TaskHint::default(); 32_000];
        assert_eq!(tell(&mut client, empty).await, (0, 32_000));
        let mut hints = vec![hint("submarine", 0.5); 63];
        hints.extend([hint("city", 0.5), hint("highway", 0.5)]);
        assert_eq!(tell(&mut client, hints).await, (1, 64), "the 65th is not looked at");
        client.switch_task(switch("city")).await.unwrap();
    });
}

#[test]
fn the_commands_say_what_a_daemon_foresees_in_text_and_json() {
    let (folder, _, bundle) = bundle();
    let daemon = foresighted(&folder.path().join("small.mesh"), whole(&bundle));
    let told = json(&daemon, &["hint", "parking=0.75@0", "submarine", "--expires-ms", "60000"]);
    assert_eq!((&told["accepted"], &told["ignored"]), (&1.into(), &1.into()));
    let text = said(&daemon, &["hint", "parking=0.75", "highway=0.25@8000"]);
    assert_eq!(text, "hints: 2 hold, 0 ignored\n");

    let prepared = json(&daemon, &["prepare", "parking", "--hold-ms", "60000"]);
    assert_eq!(prepared["needed"]["blocks"], 13);
    let text = said(&daemon, &["prepare", "parking"]);
    assert!(
        text.starts_with("parking is resident: 13 blocks (52.00 KiB), 13 of them were already"),
        "{text}"
    );

    let text = said(&daemon, &["status"]);
    assert!(text.contains("prefetch: "), "{text}");
    assert!(text.contains("likely next in default: parking (75.00 %, in "), "{text}");
    let status = json(&daemon, &["status"]);
    let model = &status["models"][0];
    assert_eq!(model["prefetch"]["prepared"], 1);
    assert_eq!(model["sessions"][0]["likely"][0]["task"], "parking");

    let text = said(&daemon, &["switch", "parking"]);
    for part in ["parking was resident", "\nprefetched", "\nforeseen ", " at 75.00 %, in place 1\n"]
    {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert_eq!(said(&daemon, &["hint", "--clear"]), "hints: 0 hold, 0 ignored\n");
    for wrong in [&["hint"][..], &["hint", "city", "--clear"], &["hint", "city=x"], &["prepare"]] {
        assert_eq!(run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// What is held to be likely after a switch to this task.
async fn likely_after(client: &mut Control, task: &str) -> proto::LikelyTask {
    client.switch_task(switch(task)).await.unwrap();
    let is_looked_ahead = |model: &proto::ModelStatus| {
        let likely = &model.sessions[0].likely;
        !likely.is_empty() && likely.iter().all(|likely| likely.task != task)
    };
    until(client, is_looked_ahead).await;
    status(client).await.sessions.remove(0).likely.remove(0)
}

/// Goes round the tasks, so that there is something to be learnt. Each lasts long enough for a look
/// ahead: of what is late, less is held to be likely, so how likely a task is depends on the machine.
async fn go_round(client: &mut Control) {
    for task in ["city", "parking", "highway"].iter().cycle().take(45) {
        client.switch_task(switch(task)).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_restart_keeps_what_was_learnt() {
    let (folder, _, bundle) = bundle();
    let daemon = foresighted(&folder.path().join("small.mesh"), whole(&bundle));
    let confidence = runtime().block_on(async {
        let mut client = daemon.connect().await;
        go_round(&mut client).await;
        let likely = likely_after(&mut client, "city").await;
        assert_eq!(likely.task, "parking", "{likely:?}");
        status(&mut client).await.sessions[0].confidence
    });
    assert!(confidence > 0.5, "{confidence}");

    let daemon = daemon.restart();
    assert!(daemon.folder.path().join("foresight-small.a").exists());
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let kept = status(&mut client).await.sessions[0].confidence;
        assert!((kept - confidence).abs() < 1e-9, "{kept} instead of {confidence}");
        let likely = likely_after(&mut client, "city").await;
        assert_eq!(likely.task, "parking", "{likely:?}");
    });
}

#[test]
fn q8_a_daemon_starts_without_what_is_damaged_and_says_so() {
    let (folder, _, bundle) = bundle();
    let daemon = foresighted(&folder.path().join("small.mesh"), whole(&bundle));
    let files =
        ["a", "b"].map(|place| daemon.folder.path().join(format!("foresight-small.{place}")));
    for file in &files {
        fs::write(file, b"synchromesh-foresight 1 5 00\n{}").unwrap();
    }
    let daemon = daemon.restart();
    let left_out = |daemon: &Daemon| {
        daemon
            .log()
            .iter()
            .filter(|line| line.contains("what was learnt there is left out"))
            .count()
    };
    assert_eq!(left_out(&daemon), 2);
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        assert_eq!(status(&mut client).await.sessions[0].confidence, 0.0);
        go_round(&mut client).await;
    });
    let daemon = daemon.restart();
    assert_eq!(left_out(&daemon), 1, "the other is written anew");
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        assert!(status(&mut client).await.sessions[0].confidence > 0.5);
    });
}

#[test]
fn without_a_folder_for_state_a_daemon_serves_and_says_so_once() {
    let (folder, _, _) = bundle();
    let shown = folder.path().display().to_string();
    let mut daemon = Daemon::with_config(|_| {
        let model = format!("{{bundle: {shown}/small.mesh, pool_bytes: 1MiB}}");
        format!("models: [{model}]\nstate_dir: {shown}/missing\n")
    });
    runtime().block_on(async { go_round(&mut daemon.connect().await).await });
    assert_eq!(daemon.stop(), Some(0));
    let warned = daemon.log().iter().filter(|line| line.contains("missing")).count();
    assert_eq!(warned, 1, "{:?}", daemon.log());
    assert!(!folder.path().join("missing").exists());
}
