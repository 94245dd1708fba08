//! What clients wait for: taking a lease, and learning of a new generation. And that they never
//! read what they should not: millions of leased reads under switching, each of a block that comes
//! and goes, compared with its checksum.
//!
//! Prints one JSON object. `--reads N` sets the number of leased reads (ten million).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what is not expected must stop it")]
#![allow(clippy::print_stdout, reason = "the figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{
    Fixture,
    calls::{runtime, switch},
    daemon::Daemon,
    figures::{argument, quantile},
};
use rustix::net::SocketType;
use serde_json::{Value, json};
use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};
use synchromesh::{
    admission::{self, Admission},
    attach::Attach,
    bundle::Bundle,
    client::{Attachment, BlockingControl},
    config::{Peers, PrefetchConfig, Role, StorageConfig},
    device::TableView,
    engine::{
        Clock, Command, Engine, Handle, Limits, Model, ModelSpec, Monotonic, Runtime,
        SwitchCommand, Target, events, run,
    },
    files::listen_privately,
    units::{BlockIndex, Generation, TaskIndex},
    wire::{Hello, Welcome},
};

/// 80 MiB, of which a task has 52.
const BLOCKS: u32 = 20_000;
const TASKS: [&str; 8] = ["city", "fog", "highway", "night", "parking", "rain", "rural", "tunnel"];
const HANG: Duration = Duration::from_secs(60);

fn main() {
    let reads = argument("--reads").unwrap_or(10_000_000);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("wide.mesh");
    let bundle = Fixture::wide(BLOCKS).write(&path);
    let leases = leases(&path);
    let notices = notices(&path);
    let torn = torn_reads(&path, &bundle, reads);
    let all = json!({ "lease": leases, "notice": notices, "torn_reads": torn });
    println!("{}", serde_json::to_string_pretty(&all).unwrap());
}

fn whole() -> u64 {
    u64::from(BLOCKS) * 4096
}

fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

/// Nanoseconds to take a lease and let it go, in rounds of a thousand.
fn leases(bundle: &Path) -> Value {
    const ROUND: u32 = 1000;
    let daemon = Daemon::start(bundle, whole());
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
    let mut rounds: Vec<_> = (0..2000)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..ROUND {
                std::hint::black_box(attached.lease().unwrap().generation());
            }
            begun.elapsed().as_nanos() as f64 / f64::from(ROUND)
        })
        .collect();
    let p99 = quantile(&mut rounds, 0.99);
    json!({ "p50_ns": median(rounds), "p99_of_rounds_ns": p99 })
}

/// The daemon's engine and data plane in a thread of this process, so that it has one clock.
struct Local {
    engine: Handle,
    clock: Arc<Monotonic>,
    attach: PathBuf,
    _folder: tempfile::TempDir,
}

impl Local {
    fn start(bundle: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let attach = folder.path().join("attach.sock");
        let spec = ModelSpec { bundle: bundle.into(), pool_bytes: whole(), lock_memory: false };
        let clock = Arc::new(Monotonic::start());
        let (ready, started) = mpsc::channel();
        let (path, time) = (attach.clone(), clock.clone());
        thread::spawn(move || runtime().block_on(serve(spec, path, time, ready)));
        let engine = started.recv().unwrap();
        Self { engine, clock, attach, _folder: folder }
    }
}

async fn serve(spec: ModelSpec, path: PathBuf, clock: Arc<Monotonic>, ready: mpsc::Sender<Handle>) {
    let config = StorageConfig::default();
    let models = vec![Model::load(&spec).unwrap()];
    let (engine, threads) = Runtime::start(&config, &models).unwrap();
    let limits = Limits {
        reads_in_flight: config.reads_in_flight,
        read_bytes: config.read_bytes,
        stall: config.stall,
        switch_timeout: HANG,
        clients_per_session: 4,
        lease_patience: HANG,
        prefetch: PrefetchConfig::OFF,
    };
    let places = admission::Limits { all: 4, per_user: 4, per_process: 4 };
    let admission = Admission::new("attach", Role::Attach, Peers::default(), places);
    let attach =
        Attach::on(listen_privately(&path, SocketType::SEQPACKET, 64).unwrap(), admission).unwrap();
    tokio::spawn(attach.serve(engine.clone()));
    let state = Engine::new(models, limits, clock.clone());
    ready.send(engine).unwrap();
    run(state, threads, clock, events().0).await;
}

/// Microseconds from the beginning of a publication until a client that waits for it runs.
fn notices(bundle: &Path) -> Value {
    let local = Local::start(bundle);
    let mut attached = Attachment::connect(&local.attach, "", "").unwrap();
    let (told, awake) = mpsc::channel();
    let clock = local.clock.clone();
    thread::spawn(move || {
        let mut generation = Generation::NONE;
        while let Ok(later) = attached.wait(generation, HANG) {
            generation = later;
            if told.send(clock.now()).is_err() {
                return;
            }
        }
    });
    let runtime = runtime();
    let mut waits = Vec::new();
    for round in 0..3000 {
        // Everybody sleeps before each switch.
        thread::sleep(Duration::from_millis(1));
        let command = SwitchCommand {
            target: Target::default(),
            task: TASKS[round % 2].into(),
            request_id: None,
            expected_generation: None,
            arrived: local.clock.now(),
            deadline: None,
            in_place: false,
            trace: None,
            caller: None,
        };
        let arrived = command.arrived;
        let answer = local.engine.ask(|reply| Command::Switch(command, reply));
        let report = runtime.block_on(answer).unwrap();
        let published = arrived + report.timing.total() - report.timing.publish;
        let wait = awake.recv().unwrap().saturating_sub(published);
        // The first switches read.
        if round >= 2 {
            waits.push(wait.as_nanos() as f64 / 1000.0);
        }
    }
    let p99 = quantile(&mut waits, 0.99);
    json!({ "p50_us": median(waits), "p99_us": p99 })
}

