//! Tasks that somebody wants loaded without making them active. They are pinned while they are
//! loaded, and for as long as was asked; but a switch that needs their room gets it.

use super::{
    EngineError, EventKind, Peer, PrepareCommand, PrepareReport, Reply,
    model::{Context, Model},
};
use crate::units::TaskIndex;
use std::time::Duration;

/// Callers that wait for preparations of one model.
const MAX_WAITERS: usize = 256;

/// A task that is prepared, pinned until it ends.
pub(super) struct Preparation {
    task: TaskIndex,
    /// Who waits for it to be there.
    waiting: Vec<Waiter>,
    /// Until when it stays, once it is there.
    held_until: Duration,
}

struct Waiter {
    reply: Reply<PrepareReport>,
    deadline: Duration,
    arrived: Duration,
    hold: Duration,
    reused: usize,
    caller: Option<Peer>,
}

impl Model {
    pub(super) fn prepare(
        &mut self,
        cx: &Context<'_>,
        command: PrepareCommand,
        reply: Reply<PrepareReport>,
    ) {
        match self.admit_preparation(cx, &command) {
            Err(error) => drop(reply.send(Err(error))),
            Ok(task) => {
                let deadline = cx.deadline(command.deadline);
                let needed = self.bundle().task(task).blocks as usize;
                let reused = needed - self.residency.missing(task);
                let PrepareCommand { hold, arrived, caller, .. } = command;
                let waiter = Waiter { reply, deadline, arrived, hold, reused, caller };
                self.preparation(task).waiting.push(waiter);
                // It changes what may go.
                self.foresight.stock = None;
                self.foresight.begin_preparation(cx.now);
                self.settle_preparations(cx.now);
            }
        }
    }

    fn admit_preparation(
        &mut self,
        cx: &Context<'_>,
        command: &PrepareCommand,
    ) -> Result<TaskIndex, EngineError> {
        let task = self.find_task(&command.task)?;
        if self.waiters() >= MAX_WAITERS {
            self.drop_unheard();
            if self.waiters() >= MAX_WAITERS {
                return Err(EngineError::TooManyCallers(MAX_WAITERS));
            }
        }
        if command.deadline.is_some_and(|deadline| deadline <= cx.now) {
            return Err(EngineError::DeadlineExceeded);
        }
        // What it has in the pool is pinned from now on, and makes no room.
        let room = self.residency.room_for(task).total();
        let absent = self.residency.absent(task).count();
        // Some of the room is promised to others.
        let others = self.preparing().into_iter().filter(|other| *other != task);
        let promised = others.map(|other| self.residency.absent(other).count()).sum();
        let available = room.saturating_sub(promised);
        if absent > available { Err(self.no_room(absent, available)) } else { Ok(task) }
    }

    fn waiters(&self) -> usize {
        self.preparations.iter().map(|held| held.waiting.len()).sum()
    }

    /// Drops callers that nobody listens to any more. Their preparations go on, and hold the task for
    /// as long as the last of them could have wanted.
    fn drop_unheard(&mut self) {
        for held in &mut self.preparations {
            let closed = held.waiting.extract_if(.., |waiter| waiter.reply.is_closed());
            let until = closed.map(|waiter| waiter.deadline.saturating_add(waiter.hold)).max();
            held.held_until = held.held_until.max(until.unwrap_or_default());
        }
    }

    fn preparation(&mut self, task: TaskIndex) -> &mut Preparation {
        let at = self.preparations.iter().position(|held| held.task == task);
        let at = at.unwrap_or_else(|| {
            self.residency.pin(task);
            let (waiting, held_until) = (Vec::new(), Duration::ZERO);
            self.preparations.push(Preparation { task, waiting, held_until });
            self.preparations.len() - 1
        });
        &mut self.preparations[at]
    }

    /// The tasks that are prepared, each once.
    pub(super) fn prepared(&self) -> impl Iterator<Item = TaskIndex> {
        self.preparations.iter().map(|held| held.task)
    }

    /// The tasks that are to be loaded.
    pub(super) fn preparing(&self) -> Vec<TaskIndex> {
        self.prepared().filter(|task| self.residency.missing(*task) > 0).collect()
    }

    /// Answers those whose task is there or whose time is over, and lets go of what nobody waits
    /// for or wants held.
    pub(super) fn settle_preparations(&mut self, now: Duration) {
        if self.preparations.is_empty() {
            return;
        }
        let bundle = self.bundle().clone();
        let Self { residency, foresight, preparations, events, .. } = self;
        preparations.retain_mut(|held| {
            let needed = bundle.task(held.task).blocks as usize;
            let is_there = residency.missing(held.task) == 0;
            let over = |waiter: &mut Waiter| is_there || waiter.deadline <= now;
            for waiter in held.waiting.extract_if(.., over) {
                let Waiter { reply, arrived, hold, reused, caller, .. } = waiter;
                let block_bytes = bundle.block().bytes();
                let took = now.saturating_sub(arrived);
                let report = PrepareReport { block_bytes, needed, reused, took };
                if is_there {
                    held.held_until = held.held_until.max(now.saturating_add(hold));
                }
                let result = if is_there { Ok(report) } else { Err(EngineError::DeadlineExceeded) };
                let _ = reply.send(result.clone());
                events.push(EventKind::Prepared { task: held.task, caller, result });
            }
            let stays = !held.waiting.is_empty() || held.held_until > now;
            if !stays {
                residency.unpin(held.task);
                // There is room for others now.
                foresight.changed(now);
            }
            stays
        });
    }

    /// Ends preparations, and says whether there were any.
    pub(super) fn end_preparations(
        &mut self,
        error: &EngineError,
        ends: impl Fn(TaskIndex) -> bool,
    ) -> bool {
        let ended: Vec<_> = self.preparations.extract_if(.., |held| ends(held.task)).collect();
        let any = !ended.is_empty();
        for Preparation { task, waiting, .. } in ended {
            self.residency.unpin(task);
            for waiter in waiting {
                let Waiter { reply, caller, .. } = waiter;
                let _ = reply.send(Err(error.clone()));
                self.events.push(EventKind::Prepared { task, caller, result: Err(error.clone()) });
            }
        }
        any
    }

    pub(super) fn next_preparation_end(&self) -> Option<Duration> {
        let ends = |held: &Preparation| {
            let deadline = held.waiting.iter().map(|waiter| waiter.deadline).min();
            deadline.unwrap_or(held.held_until)
        };
        self.preparations.iter().map(ends).min()
    }
}
