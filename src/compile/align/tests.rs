//! What masks must be: within budgets, no worse than the bound says, the same every time.

use super::*;
use crate::compile::taskset::TaskSet;
use proptest::prelude::*;

/// Scores by tensor, place and task.
fn problem(demands: &[Demand], tensors: &[Vec<Vec<f64>>], goal: Goal) -> Problem {
    let mut scores = Scores::new(demands.len()).unwrap();
    for places in tensors {
        scores.add_tensor(&places.concat()).unwrap();
    }
    Problem {
        demands: demands.to_vec(),
        scores,
        switches: Switches::uniform(demands.len()),
        budget: BudgetScope::Tensor,
        goal,
    }
}

fn set(tasks: &[u32]) -> TaskSet {
    tasks.iter().map(|&task| TaskIndex(task)).collect()
}

fn kept(masks: &Masks, task: u32) -> Vec<usize> {
    let keeps = |place: &usize| masks.sets[*place].contains(TaskIndex(task));
    (0..masks.sets.len()).filter(keeps).collect()
}

/// A tensor of random scores that tasks partly agree on.
fn random(rng: &mut fastrand::Rng, places: usize, tasks: usize) -> Vec<Vec<f64>> {
    let place = |_| {
        let common = rng.f64();
        (0..tasks).map(|_| common + 0.3 * rng.f64()).collect()
    };
    (0..places).map(place).collect()
}

/// Rows of one task are columns of a place.
fn transposed(tasks: &[&[f64]]) -> Vec<Vec<f64>> {
    (0..tasks[0].len()).map(|place| tasks.iter().map(|scores| scores[place]).collect()).collect()
}

#[test]
fn each_task_keeps_its_best_share_of_every_tensor_and_ties_go_to_the_earlier_place() {
    let problem = problem(
        &[Demand::Share(0.5), Demand::Share(0.01)],
        &[
            transposed(&[&[1.0, 3.0, 1.0, 3.0, 1.0], &[0.0, 0.0, 0.0, 0.0, 0.0]]),
            transposed(&[&[2.0, 2.0], &[1.0, 4.0]]),
        ],
        Goal::Lambda(0.0),
    );
    let masks = independent(&problem, Run(&())).unwrap();
    // Half of five rounds up to three.
    assert_eq!(kept(&masks, 0), [0, 1, 3, 5]);
    assert_eq!(kept(&masks, 1), [0, 6]);
    assert_eq!(masks.retention[0], Retention { retained: 9.0 / 13.0, best: 9.0 / 13.0 });
    assert_eq!(masks.retention[1], Retention { retained: 0.8, best: 0.8 });
}

#[test]
fn over_the_whole_model_a_share_goes_where_it_is_worth_most() {
    let mut problem = problem(
        &[Demand::Share(0.5)],
        &[transposed(&[&[9.0, 8.0, 7.0]]), transposed(&[&[1.0, 2.0, 3.0]])],
        Goal::Lambda(0.1),
    );
    problem.budget = BudgetScope::Model;
    for masks in [independent(&problem, Run(&())), align(&problem, Run(&()))] {
        assert_eq!(kept(&masks.unwrap(), 0), [0, 1, 2]);
    }
}

#[test]
fn given_masks_are_kept_and_measured_against_the_best_of_their_size() {
    let mut problem = problem(
        &[Demand::Given],
        &[transposed(&[&[1.0, 5.0, 2.0, 0.0]]), transposed(&[&[2.0, 0.0]])],
        Goal::QualityFloor(1.0),
    );
    problem.scores.require(0, TaskIndex(0));
    problem.scores.require(3, TaskIndex(0));
    for masks in [independent(&problem, Run(&())), align(&problem, Run(&()))] {
        let masks = masks.unwrap();
        assert_eq!(kept(&masks, 0), [0, 3]);
        assert_eq!(masks.retention[0], Retention { retained: 0.1, best: 0.7 });
    }
}

#[test]
fn where_nothing_matters_all_is_retained() {
    let scores = [transposed(&[&[0.0; 4], &[0.0; 4]])];
    let demands = [Demand::Share(0.5); 2];
    let problem = problem(&demands, &scores, Goal::QualityFloor(0.9));
    for masks in [independent(&problem, Run(&())), align(&problem, Run(&()))] {
        assert_eq!(masks.unwrap().retention, [Retention { retained: 1.0, best: 1.0 }; 2]);
    }
}

#[test]
fn a_task_to_which_nothing_matters_does_not_keep_the_others_from_sharing() {
    let mut rng = fastrand::Rng::with_seed(4);
    let mut places = random(&mut rng, 200, 4);
    places.iter_mut().for_each(|scores| scores[3] = 0.0);
    let problem = problem(&[Demand::Share(0.5); 4], &[places], Goal::Lambda(4.0));
    let masks = align(&problem, Run(&())).unwrap();
    let expected: f64 = masks.sets.iter().map(|&set| problem.switches.expected(set)).sum();
    assert!(expected < 3.0, "all can be nearly alike: {expected}");
    assert!((0..4).all(|task| kept(&masks, task).len() == 100));
}

