//! What every task must be served: the dense model times its mask.
//!
//! The masks are those that `align` writes for training frameworks. Whether they may be chosen so
//! is worked out anew here, from the dense model and the norms alone: each task keeps half of every
//! tensor, and retains what the recipe asks for of what its own best half does. Shares no code with
//! the offline part and knows nothing of the bundle, so that a bundle that is wrong cannot be wrong
//! here too.

use super::{
    Stop,
    inputs::{MASKS, QUALITY_FLOOR, TASKS, norms_file},
    place::Place,
    subject::Subject,
    tensors::{Spec, TensorFile},
};
use crate::{
    cli::{failure::Failure, progress},
    client::Lease,
};
use half::{bf16, f16};
use safetensors::Dtype;

/// The right masks.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    subject: &'a Subject,
    /// By tensor that is cut.
    tensors: Vec<Grid>,
    /// Mean over ordered pairs of tasks of the share of the second's own best blocks that are not
    /// among the first's: how much tasks would differ that nobody aligned.
    pub(super) independent_diff: f64,
}

/// What the masks of all tensors come to.
#[derive(Default)]
struct Tally {
    /// By task: importance in the blocks that it keeps, and in its own best ones.
    kept: [f64; TASKS.len()],
    best: [f64; TASKS.len()],
    /// Of all ordered pairs of tasks: the second's own best blocks, and those that the first lacks.
    blocks: usize,
    differ: usize,
}

/// A tensor as a grid of blocks.
#[derive(Debug)]
struct Grid {
    rows: usize,
    cols: usize,
    /// Rows and columns of a block.
    side: [usize; 2],
    element_bytes: usize,
    /// By task: the places, row by row, that it does not keep.
    dropped: Vec<Vec<usize>>,
}

impl<'a> Expected<'a> {
    /// Reads the masks and checks that they may be so.
    pub(super) fn work_out(
        subject: &'a Subject,
        place: &Place,
        stop: &Stop,
    ) -> Result<Self, Failure> {
        let masks = TensorFile::open(&place.file(MASKS))?;
        let norms = TASKS.map(|task| TensorFile::open(&place.file(&norms_file(task))));
        let norms = norms.into_iter().collect::<Result<Vec<_>, _>>()?;
        let bar = progress::bar("expect", subject.pruned.iter().map(|s| s.bytes() as u64).sum());
        let mut tensors = Vec::with_capacity(subject.pruned.len());
        let mut tally = Tally::default();
        for spec in &subject.pruned {
            stop.check()?;
            let mut grid = Grid::of(spec, subject);
            let sums = grid.column_sums(&subject.file.read(&spec.name)?, spec.dtype);
            let mut worse = Vec::with_capacity(TASKS.len());
            for (task, norms) in TASKS.iter().zip(&norms) {
                let scores = grid.scores(&sums, &values(Dtype::F32, &norms.read(&spec.name)?));
                worse.push(worse_half(&scores));
                let mask = masks.read(&format!("{task}/{}", spec.name))?;
                grid.dropped.push((0..mask.len()).filter(|&place| mask[place] == 0).collect());
                tally.add(&grid, &scores, &worse)?;
            }
            tally.compare(&worse, grid.places());
            tensors.push(grid);
            bar.inc(spec.bytes() as u64);
        }
        bar.finish_and_clear();
        tally.check()?;
        let independent_diff = tally.differ as f64 / tally.blocks.max(1) as f64;
        Ok(Self { subject, tensors, independent_diff })
    }

    /// Compares every byte that a client sees of a task with the dense model times the mask.
    /// Gives the number of tensors.
    pub(super) fn check(
        &self,
        lease: &Lease<'_>,
        task: usize,
        stop: &Stop,
    ) -> Result<usize, Failure> {
        let bundle = lease.bundle();
        for spec in self.subject.file.specs() {
            stop.check()?;
            let mut expected = self.subject.file.read(&spec.name)?;
            let cut = self.subject.pruned.iter().position(|cut| cut.name == spec.name);
            let served = match cut {
                Some(position) => {
                    self.tensors[position].clear_dropped(task, &mut expected);
                    let tensor = bundle.tensors().iter().find(|tensor| tensor.name() == spec.name);
                    let dense = tensor.map(|tensor| lease.sparse(tensor).to_dense()).transpose();
                    dense.map_err(Failure::failed)?
                }
                None => {
                    let tensor = bundle.base().tensors.iter().find(|base| base.name == spec.name);
                    tensor.map(|tensor| lease.base(tensor).bytes().to_vec())
                }
            };
            if served.as_ref() != Some(&expected) {
                let at = served.map(|served| first_difference(&served, &expected));
                return Err(wrong(TASKS[task], &spec.name, at));
            }
        }
        let served = bundle.tensors().len() + bundle.base().tensors.len();
        let all = self.subject.file.specs().count();
        if served == all {
            Ok(all)
        } else {
            Err(Failure::failed(format!("{served} tensors are served, {all} should be")))
        }
    }
}

