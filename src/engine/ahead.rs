//! Loading ahead: one request at a time, while nothing else is to be read, of what was asked to be
//! prepared and then of what the plan wants next.
//!
//! Each step is short, whatever the size of the model: a search that takes longer goes on in the
//! next one. What is worth loading is `foresight`'s business.

use super::{
    foresight::Foresight,
    model::{Context, Model},
};
use crate::{
    residency::Level,
    storage::Priority,
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
    /// The budget is used up until then.
    Later(Duration),
    /// There is no room for the blocks.
    NoRoom,
    /// The blocks are all there, or cannot be had.
    Done,
}

impl Model {
    /// Goes on with what is to be loaded ahead. `quiet` says that nobody waits for
    /// a read, and that nothing is read ahead.
    pub(super) fn look_ahead(&mut self, cx: &mut Context<'_>, quiet: bool) {
        self.foresight.next_step = None;
        let begun = cx.clock.now();
        if self.foresight.due.is_some_and(|due| due <= cx.now) {
            self.make_plan(cx);
        }
        if quiet {
            self.load_ahead(cx);
        }
        self.foresight.held_up = !quiet && self.has_more_ahead();
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

    /// Whether anything is left to be read ahead.
    fn has_more_ahead(&self) -> bool {
        let Foresight { suspects, classes, .. } = &self.foresight;
        !suspects.is_empty() || !classes.is_empty() || !self.preparing().is_empty()
    }

    fn load_ahead(&mut self, cx: &mut Context<'_>) {
        let rests_until = self.foresight.rests_until;
        if rests_until > cx.now {
            self.foresight.next_step = Some(rests_until);
            return;
        }
        self.foresight.next_step = match self.load_next(cx) {
            Step::Begun | Step::NoRoom | Step::Done => None,
            Step::More => Some(cx.now),
            Step::Later(at) => Some(at),
        };
    }

    fn load_next(&mut self, cx: &mut Context<'_>) -> Step {
        while let Some(block) = self.foresight.suspects.pop() {
            if self.is_absent(block) && self.residency.slots().counts().free > 0 {
                self.begin_ahead(cx, 1, &[block]);
                return Step::Begun;
            }
        }
        // Without a change of room the search would find the same again.
        let preparing = if self.foresight.no_room { Vec::new() } else { self.preparing() };
        for task in preparing {
            let step = self.load_prepared(cx, task);
            self.foresight.no_room |= matches!(step, Step::NoRoom);
            if matches!(step, Step::Begun | Step::More) {
                return step;
            }
        }
        self.load_planned(cx)
    }

    /// Goes on with a task that somebody wants prepared, whatever else may go for it. What could not
    /// be read before is tried again.
    fn load_prepared(&mut self, cx: &mut Context<'_>, task: TaskIndex) -> Step {
        let blocks = self.shape(cx).requests(self.residency.absent(task)).next();
        let step = self.load_blocks(cx, blocks, Level::MAX);
        if matches!(step, Step::NoRoom) {
            // What may go by the time that there is room is not known yet.
            self.foresight.stock = None;
        }
        step
    }

    /// Goes on with the plan.
    fn load_planned(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(class) = self.foresight.classes.first().cloned() else { return Step::Done };
        self.foresight.budget.fill(cx.now);
        if let Some(enough_at) = self.foresight.budget.enough_at(cx.limits.read_bytes) {
            return Step::Later(enough_at);
        }
        let lacking = self.residency.lacking(&class.tasks, self.foresight.cursor);
        let blocks = self.shape(cx).requests(lacking).next();
        let last = blocks.as_ref().and_then(|blocks| blocks.last().copied());
        match self.load_blocks(cx, blocks, class.level()) {
            Step::NoRoom | Step::Done => {
                self.foresight.classes.remove(0);
                self.foresight.cursor = BlockIndex(0);
                Step::More
            }
            Step::Begun => {
                // Those for which there was no slot are left for the next plan.
                self.foresight.cursor = last.map_or(BlockIndex(0), |last| BlockIndex(last.0 + 1));
                Step::Begun
            }
            step => step,
        }
    }

    fn is_absent(&self, block: BlockIndex) -> bool {
        let is_in = |set: &fixedbitset::FixedBitSet| set[block.index()];
        !is_in(self.residency.resident()) && !is_in(self.residency.loading())
    }

    /// Begins to read these blocks, as many as there is room for in free slots or in those of blocks
    /// below a level.
    fn load_blocks(
        &mut self,
        cx: &mut Context<'_>,
        blocks: Option<Vec<BlockIndex>>,
        below: Level,
    ) -> Step {
        let Some(mut blocks) = blocks else { return Step::Done };
        let Some(room) = self.room_below(below, blocks.len()) else { return Step::More };
        if room == 0 {
            return Step::NoRoom;
        }
        blocks.truncate(room);
        self.begin_ahead(cx, 0, &blocks);
        Step::Begun
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

    fn begin_ahead(&mut self, cx: &mut Context<'_>, attempt: u8, blocks: &[BlockIndex]) {
        let blocks = self.residency.allot(blocks);
        let Some(read) = self.request(cx, attempt, Priority::Ahead, blocks) else { return };
        // Gaps are read as they save time; what they cost is not held against the forecast.
        let wanted = read.blocks.len() as u64 * self.bundle().block().bytes();
        self.foresight.budget.spend(wanted);
        self.reads.begin_ahead(cx.now, read, cx.effects);
    }
}
