//! What a switch costs the engine itself, without reading: by size of the model, by size of the
//! difference; and what checksums cost.
//!
//! Reads and verifications are answered at once, as if the device took no time. The bundles' blocks
//! are the smallest there are, so that a million of them fit.

#![allow(clippy::unwrap_used, reason = "what a benchmark does not expect must stop it")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fixedbitset::FixedBitSet;
use safetensors::Dtype;
use std::{
    hint::black_box,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use synchromesh::{
    bundle::{
        BlockShape, BundleId, FORMAT, InputDigest, LayoutMeta, Meta, Provenance, Subject, Tables,
        TaskMeta, TensorMeta, Writer, checksum,
    },
    config::PrefetchConfig,
    engine::{
        Action, Clock, Command, Effect, Engine, Limits, Model, ModelSpec, SwitchCommand,
        SwitchReport, Target, Verified, Verify,
    },
    storage::Completion,
    units::BlockIndex,
};
use tokio::sync::oneshot;

const TASKS: usize = 64;
/// One task's own blocks, of a thousand.
const OWN: usize = 5;
const SIZES: [usize; 5] = [10_000, 31_623, 100_000, 316_228, 1_000_000];
/// The size at which the difference varies: 1 GiB in blocks of 8 KiB.
const USUAL: usize = 131_072;
const SMALLEST: u64 = 4096;
/// Blocks that are written in one piece.
const AT_ONCE: usize = 1024;

/// How the blocks of a bundle lie.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// Each task's own ones in a row.
    Together,
    /// Each task's own ones as far from each other as can be.
    Scattered,
}

/// A task's blocks: what all share, and some of its own.
fn blocks_of(task: usize, blocks: usize, layout: Layout) -> FixedBitSet {
    let mut set = FixedBitSet::with_capacity(blocks);
    match layout {
        Layout::Together => {
            let own = blocks * OWN / 1000;
            let shared = blocks - own * TASKS;
            set.insert_range(..shared);
            set.insert_range(shared + task * own..shared + (task + 1) * own);
        }
        Layout::Scattered => {
            // Of every thousand blocks the first few belong to tasks in turn.
            let belongs = |block: &usize| block % 1000 >= OWN * TASKS || block % TASKS == task;
            set.extend((0..blocks).filter(belongs));
        }
    }
    set
}

/// Writes a bundle of which all tasks share what is not some task's own.
fn write_bundle(path: &Path, blocks: usize, layout: Layout) {
    let tasks: Vec<_> = (0..TASKS).map(|task| blocks_of(task, blocks, layout)).collect();
    let share = 1.0 / (TASKS * (TASKS - 1)) as f64;
    let row = |from| (0..TASKS).map(|to| if from == to { 0.0 } else { share }).collect();
    let meta = Meta {
        format: FORMAT,
        model: "bench".into(),
        bundle_id: BundleId([1; 16]),
        block: BlockShape::new(32, 32, Dtype::F32).unwrap(),
        tasks: (0..TASKS)
            .map(|number| TaskMeta {
                name: name(number),
                keep: None,
                blocks: tasks[number].count_ones(..) as u64,
                retained: 1.0,
                best: 1.0,
            })
            .collect(),
        tensors: vec![TensorMeta { name: "weight".into(), shape: [32, 32 * blocks as u64] }],
        transitions: (0..TASKS).map(row).collect(),
        layout: LayoutMeta { groups: TASKS as u64 + 1, places: blocks as u64, request_bytes: 0 },
        provenance: Provenance {
            tool: "bench".into(),
            settings: "{}".into(),
            inputs: vec![InputDigest { role: "weights".into(), blake3: "00".repeat(32) }],
        },
    };
    let mut writer = Writer::create(path, meta, blocks as u32, &[], &[]).unwrap();
    let indices: Vec<_> = (0..blocks as u32).map(BlockIndex).collect();
    let content = vec![1; AT_ONCE * SMALLEST as usize];
    for indices in indices.chunks(AT_ONCE) {
        writer.blocks(indices, &content[..indices.len() * SMALLEST as usize]).unwrap();
    }
    let grids = vec![(0..blocks as u32).collect()];
    writer.finish(&Tables { grids, own: Vec::new(), tasks }).unwrap();
}