fn wrong(task: &str, tensor: &str, at: Option<usize>) -> Failure {
    Failure::failed(match at {
        Some(at) => format!("task {task}: `{tensor}` as served is wrong from byte {at} on"),
        None => format!("task {task}: `{tensor}` is not served"),
    })
}

fn first_difference(served: &[u8], expected: &[u8]) -> usize {
    let pairs = served.iter().zip(expected);
    pairs.take_while(|(served, expected)| served == expected).count()
}

impl Tally {
    /// Adds the latest task's part of a tensor.
    fn add(&mut self, grid: &Grid, scores: &[f64], worse: &[Vec<usize>]) -> Result<(), Failure> {
        let (Some(dropped), Some(worse)) = (grid.dropped.last(), worse.last()) else {
            return Ok(());
        };
        let task = grid.dropped.len() - 1;
        if dropped.len() != worse.len() {
            return Err(Failure::failed(format!(
                "task {}: {} blocks of {} are dropped, not half",
                TASKS[task],
                dropped.len(),
                scores.len()
            )));
        }
        let all: f64 = scores.iter().sum();
        let without = |places: &[usize]| all - places.iter().map(|&at| scores[at]).sum::<f64>();
        self.kept[task] += without(dropped);
        self.best[task] += without(worse);
        Ok(())
    }

    /// Compares all tasks' own best blocks of a tensor.
    fn compare(&mut self, worse: &[Vec<usize>], places: usize) {
        for (to, from) in (0..worse.len()).flat_map(|to| (0..worse.len()).map(move |f| (to, f))) {
            if to != from {
                self.blocks += places - worse[to].len();
                // As many as the first drops though the second keeps them.
                self.differ += worse[from].iter().filter(|at| !worse[to].contains(at)).count();
            }
        }
    }

    /// Whether every task retains what it should, but for rounding.
    fn check(&self) -> Result<(), Failure> {
        for (task, (kept, best)) in TASKS.iter().zip(self.kept.iter().zip(&self.best)) {
            if *kept < QUALITY_FLOOR * best * (1.0 - 1e-9) {
                return Err(Failure::failed(format!(
                    "task {task} retains {:.3} % of what it could, less than it should",
                    kept / best * 100.0
                )));
            }
        }
        Ok(())
    }
}

impl Grid {
    fn of(spec: &Spec, subject: &Subject) -> Self {
        let block = subject.block;
        let cols = Subject::channels(spec).max(1);
        Self {
            rows: spec.elements() / cols,
            cols,
            side: [block.rows(), block.cols()],
            element_bytes: block.element_bytes(),
            dropped: Vec::new(),
        }
    }

    /// For each row of blocks, and each column of the tensor: the sum of its squares there.
    fn column_sums(&self, bytes: &[u8], dtype: Dtype) -> Vec<Vec<f64>> {
        let row_bytes = self.cols * self.element_bytes;
        let bands = bytes.chunks(row_bytes * self.side[0]);
        let sums = bands.map(|band| {
            let mut sums = vec![0.0; self.cols];
            for row in band.chunks(row_bytes) {
                for (sum, value) in sums.iter_mut().zip(values(dtype, row)) {
                    *sum += value * value;
                }
            }
            sums
        });
        sums.collect()
    }

    fn places(&self) -> usize {
        self.rows.div_ceil(self.side[0]) * self.cols.div_ceil(self.side[1])
    }

