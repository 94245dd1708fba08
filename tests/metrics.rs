//! Metrics as a scraper sees them: over HTTP, of a running daemon. And what is written about them:
//! the document, the rules, the dashboard.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    Fixture, HANG,
    calls::{bundle, runtime, switch, whole},
    daemon::Daemon,
    http::{self, Answer, ask, get_metrics, send, served},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use synchromesh::{bundle::Bundle, client::Attachment, proto, units::BlockIndex};
use tempfile::TempDir;

fn small_daemon() -> (tempfile::TempDir, Daemon, String) {
    let (folder, _, bundle) = bundle();
    let models = one(&folder.path().join("small.mesh"), whole(&bundle));
    let (daemon, address) = served(|_| models);
    (folder, daemon, address)
}

fn one(bundle: &Path, pool_bytes: u64) -> String {
    format!("models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n", bundle.display())
}

/// Samples by name and labels, as they stand in the text; labels are sorted.
struct Scrape {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(address: &str) -> Self {
        Self::parse(http::scrape(address))
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

/// Scrapes share what the engine tells for a second.
const SHARED: Duration = Duration::from_millis(1100);

/// Scrapes until a value is there: events are counted a little after they happen. What comes back was
/// told by the engine later than that.
fn once(address: &str, series: &str, value: f64) -> Scrape {
    for _ in 0..2000 {
        let scrape = Scrape::of(address);
        if scrape.samples.get(&sorted(series)) == Some(&value) {
            thread::sleep(SHARED);
            return Scrape::of(address);
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{series} does not become {value}:\n{}", Scrape::of(address).text)
}

/// Damages a block on disk.
fn damage(bundle: &Bundle, file: &Path, block: BlockIndex) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&[0x5a; 64], bundle.block_offset(block)).unwrap();
}

fn to(model: &str, session: &str, task: &str) -> proto::SwitchTaskRequest {
    let (model, session, task) = (model.into(), session.into(), task.into());
    proto::SwitchTaskRequest { model, session, task, ..Default::default() }
}

fn open(model: &str, session: &str) -> proto::OpenSessionRequest {
    let ttl_ms = Some(3_600_000);
    proto::OpenSessionRequest {
        model: model.into(),
        session: session.into(),
        ttl_ms,
        ..Default::default()
    }
}

/// A daemon with two models, sessions, a client that holds a lease, and failures of every kind that
/// a test can bring about; all of it counted.
struct Busy {
    _folder: TempDir,
    _daemon: Daemon,
    address: String,
    _reader: Attachment,
}

impl Busy {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let small = Fixture::small().write(&path("small.mesh"));
        let wide = Fixture::wide(160).write(&path("wide.mesh"));
        let models = format!(
            "models:\n- {{bundle: {}, pool_bytes: {}}}\n- {{bundle: {}, pool_bytes: {}}}\n\
             prefetch: {{enabled: true}}\n",
            path("small.mesh").display(),
            whole(&small),
            path("wide.mesh").display(),
            whole(&wide) * 3 / 4,
        );
        damage(&small, &path("small.mesh"), BlockIndex(22));
        let (daemon, address) = served(|_| models);
        let mut reader = None;
        runtime().block_on(async {
            let mut control = daemon.connect().await;
            for task in ["city", "highway", "city", "highway", "highway", "nowhere"] {
                let _ = control.switch_task(to("small", "", task)).await;
            }
            control.open_session(open("wide", "rear")).await.unwrap();
            for task in ["fog", "night", "fog", "night", "rain", "tunnel", "rural", "fog"] {
                control.switch_task(to("wide", "rear", task)).await.unwrap();
            }
            let prepare = |task: &str| proto::PrepareTaskRequest {
                model: "wide".into(),
                task: task.into(),
                hold_ms: 60_000,
            };
            control.prepare_task(prepare("city")).await.unwrap();
            reader = Some(Attachment::connect(&daemon.attach(), "small", "").unwrap());
            control.switch_task(to("small", "", "parking")).await.unwrap_err();
        });
        let failed = "synchromesh_switch_failures_total{model=\"small\",reason=\"BLOCKS_CORRUPT\"}";
        once(&address, failed, 1.0);
        Self { _folder: folder, _daemon: daemon, address, _reader: reader.unwrap() }
    }
}

#[test]
fn what_switches_do_is_counted() {
    let (_folder, daemon, address) = small_daemon();
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        control.switch_task(switch("city")).await.unwrap();
        control.switch_task(switch("highway")).await.unwrap();
        control.switch_task(switch("highway")).await.unwrap();
        control.switch_task(switch("city")).await.unwrap();
        control.switch_task(switch("nowhere")).await.unwrap_err();
    });
    let resident =
        "synchromesh_switch_duration_seconds_count{model=\"small\",outcome=\"resident\"}";
    let scrape = once(&address, resident, 1.0);
    let outcome = |outcome: &str| {
        scrape.at(&format!(
            "synchromesh_switch_duration_seconds_count{{model=\"small\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((outcome("loaded"), outcome("already_active")), (2.0, 1.0));
    for phase in ["queue", "plan", "read", "verify", "publish"] {
        let series = format!(
            "synchromesh_switch_phase_duration_seconds_count{{model=\"small\",phase=\"{phase}\"}}"
        );
        assert_eq!(scrape.at(&series), 3.0, "of switches that changed the task");
    }
    let bytes = |kind: &str| {
        scrape.at(&format!("synchromesh_block_bytes_total{{model=\"small\",kind=\"{kind}\"}}"))
            / 4096.0
    };
    // 15 blocks of `city`; 16 of `highway`, of which `city` has 10; and back.
    assert_eq!((bytes("read"), bytes("reused")), (21.0, 25.0));
    assert_eq!((bytes("evicted"), bytes("prefetched"), bytes("wasted")), (0.0, 0.0, 0.0));
    let state =
        |state: &str| scrape.at(&format!("synchromesh_slots{{model=\"small\",state=\"{state}\"}}"));
    assert_eq!((state("resident"), state("free"), state("lost")), (21.0, 3.0, 0.0));
    assert_eq!(scrape.at("synchromesh_pinned_blocks{model=\"small\"}"), 15.0);
    let resident = |task: &str| {
        scrape.at(&format!("synchromesh_task_resident_ratio{{model=\"small\",task=\"{task}\"}}"))
    };
    assert_eq!((resident("city"), resident("highway")), (1.0, 1.0));
    assert_eq!(resident("parking"), 1.0 - 3.0 / 13.0);
    let active =
        "synchromesh_session_active_task_info{model=\"small\",session=\"default\",task=\"city\"}";
    assert_eq!(scrape.at(active), 1.0);
    assert_eq!(
        scrape.at("synchromesh_session_generation{model=\"small\",session=\"default\"}"),
        3.0
    );
    assert_eq!(scrape.at("synchromesh_storage_read_bytes_total{model=\"small\"}"), 21.0 * 4096.0);
    let reads = scrape.at("synchromesh_storage_reads_total{model=\"small\"}");
    assert_eq!(
        scrape.at("synchromesh_storage_read_duration_seconds_count{model=\"small\"}"),
        reads
    );
    assert_eq!(scrape.at("synchromesh_prefetch_switches_total{model=\"small\"}"), 3.0);
    assert_eq!(scrape.at("synchromesh_prefetch_hits_total{model=\"small\"}"), 1.0);
    assert_eq!(scrape.at("synchromesh_engine_up"), 1.0);
    assert_eq!(scrape.at("synchromesh_daemon_state{state=\"serving\"}"), 1.0);
}

#[test]
fn blocking_reads_are_counted_as_well() {
    let (folder, _, bundle) = bundle();
    let models = one(&folder.path().join("small.mesh"), whole(&bundle));
    let (daemon, address) = served(|_| models + "storage: {backend: preadv}\n");
    runtime().block_on(async {
        daemon.connect().await.switch_task(switch("city")).await.unwrap();
    });
    let scrape = Scrape::of(&address);
    assert_eq!(
        scrape.at("synchromesh_storage_backend_info{model=\"small\",backend=\"preadv\"}"),
        1.0
    );
    assert_eq!(
        scrape.at("synchromesh_storage_fallback{model=\"small\"}"),
        0.0,
        "it was wished for"
    );
    let reads = scrape.at("synchromesh_storage_reads_total{model=\"small\"}");
    assert_eq!(
        scrape.at("synchromesh_storage_read_duration_seconds_count{model=\"small\"}"),
        reads
    );
    for state in ["waiting", "under_way"] {
        let depth = format!("synchromesh_storage_queue_depth{{model=\"small\",state=\"{state}\"}}");
        assert_eq!(scrape.at(&depth), 0.0, "{state}");
    }
}

#[test]
fn calls_are_counted_by_the_code_that_they_end_with() {
    let (_folder, daemon, address) = small_daemon();
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        // Told after the message, told instead of one, and refused by the service itself.
        control.switch_task(switch("city")).await.unwrap();
        control.switch_task(switch("nowhere")).await.unwrap_err();
        let long = "x".repeat(1000);
        let long = proto::SwitchTaskRequest { request_id: long, ..switch("city") };
        control.switch_task(long).await.unwrap_err();
        control.get_status(proto::GetStatusRequest::default()).await.unwrap();
    });
    let scrape = once(&address, "synchromesh_rpc_under_way", 0.0);
    let calls = |method: &str, code: &str| {
        scrape.at(&format!("synchromesh_rpc_requests_total{{method=\"{method}\",code=\"{code}\"}}"))
    };
    assert_eq!(calls("SwitchTask", "OK"), 1.0);
    assert_eq!(calls("SwitchTask", "NOT_FOUND"), 1.0);
    assert_eq!(calls("SwitchTask", "INVALID_ARGUMENT"), 1.0);
    assert_eq!(calls("GetStatus", "OK"), 1.0);
    assert_eq!(scrape.at("synchromesh_rpc_duration_seconds_count{method=\"SwitchTask\"}"), 3.0);
}

