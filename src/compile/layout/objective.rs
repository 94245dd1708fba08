//! What is expected of an order, exactly.

use super::{Group, ReadCost};
use crate::{compile::transitions::Switches, units::TaskIndex};

/// What is to be kept small: for each switch, by its probability, the gaps between the blocks that
/// it reads, where a gap costs its blocks or a request, whichever is less. The rest of the cost of
/// reads, the wanted blocks and one request, is the same in every order.
#[derive(Debug)]
pub(super) struct Objective<'a> {
    pub(super) groups: &'a [Group],
    pub(super) pairs: Vec<Pair>,
    /// What a gap costs at most.
    pub(super) request: f64,
}

/// A switch that happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) from: TaskIndex,
    pub(super) to: TaskIndex,
    pub(super) probability: f64,
}

impl Pair {
    pub(super) fn wants(&self, group: Group) -> bool {
        group.is_wanted(self.from, self.to)
    }
}

impl<'a> Objective<'a> {
    pub(super) fn new(groups: &'a [Group], switches: &Switches, cost: ReadCost) -> Self {
        let rows = (0..).map(TaskIndex).zip(switches.rows());
        let pairs = rows.flat_map(|(from, row)| {
            let row = (0..).map(TaskIndex).zip(row);
            row.map(move |(to, &probability)| Pair { from, to, probability })
        });
        let happens = |pair: &Pair| pair.from != pair.to && pair.probability > 0.0;
        let blocks: f64 = groups.iter().map(|group| f64::from(group.blocks)).sum();
        // No gap is longer than all blocks, so a dearer request changes nothing.
        let request = cost.request_blocks.max(0.0).min(blocks);
        Self { groups, pairs: pairs.filter(happens).collect(), request }
    }

    pub(super) fn group(&self, at: u32) -> Group {
        self.groups[at as usize]
    }

    /// The expected cost of gaps.
    pub(super) fn cost(&self, order: &[u32]) -> f64 {
        let mut cost = 0.0;
        // By pair: where the last wanted block ends. Nothing before the first is a gap.
        let mut ends = vec![f64::INFINITY; self.pairs.len()];
        let mut start = 0.0;
        for &at in order {
            let group = self.group(at);
            let end = start + f64::from(group.blocks);
            for (pair, last) in self.pairs.iter().zip(&mut ends) {
                if pair.wants(group) {
                    cost += pair.probability * (start - *last).clamp(0.0, self.request);
                    *last = end;
                }
            }
            start = end;
        }
        cost
    }
}
