//! A session: its active task, the clients that read it, and old generations that leases hold.

use super::{
    EngineError, EventKind, LeaseStatus, Likely, MemberId, Peer, SessionStatus, answers::Answers,
    lifetime::Life, outlook::Outlook, pending::Pending,
};
use crate::{
    admission::is_privileged,
    bundle::Bundle,
    device::{Active, ActiveTask, Cell, Doorbell, SessionEntry, lease::is_leased},
    predict::Forecast,
    units::{Generation, TaskIndex},
};
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

/// The session of calls that name none.
pub const DEFAULT_SESSION: &str = "default";

/// How often leases on old generations are looked at, at first and at last. Nothing is looked at
/// otherwise: a lease is a store in shared memory that tells nobody.
const LEASE_POLL: Duration = Duration::from_millis(2);
const SLOW_LEASE_POLL: Duration = Duration::from_millis(100);

/// Likely next tasks that a session's state tells.
const LIKELY_SHOWN: usize = 8;

/// One consumer's context.
pub struct Session {
    pub(super) name: Arc<str>,
    pub(super) entry: SessionEntry,
    pub(super) active: Active,
    pub(super) pending: Option<Pending>,
    pub(super) life: Life,
    /// Answers of requests that carried an id.
    pub(super) answers: Answers,
    /// Tasks that are not active any more but under lease; each holds its pin.
    pub(super) draining: Vec<Draining>,
    /// What is known of its next tasks.
    pub(super) outlook: Outlook,
    members: Vec<Member>,
}

/// A task that is not active any more, but was when a client began to read it.
pub(super) struct Draining {
    pub(super) old: ActiveTask,
    /// When it was superseded.
    pub(super) since: Duration,
    /// Whether its readers were told that they take too long. Nobody waits for them any more.
    pub(super) revoked: bool,
}

/// An attached client.
struct Member {
    id: MemberId,
    peer: Peer,
    cell: Cell,
    doorbell: Doorbell,
    /// Its attachment has ended, but its connection has not, and it may read under a lease.
    ended: bool,
    /// How often the doorbell is to ring.
    rings: u32,
}

impl Member {
    fn revoke(&mut self, generation: Generation) {
        // That its attachment has ended stays in its cell.
        if !self.ended {
            self.cell.revoke(generation);
            self.rings += 1;
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.cell.end();
        self.rings += 1;
    }

    fn leases(&self, generation: Generation) -> bool {
        is_leased(std::iter::once(self.cell.epoch()), generation)
    }
}

impl Session {
    pub(super) fn new(name: &str, entry: SessionEntry, outlook: Outlook, life: Life) -> Self {
        let (active, name) = (Self::START, name.into());
        let (draining, members, answers) = (Vec::new(), Vec::new(), Answers::default());
        Self { name, entry, active, pending: None, life, answers, draining, outlook, members }
    }

    /// What a session shows before its first switch.
    pub(super) const START: Active = Active { generation: Generation::NONE, task: None };

    /// Takes a client in and gives its cell and the end of the doorbell that it reads. One user has
    /// at most three quarters of the places.
    pub(super) fn join(
        &mut self,
        id: MemberId,
        peer: Peer,
        limit: usize,
    ) -> Result<(&Cell, OwnedFd), EngineError> {
        if self.members.len() >= limit {
            return Err(EngineError::TooManyClients(limit));
        }
        let per_user = (3 * limit).div_ceil(4);
        let of_user = self.members.iter().filter(|member| member.peer.uid == peer.uid).count();
        if of_user >= per_user && !is_privileged(peer.uid) {
            return Err(EngineError::TooManyClientsOfUser(per_user));
        }
        let cell = Cell::create().map_err(|_| EngineError::NoClientMemory)?;
        let (doorbell, bell) = Doorbell::create().map_err(|_| EngineError::NoClientMemory)?;
        self.members.push(Member { id, peer, cell, doorbell, ended: false, rings: 0 });
        Ok((&self.members[self.members.len() - 1].cell, bell))
    }

    /// Makes an attached client the owner, if the session is to have one and has none.
    pub(super) fn own(&mut self, id: MemberId, peer: Peer) {
        if self.life.lifetime.owned {
            self.life.owner.get_or_insert((id, peer));
        }
    }

    /// Tells these clients that their attachment has ended, and gives those for whom it stood until
    /// now. Their leases are still respected.
    pub(super) fn end_members(&mut self, which: impl Fn(&Peer) -> bool) -> Vec<(MemberId, Peer)> {
        let ends = |member: &&mut Member| !member.ended && which(&member.peer);
        let ended = self.members.iter_mut().filter(ends).map(|member| {
            member.end();
            (member.id, member.peer)
        });
        ended.collect()
    }

