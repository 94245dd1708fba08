//! What a switch reads: planned, filled, verified, and what becomes of reads that fail.
//!
//! Whether and when a switch begins, is published or fails, and what its caller is told, is
//! `switch`'s business.

use super::{
    Effect, EngineError, EventKind, Limits, Verified, Verify,
    model::{Context, Model},
    pending::Load,
    plan::Shape,
    reads::Reads,
    session::Session,
};
use crate::{
    device::Window,
    residency::Residency,
    storage::{Completion, Priority, Read, ReadError},
    units::{BlockIndex, TaskIndex},
};
use std::time::Duration;

/// So many blocks have no slot at the moment.
pub(super) struct NoRoomNow {
    pub(super) absent: usize,
}

impl Model {
    /// Makes room for what a pinned task lacks and plans its reads. Gives the blocks evicted.
    pub(super) fn load_missing(
        &mut self,
        cx: &mut Context<'_>,
        task: TaskIndex,
        missing: usize,
    ) -> Result<usize, NoRoomNow> {
        if missing == 0 {
            return Ok(0);
        }
        let absent: Vec<_> = self.residency.absent(task).collect();
        let evicted = self.residency.make_room(absent.len());
        let evicted = evicted.ok_or(NoRoomNow { absent: absent.len() })?;
        for blocks in self.shape(cx).requests(absent) {
            let blocks = self.residency.allot(&blocks);
            self.read(cx, 0, blocks, Reads::push);
        }
        Ok(evicted)
    }

