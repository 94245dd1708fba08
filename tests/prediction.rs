//! How well the transition model ranks what comes next, against what could be ranked at best, for
//! sources of known memory. `cargo test --test prediction -- --nocapture` prints the figures.

#![allow(clippy::unwrap_used, reason = "what a test does not expect must stop it")]
#![allow(clippy::print_stdout, reason = "the figures are for whoever asks for them")]

use fastrand::Rng;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use synchromesh::{
    predict::{Predictor, Prior},
    units::TaskIndex,
};

/// How likely the followers of a history are, the favourite first.
const CHANCES: [f64; 3] = [0.7, 0.2, 0.1];
const SEEDS: u64 = 10;
const HORIZON: Duration = Duration::from_secs(1);
/// Switches to learn from, and then to be judged by.
const LEARNT: usize = 500;
const JUDGED: usize = 1000;

/// Draws the next task by the last few. Every history has followers of its own, drawn once.
struct Source {
    memory: usize,
    tasks: usize,
    rng: Rng,
    history: VecDeque<usize>,
    followers: HashMap<Vec<usize>, Vec<usize>>,
}

impl Source {
    fn new(memory: usize, tasks: usize, seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        let history = (0..memory).map(|at| at % tasks).collect();
        Self { memory, tasks, rng, history, followers: HashMap::new() }
    }

    fn followers(&mut self) -> Vec<usize> {
        let key: Vec<_> = self.history.iter().copied().collect();
        let (rng, tasks) = (&mut self.rng, self.tasks);
        let draw = || {
            let mut others: Vec<_> = (0..tasks).filter(|&task| task != key[0]).collect();
            rng.shuffle(&mut others);
            others
        };
        self.followers.entry(key.clone()).or_insert_with(draw).clone()
    }

    /// The likeliest next task, and the one that comes.
    fn next(&mut self) -> (usize, usize) {
        let followers = self.followers();
        let mut chance = self.rng.f64();
        let mut drawn = followers[CHANCES.len() - 1];
        for (&task, share) in followers.iter().zip(CHANCES) {
            if chance < share {
                drawn = task;
                break;
            }
            chance -= share;
        }
        self.history.push_front(drawn);
        self.history.truncate(self.memory);
        (followers[0], drawn)
    }
}

/// A yardstick that counts what followed each history of one length, and never forgets. With a
/// length of one it is a Markov chain of first order; with the source's own it was told what ours
/// has to find out.
struct Fixed {
    order: usize,
    history: VecDeque<usize>,
    counts: HashMap<Vec<usize>, HashMap<usize, u32>>,
}

impl Fixed {
    fn new(order: usize) -> Self {
        Self { order, history: VecDeque::new(), counts: HashMap::new() }
    }

    /// Ranks a task first, then learns which one came.
    fn ranks_first_and_learns(&mut self, came: usize) -> bool {
        let history = self.history.iter().copied().collect();
        let counts = self.counts.entry(history).or_default();
        let first = counts.iter().max_by_key(|(task, count)| (**count, **task));
        let first = first.map(|(task, _)| *task);
        *counts.entry(came).or_default() += 1;
        self.history.push_front(came);
        self.history.truncate(self.order);
        first == Some(came)
    }
}

/// How often the task that came had been ranked first.
#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    /// By who knows the source.
    best: usize,
    ours: usize,
    first_order: usize,
    /// By who was told the source's memory.
    told: usize,
}

impl Hits {
    fn of_best(self, hits: usize) -> f64 {
        hits as f64 / self.best as f64
    }

    fn ours(self) -> f64 {
        self.of_best(self.ours)
    }
}

struct Contest {
    ours: Predictor,
    first_order: Fixed,
    told: Fixed,
}

impl Contest {
    fn new(tasks: usize, memory: usize) -> Self {
        let prior = Arc::new(Prior::new(&vec![vec![0.0; tasks]; tasks]));
        let (ours, first_order, told) = (Predictor::new(prior), Fixed::new(1), Fixed::new(memory));
        Self { ours, first_order, told }
    }

