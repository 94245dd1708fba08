//! What a daemon tells to those who watch it: over gRPC, and by `synchromesh events`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    calls::{bundle, reason, runtime, switch, whole},
    daemon::{Daemon, program, run},
    http, soon,
};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};
use synchromesh::{
    client::Control,
    proto::{
        Client, CloseSessionRequest, DaemonState, Event, EventPosition, OpenSessionRequest,
        WatchEventsRequest, WatchEventsResponse, event::Kind,
    },
};
use tonic::{Code, Streaming};

/// Events that are kept, as the daemon has it.
const KEPT: u64 = 2048;
/// Most who watch at once, as the daemon has it.
const MAX_WATCHERS: usize = 32;

/// Somebody who watches a daemon.
struct Watcher {
    stream: Streaming<WatchEventsResponse>,
    instance: String,
    come: std::collections::VecDeque<Event>,
}

impl Watcher {
    async fn begin(client: &mut Control, request: WatchEventsRequest) -> Self {
        let stream = client.watch_events(request).await.unwrap().into_inner();
        Self { stream, instance: String::new(), come: Default::default() }
    }

    async fn next(&mut self) -> Option<Event> {
        while self.come.is_empty() {
            let batch = self.stream.message().await.unwrap()?;
            self.instance = batch.instance;
            self.come.extend(batch.events);
        }
        self.come.pop_front()
    }

    /// The tasks of the next switches.
    async fn tasks(&mut self, count: usize) -> Vec<String> {
        let mut tasks = Vec::new();
        while tasks.len() < count {
            if let Some(Kind::Switched(switched)) = self.next().await.unwrap().kind {
                tasks.push(switched.task);
            }
        }
        tasks
    }
}

fn from(after: Option<(&str, u64)>) -> WatchEventsRequest {
    let place = |(instance, sequence): (&str, u64)| EventPosition {
        instance: instance.to_owned(),
        sequence,
    };
    WatchEventsRequest { after: after.map(place), ..Default::default() }
}

#[test]
fn only_new_events_are_not_from_before_the_call() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        // Events are taken in some milliseconds after they happened, later than the next call begins.
        for (before, after) in [("city", "highway"), ("parking", "city")] {
            client.switch_task(switch(before)).await.unwrap();
            let new = WatchEventsRequest { only_new: true, ..Default::default() };
            let mut new = Watcher::begin(&mut client, new).await;
            client.switch_task(switch(after)).await.unwrap();
            assert_eq!(new.tasks(1).await, [after]);
        }
    });
}

#[test]
fn events_of_switches_and_sessions_name_the_process_and_user_that_called() {
    let (folder, _, bundle) = bundle();
    let (path, pool_bytes) = (folder.path().join("small.mesh"), whole(&bundle));
    let daemon = Daemon::with_config(|_| {
        let models = format!("[{{bundle: {}, pool_bytes: {pool_bytes}}}]", path.display());
        format!("models: {models}\nlog: {{format: json}}\n")
    });
    let client = |caller: Option<Client>| caller.map(|Client { pid, uid }| (pid, uid));
    let own = Some((std::process::id(), rustix::process::getuid().as_raw()));
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        let request = WatchEventsRequest { only_new: true, ..Default::default() };
        let mut watcher = Watcher::begin(&mut control, request).await;
        let session = || "rear".to_owned();
        let open = OpenSessionRequest { session: session(), ..Default::default() };
        control.open_session(open).await.unwrap();
        control.switch_task(switch("city")).await.unwrap();
        let close = CloseSessionRequest { session: session(), ..Default::default() };
        control.close_session(close).await.unwrap();
        let mut callers = Vec::new();
        while callers.len() < 3 {
            match watcher.next().await.unwrap().kind {
                Some(Kind::SessionOpened(opened)) => callers.push(client(opened.caller)),
                Some(Kind::Switched(switched)) => callers.push(client(switched.caller)),
                Some(Kind::SessionClosed(closed)) => callers.push(client(closed.caller)),
                _ => {}
            }
        }
        assert_eq!(callers, [own; 3]);
    });
    let line =
        |log: Vec<String>| log.iter().any(|l| l.contains("caller_pid") && l.contains("city"));
    assert!(soon(|| line(daemon.log())), "{:?}", daemon.log());
}

