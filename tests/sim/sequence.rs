//! One random life of an engine.

use super::{
    bundles::{Content, TASKS},
    check::Held,
    client::{Client, Phase},
    coverage::Coverage,
    rig::{FAULTS, Fared, Fate, PEER, Rig, now},
    world::{Holding, World},
};
use fastrand::Rng;
use std::{fmt::Debug, rc::Rc, thread, time::Duration};
use synchromesh::{
    config::PrefetchConfig,
    engine::{Action, Command, Lifetime, Limits, SwitchCommand, Target},
    units::{BlockIndex, Generation},
};
use tokio::sync::oneshot;

/// A life and all that it is checked with.
pub(crate) struct Sequence<'a> {
    pub(crate) rng: Rng,
    pub(crate) rig: Rig,
    pub(crate) world: World,
    pub(crate) clients: Vec<Client>,
    /// One client of each model's default session that takes no lease.
    pub(crate) observers: Vec<Client>,
    pub(crate) seen: &'a mut Coverage,
    /// How the blocks fared that the current action is about.
    pub(crate) fared: Fared,
    /// The world before the current action.
    pub(crate) before: Vec<Holding>,
    /// Blocks of each model that wait for their read, by the last status.
    pub(crate) queued: Vec<usize>,
    /// What the engine had looked at before the current action.
    pub(crate) worked: u64,
    /// What a switch may wait for, by the last status.
    pub(crate) held: Held,
    faults: Faults,
    /// Share of switches that may be in place.
    in_place: f64,
    /// Requests that were made: whose, by which id, for which task.
    requests: Vec<(Target, String, String)>,
    log: Log,
}

/// How badly the storage behaves.
#[derive(Debug)]
struct Faults {
    /// Share of reads with a fault.
    rate: f64,
    /// Share of actions that break or mend a block.
    breaks: f64,
    /// The oldest reads wait for all others.
    late: bool,
}

/// The actions so far, told when the test fails.
struct Log {
    seed: u64,
    lines: Vec<String>,
}

impl Drop for Log {
    #[allow(clippy::print_stderr, reason = "a failure must tell how it came about")]
    fn drop(&mut self) {
        if thread::panicking() {
            self.lines.iter().for_each(|line| eprintln!("{line}"));
            eprintln!("sequence {0}; replay it with SYNCHROMESH_SEED={0}", self.seed);
        }
    }
}

/// How long leases may last.
const PATIENCE: [Duration; 4] = [
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(20),
    Duration::from_secs(3600),
];

impl<'a> Sequence<'a> {
    /// Lives through the sequence of this number.
    pub(crate) fn run(seed: u64, contents: &[Rc<Content>], seen: &'a mut Coverage) {
        let mut sequence = Self::new(seed, contents, seen);
        for _ in 0..sequence.rng.usize(40..80) {
            sequence.step();
        }
        sequence.finish();
    }

    fn new(seed: u64, contents: &[Rc<Content>], seen: &'a mut Coverage) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut contents = contents.to_vec();
        rng.shuffle(&mut contents);
        contents.truncate(if rng.u8(..4) == 0 { 2 } else { 1 });
        let models: Vec<_> = contents
            .into_iter()
            .map(|content| {
                let slots = rng.usize(content.largest_task()..=content.blocks.len());
                (content, slots)
            })
            .collect();
        let limits = Limits {
            reads_in_flight: rng.usize(1..6),
            read_bytes: rng.u64(1..7) * super::bundles::BLOCK_BYTES,
            stall: Duration::from_secs(3600),
            switch_timeout: Duration::from_millis(rng.choice([5, 50, 2000]).unwrap()),
            clients_per_session: 3,
            lease_patience: rng.choice(PATIENCE).unwrap(),
            prefetch: PrefetchConfig::OFF,
        };
        let faults = Faults {
            rate: rng.choice([0.0, 0.05, 0.3]).unwrap(),
            breaks: rng.choice([0.0, 0.0, 0.05]).unwrap(),
            late: rng.u8(..5) == 0,
        };
        let in_place = rng.choice([0.0, 0.2, 0.9]).unwrap();
        let request_bytes = rng.choice([0, 5000, 9000]).unwrap();
        let mut rig = Rig::new(&models, limits, request_bytes);
        let log = Log { seed, lines: vec![format!("{limits:?} {faults:?} {request_bytes}")] };
        let world = World::new(&models);
        let mut observe = |model: usize| {
            let target = Target { model: rig.contents[model].model.into(), session: String::new() };
            Client::open(model, rig.attach(target).unwrap())
        };
        let observers = (0..models.len()).map(&mut observe).collect();
        Self {
            rng,
            rig,
            world,
            clients: Vec::new(),
            observers,
            seen,
            fared: Fared::default(),
            before: Vec::new(),
            queued: Vec::new(),
            worked: 0,
            held: Held::default(),
            faults,
            in_place,
            requests: Vec::new(),
            log,
        }
    }