#[test]
fn a_call_that_its_caller_leaves_is_cancelled_and_who_watches_is_counted() {
    let (_folder, daemon, address) = small_daemon();
    let runtime = runtime();
    let watching = runtime.block_on(async {
        let mut control = daemon.connect().await;
        let request = proto::WatchEventsRequest::default();
        control.watch_events(request).await.unwrap().into_inner()
    });
    let scrape = once(&address, "synchromesh_event_watchers", 1.0);
    assert_eq!(scrape.at("synchromesh_rpc_under_way"), 1.0);
    drop((watching, runtime));
    let cancelled = "synchromesh_rpc_requests_total{method=\"WatchEvents\",code=\"CANCELLED\"}";
    once(&address, cancelled, 1.0);
    once(&address, "synchromesh_event_watchers", 0.0);
}

#[test]
fn callers_make_up_no_labels() {
    let (_folder, daemon, address) = small_daemon();
    runtime().block_on(async {
        let channel = synchromesh::client::channel(&daemon.control()).await.unwrap();
        for path in ["/synchromesh.v1.TaskService/MadeUp", "/made.up/SwitchTusk"] {
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<
                proto::ListModelsRequest,
                proto::ListModelsResponse,
            >::default();
            let request = tonic::Request::new(proto::ListModelsRequest {});
            let path = path.parse().unwrap();
            client.unary(request, path, codec).await.unwrap_err();
        }
    });
    let other = "synchromesh_rpc_requests_total{method=\"other\",code=\"UNIMPLEMENTED\"}";
    let scrape = once(&address, other, 2.0);
    assert!(!scrape.text.contains("MadeUp") && !scrape.text.contains("Tusk"));
}

