//! Traces of switches, as a collector gets them from a running daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    calls::{bundle, runtime, switch, whole},
    daemon::{Daemon, program, write_config},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};
use synchromesh::{client::Control, proto, units::BlockIndex};
use tonic::Request;

/// The address of everything that is exported, and that of traces alone.
const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
/// How long something that must come may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector: it takes every request and answers with this status.
struct Collector {
    address: String,
    taken: mpsc::Receiver<ResourceSpans>,
}

impl Collector {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sink, taken) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let request = take(stream.unwrap(), status);
                let spans = request.resource_spans.into_iter();
                // A test that has ended takes no more.
                spans.for_each(|spans| drop(sink.send(spans)));
            }
        });
        Self { address, taken }
    }

    /// What comes, up to the end of a switch that failed.
    fn until_a_failure(&self) -> Vec<ResourceSpans> {
        let mut all = Vec::new();
        loop {
            all.push(self.taken.recv_timeout(PATIENCE).expect("the failure is exported"));
            if all.iter().flat_map(spans).any(|span| span.status.is_some()) {
                return all;
            }
        }
    }
}

/// Takes one request, and sees that it is what the protocol asks for.
fn take(stream: TcpStream, status: &str) -> ExportTraceServiceRequest {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(line(), "POST /v1/traces HTTP/1.1");
    let head: Vec<_> =
        std::iter::from_fn(|| Some(line()).filter(|line| !line.is_empty())).collect();
    let header = |name: &str| {
        let mut fields = head.iter().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).unwrap()
    };
    assert_eq!(header("content-type"), "application/x-protobuf");
    assert!(header("host").starts_with("127.0.0.1:"));
    let mut body = vec![0; header("content-length").parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    reader.into_inner().write_all(answer.as_bytes()).unwrap();
    ExportTraceServiceRequest::decode(&body[..]).unwrap()
}

fn spans(exported: &ResourceSpans) -> impl Iterator<Item = &Span> {
    exported.scope_spans.iter().flat_map(|scope| &scope.spans)
}

/// A daemon with these variables in its environment.
fn daemon(bundle: &Path, pool_bytes: u64, variables: &[(&str, &str)]) -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let models = format!("models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n", bundle.display());
    write_config(folder.path(), &models);
    let mut program = program();
    program.env_remove(ALL).env_remove(TRACES).envs(variables.iter().copied());
    let mut daemon = Daemon::spawn_by(program, folder);
    assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
    daemon
}

