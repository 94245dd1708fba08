//! Traces made up from stories: seeded, the same on every machine.
//!
//! What the stories are is said in `stories`, how they are gone through in `walk`.

use super::{
    stories::{CITY, COMMUTE, HIGHWAY, Place, VALET},
    walk::{Commute, Thrash, Uniform, Visit, Wander},
};
use crate::{cli::failure::Failure, trace::Step};
use clap::ValueEnum;
use fastrand::Rng;

/// How much dwell times vary: the deviation of their logarithm.
const SPREAD: f64 = 0.4;

/// A story to make a trace from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scenario {
    /// The same way to work and back each day, with small differences.
    Commute,
    /// About town: lights, crossings, narrow streets; mostly one goes on the way one came.
    City,
    /// Long stretches and what interrupts them.
    Highway,
    /// Slow manoeuvres that follow each other closely.
    Valet,
    /// Any task after any other.
    Random,
    /// Round and round over all tasks, now and then reversed, too fast to load much ahead.
    Adversarial,
}

impl Scenario {
    /// The roles of the story, in the order in which tasks are found for them.
    fn roles(self) -> Vec<&'static str> {
        let names = |places: &[Place]| places.iter().map(|place| place.role).collect();
        match self {
            Self::Commute => Commute::roles(COMMUTE),
            Self::City | Self::Random | Self::Adversarial => names(CITY),
            Self::Highway => names(HIGHWAY),
            Self::Valet => names(VALET),
        }
    }

    /// The story itself, without end. Only those that are no story look at the number of tasks.
    fn visits(self, tasks: usize, rng: Rng) -> Box<dyn Iterator<Item = Visit>> {
        match self {
            Self::Commute => Box::new(Commute::new(COMMUTE, rng)),
            Self::City => Box::new(Wander::new(CITY, rng)),
            Self::Highway => Box::new(Wander::new(HIGHWAY, rng)),
            Self::Valet => Box::new(Wander::new(VALET, rng)),
            Self::Random => Box::new(Uniform::new(tasks, rng)),
            Self::Adversarial => Box::new(Thrash::new(tasks, rng)),
        }
    }
}

/// A trace of so many switches, between these tasks or, if there are none, between the story's own
/// roles.
pub(super) fn generate(
    scenario: Scenario,
    tasks: Option<Vec<String>>,
    seed: u64,
    switches: usize,
) -> Result<Vec<Step>, Failure> {
    let own = || scenario.roles().into_iter().map(str::to_owned).collect();
    let tasks = tasks.unwrap_or_else(own);
    if tasks.len() < 2 {
        return Err(Failure::usage("a trace needs two tasks, but the bundle has fewer"));
    }
    let mut noise = Rng::with_seed(seed);
    let visits = scenario.visits(tasks.len(), noise.fork());
    let mut steps: Vec<Step> = Vec::with_capacity(switches);
    let mut at_ms = 0;
    for Visit { role, seconds } in visits {
        let task = &tasks[role % tasks.len()];
        if steps.last().is_none_or(|last| last.task != *task) {
            if steps.len() == switches {
                break;
            }
            steps.push(Step { at_ms, task: task.clone() });
        }
        at_ms += dwell_ms(seconds, &mut noise);
    }
    Ok(steps)
}

/// A dwell time around its middle: longer by a factor as often as shorter by the same.
fn dwell_ms(median_s: f64, noise: &mut Rng) -> u64 {
    // Twelve even shares less six are as good as normal.
    let normal = (0..12).map(|_| noise.f64()).sum::<f64>() - 6.0;
    let ms = median_s * 1e3 * (SPREAD * normal).exp();
    (ms.round() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_story_goes_on_and_knows_its_roles() {
        for scenario in Scenario::value_variants() {
            let roles = scenario.roles().len();
            let visits = scenario.visits(roles, Rng::with_seed(3)).take(5000);
            let mut seen = vec![0; roles];
            visits.for_each(|visit| seen[visit.role] += 1);
            assert!(seen.iter().all(|&count| count > 0), "{scenario:?}: {seen:?}");
        }
    }

    #[test]
    fn dwell_times_lie_around_their_middle() {
        let mut noise = Rng::with_seed(1);
        let mut all: Vec<_> = (0..1001).map(|_| dwell_ms(10.0, &mut noise)).collect();
        all.sort_unstable();
        assert!((9_000..11_000).contains(&all[500]), "{}", all[500]);
        assert!(all[25] < 6_000 && all[975] > 17_000);
    }
}