#[test]
fn a_block_that_does_not_match_and_a_lease_that_lasts_are_seen() {
    let (folder, _, bundle) = bundle();
    let file = folder.path().join("small.mesh");
    let models = one(&file, whole(&bundle)) + "limits: {lease_patience_ms: 50}\n";
    let (daemon, address) = served(|_| models);
    let mut attachment = None;
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        control.switch_task(switch("city")).await.unwrap();
        let reader = attachment.insert(Attachment::connect(&daemon.attach(), "", "").unwrap());
        std::mem::forget(reader.lease().unwrap());
        control.switch_task(switch("highway")).await.unwrap();
        damage(&bundle, &file, BlockIndex(22));
        control.switch_task(switch("parking")).await.unwrap_err();
    });
    let scrape = once(&address, "synchromesh_leases_revoked_total{model=\"small\"}", 1.0);
    assert_eq!(scrape.at("synchromesh_leases{model=\"small\"}"), 1.0);
    assert!(scrape.at("synchromesh_lease_oldest_age_seconds{model=\"small\"}") >= 0.05);
    let of_session = |name: &str| {
        scrape.at(&format!("synchromesh_{name}{{model=\"small\",session=\"default\"}}"))
    };
    assert_eq!((of_session("session_clients"), of_session("draining_generations")), (1.0, 1.0));
    assert_eq!(scrape.at("synchromesh_clients_attached_total{model=\"small\"}"), 1.0);
    let scrape = once(&address, "synchromesh_blocks_quarantined_total{model=\"small\"}", 1.0);
    assert_eq!(scrape.at("synchromesh_quarantined_blocks{model=\"small\"}"), 1.0);
    assert_eq!(scrape.at("synchromesh_blocks_mismatched_total{model=\"small\"}"), 2.0);
    assert_eq!(scrape.at("synchromesh_blocks_read_again_total{model=\"small\"}"), 1.0);
    drop(attachment);
    once(&address, "synchromesh_clients_detached_total{model=\"small\"}", 1.0);
}