/// A switch of a caller that records its trace, or does not.
fn traced(task: &str, flags: &str) -> Request<proto::SwitchTaskRequest> {
    let mut request = Request::new(switch(task));
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

/// Switches to and fro, all of it traced.
async fn switch_often(client: &mut Control, turns: usize) {
    for turn in 0..turns {
        let task = if turn % 2 == 0 { "city" } else { "highway" };
        client.switch_task(traced(task, "01")).await.unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute as text.
fn value(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let found = found.unwrap_or_else(|| panic!("{key}: {attributes:?}"));
    match found.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn switches_whose_callers_record_their_traces_are_spans_below_their_callers() {
    let (folder, _, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    // Of parking alone.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0x5a; 64], bundle.block_offset(BlockIndex(22))).unwrap();
    let collector = Collector::start("200 OK");
    let daemon = daemon(&path, whole(&bundle), &[(ALL, &collector.address)]);
    let report = runtime().block_on(async {
        let mut client = daemon.connect().await;
        let report = client.switch_task(traced("city", "01")).await.unwrap().into_inner();
        client.switch_task(traced("highway", "00")).await.unwrap();
        client.switch_task(switch("city")).await.unwrap();
        client.switch_task(traced("parking", "01")).await.unwrap_err();
        report
    });
    let exported = collector.until_a_failure();
    let resource = &exported[0].resource.as_ref().unwrap().attributes;
    assert_eq!(value(resource, "service.name"), "synchromesh");
    assert_eq!(value(resource, "service.version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(value(resource, "service.instance.id").len(), 16);

    let spans: Vec<_> = exported.iter().flat_map(spans).collect();
    let mut whole = spans.iter().filter(|span| span.name == "SwitchTask");
    let (Some(done), Some(failed), None) = (whole.next(), whole.next(), whole.next()) else {
        panic!("two are exported: {spans:?}");
    };
    for span in [done, failed] {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), CALLER.into()));
        assert_eq!(span.kind(), SpanKind::Server);
        assert_eq!(span.flags, 0x301, "the caller is another process, and records the trace");
        assert_eq!(value(&span.attributes, "synchromesh.model"), "small");
        assert_eq!(value(&span.attributes, "synchromesh.session"), "default");
    }
    assert_eq!(value(&done.attributes, "synchromesh.task"), "city");
    assert_eq!(value(&done.attributes, "synchromesh.outcome"), "loaded");
    let read = report.read.unwrap().bytes;
    assert!(read > 0);
    assert_eq!(value(&done.attributes, "synchromesh.read_bytes"), read.to_string());
    assert_eq!(done.status, None);
    assert_eq!(value(&failed.attributes, "synchromesh.from"), "city");
    assert_eq!(value(&failed.attributes, "synchromesh.task"), "parking");
    assert_eq!(value(&failed.attributes, "error.type"), "BLOCKS_CORRUPT");
    let status = failed.status.as_ref().unwrap();
    assert_eq!((status.code(), &status.message[..]), (StatusCode::Error, "BLOCKS_CORRUPT"));
    assert_phases(done, &spans, &report.timing.unwrap());
    assert!(below(failed, &spans).is_empty());
}

fn below<'a>(whole: &Span, spans: &[&'a Span]) -> Vec<&'a Span> {
    spans.iter().copied().filter(|span| span.parent_span_id == whole.span_id).collect()
}

/// The phases follow each other, fill the whole, and last as long as the caller was told.
fn assert_phases(whole: &Span, spans: &[&Span], timing: &proto::SwitchTiming) {
    let phases = below(whole, spans);
    let told = [
        ("queue", timing.queue_us),
        ("plan", timing.plan_us),
        ("read", timing.read_us),
        ("verify", timing.verify_us),
        ("publish", timing.publish_us),
    ];
    let mut told = told.into_iter();
    let mut at = whole.start_time_unix_nano;
    for phase in &phases {
        let (_, us) = told.find(|(name, _)| *name == phase.name).expect("in their order");
        assert_eq!(hex(&phase.trace_id), TRACE);
        assert_eq!((phase.kind(), phase.flags), (SpanKind::Internal, 0x101));
        assert_eq!(phase.start_time_unix_nano, at);
        at = phase.end_time_unix_nano;
        assert_eq!((at - phase.start_time_unix_nano) / 1000, us, "{}", phase.name);
    }
    assert_eq!(at, whole.end_time_unix_nano);
    assert!(phases.iter().any(|phase| phase.name == "read"));
}

#[test]
fn what_was_done_right_before_the_end_is_exported() {
    let (folder, _, bundle) = bundle();
    let collector = Collector::start("200 OK");
    // Switches wait for others for a second, and an end for switches for less: one that is not told
    // of the end never comes. It is told in time for sure only on a machine that is not busy.
    let comes = || {
        let path = folder.path().join("small.mesh");
        let address = format!("{}/v1/traces", collector.address);
        let mut daemon = daemon(&path, whole(&bundle), &[(TRACES, &address)]);
        runtime().block_on(async { switch_often(&mut daemon.connect().await, 1).await });
        assert_eq!(daemon.stop(), Some(0));
        collector.taken.recv_timeout(Duration::from_secs(5)).is_ok()
    };
    assert!((0..5).any(|_| comes()));
}

#[test]
fn a_collector_that_never_answers_keeps_nobody_waiting() {
    let (folder, _, bundle) = bundle();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let path = folder.path().join("small.mesh");
    let mut daemon = daemon(&path, whole(&bundle), &[(ALL, &address)]);
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        switch_often(&mut client, 1000).await;
        let (held, _) = silent.accept().unwrap();
        // More than wait in the queue, while the collector has what was sent first.
        switch_often(&mut client, 2200).await;
        drop(held);
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_collector_that_refuses_or_is_away_is_told_of_in_the_log() {
    let (folder, _, bundle) = bundle();
    let collector = Collector::start("503 Service Unavailable");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = format!("http://{nobody}");
    for (address, reason) in [
        (&collector.address, "the collector answered 503 Service Unavailable"),
        (&away, "the collector cannot be reached"),
    ] {
        let path = folder.path().join("small.mesh");
        let mut daemon = daemon(&path, whole(&bundle), &[(ALL, address)]);
        runtime().block_on(async { switch_often(&mut daemon.connect().await, 3).await });
        assert!(daemon.wait_for("traces of switches were dropped"), "{:?}", daemon.log());
        let log = daemon.log();
        let line = log.iter().find(|line| line.contains("were dropped")).unwrap();
        assert!(line.contains(reason) && line.contains("switches="), "{line}");
    }
}

#[test]
fn the_address_is_the_one_of_traces_or_below_the_one_of_everything() {
    let (folder, _, bundle) = bundle();
    let all = (ALL, "http://collector:4000/");
    let cases: [(&[_], _); 5] = [
        (&[all], "http://collector:4000/v1/traces"),
        (&[(ALL, "http://[::1]/a")], "http://[::1]:80/a/v1/traces"),
        (&[all, (TRACES, "")], "http://collector:4000/v1/traces"),
        (
            &[all, (TRACES, "http://me:secret@traces:5000/here?key=secret")],
            "http://traces:5000/here",
        ),
        (&[(TRACES, "http://traces")], "http://traces:80/"),
    ];
    for (variables, address) in cases {
        let daemon = daemon(&folder.path().join("small.mesh"), whole(&bundle), variables);
        let log = daemon.log();
        let line = log.iter().find(|line| line.contains("traces are exported")).unwrap();
        assert!(line.ends_with(&format!("collector=\"{address}\"")), "{line}");
    }
    for none in [&[][..], &[(ALL, ""), (TRACES, "")]] {
        let daemon = daemon(&folder.path().join("small.mesh"), whole(&bundle), none);
        assert!(!daemon.log().join("\n").contains("traces"), "{:?}", daemon.log());
    }
}

#[test]
fn an_address_that_cannot_be_used_is_told_and_the_daemon_serves() {
    let (folder, _, bundle) = bundle();
    for (address, reason) in [
        ("https://me:secret@collector:4318", "is no http:// address"),
        ("secret", "is no address such as"),
        ("secret:4318", "is no address such as"),
        ("/secret", "is no address such as"),
        ("http://", "is no address such as"),
        ("http:// secret", "is no address such as"),
    ] {
        let path = folder.path().join("small.mesh");
        let mut daemon = daemon(&path, whole(&bundle), &[(TRACES, address)]);
        runtime().block_on(async { switch_often(&mut daemon.connect().await, 2).await });
        assert_eq!(daemon.stop(), Some(0));
        let log = daemon.log();
        let line = log.iter().find(|line| line.contains("traces are not exported")).unwrap();
        assert!(line.contains(&format!("{TRACES} {reason}")), "{line}");
        assert!(!log.join("\n").contains("secret"), "{log:?}");
    }
}
