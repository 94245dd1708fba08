//! What it costs a switch to be watched: resident switches with ten watchers of events and a scrape
//! of the metrics each second, and without, in turn.
//!
//! Prints one JSON object. `--rounds N` sets the number of pairs (20).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what is not expected must stop it")]
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
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use synchromesh::{
    client::{BlockingControl, connect},
    proto::WatchEventsRequest,
};
use tokio::time::{interval, sleep};

const BLOCKS: u32 = 2_000;
const WATCHERS: usize = 10;
/// Time between the beginnings of switches; none at all is as fast as answers come.
const PACES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(10)];
/// How long a round lasts.
const ROUND: Duration = Duration::from_millis(2_500);

fn main() {
    let rounds = argument("--rounds").unwrap_or(20);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("wide.mesh");
    Fixture::wide(BLOCKS).write(&path);
    let (daemon, metrics) = http::served(|_| {
        let pool_bytes = u64::from(BLOCKS) * 4096;
        format!("models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n", path.display())
    });
    let mut control = BlockingControl::connect(&daemon.control()).unwrap();
    let mut turn = 0;
    for _ in 0..4 {
        switch_once(&mut control, &mut turn);
    }
    let paced = |pace: Duration| compare(&mut control, &mut turn, &daemon, &metrics, pace, rounds);
    let all: Vec<Value> = PACES.into_iter().map(paced).collect();
    println!("{}", serde_json::to_string_pretty(&json!(all)).unwrap());
}

/// Rounds with and without watchers in turn, and the ratios of each pair.
fn compare(
    control: &mut BlockingControl,
    turn: &mut usize,
    daemon: &Daemon,
    metrics: &str,
    pace: Duration,
    rounds: u64,
) -> Value {
    let (mut ratios, mut plain_us, mut events) = ([const { Vec::new() }; 3], Vec::new(), 0);
    for round in 0..rounds {
        let mut watched = None;
        let mut plain = None;
        // Which of the two comes first changes, as machines get slower and faster.
        for is_watched in [round % 2 == 0, round % 2 == 1] {
            let watching = is_watched.then(|| Watching::start(&daemon.control(), metrics));
            let taken = round_of(control, turn, pace);
            events += watching.map_or(0, Watching::stop);
            *(if is_watched { &mut watched } else { &mut plain }) = Some(taken);
        }
        let (watched, plain) = (watched.unwrap(), plain.unwrap());
        ratios.iter_mut().zip(watched.iter().zip(plain)).for_each(|(all, (w, p))| all.push(w / p));
        plain_us.push(plain[0]);
    }
    assert!(events > 0, "events were watched");
    let [p50, p99, mean] = ratios.map(|mut ratios| quantile(&mut ratios, 0.5));
    json!({
        "pace_ms": pace.as_millis() as u64,
        "plain_p50_us": quantile(&mut plain_us, 0.5),
        "ratio_of_p50": p50,
        "ratio_of_p99": p99,
        "ratio_of_mean": mean,
        "events_told_to_each": events / WATCHERS as u64,
    })
}

/// The p50, the p99 and the mean of a round, in microseconds.
fn round_of(control: &mut BlockingControl, turn: &mut usize, pace: Duration) -> [f64; 3] {
    let mut taken = Vec::new();
    let begun = Instant::now();
    let mut next = begun;
    while begun.elapsed() < ROUND {
        taken.push(switch_once(control, turn));
        next += pace;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let mean = taken.iter().sum::<f64>() / taken.len() as f64;
    [quantile(&mut taken, 0.5), quantile(&mut taken, 0.99), mean]
}

fn switch_once(control: &mut BlockingControl, turn: &mut usize) -> f64 {
    *turn += 1;
    let request = switch(["city", "fog"][*turn % 2]);
    let begun = Instant::now();
    control.call(async |client| client.switch_task(request).await).unwrap();
    begun.elapsed().as_nanos() as f64 / 1000.0
}

/// Watchers and a scraper, in a thread of their own.
struct Watching {
    stop: Arc<AtomicBool>,
    events: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Watching {
    fn start(control: &Path, metrics: &str) -> Self {
        let (stop, events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (control, metrics) = (control.to_owned(), metrics.to_owned());
        let (over, told) = (stop.clone(), events.clone());
        let thread = thread::spawn(move || {
            runtime().block_on(async {
                let watchers: Vec<_> = (0..WATCHERS)
                    .map(|_| tokio::spawn(watch(control.clone(), told.clone())))
                    .collect();
                let scraper = tokio::spawn(scrape(metrics));
                while !over.load(Ordering::Relaxed) {
                    assert!(!scraper.is_finished() && !watchers.iter().any(|w| w.is_finished()));
                    sleep(Duration::from_millis(10)).await;
                }
            });
        });
        // Connecting is not what is measured.
        thread::sleep(Duration::from_millis(100));
        Self { stop, events, thread }
    }

    /// Ends it, and gives the events that were told to all together.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.events.load(Ordering::Relaxed)
    }
}

async fn watch(control: PathBuf, told: Arc<AtomicU64>) {
    let mut client = connect(&control).await.unwrap();
    let request = WatchEventsRequest { only_new: true, ..Default::default() };
    let mut stream = client.watch_events(request).await.unwrap().into_inner();
    while let Some(batch) = stream.message().await.unwrap() {
        told.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
    }
}

async fn scrape(metrics: String) {
    let mut seconds = interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        let metrics = metrics.clone();
        tokio::task::spawn_blocking(move || http::scrape(&metrics)).await.unwrap();
    }
}
