//! `inspect` and `verify`.

use super::{
    OutputArgs,
    failure::Failure,
    interrupt::Interrupt,
    output::{Table, bytes, percent, print, print_json},
    progress,
};
use crate::bundle::{self, Bundle, OpenError};
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
}

impl Inspection {
    fn of(bundle: &Bundle) -> Self {
        let block = bundle.block();
        let tasks: Vec<_> = bundle.task_indices().collect();
        let diff = |from, to| bundle.diff(from, to) as u64 * block.bytes();
        let figures = tasks.iter().map(|&to| {
            let task = bundle.task(to);
            TaskFigures {
                name: task.name.clone(),
                keep: task.keep,
                blocks: task.blocks,
                bytes: task.blocks * block.bytes(),
                retained: task.retained,
                of_best: if task.best > 0.0 { task.retained / task.best } else { 1.0 },
                diff_bytes_from: tasks.iter().map(|&from| diff(from, to)).collect(),
            }
        });
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
        let diffs = Table::matrix("to load, from \\ to", &names, |from, to| {
            bytes(self.tasks[to].diff_bytes_from[from])
        });
        format!(
            "model {}, bundle {}\n{} blocks of {} x {} {} ({} each, {} in all), base {}\n\n{}\n{}\n\
             mean difference: {} of a task\n",
            self.model,
            self.bundle_id,
            self.blocks,
            self.block_rows,
            self.block_cols,
            self.dtype,
            bytes(self.block_bytes),
            bytes(self.blocks as u64 * self.block_bytes),
            bytes(self.base_bytes),
            tasks.render(),
            diffs.render(),
            percent(self.mean_diff),
        )
    }
}

/// A file that cannot be opened is named wrongly; one that is refused is wrong itself.
fn failure(error: OpenError) -> Failure {
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
