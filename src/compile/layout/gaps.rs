//! What the gaps of an order cost, put together from pieces of the order.
//!
//! A gap lies between two pieces or within one, so that of each switch a piece need only tell how
//! far its ends are from blocks that the switch wants, and what its own gaps cost. That is counted
//! in small floats, many switches at a time: whether an order is truly better, the [`Objective`]
//! says.

use super::objective::Objective;

const LANES: usize = 8;

/// A number for each of some switches.
type Lanes = [f32; LANES];

/// How far it is to a block that is wanted where none is: no sum with a length makes a gap of it.
const NOTHING: f32 = f32::NEG_INFINITY;

/// A group in an order.
#[derive(Debug)]
pub(super) struct Item {
    /// Which group.
    pub(super) at: u32,
    /// By switch: 0 where it wants the group, else [`NOTHING`].
    wanted: Vec<Lanes>,
    blocks: f32,
}

/// All that lies on one side of a place.
#[derive(Clone, Debug)]
pub(super) struct Side {
    /// By switch: how many blocks away the nearest is that it wants.
    open: Vec<Lanes>,
    /// What the gaps cost.
    inner: f64,
}

/// Some neighbouring groups.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// By switch: the blocks before the first that it wants.
    lead: Vec<Lanes>,
    /// As seen from the end.
    tail: Side,
    blocks: f32,
}

/// A segment, forwards or backwards.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    lead: &'a [Lanes],
    tail: &'a [Lanes],
    blocks: f32,
    inner: f64,
}

/// The switches and their probabilities.
#[derive(Debug)]
pub(super) struct Gaps {
    probability: Vec<Lanes>,
    /// What a gap costs at most.
    request: f32,
}

impl Gaps {
    pub(super) fn new(objective: &Objective<'_>) -> Self {
        let mut probability = vec![[0.0; LANES]; objective.pairs.len().div_ceil(LANES)];
        for (pair, probability) in objective.pairs.iter().zip(probability.as_flattened_mut()) {
            *probability = pair.probability as f32;
        }
        Self { probability, request: objective.request as f32 }
    }

    /// What one look at all switches takes.
    pub(super) fn switches(&self) -> usize {
        self.probability.len() * LANES
    }

    pub(super) fn item(&self, objective: &Objective<'_>, at: u32) -> Item {
        let group = objective.group(at);
        let mut wanted = vec![[NOTHING; LANES]; self.probability.len()];
        for (pair, wanted) in objective.pairs.iter().zip(wanted.as_flattened_mut()) {
            if pair.wants(group) {
                *wanted = 0.0;
            }
        }
        Item { at, wanted, blocks: group.blocks as f32 }
    }

    /// The side on which the disk ends.
    pub(super) fn end(&self) -> Side {
        Side { open: vec![[NOTHING; LANES]; self.probability.len()], inner: 0.0 }
    }

    /// A side on which every switch wants a block, but none so near that a gap is worth reading.
    pub(super) fn far(&self) -> Side {
        Side { open: vec![[self.request; LANES]; self.probability.len()], inner: 0.0 }
    }

    pub(super) fn segment(&self) -> Segment {
        Segment { lead: self.end().open, tail: self.end(), blocks: 0.0 }
    }

    /// Puts a group between a side and the place.
    pub(super) fn grow(&self, side: &mut Side, item: &Item) {
        let mut gaps = [0.0; LANES];
        for ((open, wanted), probability) in
            side.open.iter_mut().zip(&item.wanted).zip(&self.probability)
        {
            for lane in 0..LANES {
                gaps[lane] += probability[lane] * self.gap(open[lane] + wanted[lane]);
                open[lane] = either(wanted[lane], open[lane] + item.blocks);
            }
        }
        side.inner += sum(gaps);
    }

    /// Appends a group.
    pub(super) fn append(&self, segment: &mut Segment, item: &Item) {
        for (lead, wanted) in segment.lead.iter_mut().zip(&item.wanted) {
            for lane in 0..LANES {
                lead[lane] = either(lead[lane], wanted[lane] + segment.blocks);
            }
        }
        self.grow(&mut segment.tail, item);
        segment.blocks += item.blocks;
    }

    /// What gaps cost if two pieces lie between two sides.
    pub(super) fn cost(&self, before: &Side, pieces: [Piece<'_>; 2], after: &Side) -> f64 {
        let [first, second] = pieces;
        let ends = before.open.iter().zip(&after.open).zip(&self.probability);
        let first_ends = first.lead.iter().zip(first.tail);
        let second_ends = second.lead.iter().zip(second.tail);
        let mut sums = [0.0; LANES];
        for ((((before, after), probability), (lead, tail)), (second_lead, second_tail)) in
            ends.zip(first_ends).zip(second_ends)
        {
            for lane in 0..LANES {
                let open = before[lane];
                let mut gaps = self.gap(open + lead[lane]);
                let open = either(tail[lane], open + first.blocks);
                gaps += self.gap(open + second_lead[lane]);
                let open = either(second_tail[lane], open + second.blocks);
                gaps += self.gap(open + after[lane]);
                sums[lane] += probability[lane] * gaps;
            }
        }
        before.inner + first.inner + second.inner + after.inner + sum(sums)
    }

    /// What a gap costs, one from or to [`NOTHING`] nothing.
    fn gap(&self, blocks: f32) -> f32 {
        let capped = if blocks < self.request { blocks } else { self.request };
        if capped > 0.0 { capped } else { 0.0 }
    }
}

impl Side {
    /// The same without what its gaps cost, so that small differences elsewhere are not rounded
    /// away.
    pub(super) fn free(&self) -> Self {
        Self { open: self.open.clone(), inner: 0.0 }
    }
}

impl Segment {
    pub(super) fn piece(&self, reversed: bool) -> Piece<'_> {
        let (lead, tail) = (&self.lead[..], &self.tail.open[..]);
        let (lead, tail) = if reversed { (tail, lead) } else { (lead, tail) };
        Piece { lead, tail, blocks: self.blocks, inner: self.tail.inner }
    }
}

/// The first, or the second if the first is [`NOTHING`].
fn either(first: f32, second: f32) -> f32 {
    if first == NOTHING { second } else { first }
}

fn sum(lanes: Lanes) -> f64 {
    lanes.into_iter().map(f64::from).sum()
}