#[test]
fn a_watcher_is_told_all_in_order_and_goes_on_where_it_left_off() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::with_config(|_| {
        let bundle = folder.path().join("small.mesh");
        format!(
            "models: [{{bundle: {}, pool_bytes: 1MiB, initial_task: city}}]\n",
            bundle.display()
        )
    });
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let mut watcher = Watcher::begin(&mut client, from(None)).await;
        let first = watcher.next().await.unwrap();
        let Some(Kind::Switched(switched)) = first.kind else { panic!("{first:?}") };
        assert_eq!((first.sequence, &switched.task[..]), (1, "city"), "what came first is first");
        assert_eq!((&first.model[..], &first.session[..]), (bundle.model(), "default"));
        let second = watcher.next().await.unwrap();
        let Some(Kind::DaemonChanged(changed)) = second.kind else { panic!("{second:?}") };
        assert_eq!((second.sequence, changed.state()), (2, DaemonState::Serving));

        client.switch_task(switch("highway")).await.unwrap();
        client.switch_task(switch("parking")).await.unwrap();
        assert_eq!(watcher.tasks(2).await, ["highway", "parking"]);
        let instance = watcher.instance.clone();
        drop(watcher);
        client.switch_task(switch("city")).await.unwrap();
        let mut again = Watcher::begin(&mut client, from(Some((&instance, 3)))).await;
        assert_eq!(again.tasks(2).await, ["parking", "city"]);
        let mut other = Watcher::begin(&mut client, from(Some(("another", 3)))).await;
        assert_eq!(other.next().await.unwrap().sequence, 1, "of another run nothing is known");
        assert_eq!(other.instance, instance);
        let ahead = from(Some((&instance, 1 << 40)));
        let mut ahead = Watcher::begin(&mut client, ahead).await;
        let new = WatchEventsRequest { only_new: true, ..Default::default() };
        let mut new = Watcher::begin(&mut client, new).await;
        client.switch_task(switch("highway")).await.unwrap();
        assert_eq!(ahead.next().await.unwrap().sequence, 6, "nothing is passed over");
        assert_eq!(new.next().await.unwrap().sequence, 6);
    });
}

#[test]
fn r21_who_was_away_too_long_or_does_not_read_is_told_what_is_missing() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let switches = 3 * KEPT;
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        // It reads nothing until all is over, and holds nobody up.
        let mut slow = Watcher::begin(&mut client, from(None)).await;
        for turn in 0..switches {
            let task = if turn % 2 == 0 { "city" } else { "highway" };
            client.switch_task(switch(task)).await.unwrap();
        }
        let new = WatchEventsRequest { only_new: true, ..Default::default() };
        let mut new = Watcher::begin(&mut client, new).await;
        client.switch_task(switch("parking")).await.unwrap();
        while new.tasks(1).await != ["parking"] {}
        let mut fresh = Watcher::begin(&mut client, from(None)).await;
        let first = fresh.next().await.unwrap();
        assert!(!matches!(first.kind, Some(Kind::Lost(_))), "who is new misses nothing");
        assert_eq!(first.sequence, switches + 3 - KEPT);
        let mut late = Watcher::begin(&mut client, from(Some(("another", 1)))).await;
        for (watcher, is_late) in [(&mut late, true), (&mut slow, false)] {
            let (mut last, mut lost) = (0, 0);
            loop {
                let event = watcher.next().await.unwrap();
                let count = match &event.kind {
                    Some(Kind::Lost(events)) => events.count,
                    _ => 1,
                };
                assert_eq!(event.sequence, last + count, "no gap is passed over");
                last = event.sequence;
                match event.kind {
                    Some(Kind::Lost(_)) => lost += count,
                    Some(Kind::Switched(switched)) if switched.task == "parking" => break,
                    _ => {}
                }
            }
            assert_eq!(last, switches + 2, "with that of the start");
            // What the other one did not read yet may wait in its connection.
            assert!(!is_late || lost == switches + 2 - KEPT, "{lost}");
        }
    });
}

#[test]
fn a_filtered_watcher_is_told_of_its_model_of_the_daemon_and_of_gaps() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let model = bundle.model().to_owned();
        let request = WatchEventsRequest { model, ..Default::default() };
        let mut watcher = Watcher::begin(&mut client, request).await;
        assert!(matches!(watcher.next().await.unwrap().kind, Some(Kind::DaemonChanged(_))));
        assert_eq!(watcher.tasks(1).await, ["city"]);
        let request = WatchEventsRequest { model: "other".into(), ..Default::default() };
        let unknown = client.watch_events(request).await.unwrap_err();
        assert_eq!((unknown.code(), &reason(&unknown)[..]), (Code::NotFound, "UNKNOWN_MODEL"));
    });
}