#[test]
fn the_text_is_what_is_asked_for() {
    let (_folder, _daemon, address) = small_daemon();
    let plain = get_metrics(&address, "");
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
    assert!(!plain.body.contains("# EOF") && !plain.body.contains("# UNIT"));
    let open = get_metrics(&address, "Accept: application/openmetrics-text; version=1.0.0\r\n");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(open.head.contains(kind), "{}", open.head);
    assert!(open.body.ends_with("\n# EOF\n"));
    for line in ["# TYPE synchromesh_build info", "# UNIT synchromesh_pool_bytes bytes"] {
        assert!(open.body.lines().any(|found| found == line), "{line}");
    }
    let (plain, open) = (Scrape::parse(plain.body), Scrape::parse(open.body));
    assert_eq!(plain.names(), open.names(), "both say the same");
}

#[test]
fn nothing_else_is_answered() {
    let (_folder, _daemon, address) = small_daemon();
    let host = format!("Host: {address}\r\n");
    let head = ask(&address, "HEAD", "/metrics", &host);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: "));
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(ask(&address, method, "/metrics", &host).status, 405, "{method}");
    }
    for path in ["/metric", "/metrics/", "//metrics", "/../metrics", "/etc/passwd"] {
        assert_eq!(ask(&address, "GET", path, &host).status, 404, "{path}");
    }
}

#[test]
fn only_who_asks_for_an_address_or_for_this_machine_is_answered() {
    let (_folder, _daemon, address) = small_daemon();
    let port = address.rsplit_once(':').unwrap().1;
    let status = |host: &str| ask(&address, "GET", "/metrics", &format!("Host: {host}\r\n")).status;
    for host in ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "192.0.2.7"] {
        assert_eq!(status(host), 200, "{host}");
        assert_eq!(status(&format!("{host}:{port}")), 200, "{host}");
    }
    for host in ["example.org", "localhost.example.org", "127.0.0.1.example.org", "localhostx"] {
        assert_eq!(status(&format!("{host}:{port}")), 421, "{host}");
    }
    for host in ["", "a b", "user@"] {
        assert_ne!(status(host), 200, "{host:?}");
    }
    assert_eq!(ask(&address, "GET", "/metrics", "").status, 400, "none at all");
    let elsewhere = ask(&address, "GET", "http://example.org/metrics", "Host: localhost\r\n");
    assert_eq!(elsewhere.status, 421, "the request's own name is what counts");
    let old = send(&address, "GET /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(Answer::read(old).status, 200);
}

#[test]
fn who_reads_slowly_or_says_nothing_keeps_nobody_waiting() {
    let (_folder, _daemon, address) = small_daemon();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    // Together they are more than there are places.
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let slow: Vec<_> = (0..20).map(|_| send(&address, &request)).collect();
    let half: Vec<_> = (0..20).map(|_| send(&address, &request[..20])).collect();
    let scrape = Scrape::of(&address);
    assert!(scrape.at("synchromesh_http_connections") >= 1.0);
    drop((silent, slow, half));
}

#[test]
fn who_asks_again_and_again_keeps_nobody_waiting() {
    let (_folder, _daemon, address) = small_daemon();
    let request = format!("HEAD /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n");
    // More than there are places.
    let mut peers: Vec<_> = (0..40).map(|_| send(&address, &request)).collect();
    let is_answered = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let begun = Instant::now();
            while !is_answered.load(Ordering::Relaxed) && begun.elapsed() < HANG {
                peers.iter_mut().for_each(|peer| drop(peer.write_all(request.as_bytes())));
                thread::sleep(Duration::from_millis(100));
            }
            begun.elapsed() < HANG
        });
        http::scrape(&address);
        is_answered.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap(), "it was answered while others were asking");
    });
}

