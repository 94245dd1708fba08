//! The status page and what it asks for, over HTTP: the built binary, real sockets, no browser.
//! What a browser makes of it is tested in `tests/page`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    HANG,
    calls::{bundle, runtime, switch, whole},
    daemon::{Daemon, run},
    http, soon,
    systemd::HeldThread,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};
use tempfile::TempDir;

/// Listeners at once, as the daemon allows.
const LISTENERS: usize = 16;

/// A daemon with a page.
struct Paged {
    daemon: Daemon,
    address: String,
    _bundle: TempDir,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: BufReader<TcpStream>,
}

/// A message of the stream.
#[derive(Debug, PartialEq)]
struct Message {
    name: String,
    id: String,
    data: Value,
}

impl Paged {
    fn start() -> Self {
        let (folder, _, bundle) = bundle();
        let path = folder.path().join("small.mesh").display().to_string();
        let pool_bytes = whole(&bundle);
        let (daemon, address) =
            http::served(|_| format!("models: [{{bundle: {path}, pool_bytes: {pool_bytes}}}]\n"));
        Self { daemon, address, _bundle: folder }
    }

    fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        write!(stream, "{head}{headers}Connection: close\r\n\r\n").unwrap();
        let mut body = BufReader::new(stream);
        let first = line(&mut body).unwrap();
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HashMap::new();
        while let Some((name, value)) = line(&mut body).unwrap().split_once(": ") {
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        Answer { status, headers, body }
    }

    fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[])
    }

    fn listen(&self, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", "/api/events", headers)
    }

    fn switch(&self, task: &str) {
        runtime().block_on(async {
            self.daemon.connect().await.switch_task(switch(task)).await.unwrap();
        });
    }
}

impl Answer {
    fn text(&mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).unwrap();
        text
    }

    fn json(&mut self) -> Value {
        assert_eq!(self.headers["content-type"], "application/json");
        serde_json::from_str(&self.text()).unwrap()
    }

    /// The next message of the stream; nothing at its end. The sizes of chunks, which stand on
    /// lines of their own, are passed over.
    fn message(&mut self) -> Option<Message> {
        let (mut name, mut id) = (String::new(), String::new());
        loop {
            let line = line(&mut self.body)?;
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => id = value.to_owned(),
                Some(("data", value)) => {
                    return Some(Message { name, id, data: serde_json::from_str(value).unwrap() });
                }
                _ => {}
            }
        }
    }

    fn next(&mut self, name: &str) -> Message {
        loop {
            let message = self.message().expect("the stream goes on");
            if message.name == name {
                return message;
            }
        }
    }

    /// Waits for a switch to a task, and gives the id of the message that told of it.
    fn switched_to(&mut self, task: &str) -> String {
        loop {
            let Message { id, data, .. } = self.next("events");
            let mut events = data["events"].as_array().unwrap().iter();
            if events.any(|event| event["switched"]["task"] == task) {
                return id;
            }
        }
    }
}

/// A line without its end; nothing at the end of the stream.
fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).unwrap();
    (read > 0).then(|| line.trim_end().to_owned())
}

/// What a file of the page refers to, by path.
fn references(text: &str) -> Vec<String> {
    let quoted = text.split('"').skip(1).step_by(2);
    let files = quoted.filter(|word| {
        word.starts_with('/') && [".js", ".css", ".svg"].iter().any(|end| word.ends_with(end))
    });
    files.map(str::to_owned).collect()
}

#[test]
fn all_of_the_page_comes_from_here_is_small_and_is_guarded() {
    let paged = Paged::start();
    let (mut wanted, mut seen, mut bytes) = (vec!["/".to_owned()], BTreeSet::new(), 0);
    while let Some(path) = wanted.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let mut answer = paged.get(&path);
        assert_eq!(answer.status, 200, "{path}");
        let policy = &answer.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'self';"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        let tag = answer.headers["etag"].clone();
        let text = answer.text();
        bytes += text.len();
        wanted.extend(references(&text));

        let mut again = paged.ask("GET", &path, &[("If-None-Match", &tag)]);
        assert_eq!((again.status, again.text()), (304, String::new()), "{path}");
    }
    assert!(seen.len() > 5 && seen.contains("/app.js") && seen.contains("/style.css"), "{seen:?}");
    assert!(bytes > 10_000 && bytes <= 100 << 10, "the page has {bytes} bytes");
}

#[test]
fn nothing_can_be_changed_and_nothing_else_is_there() {
    let paged = Paged::start();
    for target in ["/", "/app.js", "/api/status", "/api/models", "/api/events"] {
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(paged.ask(method, target, &[]).status, 405, "{method} {target}");
        }
    }
    for target in ["/index.html", "/../etc/passwd", "/api", "/api/switch"] {
        assert_eq!(paged.get(target).status, 404, "{target}");
    }
}

#[test]
fn state_and_models_are_told_as_the_commands_tell_them() {
    let paged = Paged::start();
    paged.switch("city");
    let control = paged.daemon.control();
    let printed = run(&["status", "--json", "--control", control.to_str().unwrap()]);
    let mut printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let mut told = paged.get("/api/status");
    assert_eq!(told.headers["cache-control"], "no-store");
    assert_eq!(told.headers["x-content-type-options"], "nosniff");
    let mut told = told.json();
    for status in [&mut printed, &mut told] {
        status["uptime_ms"].take();
    }
    assert_eq!(told, printed);
    assert_eq!(told["models"][0]["picture"], Value::Null);

    let drawn = paged.get("/api/status?model=small&picture=1").json();
    let picture = &drawn["models"][0]["picture"];
    assert_eq!(picture["tasks"], serde_json::json!(["city", "highway", "parking"]));
    let cells = picture["cells"].as_array().unwrap();
    assert_eq!(cells.iter().map(|cell| cell["count"].as_u64().unwrap()).sum::<u64>(), 24);

    let mut unknown = paged.get("/api/status?model=none");
    assert_eq!((unknown.status, unknown.json()["reason"].as_str()), (404, Some("UNKNOWN_MODEL")));
    assert_eq!(paged.get("/api/status?picture=much").status, 400);
    let models = paged.get("/api/models").json();
    assert_eq!(models["models"][0]["tasks"][0]["needed"]["blocks"], 15);
}

