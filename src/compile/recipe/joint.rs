//! What a recipe says of all tasks together: how they follow one another, how they are aligned,
//! what reading costs, and whether remaining weights are solved for anew.

use super::{
    Prune, Task,
    fault::{KeyFault, RecipeFault, wrong},
    raw::RawPrune,
};
use crate::compile::align::{BudgetScope, Goal};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The share of what its own best mask retains that every task keeps, where nothing else is said.
const QUALITY_FLOOR: f64 = 0.9985;
/// Where nothing else is said: what a request costs beyond its bytes, and what reading bytes in a
/// row costs, on NVMe drives of vehicle computers.
const REQUEST_US: f64 = 8.0;
const MB_PER_S: f64 = 1500.0;
/// Where nothing else is said: how strongly values are drawn to those of the weights.
const DAMPING: f64 = 0.01;
/// How far a row of probabilities may be from 1.
const SUM_TOLERANCE: f64 = 1e-6;
/// Where every matrix row and weight must lie.
const PROBABILITY: &str = "0 to 1";
const WEIGHT: &str = "finite and not negative";

/// How tasks follow one another.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::compile) enum Transitions {
    /// Nothing is known: every switch is equally likely.
    Uniform,
    /// By task: the probability of each to be the next.
    Chain(Vec<Vec<f64>>),
    /// By from and to: how often.
    Weights(Vec<Vec<f64>>),
    /// A file with a line of JSON for each task that became active.
    Trace(PathBuf),
}

/// What reading costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::compile) struct Device {
    /// Of a request, beyond its bytes, in microseconds.
    pub(in crate::compile) request_us: f64,
    /// Megabytes (10^6) a second when reading in a row.
    pub(in crate::compile) mb_per_s: f64,
}

impl Device {
    /// The bytes that could be read in the time that a request takes beyond its own.
    pub(in crate::compile) fn request_bytes(self) -> u64 {
        // A microsecond at a megabyte a second is a byte.
        (self.request_us * self.mb_per_s).round() as u64
    }
}