    /// Queues a read of these blocks.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        attempt: u8,
        blocks: Vec<(BlockIndex, Window)>,
        queue: fn(&mut Reads, Read),
    ) {
        if let Some(read) = self.request(cx, attempt, Priority::Demand, blocks) {
            queue(&mut self.reads, read);
        }
    }

    /// A read of these blocks, if there are any.
    pub(super) fn request(
        &self,
        cx: &Context<'_>,
        attempt: u8,
        priority: Priority,
        blocks: Vec<(BlockIndex, Window)>,
    ) -> Option<Read> {
        let offset = self.bundle().block_offset(blocks.first()?.0);
        let read = Read::new(self.file.clone(), offset, blocks);
        Some(Read { model: cx.index, attempt, priority, ..read })
    }

    /// What requests may look like.
    pub(super) fn shape(&self, cx: &Context<'_>) -> Shape {
        Shape::new(self.bundle().block().bytes(), cx.limits.read_bytes, self.request_bytes)
    }

    pub(super) fn read_done(&mut self, cx: &mut Context<'_>, completion: Completion) {
        let Completion { read, result } = completion;
        if let Some(stalled) = self.reads.finished(cx.now, read.len()) {
            self.events.push(EventKind::Recovered { stalled });
        }
        if read.priority == Priority::Ahead {
            let took = self.reads.ended_ahead(cx.now);
            if result.is_ok() {
                self.foresight.budget.measured(read.len(), took);
            }
        }
        let Read { attempt, priority, blocks, .. } = read;
        if let Err(error) = result {
            tracing::warn!(model = self.name(), attempt, %error, "a read failed");
            match error {
                ReadError::Lost => return self.give_back(cx, blocks, Residency::lose),
                error if error.is_of_device() => {
                    return self.give_back(cx, blocks, Residency::release);
                }
                _ => {}
            }
            return self.retry_or_give_up(cx, attempt, priority, blocks);
        }
        for (_, window) in &blocks {
            self.residency.filled(window);
        }
        for load in self.loads() {
            load.last_read = cx.now;
        }
        let bundle = self.bundle().clone();
        let (model, job) = (cx.index, Effect::Verify);
        cx.effects.push(job(Verify { model, attempt, priority, bundle, blocks }));
    }

    pub(super) fn verified(&mut self, cx: &mut Context<'_>, verified: Verified) {
        let Verified { attempt, priority, good, bad, .. } = verified;
        for (block, window) in good {
            self.residency.admit(window);
            if priority == Priority::Ahead {
                self.arrived_ahead(block);
            }
        }
        if priority == Priority::Ahead {
            // A preparation may pin the blocks, but gives way to a switch now that they are there.
            self.residency.note_room_change();
        }
        let is_complete = |session: &&Session| {
            let pending = session.pending.as_ref().filter(|pending| pending.load.is_some());
            pending.is_some_and(|pending| self.residency.missing(pending.task) == 0)
        };
        let complete = self.open_sessions().filter(is_complete);
        let complete: Vec<_> = complete.map(|session| session.entry).collect();
        complete.into_iter().for_each(|entry| self.publish(cx, entry));
        if !bad.is_empty() {
            let blocks: Vec<_> = bad.iter().map(|(block, _)| block.0).collect();
            tracing::warn!(model = self.name(), attempt, ?blocks, "blocks do not match");
            self.mismatched += blocks.len() as u64;
            self.retry_or_give_up(cx, attempt, priority, bad);
        }
        self.settle_preparations(cx.now);
    }

    /// Notes that a block that was read ahead is there: in time, or for somebody who waits by now.
    fn arrived_ahead(&mut self, block: BlockIndex) {
        self.foresight.counts.loaded += 1;
        if self.is_awaited(block) {
            self.foresight.counts.late += 1;
            self.foresight.budget.give_back(self.bundle().block().bytes());
        } else {
            self.residency.note_ahead(block);
        }
    }

    /// Reads blocks once more, each by itself, so that one bad block harms no other; the second
    /// time, gives them up.
    fn retry_or_give_up(
        &mut self,
        cx: &mut Context<'_>,
        attempt: u8,
        priority: Priority,
        blocks: Vec<(BlockIndex, Window)>,
    ) {
        for (block, window) in blocks {
            self.residency.release(window);
            if attempt > 0 {
                self.residency.quarantine(block);
                self.events.push(EventKind::Quarantined(block));
                self.fail_loads_of(block, |task| EngineError::Corrupt { task });
            } else if priority == Priority::Ahead && !self.is_awaited(block) {
                self.read_again += 1;
                self.foresight.suspects.push(block);
            } else if self.residency.is_pinned(block) {
                self.read_again += 1;
                let blocks = self.residency.allot(&[block]);
                self.read(cx, attempt + 1, blocks, Reads::push_retry);
            }
        }
        self.withdraw();
    }

    /// Gives up reading blocks because of the device: they may be as good as ever. What becomes of
    /// their slots is the caller's choice.
    fn give_back(
        &mut self,
        cx: &Context<'_>,
        blocks: Vec<(BlockIndex, Window)>,
        take_back: fn(&mut Residency, Window),
    ) {
        for (block, window) in blocks {
            take_back(&mut self.residency, window);
            self.fail_loads_of(block, |_| EngineError::StorageUnavailable);
        }
        self.rest(cx.now);
        self.withdraw();
    }

    /// Ends all switches that are loading a block. The error is made from the task's name.
    fn fail_loads_of(&mut self, block: BlockIndex, error: impl Fn(String) -> EngineError) {
        let bundle = self.bundle().clone();
        let needs = |task| bundle.task_blocks(task).contains(block.index());
        let loading = self.open_sessions().filter_map(|session| {
            let pending = session.pending.as_ref()?;
            (pending.load.is_some() && needs(pending.task)).then_some((session.entry, pending.task))
        });
        for (entry, task) in loading.collect::<Vec<_>>() {
            self.fail(entry, &error(bundle.task(task).name.clone()));
        }
        for task in bundle.task_indices().filter(|task| needs(*task)) {
            self.end_preparations(&error(bundle.task(task).name.clone()), |ends| ends == task);
        }
    }

    /// Whether a switch waits for a block.
    fn is_awaited(&self, block: BlockIndex) -> bool {
        let needs = |task| self.bundle().task_blocks(task).contains(block.index());
        let pending = self.open_sessions().filter_map(|session| session.pending.as_ref());
        pending.filter(|pending| pending.load.is_some()).any(|pending| needs(pending.task))
    }

    /// Ends all switches that wait for reads, if the device does not answer. What it fills later is
    /// kept.
    pub(super) fn break_off_if_stalled(&mut self, cx: &mut Context<'_>) {
        if !self.reads.is_overdue(cx.now, cx.limits) {
            return;
        }
        let pending = self.open_sessions().filter(|session| session.pending.is_some());
        let pending: Vec<_> = pending.map(|session| session.entry).collect();
        if self.reads.break_off(cx.now, !pending.is_empty()) {
            self.events.push(EventKind::Stalled { switches: pending.len() });
        }
        for entry in pending {
            self.fail(entry, &EngineError::StorageUnavailable);
        }
        let lacking = self.preparing();
        self.end_preparations(&EngineError::StorageUnavailable, |task| lacking.contains(&task));
        self.withdraw();
    }

    /// Takes back reads that have not begun and that no switch needs any more.
    pub(super) fn withdraw(&mut self) {
        let residency = &mut self.residency;
        let is_pinned = |(block, _): &(BlockIndex, Window)| residency.is_pinned(*block);
        for read in self.reads.withdraw(|read| read.blocks.iter().any(is_pinned)) {
            for (_, window) in read.blocks {
                residency.release(window);
            }
        }
    }

    /// Begins as many reads as may be under way.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) {
        self.reads.pump(cx.now, cx.limits, cx.effects);
    }

    /// When the device will be held not to answer. Nobody is told while nobody waits.
    pub(super) fn stalls_at(&self, limits: &Limits) -> Option<Duration> {
        let awaited = self.is_switching() || !self.preparing().is_empty();
        if awaited { self.reads.stalls_at(limits) } else { None }
    }

    fn loads(&mut self) -> impl Iterator<Item = &mut Load> {
        let sessions = self.sessions.iter_mut().flatten();
        sessions.filter_map(|session| session.pending.as_mut()?.load.as_mut())
    }
}
