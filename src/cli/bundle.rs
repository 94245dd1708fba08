//! `inspect` and `verify`.

use super::{
    OutputArgs,
    failure::Failure,
    interrupt::Interrupt,
    output::{Table, bytes, percent, print, print_json},
    progress,
};
use crate::{
    bundle::{self, Bundle, OpenError},
    compile::{self, SwitchReads},
    units::TaskIndex,
};
use clap::Args;
use serde::Serialize;
use std::{ops::ControlFlow, path::PathBuf};

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `inspect` shows.
#[derive(Serialize)]
struct Inspection {
    model: String,
    bundle_id: String,
    block_rows: usize,
    block_cols: usize,
    dtype: String,
    block_bytes: u64,
    blocks: usize,
    base_bytes: u64,
    tasks: Vec<TaskFigures>,
    /// Mean over ordered pairs of tasks of the share of the second that the first has not.
    mean_diff: f64,
    /// Bytes that a switch is expected to need, over the transitions of the recipe.
    expected_switch_bytes: f64,
    /// Mean over ordered pairs of different tasks.
    mean_extents: f64,
    /// The same if blocks lay in the order of the tensors.
    mean_naive_extents: f64,
    /// Bytes read over all such pairs, gaps included, over the bytes needed.
    read_share: f64,
}

#[derive(Serialize)]
struct TaskFigures {
    name: String,
    keep: Option<f64>,
    blocks: u64,
    bytes: u64,
    retained: f64,
    /// `retained` over that of the task's own best mask of the same size.
    of_best: f64,
    /// Bytes to load when this task follows another, in the order of the tasks.
    diff_bytes_from: Vec<u64>,
    /// Blocks and requests for them.
    reads_from: Vec<SwitchReads>,
}

impl Inspection {
    fn of(bundle: &Bundle) -> Self {
        let block = bundle.block();
        let tasks: Vec<_> = bundle.task_indices().collect();
        let reads = compile::switch_reads(bundle);
        let reads_of = |from: TaskIndex, to: TaskIndex| reads[from.index()][to.index()];
        let figures = tasks.iter().map(|&to| {
            let task = bundle.task(to);
            TaskFigures {
                name: task.name.clone(),
                keep: task.keep,
                blocks: task.blocks,
                bytes: task.blocks * block.bytes(),
                retained: task.retained,
                of_best: if task.best > 0.0 { task.retained / task.best } else { 1.0 },
                diff_bytes_from: tasks
                    .iter()
                    .map(|&from| reads_of(from, to).blocks * block.bytes())
                    .collect(),
                reads_from: tasks.iter().map(|&from| reads_of(from, to)).collect(),
            }
        });
        let totals = Totals::of(&reads);
        Self {
            model: bundle.model().to_owned(),
            bundle_id: bundle.id().to_string(),
            block_rows: block.rows(),
            block_cols: block.cols(),
            dtype: format!("{:?}", block.dtype()),
            block_bytes: block.bytes(),
            blocks: bundle.len(),
            base_bytes: bundle.base().bytes(),
            mean_diff: bundle.mean_diff(),
            expected_switch_bytes: bundle.expected_switch_bytes(),
            mean_extents: totals.mean(totals.extents),
            mean_naive_extents: totals.mean(totals.naive_extents),
            read_share: totals.read as f64 / totals.blocks.max(1) as f64,
            tasks: figures.collect(),
        }
    }

    fn render(&self) -> String {
        let mut tasks = Table::new(&["task", "blocks", "size", "retained", "of own best"]);
        for task in &self.tasks {
            tasks.row(vec![
                task.name.clone(),
                task.blocks.to_string(),
                bytes(task.bytes),
                percent(task.retained),
                percent(task.of_best),
            ]);
        }
        let names: Vec<_> = self.tasks.iter().map(|task| task.name.as_str()).collect();
        let matrix = |heading, cell: &dyn Fn(usize, usize) -> String| {
            Table::matrix(heading, &names, cell).render()
        };
        let reads = |from: usize, to: usize| self.tasks[to].reads_from[from];
        let bytes_to_load = |from: usize, to: usize| bytes(self.tasks[to].diff_bytes_from[from]);
        [
            self.heading(),
            tasks.render(),
            matrix("bytes to load, from \\ to", &bytes_to_load),
            matrix("blocks", &|from, to| reads(from, to).blocks.to_string()),
            matrix("extents (in the order of the tensors)", &|from, to| {
                let SwitchReads { extents, naive_extents, .. } = reads(from, to);
                format!("{extents} ({naive_extents})")
            }),
            format!(
                "mean difference: {} of a task; expected for a switch: {}\nextents of a switch: {:.1} \
                 on average, {:.1} in the order of the tensors; read: {:.3} of what is needed\n",
                percent(self.mean_diff),
                bytes(self.expected_switch_bytes as u64),
                self.mean_extents,
                self.mean_naive_extents,
                self.read_share,
            ),
        ]
        .join("\n")
    }

