//! Which blocks each task keeps: all tasks' scores and budgets in, all tasks' masks out.
//!
//! Knows neither files nor bytes.

use super::{error::CompileError, progress::Run, taskset::TaskSet};
use crate::units::TaskIndex;

/// What is to be decided.
#[derive(Debug)]
pub(super) struct Problem {
    /// By task.
    pub(super) demands: Vec<Demand>,
    pub(super) tensors: Vec<Scores>,
}

/// What a task asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Demand {
    /// This share of each tensor's blocks, above 0 and at most 1.
    Share(f64),
    /// Exactly the blocks that are given.
    Given,
}

/// How much each block of a tensor matters to each task.
#[derive(Debug)]
pub(super) struct Scores {
    places: usize,
    /// Task after task, one score for each place, finite and not negative. Only these grow with
    /// the number of tasks: 8 bytes a block and task.
    scores: Vec<f64>,
    /// By place: the tasks of [`Demand::Given`] that keep it.
    given: Vec<TaskSet>,
}

/// Who keeps what.
#[derive(Debug)]
pub(super) struct Masks {
    /// How the masks were chosen, with a version that changes when the outcome may.
    pub(super) algorithm: &'static str,
    /// By tensor and place: the tasks that keep the block.
    pub(super) tensors: Vec<Vec<TaskSet>>,
    /// By task.
    pub(super) retention: Vec<Retention>,
}

/// Shares of a task's importance: `retained <= best <= 1`. A task to which nothing matters
/// retains all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Retention {
    /// In the blocks that it keeps.
    pub(super) retained: f64,
    /// In as many blocks of each tensor, chosen for this task alone.
    pub(super) best: f64,
}

impl Scores {
    pub(super) fn new(tasks: usize, places: usize) -> Self {
        Self { places, scores: vec![0.0; tasks * places], given: vec![TaskSet::EMPTY; places] }
    }

    /// A task's scores, by place.
    pub(super) fn of(&self, task: TaskIndex) -> &[f64] {
        &self.scores[task.index() * self.places..][..self.places]
    }

    pub(super) fn of_mut(&mut self, task: TaskIndex) -> &mut [f64] {
        &mut self.scores[task.index() * self.places..][..self.places]
    }

    /// Lets a task keep a place.
    pub(super) fn give(&mut self, place: usize, task: TaskIndex) {
        self.given[place].insert(task);
    }

    fn given_to(&self, task: TaskIndex) -> Vec<usize> {
        (0..self.places).filter(|&place| self.given[place].contains(task)).collect()
    }
}

/// Chooses all tasks' masks together. For now that is each task's own best.
pub(super) fn align(problem: &Problem, run: Run<'_>) -> Result<Masks, CompileError> {
    independent(problem, run)
}

/// Chooses for each task the mask that is best for it alone.
pub(super) fn independent(problem: &Problem, run: Run<'_>) -> Result<Masks, CompileError> {
    let tensors = problem.tensors.iter().map(|scores| vec![TaskSet::EMPTY; scores.places]);
    let mut tensors: Vec<_> = tensors.collect();
    let mut retention = Vec::with_capacity(problem.demands.len());
    for (task, &demand) in (0..).map(TaskIndex).zip(&problem.demands) {
        let mut sums = Sums::default();
        for (scores, mask) in problem.tensors.iter().zip(&mut tensors) {
            run.check()?;
            let (kept, best) = match demand {
                Demand::Share(share) => {
                    let best = best_places(scores.of(task), budget(share, scores.places));
                    (best.clone(), best)
                }
                Demand::Given => {
                    let given = scores.given_to(task);
                    let best = best_places(scores.of(task), given.len());
                    (given, best)
                }
            };
            kept.iter().for_each(|&place| mask[place].insert(task));
            sums.add(scores.of(task), &kept, &best);
        }
        retention.push(sums.retention());
    }
    Ok(Masks { algorithm: "own-best/1", tensors, retention })
}

/// The number of places that a share stands for: at least one.
fn budget(share: f64, places: usize) -> usize {
    let kept = (share * places as f64).round() as usize;
    kept.clamp(places.min(1), places)
}

/// The `count` places of the highest scores, in order; of equal scores the earlier place.
fn best_places(scores: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if count < places.len() {
        places.select_nth_unstable_by(count, |&a, &b| {
            scores[b].total_cmp(&scores[a]).then(a.cmp(&b))
        });
        places.truncate(count);
        places.sort_unstable();
    }
    places
}

/// One task's importance, summed up over tensors in order of place. As sums of non-negative
/// numbers in one order, the parts cannot exceed the whole, rounding included.
#[derive(Debug, Default)]
struct Sums {
    kept: f64,
    best: f64,
    total: f64,
}