fn name(task: usize) -> String {
    format!("task-{task}")
}

/// Time that passes only between switches.
#[derive(Default)]
struct Steps(AtomicU64);

impl Clock for Steps {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// An engine whose reads take no time.
struct Rig {
    engine: Engine,
    clock: Arc<Steps>,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// Room for the first two tasks of a bundle of so many blocks.
    fn new(blocks: usize) -> Self {
        let mut rig = Self::with_room(blocks, 2, Layout::Together, PrefetchConfig::OFF);
        rig.switch(1);
        rig.switch(0);
        rig
    }

    /// Room for what so many tasks have together.
    fn with_room(blocks: usize, tasks: usize, layout: Layout, prefetch: PrefetchConfig) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let bundle = folder.path().join("bench.mesh");
        write_bundle(&bundle, blocks, layout);
        let own = blocks * OWN / 1000;
        let pool_bytes = (blocks - own * (TASKS - tasks)) as u64 * SMALLEST;
        let model = Model::load(&ModelSpec { bundle, pool_bytes, lock_memory: false }).unwrap();
        let limits = Limits {
            reads_in_flight: 64,
            read_bytes: 256 << 10,
            stall: Duration::from_secs(3600),
            switch_timeout: Duration::from_secs(3600),
            clients_per_session: 1,
            lease_patience: Duration::from_secs(3600),
            prefetch,
        };
        let clock = Arc::new(Steps::default());
        let engine = Engine::new(vec![model], limits, clock.clone());
        Self { engine, clock, _folder: folder }
    }

    /// Switches, and answers all that has to be read.
    fn switch(&mut self, task: usize) -> SwitchReport {
        let (reply, mut answer) = oneshot::channel();
        let command = SwitchCommand {
            target: Target::default(),
            task: name(task),
            request_id: None,
            expected_generation: None,
            arrived: Duration::ZERO,
            deadline: None,
            in_place: false,
            trace: None,
            caller: None,
        };
        let effects = self.engine.apply(Action::Command(Command::Switch(command, reply)));
        self.carry_out(effects);
        self.engine.events().for_each(drop);
        answer.try_recv().unwrap().unwrap()
    }

    /// Does what the engine asks for, and what that leads to.
    fn carry_out(&mut self, mut effects: Vec<Effect>) {
        while let Some(effect) = effects.pop() {
            effects.extend(self.engine.apply(match effect {
                Effect::Read(read) => Action::ReadDone(Completion { read, result: Ok(()) }),
                Effect::Verify(Verify { model, attempt, priority, blocks: good, .. }) => {
                    Action::Verified(Verified { model, attempt, priority, good, bad: Vec::new() })
                }
            }));
        }
    }

    /// Lets time pass after a switch, with all that is loaded ahead. Gives what it takes to make the
    /// plan, the longest other step, and the sum of all that read nothing.
    fn timed_look_ahead(&mut self) -> [Duration; 3] {
        self.clock.0.fetch_add(10, Ordering::Relaxed);
        let [mut plan, mut longest, mut sum] = [Duration::ZERO; 3];
        while self.engine.next_tick().is_some_and(|at| at <= self.clock.now()) {
            let begun = Instant::now();
            let effects = self.engine.apply(Action::Tick);
            let took = begun.elapsed();
            if plan.is_zero() {
                plan = took
            } else {
                longest = longest.max(took)
            }
            sum += took;
            self.carry_out(effects);
        }
        [plan, longest, sum]
    }

    /// Time of a switch to task 1 that has to read so many blocks. Task 0 is active before and after.
    fn timed_switch(&mut self, missing: usize) -> Duration {
        self.switch(1);
        self.switch(0);
        let (reply, _) = oneshot::channel();
        let trim = Command::Trim { model: String::new(), blocks: missing, reply };
        self.engine.apply(Action::Command(trim));
        let begun = Instant::now();
        let report = self.switch(1);
        let time = begun.elapsed();
        assert_eq!(report.read, missing);
        self.switch(0);
        time
    }
}

