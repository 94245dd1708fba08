//! The engine: one owner of residency, sessions and plans, and one loop that applies actions.
//!
//! [`Engine::apply`] is synchronous and takes no locks: it changes the state, answers whom it can
//! answer, and leaves [`Effect`]s, all reading and verifying, to be carried out. Of system calls it
//! makes those that give an attaching client its descriptors; doorbells ring afterwards. So
//! whatever happens in between, a caller that goes away or a read that fails, finds the engine
//! between two actions, where its invariants hold. [`run`] feeds it in the daemon; tests feed it a
//! simulated store and clock.

mod action;
mod adopt;
mod ahead;
mod answers;
mod budget;
mod clock;
mod error;
mod event;
mod foresight;
mod in_place;
mod keep;
mod lifetime;
mod load;
mod loading;
mod model;
mod outlook;
mod pending;
mod picture;
mod plan;
mod prepare;
mod reads;
mod run;
mod session;
mod shelf;
mod status;
mod switch;
mod verify;

pub use action::{
    Action, Command, Effect, Foreseen, Hint, HintCommand, HintReport, Learnt, MemberId, Membership,
    Outcome, Peer, PrepareCommand, PrepareReport, Reply, SwitchCommand, SwitchReport, SwitchTiming,
    Target,
};
pub use adopt::{Adopted, Estate, Lacking, Predecessor, PredecessorError};
pub use clock::{Clock, Monotonic};
pub use error::{EngineError, LISTED_NAMES};
pub use event::{Event, EventKind, SwitchEnd, TraceContext};
pub use keep::{KeptSession, KeptSessions};
pub use lifetime::{Lifetime, SessionEnd};
pub use load::{LoadError, ModelSpec};
pub use model::{Model, find_task};
pub use picture::{Cell, CellState, Picture, Transition};
pub use run::{EventSink, EventSource, Handle, RunError, Runtime, StorageStatus, events, run};
pub use session::{DEFAULT_SESSION, Session};
pub use status::{
    LeaseStatus, Likely, ModelStatus, PoolStatus, PrefetchStatus, Serving, SessionStatus,
};
pub use verify::{Verified, Verify};

use crate::{
    bundle::{Bundle, MAX_NAME_LEN, is_name},
    config::PrefetchConfig,
    storage::Completion,
};
use foresight::Foresight;
use model::Context;
use std::{sync::Arc, time::Duration};

/// What bounds the engine's work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Reads of a model under way at once.
    pub reads_in_flight: usize,
    /// Largest read, in bytes; at least one block is read at once.
    pub read_bytes: u64,
    /// How long nothing may end of what is under way before the device is held not to answer.
    pub stall: Duration,
    /// How long a switch may take when its caller sets no earlier deadline.
    pub switch_timeout: Duration,
    /// Clients attached to a session at once.
    pub clients_per_session: usize,
    /// How long switches wait for leases on old generations.
    pub lease_patience: Duration,
    /// What may be loaded ahead.
    pub prefetch: PrefetchConfig,
}

/// The owner of all state.
pub struct Engine {
    clock: Arc<dyn Clock>,
    limits: Limits,
    models: Vec<Model>,
    effects: Vec<Effect>,
    next_member: u64,
    draining: bool,
}

impl Engine {
    /// An engine that serves these models, whose names differ.
    pub fn new(mut models: Vec<Model>, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let (effects, next_member) = (Vec::new(), 1);
        for model in &mut models {
            model.foresight = Foresight::new(&limits.prefetch);
            if model.open_sessions().any(|session| session.active.task.is_some()) {
                model.foresight.changed(clock.now());
            }
        }
        Self { clock, limits, models, effects, next_member, draining: false }
    }

    /// Applies one action and gives what is to be done because of it.
    pub fn apply(&mut self, action: Action) -> Vec<Effect> {
        let now = self.clock.now();
        let is_command = matches!(action, Action::Command(_));
        self.each_model(now, Model::expire);
        self.each_model(now, Model::close_expired);
        // Commands go by what is so now, not by what was when leases were looked at last.
        self.each_model(now, |model, cx| model.settle_leases(cx));
        match action {
            Action::Command(command) => self.command(now, command),
            Action::ReadDone(completion) => self.read_done(now, completion),
            Action::Verified(verified) => {
                let model = verified.model;
                self.with_model(now, model, |model, cx| model.verified(cx, verified));
            }
            Action::Tick => {}
        }
        self.each_model(now, Model::break_off_if_stalled);
        // Not only when a tick comes: under a steady flow of actions none would.
        self.each_model(now, |model, cx| model.settle_leases(cx));
        self.each_model(now, Model::retry_waiting);
        self.each_model(now, Model::pump);
        if !is_command || self.models.iter().any(|model| model.looks_late(now)) {
            self.look_ahead(now);
        } else if self.is_quiet() {
            self.models.iter_mut().for_each(|model| model.foresight.quiet(now));
        }
        std::mem::take(&mut self.effects)
    }

