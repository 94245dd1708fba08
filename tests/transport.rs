//! The control socket as HTTP/2: clients with any authority, clients that send too much, and requests
//! that are no calls.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    HANG,
    calls::{bundle, reason, runtime, switch, whole},
    daemon::Daemon,
    soon,
};
use loona_hpack::{Decoder, Encoder};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};
use synchromesh::proto::{self, WatchEventsRequest, event::Kind, task_service_client};
use tonic::{Code, Request, codec::CompressionEncoding};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A client that writes its frames by hand.
struct Raw {
    stream: UnixStream,
    encoder: Encoder<'static>,
    decoder: Decoder<'static>,
    next: u32,
}

impl Raw {
    fn connect(daemon: &Daemon) -> Self {
        let mut stream = UnixStream::connect(daemon.control()).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        Self { stream, encoder: Encoder::new(), decoder: Decoder::new(), next: 1 }
    }

    /// Sends a request of `ListModels` with these fields in the place of the usual ones, and gives all
    /// fields of the answer.
    fn request(&mut self, changed: &[(&str, &str)]) -> Vec<(String, String)> {
        let usual = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/synchromesh.v1.TaskService/ListModels"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut fields: Vec<_> = usual
            .into_iter()
            .filter(|(name, _)| changed.iter().all(|(other, _)| other != name))
            .collect();
        fields.extend_from_slice(changed);
        fields.sort_by_key(|(name, _)| !name.starts_with(':'));
        let bytes = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let block = self.encoder.encode(bytes);
        let stream = self.next;
        self.next += 2;
        self.stream.write_all(&frame(HEADERS, END_HEADERS, stream, &block)).unwrap();
        self.stream.write_all(&frame(0, END_STREAM, stream, &[0; 5])).unwrap();
        self.answer(stream)
    }

    fn answer(&mut self, stream: u32) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).unwrap();
            let [l0, l1, l2, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
            self.stream.read_exact(&mut payload).unwrap();
            let ours = u32::from_be_bytes(id) == stream;
            assert!(kind != GOAWAY, "the connection ends: {payload:?}");
            assert!(!(kind == RST_STREAM && ours && fields.is_empty()), "reset: {payload:?}");
            if kind == HEADERS {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                let decoded = self.decoder.decode(&payload).unwrap();
                fields.extend(decoded.into_iter().map(|(n, v)| (text(n), text(v))));
            }
            if ours && matches!(kind, 0 | HEADERS) && flags & END_STREAM != 0 {
                return fields;
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [&[l0, l1, l2, kind, flags, s0, s1, s2, s3], payload].concat()
}

fn has(fields: &[(String, String)], name: &str, value: &str) -> bool {
    fields.iter().any(|(n, v)| n == name && v == value)
}

fn served() -> (Daemon, tempfile::TempDir) {
    let (folder, _, bundle) = bundle();
    (Daemon::start(&folder.path().join("small.mesh"), whole(&bundle)), folder)
}

#[test]
fn clients_whose_authority_is_the_sockets_path_are_answered() {
    let (daemon, _folder) = served();
    for authority in ["%2Ftmp%2Fcontrol.sock", "/tmp/control.sock", "", "localhost"] {
        let mut raw = Raw::connect(&daemon);
        for call in 0..3 {
            let answer = raw.request(&[(":authority", authority), ("x-call", &call.to_string())]);
            assert!(has(&answer, "grpc-status", "0"), "{authority:?}: {answer:?}");
        }
    }
}

#[test]
fn requests_that_are_no_calls_are_refused_in_http() {
    let (daemon, _folder) = served();
    let mut raw = Raw::connect(&daemon);
    let answer = raw.request(&[(":method", "GET")]);
    assert!(has(&answer, ":status", "405") && has(&answer, "allow", "POST"), "{answer:?}");
    for other in ["application/json", "application/grpc-web"] {
        let answer = raw.request(&[("content-type", other)]);
        assert!(has(&answer, ":status", "415"), "{answer:?}");
    }
    assert!(has(&raw.request(&[]), "grpc-status", "0"), "the connection is still good");
}

#[test]
fn malformed_timeout_is_an_invalid_argument() {
    let (daemon, _folder) = served();
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        for timeout in ["soon", "5", "-1S", "123456789S"] {
            let mut request = Request::new(switch("city"));
            request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
            let refused = client.switch_task(request).await.unwrap_err();
            let (code, reason) = (refused.code(), reason(&refused));
            assert_eq!((code, &reason[..]), (Code::InvalidArgument, "BAD_TIMEOUT"), "{timeout}");
        }
    });
}

