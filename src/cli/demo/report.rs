//! What the demo has shown, as a table for people or one JSON object.
//!
//! Computes medians and ratios; measures nothing.

use super::{
    drive::{Drive, Step},
    inputs::{KEEP, QUALITY_FLOOR, TASKS},
    place::Place,
    subject::Subject,
};
use crate::{
    bundle::Bundle,
    cli::output::{Table, bytes, percent},
    config::StorageConfig,
};
use serde::Serialize;
use std::time::Duration;

/// The result of a demo.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: Model,
    tasks_keep: f64,
    pool: Pool,
    /// Mean over ordered pairs of tasks of the share of the second that the first has not.
    mean_diff: f64,
    /// The same if each task had its own best mask.
    independent_diff: f64,
    /// What every task retains at least of what its own best mask does.
    quality_floor: f64,
    /// Whether the bundle was read past the page cache, from a device.
    direct_io: bool,
    in_memory: bool,
    /// The load of the first task into an empty pool.
    first: Step,
    /// By task.
    tasks: Vec<Comparison>,
    all: Comparison,
    verified: Verified,
    switches: Vec<Step>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Model {
    /// The user's file; none if the model was made.
    file: Option<String>,
    bytes: u64,
    tensors: usize,
    pruned_tensors: usize,
    dtype: String,
    block_rows: usize,
    block_cols: usize,
    block_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Pool {
    bytes: u64,
    /// How often it holds the largest task.
    tasks: f64,
}

#[derive(Debug, Serialize)]
struct Verified {
    switches: usize,
    tensors: usize,
}

/// Medians over switches and reloads.
#[derive(Debug, Serialize)]
struct Comparison {
    task: &'static str,
    switches: usize,
    read_bytes: u64,
    switch_us: u64,
    reload_bytes: u64,
    reload_us: u64,
    /// How many times more bytes a reload reads; none if switches read nothing.
    bytes_ratio: Option<f64>,
    /// How many times longer a reload takes.
    time_ratio: Option<f64>,
}

impl Comparison {
    fn of<'s>(task: &'static str, steps: impl Iterator<Item = &'s Step> + Clone) -> Self {
        let median = |figure: fn(&Step) -> u64| {
            let mut figures: Vec<_> = steps.clone().map(figure).collect();
            figures.sort_unstable();
            let middle = figures.len() / 2;
            let pair = [middle.saturating_sub((figures.len() + 1) % 2), middle];
            pair.map(|at| figures.get(at).copied().unwrap_or_default()).iter().sum::<u64>() / 2
        };
        let ratio = |more: u64, less: u64| (less > 0).then(|| more as f64 / less as f64);
        let (read_bytes, switch_us) = (median(|s| s.read_bytes), median(|s| s.switch_us));
        let (reload_bytes, reload_us) = (median(|s| s.reload_bytes), median(|s| s.reload_us));
        Self {
            task,
            switches: steps.clone().count(),
            read_bytes,
            switch_us,
            reload_bytes,
            reload_us,
            bytes_ratio: ratio(reload_bytes, read_bytes),
            time_ratio: ratio(reload_us, switch_us),
        }
    }

    fn row(&self) -> Vec<String> {
        let millis = |us: u64| format!("{:.2} ms", us as f64 / 1000.0);
        let times = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.1} x"));
        vec![
            self.task.to_owned(),
            self.switches.to_string(),
            bytes(self.read_bytes),
            bytes(self.reload_bytes),
            times(self.bytes_ratio),
            millis(self.switch_us),
            millis(self.reload_us),
            times(self.time_ratio),
        ]
    }
}

/// What was measured.
pub(super) struct Setting<'a> {
    pub(super) subject: &'a Subject,
    pub(super) place: &'a Place,
    pub(super) bundle: &'a Bundle,
    pub(super) pool_bytes: u64,
}

impl Report {
    pub(super) fn new(
        setting: &Setting<'_>,
        independent_diff: f64,
        drive: Drive,
        took: Duration,
    ) -> Self {
        let Setting { subject, place, bundle, pool_bytes } = *setting;
        let task = |(index, &name): (usize, &&'static str)| {
            Comparison::of(name, drive.steps.iter().filter(move |step| step.index == index))
        };
        let largest = drive.steps.iter().map(|step| step.reload_bytes).max().unwrap_or_default();
        Self {
            model: Model::of(subject),
            tasks_keep: KEEP,
            pool: Pool { bytes: pool_bytes, tasks: pool_bytes as f64 / largest.max(1) as f64 },
            quality_floor: QUALITY_FLOOR,
            mean_diff: bundle.mean_diff(),
            independent_diff,
            direct_io: drive.direct,
            in_memory: place.in_memory(),
            first: drive.first,
            tasks: TASKS.iter().enumerate().map(task).collect(),
            all: Comparison::of("all", drive.steps.iter()),
            verified: Verified { switches: drive.checks, tensors: drive.tensors },
            switches: drive.steps,
            seconds: took.as_secs_f64(),
        }
    }