#[test]
fn a_listener_gets_state_picture_and_events_as_they_come() {
    let paged = Paged::start();
    let mut stream = paged.listen(&[]);
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(stream.headers["cache-control"], "no-store");
    let status = stream.next("status").data;
    assert_eq!(status["status"]["models"][0]["sessions"][0]["task"], "");
    let picture = stream.next("picture").data;
    assert_eq!(picture["small"]["runs"], serde_json::json!([[24, 0]]));
    assert_eq!(picture["small"]["looks"][0], serde_json::json!(["free", "0", 0, 0]));

    paged.switch("city");
    let id = stream.switched_to("city");
    assert!(id.starts_with(&format!("{}:", status["instance"].as_str().unwrap())), "{id}");
    let picture = stream.next("picture").data;
    let looks = picture["small"]["looks"].as_array().unwrap();
    let runs = picture["small"]["runs"].as_array().unwrap();
    let used = runs.iter().filter(|run| {
        let look = &looks[run[1].as_u64().unwrap() as usize];
        let tasks = u64::from_str_radix(look[1].as_str().unwrap(), 16).unwrap();
        look[0] == "resident" && tasks & 1 == 1 && look[2] == 1
    });
    let used: u64 = used.map(|run| run[0].as_u64().unwrap()).sum();
    assert_eq!(used, 15, "all that city needs: {picture}");
}

#[test]
fn r21_a_listener_goes_on_where_it_was() {
    let paged = Paged::start();
    let mut first = paged.listen(&[]);
    paged.switch("city");
    let place = first.switched_to("city");
    drop(first);
    paged.switch("highway");

    for mut again in [
        paged.listen(&[("Last-Event-ID", &place)]),
        paged.get(&format!("/api/events?after={place}")),
    ] {
        let events = again.next("events").data["events"].clone();
        assert_eq!(events[0]["switched"]["task"], "highway", "nothing is told twice: {events}");
        let (_, sequence) = place.split_once(':').unwrap();
        let sequence: u64 = sequence.parse().unwrap();
        assert_eq!(events[0]["sequence"], sequence + 1, "and nothing is left out");
    }
    // Of another run of the daemon, or nonsense: from the beginning.
    for place in ["0123456789abcdef:7", "nonsense"] {
        let mut again = paged.listen(&[("Last-Event-ID", place)]);
        assert_eq!(again.next("events").data["events"][0]["sequence"], 1, "{place}");
    }
}

#[test]
fn r6_listeners_are_bounded_and_one_that_does_not_read_costs_the_others_nothing() {
    let paged = Paged::start();
    let mut listeners: Vec<_> = (0..LISTENERS).map(|_| paged.listen(&[])).collect();
    assert!(listeners.iter().all(|listener| listener.status == 200));
    let mut refused = paged.listen(&[]);
    assert_eq!((refused.status, refused.headers["retry-after"].as_str()), (503, "5"));
    assert!(refused.text().contains("16 listen already"));
    assert_eq!(paged.get("/api/status").status, 200, "others are served");

    paged.switch("city");
    let mut last = listeners.pop().unwrap();
    last.switched_to("city");
    drop(last);
    // The place is free once the daemon has seen that its listener is gone.
    assert!(soon(|| paged.listen(&[]).status == 200));
}

#[test]
fn r10_a_listener_that_does_not_read_is_hung_up_on() {
    let paged = Paged::start();
    let silent = paged.listen(&[]);
    let connections = |count: u32| {
        let line = format!("synchromesh_http_connections {count}\n");
        http::scrape(&paged.address).contains(&line)
    };
    assert!(connections(2), "the listener's and this one's");
    // More is told than the kernel holds for a peer.
    let is_hung_up_on = || {
        runtime().block_on(async {
            let mut control = paged.daemon.connect().await;
            for task in ["city", "highway"].repeat(100) {
                control.switch_task(switch(task)).await.unwrap();
            }
        });
        connections(1)
    };
    assert!(soon(is_hung_up_on), "it keeps its place");
    drop(silent);
}

#[test]
fn p7_listeners_are_told_of_the_end_however_long_it_takes_to_tell_them() {
    let mut paged = Paged::start();
    let mut stream = paged.listen(&[]);
    stream.next("status");
    let root = rustix::process::geteuid().is_root();
    let held = root.then(|| HeldThread::hold(&paged.daemon, "http"));
    let pid = Pid::from_raw(paged.daemon.pid() as i32).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(paged.daemon.wait_for("stopping"), "{:?}", paged.daemon.log());
    // Long enough for all else to end, and less than the daemon waits.
    std::thread::sleep(Duration::from_millis(100));
    drop(held);
    let mut last = None;
    while let Some(message) = stream.message() {
        last = Some(message).filter(|message| message.name == "events").or(last);
    }
    let last = last.expect("events were told").data;
    let changed = &last["events"].as_array().unwrap().last().unwrap()["daemon_changed"];
    assert_eq!(changed["state"], "DAEMON_STATE_DRAINING");
    assert!(paged.daemon.ends(), "{:?}", paged.daemon.log());
}