#[test]
fn r7_compressed_requests_are_accepted_up_to_their_decompressed_size() {
    let (daemon, _folder) = served();
    runtime().block_on(async {
        let channel = synchromesh::client::channel(&daemon.control()).await.unwrap();
        let client = task_service_client::TaskServiceClient::new(channel);
        let mut client = client.send_compressed(CompressionEncoding::Gzip);
        client.switch_task(switch("city")).await.unwrap();
        // A megabyte of equal bytes is one kilobyte when it is compressed.
        let bomb = client.switch_task(switch(&"x".repeat(1 << 20))).await.unwrap_err();
        assert_eq!(bomb.code(), Code::ResourceExhausted, "{bomb:?}");
        client.switch_task(switch("highway")).await.unwrap();
    });
}

#[test]
fn r8_calls_that_expire_while_the_daemon_is_stopped_do_not_end_the_connection() {
    let (daemon, _folder) = served();
    let signal = |signal| {
        let pid = rustix::process::Pid::from_raw(daemon.pid() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("city")).await.unwrap();
        let watch = WatchEventsRequest { only_new: true, ..Default::default() };
        let mut events = client.watch_events(watch).await.unwrap().into_inner();
        signal(rustix::process::Signal::STOP);
        for _ in 0..10 {
            let calls = (0..20).map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let mut request = Request::new(switch("parking"));
                    request.set_timeout(Duration::from_millis(20));
                    client.switch_task(request).await.unwrap_err()
                })
            });
            for call in calls.collect::<Vec<_>>() {
                call.await.unwrap();
            }
        }
        // The connection sends the last resets before the daemon goes on.
        tokio::time::sleep(Duration::from_millis(100)).await;
        signal(rustix::process::Signal::CONT);
        let switched = client.switch_task(switch("highway")).await.unwrap().into_inner();
        assert_eq!(switched.generation, 2, "no call that has expired was served");
        let event = events.message().await.unwrap().expect("watching goes on");
        let Some(Kind::Switched(event)) = &event.events[0].kind else { panic!("{event:?}") };
        assert_eq!(event.task, "highway");
    });
}

#[test]
fn r8_connection_that_floods_is_slowed_named_in_the_log_and_others_are_served() {
    let (mut daemon, _folder) = served();
    let mut flood = UnixStream::connect(daemon.control()).unwrap();
    flood.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    flood.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    flood.set_nonblocking(true).unwrap();
    // Priorities are answered by nothing, so that only their number can slow them.
    let frames = frame(2, 0, 1, &[0, 0, 0, 0, 16]).repeat(1000);
    let mut sent = 0;
    let is_stuck = soon(|| {
        while let Ok(len) = flood.write(&frames) {
            sent += len;
        }
        daemon.log().iter().any(|line| line.contains("control frames"))
    });
    assert!(is_stuck, "{sent} bytes were taken in: {:?}", daemon.log());
    assert!(daemon.wait_for(&std::process::id().to_string()), "{:?}", daemon.log());
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.get_status(proto::GetStatusRequest::default()).await.unwrap();
    });
    let lines = daemon.log().into_iter().filter(|line| line.contains("read more slowly"));
    assert_eq!(lines.count(), 1, "one line for a connection: {:?}", daemon.log());
}