/// How remaining weights are solved for anew.
#[derive(Clone, Debug)]
pub(in crate::compile) struct Reconstruct {
    /// How strongly values are drawn to those of the weights, as a share of the mean moment.
    pub(in crate::compile) damping: f64,
    /// Which of the tensors that are cut.
    pub(in crate::compile) tensors: Prune,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTransitions {
    matrix: Option<Vec<Vec<f64>>>,
    pairs: Option<Vec<RawPair>>,
    trace: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPair {
    from: String,
    to: String,
    weight: f64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAlign {
    budget: Option<BudgetScope>,
    quality_floor: Option<f64>,
    lambda: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLayout {
    request_us: Option<f64>,
    mb_per_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawReconstruct {
    damping: Option<f64>,
    include: Option<Vec<String>>,
}

impl RawTransitions {
    pub(super) fn validate(
        self,
        tasks: &[Task],
        folder: &Path,
    ) -> Result<Transitions, RecipeFault> {
        let Self { matrix, pairs, trace } = self;
        match (matrix, pairs, trace) {
            (Some(rows), None, None) => chain(rows, tasks),
            (None, Some(pairs), None) => weights(pairs, tasks),
            (None, None, Some(path)) => Ok(Transitions::Trace(folder.join(path))),
            _ => Err(wrong("transitions", KeyFault::OnlyOne("`matrix`, `pairs` and `trace`"))),
        }
    }
}

fn chain(rows: Vec<Vec<f64>>, tasks: &[Task]) -> Result<Transitions, RecipeFault> {
    let size = |key: &str, found: usize| {
        let fault = KeyFault::MatrixSize { found, expected: tasks.len() };
        if found == tasks.len() { Ok(()) } else { Err(wrong(key, fault)) }
    };
    size("transitions.matrix", rows.len())?;
    for (number, (row, task)) in rows.iter().zip(tasks).enumerate() {
        let key = format!("transitions.matrix[{number}]");
        size(&key, row.len())?;
        if let Some(&found) = row.iter().find(|share| !(0.0..=1.0).contains(*share)) {
            return Err(wrong(&key, KeyFault::Range { found, expected: PROBABILITY }));
        }
        if row[number] != 0.0 {
            return Err(wrong(&key, KeyFault::SelfSwitch(task.name.clone())));
        }
        let sum: f64 = row.iter().sum();
        // A task alone has no other to go on to.
        if (sum - 1.0).abs() > SUM_TOLERANCE && tasks.len() > 1 {
            return Err(wrong(&key, KeyFault::RowSum { from: task.name.clone(), sum }));
        }
    }
    Ok(Transitions::Chain(rows))
}

fn weights(pairs: Vec<RawPair>, tasks: &[Task]) -> Result<Transitions, RecipeFault> {
    let mut weights = vec![vec![0.0; tasks.len()]; tasks.len()];
    for (number, RawPair { from, to, weight }) in pairs.into_iter().enumerate() {
        let key = |part: &str| format!("transitions.pairs[{number}]{part}");
        let find = |name: &String, part| {
            let position = tasks.iter().position(|task| task.name == *name);
            position.ok_or_else(|| wrong(&key(part), KeyFault::UnknownTask(name.clone())))
        };
        let (row, column) = (find(&from, ".from")?, find(&to, ".to")?);
        if !(0.0..=f64::from(f32::MAX)).contains(&weight) {
            let fault = KeyFault::Range { found: weight, expected: WEIGHT };
            return Err(wrong(&key(".weight"), fault));
        }
        if row == column {
            return Err(wrong(&key(""), KeyFault::SelfSwitch(from)));
        }
        weights[row][column] += weight;
    }
    if weights.iter().flatten().all(|&weight| weight == 0.0) {
        return Err(wrong("transitions.pairs", KeyFault::NoSwitch));
    }
    Ok(Transitions::Weights(weights))
}

impl RawAlign {
    pub(super) fn validate(self) -> Result<(BudgetScope, Goal), RecipeFault> {
        let Self { budget, quality_floor, lambda } = self;
        let goal = match (quality_floor, lambda) {
            (Some(_), Some(_)) => {
                return Err(wrong("align", KeyFault::OnlyOne("`quality_floor` and `lambda`")));
            }
            (None, Some(lambda)) => {
                Goal::Lambda(within("align.lambda", lambda, 0.0, 1e6, "0 to 1000000")?)
            }
            (floor, None) => {
                let floor = floor.unwrap_or(QUALITY_FLOOR);
                Goal::QualityFloor(within("align.quality_floor", floor, 0.0, 1.0, "0 to 1")?)
            }
        };
        Ok((budget.unwrap_or(BudgetScope::Tensor), goal))
    }
}

impl RawLayout {
    pub(super) fn validate(self) -> Result<Device, RecipeFault> {
        let Self { request_us, mb_per_s } = self;
        let request = request_us.unwrap_or(REQUEST_US);
        let rate = mb_per_s.unwrap_or(MB_PER_S);
        Ok(Device {
            request_us: within("layout.request_us", request, 0.0, 1e6, "0 to 1000000")?,
            mb_per_s: within("layout.mb_per_s", rate, 1.0, 1e6, "1 to 1000000")?,
        })
    }
}

impl RawReconstruct {
    pub(super) fn validate(self) -> Result<Reconstruct, RecipeFault> {
        let Self { damping, include } = self;
        let damping = damping.unwrap_or(DAMPING);
        let damping = within("reconstruct.damping", damping, 1e-9, 1e3, "0.000000001 to 1000")?;
        let include = include.unwrap_or_else(|| vec!["*".to_owned()]);
        let tensors = RawPrune { include, exclude: Vec::new() };
        Ok(Reconstruct { damping, tensors: tensors.validate("reconstruct")? })
    }
}

fn within(
    key: &str,
    found: f64,
    least: f64,
    most: f64,
    expected: &'static str,
) -> Result<f64, RecipeFault> {
    if (least..=most).contains(&found) {
        return Ok(found);
    }
    Err(wrong(key, KeyFault::Range { found, expected }))
}

/// With reconstruction every task that takes the weights' values needs moments; without, none may
/// have any.
pub(super) fn check_moments(
    reconstruct: Option<&Reconstruct>,
    tasks: &[Task],
) -> Result<(), RecipeFault> {
    for (position, task) in tasks.iter().enumerate() {
        let fault = match (reconstruct, &task.moments) {
            (Some(_), None) if task.takes_weights() => KeyFault::NeededWith("`reconstruct`"),
            (None, Some(_)) => KeyFault::Without("`reconstruct`"),
            _ => continue,
        };
        return Err(wrong(&format!("tasks[{position}].moments"), fault));
    }
    Ok(())
}
