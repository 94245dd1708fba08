//! A model that is served: its bundle, its arena of pool memory, its sessions.

use super::{
    Effect, EngineError, EventKind, Limits, MemberId, Membership, ModelStatus, Peer, PoolStatus,
    PrefetchStatus, Serving, SessionEnd, SessionStatus, check_name,
    clock::Clock,
    foresight::{Counts, Foresight},
    keep::Generations,
    lifetime::{Life, Lifetime},
    outlook::Outlook,
    pending::{Caller, Pending, Waiting},
    prepare::Preparation,
    reads::Reads,
    session::{DEFAULT_SESSION, Session},
    shelf::Shelf,
};
use crate::{
    bundle::Bundle,
    config::{PrefetchConfig, StorageConfig},
    device::{MAX_SESSIONS, Pool, Roster, SessionEntry, SharedIndex},
    residency::Residency,
    storage::{self, BlockFile, Resources},
    units::{BlockIndex, TaskIndex},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

pub(super) const SESSION_NAME: &str = "a session's name";

/// The bundle's task of this name, which somebody has written.
pub fn find_task(bundle: &Bundle, name: &str) -> Result<TaskIndex, EngineError> {
    check_name("a task's name", name)?;
    bundle.find_task(name).ok_or_else(|| EngineError::UnknownTask {
        name: name.into(),
        known: bundle.task_indices().map(|task| bundle.task(task).name.clone()).collect(),
    })
}

/// A loaded model. One model's pool is no other's: none can starve another.
pub struct Model {
    pub(super) file: Arc<BlockFile>,
    /// The bundle's index, for clients.
    index: SharedIndex,
    /// The sessions' names, for a daemon that comes after this one.
    pub(super) roster: Roster,
    pub(super) pool: Pool,
    pub(super) residency: Residency,
    pub(super) reads: Reads,
    /// By place in the table.
    pub(super) sessions: Vec<Option<Session>>,
    /// Sessions whose switch waits for room, in the order of their calls.
    pub(super) waiting: Waiting,
    /// Tasks that are loaded, or held, without being active.
    pub(super) preparations: Vec<Preparation>,
    pub(super) foresight: Foresight,
    pub(super) shelf: Shelf,
    /// What one more request costs on the device, in bytes that could be read meanwhile.
    pub(super) request_bytes: u64,
    /// Blocks that were read again after a first failure.
    pub(super) read_again: u64,
    /// Blocks that did not match their checksum when they were read.
    pub(super) mismatched: u64,
    /// What has happened and nobody was told yet.
    pub(super) events: Vec<EventKind>,
    pub(super) generations: Generations,
    /// When the current action was taken up.
    pub(super) now: Duration,
    /// A list that the next switch uses, so that it need not get memory for one.
    pub(super) no_callers: Vec<Caller>,
}

/// What a step of a model may use.
pub(super) struct Context<'a> {
    /// When the action was taken up.
    pub(super) now: Duration,
    /// The model's number in the engine.
    pub(super) index: usize,
    pub(super) clock: &'a dyn Clock,
    pub(super) limits: &'a Limits,
    pub(super) effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    /// When a command gives up: when its caller does, or at the configured limit.
    pub(super) fn deadline(&self, asked: Option<Duration>) -> Duration {
        let cap = self.now.saturating_add(self.limits.switch_timeout);
        asked.map_or(cap, |asked| asked.min(cap))
    }
}

impl Model {
    /// A model with an empty pool and its default session.
    pub(super) fn new(
        file: Arc<BlockFile>,
        index: SharedIndex,
        roster: Roster,
        pool: Pool,
        residency: Residency,
    ) -> Self {
        let mut sessions: Vec<_> = (0..MAX_SESSIONS).map(|_| None).collect();
        let shelf = Shelf::new(residency.bundle());
        let outlook = Outlook::new(shelf.fresh());
        sessions[0] = SessionEntry::new(0).map(|entry| {
            roster.note(entry, Some(DEFAULT_SESSION));
            let life = Life::new(Duration::ZERO, Lifetime::default());
            Session::new(DEFAULT_SESSION, entry, outlook, life)
        });
        let request_bytes = residency.bundle().meta().layout.request_bytes;
        Self {
            file,
            index,
            roster,
            pool,
            residency,
            reads: Reads::default(),
            sessions,
            waiting: Waiting::default(),
            preparations: Vec::new(),
            foresight: Foresight::new(&PrefetchConfig::default()),
            shelf,
            request_bytes,
            read_again: 0,
            mismatched: 0,
            events: Vec::new(),
            generations: Generations::NONE,
            now: Duration::ZERO,
            no_callers: Vec::new(),
        }
    }