#[test]
fn what_is_proved_holds_with_a_task_to_which_nothing_matters_and_with_the_least_importance() {
    for least in [0.0, 5e-324] {
        let mut rng = fastrand::Rng::with_seed(8);
        let mut places = random(&mut rng, 60, 3);
        places.iter_mut().for_each(|scores| scores[2] = least);
        let goal = Goal::QualityFloor(0.99);
        let problem = problem(&[Demand::Share(0.5); 3], &[places], goal);
        let masks = align(&problem, Run(&())).unwrap();
        let expected: f64 = masks.sets.iter().map(|&set| problem.switches.expected(set)).sum();
        let proved = masks.method.least_switch.unwrap_or_default();
        assert!(proved <= expected / 30.0 + 1e-9, "{proved} of {expected}");
        assert!(masks.method.gap.is_finite());
    }
}

#[test]
fn tied_scores_do_not_keep_tasks_from_sharing() {
    let mut rng = fastrand::Rng::with_seed(9);
    let shares = [0.3, 0.4, 0.5, 0.6].map(Demand::Share);
    for (demands, least, most) in [([Demand::Share(0.25); 4], 0, 1), (shares, 1, 3)] {
        let place = |_| (0..4).map(|_| f64::from(rng.u8(least..=most))).collect();
        let places: Vec<Vec<f64>> = (0..1024).map(place).collect();
        let loaded = |goal| {
            let problem = problem(&demands, std::slice::from_ref(&places), goal);
            let [masks, own] =
                [align(&problem, Run(&())), independent(&problem, Run(&()))].map(Result::unwrap);
            let expected = |masks: &Masks| {
                masks.sets.iter().map(|&set| problem.switches.expected(set)).sum::<f64>()
            };
            (expected(&masks), expected(&own))
        };
        for goal in [Goal::QualityFloor(1.0), Goal::QualityFloor(0.9), Goal::Lambda(64.0)] {
            let (joint, own) = loaded(goal);
            assert!(joint < 0.95 * own, "{goal:?}: {joint} of {own}");
        }
    }
}

#[test]
fn a_small_loss_is_taken_for_a_block_that_others_keep_and_a_great_one_is_not() {
    // Both must keep one of two; the second task likes the other place a little better, or much.
    for (liking, expected) in [(1.01, [0]), (9.0, [1])] {
        let scores = [transposed(&[&[9.0, 1.0], &[1.0, liking]])];
        let demands = [Demand::Share(0.5); 2];
        let problem = problem(&demands, &scores, Goal::Lambda(0.2));
        let masks = align(&problem, Run(&())).unwrap();
        assert_eq!((kept(&masks, 0), kept(&masks, 1)), (vec![0], expected.to_vec()), "{liking}");
    }
}

#[test]
fn what_is_required_is_kept_within_the_budget_and_others_may_share_it() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut problem =
        problem(&[Demand::Share(0.5); 3], &[random(&mut rng, 40, 3)], Goal::Lambda(0.5));
    let worst: Vec<_> = (0..20).map(|nth| nth * 2).collect();
    worst.iter().take(15).for_each(|&place| problem.scores.require(place, TaskIndex(1)));
    assert_eq!(problem.broken_budget(), None);
    let masks = align(&problem, Run(&())).unwrap();
    assert!(worst.iter().take(15).all(|place| kept(&masks, 1).contains(place)));
    assert!((0..3).all(|task| kept(&masks, task).len() == 20));
    problem.scores.require(1, TaskIndex(1));
    (0..10).for_each(|nth| problem.scores.require(21 + nth, TaskIndex(1)));
    let broken = BrokenBudget { task: TaskIndex(1), scope: 0, required: 26, budget: 20 };
    assert_eq!(
        problem.broken_budget().map(|b| (b.task, b.scope, b.budget)),
        Some((broken.task, 0, 20))
    );
}

#[test]
fn blocks_whose_values_differ_never_count_as_shared() {
    // The tasks agree on nothing but the first place, where their values differ: to keep it is
    // worth no more to the second task than to keep another.
    let scores = [transposed(&[&[5.0, 1.0, 1.0], &[4.0, 4.1, 1.0]])];
    let demands = [Demand::Share(0.4); 2];
    let mut shared = problem(&demands, &scores, Goal::Lambda(0.3));
    assert_eq!(kept(&align(&shared, Run(&())).unwrap(), 1), [0]);
    shared.scores.classify(0, vec![set(&[0]), set(&[1])]);
    assert_eq!(kept(&align(&shared, Run(&())).unwrap(), 1), [1]);
}