#[test]
fn four_hundred_silent_connections_keep_no_scrape_waiting() {
    let (_folder, _daemon, address) = small_daemon();
    let silent: Vec<_> = (0..400).map(|_| TcpStream::connect(&address).unwrap()).collect();
    // A scraper gives up after ten seconds by default; places were free again after longer.
    let begun = Instant::now();
    for _ in 0..20 {
        http::scrape(&address);
    }
    assert!(begun.elapsed() < HANG, "{:?}", begun.elapsed());
    drop(silent);
}

#[test]
fn a_hundred_requests_at_once_are_all_answered() {
    let (_folder, _daemon, address) = small_daemon();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let all: Vec<_> = (0..100).map(|_| send(&address, &request)).collect();
    for stream in all {
        assert_eq!(Answer::read(stream).status, 200);
    }
}

/// A file of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

const RULES: &str = "config/prometheus/synchromesh.rules.yml";
const DASHBOARD: &str = "config/grafana/dashboards/synchromesh.json";
/// Metrics that Prometheus itself makes.
const OF_PROMETHEUS: [&str; 1] = ["up"];

#[test]
fn metrics_and_the_page_are_read_at_a_unix_socket_too() {
    let (folder, _, bundle) = bundle();
    let (path, pool_bytes) = (folder.path().join("small.mesh"), whole(&bundle));
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("metrics.sock");
    let listen = format!("metrics: '127.0.0.1:0', metrics_socket: {}", socket.display());
    let mut daemon = Daemon::with_listen(&listen, |_| {
        format!("models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n", path.display())
    });
    assert!(daemon.wait_for(&format!("metrics_socket={}", socket.display())), "`ready` names it");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "as `listen.mode` says");
    let get = |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        http::ask_socket(&socket, &request)
    };
    let answer = get("/metrics", "whatever.the.scraper.says");
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(answer.body.contains("synchromesh_build_info"), "{}", answer.body);
    assert!(get("/", "x").body.contains("<html"));
    assert_eq!(daemon.stop(), Some(0));
    assert!(!socket.exists(), "it goes with the daemon");
}

/// The metrics that an expression names: identifiers that are none of PromQL's words, no function
/// and no label.
fn metrics_in(expression: &str) -> Vec<String> {
    let mut code = String::new();
    // What stands in quotes, braces and brackets names no metric; neither do lists of labels.
    let (mut depth, mut quoted) = (0, None);
    for c in expression.chars() {
        match (quoted, c) {
            (Some(quote), c) if c == quote => quoted = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quoted = Some(c),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth -= 1,
            (None, c) if depth == 0 => code.push(c),
            (None, _) => {}
        }
    }
    for word in ["without", "by", "on", "ignoring"] {
        while let Some(at) = code.find(&format!(" {word} (")) {
            let end = code[at..].find(')').unwrap();
            code.replace_range(at..=at + end, " ");
        }
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = &code[..];
    while let Some(start) = rest.find(is_part) {
        let end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |end| start + end);
        let (word, after) = (&rest[start..end], rest[end..].trim_start());
        let is_name = word.starts_with(|c: char| c.is_alphabetic());
        if is_name && !after.starts_with('(') && !["and", "or", "unless", "bool"].contains(&word) {
            found.push(word.to_owned());
        }
        rest = &rest[end..];
    }
    found
}

#[test]
fn the_metrics_of_an_expression_are_found() {
    let expression =
        "sum by (a_label) (rate(a_b{c=\"d_e\", f=~'g'}[5m])) / (x:y:z > 1e+06) and on (h) up";
    assert_eq!(metrics_in(expression), ["a_b", "x:y:z", "up"]);
}

/// All texts of a key, wherever it stands.
fn texts<'a>(value: &'a serde_json::Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                match value.as_str() {
                    Some(text) if name == key => found.push(text),
                    _ => texts(value, key, found),
                }
            }
        }
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| texts(value, key, found))
        }
        _ => {}
    }
}