    /// By place: what it is worth to a task.
    fn scores(&self, column_sums: &[Vec<f64>], norms: &[f64]) -> Vec<f64> {
        let mut scores = Vec::new();
        for sums in column_sums {
            let columns = sums.iter().zip(norms).map(|(sum, norm)| sum * (norm * norm));
            let columns: Vec<_> = columns.collect();
            scores.extend(columns.chunks(self.side[1]).map(|block| block.iter().sum::<f64>()));
        }
        scores
    }

    /// Sets the blocks that a task does not keep to zero.
    fn clear_dropped(&self, task: usize, dense: &mut [u8]) {
        let [height, width] = self.side;
        let across = self.cols.div_ceil(width);
        for place in &self.dropped[task] {
            let (top, left) = (place / across * height, place % across * width);
            let right = (left + width).min(self.cols);
            for row in top..(top + height).min(self.rows) {
                let start = row * self.cols;
                let range =
                    (start + left) * self.element_bytes..(start + right) * self.element_bytes;
                dense[range].fill(0);
            }
        }
    }
}

/// The places outside the better half; of equal ones the earlier is better. An odd one is kept.
fn worse_half(scores: &[f64]) -> Vec<usize> {
    let mut places: Vec<_> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places.split_off(places.len().div_ceil(2))
}

/// The numbers that little-endian elements stand for.
fn values(dtype: Dtype, bytes: &[u8]) -> Vec<f64> {
    let pairs = || bytes.as_chunks().0.iter().copied();
    match dtype {
        Dtype::BF16 => pairs().map(|b| bf16::from_le_bytes(b).to_f64()).collect(),
        Dtype::F16 => pairs().map(|b| f16::from_le_bytes(b).to_f64()).collect(),
        _ => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::random, *};

    /// 3 x 5 elements of one byte in blocks of 2 x 2.
    fn grid() -> Grid {
        Grid { rows: 3, cols: 5, side: [2, 2], element_bytes: 1, dropped: Vec::new() }
    }

    #[test]
    fn the_worse_half_has_the_lower_sums_and_of_equal_ones_the_later() {
        let sums = [vec![1.0, 1.0, 0.0, 0.0, 9.0], vec![2.0, 0.0, 1.0, 0.0, 0.0]];
        // Scores with these norms: 2, 0, 1 and 2, 1, 0.
        let mut dropped = worse_half(&grid().scores(&sums, &[1.0, 1.0, 1.0, 5.0, 1.0 / 3.0]));
        dropped.sort_unstable();
        assert_eq!(dropped, [1, 4, 5]);
    }

    #[test]
    fn only_what_is_dropped_is_cleared_also_at_the_edges() {
        let mut grid = grid();
        grid.dropped.push(vec![1, 5]);
        let mut dense = [1; 15];
        grid.clear_dropped(0, &mut dense);
        assert_eq!(dense, [1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn two_tasks_differ_by_some_ten_percent_in_the_model_that_is_made() {
        let (mut kept, mut differ) = (0, 0);
        for tensor in ["a", "b", "c", "d"] {
            let side = [64, 64];
            let grid = Grid { rows: 512, cols: 1024, side, element_bytes: 2, dropped: Vec::new() };
            let sums = grid.column_sums(&random::weight(tensor, 512, 1024), Dtype::BF16);
            let dropped = TASKS.map(|task| {
                let norms = random::norms(task, tensor, 1024).into_iter().map(f64::from);
                worse_half(&grid.scores(&sums, &norms.collect::<Vec<_>>()))
            });
            for (one, other) in (0..6).flat_map(|a| (0..a).map(move |b| (a, b))) {
                kept += dropped[one].len();
                differ += dropped[one].iter().filter(|at| !dropped[other].contains(at)).count();
            }
        }
        let share = differ as f64 / kept as f64;
        assert!((0.06..0.14).contains(&share), "{share}");
    }

    #[test]
    fn squares_are_summed_by_band() {
        let grid = Grid { element_bytes: 4, cols: 2, ..grid() };
        let bytes: Vec<_> = [1f32, 2.0, 3.0, 4.0, 5.0, -6.0].map(f32::to_le_bytes).concat();
        let sums = grid.column_sums(&bytes, Dtype::F32);
        assert_eq!(sums, [vec![10.0, 20.0], vec![25.0, 36.0]]);
    }
}
