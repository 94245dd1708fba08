//! The order of the blocks on disk, and what a switch then reads.
//!
//! Blocks that the same tasks keep form a group and lie together, in the order in which they were
//! found. The order of the groups is chosen so that the expected cost of a switch's reads is
//! small: it is at least as good as the Gray code's and often the best there is, but no proof of
//! that is sought. Which blocks a switch needs is settled before; only where they lie is chosen
//! here. Knows neither bytes nor devices: a read costs as [`ReadCost`] says.

mod gaps;
mod objective;
mod order;
mod search;

use super::{taskset::TaskSet, transitions::Switches};
use crate::{bundle::BlockShape, units::TaskIndex};

/// Where each block goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// By the order in which blocks were found: the position on disk.
    pub(super) position: Vec<u32>,
    /// In disk order; no two have equal sets.
    pub(super) groups: Vec<Group>,
}

/// Blocks that lie together and have equal sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The tasks that keep them.
    pub(super) set: TaskSet,
    /// How many they are.
    pub(super) blocks: u32,
}

/// What reading costs. Blocks that are not wanted are read through where that is not dearer than
/// another request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ReadCost {
    /// The cost of a request by the cost of reading one block, at least 0.
    pub(super) request_blocks: f64,
}

/// What a switch reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    pub(super) requests: u64,
    /// Blocks that are wanted.
    pub(super) blocks: u64,
    /// Blocks that are read: also those between wanted ones of one request.
    pub(super) read: u64,
}

impl ReadCost {
    /// The cost of a request, given as bytes, for blocks of a shape.
    pub(super) fn of(request_bytes: u64, block: BlockShape) -> Self {
        Self { request_blocks: request_bytes as f64 / block.bytes() as f64 }
    }
}

impl Group {
    /// Whether a switch reads these blocks.
    fn is_wanted(self, from: TaskIndex, to: TaskIndex) -> bool {
        self.set.contains(to) && !self.set.contains(from)
    }
}

/// Orders blocks, given their task sets in the order in which they were found (by tensor, then by
/// place).
pub(super) fn lay_out(sets: &[TaskSet], switches: &Switches, cost: ReadCost) -> Layout {
    let by_set = group(sets);
    let order = order::order(&by_set, switches, cost);
    let groups: Vec<_> = order.iter().map(|&at| by_set[at as usize]).collect();
    let mut next = starts(&by_set, &order);
    drop(order);
    let place = |&set| {
        let next = &mut next[by_set.partition_point(|group| group.set < set)];
        *next += 1;
        *next - 1
    };
    Layout { position: sets.iter().map(place).collect(), groups }
}

/// What a switch reads of blocks that lie in this order. Neighbours may have equal sets, so that
/// any order of blocks can be counted, for instance that in which they were found.
pub(super) fn reads(
    on_disk: impl IntoIterator<Item = Group>,
    from: TaskIndex,
    to: TaskIndex,
    cost: ReadCost,
) -> Reads {
    let mut reads = Reads::default();
    let mut gap = 0;
    for group in on_disk {
        let blocks = u64::from(group.blocks);
        if !group.is_wanted(from, to) || blocks == 0 {
            gap += blocks;
            continue;
        }
        // A gap of nothing is none, whatever a request costs.
        if reads.requests > 0 && (gap == 0 || gap as f64 <= cost.request_blocks) {
            reads.read += gap;
        } else {
            reads.requests += 1;
        }
        reads.blocks += blocks;
        reads.read += blocks;
        gap = 0;
    }
    reads
}

/// The groups, by set.
fn group(sets: &[TaskSet]) -> Vec<Group> {
    let mut sorted = sets.to_vec();
    sorted.sort_unstable();
    let equal = || sorted.chunk_by(|a, b| a == b);
    // Counted first, for there may be as many groups as blocks: no room is left over.
    let mut groups = Vec::with_capacity(equal().count());
    groups.extend(equal().map(|sets| Group { set: sets[0], blocks: sets.len() as u32 }));
    groups
}