#[test]
fn blocks_of_zeros_cost_nothing_to_load() {
    let scores = [transposed(&[&[5.0, 0.0], &[0.0, 0.0]])];
    let mut problem = problem(&[Demand::Share(0.5); 2], &scores, Goal::Lambda(0.5));
    problem.scores.classify(1, Vec::new());
    let points = frontier(&problem, Run(&())).unwrap();
    assert!(points.iter().all(|point| point.switch_blocks <= 1.0), "{points:?}");
}

#[test]
fn every_task_keeps_the_floor_and_a_lower_floor_shares_more() {
    let mut rng = fastrand::Rng::with_seed(5);
    let tensors = [random(&mut rng, 300, 5), random(&mut rng, 77, 5)];
    let mut switched = Vec::new();
    for floor in [1.0, 0.999, 0.99, 0.9, 0.0] {
        let problem = problem(&[Demand::Share(0.4); 5], &tensors, Goal::QualityFloor(floor));
        let masks = align(&problem, Run(&())).unwrap();
        let own = independent(&problem, Run(&())).unwrap();
        let pairs = masks.retention.iter().zip(&own.retention);
        for (joint, own) in pairs {
            assert!(joint.retained >= floor * own.retained - 1e-12, "{floor}");
        }
        let expected: f64 = masks.sets.iter().map(|&set| problem.switches.expected(set)).sum();
        if let Some(least) = masks.method.least_switch {
            assert!(expected / (0.4 * 377.0) >= least - 1e-9, "{expected} {least}");
        }
        switched.push(expected);
    }
    assert!(switched.is_sorted_by(|a, b| a >= b), "{switched:?}");
    assert!(switched[0] > 0.0 && switched[4] == 0.0, "{switched:?}");
}

#[test]
fn the_frontier_ends_in_the_independent_masks() {
    let mut rng = fastrand::Rng::with_seed(6);
    let problem =
        problem(&[Demand::Share(0.5); 4], &[random(&mut rng, 200, 4)], Goal::QualityFloor(0.9));
    let points = frontier(&problem, Run(&())).unwrap();
    let own = independent(&problem, Run(&())).unwrap();
    let last = points.last().unwrap();
    assert_eq!((last.lambda, last.mean_quality, last.least_quality), (0.0, 1.0, 1.0));
    let expected: f64 = own.sets.iter().map(|&set| problem.switches.expected(set)).sum();
    assert!((last.switch_blocks - expected).abs() < 1e-9);
    assert!(points.is_sorted_by(|a, b| a.lambda > b.lambda));
    // What is gained by a larger λ is paid for: neither figure moves the wrong way beyond the gap.
    for pair in points.windows(2) {
        assert!(pair[0].switch_share <= pair[1].switch_share + 0.02, "{pair:?}");
        assert!(pair[0].mean_quality <= pair[1].mean_quality + 0.002, "{pair:?}");
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let mut rng = fastrand::Rng::with_seed(7);
    let tensors = [random(&mut rng, 3000, 6)];
    let problem = problem(&[Demand::Share(0.5); 6], &tensors, Goal::QualityFloor(0.99));
    let solve = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| independent(&problem, Run(&())).map(drop)).unwrap();
        pool.install(|| align(&problem, Run(&()))).unwrap()
    };
    let one = solve(1);
    assert_eq!(one, solve(2));
    assert_eq!(one, solve(5));
}

