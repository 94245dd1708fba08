//! The drive: 60 switches over gRPC, each followed by a reload of the same task for comparison.
//!
//! Measures and checks; what the figures say is `report`'s business.

use super::{Stop, expect::Expected, inputs::TASKS, random};
use crate::{
    bundle::Bundle,
    cli::{failure::Failure, progress, reader::Reader},
    client::{Attachment, Control},
    proto,
    units::TaskIndex,
};
use serde::Serialize;
use std::time::Instant;

/// Rounds of the trace; each goes to every task once.
pub(super) const ROUNDS: usize = 10;
pub(super) const SWITCHES: usize = ROUNDS * TASKS.len();

/// A switch, and the reload that is compared with it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    pub(super) task: &'static str,
    #[serde(skip)]
    pub(super) index: usize,
    /// Bytes that the switch read.
    pub(super) read_bytes: u64,
    /// The whole call as its caller sees it.
    pub(super) switch_us: u64,
    /// Of this, what the daemon accounts for.
    pub(super) daemon_us: u64,
    /// Bytes that the reload read: all that the task needs.
    pub(super) reload_bytes: u64,
    pub(super) reload_us: u64,
}

/// What was measured and checked.
#[derive(Debug)]
pub(super) struct Drive {
    /// Loads the first task into an empty pool; not part of the comparison.
    pub(super) first: Step,
    pub(super) steps: Vec<Step>,
    pub(super) checks: usize,
    pub(super) tensors: usize,
    pub(super) direct: bool,
}

/// Everything that a drive needs.
pub(super) struct Driver<'a> {
    pub(super) control: Control,
    pub(super) attachment: Attachment,
    pub(super) bundle: &'a Bundle,
    pub(super) reloader: Reader<'a>,
    pub(super) expected: &'a Expected<'a>,
    pub(super) stop: &'a Stop,
}

/// The tasks in the order of the drive: in each round all of them, shuffled, and never the same
/// twice in a row. The first is there to begin with.
fn trace() -> Vec<usize> {
    let mut rng = random::seeded(&["trace"]);
    let mut trace = vec![0];
    for _ in 0..ROUNDS {
        let mut round: Vec<_> = (0..TASKS.len()).collect();
        rng.shuffle(&mut round);
        if round.first() == trace.last() {
            round.rotate_left(1);
        }
        trace.append(&mut round);
    }
    trace
}

impl Driver<'_> {
    /// Goes through the trace. After each switch, everything that a client sees is checked.
    pub(super) async fn run(mut self) -> Result<Drive, Failure> {
        let trace = trace();
        let bar = progress::steps("switch", SWITCHES);
        let (mut steps, mut checks, mut tensors) = (Vec::new(), 0, 0);
        let (start, rest) = trace.split_first().ok_or_else(|| Failure::failed("no trace"))?;
        let first = self.step(*start).await?;
        self.check(*start)?;
        for &task in rest {
            steps.push(self.step(task).await?);
            tensors = self.check(task)?;
            checks += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Drive { first, steps, checks, tensors, direct: self.reloader.direct() })
    }

    async fn step(&mut self, index: usize) -> Result<Step, Failure> {
        let task = TASKS[index];
        let request = proto::SwitchTaskRequest { task: task.into(), ..Default::default() };
        let begun = Instant::now();
        let answer = tokio::select! {
            answer = self.control.switch_task(request) => answer,
            stopped = self.stop.wait() => return Err(stopped),
        };
        let switch_us = begun.elapsed().as_micros() as u64;
        let answer = answer.map_err(|status| {
            Failure::failed(format!("the switch to {task} failed: {}", status.message()))
        })?;
        let answer = answer.into_inner();
        let (first, count) = self.piece(index)?;
        let reload = self.reloader.read(first, count, &self.stop.0)?;
        Ok(Step {
            task,
            index,
            read_bytes: answer.read.unwrap_or_default().bytes,
            switch_us,
            daemon_us: answer.timing.unwrap_or_default().total_us,
            reload_bytes: count as u64 * self.bundle.block().bytes(),
            reload_us: reload.as_micros() as u64,
        })
    }

    /// Where a task's whole checkpoint is taken to lie: one piece of the file with as many blocks.
    /// Other tasks have other pieces, so that together they cover the file.
    fn piece(&self, task: usize) -> Result<(u32, usize), Failure> {
        let index = self.bundle.find_task(TASKS[task]);
        let index: TaskIndex = index.ok_or_else(|| Failure::failed("a task is missing"))?;
        let count = self.bundle.task_blocks(index).count_ones(..);
        let last = self.bundle.len().saturating_sub(count);
        Ok(((last * task / (TASKS.len() - 1)) as u32, count))
    }

    fn check(&mut self, task: usize) -> Result<usize, Failure> {
        let lease = self.attachment.lease().map_err(Failure::failed)?;
        let served = &lease.bundle().task(lease.task()).name;
        if served != TASKS[task] {
            let wanted = TASKS[task];
            return Err(Failure::failed(format!("{served} is served instead of {wanted}")));
        }
        self.expected.check(&lease, task, self.stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_goes_to_each_task_equally_often_and_always_to_another() {
        let trace = trace();
        assert_eq!(trace.len(), SWITCHES + 1);
        assert!(trace.windows(2).all(|pair| pair[0] != pair[1]));
        for task in 0..TASKS.len() {
            assert_eq!(trace[1..].iter().filter(|&&other| other == task).count(), ROUNDS);
        }
    }
}