    pub(crate) fn log(&mut self, what: impl Debug) {
        let line = format!("{:>12?} {what:?}", self.rig.now());
        self.log.lines.push(line);
    }

    fn step(&mut self) {
        self.pass_time();
        if self.rng.f64() < self.faults.breaks {
            self.break_or_mend();
        }
        match self.rng.u32(..100) {
            0..14 => self.switch(),
            14..38 if !self.rig.reads.is_empty() => self.read_some(),
            38..60 if !self.rig.verifies.is_empty() => self.verify_some(),
            60..66 => self.settle(),
            14..84 => self.step_client(),
            84..88 => self.attach(),
            88..90 => self.lose_client(),
            90 => self.write_junk(),
            91..94 => self.open_session(),
            94 => self.close_session(),
            95 => self.lose_caller(),
            _ => self.tick(),
        }
    }

    fn pass_time(&mut self) {
        let next = self.rig.engine.next_tick();
        let time = match self.rng.u32(..100) {
            0..50 => Duration::ZERO,
            50..90 => Duration::from_nanos(self.rng.u64(1..200_000)),
            90..95 => Duration::from_micros(self.rng.u64(200..5000)),
            // Long enough for leases to be looked at less often.
            95 => Duration::from_millis(self.rng.u64(50..4000)),
            _ => next.map_or(Duration::ZERO, |at| at.saturating_sub(self.rig.now())),
        };
        self.rig.clock.advance(time);
    }

    fn break_or_mend(&mut self) {
        let model = self.rng.usize(..self.world.models.len());
        let block = BlockIndex(self.rng.u32(..self.rig.contents[model].blocks.len() as u32));
        let fate = self.rng.choice(FAULTS).unwrap();
        let mended = self.rig.broken.pop_first();
        self.log(("breaks", model, block, fate, "mended", mended));
        self.rig.broken.insert((model, block), fate);
    }

    pub(crate) fn apply(&mut self, action: Action) {
        self.begin();
        self.rig.apply(action);
        self.end();
    }

    pub(crate) fn tick(&mut self) {
        self.log("tick");
        self.begin();
        self.rig.apply(Action::Tick);
        self.end();
    }

    fn switch(&mut self) {
        let command = self.some_switch();
        let caller_stays = self.rng.u8(..10) > 0;
        self.send(command, caller_stays);
    }

    /// Sends a switch and gives its call's number.
    pub(crate) fn send(&mut self, command: SwitchCommand, caller_stays: bool) -> u64 {
        self.log((&command, caller_stays));
        self.begin();
        let now = self.rig.now();
        let number = self.world.switch(now, &self.rig.limits, &command);
        self.note_joined_reads(number);
        let (reply, answer) = oneshot::channel();
        let answer = caller_stays.then_some(answer);
        self.seen.count_if(answer.is_none(), "caller gone");
        self.world.calls.get_mut(&number).unwrap().answer = answer;
        self.rig.apply(Action::Command(Command::Switch(command, reply)));
        self.end();
        number
    }

    fn note_joined_reads(&mut self, number: u64) {
        let call = &self.world.calls[&number];
        let (Some(place), Some(task), None) = (call.place, call.task, &call.expect) else { return };
        let content = &self.rig.contents[place.0];
        let joined = !content.task_blocks(task).is_disjoint(&self.rig.loading(place.0));
        if let Some(pending) = &mut self.world.session(place).pending {
            if pending.calls == [number] {
                pending.joined = joined;
            } else {
                self.seen.count("joined a running request");
            }
        }
    }

