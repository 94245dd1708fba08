//! Improves an order change by change.
//!
//! A change reverses a segment, or lets a short one jump, where that makes gaps cost less. An order
//! from which no change leads on is disturbed and improved again, as long as steps are left. Long
//! orders are improved window by window only.

use super::{
    gaps::{Gaps, Item, Piece, Segment, Side},
    objective::Objective,
};
use std::ops::Range;

/// The longest segment that jumps. It jumps over any number of groups, so that longer ones get far
/// piece by piece.
const JUMPER: usize = 4;

/// The longest segment that a disturbance moves.
const DISTURBED: usize = 8;

/// How far around a disturbance changes are looked for.
const NEAR: usize = 4;

/// How often a settled order is disturbed, for each of its groups.
const DISTURBANCES_A_GROUP: usize = 16;

/// The most groups that are searched at once.
const WINDOW: usize = 256;

/// Looks at a switch, for any order: less than a tenth of a second of them. Ten times as many gain a
/// few hundredths of the cost of gaps with six tasks.
const STEPS: u64 = 50_000_000;

/// Some more for long orders, where they are a few seconds' worth.
const STEPS_A_GROUP: u64 = 40_000;

/// Whether a segment that jumps is reversed, and that which it jumps over. (With both it would be
/// the reversal of both together.)
const JUMPS: [(bool, bool); 3] = [(false, false), (true, false), (false, true)];

/// The share of a cost that may be an error of small floats.
const ROUNDING: f64 = 1e-5;

/// Improves an order as far as the steps go. They are looks at a switch, not time: the outcome must
/// not depend on how fast a machine is. With so many groups and tasks that the steps are too few to
/// see neighbours, nothing is done.
pub(super) fn improve(objective: &Objective<'_>, order: &mut [u32]) {
    let gaps = Gaps::new(objective);
    let steps = STEPS + STEPS_A_GROUP * order.len() as u64;
    // As wide as lets the steps do for a few sweeps.
    let width_of_one = 4 * JUMPS.len() * JUMPER * gaps.switches() * order.len();
    let window = (steps / (width_of_one as u64).max(1)).min(WINDOW as u64) as usize;
    let window = window.min(order.len());
    if window < 3 {
        return;
    }
    let mut search = Search { objective, gaps, window, steps, look: 0..0 };
    search.settle(order, 0..order.len());
    if window == order.len() {
        search.disturb(order);
    }
}

/// The items of `[start, middle)` and `[middle, end)` change places.
#[derive(Clone, Copy, Debug)]
struct Change {
    start: usize,
    middle: usize,
    end: usize,
    /// Whether the former are reversed as well, and the latter.
    reversed: (bool, bool),
}

impl Change {
    fn apply<T>(self, order: &mut [T]) {
        let first = self.middle - self.start;
        let order = &mut order[self.start..self.end];
        order.rotate_left(first);
        let (second, first) = order.split_at_mut(order.len() - first);
        if self.reversed.0 {
            first.reverse();
        }
        if self.reversed.1 {
            second.reverse();
        }
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// A change anywhere in at least 2 groups.
    fn change(&mut self, groups: usize) -> Change {
        let start = self.below(groups - 1);
        let middle = start + 1 + self.below((groups - 1 - start).min(DISTURBED));
        let end = middle + 1 + self.below((groups - middle).min(DISTURBED));
        Change { start, middle, end, reversed: (false, false) }
    }
}

/// A place in a window, and what can be changed from there on.
struct Spot<'a> {
    before: &'a Side,
    items: &'a [Item],
    /// By number of items: all that lies after them.
    sides: &'a [Side],
    /// A change that costs less than this is one for the better.
    enough: f64,
}

struct Search<'a> {
    objective: &'a Objective<'a>,
    gaps: Gaps,
    /// How many groups are searched at once.
    window: usize,
    /// How many are left.
    steps: u64,
    /// Where changes are looked for, by the place of the first group that one concerns: after a
    /// change, others pay near it.
    look: Range<usize>,
}