    fn heading(&self) -> String {
        format!(
            "model {}, bundle {}\n{} blocks of {} x {} {} ({} each, {} in all), base {}\n",
            self.model,
            self.bundle_id,
            self.blocks,
            self.block_rows,
            self.block_cols,
            self.dtype,
            bytes(self.block_bytes),
            bytes(self.blocks as u64 * self.block_bytes),
            bytes(self.base_bytes),
        )
    }
}

/// Sums over ordered pairs of different tasks.
#[derive(Default)]
struct Totals {
    pairs: u64,
    blocks: u64,
    read: u64,
    extents: u64,
    naive_extents: u64,
}

impl Totals {
    fn of(reads: &[Vec<SwitchReads>]) -> Self {
        let rows = reads.iter().enumerate();
        let pairs =
            rows.flat_map(|(from, row)| row.iter().enumerate().filter(move |(to, _)| *to != from));
        let mut totals = Self::default();
        for (_, reads) in pairs {
            totals.pairs += 1;
            totals.blocks += reads.blocks;
            totals.read += reads.read;
            totals.extents += reads.extents;
            totals.naive_extents += reads.naive_extents;
        }
        totals
    }

    fn mean(&self, sum: u64) -> f64 {
        sum as f64 / self.pairs.max(1) as f64
    }
}

/// A file that cannot be opened is named wrongly; one that is refused is wrong itself.
pub(super) fn failure(error: OpenError) -> Failure {
    match error {
        OpenError::Io { .. } => Failure::usage(error),
        OpenError::Refused { .. } => Failure::failed(error),
    }
}

/// Shows what a bundle holds.
pub(super) fn inspect(args: &BundleArgs) -> Result<(), Failure> {
    show(&Bundle::open(&args.file).map_err(failure)?, args.output)
}

/// Shows a compiled bundle as `inspect` does.
pub(super) fn show(bundle: &Bundle, output: OutputArgs) -> Result<(), Failure> {
    let inspection = Inspection::of(bundle);
    if output.json { print_json(&inspection) } else { print(&inspection.render()) }
}

/// What `verify` shows.
#[derive(Serialize)]
struct Verification {
    blocks: usize,
    base_tensors: usize,
    bad_blocks: Vec<u32>,
    bad_base_tensors: Vec<String>,
}

/// Compares everything with its checksum.
pub(super) fn verify(args: &BundleArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::listen().map_err(Failure::failed)?;
    let file = bundle::open(&args.file).map_err(failure)?;
    let bundle = Bundle::from_file(&file, &args.file).map_err(failure)?;
    let bar = progress::bar("verify", bundle.payload_bytes());
    let damage = bundle.verify(&file, |bytes| {
        bar.inc(bytes);
        if interrupt.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let damage = damage.map_err(Failure::failed)?;
    let verification = Verification {
        blocks: bundle.len(),
        base_tensors: bundle.base().tensors.len(),
        bad_blocks: damage.blocks.iter().map(|block| block.0).collect(),
        bad_base_tensors: damage.base,
    };
    let good = verification.bad_blocks.is_empty() && verification.bad_base_tensors.is_empty();
    if args.output.json {
        print_json(&verification)?;
    } else if good {
        let Verification { blocks, base_tensors, .. } = verification;
        print(&format!("{blocks} blocks and {base_tensors} base tensors match their checksums\n"))?;
    }
    if good {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{}: blocks {:?} and base tensors {:?} do not match their checksums: restore the bundle",
        args.file.display(),
        verification.bad_blocks,
        verification.bad_base_tensors,
    )))
}
