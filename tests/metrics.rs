//! Metrics as a scraper sees them: over HTTP, of a running daemon. And what is written about them:
//! the document, the rules, the dashboard.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    Fixture,
    calls::{bundle, runtime, switch, whole},
    daemon::Daemon,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
};
use synchromesh::{
    client::Attachment,
    proto::{self, OpenSessionRequest, PrepareTaskRequest},
};

/// An answer of HTTP.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.into() }
    }
}

/// The address that a daemon tells in its log.
fn address(daemon: &Daemon) -> String {
    let log = daemon.log();
    let line = log.iter().find(|line| line.contains("metrics are served")).unwrap();
    line.split_once("address=").unwrap().1.trim().to_owned()
}

/// A daemon that serves metrics.
fn watched(models: impl FnOnce(&Path) -> String) -> (Daemon, String) {
    let daemon = Daemon::with_listen("metrics: \"127.0.0.1:0\"", models);
    let address = address(&daemon);
    (daemon, address)
}

fn small_daemon() -> (tempfile::TempDir, Daemon, String) {
    let (folder, _, bundle) = bundle();
    let models = one(&folder.path().join("small.mesh"), whole(&bundle));
    let (daemon, address) = watched(|_| models);
    (folder, daemon, address)
}

fn one(bundle: &Path, pool_bytes: u64) -> String {
    format!("models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n", bundle.display())
}

/// Sends a request, all of it, and takes nothing of the answer yet.
fn send(address: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn ask(address: &str, method: &str, path: &str, headers: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    Answer::read(send(address, &head))
}

fn get(address: &str, headers: &str) -> Answer {
    ask(address, "GET", "/metrics", &format!("Host: {address}\r\n{headers}"))
}

/// Samples by name and labels, as they stand in the text; labels are sorted.
struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(address: &str) -> Self {
        let answer = get(address, "");
        assert_eq!(answer.status, 200, "{}", answer.head);
        Self::parse(answer.body)
    }

    fn parse(text: String) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (sorted(series), value.parse::<f64>().unwrap())
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(sample).collect();
        Self { samples, text }
    }

    fn at(&self, series: &str) -> f64 {
        let found = self.samples.get(&sorted(series));
        *found.unwrap_or_else(|| panic!("there is no {series} in\n{}", self.text))
    }

    /// Names of samples.
    fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|series| series.split('{').next().unwrap()).collect()
    }

    /// Names of families with their types.
    fn families(&self) -> BTreeMap<&str, &str> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|family| family.split_once(' ').unwrap()).collect()
    }
}

/// The same series with its labels in the order of their names.
fn sorted(series: &str) -> String {
    let Some((name, labels)) = series.trim_end_matches('}').split_once('{') else {
        return series.to_owned();
    };
    let mut labels: Vec<_> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

#[test]
fn try_it() {
    let (_folder, daemon, address) = small_daemon();
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        control.switch_task(switch("city")).await.unwrap();
        control.switch_task(switch("highway")).await.unwrap();
        control.switch_task(switch("highway")).await.unwrap();
        control.switch_task(switch("nowhere")).await.unwrap_err();
    });
    let scrape = Scrape::of(&address);
    fs::write("/tmp/scrape.txt", &scrape.text).unwrap();
    fs::write("/tmp/scrape.om", get(&address, "Accept: application/openmetrics-text\r\n").body)
        .unwrap();
}