/// Leased reads while another thread switches at full speed, in a pool of 1.2 tasks.
fn torn_reads(path: &Path, bundle: &Bundle, wanted: u64) -> Value {
    let task_blocks = bundle.task(TaskIndex(0)).blocks;
    let daemon = Daemon::start(path, task_blocks * 4096 * 6 / 5);
    let control = daemon.control();
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let stop = Arc::new(AtomicBool::new(false));
    let switching = thread::spawn({
        let stop = stop.clone();
        move || switch_until(&control, &stop)
    });
    let (reads, wrong) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let readers: Vec<_> = (0..2)
        .map(|seed| {
            let (reads, wrong, attach) = (reads.clone(), wrong.clone(), daemon.attach());
            thread::spawn(move || read_until(&attach, seed, wanted, &reads, &wrong))
        })
        .collect();
    let met: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    let (generations, overtaken): (Vec<_>, Vec<_>) = met.into_iter().unzip();
    let took = begun.elapsed();
    let without = wrong_without_lease(&daemon.attach(), bundle);
    stop.store(true, Ordering::Relaxed);
    let (switches, loaded) = switching.join().unwrap();
    let wrong = wrong.load(Ordering::Relaxed);
    assert_eq!(wrong, 0, "torn reads");
    assert!(loaded > 0 && overtaken.iter().all(|&reads| reads > 0), "switches came in between");
    json!({
        "reads": reads.load(Ordering::Relaxed),
        "wrong": wrong,
        "seconds": took.as_secs_f64(),
        "switches": switches,
        "of_them_with_reads": loaded,
        "generations_seen": generations,
        "overtaken_by_a_switch": overtaken,
        "without_a_lease": without,
    })
}

/// What is read without a lease, after as long as it takes others to switch: so many of the blocks are
/// not what they should be. The check above can fail, then. (Read from the descriptor, not from a
/// mapping: memory that may change under a reader is nothing for a slice.)
fn wrong_without_lease(attach: &Path, bundle: &Bundle) -> Value {
    const READS: u32 = 1_000;
    let mut rng = fastrand::Rng::with_seed(3);
    let socket = common::seqpacket::connect(attach);
    Hello::default().send(&socket).unwrap();
    let Welcome { entry, descriptors: [pool, table, ..] } = Welcome::receive(&socket).unwrap();
    let (pool, table) = (File::from(pool), TableView::open(table).unwrap());
    let (mut wrong, mut bytes) = (0, [0; 4096]);
    for _ in 0..READS {
        let Some(active) = table.active(entry).task() else { continue };
        let block = BlockIndex(rng.u32(own_part(active.task)));
        let Some(slot) = table.slot_of(block) else { continue };
        thread::sleep(Duration::from_millis(5));
        let offset = table.layout().slots_offset() + u64::from(slot.0) * 4096;
        pool.read_exact_at(&mut bytes, offset).unwrap();
        wrong += u32::from(!bundle.block_matches(block, &bytes));
    }
    assert!(wrong > 0, "without a lease, slots do change under a reader");
    json!({ "reads": READS, "wrong": wrong })
}

/// Gives the number of switches, and of those that read.
fn switch_until(control: &Path, stop: &AtomicBool) -> (u64, u64) {
    let mut control = BlockingControl::connect(control).unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut switches, mut loaded) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let request = switch(rng.choice(TASKS).unwrap());
        // While both readers lease other generations, there may be no room for a third task.
        if let Ok(answer) = control.call(async |client| client.switch_task(request).await) {
            switches += 1;
            loaded += u64::from(answer.read.unwrap().blocks > 0);
        }
    }
    (switches, loaded)
}

/// The blocks that no other task has (see [`Fixture::wide`]).
fn own_part(task: TaskIndex) -> Range<u32> {
    let part = |number: u32| number * BLOCKS / 20;
    part(12 + task.0)..part(13 + task.0)
}

/// Takes leases and compares one block in each; every so often after others had the time to switch.
/// Gives the number of generations met, and of leases that a switch overtook.
fn read_until(
    attach: &Path,
    seed: u64,
    wanted: u64,
    reads: &AtomicU64,
    wrong: &AtomicU64,
) -> (u64, u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut attached = Attachment::connect(attach, "", "").unwrap();
    let (mut last, mut generations, mut overtaken) = (Generation::NONE, 0, 0);
    while reads.fetch_add(1, Ordering::Relaxed) < wanted {
        let lease = attached.lease().unwrap();
        let tensor = &lease.bundle().tensors()[0];
        // Of the task's own part: the rest is every task's, and so always there.
        let place = rng.u32(own_part(lease.task()));
        let block = lease.sparse(tensor).block(0, place as usize).unwrap().unwrap();
        if rng.u32(..1000) == 0 {
            thread::sleep(Duration::from_micros(200));
        }
        if !lease.bundle().block_matches(BlockIndex(place), block.bytes) {
            wrong.fetch_add(1, Ordering::Relaxed);
        }
        generations += u64::from(lease.generation() != last);
        last = lease.generation();
        overtaken += u64::from(!lease.is_current());
    }
    (generations, overtaken)
}