impl Search<'_> {
    /// Disturbs a settled order again and again, and keeps what is better once that has settled.
    fn disturb(&mut self, best: &mut [u32]) {
        let mut cost = self.objective.cost(best);
        let mut random = Random(1);
        for _ in 0..DISTURBANCES_A_GROUP * best.len() {
            if self.steps == 0 {
                break;
            }
            let mut order = best.to_vec();
            let change = random.change(order.len());
            change.apply(&mut order);
            let near = change.start.saturating_sub(NEAR)..(change.end + NEAR).min(order.len());
            self.settle(&mut order, near);
            let settled = self.objective.cost(&order);
            if settled <= cost {
                best.copy_from_slice(&order);
                cost = settled;
            }
        }
    }

    /// Changes the order until no change that is looked for makes it better. Seen from the other
    /// end an order costs the same, so changes are tried from there too.
    fn settle(&mut self, order: &mut [u32], look: Range<usize>) {
        self.look = look;
        let mut changed = true;
        while changed {
            changed = false;
            for _ in 0..2 {
                changed |= self.sweep(order);
                order.reverse();
                self.look = order.len() - self.look.end..order.len() - self.look.start;
            }
        }
    }

    /// Goes over the order once, window by window; each overlaps half of the one before.
    fn sweep(&mut self, order: &mut [u32]) -> bool {
        let mut changed = false;
        let mut before = self.gaps.end();
        let mut start = 0;
        while start < order.len() && self.steps > 0 {
            let end = order.len().min(start + self.window);
            let after = self.after(&order[end..]);
            let mut items = self.items(&order[start..end]);
            changed |= self.improve(&mut items, start, [before.free(), after.free()]);
            order[start..end].iter_mut().zip(&items).for_each(|(at, item)| *at = item.at);
            let left = if end == order.len() { items.len() } else { self.window.div_ceil(2) };
            items[..left].iter().for_each(|item| self.gaps.grow(&mut before, item));
            start += left;
        }
        changed
    }

    fn items(&self, order: &[u32]) -> Vec<Item> {
        order.iter().map(|&at| self.gaps.item(self.objective, at)).collect()
    }

    /// What lies after a window, as far as it is looked at.
    fn after(&self, rest: &[u32]) -> Side {
        let (seen, unseen) = rest.split_at(rest.len().min(self.window));
        let mut side = if unseen.is_empty() { self.gaps.end() } else { self.gaps.far() };
        self.items(seen).iter().rev().for_each(|item| self.gaps.grow(&mut side, item));
        side
    }

    /// Makes the first change found that makes a window better, as long as there is one. The window
    /// is at a place in the order, between two sides.
    fn improve(
        &mut self,
        items: &mut [Item],
        place: usize,
        [mut before, after]: [Side; 2],
    ) -> bool {
        let mut changed = false;
        let mut sides = self.sides(items, &after);
        let mut start = 0;
        while start < items.len() && self.steps > 0 {
            let looked_at = self.look.contains(&(place + start));
            let spot = looked_at.then(|| self.spot(&before, &items[start..], &sides[start..]));
            let change = spot.and_then(|spot| self.better(&spot));
            if let Some(change) = change {
                change.apply(&mut items[start..]);
                sides = self.sides(items, &after);
                self.look.end = self.look.end.max(place + start + change.end);
                changed = true;
            } else {
                self.gaps.grow(&mut before, &items[start]);
                start += 1;
            }
        }
        changed
    }

    /// By place in a window: all that lies after it.
    fn sides(&self, items: &[Item], after: &Side) -> Vec<Side> {
        let mut sides = vec![after.clone()];
        for (count, item) in items.iter().rev().enumerate() {
            let mut side = sides[count].clone();
            self.gaps.grow(&mut side, item);
            sides.push(side);
        }
        sides.reverse();
        sides
    }

    fn spot<'a>(&self, before: &'a Side, items: &'a [Item], sides: &'a [Side]) -> Spot<'a> {
        let nothing = self.gaps.segment();
        let cost = self.gaps.cost(before, [nothing.piece(false); 2], &sides[0]);
        Spot { before, items, sides, enough: cost * (1.0 - ROUNDING) }
    }

    /// A change that makes the order better and concerns the first item.
    fn better(&mut self, spot: &Spot<'_>) -> Option<Change> {
        let nothing = self.gaps.segment();
        let mut first = self.gaps.segment();
        for (middle, item) in (1..).zip(spot.items) {
            self.gaps.append(&mut first, item);
            if self.pays(spot, [first.piece(true), nothing.piece(false)], middle) {
                return Some(Change { start: 0, middle, end: middle, reversed: (true, false) });
            }
            let jump = if middle <= JUMPER { self.jump(spot, &first, middle) } else { None };
            if jump.is_some() {
                return jump;
            }
        }
        None
    }

    /// A jump of the items before `middle` that makes the order better.
    fn jump(&mut self, spot: &Spot<'_>, first: &Segment, middle: usize) -> Option<Change> {
        let mut second = self.gaps.segment();
        for (end, item) in (middle + 1..).zip(&spot.items[middle..]) {
            self.gaps.append(&mut second, item);
            for reversed in JUMPS {
                let pieces = [second.piece(reversed.1), first.piece(reversed.0)];
                if self.pays(spot, pieces, end) {
                    return Some(Change { start: 0, middle, end, reversed });
                }
            }
        }
        None
    }

    /// Whether these pieces are better than what lies before `end`.
    fn pays(&mut self, spot: &Spot<'_>, pieces: [Piece<'_>; 2], end: usize) -> bool {
        self.steps = self.steps.saturating_sub(self.gaps.switches() as u64);
        self.gaps.cost(spot.before, pieces, &spot.sides[end]) < spot.enough
    }
}