/// By group: the position of its first block.
fn starts(groups: &[Group], order: &[u32]) -> Vec<u32> {
    let mut starts = vec![0; groups.len()];
    let mut start = 0;
    for &at in order {
        starts[at as usize] = start;
        start += groups[at as usize].blocks;
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prelude::*, test_runner::RngSeed};
    use std::collections::BTreeSet;

    fn set(bits: u32) -> TaskSet {
        let tasks = (0..32).filter(|task| bits >> task & 1 == 1);
        tasks.fold(TaskSet::EMPTY, |set, task| set.union(TaskSet::of(TaskIndex(task))))
    }

    fn runs(runs: &[(u32, u32)]) -> Vec<Group> {
        runs.iter().map(|&(bits, blocks)| Group { set: set(bits), blocks }).collect()
    }

    /// The expected cost of a switch's reads.
    fn expected(groups: &[Group], switches: &Switches, cost: ReadCost) -> f64 {
        let switches = switches.rows();
        let tasks = switches.len() as u32;
        let each = (0..tasks).flat_map(|from| (0..tasks).map(move |to| (from, to)));
        let of = |(from, to): (u32, u32)| {
            let reads = reads(groups.iter().copied(), TaskIndex(from), TaskIndex(to), cost);
            let reading = reads.requests as f64 * cost.request_blocks + reads.read as f64;
            switches[from as usize][to as usize] * reading
        };
        each.map(of).sum()
    }

    fn in_gray_code(sets: &[TaskSet]) -> Vec<Group> {
        let groups = group(sets);
        order::gray(&groups).into_iter().map(|at| groups[at as usize]).collect()
    }

    /// The least expected cost of all orders of the groups from `fixed` on.
    fn least(groups: &mut [Group], fixed: usize, cost: &dyn Fn(&[Group]) -> f64) -> f64 {
        if fixed == groups.len() {
            return cost(groups);
        }
        let mut best = f64::INFINITY;
        for next in fixed..groups.len() {
            groups.swap(fixed, next);
            best = best.min(least(groups, fixed + 1, cost));
            groups.swap(fixed, next);
        }
        best
    }

    /// What a switch reads, block by block.
    fn reads_by_block(on_disk: &[Group], from: u32, to: u32, most: usize) -> Reads {
        let sets = on_disk.iter().flat_map(|group| vec![group.set; group.blocks as usize]);
        let wanted = |(at, set): (usize, TaskSet)| {
            (set.contains(TaskIndex(to)) && !set.contains(TaskIndex(from))).then_some(at)
        };
        let wanted: Vec<_> = sets.enumerate().filter_map(wanted).collect();
        let requests: Vec<_> = wanted.chunk_by(|a, b| b - a - 1 <= most).collect();
        let read = requests.iter().map(|request| request[request.len() - 1] - request[0] + 1);
        let (requests, read) = (requests.len() as u64, read.sum::<usize>() as u64);
        Reads { requests, blocks: wanted.len() as u64, read }
    }

    /// Sets, probabilities of switches and a cost for up to `tasks` tasks.
    fn instance(
        tasks: usize,
        groups: usize,
        blocks: usize,
    ) -> impl Strategy<Value = (Vec<TaskSet>, Switches, ReadCost)> {
        let pool = prop::collection::vec(1u32..1 << tasks, 1..=groups);
        let sets = pool.prop_flat_map(move |pool| {
            prop::collection::vec(prop::sample::select(pool).prop_map(set), 0..blocks)
        });
        let weight = prop_oneof![Just(0.0), 0.01..1.0];
        let switches = prop::collection::vec(prop::collection::vec(weight, tasks), tasks)
            .prop_map(Switches::of_weights);
        let cost = prop_oneof![Just(0.0), Just(1000.0), 0.0..20.0];
        (sets, switches, cost.prop_map(|request_blocks| ReadCost { request_blocks }))
    }

    #[test]
    fn where_all_orders_cost_the_same_the_gray_code_is_kept_and_within_groups_the_order_found() {
        let found = [0b11, 0b01, 0b10, 0b11, 0b01].map(set);
        let layout = lay_out(&found, &Switches::uniform(2), ReadCost { request_blocks: 1.0 });
        assert_eq!(layout.groups, runs(&[(0b01, 2), (0b11, 2), (0b10, 1)]));
        assert_eq!(layout.position, [2, 0, 4, 3, 1]);
    }

    #[test]
    fn groups_that_the_only_switch_reads_lie_together() {
        // The Gray code has one group between those that task 0 wants and task 2 has not.
        let found = [0b001, 0b011, 0b010, 0b110, 0b111, 0b101, 0b100].map(set);
        let mut switches = vec![vec![0.0; 3]; 3];
        switches[2][0] = 0.5;
        switches[0][1] = 0.5;
        let cost = ReadCost { request_blocks: 0.5 };
        let layout = lay_out(&found, &Switches::of_weights(switches), cost);
        for (from, to) in [(2, 0), (0, 1)] {
            let reads = reads(layout.groups.iter().copied(), TaskIndex(from), TaskIndex(to), cost);
            assert_eq!(reads, Reads { requests: 1, blocks: 2, read: 2 });
        }
    }

    #[test]
    fn a_gap_is_read_where_it_is_not_dearer_than_a_request() {
        let on_disk = runs(&[(0b11, 9), (0b10, 4), (0b01, 2), (0b10, 1), (0b11, 3), (0b10, 1)]);
        let reads = |request_blocks| {
            let cost = ReadCost { request_blocks };
            reads(on_disk.iter().copied(), TaskIndex(0), TaskIndex(1), cost)
        };
        assert_eq!(reads(1.9), Reads { requests: 3, blocks: 6, read: 6 });
        assert_eq!(reads(2.0), Reads { requests: 2, blocks: 6, read: 8 });
        assert_eq!(reads(3.0), Reads { requests: 1, blocks: 6, read: 11 });
    }

    #[test]
    fn nothing_is_laid_out_as_nothing() {
        let layout = lay_out(&[], &Switches::uniform(2), ReadCost { request_blocks: 1.0 });
        assert_eq!(layout, Layout { position: vec![], groups: vec![] });
    }

    proptest! {
        #[test]
        fn every_block_has_a_position_and_equal_sets_lie_together(
            (sets, switches, cost) in instance(4, 15, 200)
        ) {
            let layout = lay_out(&sets, &switches, cost);
            let mut on_disk = vec![None; sets.len()];
            for (&set, &position) in sets.iter().zip(&layout.position) {
                prop_assert_eq!(on_disk[position as usize].replace(set), None);
            }
            let groups = layout.groups.iter();
            let by_group = groups.flat_map(|group| vec![Some(group.set); group.blocks as usize]);
            prop_assert_eq!(on_disk, by_group.collect::<Vec<_>>());
            let distinct: BTreeSet<_> = sets.iter().collect();
            prop_assert_eq!(layout.groups.len(), distinct.len());
        }

        #[test]
        fn no_dearer_than_the_gray_code((sets, switches, cost) in instance(6, 12, 200)) {
            let groups = lay_out(&sets, &switches, cost).groups;
            let gray = expected(&in_gray_code(&sets), &switches, cost);
            prop_assert!(expected(&groups, &switches, cost) <= gray * (1.0 + 1e-9));
        }

        #[test]
        fn reads_are_those_counted_block_by_block(
            on_disk in prop::collection::vec((0u32..8, 0u32..6), 0..40),
            (from, to, most) in (0u32..3, 0u32..3, 0usize..8)
        ) {
            let on_disk = runs(&on_disk);
            let cost = ReadCost { request_blocks: most as f64 + 0.5 };
            let reads = reads(on_disk.iter().copied(), TaskIndex(from), TaskIndex(to), cost);
            prop_assert_eq!(reads, reads_by_block(&on_disk, from, to, most));
        }
    }

    // The same instances each time: that the order is always the best is not promised.
    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 500,
            rng_seed: RngSeed::Fixed(1),
            ..ProptestConfig::default()
        })]
        #[test]
        fn of_few_groups_the_order_is_the_best((sets, switches, cost) in instance(4, 7, 100)) {
            let mut groups = lay_out(&sets, &switches, cost).groups;
            let found = expected(&groups, &switches, cost);
            let best = least(&mut groups, 0, &|order| expected(order, &switches, cost));
            prop_assert!(found <= best * (1.0 + 1e-9), "{} is more than {}", found, best);
        }
    }
}