impl Sums {
    fn add(&mut self, scores: &[f64], kept: &[usize], best: &[usize]) {
        self.kept = kept.iter().fold(self.kept, |sum, &place| sum + scores[place]);
        self.best = best.iter().fold(self.best, |sum, &place| sum + scores[place]);
        self.total = scores.iter().fold(self.total, |sum, score| sum + score);
    }

    fn retention(&self) -> Retention {
        if self.total == 0.0 {
            return Retention { retained: 1.0, best: 1.0 };
        }
        let best = self.best / self.total;
        // Sums over different places may round to the wrong order when they are equal.
        Retention { retained: (self.kept / self.total).min(best), best }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(demands: &[Demand], tensors: &[&[&[f64]]]) -> Problem {
        let tensor = |tasks: &&[&[f64]]| {
            let mut scores = Scores::new(tasks.len(), tasks[0].len());
            for (task, values) in (0..).map(TaskIndex).zip(tasks.iter()) {
                scores.of_mut(task).copy_from_slice(values);
            }
            scores
        };
        Problem { demands: demands.to_vec(), tensors: tensors.iter().map(tensor).collect() }
    }

    fn kept(masks: &Masks, tensor: usize, task: u32) -> Vec<usize> {
        let mask = &masks.tensors[tensor];
        (0..mask.len()).filter(|&place| mask[place].contains(TaskIndex(task))).collect()
    }

    #[test]
    fn each_task_keeps_its_best_share_of_every_tensor_and_ties_go_to_the_earlier_place() {
        let problem = problem(
            &[Demand::Share(0.5), Demand::Share(0.01)],
            &[
                &[&[1.0, 3.0, 1.0, 3.0, 1.0], &[0.0, 0.0, 0.0, 0.0, 0.0]],
                &[&[2.0, 2.0], &[1.0, 4.0]],
            ],
        );
        let masks = independent(&problem, Run(&())).unwrap();
        // Half of five rounds up to three.
        assert_eq!(kept(&masks, 0, 0), [0, 1, 3]);
        assert_eq!(kept(&masks, 1, 0), [0]);
        assert_eq!((kept(&masks, 0, 1), kept(&masks, 1, 1)), (vec![0], vec![1]));
        assert_eq!(masks.retention[0], Retention { retained: 9.0 / 13.0, best: 9.0 / 13.0 });
        assert_eq!(masks.retention[1], Retention { retained: 0.8, best: 0.8 });
    }

    #[test]
    fn given_masks_are_kept_and_measured_against_the_best_of_their_size() {
        let mut problem = problem(&[Demand::Given], &[&[&[1.0, 5.0, 2.0, 0.0]], &[&[2.0, 0.0]]]);
        problem.tensors[0].give(0, TaskIndex(0));
        problem.tensors[0].give(3, TaskIndex(0));
        let masks = independent(&problem, Run(&())).unwrap();
        assert_eq!((kept(&masks, 0, 0), kept(&masks, 1, 0)), (vec![0, 3], vec![]));
        assert_eq!(masks.retention[0], Retention { retained: 0.1, best: 0.7 });
    }

    #[test]
    fn where_nothing_matters_all_is_retained() {
        let masks = independent(&problem(&[Demand::Share(0.5)], &[&[&[0.0; 4]]]), Run(&()));
        assert_eq!(masks.unwrap().retention, [Retention { retained: 1.0, best: 1.0 }]);
    }

    proptest! {
        #[test]
        fn the_best_places_are_those_of_a_full_sort(
            scores in prop::collection::vec((0u8..20).prop_map(f64::from), 1..200),
            share in 0.001f64..=1.0,
        ) {
            let count = budget(share, scores.len());
            let exact = share * scores.len() as f64;
            prop_assert!((count as f64 - exact).abs() <= 0.5 || (count == 1 && exact < 0.5));
            let mut sorted: Vec<usize> = (0..scores.len()).collect();
            sorted.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap());
            let mut expected = sorted[..count].to_vec();
            expected.sort_unstable();
            prop_assert_eq!(best_places(&scores, count), expected);
        }

        #[test]
        fn shares_of_importance_are_in_order(
            scores in prop::collection::vec(0.0f64..1e30, 1..100),
            given in prop::collection::vec(any::<bool>(), 100),
        ) {
            let mut problem = problem(&[Demand::Given], &[&[&scores]]);
            for place in (0..scores.len()).filter(|&place| given[place]) {
                problem.tensors[0].give(place, TaskIndex(0));
            }
            let Retention { retained, best } = independent(&problem, Run(&())).unwrap().retention[0];
            prop_assert!(0.0 <= retained && retained <= best && best <= 1.0);
        }
    }
}
