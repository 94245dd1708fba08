//! Random lives of an engine with a model of many blocks, with prefetch, preparations, hints, leases
//! and stalls. Two rules are checked that need no knowledge of what each answer should be: no action
//! looks at blocks for nothing, and all that can proceed does so without an unrelated action.

use super::{
    bundles::{BLOCK_BYTES, Content},
    client::{Client, Phase},
    rig::{Answer, Fate, Rig, now, target},
    small::{LIMITS, STALL, prepare, switch},
};
use fastrand::Rng;
use std::{rc::Rc, time::Duration};
use synchromesh::{
    config::PrefetchConfig,
    engine::{
        Action, Command, EventKind, Hint, HintCommand, Limits, ModelStatus, PrepareReport,
        SwitchReport,
    },
    storage::Priority,
};
use tokio::sync::oneshot::error::TryRecvError;

/// A life and what it is checked with.
pub(crate) struct Wide {
    rng: Rng,
    rig: Rig,
    content: Rc<Content>,
    slots: usize,
    sessions: Vec<&'static str>,
    clients: Vec<Client>,
    switches: Vec<Answer<SwitchReport>>,
    preparations: Vec<Answer<PrepareReport>>,
    is_stalled: bool,
    pub(crate) seen: Seen,
}

/// How often the rules were put to the test.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Actions that changed nothing.
    idle: u64,
    /// Of these, those with a switch or a preparation that waits.
    waiting: u64,
    /// Switches that waited for room at rest.
    blocked: u64,
    /// Preparations that waited for room at rest.
    unprepared: u64,
    stalls: u64,
    read_ahead: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.idle += other.idle;
        self.waiting += other.waiting;
        self.blocked += other.blocked;
        self.unprepared += other.unprepared;
        self.stalls += other.stalls;
        self.read_ahead += other.read_ahead;
    }

    pub(crate) fn assert_complete(&self) {
        let Self { idle, waiting, blocked, unprepared, stalls, read_ahead } = *self;
        let all = [idle, waiting, blocked, unprepared, stalls, read_ahead];
        assert!(all.iter().all(|&times| times > 0), "something was never met: {self:?}");
    }
}

impl Wide {
    pub(crate) fn run(seed: u64, content: &Rc<Content>) -> Seen {
        let mut life = Self::new(seed, content);
        for _ in 0..life.rng.usize(40..80) {
            life.step();
            if life.rng.u8(..4) == 0 {
                life.rest();
            }
        }
        life.seen
    }

    fn new(seed: u64, content: &Rc<Content>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let slots = rng.usize(content.largest_task()..=content.blocks.len());
        let waste_bytes_per_s = 400 * BLOCK_BYTES;
        let limits = Limits {
            reads_in_flight: rng.usize(1..6),
            read_bytes: rng.u64(16..128) * BLOCK_BYTES,
            stall: rng.choice([STALL, Duration::from_secs(1)]).unwrap(),
            lease_patience: rng.choice([STALL, Duration::from_millis(20)]).unwrap(),
            prefetch: PrefetchConfig { enabled: rng.bool(), waste_bytes_per_s },
            ..LIMITS
        };
        Self {
            rig: Rig::new(&[(content.clone(), slots)], limits, 0),
            rng,
            content: content.clone(),
            slots,
            sessions: vec!["default"],
            clients: Vec::new(),
            switches: Vec::new(),
            preparations: Vec::new(),
            is_stalled: false,
            seen: Seen::default(),
        }
    }

    fn step(&mut self) {
        let time = match self.rng.u8(..10) {
            0..6 => Duration::ZERO,
            6..9 => Duration::from_micros(self.rng.u64(..20_000)),
            _ => Duration::from_millis(self.rng.u64(..1500)),
        };
        self.rig.clock.advance(time);
        let before = self.state();
        let (work, is_due) = (self.rig.work, self.is_due());
        let asks = self.act();
        let worked = self.rig.work - work;
        self.note_events();
        let after = self.state();
        self.check_work(&before, &after, worked, asks, is_due);
    }

    /// Carries out an action, and says whether it asks for a task or for room.
    fn act(&mut self) -> bool {
        let task = super::bundles::TASKS[self.rng.usize(..self.content.tasks.len())];
        let session = self.rng.choice(self.sessions.clone()).unwrap();
        match self.rng.u8(..30) {
            0..5 => {
                let answer = switch(&mut self.rig, session, task);
                self.switches.push(answer);
                return true;
            }
            5..7 => {
                let hold = Duration::from_millis(self.rng.u64(..500));
                let answer = prepare(&mut self.rig, task, hold);
                self.preparations.push(answer);
                return true;
            }
            7 => {
                let blocks = self.rng.usize(..self.slots);
                let trim = |reply| Command::Trim { model: String::new(), blocks, reply };
                now(self.rig.ask(trim)).unwrap();
                return true;
            }
            8 => {
                let probability = self.rng.f64();
                let (starts_in, expires_in) = (None, None);
                let hint = Hint { task: task.into(), probability, starts_in, expires_in };
                let command = HintCommand { target: target(session), hints: vec![hint] };
                now(self.rig.ask(|reply| Command::Hint(command, reply))).unwrap();
            }
            9..11 if self.sessions.len() < 3 => {
                let name = if self.sessions.contains(&"left") { "right" } else { "left" };
                self.rig.open(name);
                self.sessions.push(name);
            }
            11 if session != "default" => {
                if self.rig.close(session).is_ok() {
                    self.sessions.retain(|open| *open != session);
                }
            }
            12..14 => {
                if let Ok(membership) = self.rig.attach(target(session)) {
                    self.clients.push(Client::open(0, membership));
                }
            }
            14..18 => self.step_client(),
            18 if !self.clients.is_empty() => {
                let client = self.clients.swap_remove(self.rng.usize(..self.clients.len()));
                self.rig.apply(Action::Command(Command::Detach(client.member)));
            }
            19..24 if !self.rig.reads.is_empty() => {
                let fate = if self.rng.u8(..30) == 0 { Fate::Flipped } else { Fate::Good };
                let at = self.rng.usize(..self.rig.reads.len());
                self.rig.finish_read(at, fate, 0);
            }
            24..28 if !self.rig.verifies.is_empty() => {
                let at = self.rng.usize(..self.rig.verifies.len());
                self.rig.finish_verify(at);
            }
            _ => self.rig.apply(Action::Tick),
        }
        false
    }