    fn some_switch(&mut self) -> SwitchCommand {
        let mut target = self.some_target();
        let mut task = self.some_task(&target);
        let mut request_id = None;
        match self.rng.u32(..10) {
            0..3 => {
                let id = format!("r{}", self.requests.len());
                self.requests.push((target.clone(), id.clone(), task.clone()));
                request_id = Some(id);
            }
            3..5 if !self.requests.is_empty() => {
                let again = self.rng.usize(..self.requests.len());
                let (session, id, same) = self.requests[again].clone();
                if self.rng.u8(..4) > 0 {
                    task = same;
                }
                (target, request_id) = (session, Some(id));
            }
            _ => {}
        }
        let now = self.rig.now();
        let expected_generation = match (self.rng.u32(..20), self.world.find(&target)) {
            (0..2, Ok(place)) => Some(self.world.session(place).active.generation),
            (2, _) => Some(Generation(self.rng.u64(..3))),
            _ => None,
        };
        let deadline = match self.rng.u32(..30) {
            0..5 => Some(now + Duration::from_micros(self.rng.u64(1..10_000))),
            5..8 => Some(now + Duration::from_secs(self.rng.u64(1..5))),
            8 => Some(now.saturating_sub(Duration::from_nanos(self.rng.u64(..2)))),
            9 => Some(Duration::MAX),
            _ => None,
        };
        SwitchCommand {
            target,
            task,
            request_id,
            expected_generation,
            arrived: now,
            deadline,
            in_place: self.rng.f64() < self.in_place,
            trace: None,
            caller: None,
        }
    }

    fn some_target(&mut self) -> Target {
        let places = self.world.places();
        let place = self.rng.choice(places).unwrap();
        let mut session = self.world.session(place).name.clone();
        let mut model = self.rig.contents[place.0].model.to_owned();
        match self.rng.u32(..60) {
            0 => model = "nowhere".into(),
            1 => session = "nobody".into(),
            2 => model = String::new(),
            3..30 if self.world.models.len() == 1 => model = String::new(),
            30..45 if place.1 == 0 => session = String::new(),
            _ => {}
        }
        Target { model, session }
    }

    fn some_task(&mut self, target: &Target) -> String {
        let model = self.world.find_model(&target.model).unwrap_or(0);
        let known = self.rig.contents[model].tasks.len();
        let task = if self.rng.u8(..40) == 0 { TASKS.len() - 1 } else { self.rng.usize(..known) };
        TASKS[task].to_owned()
    }

    fn read_some(&mut self) {
        let reads = self.rig.reads.len();
        let at = if self.faults.late { reads - 1 } else { self.rng.usize(..reads) };
        let culprit = self.rng.usize(..self.rig.reads[at].blocks.len());
        let bad = self.rng.f64() < self.faults.rate;
        let fate = if bad { self.rng.choice(FAULTS).unwrap() } else { Fate::Good };
        self.finish_read(at, fate, culprit);
    }

    pub(crate) fn finish_read(&mut self, at: usize, fate: Fate, culprit: usize) {
        let read = format!("{:?}", self.rig.reads[at]);
        self.log((read, fate, culprit));
        self.note_late_read(at);
        self.begin();
        self.fared = self.rig.finish_read(at, fate, culprit);
        self.seen.count_if(!self.fared.bad.is_empty(), "read failed");
        self.end();
    }

    fn note_late_read(&mut self, at: usize) {
        let read = &self.rig.reads[at];
        let wants = |session: &super::world::SessionWorld| {
            let set =
                session.pending.as_ref().map(|p| self.rig.contents[read.model].task_blocks(p.task));
            set.is_some_and(|set| read.blocks.iter().any(|(block, _)| set[block.index()]))
        };
        let wanted = self.world.models[read.model].sessions.values().any(wants);
        self.seen.count_if(!wanted, "read late");
    }

    fn verify_some(&mut self) {
        let at = self.rng.usize(..self.rig.verifies.len());
        self.finish_verify(at);
    }

    pub(crate) fn finish_verify(&mut self, at: usize) {
        self.begin();
        self.fared = self.rig.finish_verify(at);
        let fared = format!("{:?}", self.fared);
        self.log(fared);
        self.seen.count_if(!self.fared.bad.is_empty(), "verified as bad");
        let again = self.fared.attempt > 0;
        self.seen.count_if(again && !self.fared.good.is_empty(), "recovered by the second read");
        self.end();
    }

    fn lose_caller(&mut self) {
        let waiting = self.world.calls.values_mut().filter(|call| call.answer.is_some());
        if let Some(call) = self.rng.choice(waiting.collect::<Vec<_>>()) {
            call.answer = None;
            self.seen.count("caller gone");
        }
    }

    fn open_session(&mut self) {
        let mut target = self.some_target();
        match self.rng.u32(..20) {
            0 => target.session = "no/name".into(),
            1..4 => {}
            _ => target.session = self.rng.choice(["left", "right"]).unwrap().into(),
        }
        self.log(("open", &target));
        self.begin();
        let expected = self.world.open(&target);
        let lifetime = Lifetime::default();
        let opened =
            self.rig.ask(|reply| Command::OpenSession { target, lifetime, opener: None, reply });
        assert_eq!(now(opened).map(drop), expected, "an opened session");
        self.count_error(expected.err());
        self.end();
    }