/// The best worth of any masks within the budgets, by trying all.
fn by_brute_force(problem: &Problem, lambda: f64) -> (f64, impl Fn(&Masks) -> f64) {
    let tasks = problem.demands.len();
    let places = problem.scores.places();
    let budgets = problem.budgets(&(0..places));
    let own = own::OwnBest::find(problem, Run(&())).unwrap();
    let mut records = scores::Records::default();
    problem.scores.read(0..places, &mut records).unwrap();
    let worth: Vec<Vec<f64>> = records
        .iter()
        .map(|scores| {
            let pairs = scores.iter().zip(&own.totals);
            pairs.map(|(score, totals)| score / totals.own / tasks as f64).collect()
        })
        .collect();
    let mean_blocks = budgets.iter().sum::<usize>() as f64 / tasks as f64;
    let switches = problem.switches.clone();
    let classes: Vec<_> = (0..places).map(|p| problem.scores.classes(p).to_vec()).collect();
    let value = move |sets: &[TaskSet]| {
        let mut value = 0.0;
        for (place, set) in sets.iter().enumerate() {
            value += set.iter().map(|task| worth[place][task.index()]).sum::<f64>();
            let loaded =
                classes[place].iter().map(|class| switches.expected(set.intersection(*class)));
            value -= lambda * loaded.sum::<f64>() / mean_blocks;
        }
        value
    };
    let masks: Vec<Vec<u32>> = budgets
        .iter()
        .map(|&budget| (0..1u32 << places).filter(|m| m.count_ones() as usize == budget).collect())
        .collect();
    let mut best = f64::MIN;
    let mut choice = vec![0; tasks];
    loop {
        let sets: Vec<TaskSet> = (0..places)
            .map(|place| {
                let keeps = |task: &usize| masks[*task][choice[*task]] >> place & 1 == 1;
                (0..tasks).filter(keeps).map(|task| TaskIndex(task as u32)).collect()
            })
            .collect();
        best = best.max(value(&sets));
        let Some(task) = (0..tasks).find(|&task| choice[task] + 1 < masks[task].len()) else {
            break;
        };
        choice[task] += 1;
        choice[..task].fill(0);
    }
    (best, move |masks: &Masks| value(&masks.sets))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn small_instances_are_within_the_reported_gap_of_the_optimum(
        seed in any::<u64>(),
        tasks in 1usize..=4,
        lambda in prop_oneof![Just(0.0), 0.001f64..2.0],
        chain in any::<bool>(),
        tuned in any::<bool>(),
        wide in any::<bool>(),
        tied in any::<bool>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        // All choices of up to 12 places, as many as can be tried: with few places any shares,
        // with many such as keep one block or all but one, of some tasks two.
        let places = if wide { 12 } else { [12, 12, 7, 5][tasks - 1] };
        let budget = |rng: &mut fastrand::Rng| match (wide, tasks) {
            (true, 4) => [1, 11][rng.usize(..2)],
            (true, 3) => [1, 2, 11][rng.usize(..3)],
            _ => rng.usize(1..=places),
        };
        let shares = (0..tasks).map(|_| budget(&mut rng) as f64 / places as f64);
        let demands: Vec<_> = shares.map(Demand::Share).collect();
        let mut tensor = random(&mut rng, places, tasks);
        if tied {
            tensor.iter_mut().flatten().for_each(|score| *score = (*score * 4.0).round());
        }
        let mut problem = problem(&demands, &[tensor], Goal::Lambda(lambda));
        if chain {
            let row = |_| (0..tasks).map(|_| rng.f64()).collect();
            problem.switches = Switches::of_weights((0..tasks).map(row).collect());
        }
        if tuned && tasks > 1 {
            let others: TaskSet = (1..tasks).map(|task| TaskIndex(task as u32)).collect();
            problem.scores.classify(0, vec![set(&[0]), others]);
        }
        let masks = align(&problem, Run(&())).unwrap();
        for (task, &budget) in problem.budgets(&(0..places)).iter().enumerate() {
            prop_assert_eq!(kept(&masks, task as u32).len(), budget);
        }
        let (optimum, value) = by_brute_force(&problem, lambda);
        let value = value(&masks);
        prop_assert!(value <= optimum + 1e-9);
        prop_assert!(value + masks.method.gap >= optimum - 1e-9, "{value} {optimum} {:?}", masks.method);
    }

    #[test]
    fn budgets_are_exact_wherever_they_count(
        seed in any::<u64>(),
        tasks in 1usize..9,
        floor in 0.5f64..1.0,
        whole in any::<bool>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let share = |rng: &mut fastrand::Rng| Demand::Share(rng.f64().clamp(0.05, 1.0));
        let demands: Vec<_> = (0..tasks).map(|_| share(&mut rng)).collect();
        let tensors = [random(&mut rng, 31, tasks), random(&mut rng, 64, tasks)];
        let mut problem = problem(&demands, &tensors, Goal::QualityFloor(floor));
        problem.budget = if whole { BudgetScope::Model } else { BudgetScope::Tensor };
        let masks = align(&problem, Run(&())).unwrap();
        for places in problem.scopes() {
            for (task, budget) in problem.budgets(&places).into_iter().enumerate() {
                let here = kept(&masks, task as u32).into_iter().filter(|p| places.contains(p));
                prop_assert_eq!(here.count(), budget);
            }
        }
    }

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
        let places = (0..scores.len()).collect();
        prop_assert_eq!(own::best_places(&scores, places, count), expected);
    }

    #[test]
    fn shares_of_importance_are_in_order(
        scores in prop::collection::vec(0.0f64..1e30, 1..100),
        given in prop::collection::vec(any::<bool>(), 100),
    ) {
        let mut problem =
            problem(&[Demand::Given], &[transposed(&[&scores])], Goal::QualityFloor(0.5));
        for place in (0..scores.len()).filter(|&place| given[place]) {
            problem.scores.require(place, TaskIndex(0));
        }
        let Retention { retained, best } = independent(&problem, Run(&())).unwrap().retention[0];
        prop_assert!(0.0 <= retained && retained <= best && best <= 1.0);
    }
}
