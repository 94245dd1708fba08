//! `bench`: what this machine does with a bundle, measured in turn so that its moods hit all alike.
//!
//! The daemon's own parts are at work in this process: engine, storage, verification, gRPC over a
//! Unix socket, on threads of their own. Only cached blocks are dropped on purpose, which no call
//! of the protocol does. Says what is; judges nothing.

mod daemon;
mod fio;
mod measure;
mod report;

use super::{OutputArgs, failure::Failure, interrupt::Interrupt, output, progress, reader::Reader};
use crate::{
    bundle::{self, Bundle},
    config::{LogConfig, StorageBackend, StorageConfig},
    observe,
    units::{BlockIndex, TaskIndex},
};
use clap::Args;
use daemon::Daemon;
use fio::Fio;
use measure::{Bench, What};
use report::Report;
use std::{fs::File, path::PathBuf, sync::Arc};

/// The requests of the yardstick that calls `preadv`: longer ones, as suits it.
const PREAD_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The bundle.
    bundle: PathBuf,
    /// The task to switch from. Default: with `to`, the pair that differs most.
    #[arg(long, value_name = "TASK", requires = "to")]
    from: Option<String>,
    /// The task to switch to.
    #[arg(long, value_name = "TASK", requires = "from")]
    to: Option<String>,
    /// Rounds; each measures everything once, calls many times.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Add fio, which must be installed.
    #[arg(long)]
    fio: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Two tasks and how they differ.
#[derive(Clone, Debug)]
struct Pair {
    from: String,
    to: String,
    /// Blocks of `to` that `from` has not.
    diff: usize,
    /// Where as many blocks in a row are read in its stead: from the first of them on, if the file
    /// is long enough.
    first: BlockIndex,
    /// Blocks of `to`.
    task: usize,
    /// Blocks of both together.
    both: usize,
}

/// Measures.
pub(super) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::listen().map_err(Failure::failed)?;
    let path = args.bundle.as_path();
    let file = bundle::open(path).map_err(Failure::failed)?;
    let bundle = Arc::new(Bundle::from_file(&file, path).map_err(Failure::failed)?);
    let pair = Pair::find(&bundle, args)?;
    let fio = args.fio.then(Fio::find).transpose()?;
    // A line for each switch costs what it costs, but nobody wants to see them here.
    let nowhere = File::options().write(true).open("/dev/null").map_err(Failure::failed)?;
    let _log = observe::log_to(nowhere, &LogConfig::default());
    let config = StorageConfig::default();
    let (backend, read_bytes) = (StorageBackend::Preadv, PREAD_BYTES);
    let blocking = StorageConfig { backend, read_bytes, ..config };
    let pool_bytes = pair.both as u64 * bundle.block().bytes();
    let daemon = Daemon::start(path, pool_bytes, &config)?;
    let mut bench = Bench {
        pair: pair.clone(),
        bundle: &bundle,
        path,
        reader: Reader::new(&bundle, path, &config)?,
        blocking: Reader::new(&bundle, path, &blocking)?,
        fio,
        interrupt: &interrupt,
        series: Vec::new(),
    };
    let bar = progress::steps("round", args.rounds as usize);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::failed)?.block_on(async {
        let mut client = daemon.connect().await?;
        for round in 0..args.rounds {
            let mut order = What::all(bench.fio.is_some());
            fastrand::Rng::with_seed(u64::from(round)).shuffle(&mut order);
            for what in order {
                bench.measure(&mut client, what).await?;
            }
            bar.inc(1);
        }
        Ok::<_, Failure>(())
    })?;
    bar.finish_and_clear();
    let report = Report::new(
        &bundle,
        path,
        &pair,
        args.rounds,
        daemon.storage(bundle.model()),
        bench.series,
    );
    if args.output.json { output::print_json(&report) } else { output::print(&report.render()) }
}

impl Pair {
    fn find(bundle: &Bundle, args: &BenchArgs) -> Result<Self, Failure> {
        let known = |name: &String| {
            bundle.find_task(name).ok_or_else(|| {
                let names = bundle.task_indices().map(|task| bundle.task(task).name.clone());
                let names = names.collect::<Vec<_>>().join(", ");
                Failure::usage(format!("there is no task `{name}`; the bundle has: {names}"))
            })
        };
        let (from, to) = match (&args.from, &args.to) {
            (Some(from), Some(to)) => (known(from)?, known(to)?),
            _ => Self::furthest(bundle)?,
        };
        let pair = Self {
            from: bundle.task(from).name.clone(),
            to: bundle.task(to).name.clone(),
            diff: bundle.diff(from, to),
            first: Self::first(bundle, from, to),
            task: bundle.task_blocks(to).count_ones(..),
            both: bundle.task_blocks(from).union_count(bundle.task_blocks(to)),
        };
        match pair.diff {
            0 => Err(Failure::usage(format!(
                "task `{}` needs nothing that `{}` has not: name tasks that differ",
                pair.to, pair.from
            ))),
            _ => Ok(pair),
        }
    }

    fn first(bundle: &Bundle, from: TaskIndex, to: TaskIndex) -> BlockIndex {
        let first = bundle.task_blocks(to).difference(bundle.task_blocks(from)).next();
        let last = bundle.len() - bundle.diff(from, to);
        BlockIndex(first.unwrap_or_default().min(last) as u32)
    }

    fn furthest(bundle: &Bundle) -> Result<(TaskIndex, TaskIndex), Failure> {
        let tasks = || bundle.task_indices();
        let pairs = tasks().flat_map(|from| tasks().map(move |to| (from, to)));
        let furthest = pairs.max_by_key(|&(from, to)| bundle.diff(from, to));
        furthest.ok_or_else(|| Failure::failed("the bundle has no tasks"))
    }
}