    /// Whether there are doorbells to [ring](Self::ring).
    pub fn has_rings(&self) -> bool {
        self.models.iter().flat_map(Model::open_sessions).any(Session::has_rings)
    }

    /// Rings the doorbells of clients whose session has changed or whose lease was revoked. Each ring
    /// is a system call, so callers get their answers first.
    pub fn ring(&mut self) {
        let sessions = self.models.iter_mut().flat_map(|model| &mut model.sessions);
        sessions.flatten().for_each(Session::ring_now);
    }

    /// What has happened since this was asked last.
    pub fn events(&mut self) -> impl Iterator<Item = Event> {
        let at = self.clock.now();
        self.models.iter_mut().flat_map(move |model| {
            let bundle = model.bundle().clone();
            model.events.drain(..).map(move |kind| Event { at, bundle: bundle.clone(), kind })
        })
    }

    /// When [`Action::Tick`] is due at the latest, if nothing else happens.
    pub fn next_tick(&self) -> Option<Duration> {
        let deadlines = self.models.iter().filter_map(Model::next_deadline);
        let now = self.clock.now();
        let leases = self.models.iter().filter_map(|m| m.looks_at_leases(&self.limits, now));
        let stalls = self.models.iter().filter_map(|model| model.stalls_at(&self.limits));
        let ahead = self.models.iter().filter_map(Model::looks_ahead_at);
        let sessions = self.models.iter().filter_map(Model::next_session_end);
        deadlines.chain(ahead).chain(stalls).chain(leases).chain(sessions).min()
    }

    /// What is to be stored of each model's sessions, with the model's name.
    pub fn kept(&self) -> Vec<(String, KeptSessions)> {
        self.models.iter().map(|model| (model.name().to_owned(), model.kept())).collect()
    }

    /// Whether the engine was told to finish, and has.
    pub fn is_drained(&self) -> bool {
        let is_idle = |model: &Model| model.reads.is_idle() && !model.is_switching();
        self.draining && self.models.iter().all(is_idle)
    }

    /// Words and blocks that were looked at so far to find room or to find what lacks; for tests.
    pub fn work(&self) -> u64 {
        self.models.iter().map(|model| model.residency.work()).sum()
    }

