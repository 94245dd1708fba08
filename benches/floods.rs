//! What one client's flood costs another client: resident switches, or scrapes, beside a flood, compared with the same
//! beside as many busy loops.
//!
//! Needs root, as every client is a user of its own. Prints one JSON object. `--rounds N` sets the number of pairs (5).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "an unexpected result must stop the benchmark"
)]
#![allow(clippy::print_stdout, reason = "the figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{
    Fixture,
    calls::{runtime, switch},
    daemon::Daemon,
    figures::{argument, quantile},
    http,
};
use rustix::{process::Uid, thread::set_thread_uid};
use serde_json::{Value, json};
use std::{
    fs,
    hint::black_box,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use synchromesh::{client::BlockingControl, proto::GetStatusRequest};
use tokio::{task::JoinSet, time::timeout};

/// The users: one that is measured, one of the peers that floods, and one that is no peer.
const MEASURED: u32 = 4001;
const PEER: u32 = 4002;
const STRANGER: u32 = 4003;

const BLOCKS: u32 = 2_000;
/// How long each side of a pair lasts.
const ROUND: Duration = Duration::from_secs(2);
/// A call without an answer counts as one of this length.
const LONGEST: Duration = Duration::from_secs(1);
/// The pause between measured calls.
const PAUSE: Duration = Duration::from_millis(2);

/// One kind of flood.
struct Flood {
    name: &'static str,
    /// Threads that the flood keeps busy, if nothing holds it back.
    busy: usize,
    measured: Measured,
    start: fn(&Target, &Arc<AtomicBool>) -> Vec<JoinHandle<()>>,
}

/// What the other client does.
#[derive(Clone, Copy)]
enum Measured {
    /// Switches on one connection.
    Calls,
    /// A connection and a switch.
    Connections,
    /// A connection and a scrape of the metrics.
    Scrapes,
}

/// Where the daemon listens.
struct Target {
    control: PathBuf,
    metrics: String,
}

const FLOODS: [Flood; 11] = [
    // Busy loops keep the cores from sleeping, so some calls are faster beside them.
    Flood {
        name: "none, on an idle machine",
        busy: 2,
        measured: Measured::Calls,
        start: |_, _| Vec::new(),
    },
    Flood {
        name: "64 idle connections of a peer",
        busy: 0,
        measured: Measured::Connections,
        start: idle,
    },
    Flood {
        name: "300 silent connections of a stranger",
        busy: 0,
        measured: Measured::Connections,
        start: silent,
    },
    Flood {
        name: "PING, a peer",
        busy: 2,
        measured: Measured::Calls,
        start: |t, s| frames(t, s, PEER, ping()),
    },
    Flood {
        name: "SETTINGS, a peer",
        busy: 2,
        measured: Measured::Calls,
        start: |t, s| frames(t, s, PEER, frame(4, 0, &[])),
    },
    Flood {
        name: "WINDOW_UPDATE, a peer",
        busy: 2,
        measured: Measured::Calls,
        start: |t, s| frames(t, s, PEER, frame(8, 0, &[0, 0, 0, 1])),
    },
    Flood {
        name: "PRIORITY, a peer",
        busy: 2,
        measured: Measured::Calls,
        start: |t, s| frames(t, s, PEER, frame(2, 1, &[0, 0, 0, 3, 0])),
    },
    Flood {
        name: "PING, a stranger",
        busy: 2,
        measured: Measured::Calls,
        start: |t, s| frames(t, s, STRANGER, ping()),
    },
    Flood {
        name: "16 connections x 32 GetStatus, a peer",
        busy: 2,
        measured: Measured::Calls,
        start: status,
    },
    Flood {
        name: "400 silent TCP connections",
        busy: 0,
        measured: Measured::Scrapes,
        start: silent_tcp,
    },
    Flood { name: "scrapes without end", busy: 2, measured: Measured::Scrapes, start: scrapes },
];

fn main() {
    let rounds = argument("--rounds").unwrap_or(5);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("wide.mesh");
    Fixture::wide(BLOCKS).write(&path);
    let (daemon, metrics) = start(&path);
    let target = Target { control: daemon.control(), metrics };
    let all: Vec<Value> = FLOODS.iter().map(|flood| compare(flood, &target, rounds)).collect();
    println!("{}", serde_json::to_string_pretty(&json!(all)).unwrap());
}

/// A daemon to which the measured and the flooding user may connect.
fn start(bundle: &Path) -> (Daemon, String) {
    let daemon = Daemon::with_listen("metrics: '127.0.0.1:0', mode: '0666'", |folder| {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let pool_bytes = u64::from(BLOCKS) * 4096;
        format!(
            "models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n\
             peers: [{{user: {MEASURED}, role: command}}, {{user: {PEER}, role: command}}]\n",
            bundle.display()
        )
    });
    let metrics = http::address(&daemon);
    (daemon, metrics)
}

/// Pairs of a flood and of as many busy loops, in turn.
fn compare(flood: &Flood, target: &Target, rounds: u64) -> Value {
    let mut sides = [const { [const { Vec::new() }; 3] }; 2];
    for round in 0..rounds {
        // The side that comes first changes, as machines get slower and faster.
        for side in [round as usize % 2, (round as usize + 1) % 2] {
            let stop = Arc::new(AtomicBool::new(false));
            let threads =
                if side == 1 { (flood.start)(target, &stop) } else { busy(flood.busy, &stop) };
            thread::sleep(Duration::from_millis(200));
            let figures = measure(flood.measured, target);
            stop.store(true, Ordering::Relaxed);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            sides[side].iter_mut().zip(figures).for_each(|(all, figure)| all.push(figure));
            // What the flood left in queues is not the next side's.
            thread::sleep(Duration::from_millis(300));
        }
    }
    let [busy, flooded] = sides.map(|side| side.map(|mut figures| quantile(&mut figures, 0.5)));
    json!({
        "flood": flood.name,
        "busy_loops": flood.busy,
        "p50_us": [busy[0], flooded[0]],
        "p99_us": [busy[1], flooded[1]],
        "ratio_of_p50": flooded[0] / busy[0],
        "ratio_of_p99": flooded[1] / busy[1],
        "unanswered_share": flooded[2],
    })
}

/// p50 and p99 in microseconds, and the share of calls without an answer, of the measured client.
fn measure(measured: Measured, target: &Target) -> [f64; 3] {
    let (control, metrics) = (target.control.clone(), target.metrics.clone());
    let client = move || {
        become_user(MEASURED);
        let (mut taken, mut unanswered, mut turn) = (Vec::new(), 0u32, 0usize);
        let mut connection = None;
        let begun = Instant::now();
        while begun.elapsed() < ROUND {
            turn += 1;
            let call = Instant::now();
            let answered = match measured {
                Measured::Calls => call_once(&mut connection, &control, turn),
                Measured::Connections => call_once(&mut None, &control, turn),
                Measured::Scrapes => scrape_once(&metrics),
            };
            unanswered += u32::from(!answered);
            let time = if answered { call.elapsed() } else { LONGEST };
            taken.push(time.as_nanos() as f64 / 1000.0);
            thread::sleep(PAUSE);
        }
        let share = f64::from(unanswered) / taken.len() as f64;
        [quantile(&mut taken, 0.5), quantile(&mut taken, 0.99), share]
    };
    thread::spawn(client).join().unwrap()
}

fn call_once(connection: &mut Option<BlockingControl>, control: &Path, turn: usize) -> bool {
    if connection.is_none() {
        *connection = BlockingControl::connect(control).ok();
    }
    let Some(client) = connection else { return false };
    let mut request = tonic::Request::new(switch(["city", "fog"][turn % 2]));
    request.set_timeout(LONGEST);
    let answered = client.call(async |client| client.switch_task(request).await).is_ok();
    if !answered {
        *connection = None;
    }
    answered
}

fn scrape_once(metrics: &str) -> bool {
    let scrape = || -> std::io::Result<bool> {
        let address = metrics.parse().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, LONGEST)?;
        stream.set_read_timeout(Some(LONGEST))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.starts_with("HTTP/1.1 200"))
    };
    scrape().unwrap_or(false)
}

