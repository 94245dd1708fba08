//! What came of a replay: figures, as a table or as JSON.

use crate::cli::output::{Table, bytes, percent, time};
use serde::Serialize;
use std::time::Duration;

/// How a switch went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Switched {
    /// When it was asked for, from the start of the trace.
    pub(super) at: Duration,
    /// How long until it ended.
    pub(super) waited: Duration,
    pub(super) ending: Ending,
    pub(super) prefetched_bytes: u64,
    pub(super) read_bytes: u64,
}

impl Switched {
    /// One that left the active task as it was.
    pub(super) fn failed(at: Duration, waited: Duration, ending: Ending) -> Self {
        Self { at, waited, ending, prefetched_bytes: 0, read_bytes: 0 }
    }
}

/// How a switch ended. The later here, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    AlreadyActive,
    Resident,
    Partly,
    Loaded,
    /// The next one came before it was done.
    Superseded,
    /// There was no room for both tasks.
    Refused,
}

/// A trace that was replayed.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The policy, or that it was a daemon.
    pub(super) name: &'static str,
    pub(super) switched: Vec<Switched>,
    /// What switches read.
    pub(super) demand_bytes: u64,
    /// What was loaded ahead, where that is known.
    pub(super) ahead: Option<Ahead>,
}

/// What was loaded ahead, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Ahead {
    pub(super) loaded_bytes: u64,
    pub(super) used_bytes: u64,
    pub(super) wasted_bytes: u64,
    pub(super) late_bytes: u64,
}

/// All that is told.
#[derive(Debug, Serialize)]
pub(super) struct Report<S> {
    /// What it was replayed against.
    #[serde(flatten)]
    pub(super) setting: S,
    pub(super) results: Vec<Figures>,
}

/// The figures of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    policy: &'static str,
    /// Switches asked for.
    switches: usize,
    /// Of those to another task than the active one, the share that found all of it.
    hit_rate: f64,
    /// Of the bytes that published switches lacked without what was loaded ahead, the share that
    /// was.
    covered: f64,
    waited_us: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    demand_bytes: u64,
    #[serde(flatten)]
    ahead: Option<Ahead>,
    superseded: usize,
    refused: usize,
    /// Time waited over that of other policies; absent where those did not run or never waited.
    waited_of_none: Option<f64>,
    waited_of_lru: Option<f64>,
    waited_of_oracle: Option<f64>,
}

impl Figures {
    /// The figures of all runs of one trace.
    pub(super) fn of_all(runs: &[Run]) -> Vec<Self> {
        let mut all: Vec<_> = runs.iter().map(Self::of).collect();
        let waited: Vec<_> = all.iter().map(|run| (run.policy, run.waited_us)).collect();
        let of = |waited_us: f64, policy: &str| {
            let other = waited.iter().find(|(name, waited)| *name == policy && *waited > 0.0);
            other.map(|(_, other_us)| waited_us / other_us)
        };
        for run in &mut all {
            run.waited_of_none = of(run.waited_us, "none");
            run.waited_of_lru = of(run.waited_us, "lru");
            run.waited_of_oracle = of(run.waited_us, "oracle");
        }
        all
    }

    fn of(run: &Run) -> Self {
        let count = |ending| run.switched.iter().filter(|one| one.ending == ending).count();
        let real = run.switched.len() - count(Ending::AlreadyActive);
        let sum = |of: fn(&Switched) -> u64| run.switched.iter().map(of).sum::<u64>();
        let prefetched = sum(|one| one.prefetched_bytes);
        let times = Times::of(&run.switched);
        Self {
            policy: run.name,
            switches: run.switched.len(),
            hit_rate: share(count(Ending::Resident) as u64, real as u64),
            covered: share(prefetched, prefetched + sum(|one| one.read_bytes)),
            waited_us: run.switched.iter().map(|one| micros(one.waited)).sum(),
            p50_us: times.at(0.5),
            p99_us: times.at(0.99),
            max_us: times.at(1.0),
            demand_bytes: run.demand_bytes,
            ahead: run.ahead,
            superseded: count(Ending::Superseded),
            refused: count(Ending::Refused),
            waited_of_none: None,
            waited_of_lru: None,
            waited_of_oracle: None,
        }
    }

    fn row(&self) -> Vec<String> {
        let ratio = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.3}"));
        let ahead =
            |of: fn(&Ahead) -> u64| self.ahead.as_ref().map_or("-".into(), |a| bytes(of(a)));
        vec![
            self.policy.into(),
            percent(self.hit_rate),
            percent(self.covered),
            time(self.waited_us),
            ratio(self.waited_of_none),
            ratio(self.waited_of_lru),
            ratio(self.waited_of_oracle),
            time(self.p50_us),
            time(self.p99_us),
            time(self.max_us),
            bytes(self.demand_bytes),
            ahead(|ahead| ahead.loaded_bytes),
            ahead(|ahead| ahead.used_bytes),
            ahead(|ahead| ahead.wasted_bytes),
            ahead(|ahead| ahead.late_bytes),
            self.superseded.to_string(),
        ]
    }
}

/// The heading of the table, as [`Figures::row`] has its cells.
const HEADING: [&str; 16] = [
    "policy",
    "hits",
    "covered",
    "waited",
    "of none",
    "of lru",
    "of oracle",
    "p50",
    "p99",
    "max",
    "on demand",
    "ahead",
    "used",
    "wasted",
    "late",
    "superseded",
];

/// The table of all results, and what it does not show.
pub(super) fn table(results: &[Figures]) -> String {
    let mut table = Table::new(&HEADING);
    results.iter().for_each(|figures| table.row(figures.row()));
    let mut text = table.render();
    for figures in results.iter().filter(|figures| figures.refused > 0) {
        let Figures { policy, refused, .. } = figures;
        text += &format!("{policy}: no room for {refused} switches: enlarge the pool\n");
    }
    text
}

/// Times of switches that were published, in ascending order.
struct Times(Vec<f64>);

impl Times {
    fn of(switched: &[Switched]) -> Self {
        let published = switched.iter().filter(|one| one.ending < Ending::Superseded);
        let mut times: Vec<_> = published.map(|one| micros(one.waited)).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The time that a share of all does not exceed.
    fn at(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

/// Microseconds with their fractions.
pub(super) fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &'static str, switched: &[(Ending, u64, u64, u64)]) -> Run {
        let one = |&(ending, ms, prefetched_bytes, read_bytes): &(_, u64, _, _)| Switched {
            at: Duration::ZERO,
            waited: Duration::from_millis(ms),
            ending,
            prefetched_bytes,
            read_bytes,
        };
        Run { name, switched: switched.iter().map(one).collect(), demand_bytes: 7, ahead: None }
    }

    #[test]
    fn figures_are_those_of_the_switches() {
        let full = run(
            "full",
            &[
                (Ending::AlreadyActive, 0, 0, 0),
                (Ending::Resident, 0, 30, 0),
                (Ending::Partly, 2, 30, 10),
                (Ending::Loaded, 4, 0, 10),
                (Ending::Superseded, 6, 0, 0),
            ],
        );
        let none = run("none", &[(Ending::Loaded, 48, 0, 80)]);
        let [full, none] = &Figures::of_all(&[full, none])[..] else { panic!("two") };
        assert_eq!((full.switches, full.hit_rate, full.covered), (5, 0.25, 0.75));
        assert_eq!((full.waited_us, full.p50_us, full.max_us), (12e3, 0.0, 4e3));
        assert_eq!((full.superseded, full.waited_of_none), (1, Some(0.25)));
        assert_eq!((none.hit_rate, none.waited_of_oracle), (0.0, None));
    }
}