    /// Checks what must hold between any two actions; for tests.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn assert_invariants(&self) {
        for model in &self.models {
            model.assert_invariants();
            model.reads.assert_invariants(&self.limits);
        }
    }

    fn command(&mut self, now: Duration, command: Command) {
        match command {
            Command::Switch(_, reply) if self.draining => {
                let _ = reply.send(Err(EngineError::Draining));
            }
            Command::Switch(command, reply) => match self.find(&command.target.model) {
                Ok(model) => self.with_model(now, model, |m, cx| m.switch(cx, command, reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Hint(HintCommand { target, hints }, reply) => {
                let model = self.find(&target.model);
                let hinted = model.and_then(|model| {
                    let model = &mut self.models[model];
                    let entry = model.called_session(now, &target.session)?;
                    Ok(model.hint(now, entry.number() as usize, &hints))
                });
                let _ = reply.send(hinted);
            }
            Command::Prepare(_, reply) if self.draining => {
                let _ = reply.send(Err(EngineError::Draining));
            }
            Command::Prepare(command, reply) => match self.find(&command.model) {
                Ok(model) => self.with_model(now, model, |m, cx| m.prepare(cx, command, reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Learnt { reply } => {
                let _ = reply.send(Ok(self.models.iter_mut().map(Model::learnt).collect()));
            }
            Command::OpenSession { target: Target { model, session }, lifetime, opener, reply } => {
                let model = self.find(&model);
                let opened = model
                    .and_then(|m| self.models[m].open_session(now, &session, lifetime, opener));
                let _ = reply.send(opened);
            }
            Command::CloseSession { target, caller, reply } => match self.find(&target.model) {
                Ok(model) => self.with_model(now, model, |model, cx| {
                    let _ = reply.send(model.close_session(cx, &target.session, caller));
                }),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Attach { reply, .. } if self.draining => {
                let _ = reply.send(Err(EngineError::Draining));
            }
            Command::Attach { target, peer, reply } => self.attach(now, &target, peer, reply),
            Command::Detach(member) => self.each_model(now, |m, cx| m.detach(cx, member)),
            Command::EndAttachment { target, pid, caller, reply } => {
                match self.find(&target.model) {
                    Ok(model) => self.with_model(now, model, |model, cx| {
                        let _ = reply.send(model.end_attachment(cx, &target.session, pid, caller));
                    }),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::ListModels { reply } => {
                let _ = reply.send(Ok(self.bundles().cloned().collect()));
            }
            Command::Status { model, reply } => {
                let _ = reply.send(self.status(now, &model));
            }
            Command::Picture { model, reply } => {
                let _ = reply.send(self.find(&model).map(|model| self.models[model].picture()));
            }
            Command::Kept { reply } => drop(reply.send(Ok(self.kept()))),
            Command::Serving { reply } => {
                let _ = reply.send(Ok(self.models.iter().flat_map(Model::serving).collect()));
            }
            Command::Configure(limits) => {
                self.models.iter_mut().for_each(|m| m.foresight.configure(now, &limits.prefetch));
                self.limits = limits;
            }
            Command::Trim { model, blocks, reply } => {
                let trimmed = self.find(&model).map(|model| self.models[model].trim(blocks));
                let _ = reply.send(trimmed);
            }
            Command::Drain => {
                self.draining = true;
                for model in &mut self.models {
                    model.end_preparations(&EngineError::Draining, |_| true);
                }
            }
        }
    }

    fn attach(&mut self, now: Duration, target: &Target, peer: Peer, reply: Reply<Membership>) {
        let member = MemberId(self.next_member);
        self.next_member += 1;
        let limit = self.limits.clients_per_session;
        let attached = self
            .find(&target.model)
            .and_then(|model| self.models[model].attach(now, &target.session, member, peer, limit));
        // A caller that has gone leaves no member behind.
        if reply.send(attached).is_err() {
            self.each_model(now, |model, cx| model.detach(cx, member));
        }
    }

    fn status(&self, now: Duration, model: &str) -> Result<Vec<ModelStatus>, EngineError> {
        if model.is_empty() {
            return Ok(self.models.iter().map(|model| model.status(now)).collect());
        }
        Ok(vec![self.models[self.find(model)?].status(now)])
    }

    fn read_done(&mut self, now: Duration, completion: Completion) {
        let model = completion.read.model;
        self.with_model(now, model, |model, cx| model.read_done(cx, completion));
    }

    /// Whether models may load ahead: one request at a time in all, as they may share a device, and
    /// only while nobody waits, be it for a read or for room.
    fn is_quiet(&self) -> bool {
        let is_busy = |m: &Model| m.is_switching() || m.reads.has_demand() || m.reads.reads_ahead();
        !self.draining && !self.models.iter().any(is_busy)
    }

    fn look_ahead(&mut self, now: Duration) {
        for model in 0..self.models.len() {
            let quiet = self.is_quiet();
            self.with_model(now, model, |model, cx| model.look_ahead(cx, quiet));
        }
    }

    fn each_model(&mut self, now: Duration, step: impl Fn(&mut Model, &mut Context<'_>)) {
        for model in 0..self.models.len() {
            self.with_model(now, model, &step);
        }
    }

    fn with_model(
        &mut self,
        now: Duration,
        index: usize,
        step: impl FnOnce(&mut Model, &mut Context<'_>),
    ) {
        let Self { clock, limits, models, effects, .. } = self;
        let mut cx = Context { now, index, clock: &**clock, limits, effects };
        step(&mut models[index], &mut cx);
    }

    /// The model of this name; an empty name means the only one.
    fn find(&self, name: &str) -> Result<usize, EngineError> {
        let known = || self.models.iter().map(|model| model.name().to_owned()).collect();
        if name.is_empty() {
            return match self.models.len() {
                1 => Ok(0),
                _ => Err(EngineError::AmbiguousModel { known: known() }),
            };
        }
        check_name("a model's name", name)?;
        let position = self.models.iter().position(|model| model.name() == name);
        position.ok_or_else(|| EngineError::UnknownModel { name: name.into(), known: known() })
    }

    /// The bundles that are served.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.models.iter().map(Model::bundle)
    }
}

/// Refuses what cannot be a name.
fn check_name(what: &'static str, name: &str) -> Result<(), EngineError> {
    if is_name(name) { Ok(()) } else { Err(EngineError::BadName { what, limit: MAX_NAME_LEN }) }
}
