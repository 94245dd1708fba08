//! What must hold after every action.

use super::{
    client::Phase,
    rig::{Fared, Fate, now},
    sequence::Sequence,
    world::{Call, Expect},
};
use fixedbitset::FixedBitSet;
use synchromesh::{
    engine::{
        Command, EngineError, EventKind, ModelStatus, Outcome, SessionStatus, SwitchCommand,
        SwitchReport, Target,
    },
    residency::SlotCounts,
    units::{Generation, TaskIndex},
};
use tokio::sync::oneshot::error::TryRecvError;

/// What a switch may wait for, and how many were asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Held {
    slots: Vec<(SlotCounts, u64)>,
    /// Generation, pending task and old generations.
    sessions: Vec<(Generation, Option<String>, usize)>,
    revoked: usize,
    calls: u64,
}

impl Sequence<'_> {
    /// Before the engine gets an action.
    pub(crate) fn begin(&mut self) {
        self.fared = Fared::default();
        self.worked = self.rig.work;
        self.note_residents();
        self.world.expire(self.rig.now());
        self.settle_leases();
        self.before = self.world.snapshot();
    }

    /// After the engine has got it.
    pub(crate) fn end(&mut self) {
        let asked = self.rig.asked.len();
        let work = self.rig.work - self.worked;
        self.note_quarantine();
        self.note_changes();
        self.settle_leases();
        self.take_answers();
        self.check_retries();
        let held = self.check_status(asked);
        self.check_work(work, held);
        self.check_pending();
        self.check_tick();
        self.check_bells();
        self.check_memory();
        self.rig.asked.clear();
    }

    /// A block that failed twice in a row is in quarantine until it reads well.
    fn note_quarantine(&mut self) {
        let Fared { model, attempt, good, bad } = &self.fared;
        let quarantined = &mut self.world.models[*model].quarantined;
        quarantined.retain(|block| !good.contains(block));
        if *attempt == 1 {
            quarantined.extend(bad);
        }
    }

    /// What failed is read again only for somebody who waits for it.
    fn check_retries(&self) {
        let Fared { model, bad, .. } = &self.fared;
        let content = &self.rig.contents[*model];
        let pending =
            || self.world.models[*model].sessions.values().filter_map(|s| s.pending.as_ref());
        for block in bad.iter().filter(|block| self.rig.asked.contains(&(*model, **block))) {
            let wanted = pending().any(|p| content.task_blocks(p.task)[block.index()]);
            assert!(wanted, "{block:?} is read again for nobody");
        }
    }

    /// I4: each call gets one answer, the right one, at the right time.
    fn take_answers(&mut self) {
        let numbers: Vec<_> = self.world.calls.keys().copied().collect();
        for number in numbers {
            let call = self.world.calls.get_mut(&number).unwrap();
            let Some(answer) = &mut call.answer else {
                if call.expect.is_some() {
                    self.world.calls.remove(&number);
                }
                continue;
            };
            match answer.try_recv() {
                Err(TryRecvError::Empty) => {
                    assert!(call.expect.is_none(), "call {number} is due: {:?}", call.expect);
                }
                Err(TryRecvError::Closed) => panic!("call {number} is left without an answer"),
                Ok(result) => self.take_answer(number, result),
            }
        }
    }

    fn take_answer(&mut self, number: u64, result: Result<SwitchReport, EngineError>) {
        if self.world.calls[&number].expect.is_none() {
            self.note_failure(number, &result);
        }
        let call = self.world.calls.remove(&number).unwrap();
        match (call.expect.as_ref().unwrap(), &result) {
            (Expect::Exactly(expected), _) => assert_eq!(result, *expected, "call {number}"),
            (Expect::Published { generation, in_place }, Ok(report)) => {
                assert_eq!(report.generation, *generation, "call {number}");
                assert_eq!(report.in_place, *in_place, "call {number}");
                self.check_report(&call, report);
            }
            (Expect::Active(generation), Ok(report)) => {
                assert_eq!(report.generation, *generation, "call {number}");
                assert_eq!(report.outcome, Outcome::AlreadyActive, "call {number}");
                self.check_report(&call, report);
                assert_eq!((report.read, report.evicted), (0, 0), "what is active is there");
                assert!(!report.in_place, "nothing was given up");
            }
            (expected, _) => panic!("call {number}: {result:?}, not {expected:?}"),
        }
        self.count_result(&call, &result);
        if let (Some(place), Ok(_)) = (call.place, &result) {
            self.world.remember(place, call.id, Expect::Exactly(result));
        }
    }

    /// A failure that the world could not foresee must have its cause in the action.
    fn note_failure(&mut self, number: u64, result: &Result<SwitchReport, EngineError>) {
        let Call { place, task, .. } = &self.world.calls[&number];
        let (place, task) = (place.unwrap(), task.unwrap());
        let content = self.rig.contents[place.0].clone();
        let cause = match result {
            Err(EngineError::Emptied(cause)) => Some(&**cause),
            Err(error) => Some(error),
            Ok(_) => None,
        };
        match cause {
            Some(EngineError::NoRoom { needed_bytes, available_bytes }) => {
                assert!(needed_bytes > available_bytes, "call {number}: {result:?}");
                let in_place = self.world.session(place).pending.as_ref().unwrap().in_place;
                let fits = self.could_fit(place, task, in_place);
                assert!(!fits, "call {number} was refused, but fits");
                assert!(!matches!(result, Err(EngineError::Emptied(_))), "its task was held");
                self.note_refusal(place, task);
            }
            Some(EngineError::Corrupt { .. }) => {
                let Fared { model, attempt, bad, .. } = &self.fared;
                let set = content.task_blocks(task);
                assert!(*model == place.0 && *attempt == 1, "call {number}: nothing failed twice");
                assert!(bad.iter().any(|block| set[block.index()]), "call {number}: not its block");
            }
            _ => panic!("call {number} got {result:?} without a reason"),
        }
        self.check_emptied(place, matches!(result, Err(EngineError::Emptied(_))));
        self.world.resolve(place, Expect::Exactly(result.clone()));
    }

    fn check_report(&self, call: &Call, report: &SwitchReport) {
        let (place, task) = (call.place.unwrap(), call.task.unwrap());
        let needed = self.rig.contents[place.0].task_blocks(task).count_ones(..);
        assert_eq!(report.needed, needed, "blocks of the task");
        assert_eq!(report.reused + report.read, needed, "each is there or read");
        let all_there = matches!(report.outcome, Outcome::AlreadyActive | Outcome::Resident);
        assert_eq!(report.read == 0, all_there, "{report:?}");
        let took = self.rig.now().saturating_sub(call.sent);
        assert!(report.timing.total() >= took, "{report:?} in {took:?}");
    }

    fn count_result(&mut self, call: &Call, result: &Result<SwitchReport, EngineError>) {
        match result {
            Err(error) => self.count_error(Some(error.clone())),
            Ok(report) => {
                self.seen.count(match report.outcome {
                    Outcome::AlreadyActive => "already active",
                    Outcome::Resident => "resident",
                    Outcome::PartlyPrefetched | Outcome::Loaded => "loaded",
                });
                self.seen.count_if(report.evicted > 0, "blocks evicted");
                self.seen.count_if(!report.timing.queue.is_zero(), "waited for room");
            }
        }
        let repeated = call.id.is_some() && matches!(call.expect, Some(Expect::Exactly(Ok(_))));
        self.seen.count_if(repeated, "answered from memory");
    }

    pub(crate) fn count_error(&mut self, error: Option<EngineError>) {
        let Some(error) = error else { return };
        self.seen.count(match error {
            EngineError::UnknownModel { .. } => "model unknown",
            EngineError::AmbiguousModel { .. } => "model ambiguous",
            EngineError::UnknownSession { .. } => "session unknown",
            EngineError::UnknownTask { .. } => "task unknown",
            EngineError::BadName { .. } => "bad name",
            EngineError::SessionExists(_) => "session exists",
            EngineError::SessionInUse { .. } => "session in use",
            EngineError::TooManyClients(_) => "too many clients",
            EngineError::GenerationMismatch { .. } => "generation mismatch",
            EngineError::RequestIdReused => "request id reused",
            EngineError::NoRoom { .. } => "no room",
            EngineError::Superseded => "superseded",
            EngineError::DeadlineExceeded => "deadline exceeded",
            EngineError::Corrupt { .. } => "corrupt",
            EngineError::Emptied(_) => "left without a task",
            EngineError::SessionClosed | EngineError::DefaultSession | EngineError::Draining => {
                return;
            }
            other => panic!("nothing here asks for {other:?}"),
        });
    }

    /// I3, and that the engine tells its state as it is. To ask changes nothing.
    fn check_status(&mut self, asked: usize) -> Held {
        let statuses = self.rig.status();
        assert_eq!(self.rig.asked.len(), asked, "to ask for the state starts no read");
        let mut queued = Vec::new();
        for (model, status) in statuses.iter().enumerate() {
            queued.push(self.check_slots(model, status));
            for session in &status.sessions {
                self.check_session(model, session);
            }
            assert_eq!(status.sessions.len(), self.world.models[model].sessions.len());
        }
        let backlog = |queued: &[usize]| queued.iter().sum::<usize>();
        self.seen.count_if(backlog(&queued) + asked < backlog(&self.queued), "withdrew reads");
        self.queued = queued;
        let in_vain = self.fared.attempt == 1 && !self.fared.bad.is_empty();
        self.seen.count_if(in_vain, "read in vain");
        self.held(&statuses)
    }

    fn held(&self, statuses: &[ModelStatus]) -> Held {
        let sessions = statuses.iter().flat_map(|status| &status.sessions).map(|session| {
            (session.generation, session.pending_task.clone(), session.draining_generations)
        });
        Held {
            slots: statuses.iter().map(|status| (status.pool.slots, status.evicted)).collect(),
            sessions: sessions.collect(),
            revoked: self.world.models.iter().map(|model| model.stuck().count()).sum(),
            calls: self.world.next_call,
        }
    }

    /// An action that changes nothing looks at no block, whoever waits for room. Any other looks at
    /// all of them a few times, for each switch that may wait.
    fn check_work(&mut self, work: u64, held: Held) {
        let Fared { good, bad, .. } = &self.fared;
        let is_idle = held == self.held && good.is_empty() && bad.is_empty();
        let pending = self.before.iter().filter(|holding| holding.pending.is_some()).count() as u64;
        let blocks: usize = self.rig.contents.iter().map(|content| content.blocks.len()).sum();
        let once = 2 * blocks as u64 + 100;
        let limit = if is_idle { 0 } else { once * (2 + pending).pow(2) };
        assert!(work <= limit, "{work} words and blocks, from {:?} to {held:?}", self.held);
        self.held = held;
    }

    /// Gives the number of blocks whose read has not begun.
    fn check_slots(&mut self, model: usize, status: &ModelStatus) -> usize {
        let SlotCounts { free, filling, verifying, resident, lost } = status.pool.slots;
        assert_eq!(lost, 0, "nothing here loses a ring");
        let slots = self.world.models[model].slots;
        assert_eq!(free + filling + verifying + resident, slots, "each slot in one state");
        let verifies = self.rig.verifies.iter().filter(|verify| verify.model == model);
        let under_way: usize = verifies.map(|verify| verify.blocks.len()).sum();
        assert_eq!(verifying, under_way, "blocks that are verified");
        let reads = self.rig.reads.iter().filter(|read| read.model == model);
        let under_way: usize = reads.map(|read| read.blocks.len()).sum();
        assert!(filling >= under_way, "blocks that are read");
        let quarantined = self.world.models[model].quarantined.len();
        assert_eq!(status.quarantined, quarantined, "blocks in quarantine");
        self.seen.count_if(status.pool.pinned == slots, "pool full of pinned blocks");
        filling - under_way
    }

    fn check_session(&mut self, model: usize, status: &SessionStatus) {
        let target = Target { model: status.model.clone(), session: status.session.clone() };
        let place = self.world.find(&target).unwrap();
        assert_eq!(place.0, model, "{status:?}");
        let clients = self.clients_of(place);
        let content = self.rig.contents[model].clone();
        let index = |name: &String| content.task(name).unwrap();
        let session = self.world.session(place);
        assert_eq!(status.generation, session.active.generation, "{status:?}");
        assert_eq!(status.task.as_ref().map(index), session.active.task, "{status:?}");
        assert_eq!(status.clients, clients, "{status:?}");
        assert_eq!(status.draining_generations, session.draining.len(), "{status:?}");
        self.check_leases(place, &status.leases);
        let session = self.world.session(place);
        let pending = status.pending_task.as_ref().map(index);
        let Some(expected) = &session.pending else { return assert_eq!(pending, None) };
        if pending.is_none() {
            // It failed. Had anybody listened, the world would know.
            let (calls, task) = (expected.calls.clone(), expected.task);
            let emptied = expected.given_up.is_some() && !expected.taken_back;
            let listened = calls.iter().any(|call| self.world.calls[call].answer.is_some());
            assert!(!listened, "{status:?} without an answer");
            self.check_emptied(place, emptied);
            let failure = self.last_failure(&status.session, task);
            return self.world.resolve(place, Expect::Exactly(Err(failure)));
        }
        assert_eq!(pending, Some(expected.task), "{status:?}");
        assert!(!expected.taken_back, "what was given up is taken back in the end only");
    }

    /// Why the last switch of a session failed, which no caller was there to hear.
    fn last_failure(&self, session: &str, task: TaskIndex) -> EngineError {
        let failure = |event: &EventKind| match event {
            EventKind::Switch(end) if *end.session == *session && end.task == task => {
                end.result.clone().err()
            }
            _ => None,
        };
        self.rig.events.iter().rev().find_map(failure).expect("the failure is an event")
    }

    /// A switch that goes on can come to its end, and is not late.
    fn check_pending(&self) {
        for model in &self.world.models {
            for session in model.sessions.values() {
                let Some(pending) = &session.pending else { continue };
                assert!(model.fits(pending.task), "what cannot fit is refused");
                assert!(pending.deadline() > self.rig.now(), "what is late is ended");
            }
        }
        for place in self.world.places().into_iter().filter(|place| self.surely_waits(*place)) {
            let (slots, taken) = (self.world.models[place.0].slots, self.taken(place.0));
            let free = slots - taken.count_ones(..) - self.queued[place.0];
            assert!(self.lacks(place) > free, "nobody waits while there is room");
            self.check_held(place);
        }
    }

    /// Who waits for room still has all of what it gave up, and can have the room beside what others
    /// gave up and still have.
    fn check_held(&self, (model, place): (usize, u32)) {
        let (world, content) = (&self.world.models[model], &self.rig.contents[model]);
        let pending = |at: &u32| world.sessions[at].pending.as_ref();
        let own = pending(&place).expect("who waits has a switch");
        if let Some(old) = own.given_up {
            self.observers[model].assert_task(content, old);
        }
        let others = world.sessions.keys().filter(|at| **at != place);
        let others = others.filter(|at| self.surely_waits((model, **at)));
        let held = others.filter_map(|at| pending(at)?.given_up);
        let active = world.sessions.values().filter_map(|session| session.active.task);
        let firm = active.chain(world.stuck()).chain(held);
        assert!(world.holds(firm.chain([own.task])), "nobody waits for what others gave up");
    }

    /// Whether it can be told from outside that a session's switch waits for room: it lacks more
    /// blocks than wait for their read.
    pub(crate) fn surely_waits(&self, place: (usize, u32)) -> bool {
        self.lacks(place) > self.queued[place.0]
    }

    /// Blocks that a session's switch needs and that are neither there nor being read.
    fn lacks(&self, (model, place): (usize, u32)) -> usize {
        let pending = self.world.models[model].sessions[&place].pending.as_ref();
        let wanted = |task| self.rig.contents[model].task_blocks(task);
        pending.map_or(0, |p| wanted(p.task).difference_count(&self.taken(model)))
    }

    /// Blocks that are in a slot or being read into one.
    fn taken(&self, model: usize) -> FixedBitSet {
        let mut taken = self.observers[model].resident();
        taken.union_with(&self.rig.loading(model));
        taken
    }

    /// I1: the blocks of every active and every leased task are there, bit for bit.
    fn check_memory(&mut self) {
        for (model, observer) in self.observers.iter().enumerate() {
            let content = &self.rig.contents[model];
            let sessions = self.world.models[model].sessions.values();
            for task in sessions.filter_map(|session| session.active.task) {
                observer.assert_task(content, task);
            }
        }
        let mut outlived = 0;
        for client in &self.clients {
            if let Phase::Leased(leased) = client.phase {
                client.assert_task(&self.rig.contents[client.model], leased.task);
                outlived += u64::from(client.active().task() != Some(leased));
            }
        }
        self.seen.add("lease outlived its generation", outlived);
    }

    /// When all faults and clients are gone, everything works and nothing is left over.
    pub(crate) fn finish(mut self) {
        self.log("the end");
        self.rig.broken.clear();
        while !self.clients.is_empty() {
            self.detach(self.clients.len() - 1);
        }
        self.settle();
        let pending = |session: &super::world::SessionWorld| session.pending.is_some();
        let models = &self.world.models;
        assert!(!models.iter().any(|model| model.sessions.values().any(pending)), "all is done");
        for model in 0..self.world.models.len() {
            self.switch_to_all(model);
        }
        self.close_sessions();
        self.check_leftovers();
        self.drain();
        assert!(self.world.calls.values().all(|call| call.answer.is_none()), "all are answered");
    }

    pub(crate) fn settle(&mut self) {
        while !self.rig.reads.is_empty() || !self.rig.verifies.is_empty() {
            if self.rig.verifies.is_empty() {
                self.finish_read(0, Fate::Good, 0);
            } else {
                self.finish_verify(0);
            }
        }
    }

    fn plain(&self, model: usize, task: usize) -> SwitchCommand {
        let model = self.rig.contents[model].model.into();
        SwitchCommand {
            target: Target { model, session: String::new() },
            ..self.rig.command("", super::bundles::TASKS[task])
        }
    }

    /// I5: the default session can have every task that fits beside those in use.
    fn switch_to_all(&mut self, model: usize) {
        for task in 0..self.rig.contents[model].tasks.len() {
            let index = TaskIndex(task as u32);
            let fits = self.world.models[model].fits(index);
            let number = self.send(self.plain(model, task), true);
            self.settle();
            assert!(!self.world.calls.contains_key(&number), "it is answered");
            if fits {
                let active = self.world.session((model, 0)).active;
                assert_eq!(active.task, Some(index), "the task can be had again");
                self.seen.count("switched after faults");
            }
        }
    }

    fn close_sessions(&mut self) {
        for place in self.world.places().into_iter().filter(|place| place.1 != 0) {
            let target = Target {
                model: self.rig.contents[place.0].model.into(),
                session: self.world.session(place).name.clone(),
            };
            self.log(("close", &target));
            self.begin();
            self.world.close(&target, 0).unwrap();
            let closed =
                self.rig.ask(|reply| Command::CloseSession { target, caller: None, reply });
            now(closed).unwrap();
            self.end();
        }
        for at in 0..self.observers.len() {
            let member = self.observers[at].member;
            self.rig.apply(synchromesh::engine::Action::Command(Command::Detach(member)));
        }
    }

    /// I6: nothing is left but the default session's task.
    fn check_leftovers(&mut self) {
        for (model, status) in self.rig.status().iter().enumerate() {
            let SlotCounts { filling, verifying, .. } = status.pool.slots;
            assert_eq!((filling, verifying), (0, 0), "{status:?}");
            let [session] = &status.sessions[..] else { panic!("{status:?}") };
            assert_eq!((session.clients, session.draining_generations), (0, 0), "{status:?}");
            let active = self.world.session((model, 0)).active.task;
            let pinned = self.rig.contents[model].union(active).count_ones(..);
            assert_eq!(status.pool.pinned, pinned, "{status:?}");
        }
        assert_eq!(self.rig.engine.next_tick(), None, "an idle engine sleeps");
    }

    /// What runs is finished, what comes is refused.
    fn drain(&mut self) {
        let task = self.rng.usize(..self.rig.contents[0].tasks.len());
        let command = self.rig.command("", super::bundles::TASKS[task]);
        let model = self.rig.contents[0].model;
        let target = Target { model: model.into(), session: String::new() };
        let running = self.rig.switch(SwitchCommand { target: target.clone(), ..command.clone() });
        assert!(!self.rig.engine.is_drained(), "nobody has asked for it");
        self.rig.apply(synchromesh::engine::Action::Command(Command::Drain));
        let refused = self.rig.switch(SwitchCommand { target, ..command });
        assert_eq!(now(refused), Err(EngineError::Draining));
        assert_eq!(self.rig.engine.is_drained(), self.rig.reads.is_empty(), "reads go on");
        self.rig.settle();
        assert!(self.rig.engine.is_drained(), "what ran is done");
        let done = now(running);
        assert!(matches!(done, Ok(_) | Err(EngineError::NoRoom { .. })), "{done:?}");
    }
}