fn rules() -> Vec<serde_json::Value> {
    let file: serde_json::Value = serde_yaml::from_str(&read(RULES)).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

#[test]
fn every_metric_of_rules_and_dashboard_is_there() {
    let busy = Busy::start();
    let scrape = Scrape::of(&busy.address);
    let rules = rules();
    let recorded: BTreeSet<_> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    let known = |name: &str| {
        scrape.names().contains(name) || recorded.contains(name) || OF_PROMETHEUS.contains(&name)
    };
    let mut checked = 0;
    let mut check = |place: &str, expression: &str| {
        let named = metrics_in(expression);
        assert!(!named.is_empty(), "{place} names no metric: {expression}");
        for name in named {
            assert!(known(&name), "{place}: there is no {name}");
            checked += 1;
        }
    };
    for rule in &rules {
        let name = rule["record"].as_str().or(rule["alert"].as_str()).unwrap();
        check(name, rule["expr"].as_str().unwrap());
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut panels = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            check(title, target["expr"].as_str().unwrap());
            panels += 1;
        }
    }
    for note in dashboard["annotations"]["list"].as_array().unwrap() {
        check("an annotation", note["expr"].as_str().unwrap());
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let metric = query.strip_prefix("label_values(").unwrap();
            let metric = metric.split(['{', ',']).next().unwrap();
            assert!(known(metric), "a variable: there is no {metric}");
        }
    }
    assert!(panels > 60 && checked > 100, "panels are found: {panels}, {checked}");
}

#[test]
fn every_metric_is_shown_on_the_dashboard() {
    let busy = Busy::start();
    let scrape = Scrape::of(&busy.address);
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut expressions = Vec::new();
    texts(&dashboard["panels"], "expr", &mut expressions);
    let shown: BTreeSet<_> = expressions.iter().flat_map(|text| metrics_in(text)).collect();
    for (family, kind) in scrape.families() {
        let ends: &[&str] = if kind == "histogram" { &["_bucket", "_count"] } else { &[""] };
        let is_shown = ends.iter().any(|end| shown.contains(&format!("{family}{end}")));
        assert!(is_shown, "{family} is on no panel");
    }
}

#[test]
fn the_dashboard_is_one_that_any_grafana_can_take() {
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert_eq!(dashboard["uid"], "synchromesh");
    let panels = dashboard["panels"].as_array().unwrap();
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<_> = rows.map(|row| row["title"].as_str().unwrap()).collect();
    assert_eq!(rows, ["Switches", "Foresight", "Pool", "Storage", "Control", "Process"]);
    let mut sources = Vec::new();
    texts(&dashboard, "uid", &mut sources);
    sources.retain(|uid| *uid != "synchromesh");
    assert!(sources.iter().all(|uid| *uid == "${datasource}"), "no data source is built in");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "no number twice");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
    }
    let file = read("config/grafana/provisioning/dashboards/synchromesh.yml");
    let provisioning: serde_json::Value = serde_yaml::from_str(&file).unwrap();
    let path = provisioning["providers"][0]["options"]["path"].as_str().unwrap();
    assert!(path.ends_with("grafana/dashboards"), "where the dashboard is installed");
    let file = read("config/grafana/provisioning/datasources/synchromesh.yml");
    let provisioning: serde_json::Value = serde_yaml::from_str(&file).unwrap();
    assert_eq!(provisioning["datasources"][0]["type"], "prometheus");
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn every_alert_says_what_is_wrong_and_where_to_read_on() {
    let mut alerts = 0;
    // Who installs the rules alone has the links, and finds the document later.
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md"));
    let anchors: Option<BTreeSet<_>> = document.ok().map(|text| {
        let headings = text.lines().filter_map(|line| line.strip_prefix("## "));
        headings.map(anchor).collect()
    });
    for rule in rules().iter().filter(|rule| rule["alert"].is_string()) {
        let name = rule["alert"].as_str().unwrap();
        let note = |key: &str| rule["annotations"][key].as_str().unwrap_or_default();
        assert!(name.starts_with("Synchromesh"), "{name}");
        assert!(!note("summary").is_empty() && note("description").len() > 40, "{name}");
        let link = note("runbook_url").strip_prefix("docs/operations.md#");
        let link = link.unwrap_or_else(|| panic!("{name} has no runbook"));
        if let Some(anchors) = &anchors {
            assert!(anchors.contains(link), "{name}: docs/operations.md has no section #{link}");
        }
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        alerts += 1;
    }
    assert!(alerts >= 15, "alerts are found: {alerts}");
}

/// A row of the document's table: type and labels of a metric.
type Row = (String, BTreeSet<String>, String);

