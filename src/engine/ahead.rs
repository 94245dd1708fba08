//! Loading ahead: one request at a time, while nothing else is to be read, of what was asked to be
//! prepared and then of what the plan wants next.
//!
//! Each step is short, whatever the size of the model: a search that takes longer goes on in the
//! next one. What is worth loading is `foresight`'s business.

use super::{
    model::{Context, Model},
    plan::Shape,
};
use crate::{
    residency::Level,
    storage::{Priority, Read},
    units::{BlockIndex, TaskIndex},
};
use std::time::Duration;

/// Words of the block sets that one step looks at for what may be evicted.
const SEARCHED: usize = 2048;
/// A step that takes longer is not to be had beside switches.
const SLOW_STEP: Duration = Duration::from_millis(50);
/// How long commands go before.
const LATE: Duration = Duration::from_millis(10);
/// How long nothing is loaded ahead after such a step, or after an error of the device.
const REST: Duration = Duration::from_secs(10);

/// What a step came to.
enum Step {
    /// A read was begun.
    Begun,
    /// There is more to look at.
    More,
    /// There is no room for the blocks.
    NoRoom,
    /// The blocks are all there, or cannot be had.
    Done,
}

impl Model {
    /// Goes on with what is to be loaded ahead. `quiet` says that nobody waits for a read.
    pub(super) fn look_ahead(&mut self, cx: &mut Context<'_>, quiet: bool) {
        self.foresight.next_step = None;
        let begun = cx.clock.now();
        if self.foresight.due.is_some_and(|due| due <= cx.now) {
            self.make_plan(cx);
        }
        if quiet && !self.reads.reads_ahead() {
            self.load_ahead(cx);
        }
        if cx.clock.now().saturating_sub(begun) > SLOW_STEP {
            tracing::warn!(model = self.name(), "looking ahead takes too long: it rests");
            self.rest(cx.now);
        }
    }

    /// Whether a step that does not hurry has waited too long, as commands come all the time.
    pub(super) fn looks_late(&self, now: Duration) -> bool {
        self.looks_ahead_at().is_some_and(|at| at.saturating_add(LATE) <= now)
    }

    /// When [`look_ahead`](Self::look_ahead) is to be called again, if nothing happens.
    pub(super) fn looks_ahead_at(&self) -> Option<Duration> {
        self.foresight.due.into_iter().chain(self.foresight.next_step).min()
    }

    /// Loads nothing ahead for a while.
    pub(super) fn rest(&mut self, now: Duration) {
        self.foresight.rests_until = now.saturating_add(REST);
    }

    fn load_ahead(&mut self, cx: &mut Context<'_>) {
        let rests_until = self.foresight.rests_until;
        if rests_until > cx.now {
            self.foresight.next_step = Some(rests_until);
            return;
        }
        self.foresight.next_step = match self.load_next(cx) {
            Step::Begun | Step::Done => None,
            Step::More => Some(cx.now),
            Step::NoRoom => self.foresight.budget.enough_at(cx.limits.read_bytes),
        };
    }

    fn load_next(&mut self, cx: &mut Context<'_>) -> Step {
        while let Some(block) = self.foresight.suspects.pop() {
            if self.is_absent(block) && self.residency.slots().counts().free > 0 {
                return self.begin_ahead(cx, 1, &[block]);
            }
        }
        if let Some(task) = self.preparing() {
            let class = [task];
            match self.load_class(cx, &class, Level::MAX, BlockIndex(0)) {
                Step::Done => {}
                step => return step,
            }
        }
        let Some(class) = self.foresight.classes.first().cloned() else { return Step::Done };
        self.foresight.budget.fill(cx.now);
        if self.foresight.budget.enough_at(cx.limits.read_bytes).is_some() {
            return Step::NoRoom;
        }
        match self.load_class(cx, &class.tasks, class.level(), self.foresight.cursor) {
            Step::NoRoom | Step::Done => {
                self.foresight.classes.remove(0);
                self.foresight.cursor = BlockIndex(0);
                Step::More
            }
            step => step,
        }
    }

    fn is_absent(&self, block: BlockIndex) -> bool {
        let is_in = |set: &fixedbitset::FixedBitSet| set[block.index()];
        !is_in(self.residency.resident()) && !is_in(self.residency.loading())
    }

    /// Begins to read the first blocks that all of these tasks lack, in free slots or in those of
    /// blocks below a level.
    fn load_class(
        &mut self,
        cx: &mut Context<'_>,
        tasks: &[TaskIndex],
        below: Level,
        from: BlockIndex,
    ) -> Step {
        let block_bytes = self.bundle().block().bytes();
        let shape = Shape::new(block_bytes, cx.limits.read_bytes, self.request_bytes);
        let lacking = self.residency.lacking(tasks, from);
        let Some(mut blocks) = shape.requests(lacking).next() else { return Step::Done };
        let Some(room) = self.room_below(below, blocks.len()) else { return Step::More };
        if room == 0 {
            return Step::NoRoom;
        }
        blocks.truncate(room);
        self.begin_ahead(cx, 0, &blocks)
    }

    /// Frees slots at the cost of blocks below a level, as far as can be, and gives how many of
    /// `wanted` are free. `None` if it is not known yet what may go.
    fn room_below(&mut self, below: Level, wanted: usize) -> Option<usize> {
        let free = self.residency.slots().counts().free;
        if free >= wanted {
            return Some(wanted);
        }
        let mut stock = self.foresight.stock.take().unwrap_or_else(|| self.residency.stock());
        let known = self.residency.search(&mut stock, SEARCHED);
        let evicted =
            if known { self.residency.evict_from(&mut stock, below, wanted - free) } else { 0 };
        self.foresight.stock = Some(stock);
        known.then_some(free + evicted)
    }

    fn begin_ahead(&mut self, cx: &mut Context<'_>, attempt: u8, blocks: &[BlockIndex]) -> Step {
        let Some(last) = blocks.last() else { return Step::Done };
        self.foresight.cursor = BlockIndex(last.0 + 1);
        let allotted = self.residency.allot(blocks);
        let Some((first, _)) = allotted.first() else { return Step::NoRoom };
        let offset = self.bundle().block_offset(*first);
        let read = Read::new(self.file.clone(), offset, allotted);
        let (model, priority) = (cx.index, Priority::Ahead);
        let read = Read { model, attempt, priority, ..read };
        self.foresight.budget.spend(read.len());
        self.foresight.counts.loaded += read.blocks.len() as u64;
        self.reads.begin_ahead(cx.now, read, cx.effects);
        Step::Begun
    }
}