    pub(super) fn render(&self) -> String {
        let mut table = Table::new(&[
            "to task",
            "switches",
            "switch reads",
            "reload reads",
            "ratio",
            "switch",
            "reload",
            "ratio",
        ]);
        self.tasks.iter().chain([&self.all]).for_each(|task| table.row(task.row()));
        [self.setting(), table.render(), self.meaning(), self.verdict()].join("\n")
    }

    fn setting(&self) -> String {
        let Model { file, bytes: size, tensors, pruned_tensors, dtype, .. } = &self.model;
        let (model, norms) = match file {
            None => ("a transformer made for this demo", "made with the model"),
            Some(file) => (file.as_str(), "made up, as the file tells nothing of activations"),
        };
        format!(
            "model: {model}\n       {} in {tensors} tensors, of which {pruned_tensors} are cut into \
             blocks of {} x {} {dtype}\n\
             tasks: {}, each keeps {:.0} % of the blocks of each tensor, by weight magnitude times\n       \
             activation norm of the input channel; chosen together, so that each retains at\n       \
             least {:.2} % of what its own best blocks do, two tasks differ by {} on\n       \
             average; chosen apart, they would differ by {}\n\
             norms: {norms} (seeded, heavy-tailed, one set a task)\n\
             pool:  {}, {:.2} times what a task needs: the least for switches during which the old\n       \
             task goes on; what it still holds of earlier tasks need not be read again; nothing\n       \
             is loaded ahead (`synchromesh replay` shows what that spares)\n",
            bytes(*size),
            self.model.block_rows,
            self.model.block_cols,
            self.tasks.len(),
            self.tasks_keep * 100.0,
            self.quality_floor * 100.0,
            percent(self.mean_diff),
            percent(self.independent_diff),
            bytes(self.pool.bytes),
            self.pool.tasks,
        )
    }

    fn meaning(&self) -> String {
        let read = if self.in_memory {
            "NOTE:   the temporary folder is in memory (tmpfs): nothing was read from a device, and \
             times are\n        those of copying. Set TMPDIR to a folder on a disk."
        } else if self.direct_io {
            "Both read past the page cache (O_DIRECT)."
        } else {
            "NOTE:   the file system of the temporary folder does not honour O_DIRECT: both read \
             through the\n        page cache, and times are those of copying. Set TMPDIR to a \
             folder of another one."
        };
        format!(
            "Medians of what was measured in turn, each reload right after the switch to the same \
             task.\n\
             switch: the whole SwitchTask call over gRPC, as its caller sees it: the daemon reads \
             the blocks\n        that are not in its pool, verifies them and publishes.\n\
             reload: reading the task's whole sparse checkpoint: as many bytes as its blocks have, \
             in one\n        piece, with the same reader ({} a read), \
             unverified and without a call:\n        the best case for reloading.\n\
             {read}\n",
            bytes(StorageConfig::default().read_bytes),
        )
    }

    fn verdict(&self) -> String {
        format!(
            "Checked: after each of {} switches, what an attached client reads in the daemon's memory \
             is, in\neach of {} tensors, bit for bit the dense model times the task's mask; and of the masks, \
             worked out\nanew, that they retain what they should.\n\
             Done in {:.1} s; nothing is left behind.\n",
            self.verified.switches, self.verified.tensors, self.seconds,
        )
    }
}

impl Model {
    fn of(subject: &Subject) -> Self {
        let block = subject.block;
        Self {
            file: subject.given.as_ref().map(|path| path.display().to_string()),
            bytes: subject.file.bytes(),
            tensors: subject.file.specs().count(),
            pruned_tensors: subject.pruned.len(),
            dtype: format!("{:?}", block.dtype()),
            block_rows: block.rows(),
            block_cols: block.cols(),
            block_bytes: block.bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(read_bytes: u64) -> Step {
        let (task, index, reload_bytes, reload_us) = ("city", 1, 1000, 40);
        Step { task, index, read_bytes, switch_us: 4, daemon_us: 3, reload_bytes, reload_us }
    }

    #[test]
    fn medians_of_odd_and_even_numbers_and_their_ratios() {
        let steps = [step(100), step(900), step(10)];
        let odd = Comparison::of("city", steps.iter());
        assert_eq!(
            (odd.read_bytes, odd.bytes_ratio, odd.time_ratio),
            (100, Some(10.0), Some(10.0))
        );
        let even = Comparison::of("city", steps[..2].iter());
        assert_eq!(even.read_bytes, 500);
        let none = Comparison::of("city", [step(0)].iter());
        assert_eq!((none.read_bytes, none.bytes_ratio), (0, None));
        assert_eq!(Comparison::of("city", [].iter()).switches, 0);
    }
}
