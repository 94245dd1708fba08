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
    sync::Arc,
    time::{Duration, Instant},
};
use synchromesh::{
    bundle::{
        BlockShape, BundleId, FORMAT, InputDigest, LayoutMeta, Meta, Provenance, Subject, Tables,
        TaskMeta, TensorMeta, Writer, checksum,
    },
    config::PrefetchConfig,
    engine::{
        Action, Command, Effect, Engine, Limits, Model, ModelSpec, Monotonic, SwitchCommand,
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

/// Writes a bundle of which all tasks share what is not some task's own.
fn write_bundle(path: &Path, blocks: usize) {
    let own = blocks * OWN / 1000;
    let shared = blocks - own * TASKS;
    let task = |task: usize| {
        let mut set = FixedBitSet::with_capacity(blocks);
        set.insert_range(..shared);
        set.insert_range(shared + task * own..shared + (task + 1) * own);
        set
    };
    let tasks: Vec<_> = (0..TASKS).map(task).collect();
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

/// An engine whose reads take no time.
struct Rig {
    engine: Engine,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// Room for the first two tasks of a bundle of so many blocks.
    fn new(blocks: usize) -> Self {
        let mut rig = Self::with_room(blocks, 2);
        rig.switch(1);
        rig.switch(0);
        rig
    }

    /// Room for what so many tasks have together.
    fn with_room(blocks: usize, tasks: usize) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let bundle = folder.path().join("bench.mesh");
        write_bundle(&bundle, blocks);
        let own = blocks * OWN / 1000;
        let pool_bytes = (blocks - own * (TASKS - tasks)) as u64 * SMALLEST;
        let model = Model::load(&ModelSpec { bundle, pool_bytes, lock_memory: false }).unwrap();
        let limits = Limits {
            reads_in_flight: 64,
            read_bytes: 256 << 10,
            stall: Duration::from_secs(3600),
            switch_timeout: Duration::from_secs(3600),
            clients_per_session: 1,
            prefetch: PrefetchConfig::OFF,
        };
        let engine = Engine::new(vec![model], limits, Arc::new(Monotonic::start()));
        Self { engine, _folder: folder }
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
        };
        let mut effects = self.engine.apply(Action::Command(Command::Switch(command, reply)));
        while let Some(effect) = effects.pop() {
            effects.extend(self.engine.apply(match effect {
                Effect::Read(read) => Action::ReadDone(Completion { read, result: Ok(()) }),
                Effect::Verify(Verify { model, attempt, priority, blocks: good, .. }) => {
                    Action::Verified(Verified { model, attempt, priority, good, bad: Vec::new() })
                }
            }));
        }
        self.engine.ended().for_each(drop);
        answer.try_recv().unwrap().unwrap()
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
        let mut rig = Rig::with_room(blocks, 3);
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

criterion_group!(benches, by_size, by_difference, evicting, diff, verification);
criterion_main!(benches);