    fn run(&mut self, source: &mut Source, switches: usize) -> Hits {
        let mut hits = Hits::default();
        for _ in 0..switches {
            let ranked = self.ours.forecast(Duration::ZERO, HORIZON).first().map(|next| next.task);
            let (best, came) = source.next();
            hits.best += usize::from(best == came);
            hits.ours += usize::from(ranked == Some(TaskIndex(came as u32)));
            hits.first_order += usize::from(self.first_order.ranks_first_and_learns(came));
            hits.told += usize::from(self.told.ranks_first_and_learns(came));
            self.ours.observe(TaskIndex(came as u32), Some(Duration::from_secs(1)));
        }
        hits
    }
}

fn sum(hits: impl Iterator<Item = Hits>) -> Hits {
    hits.fold(Hits::default(), |a, b| Hits {
        best: a.best + b.best,
        ours: a.ours + b.ours,
        first_order: a.first_order + b.first_order,
        told: a.told + b.told,
    })
}

fn show(what: &str, hits: Hits) {
    let [ours, first_order, told] =
        [hits.ours, hits.first_order, hits.told].map(|n| 100.0 * hits.of_best(n));
    println!(
        "{what}: {ours:.1} % of the best ranking; first order {first_order:.1} %, told the memory \
         {told:.1} %"
    );
}

/// All sources of so many tasks and this memory, after so many switches.
fn judged(tasks: usize, memory: usize, learnt: usize) -> Hits {
    let hits = sum((0..SEEDS).map(|seed| {
        let mut source = Source::new(memory, tasks, seed);
        let mut contest = Contest::new(tasks, memory);
        contest.run(&mut source, learnt);
        contest.run(&mut source, JUDGED)
    }));
    show(&format!("{tasks} tasks, memory {memory}, after {learnt} switches"), hits);
    hits
}

#[test]
fn a_first_order_source_is_ranked_nearly_as_well_as_can_be() {
    for tasks in [4, 6, 8] {
        assert!(judged(tasks, 1, LEARNT).ours() >= 0.97);
    }
}

#[test]
fn longer_memories_are_learnt_where_a_first_order_model_stays_behind() {
    for (tasks, memory, learnt) in [(4, 2, LEARNT), (4, 3, LEARNT), (6, 2, LEARNT), (6, 3, 2000)] {
        let hits = judged(tasks, memory, learnt);
        assert!(hits.ours() >= 0.95, "{hits:?}");
        assert!(hits.of_best(hits.first_order) <= 0.8, "{hits:?}");
    }
}

#[test]
fn what_is_not_learnt_in_time_could_hardly_be() {
    // More histories than switches to learn them from.
    for (tasks, memory) in [(6, 3), (8, 2), (8, 3)] {
        let hits = judged(tasks, memory, LEARNT);
        assert!(hits.ours as f64 >= 0.93 * hits.told as f64, "{hits:?}");
    }
}

#[test]
fn after_a_change_it_recovers_within_a_hundred_switches() {
    for memory in [1, 2] {
        let [mut changed, mut fresh] = [Hits::default(); 2];
        for seed in 0..SEEDS {
            let mut contest = Contest::new(6, memory);
            contest.run(&mut Source::new(memory, 6, seed), LEARNT);
            for (contest, hits) in
                [(&mut contest, &mut changed), (&mut Contest::new(6, memory), &mut fresh)]
            {
                let mut other = Source::new(memory, 6, seed + 1000);
                contest.run(&mut other, 100);
                *hits = sum([*hits, contest.run(&mut other, 100)].into_iter());
            }
        }
        show(&format!("memory {memory}, 100 to 200 switches after a change"), changed);
        show(&format!("memory {memory}, 100 to 200 switches after a start"), fresh);
        assert!(changed.ours as f64 >= 0.9 * fresh.ours as f64, "{changed:?}, {fresh:?}");
        assert!(memory > 1 || changed.ours() >= 0.95, "{changed:?}");
    }
}

/// What a predictor knows for sure, in a pattern that a first-order model cannot tell.
fn commuter() -> Predictor {
    let prior = Arc::new(Prior::new(&vec![vec![0.0; 3]; 3]));
    let mut predictor = Predictor::new(prior);
    for _ in 0..50 {
        // Home, road, work, road: after the road comes what did not come before.
        for (task, dwell) in [(0, 20), (1, 5), (2, 40), (1, 5)] {
            predictor.observe(TaskIndex(task), Some(Duration::from_secs(dwell)));
        }
    }
    predictor
}