/// Makes the calling thread act for a user. The kernel keeps users by thread.
fn become_user(uid: u32) {
    set_thread_uid(Uid::from_raw(uid)).unwrap();
}

fn busy(threads: usize, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let spin = |_| {
        let stop = stop.clone();
        thread::spawn(move || {
            let mut turns = 0u64;
            while !stop.load(Ordering::Relaxed) {
                turns = black_box(turns + 1);
            }
        })
    };
    (0..threads).map(spin).collect()
}

fn idle(target: &Target, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    hold(target, stop, PEER, 64, &hello())
}

fn silent(target: &Target, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    hold(target, stop, STRANGER, 300, &[])
}

/// Keeps so many connections, on which it says no more than this; one that is closed is opened again.
fn hold(
    target: &Target,
    stop: &Arc<AtomicBool>,
    uid: u32,
    count: usize,
    says: &[u8],
) -> Vec<JoinHandle<()>> {
    let (control, stop, says) = (target.control.clone(), stop.clone(), says.to_vec());
    vec![thread::spawn(move || {
        become_user(uid);
        let mut held: Vec<UnixStream> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            held.retain_mut(is_up);
            while held.len() < count
                && let Ok(stream) = connect_now(&control)
            {
                let _ = (&stream).write_all(&says);
                held.push(stream);
            }
            thread::sleep(Duration::from_millis(20));
        }
    })]
}