    fn step_client(&mut self) {
        let Some(client) = self.rng.choice(&mut self.clients) else { return };
        if client.phase != Phase::Idle {
            client.step();
        } else if client.active().task().is_some() {
            client.lease();
        }
    }

    fn is_due(&self) -> bool {
        self.rig.engine.next_tick().is_some_and(|at| at <= self.rig.now())
    }

    /// A stall is told once at its begin and once at its end.
    fn note_events(&mut self) {
        for event in std::mem::take(&mut self.rig.events) {
            let stalls = match event {
                EventKind::Stalled { .. } => true,
                EventKind::Recovered { .. } => false,
                _ => continue,
            };
            assert_ne!(stalls, self.is_stalled, "begin and end take turns");
            self.is_stalled = stalls;
            self.seen.stalls += u64::from(stalls);
        }
    }

    /// All that a switch or a preparation may wait for.
    fn state(&mut self) -> State {
        let status = self.rig.status().remove(0);
        let session = |session: &synchromesh::engine::SessionStatus| {
            let pending = session.pending_task.clone();
            let revoked = session.leases.iter().filter(|lease| lease.revoked).count();
            (session.generation.0, pending, session.draining_generations, revoked)
        };
        let ahead = self.rig.reads.iter().filter(|read| read.priority == Priority::Ahead).count();
        self.seen.read_ahead += ahead as u64;
        State {
            slots: status.pool.slots,
            evicted: status.evicted,
            sessions: status.sessions.iter().map(session).collect(),
            prepared: status.prefetch.prepared,
            under_way: (self.rig.reads.len(), self.rig.verifies.len()),
        }
    }

    /// An action that changes nothing looks at nothing, whoever waits; but for a step of prefetch
    /// whose time has come. Any other looks at each block a few times, for each that waits.
    fn check_work(&mut self, before: &State, after: &State, work: u64, asks: bool, due: bool) {
        let waiting = before.waiting().max(after.waiting());
        let is_idle = before == after && !asks;
        self.seen.idle += u64::from(is_idle);
        self.seen.waiting += u64::from(is_idle && waiting > 0);
        let foresees = due && (self.rig.limits.prefetch.enabled || after.prepared > 0);
        let once = 6 * self.content.blocks.len() as u64 + 200;
        let limit = match is_idle {
            true if foresees => once,
            true => 0,
            false => once * (2 + waiting as u64).pow(2),
        };
        assert!(work <= limit, "{work} words and blocks from {before:?} to {after:?}");
    }

    /// Lets everything end that is under way, and the engine have the ticks that it asked for; then
    /// nothing waits for which there is room.
    fn rest(&mut self) {
        let mut ticks = 0;
        self.rig.settle();
        while self.is_due() {
            self.rig.apply(Action::Tick);
            self.rig.settle();
            ticks += 1;
            assert!(ticks < 10_000, "the engine never rests");
        }
        self.note_events();
        self.switches.retain_mut(waits);
        self.preparations.retain_mut(waits);
        let status = self.rig.status().remove(0);
        self.check_switches(&status);
        let switching = status.sessions.iter().any(|session| session.pending_task.is_some());
        if !switching && !self.preparations.is_empty() {
            let slots = status.pool.slots;
            assert_eq!(slots.free, 0, "a preparation waits beside free slots");
            assert_eq!(
                status.pool.pinned, slots.resident,
                "a preparation waits beside cached blocks"
            );
            self.seen.unprepared += 1;
        }
    }

    fn check_switches(&mut self, status: &ModelStatus) {
        let index = |name: &String| self.content.task(name).unwrap();
        let sessions = || status.sessions.iter();
        let active = sessions().filter_map(|session| session.task.as_ref());
        let leased = sessions().flat_map(|session| &session.leases).map(|lease| &lease.task);
        let pinned = self.content.union(active.chain(leased).map(index));
        for task in sessions().filter_map(|session| session.pending_task.as_ref()) {
            let mut needed = pinned.clone();
            needed.union_with(self.content.task_blocks(index(task)));
            assert!(needed.count_ones(..) > self.slots, "{task} waits while there is room");
            self.seen.blocked += 1;
        }
    }
}

/// Whether there is no answer yet. An answer that will never come is a failure.
fn waits<T>(answer: &mut Answer<T>) -> bool {
    let got = answer.try_recv();
    assert!(!matches!(got, Err(TryRecvError::Closed)), "a caller is left without an answer");
    got.is_err()
}

/// All that a switch or a preparation may wait for.
#[derive(Debug, PartialEq)]
struct State {
    slots: synchromesh::residency::SlotCounts,
    evicted: u64,
    /// Generation, pending task, old generations and how many of their leases were revoked.
    sessions: Vec<(u64, Option<String>, usize, usize)>,
    prepared: usize,
    under_way: (usize, usize),
}

impl State {
    /// Switches and preparations that may wait for room.
    fn waiting(&self) -> usize {
        let pending = self.sessions.iter().filter(|(_, pending, ..)| pending.is_some()).count();
        pending + self.prepared
    }
}