#[test]
fn it_knows_what_comes_and_about_when() {
    let mut predictor = commuter();
    let next = predictor.forecast(Duration::ZERO, HORIZON)[0];
    assert_eq!(next.task, TaskIndex(0));
    assert!(next.probability > 0.9 && predictor.confidence() > 0.9, "{next:?}");
    // The road has lasted since home was left; dwell is the time in the task before.
    predictor.observe(TaskIndex(0), Some(Duration::from_secs(40)));
    let next = predictor.forecast(Duration::ZERO, HORIZON)[0];
    assert_eq!(next.task, TaskIndex(1));
    let about = |time: Duration, seconds: f64| (0.5..2.0).contains(&(time.as_secs_f64() / seconds));
    assert!(about(next.expected, 5.0), "{next:?}");
    assert!(next.near < 0.2, "not within a second: {next:?}");
    let soon = predictor.forecast(Duration::ZERO, Duration::from_secs(20))[0];
    assert!(soon.near > 0.8 && soon.near <= soon.probability, "{soon:?}");
    let later = predictor.forecast(Duration::from_secs(4), HORIZON)[0];
    assert!(later.expected < next.expected, "{later:?}");
}

#[test]
fn time_that_has_passed_tells_what_comes() {
    let prior = Arc::new(Prior::new(&vec![vec![0.0; 3]; 3]));
    let mut predictor = Predictor::new(prior);
    for _ in 0..50 {
        for (task, dwell_before) in [(0, 30), (1, 60), (0, 30), (2, 1)] {
            predictor.observe(TaskIndex(task), Some(Duration::from_secs(dwell_before)));
        }
    }
    // A short stay of task 0 is followed by 2, a long one by 1, so that either may come at first.
    predictor.interrupt();
    predictor.observe(TaskIndex(0), None);
    let first = |elapsed| predictor.forecast(Duration::from_secs(elapsed), HORIZON)[0].task;
    assert_eq!(first(10), TaskIndex(1), "by then the short stay would be over");
}

#[test]
fn before_anything_was_seen_the_bundle_says_what_follows() {
    let shares = vec![vec![0.0, 0.6, 0.2], vec![0.1, 0.0, 0.1], vec![0.0, 0.0, 0.0]];
    let mut predictor = Predictor::new(Arc::new(Prior::new(&shares)));
    predictor.observe(TaskIndex(0), None);
    let ranked = predictor.forecast(Duration::ZERO, HORIZON);
    let ranked: Vec<_> = ranked.iter().map(|next| (next.task.0, next.probability)).collect();
    assert_eq!(ranked[0].0, 1);
    assert!((ranked[0].1 - 0.75).abs() < 1e-9, "{ranked:?}");
    assert_eq!(ranked.len(), 2, "the active task is no candidate");
}

#[test]
fn what_was_kept_is_what_it_was_and_what_cannot_be_is_left_out() {
    let predictor = commuter();
    let saved = predictor.save();
    let text = serde_json::to_string(&saved).unwrap();
    let prior = Arc::new(Prior::new(&vec![vec![0.0; 3]; 3]));
    let read = serde_json::from_str(&text).unwrap();
    let mut back = Predictor::restore(prior.clone(), &read, |task| Some(TaskIndex(task)));
    let mut before = predictor.clone();
    before.interrupt();
    for task in [2, 1] {
        before.observe(TaskIndex(task), None);
        back.observe(TaskIndex(task), None);
    }
    let (before, back) =
        (before.forecast(Duration::ZERO, HORIZON), back.forecast(Duration::ZERO, HORIZON));
    for (before, back) in before.iter().zip(&back) {
        assert_eq!(before.task, back.task);
        assert!((before.probability - back.probability).abs() < 1e-3, "{before:?}, {back:?}");
    }

    let mut wrong = saved;
    wrong.weights[0] = f64::NAN;
    wrong.confidence = f64::INFINITY;
    wrong.contexts[0].counts.push((7, 1.0, 1.0));
    wrong.contexts[0].counts.push((1, f32::NAN, -1.0));
    wrong.contexts[1].after = vec![0; 1000];
    wrong.dwells[0].counts.push((usize::MAX, 1e30));
    let mut sane = Predictor::restore(prior, &wrong, |task| Some(TaskIndex(task)));
    sane.observe(TaskIndex(0), None);
    let forecast = sane.forecast(Duration::from_secs(1), HORIZON);
    let sum: f64 = forecast.iter().map(|next| next.probability).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{forecast:?}");
}
