//! A session: its active task, the clients that read it, and old generations that leases hold.

use super::{EngineError, Likely, MemberId, SessionStatus, outlook::Outlook, pending::Pending};
use crate::{
    bundle::Bundle,
    device::{Active, ActiveTask, Doorbell, EpochCell, SessionEntry},
    predict::Forecast,
    units::{Generation, TaskIndex},
};
use std::{os::fd::OwnedFd, sync::Arc};

/// The session of calls that name none.
pub const DEFAULT_SESSION: &str = "default";

/// Likely next tasks that a session's state tells.
const LIKELY_SHOWN: usize = 8;

/// One consumer's context.
pub struct Session {
    pub(super) name: Arc<str>,
    pub(super) entry: SessionEntry,
    pub(super) active: Active,
    pub(super) pending: Option<Pending>,
    /// Tasks that are not active any more but under lease; each holds its pin.
    pub(super) draining: Vec<ActiveTask>,
    /// What is known of its next tasks.
    pub(super) outlook: Outlook,
    members: Vec<Member>,
}

/// An attached client.
struct Member {
    id: MemberId,
    cell: EpochCell,
    doorbell: Doorbell,
}

impl Session {
    pub(super) fn new(name: &str, entry: SessionEntry, outlook: Outlook) -> Self {
        let (active, name) = (Self::START, name.into());
        let (draining, members) = (Vec::new(), Vec::new());
        Self { name, entry, active, pending: None, draining, outlook, members }
    }

    /// What a session shows before its first switch.
    pub(super) const START: Active = Active { generation: Generation::NONE, task: None };

    /// Takes a client in and gives its cell and the end of the doorbell that it reads.
    pub(super) fn join(
        &mut self,
        id: MemberId,
        limit: usize,
    ) -> Result<(&EpochCell, OwnedFd), EngineError> {
        if self.members.len() >= limit {
            return Err(EngineError::TooManyClients(limit));
        }
        let cell = EpochCell::create().map_err(|_| EngineError::NoClientMemory)?;
        let (doorbell, bell) = Doorbell::create().map_err(|_| EngineError::NoClientMemory)?;
        self.members.push(Member { id, cell, doorbell });
        Ok((&self.members[self.members.len() - 1].cell, bell))
    }

    pub(super) fn leave(&mut self, id: MemberId) {
        self.members.retain(|member| member.id != id);
    }

    pub(super) fn clients(&self) -> usize {
        self.members.len()
    }

    /// Whether a client announces that it reads this generation.
    pub(super) fn leases(&self, generation: Generation) -> bool {
        self.members.iter().any(|member| member.cell.leased() == generation)
    }

    /// Lets go of old generations that no client reads any more, and tells their tasks.
    pub(super) fn settle(&mut self, mut over: impl FnMut(TaskIndex)) {
        let members = &self.members;
        self.draining.retain(|old| {
            let held = members.iter().any(|member| member.cell.leased() == old.generation);
            if !held {
                over(old.task);
            }
            held
        });
    }

    pub(super) fn ring(&self) {
        self.members.iter().for_each(|member| member.doorbell.ring());
    }

    pub(super) fn status(&self, bundle: &Bundle) -> SessionStatus {
        let name = |task| bundle.task(task).name.clone();
        SessionStatus {
            model: bundle.model().to_owned(),
            session: self.name.to_string(),
            task: self.active.task.map(name),
            generation: self.active.generation,
            pending_task: self.pending.as_ref().map(|pending| name(pending.task)),
            clients: self.clients(),
            draining_generations: self.draining.len(),
            likely: self.likely(bundle),
            confidence: self.outlook.predictor().confidence(),
        }
    }

    fn likely(&self, bundle: &Bundle) -> Vec<Likely> {
        let likely = |next: &Forecast| Likely {
            task: bundle.task(next.task).name.clone(),
            probability: next.probability,
            expected: next.expected,
        };
        self.outlook.likely().iter().take(LIKELY_SHOWN).map(likely).collect()
    }
}