fn by_size(criterion: &mut Criterion) {
    for blocks in SIZES {
        let mut rig = Rig::new(blocks);
        let mut group = criterion.benchmark_group("resident switch");
        let mut task = 0;
        group.bench_function(BenchmarkId::from_parameter(blocks), |bencher| {
            bencher.iter(|| {
                task = 1 - task;
                black_box(rig.switch(task))
            });
        });
        group.finish();
        rig.switch(0);
        let mut group = criterion.benchmark_group("fifty blocks missing");
        group.bench_function(BenchmarkId::from_parameter(blocks), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| rig.timed_switch(50)).sum());
        });
        group.finish();
    }
}

fn by_difference(criterion: &mut Criterion) {
    let mut rig = Rig::new(USUAL);
    let mut group = criterion.benchmark_group("blocks missing");
    for missing in [1, 10, 100, USUAL * OWN / 1000] {
        group.throughput(Throughput::Elements(missing as u64));
        group.bench_function(BenchmarkId::from_parameter(missing), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| rig.timed_switch(missing)).sum());
        });
    }
    group.finish();
}

/// Four tasks take turns in a pool for three: each has to be read again, and another has to go.
fn evicting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("blocks missing in a full pool");
    for blocks in [USUAL, SIZES[4]] {
        let mut rig = Rig::with_room(blocks, 3, Layout::Together, PrefetchConfig::OFF);
        let own = blocks * OWN / 1000;
        for task in 0..4 {
            rig.switch(task);
        }
        let mut task = 3;
        group.throughput(Throughput::Elements(own as u64));
        group.bench_function(BenchmarkId::from_parameter(own), |bencher| {
            bencher.iter(|| {
                task = (task + 1) % 4;
                let report = rig.switch(task);
                assert_eq!((report.read, report.evicted), (own, own));
            });
        });
    }
    group.finish();
}

/// What a switch costs in looking ahead, beside the reads: the plan, and its longest other step.
fn looking_ahead(criterion: &mut Criterion) {
    for (layout, name) in [(Layout::Together, "together"), (Layout::Scattered, "scattered")] {
        let prefetch = PrefetchConfig { enabled: true, waste_bytes_per_s: 1 << 40 };
        let mut rig = Rig::with_room(SIZES[4], 8, layout, prefetch);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut task = 0;
        let mut turn = |rig: &mut Rig| {
            // Many tasks may follow each, some more often.
            task = (task + 1 + rng.usize(..4) * rng.usize(..16)) % TASKS;
            rig.switch(task);
            rig.clock.0.fetch_add(1000, Ordering::Relaxed);
            rig.timed_look_ahead()
        };
        for _ in 0..500 {
            turn(&mut rig);
        }
        let mut group = criterion.benchmark_group(format!("looking ahead, {name}"));
        group.sample_size(20);
        for (part, of) in ["plan", "longest step", "sum of steps"].into_iter().zip(0..) {
            group.bench_function(part, |bencher| {
                bencher.iter_custom(|times| (0..times).map(|_| turn(&mut rig)[of]).sum());
            });
        }
        group.finish();
    }
}

fn diff(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("diff of two sets");
    for blocks in SIZES {
        let half = |from| {
            let mut set = FixedBitSet::with_capacity(blocks);
            set.insert_range(from..from + blocks / 2);
            set
        };
        let (one, other) = (half(0), half(blocks / 4));
        group.bench_function(BenchmarkId::from_parameter(blocks), |bencher| {
            bencher.iter(|| black_box(&one).difference_count(black_box(&other)));
        });
    }
    group.finish();
}

fn verification(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verification");
    for bytes in [4 << 10, 8 << 10, 64 << 10, 1 << 20] {
        let block = vec![7; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            let subject = Subject::Block(BlockIndex(3));
            bencher.iter(|| checksum(BundleId([1; 16]), subject, black_box(&block)));
        });
    }
    group.finish();
}

criterion_group!(benches, by_size, by_difference, evicting, looking_ahead, diff, verification);
criterion_main!(benches);