/// A connection that is not waited for: the kernel's queue may be full.
fn connect_now(control: &Path) -> std::io::Result<UnixStream> {
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    connect(&socket, &SocketAddrUnix::new(control)?)?;
    Ok(UnixStream::from(socket))
}

fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, &[])].concat()
}

fn ping() -> Vec<u8> {
    frame(6, 0, &[0; 8])
}

/// An HTTP/2 frame without flags.
fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

/// Two connections that send a frame without end and take all answers.
fn frames(
    target: &Target,
    stop: &Arc<AtomicBool>,
    uid: u32,
    frame: Vec<u8>,
) -> Vec<JoinHandle<()>> {
    let many = frame.repeat((64 << 10) / frame.len());
    let flood = |_| {
        let (control, stop, many) = (target.control.clone(), stop.clone(), many.clone());
        thread::spawn(move || {
            become_user(uid);
            while !stop.load(Ordering::Relaxed) {
                let Ok(stream) = UnixStream::connect(&control) else { continue };
                stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
                let answers = stream.try_clone().unwrap();
                let reader =
                    thread::spawn(
                        move || while (&answers).read(&mut [0; 65536]).is_ok_and(|n| n > 0) {},
                    );
                let mut sent = (&stream).write_all(&hello());
                while !stop.load(Ordering::Relaxed) && is_open(&sent) {
                    sent = (&stream).write_all(&many);
                }
                let _ = stream.shutdown(Shutdown::Both);
                reader.join().unwrap();
            }
        })
    };
    (0..2).map(flood).collect()
}

/// Whether a write went, or was only held back.
fn is_open(sent: &std::io::Result<()>) -> bool {
    sent.as_ref().err().is_none_or(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Sixteen connections, each with 32 calls for the status at any time.
fn status(target: &Target, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let flood = |_| {
        let (control, stop) = (target.control.clone(), stop.clone());
        thread::spawn(move || {
            become_user(PEER);
            runtime().block_on(async {
                let mut calls = JoinSet::new();
                for _ in 0..8 {
                    let Ok(client) = synchromesh::client::connect(&control).await else { continue };
                    for _ in 0..32 {
                        let (mut client, stop) = (client.clone(), stop.clone());
                        calls.spawn(async move {
                            while !stop.load(Ordering::Relaxed) {
                                let request = GetStatusRequest::default();
                                let call = timeout(LONGEST, client.get_status(request)).await;
                                if !matches!(call, Ok(Ok(_))) {
                                    tokio::time::sleep(Duration::from_millis(10)).await;
                                }
                            }
                        });
                    }
                }
                while calls.join_next().await.is_some() {}
            });
        })
    };
    (0..2).map(flood).collect()
}

fn silent_tcp(target: &Target, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let (metrics, stop) = (target.metrics.clone(), stop.clone());
    vec![thread::spawn(move || {
        let mut held: Vec<TcpStream> = Vec::new();
        let address = metrics.parse().unwrap();
        while !stop.load(Ordering::Relaxed) {
            held.retain_mut(is_up);
            while held.len() < 400
                && !stop.load(Ordering::Relaxed)
                && let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(50))
            {
                stream.set_nonblocking(true).unwrap();
                held.push(stream);
            }
            thread::sleep(Duration::from_millis(20));
        }
    })]
}

fn scrapes(target: &Target, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let flood = |_| {
        let (metrics, stop) = (target.metrics.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                scrape_once(&metrics);
            }
        })
    };
    (0..2).map(flood).collect()
}

/// Whether the daemon has not closed a connection.
fn is_up(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}