    /// Measures what one more request costs here; until then it is what the bundle was laid out
    /// for. Gives the bytes that could be read meanwhile.
    pub fn measure(&mut self, config: &StorageConfig) -> u64 {
        let bundle = self.bundle();
        let (first, block_bytes) = (bundle.block_offset(BlockIndex(0)), bundle.block().bytes());
        let region = first..first + bundle.len() as u64 * block_bytes;
        if let Some(bytes) = storage::request_bytes(config, &self.file, region, block_bytes) {
            self.request_bytes = bytes;
        }
        self.request_bytes
    }

    /// Sets what one more request costs, in bytes that could be read meanwhile.
    pub fn set_request_bytes(&mut self, bytes: u64) {
        self.request_bytes = bytes;
    }

    /// What the model reads from and into.
    pub fn resources(&self) -> Resources {
        Resources { files: vec![self.file.clone()], pools: vec![self.pool.clone()] }
    }

    /// The bundle that is served.
    pub fn bundle(&self) -> &Arc<Bundle> {
        self.residency.bundle()
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        self.bundle().model()
    }

    /// The session of this name; an empty name means the default one.
    pub(super) fn find_session(&self, name: &str) -> Result<SessionEntry, EngineError> {
        let name = if name.is_empty() { DEFAULT_SESSION } else { name };
        check_name(SESSION_NAME, name)?;
        let found = self.served_sessions().find(|session| &*session.name == name);
        found.map(|session| session.entry).ok_or_else(|| EngineError::UnknownSession {
            name: name.into(),
            known: self.served_sessions().map(|session| session.name.to_string()).collect(),
        })
    }

    /// The task of this name.
    pub(super) fn find_task(&self, name: &str) -> Result<TaskIndex, EngineError> {
        find_task(self.bundle(), name)
    }