    fn close_session(&mut self) {
        let target = self.some_emptied().unwrap_or_else(|| self.some_target());
        self.log(("close", &target));
        self.begin();
        let place = self.world.find(&target).ok();
        let clients = place.map_or(0, |place| self.clients_of(place));
        let switching = place.is_some_and(|place| self.world.session(place).pending.is_some());
        let expected = self.world.close(&target, clients);
        self.seen.count_if(expected.is_ok(), "session closed");
        self.seen.count_if(expected.is_ok() && switching, "session closed while it switched");
        let closed = self.rig.ask(|reply| Command::CloseSession { target, caller: None, reply });
        assert_eq!(now(closed), expected, "a closed session");
        self.count_error(expected.err());
        self.end();
    }

    /// A session that has given up its task, and can be closed.
    fn some_emptied(&mut self) -> Option<Target> {
        let gave_up = |world: &mut World, place| {
            let pending = world.session(place).pending.as_ref();
            pending.is_some_and(|pending| pending.given_up.is_some())
        };
        let mut places = self.world.places().into_iter().filter(|place| place.1 != 0);
        let place = places.find(|place| gave_up(&mut self.world, *place))?;
        let session = self.world.session(place).name.clone();
        Some(Target { model: self.rig.contents[place.0].model.to_owned(), session })
    }

    fn attach(&mut self) {
        let target = self.some_target();
        self.log(("attach", &target));
        self.begin();
        let mut expected = self.world.find(&target);
        if let Ok(place) = expected
            && self.clients_of(place) >= self.rig.limits.clients_per_session
        {
            expected = Err(synchromesh::engine::EngineError::TooManyClients(3));
        }
        if self.rng.u8(..8) == 0 {
            // The client dies before it has its descriptors.
            let (reply, _) = oneshot::channel();
            self.rig.apply(Action::Command(Command::Attach { target, peer: PEER, reply }));
            return self.end();
        }
        let attached = self.rig.attach(target);
        match (attached, expected) {
            (Ok(membership), Ok(place)) => {
                assert_eq!(membership.entry.number(), place.1, "its place in the table");
                let mut client = Client::open(place.0, membership);
                let impatient = self.rig.limits.lease_patience < Duration::from_secs(1);
                client.stuck = self.rng.u8(..4) < if impatient { 3 } else { 1 };
                client.heard = self.world.session(place).changes;
                self.clients.push(client);
            }
            (attached, expected) => {
                assert_eq!(attached.map(drop), expected.clone().map(drop), "an attached client");
                self.count_error(expected.err());
            }
        }
        self.end();
    }

    fn step_client(&mut self) {
        for _ in 0..self.rng.u32(1..4) {
            self.step_one_client();
        }
    }

    fn step_one_client(&mut self) {
        if let Some(client) = self.rng.choice(&mut self.clients) {
            let before = client.phase;
            client.step();
            let after = client.phase;
            let leased = matches!(after, Phase::Leased(_)) && before != after;
            self.seen.count_if(leased, "client leased");
            let retreated = matches!((before, after), (Phase::Announced(_), Phase::Idle));
            self.seen.count_if(retreated, "client retreated");
            let member = client.member;
            self.log((member, after));
        }
    }

    fn write_junk(&mut self) {
        let value = match self.rng.u32(..3) {
            0 => self.rng.u64(..4),
            1 => u64::MAX,
            _ => self.rng.u64(..),
        };
        if let Some(client) = self.rng.choice(&mut self.clients) {
            client.write_junk(value);
            let member = client.member;
            self.log((member, "junk", value));
            self.seen.count("client wrote junk");
        }
    }

    fn lose_client(&mut self) {
        if !self.clients.is_empty() {
            let at = self.rng.usize(..self.clients.len());
            self.detach(at);
        }
    }

    pub(crate) fn detach(&mut self, at: usize) {
        let client = self.clients.swap_remove(at);
        self.log(("detach", client.member));
        self.seen.count_if(client.leased().is_some(), "client died with a lease");
        self.begin();
        self.rig.apply(Action::Command(Command::Detach(client.member)));
        self.end();
    }

    pub(crate) fn clients_of(&self, place: (usize, u32)) -> usize {
        let all = self.clients.iter().chain(&self.observers);
        all.filter(|client| client.place() == place).count()
    }
}
