//! The log under strain: nobody reads it, it cannot be written, it comes in floods. Names begin with
//! the faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    calls::{bundle, runtime, switch},
    daemon::{Daemon, program, write_config},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    io::Read as _,
    path::Path,
    process::{Child, ChildStderr, Stdio},
    thread::{self, JoinHandle},
};
use synchromesh::{
    observe::Stamp,
    proto::{self, event::Kind},
};
use tempfile::TempDir;

/// A daemon whose standard error is this.
fn serve(bundle: &Path, more: &str, log: Stdio) -> (TempDir, Child) {
    let place = tempfile::tempdir().unwrap();
    let models = format!("models: [{{bundle: {}, pool_bytes: 1MiB}}]\n{more}", bundle.display());
    write_config(place.path(), &models);
    let mut program = program();
    program.args(["serve", "--config"]).arg(place.path().join("synchromesh.yaml"));
    let child = program.stderr(log).spawn().unwrap();
    (place, child)
}

/// Switches so often, and sees every switch answered.
fn switch_often(place: &TempDir, turns: usize) {
    let control = place.path().join("control.sock");
    runtime().block_on(async {
        let mut client = loop {
            match synchromesh::client::connect(&control).await {
                Ok(client) => break client,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        for turn in 0..turns {
            let task = if turn % 2 == 0 { "city" } else { "highway" };
            client.switch_task(switch(task)).await.unwrap();
        }
    });
}

fn stop(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// What is written from now on, to the end.
fn rest(mut log: ChildStderr) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn p13_switches_go_on_while_nobody_reads_the_log_and_lines_that_are_lost_are_counted() {
    let (folder, _, _) = bundle();
    let more = "log: {format: json, filter: trace}\n";
    let (place, mut child) = serve(&folder.path().join("small.mesh"), more, Stdio::piped());
    // The pipe's reading end is held and not read. It holds some 64 KiB, and the daemon not much
    // more.
    let log = child.stderr.take().unwrap();
    switch_often(&place, 2000);
    let log = rest(log);
    stop(&mut child);
    let text = log.join().unwrap();
    let mut lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
    let lost = lines.find_map(|line| {
        let fields = line.expect("lines are lost as a whole")["fields"].take();
        let is_told = fields["message"].as_str()?.contains("lines are lost");
        is_told.then(|| fields["count"].as_u64())?
    });
    assert!(lost > Some(0), "{lost:?}");
}

#[test]
fn p13_switches_go_on_when_the_logs_reader_has_gone() {
    let (folder, _, _) = bundle();
    let (place, mut child) = serve(&folder.path().join("small.mesh"), "", Stdio::piped());
    drop(child.stderr.take());
    switch_often(&place, 1000);
    stop(&mut child);
}

#[test]
fn p13_s12_switches_go_on_when_the_log_is_on_a_full_disk() {
    let (folder, _, _) = bundle();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (place, mut child) = serve(&folder.path().join("small.mesh"), "", full.into());
    switch_often(&place, 1000);
    stop(&mut child);
}

#[test]
fn p13_a_flood_of_switches_is_no_flood_of_lines_and_what_is_left_out_is_told() {
    let (folder, _, _) = bundle();
    let more = "log: {format: json}\n";
    let (place, mut child) = serve(&folder.path().join("small.mesh"), more, Stdio::piped());
    let log = rest(child.stderr.take().unwrap());
    const TURNS: u64 = 4000;
    switch_often(&place, TURNS as usize);
    stop(&mut child);
    let text = log.join().unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let switched = lines.iter().filter(|line| line["fields"]["kind"] == "switched").count() as u64;
    assert!(switched >= 200, "a burst is told: {switched}");
    let left_out = |line: &serde_json::Value| {
        let told = line["fields"]["message"].as_str()?.contains("left out");
        told.then(|| line["fields"]["count"].as_u64()).flatten()
    };
    let left_out: u64 = lines.iter().filter_map(left_out).sum();
    assert!(left_out > 0, "more than a burst came");
    assert_eq!(switched + left_out, TURNS, "each switch is told or counted");
}

#[test]
fn each_switch_has_a_line_that_says_where_its_time_went() {
    let (folder, _, bundle) = bundle();
    let mut daemon =
        Daemon::start(&folder.path().join("small.mesh"), common::calls::whole(&bundle));
    let times = runtime().block_on(async {
        let mut client = daemon.connect().await;
        let mut request = tonic::Request::new(switch("city"));
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        request.metadata_mut().insert("traceparent", parent.parse().unwrap());
        client.switch_task(request).await.unwrap();
        client.switch_task(switch("highway")).await.unwrap();
        let told = client.watch_events(proto::WatchEventsRequest::default()).await.unwrap();
        let mut told = told.into_inner();
        let mut times = Vec::new();
        while times.len() < 2 {
            let events = told.message().await.unwrap().unwrap().events;
            let switched = |event: &proto::Event| matches!(event.kind, Some(Kind::Switched(_)));
            times.extend(events.into_iter().filter(switched).map(|event| event.time_us));
        }
        times
    });
    assert_eq!(daemon.stop(), Some(0));
    assert!(daemon.wait_for("switched city → highway"), "the last one is told, too");
    let log = daemon.log();
    let first = log.iter().find(|line| line.contains("switched to city in ")).unwrap();
    assert!(first.contains("trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\""), "{first}");
    assert!(first.contains("session=\"default\"") && first.contains("generation=1"), "{first}");
    let second = log.iter().find(|line| line.contains("switched city → highway")).unwrap();
    assert!(!second.contains("trace_id") && !second.contains("request_id"), "{second}");
    for (line, time_us) in [first, second].into_iter().zip(times) {
        assert!(line.starts_with(&Stamp(time_us).to_string()), "{line}: its time is the event's");
    }
}

#[test]
fn a_switch_that_is_refused_before_it_begins_has_a_line_with_its_reason() {
    let (folder, _, bundle) = bundle();
    let mut daemon =
        Daemon::start(&folder.path().join("small.mesh"), common::calls::whole(&bundle));
    let long = "x".repeat(40_000);
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let session =
            |session: &str| proto::SwitchTaskRequest { session: session.into(), ..switch("city") };
        let past = proto::SwitchTaskRequest { expected_generation: Some(7), ..switch("city") };
        for request in [switch("nosuch"), session(&long), past, switch("city")] {
            let _ = client.switch_task(request).await;
        }
    });
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log();
    let refused: Vec<_> = log.iter().filter(|line| line.contains("switch refused")).collect();
    let [unknown, foreign, past] = &refused[..] else { panic!("{log:?}") };
    assert!(unknown.contains("reason=\"UNKNOWN_TASK\"") && unknown.contains("task=\"nosuch\""));
    assert!(foreign.contains("reason=\"BAD_NAME\"") && foreign.len() < 400, "{foreign}");
    assert!(past.contains("reason=\"GENERATION_MISMATCH\""), "{past}");
}
