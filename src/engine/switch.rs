//! A switch is a transaction: load and verify what is missing while the old task goes on, publish
//! in one store, then release the old task's pins. Until it is published, any failure leaves the
//! session as it was.
//!
//! ```text
//!            room                    last block verified
//! Waiting ──────────► Loading ─────────────────────────────► published
//!    └── deadline, superseded, closed, corrupt, no room ──► failed
//! ```
//!
//! A switch in place (`in_place`) may have to give the old task up first.

use super::{
    EngineError, EventKind, Outcome, Reply, SwitchCommand, SwitchEnd, SwitchReport, SwitchTiming,
    answers::{Answer, SwitchResult},
    loading::NoRoomNow,
    model::{Context, Model},
    pending::{Caller, Load, Pending},
};
use crate::{
    device::{Active, SessionEntry},
    residency::Room,
    units::{BlockIndex, Generation, TaskIndex},
};
use std::time::Duration;

impl Model {
    pub(super) fn switch(
        &mut self,
        cx: &mut Context<'_>,
        command: SwitchCommand,
        reply: Reply<SwitchReport>,
    ) {
        // Before this switch may get its chance, those that had theirs are told.
        self.break_off_if_stalled(cx);
        match self.admit_switch(cx, &command) {
            Err(error) => drop(reply.send(Err(error))),
            Ok((entry, task)) => self.begin(cx, entry, task, command, reply),
        }
    }