#[test]
fn r6_a_process_has_a_share_of_the_watchers_and_one_whose_connection_dies_frees_its_place() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let mut watchers = Vec::new();
        for _ in 0..MAX_WATCHERS / 4 {
            watchers.push(Watcher::begin(&mut client, from(None)).await);
        }
        let refused = client.watch_events(from(None)).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason(&refused), "TOO_MANY_WATCHERS");
        // Another process has its own.
        let mut child = tail(&daemon, &["--since", "all"]);
        first_line(&mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        drop(watchers.pop());
        while client.watch_events(from(None)).await.is_err() {
            tokio::task::yield_now().await;
        }
        client.switch_task(switch("city")).await.unwrap();
        for watcher in &mut watchers {
            assert_eq!(watcher.tasks(1).await, ["city"]);
        }
    });
}

#[test]
fn p7_at_the_end_all_is_told_and_the_stream_ends_cleanly() {
    let (folder, _, bundle) = bundle();
    let mut daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let runtime = runtime();
    let mut watcher = runtime.block_on(async {
        let mut client = daemon.connect().await;
        let watcher = Watcher::begin(&mut client, from(None)).await;
        client.switch_task(switch("city")).await.unwrap();
        watcher
    });
    // The last switch has been answered, but hardly told yet.
    let stopped = std::thread::scope(|scope| {
        let stop = scope.spawn(|| daemon.stop());
        let told = runtime.block_on(async {
            let mut told = Vec::new();
            while let Some(event) = watcher.next().await {
                told.push(event);
            }
            told
        });
        let serving = |event: &Event| match &event.kind {
            Some(Kind::DaemonChanged(changed)) => Some(changed.state()),
            _ => None,
        };
        let states: Vec<_> = told.iter().filter_map(serving).collect();
        assert_eq!(states, [DaemonState::Serving, DaemonState::Draining], "each once: {told:?}");
        assert!(told.iter().any(|event| matches!(event.kind, Some(Kind::Switched(_)))));
        assert!(told.is_sorted_by_key(|event| event.sequence));
        stop.join().unwrap()
    });
    assert_eq!(stopped, Some(0));
}

/// Starts `synchromesh events`.
fn tail(daemon: &Daemon, args: &[&str]) -> Child {
    let mut program = program();
    program.arg("events").args(args).arg("--control").arg(daemon.control());
    program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn the_command_shows_a_line_an_event_and_ends_after_as_many_as_are_asked_for() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let control = daemon.control().display().to_string();
    let switched = run(&["switch", "city", "--request-id", "first", "--control", &control]);
    assert!(switched.status.success());
    let shown = |args: &[&str]| {
        let output = run(&[&["events", "--control", &control], args].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown(&["--since", "all", "--count", "2"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].ends_with(concat!("Z synchromesh ", env!("CARGO_PKG_VERSION"), " serves")));
    let expected = format!("Z {}/default: switched to city in ", bundle.model());
    assert!(lines[1].contains(&expected), "{text}");

    let json = shown(&["--since", "all", "--kind", "switched", "--count", "1", "--json"]);
    let event: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!(event["switched"]["task"], "city");
    assert_eq!(event["switched"]["request_id"], "first");
    assert_eq!(event["sequence"], 2);
    let place = format!("{}:1", event["instance"].as_str().unwrap());
    assert_eq!(shown(&["--since", &place, "--count", "1"]).lines().next(), Some(lines[1]));

    let unknown = run(&["events", "--model", "other", "--control", &control]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn the_command_outlives_its_daemon_and_ends_well_at_ctrl_c() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let mut child = tail(&daemon, &["--since", "all", "--kind", "daemon_changed"]);
    assert!(first_line(&mut child).contains(" serves"));
    let daemon = daemon.restart();
    assert!(first_line(&mut child).contains("finishes what runs"));
    assert!(first_line(&mut child).contains(" serves"), "of the next daemon");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let notices = String::from_utf8(output.stderr).unwrap();
    assert!(notices.contains("the daemon has gone"), "{notices}");
    assert!(notices.contains("another run of the daemon"), "{notices}");
    drop(daemon);
}

#[test]
fn of_the_next_daemon_everything_is_new_to_who_has_seen_nothing_yet() {
    let (folder, _, bundle) = bundle();
    let (shown, pool) = (folder.path().display(), whole(&bundle));
    let (mut daemon, metrics) =
        http::served(|_| format!("models: [{{bundle: {shown}/small.mesh, pool_bytes: {pool}}}]\n"));
    let is_watched = || http::scrape(&metrics).contains("synchromesh_event_watchers 1\n");
    let mut child = tail(&daemon, &[]);
    assert!(soon(is_watched));
    daemon.kill();
    let daemon = daemon.again();
    assert!(first_line(&mut child).contains(" serves"));
    drop(daemon);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_command_ends_quietly_when_nobody_reads_it() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let mut child = tail(&daemon, &["--since", "all"]);
    first_line(&mut child);
    // Nothing more happens that it could fail to write.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
}