    /// All sessions that may hold pins.
    pub(super) fn open_sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().flatten()
    }

    /// The sessions that calls can name: all but those that have ended.
    pub(super) fn served_sessions(&self) -> impl Iterator<Item = &Session> {
        self.open_sessions().filter(|session| !session.life.ended)
    }

    pub(super) fn session(&mut self, entry: SessionEntry) -> Option<&mut Session> {
        self.sessions[entry.number() as usize].as_mut()
    }

    /// Closes a session that no client is attached to.
    pub(super) fn close_session(
        &mut self,
        cx: &Context<'_>,
        name: &str,
        caller: Option<Peer>,
    ) -> Result<(), EngineError> {
        let entry = self.find_session(name)?;
        let Some(session) = self.session(entry) else { return Ok(()) };
        if &*session.name == DEFAULT_SESSION {
            return Err(EngineError::DefaultSession);
        }
        if session.clients() > 0 {
            let (name, clients) = (session.name.to_string(), session.clients());
            return Err(EngineError::SessionInUse { name, clients });
        }
        self.end_session(cx, entry, SessionEnd::Call(caller));
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        now: Duration,
        session: &str,
        member: MemberId,
        peer: Peer,
        limit: usize,
    ) -> Result<Membership, EngineError> {
        let entry = self.called_session(now, session)?;
        let duplicate = |fd: &dyn AsFd| -> Result<OwnedFd, EngineError> {
            fd.as_fd().try_clone_to_owned().map_err(|_| EngineError::NoClientMemory)
        };
        let pool = duplicate(&self.pool)?;
        let table = duplicate(self.residency.table())?;
        let index = duplicate(&self.index)?;
        let Some(session) = self.session(entry) else { return Err(EngineError::Stopped) };
        let name = session.name.clone();
        let (cell, doorbell) = session.join(member, peer, limit)?;
        match duplicate(cell) {
            Ok(cell) => {
                session.own(member, peer);
                self.events.push(EventKind::Attached { session: name, peer });
                Ok(Membership { member, entry, pool, table, index, cell, doorbell })
            }
            Err(error) => {
                session.leave(member);
                Err(error)
            }
        }
    }

    pub(super) fn trim(&mut self, blocks: usize) -> usize {
        self.residency.trim(blocks)
    }

    /// When leases on old generations are to be looked at next, if there are any.
    pub(super) fn looks_at_leases(&self, limits: &Limits, now: Duration) -> Option<Duration> {
        let patience = limits.lease_patience;
        self.open_sessions().filter_map(|session| session.next_look(now, patience)).min()
    }

    /// Lets go of old generations that no client reads any more.
    pub(super) fn settle_leases(&mut self, cx: &Context<'_>) {
        for session in self.sessions.iter_mut().flatten() {
            let (patience, residency) = (cx.limits.lease_patience, &mut self.residency);
            let foresight = &mut self.foresight;
            let revoked = session.settle(cx.now, patience, |task| {
                residency.unpin(task);
                foresight.changed(cx.now);
            });
            // Nobody waits for readers whose lease is revoked.
            if !revoked.is_empty() {
                residency.note_room_change();
            }
            self.events.extend(revoked);
        }
    }

    /// The model's state.
    pub fn status(&self, now: Duration) -> ModelStatus {
        let mut sessions: Vec<_> =
            self.served_sessions().map(|session| self.session_status(now, session)).collect();
        sessions.sort_by(|a, b| a.session.cmp(&b.session));
        ModelStatus {
            name: self.name().to_owned(),
            bundle_id: self.bundle().id().to_string(),
            pool: self.pool_status(),
            sessions,
            missing: self.bundle().task_indices().map(|t| self.residency.missing(t)).collect(),
            evicted: self.residency.evicted(),
            quarantined: self.residency.quarantined().count_ones(..),
            read_again: self.read_again,
            mismatched: self.mismatched,
            request_bytes: self.request_bytes,
            direct_io: self.file.direct(),
            stalled_for: self.reads.stalled_for(now),
            prefetch: self.prefetch_status(),
        }
    }

    /// What the sessions serve.
    pub(super) fn serving(&self) -> impl Iterator<Item = Serving> {
        self.served_sessions().map(|session| Serving {
            bundle: self.bundle().clone(),
            session: session.name.clone(),
            task: session.active.task,
        })
    }

    /// The pool's state.
    pub fn pool_status(&self) -> PoolStatus {
        let layout = self.pool.layout();
        let slots = self.residency.slots().counts();
        PoolStatus {
            slot_bytes: layout.slot_bytes(),
            base_bytes: layout.base_bytes(),
            slots,
            pinned: slots.resident - self.residency.room().evictable,
            locked: self.pool.locked(),
            huge_bytes: self.pool.huge_bytes(),
        }
    }

    pub(super) fn session_status(&self, now: Duration, session: &Session) -> SessionStatus {
        session.status(now, self.bundle(), |task| self.kept_by_leases(task))
    }

    /// How many blocks stay in the pool for leases on old generations of this task alone. Who gave
    /// the task up holds it only until there is room.
    fn kept_by_leases(&self, task: TaskIndex) -> usize {
        let draining = self.open_sessions().flat_map(|session| &session.draining);
        let leased = draining.filter(|draining| draining.old.task == task).count();
        let held = self.given_up().filter(|held| *held == task).count();
        self.residency.pinned_by(task, leased + held)
    }

    /// What sessions gave up and still hold.
    fn given_up(&self) -> impl Iterator<Item = TaskIndex> {
        let pending = self.open_sessions().filter_map(|session| session.pending.as_ref());
        pending.filter_map(Pending::held)
    }

    fn prefetch_status(&self) -> PrefetchStatus {
        let Counts { switches, hits, loaded, used, late, read, ignored_hints } =
            self.foresight.counts;
        PrefetchStatus {
            switches,
            hits,
            loaded,
            used,
            wasted: self.residency.ahead().wasted(),
            late,
            waiting: self.residency.ahead().waiting() as u64,
            read,
            budget_bytes: self.foresight.budget.left(),
            ignored_hints,
            prepared: self.preparations.len(),
        }
    }

    pub(super) fn assert_invariants(&self) {
        self.residency.assert_invariants();
        for session in self.open_sessions() {
            let leased = session.draining.iter().map(|draining| draining.old.task);
            let held = session.pending.as_ref().and_then(Pending::held);
            for task in session.active.task.into_iter().chain(leased).chain(held) {
                let blocks = self.bundle().task_blocks(task);
                assert!(blocks.is_subset(self.residency.resident()), "what is held is there");
                let mut blocks = blocks.ones().map(|block| BlockIndex(block as u32));
                assert!(blocks.all(|block| self.residency.is_pinned(block)), "and is pinned");
            }
        }
        self.assert_pending_invariants();
        for task in self.bundle().task_indices() {
            let pins = self.residency.pins(task);
            assert_eq!(pins, self.holders(task), "a pin for each who holds the task");
        }
    }

    /// How often a task is active, leased, given up but held, on its way, or prepared.
    fn holders(&self, task: TaskIndex) -> usize {
        let held = self.open_sessions().flat_map(|session| {
            let leased = session.draining.iter().map(|draining| draining.old.task);
            let loading = session.pending.as_ref().filter(|pending| pending.load.is_some());
            let loading = loading.map(|pending| pending.task);
            session.active.task.into_iter().chain(leased).chain(loading)
        });
        held.chain(self.given_up()).chain(self.prepared()).filter(|held| *held == task).count()
    }
}
