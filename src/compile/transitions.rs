//! How likely each switch from one task to another is.
//!
//! What a recipe gives (a matrix, weighted pairs, a trace, or nothing) becomes one table: of all
//! switches, the share of each ordered pair of tasks.

use super::{
    error::{InputError, Origin},
    recipe::{Task, Transitions},
    taskset::TaskSet,
};
use crate::{
    files::read_text,
    trace::{self, MAX_TRACE_BYTES},
    units::TaskIndex,
};
use std::path::Path;

/// Rounds of power iteration, enough for chains that forget slowly.
const ROUNDS: usize = 4096;

/// The share of each switch, by from and to. The diagonal is zero, the sum 1, or 0 if there is but
/// one task.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Switches(Vec<Vec<f64>>);

impl Switches {
    /// What a recipe says.
    pub(super) fn of(transitions: &Transitions, tasks: &[Task]) -> Result<Self, InputError> {
        Ok(match transitions {
            Transitions::Uniform => Self::uniform(tasks.len()),
            Transitions::Chain(rows) => Self::of_chain(rows),
            Transitions::Weights(weights) => Self::of_weights(weights.clone()),
            Transitions::Trace(path) => Self::of_weights(count(path, tasks)?),
        })
    }

    /// Every switch is equally likely.
    pub(super) fn uniform(tasks: usize) -> Self {
        let row = |from| (0..tasks).map(move |to| if from == to { 0.0 } else { 1.0 }).collect();
        Self::of_weights((0..tasks).map(row).collect())
    }

    /// Switches in proportion to weights that are not negative; those of a task to itself do not
    /// count.
    pub(super) fn of_weights(mut weights: Vec<Vec<f64>>) -> Self {
        weights.iter_mut().enumerate().for_each(|(task, row)| row[task] = 0.0);
        let sum: f64 = weights.iter().flatten().sum();
        if sum > 0.0 {
            weights.iter_mut().flatten().for_each(|weight| *weight /= sum);
        }
        Self(weights)
    }

    /// The switches of a chain that goes on from each task with the probabilities of its row, in
    /// the long run: each task is left as often as it is entered.
    pub(super) fn of_chain(rows: &[Vec<f64>]) -> Self {
        let tasks = rows.len();
        let mut share = vec![1.0 / tasks as f64; tasks];
        for _ in 0..ROUNDS {
            let entered =
                |to: usize| (0..tasks).map(|from| share[from] * rows[from][to]).sum::<f64>();
            // Half of each stays, so that chains that go round do not swing for ever.
            share = (0..tasks).map(|task| f64::midpoint(share[task], entered(task))).collect();
        }
        let weighted = rows.iter().zip(&share);
        Self::of_weights(
            weighted.map(|(row, share)| row.iter().map(|p| p * share).collect()).collect(),
        )
    }

    /// By from and to.
    pub(super) fn rows(&self) -> &[Vec<f64>] {
        &self.0
    }

    /// The table times a factor.
    pub(super) fn scaled(&self, factor: f64) -> Vec<Vec<f64>> {
        self.0.iter().map(|row| row.iter().map(|share| share * factor).collect()).collect()
    }

    /// The share of switches that have to load a block that these tasks keep.
    pub(super) fn expected(&self, keepers: TaskSet) -> f64 {
        let outside =
            (0..).map(TaskIndex).take(self.0.len()).filter(|task| !keepers.contains(*task));
        let row = |from: TaskIndex| {
            keepers.iter().map(|to| self.0[from.index()][to.index()]).sum::<f64>()
        };
        outside.map(row).sum()
    }
}

/// Counts the switches of a trace.
fn count(path: &Path, tasks: &[Task]) -> Result<Vec<Vec<f64>>, InputError> {
    let at = Origin { key: "transitions.trace".into(), path: path.to_owned() };
    let text = read_text(path, MAX_TRACE_BYTES)
        .map_err(|source| InputError::Read { at: at.clone(), source })?;
    let position = |name: &str| tasks.iter().position(|task| task.name == name);
    let steps = trace::parse(&text, |name| position(name).is_some())
        .map_err(|source| InputError::Trace { at: at.clone(), source })?;
    let active: Vec<_> = steps.iter().filter_map(|step| position(&step.task)).collect();
    let mut counts = vec![vec![0.0; tasks.len()]; tasks.len()];
    for pair in active.windows(2).filter(|pair| pair[0] != pair[1]) {
        counts[pair[0]][pair[1]] += 1.0;
    }
    if tasks.len() > 1 && counts.iter().flatten().all(|&count| count == 0.0) {
        return Err(InputError::EmptyTrace(at));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_left_as_often_as_it_is_entered() {
        let chain = [vec![0.0, 1.0, 0.0], vec![0.5, 0.0, 0.5], vec![1.0, 0.0, 0.0]];
        let switches = Switches::of_chain(&chain);
        let rows = switches.rows();
        for task in 0..3 {
            let left: f64 = rows[task].iter().sum();
            let entered: f64 = rows.iter().map(|row| row[task]).sum();
            assert!((left - entered).abs() < 1e-9, "{rows:?}");
        }
        // In the long run 2/5 of the switches leave the first task.
        assert!((rows[0][1] - 0.4).abs() < 1e-9, "{rows:?}");
    }

    #[test]
    fn a_chain_that_only_goes_round_has_an_answer() {
        let switches = Switches::of_chain(&[vec![0.0, 1.0], vec![1.0, 0.0]]);
        assert_eq!(switches, Switches::uniform(2));
    }

    #[test]
    fn what_a_block_costs_is_the_share_of_switches_into_its_tasks() {
        let switches = Switches::uniform(3);
        let set = |tasks: &[u32]| tasks.iter().map(|&task| TaskIndex(task)).collect();
        assert_eq!(switches.expected(set(&[])), 0.0);
        assert_eq!(switches.expected(set(&[0, 1, 2])), 0.0);
        assert!((switches.expected(set(&[1])) - 2.0 / 6.0).abs() < 1e-12);
        assert!((switches.expected(set(&[0, 2])) - 2.0 / 6.0).abs() < 1e-12);
        assert_eq!(Switches::uniform(1).expected(set(&[0])), 0.0);
    }
}