fn documented() -> BTreeMap<String, Row> {
    let code = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').collect();
        let [name, kind, labels, unit, meaning] = cells[..] else { panic!("five cells: {line}") };
        assert!(meaning.trim().len() > 8, "what it means: {line}");
        let labels = labels.split(',').map(code).filter(|label| !label.is_empty());
        (code(name), (code(kind), labels.collect(), code(unit)))
    };
    let text = read("docs/metrics.md");
    let is_row =
        |line: &&str| ["| `synchromesh_", "| `process_"].iter().any(|of| line.starts_with(of));
    let rows: Vec<_> = text.lines().filter(is_row).map(row).collect();
    let count = rows.len();
    let rows: BTreeMap<_, _> = rows.into_iter().collect();
    assert_eq!(rows.len(), count, "no metric twice");
    rows
}

/// Types, labels and units as a scrape shows them.
fn exposed(address: &str) -> BTreeMap<String, Row> {
    let plain = Scrape::of(address);
    let open = get_metrics(address, "Accept: application/openmetrics-text\r\n").body;
    let units: BTreeMap<_, _> =
        open.lines().filter_map(|line| line.strip_prefix("# UNIT ")?.split_once(' ')).collect();
    let mut found = BTreeMap::new();
    for (family, kind) in plain.families() {
        let ends: &[&str] =
            if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        let mut labels = BTreeSet::new();
        for series in plain.samples.keys() {
            let Some((name, of)) = series.trim_end_matches('}').split_once('{') else { continue };
            if ends.iter().any(|end| name == format!("{family}{end}")) {
                labels
                    .extend(of.split(',').map(|label| label.split('=').next().unwrap().to_owned()));
            }
        }
        labels.remove("le");
        let unit = units.get(family.trim_end_matches("_total")).copied().unwrap_or_default();
        found.insert(family.to_owned(), (kind.to_owned(), labels, unit.to_owned()));
    }
    found
}

#[test]
fn the_document_has_every_metric_and_no_other() {
    let busy = Busy::start();
    let (documented, exposed) = (documented(), exposed(&busy.address));
    for (name, row) in &exposed {
        let found = documented.get(name);
        assert_eq!(found, Some(row), "docs/metrics.md on {name}");
    }
    for name in documented.keys() {
        assert!(exposed.contains_key(name), "docs/metrics.md: there is no {name}");
    }
}

#[test]
fn names_end_with_what_they_count_in() {
    let busy = Busy::start();
    for (name, (kind, labels, unit)) in exposed(&busy.address) {
        let stem = name.strip_suffix("_total");
        assert_eq!(stem.is_some(), kind == "counter", "{name}");
        let stem = stem.unwrap_or(&name);
        assert!(name.starts_with("synchromesh_") || name.starts_with("process_"), "{name}");
        for end in ["seconds", "bytes", "ratio"] {
            assert_eq!(stem.ends_with(&format!("_{end}")), unit == end, "{name} is of {unit}");
        }
        let allowed = [
            "model", "outcome", "phase", "reason", "kind", "state", "task", "session", "rank",
            "method", "code", "backend", "version", "socket",
        ];
        assert!(labels.iter().all(|label| allowed.contains(&&label[..])), "{name}: {labels:?}");
    }
}

/// Runs promtool in the folder of the rules, and expects that it finds nothing wrong.
fn promtool(args: &[&str], input: &str) {
    let program = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".into());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus");
    let mut command = std::process::Command::new(program);
    let pipe = std::process::Stdio::piped;
    command.args(args).current_dir(folder).stdin(pipe()).stdout(pipe()).stderr(pipe());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (output.stdout.escape_ascii(), output.stderr.escape_ascii());
    assert!(output.status.success(), "promtool {args:?}: {out} {err}");
    if args[..2] == ["check", "metrics"] {
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{out} {err}");
    }
}

#[test]
#[ignore = "needs promtool, which .ci/run brings"]
fn promtool_finds_nothing_wrong() {
    let busy = Busy::start();
    promtool(&["check", "metrics"], &Scrape::of(&busy.address).text);
    promtool(&["check", "rules", "synchromesh.rules.yml"], "");
    promtool(&["test", "rules", "synchromesh.rules.test.yml"], "");
    promtool(&["check", "config", "--syntax-only", "scrape.example.yml"], "");
}