    /// Lets a client go, and tells who it was, if it was one of this session's.
    pub(super) fn leave(&mut self, id: MemberId) -> Option<Peer> {
        let place = self.members.iter().position(|member| member.id == id)?;
        let gone = self.members.remove(place);
        gone.cell.end();
        Some(gone.peer)
    }

    /// The clients whose attachment stands.
    pub(super) fn clients(&self) -> usize {
        self.members.iter().filter(|member| !member.ended).count()
    }

    /// Whether no client is connected any more.
    pub(super) fn is_vacant(&self) -> bool {
        self.members.is_empty()
    }

    /// Hands the pin of a task that was active to its last readers, if there are any.
    pub(super) fn superseded(&mut self, now: Duration, old: ActiveTask) -> bool {
        let epochs = self.members.iter().map(|member| member.cell.epoch());
        let leased = is_leased(epochs, old.generation);
        if leased {
            self.draining.push(Draining { old, since: now, revoked: false });
        }
        leased
    }

    /// Lets go of old generations that no client reads any more, and tells their tasks. Readers that
    /// take longer than `patience` are told so, once; the events say who they are.
    pub(super) fn settle(
        &mut self,
        now: Duration,
        patience: Duration,
        mut over: impl FnMut(TaskIndex),
    ) -> Vec<EventKind> {
        let (members, name) = (&mut self.members, &self.name);
        let mut events = Vec::new();
        self.draining.retain_mut(|draining| {
            let generation = draining.old.generation;
            let readers = members.iter_mut().filter(|member| member.leases(generation));
            let mut readers = readers.peekable();
            if readers.peek().is_none() {
                over(draining.old.task);
                return false;
            }
            if !draining.revoked && now.saturating_sub(draining.since) >= patience {
                draining.revoked = true;
                for member in readers {
                    member.revoke(generation);
                    let (session, peer, task) = (name.clone(), member.peer, draining.old.task);
                    events.push(EventKind::Revoked { session, peer, generation, task });
                }
            }
            true
        });
        events
    }

    /// When leases on old generations are to be looked at next: the longer the latest lasts, the less
    /// often, but in time to tell who takes too long.
    pub(super) fn next_look(&self, now: Duration, patience: Duration) -> Option<Duration> {
        let age = self.draining.iter().map(|draining| now.saturating_sub(draining.since)).min()?;
        let look = now + (age / 32).clamp(LEASE_POLL, SLOW_LEASE_POLL);
        let waited_for = self.draining.iter().filter(|draining| !draining.revoked);
        waited_for.map(|draining| draining.since.saturating_add(patience)).chain([look]).min()
    }

    /// Who keeps old generations from going. `kept_by` tells how many blocks stay for leases on a
    /// task alone.
    fn leases(
        &self,
        now: Duration,
        bundle: &Bundle,
        kept_by: impl Fn(TaskIndex) -> usize,
    ) -> Vec<LeaseStatus> {
        let mut leases = Vec::new();
        for Draining { old, since, revoked } in &self.draining {
            let kept = kept_by(old.task);
            let readers = self.members.iter().filter(|member| member.leases(old.generation));
            leases.extend(readers.map(|member| LeaseStatus {
                peer: member.peer,
                generation: old.generation,
                task: bundle.task(old.task).name.clone(),
                kept,
                block_bytes: bundle.block().bytes(),
                superseded_for: now.saturating_sub(*since),
                revoked: *revoked,
            }));
        }
        leases
    }

    /// Notes that all doorbells are to ring.
    pub(super) fn ring(&mut self) {
        self.members.iter_mut().for_each(|member| member.rings += 1);
    }

    /// Whether a doorbell is to ring.
    pub(super) fn has_rings(&self) -> bool {
        self.members.iter().any(|member| member.rings > 0)
    }

    /// Rings as often as was noted.
    pub(super) fn ring_now(&mut self) {
        for member in &mut self.members {
            (0..std::mem::take(&mut member.rings)).for_each(|_| member.doorbell.ring());
        }
    }

    pub(super) fn status(
        &self,
        now: Duration,
        bundle: &Bundle,
        kept_by: impl Fn(TaskIndex) -> usize,
    ) -> SessionStatus {
        let name = |task| bundle.task(task).name.clone();
        SessionStatus {
            model: bundle.model().to_owned(),
            session: self.name.to_string(),
            task: self.active.task.map(name),
            generation: self.active.generation,
            pending_task: self.pending.as_ref().map(|pending| name(pending.task)),
            clients: self.clients(),
            draining_generations: self.draining.len(),
            leases: self.leases(now, bundle, kept_by),
            likely: self.likely(bundle),
            confidence: self.outlook.predictor().confidence(),
            remaining: self.remaining(now),
            owned: self.life.lifetime.owned,
            owner: self.life.owner.map(|(_, peer)| peer),
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
