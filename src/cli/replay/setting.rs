//! What a trace is replayed on in virtual time: pool, device and policies, as asked for or as they
//! suit the trace.

use super::{device::Speed, measure, policy::Policy, positive};
use crate::{
    bundle::Bundle,
    cli::{failure::Failure, interrupt::Interrupt, output},
    trace::Step,
};
use bytesize::ByteSize;
use clap::{Args, ValueEnum as _};
use serde::Serialize;
use std::{collections::BTreeSet, path::Path, time::Duration};

/// How a trace is replayed in virtual time.
#[derive(Debug, Args)]
pub(super) struct VirtualArgs {
    /// What is foreseen, and how; all of them if nothing is said. May be repeated.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["generate", "control"])]
    policy: Vec<Policy>,
    /// Room for blocks. Default: 1.5 times the largest task, or more where two tasks of the trace
    /// need it.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["generate", "control"])]
    pool_bytes: Option<ByteSize>,
    /// Megabytes that the device reads in a second.
    #[arg(
        long,
        value_name = "MB",
        default_value_t = 1500.0,
        value_parser = positive,
        conflicts_with_all = ["generate", "control", "measure"]
    )]
    mb_per_s: f64,
    /// Microseconds until the first of several reads begins to come.
    #[arg(
        long,
        value_name = "US",
        default_value_t = 80,
        conflicts_with_all = ["generate", "control", "measure"]
    )]
    latency_us: u32,
    /// Measure both on the device that holds the bundle.
    #[arg(long, conflicts_with_all = ["generate", "control"])]
    measure: bool,
}

/// What a trace was replayed on in virtual time.
#[derive(Debug, Serialize)]
pub(super) struct Virtual {
    bundle: String,
    model: String,
    pool_bytes: u64,
    largest_task_bytes: u64,
    mb_per_s: f64,
    latency_us: f64,
}

/// What a policy is tried on.
pub(super) struct Setting<'a> {
    pub(super) bundle: &'a Path,
    pub(super) pool_bytes: u64,
    pub(super) speed: Speed,
    pub(super) steps: &'a [Step],
}

impl VirtualArgs {
    pub(super) fn policies(&self) -> Vec<Policy> {
        let asked = |policy: &Policy| self.policy.is_empty() || self.policy.contains(policy);
        Policy::value_variants().iter().copied().filter(asked).collect()
    }

    /// Room for blocks, as asked for or as the trace needs it.
    pub(super) fn pool_bytes(&self, bundle: &Bundle, steps: &[Step]) -> u64 {
        self.pool_bytes.map_or_else(|| default_pool(bundle, steps), |size| size.as_u64())
    }

    pub(super) fn speed(
        &self,
        bundle: &Bundle,
        path: &Path,
        interrupt: &Interrupt,
    ) -> Result<Speed, Failure> {
        if self.measure {
            return measure::speed(bundle, path, interrupt);
        }
        let latency = Duration::from_micros(self.latency_us.into());
        Ok(Speed { bytes_per_s: self.mb_per_s * 1e6, latency })
    }
}

impl Virtual {
    pub(super) fn of(setting: &Setting<'_>, bundle: &Bundle) -> Self {
        Self {
            bundle: setting.bundle.display().to_string(),
            model: bundle.model().to_owned(),
            pool_bytes: setting.pool_bytes,
            largest_task_bytes: largest_task(bundle) * bundle.block().bytes(),
            mb_per_s: setting.speed.bytes_per_s / 1e6,
            latency_us: setting.speed.latency.as_nanos() as f64 / 1e3,
        }
    }

    pub(super) fn render(&self) -> String {
        format!(
            "model {}, pool {}, largest task {}, device {:.0} MB/s and {:.0} µs\n",
            self.model,
            output::bytes(self.pool_bytes),
            output::bytes(self.largest_task_bytes),
            self.mb_per_s,
            self.latency_us,
        )
    }
}

/// Blocks of the largest task.
pub(super) fn largest_task(bundle: &Bundle) -> u64 {
    bundle.task_indices().map(|task| bundle.task(task).blocks).max().unwrap_or_default()
}

/// Room for the largest task and half as much again, and for any two tasks of the trace: while a
/// switch loads, the task before it stays.
fn default_pool(bundle: &Bundle, steps: &[Step]) -> u64 {
    let names: BTreeSet<_> = steps.iter().map(|step| step.task.as_str()).collect();
    let tasks: Vec<_> = names.into_iter().filter_map(|name| bundle.find_task(name)).collect();
    let pairs = tasks.iter().flat_map(|one| tasks.iter().map(move |other| (*one, *other)));
    let both = pairs
        .map(|(one, other)| bundle.task_blocks(one).union_count(bundle.task_blocks(other)) as u64);
    let blocks = both.max().unwrap_or_default().max((largest_task(bundle) * 3).div_ceil(2));
    blocks * bundle.block().bytes()
}