    /// Checks what can be checked before anything is changed.
    fn admit_switch(
        &mut self,
        cx: &Context<'_>,
        command: &SwitchCommand,
    ) -> Result<(SessionEntry, TaskIndex), EngineError> {
        let entry = self.called_session(cx.now, &command.target.session)?;
        let task = self.find_task(&command.task)?;
        if command.deadline.is_some_and(|deadline| deadline <= cx.now) {
            return Err(EngineError::DeadlineExceeded);
        }
        Ok((entry, task))
    }

    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        entry: SessionEntry,
        task: TaskIndex,
        command: SwitchCommand,
        reply: Reply<SwitchReport>,
    ) {
        let deadline = cx.deadline(command.deadline);
        let Some(reply) = self.answer_repeat(entry, task, &command, deadline, reply) else {
            return;
        };
        let Some(session) = self.session(entry) else { return };
        let actual = session.active.generation;
        if let Some(expected) = command.expected_generation.filter(|&expected| expected != actual) {
            return drop(reply.send(Err(EngineError::GenerationMismatch { expected, actual })));
        }
        self.fail(entry, &EngineError::Superseded);
        let mut callers = std::mem::take(&mut self.no_callers);
        callers.push(Caller { reply, deadline });
        if let Some(session) = self.session(entry) {
            let SwitchCommand { request_id, arrived, in_place, trace, caller, .. } = command;
            let (unheard_until, given_up, load) = (None, None, None);
            session.pending = Some(Pending {
                task,
                request_id,
                trace,
                caller,
                callers,
                unheard_until,
                arrived,
                in_place,
                given_up,
                load,
            });
        }
        self.start(cx, entry);
    }

    /// Answers a request that was met before, or lets it wait with the first one. Gives the reply
    /// back if the request is new.
    fn answer_repeat(
        &mut self,
        entry: SessionEntry,
        task: TaskIndex,
        command: &SwitchCommand,
        deadline: Duration,
        reply: Reply<SwitchReport>,
    ) -> Option<Reply<SwitchReport>> {
        let session = self.sessions[entry.number() as usize].as_mut()?;
        let Some(id) = &command.request_id else { return Some(reply) };
        let running = session.pending.as_mut().filter(|p| p.request_id.as_ref() == Some(id));
        let first = session.answers.get(id);
        let first_task = running.as_ref().map(|pending| pending.task);
        match (first_task.or(first.map(|answer| answer.task)), running, first) {
            (Some(first), ..) if first != task => {
                let _ = reply.send(Err(EngineError::RequestIdReused));
            }
            (_, Some(pending), _) => pending.join(Caller { reply, deadline }),
            (_, None, Some(answer)) => drop(reply.send(answer.result.clone())),
            (_, None, None) => return Some(reply),
        }
        None
    }

    /// Begins a switch that has a session to itself, if there is room for it.
    fn start(&mut self, cx: &mut Context<'_>, entry: SessionEntry) {
        let Some(session) = self.session(entry) else { return };
        let Some(Pending { task, given_up, .. }) = session.pending else { return };
        if session.active.task == Some(task) {
            self.answer_active(cx, entry);
            return self.withdraw();
        }
        let taken_up = cx.now;
        self.residency.pin(task);
        // What a superseded switch has queued goes, unless this one needs it too.
        self.withdraw();
        let needed = self.bundle().task(task).blocks as usize;
        let missing = self.residency.missing(task);
        if missing > 0 && !self.reads.may_try(cx.now, cx.limits) {
            self.residency.retract(task);
            return self.fail(entry, &EngineError::StorageUnavailable);
        }
        // What was given up makes room in this very step, or stays.
        given_up.into_iter().for_each(|old| self.residency.retract(old));
        let evicted = match self.load_missing(cx, task, missing) {
            Ok(evicted) => evicted,
            Err(NoRoomNow { absent }) => {
                let room = self.residency.room_without(self.prepared()).total();
                self.residency.retract(task);
                given_up.into_iter().for_each(|old| self.residency.pin(old));
                // What is prepared gives way, if that makes room.
                let no_room = self.no_room(absent, room);
                let made = absent <= room && self.end_preparations(&no_room, |_| true);
                return if made || self.give_up(cx.now, entry, task, absent) {
                    self.start(cx, entry);
                } else {
                    self.wait_for_room(entry, task, absent);
                };
            }
        };
        // What this switch takes, others cannot wait for.
        self.residency.note_room_change();
        let planned = cx.clock.now();
        if let Some(pending) = self.session(entry).and_then(|session| session.pending.as_mut()) {
            pending.load = Some(Load {
                reused: needed - missing,
                read: missing,
                evicted,
                taken_up,
                planned,
                last_read: planned,
            });
        }
        if missing == 0 {
            self.publish(cx, entry);
        }
    }

    fn answer_active(&mut self, cx: &mut Context<'_>, entry: SessionEntry) {
        let Some(session) = self.sessions[entry.number() as usize].as_mut() else { return };
        let Some(pending) = session.pending.take() else { return };
        let bundle = self.residency.bundle();
        let needed = bundle.task(pending.task).blocks as usize;
        let report = SwitchReport {
            generation: session.active.generation,
            outcome: Outcome::AlreadyActive,
            block_bytes: bundle.block().bytes(),
            needed,
            reused: needed,
            prefetched: 0,
            read: 0,
            evicted: 0,
            in_place: false,
            foreseen: None,
            timing: SwitchTiming {
                queue: cx.now.saturating_sub(pending.arrived),
                ..SwitchTiming::default()
            },
        };
        let from = session.active.task;
        self.answer(entry, from, pending, Ok(report));
    }

    /// Lets a switch wait if what takes its room now is on its way out; else refuses it.
    fn wait_for_room(&mut self, entry: SessionEntry, task: TaskIndex, absent: usize) {
        let available = self.eventual_room(entry, task, false);
        if absent <= available {
            if !self.waiting.contains(&entry) {
                self.waiting.push_back(entry);
            }
            return;
        }
        self.fail(entry, &self.no_room(absent, available));
    }

    pub(super) fn no_room(&self, absent: usize, available: usize) -> EngineError {
        let bytes = |blocks: usize| blocks as u64 * self.bundle().block().bytes();
        EngineError::NoRoom { needed_bytes: bytes(absent), available_bytes: bytes(available) }
    }

    /// Slots that the absent blocks of a session's next task could take once leases on old
    /// generations have ended, except those that were revoked, and reads that nobody waits for any
    /// more are done; if it is `in_place`, without its active task. What the session gave up is
    /// room for it alone.
    pub(super) fn eventual_room(
        &self,
        entry: SessionEntry,
        task: TaskIndex,
        in_place: bool,
    ) -> usize {
        let mut firm = vec![task];
        for session in self.open_sessions() {
            let is_own = session.entry == entry;
            let active = session.active.task.filter(|_| !(is_own && in_place));
            let pending = session.pending.as_ref();
            let given_up = pending.and_then(Pending::held).filter(|_| !is_own);
            let target = pending.filter(|pending| pending.load.is_some());
            let stuck = session.draining.iter().filter(|draining| draining.revoked);
            firm.extend(active.into_iter().chain(given_up));
            firm.extend(target.map(|pending| pending.task));
            firm.extend(stuck.map(|draining| draining.old.task));
        }
        let held = self.residency.held(firm.into_iter());
        let lost = self.residency.slots().counts().lost;
        (self.pool.layout().slots() as usize).saturating_sub(lost + held)
    }

    /// The commit point.
    pub(super) fn publish(&mut self, cx: &mut Context<'_>, entry: SessionEntry) {
        let Some(session) = self.sessions[entry.number() as usize].as_mut() else { return };
        let Some(Pending { load: Some(_), .. }) = session.pending else { return };
        let Some(pending) = session.pending.take() else { return };
        let Some(load) = &pending.load else { return };
        let begun = cx.clock.now();
        let from = session.active.task.or(pending.given_up);
        let generation = self.serve(cx.now, entry, Some(pending.task));
        let Some(session) = self.sessions[entry.number() as usize].as_mut() else { return };
        let prefetched = self.residency.use_ahead(pending.task);
        let foreseen = self.foresight.foreseen(session.outlook.likely(), pending.task, cx.now);
        if self.foresight.enabled {
            session.outlook.published(cx.now, pending.task);
        }
        let block_bytes = self.residency.bundle().block().bytes();
        self.foresight.published(cx.now, load.read, prefetched, block_bytes);
        let report = SwitchReport {
            generation,
            outcome: match (load.read, prefetched) {
                (0, _) => Outcome::Resident,
                (_, 0) => Outcome::Loaded,
                _ => Outcome::PartlyPrefetched,
            },
            block_bytes,
            needed: load.reused + load.read,
            reused: load.reused,
            prefetched,
            read: load.read,
            evicted: load.evicted,
            in_place: pending.given_up.is_some(),
            foreseen,
            timing: SwitchTiming {
                queue: load.taken_up.saturating_sub(pending.arrived),
                plan: load.planned.saturating_sub(load.taken_up),
                read: load.last_read.saturating_sub(load.planned),
                verify: begun.saturating_sub(load.last_read),
                publish: cx.clock.now().saturating_sub(begun),
            },
        };
        self.answer(entry, from, pending, Ok(report));
    }

    /// Changes what a session serves. The pin of the task that was active passes to its last
    /// readers; that of the new one is held already.
    pub(super) fn serve(
        &mut self,
        now: Duration,
        entry: SessionEntry,
        task: Option<TaskIndex>,
    ) -> Generation {
        let Some(session) = self.sessions[entry.number() as usize].as_mut() else {
            return Generation::NONE;
        };
        let old = session.active.task();
        let generation = session.active.generation.next();
        session.active = Active { generation, task };
        self.generations.latest = self.generations.latest.max(generation);
        self.residency.table().publish(entry, session.active);
        if let Some(old) = old {
            self.residency.touch(old.task);
            if !session.superseded(now, old) {
                self.residency.unpin(old.task);
            }
        }
        if let Some(task) = task {
            self.residency.touch(task);
        }
        if old.is_some() || task.is_some() {
            self.residency.note_room_change();
        }
        session.ring();
        generation
    }

    /// Ends a session's pending switch, if it has one, without effect.
    pub(super) fn fail(&mut self, entry: SessionEntry, error: &EngineError) {
        self.waiting.retain(|&waiting| waiting != entry);
        let Some(session) = self.session(entry) else { return };
        let Some(pending) = session.pending.take() else { return };
        if pending.load.is_some() {
            self.residency.unpin(pending.task);
        }
        let error = if self.take_back(entry, &pending) {
            error.clone()
        } else {
            EngineError::Emptied(Box::new(error.clone()))
        };
        let from = self.session(entry).and_then(|session| session.active.task);
        self.answer(entry, from, pending, Err(error));
    }

    fn answer(
        &mut self,
        entry: SessionEntry,
        from: Option<TaskIndex>,
        pending: Pending,
        result: SwitchResult,
    ) {
        let Pending { task, request_id, trace, caller, mut callers, .. } = pending;
        for caller in callers.drain(..) {
            // The switch is done whether or not its caller still waits.
            let _ = caller.reply.send(result.clone());
        }
        self.no_callers = callers;
        let Some(session) = self.sessions[entry.number() as usize].as_mut() else { return };
        if let Some(id) = &request_id {
            session.answers.put(self.now, id, Answer { task, result: result.clone() });
        }
        session.life.renewed = self.now;
        let session = session.name.clone();
        let end = SwitchEnd { session, from, task, request_id, trace, caller, result };
        self.events.push(EventKind::Switch(end));
    }

    /// Answers callers whose deadline has come, and ends switches that nobody waits for any more.
    pub(super) fn expire(&mut self, cx: &mut Context<'_>) {
        self.now = cx.now;
        let mut abandoned = Vec::new();
        for session in self.sessions.iter_mut().flatten() {
            let Some(pending) = &mut session.pending else { continue };
            if pending.is_over(cx.now) {
                abandoned.push(session.entry);
                continue;
            }
            for late in pending.callers.extract_if(.., |caller| caller.deadline <= cx.now) {
                let _ = late.reply.send(Err(EngineError::DeadlineExceeded));
            }
        }
        if !abandoned.is_empty() {
            let error = EngineError::DeadlineExceeded;
            abandoned.into_iter().for_each(|entry| self.fail(entry, &error));
            self.withdraw();
        }
        self.settle_preparations(cx.now);
    }

    /// Tries again to begin switches and preparations that wait for room, if room has changed.
    ///
    /// A trial without success changes no room, and each other one leaves fewer waiting switches,
    /// tasks that they can give up, preparations or queued reads; so it ends.
    pub(super) fn retry_waiting(&mut self, cx: &mut Context<'_>) {
        while self.residency.take_room_change() {
            self.foresight.room_changed(cx.now);
            for entry in std::mem::take(&mut self.waiting) {
                self.start(cx, entry);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let pending = self.open_sessions().filter_map(|session| session.pending.as_ref());
        pending.filter_map(Pending::next_deadline).chain(self.next_preparation_end()).min()
    }

    pub(super) fn is_switching(&self) -> bool {
        self.open_sessions().any(|session| session.pending.is_some())
    }

    pub(super) fn assert_pending_invariants(&self) {
        for session in self.open_sessions() {
            let Some(pending) = &session.pending else {
                assert!(!self.waiting.contains(&session.entry), "who waits has a switch");
                continue;
            };
            let none = session.active.task.is_none();
            assert!(none || pending.given_up.is_none(), "what is given up is not served");
            let blocks = self.bundle().task_blocks(pending.task);
            let Some(load) = &pending.load else {
                assert!(self.waiting.contains(&session.entry), "who cannot begin waits");
                continue;
            };
            let blocks_of_task = || blocks.ones().map(|block| BlockIndex(block as u32));
            let is_pinned = |block| self.residency.is_pinned(block);
            assert!(blocks_of_task().all(is_pinned), "what is loaded is pinned");
            assert!(self.residency.missing(pending.task) > 0, "what is complete is published");
            assert!(
                load.read + load.reused == blocks.count_ones(..),
                "all blocks are accounted for"
            );
            let mut there = self.residency.resident().clone();
            there.union_with(self.residency.loading());
            assert!(blocks.is_subset(&there), "what is missing is on its way");
        }
        let Room { free, evictable } = self.residency.room();
        assert!(free + evictable <= self.pool.layout().slots() as usize, "no slot counts twice");
    }
}
