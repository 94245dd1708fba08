//! What the engine should do, told in the simplest way: no slots, no reads, only who asked for what
//! and which answers are right.

use super::{bundles::Content, rig::Answer};
use fixedbitset::FixedBitSet;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use synchromesh::{
    bundle::{MAX_NAME_LEN, is_name},
    device::{Active, ActiveTask, SessionEntry},
    engine::{DEFAULT_SESSION, EngineError, Limits, SwitchCommand, SwitchReport, Target},
    units::{BlockIndex, Generation, TaskIndex},
};

/// The answer that a call must get.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    Exactly(Result<SwitchReport, EngineError>),
    /// The task was active.
    Active(Generation),
    /// The task was published, perhaps after the session had given up the one before.
    Published {
        generation: Generation,
        in_place: bool,
    },
}

pub(crate) struct World {
    pub(crate) models: Vec<ModelWorld>,
    /// Calls that were not answered yet.
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) next_call: u64,
    pub(crate) draining: bool,
    /// What happened, to be counted.
    pub(crate) notes: Vec<&'static str>,
}

pub(crate) struct ModelWorld {
    pub(crate) content: Rc<Content>,
    pub(crate) slots: usize,
    /// Blocks whose last two reads failed.
    pub(crate) quarantined: BTreeSet<BlockIndex>,
    /// Blocks that were there before the current action.
    pub(crate) resident: FixedBitSet,
    /// By place in the table.
    pub(crate) sessions: BTreeMap<u32, SessionWorld>,
    /// By session and request id.
    answers: BTreeMap<(String, String), Remembered>,
}

pub(crate) struct SessionWorld {
    pub(crate) name: String,
    pub(crate) entry: SessionEntry,
    pub(crate) active: Active,
    pub(crate) pending: Option<PendingWorld>,
    pub(crate) draining: Vec<DrainingWorld>,
    /// How often what it serves has changed.
    pub(crate) changes: u64,
}

/// An old generation under lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainingWorld {
    pub(crate) old: ActiveTask,
    pub(crate) since: Duration,
    pub(crate) revoked: bool,
}

/// A switch that is neither published nor failed.
pub(crate) struct PendingWorld {
    pub(crate) task: TaskIndex,
    pub(crate) id: Option<String>,
    pub(crate) calls: Vec<u64>,
    /// How long each of them waits.
    pub(crate) due: BTreeMap<u64, Duration>,
    /// Blocks of it were on their way when it was asked for.
    pub(crate) joined: bool,
    /// The session may give up its task for it.
    pub(crate) in_place: bool,
    /// The task that the session gave up for it.
    pub(crate) given_up: Option<TaskIndex>,
    /// It was seen that the session has that task again, so this switch must have failed.
    pub(crate) taken_back: bool,
}

impl PendingWorld {
    /// When the first of its callers stops waiting.
    pub(crate) fn deadline(&self) -> Duration {
        self.calls.iter().map(|call| self.due[call]).min().expect("somebody waits")
    }
}

struct Remembered {
    task: TaskIndex,
    result: Option<Expect>,
}

/// A switch command and where its answer comes.
pub(crate) struct Call {
    /// `None` if the caller has gone.
    pub(crate) answer: Option<Answer<SwitchReport>>,
    /// Model and place of the session, where they exist.
    pub(crate) place: Option<(usize, u32)>,
    pub(crate) task: Option<TaskIndex>,
    pub(crate) id: Option<String>,
    /// `None` while the switch is pending.
    pub(crate) expect: Option<Expect>,
    pub(crate) sent: Duration,
}

impl World {
    pub(crate) fn new(models: &[(Rc<Content>, usize)]) -> Self {
        let model = |(content, slots): &(Rc<Content>, usize)| ModelWorld {
            content: content.clone(),
            slots: *slots,
            quarantined: BTreeSet::new(),
            resident: FixedBitSet::with_capacity(content.blocks.len()),
            sessions: BTreeMap::from([(0, SessionWorld::new(DEFAULT_SESSION, 0))]),
            answers: BTreeMap::new(),
        };
        let models = models.iter().map(model).collect();
        Self { models, calls: BTreeMap::new(), next_call: 0, draining: false, notes: Vec::new() }
    }

    pub(crate) fn find_model(&self, name: &str) -> Result<usize, EngineError> {
        let known = || self.models.iter().map(|model| model.content.model.to_owned()).collect();
        match self.models.iter().position(|model| model.content.model == name) {
            Some(model) => Ok(model),
            None if name.is_empty() && self.models.len() == 1 => Ok(0),
            None if name.is_empty() => Err(EngineError::AmbiguousModel { known: known() }),
            None => Err(EngineError::UnknownModel { name: name.into(), known: known() }),
        }
    }

    pub(crate) fn find(&self, target: &Target) -> Result<(usize, u32), EngineError> {
        let model = self.find_model(&target.model)?;
        let sessions = &self.models[model].sessions;
        let name = if target.session.is_empty() { DEFAULT_SESSION } else { &target.session };
        let found = sessions.iter().find(|(_, session)| session.name == name);
        let known = || sessions.values().map(|session| session.name.clone()).collect();
        let unknown = || EngineError::UnknownSession { name: name.into(), known: known() };
        Ok((model, *found.ok_or_else(unknown)?.0))
    }

    pub(crate) fn session(&mut self, (model, place): (usize, u32)) -> &mut SessionWorld {
        self.models[model].sessions.get_mut(&place).expect("the session is open")
    }

    /// Ends what is late; the engine does so before anything else.
    pub(crate) fn expire(&mut self, now: Duration) {
        for place in self.places() {
            let Some(pending) = &mut self.session(place).pending else { continue };
            let late: Vec<_> =
                pending.calls.extract_if(.., |call| pending.due[call] <= now).collect();
            if pending.calls.is_empty() {
                pending.calls = late;
                self.fail(place, EngineError::DeadlineExceeded);
            } else {
                for number in late {
                    self.expect(number, Expect::Exactly(Err(EngineError::DeadlineExceeded)));
                }
            }
        }
    }

    pub(crate) fn places(&self) -> Vec<(usize, u32)> {
        let models = self.models.iter().enumerate();
        models.flat_map(|(m, model)| model.sessions.keys().map(move |&s| (m, s))).collect()
    }

    /// Takes a command up and gives the call's number.
    pub(crate) fn switch(
        &mut self,
        now: Duration,
        limits: &Limits,
        command: &SwitchCommand,
    ) -> u64 {
        let number = self.next_call;
        self.next_call += 1;
        let found =
            if self.draining { Err(EngineError::Draining) } else { self.find(&command.target) };
        let task =
            found.as_ref().ok().and_then(|place| self.models[place.0].content.task(&command.task));
        let place = found.as_ref().ok().copied();
        let (id, expect) = (command.request_id.clone(), None);
        self.calls.insert(number, Call { answer: None, place, task, id, expect, sent: now });
        if let Err(expect) = found.and_then(|place| self.begin(now, limits, command, place, number))
        {
            self.expect(number, Expect::Exactly(Err(expect)));
        }
        number
    }

    fn begin(
        &mut self,
        now: Duration,
        limits: &Limits,
        command: &SwitchCommand,
        place: (usize, u32),
        number: u64,
    ) -> Result<(), EngineError> {
        let task = self.known_task(place.0, &command.task)?;
        if command.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(EngineError::DeadlineExceeded);
        }
        let deadline = command.deadline.unwrap_or(Duration::MAX).min(now + limits.switch_timeout);
        if self.repeats(place, task, command.request_id.as_deref(), deadline, number)? {
            return Ok(());
        }
        let session = self.session(place);
        let (active, name) = (session.active, session.name.clone());
        if let Some(expected) = command.expected_generation.filter(|&g| g != active.generation) {
            let actual = active.generation;
            return Err(EngineError::GenerationMismatch { expected, actual });
        }
        self.fail(place, EngineError::Superseded);
        // It may have its task back.
        let active = self.session(place).active;
        if let Some(id) = &command.request_id {
            let remembered = Remembered { task, result: None };
            self.models[place.0].answers.insert((name, id.clone()), remembered);
        }
        let pending = PendingWorld {
            task,
            id: command.request_id.clone(),
            calls: vec![number],
            due: BTreeMap::from([(number, deadline)]),
            joined: false,
            in_place: command.in_place,
            given_up: None,
            taken_back: false,
        };
        self.session(place).pending = Some(pending);
        if active.task == Some(task) {
            self.resolve(place, Expect::Active(active.generation));
        }
        Ok(())
    }

    fn known_task(&self, model: usize, name: &str) -> Result<TaskIndex, EngineError> {
        let content = &self.models[model].content;
        content.task(name).ok_or_else(|| EngineError::UnknownTask {
            name: name.into(),
            known: super::bundles::TASKS[..content.tasks.len()].iter().map(|&t| t.into()).collect(),
        })
    }

    /// Whether the session has met this request before; then its answer is the same.
    fn repeats(
        &mut self,
        place: (usize, u32),
        task: TaskIndex,
        id: Option<&str>,
        deadline: Duration,
        number: u64,
    ) -> Result<bool, EngineError> {
        let Some(id) = id else { return Ok(false) };
        let key = (self.session(place).name.clone(), id.to_owned());
        let Some(remembered) = self.models[place.0].answers.get(&key) else { return Ok(false) };
        if remembered.task != task {
            return Err(EngineError::RequestIdReused);
        }
        match remembered.result.clone() {
            Some(result) => self.expect(number, result),
            None => {
                let pending = self.session(place).pending.as_mut().expect("the request runs");
                assert_eq!(pending.id.as_deref(), Some(id), "it is this one");
                pending.calls.push(number);
                pending.due.insert(number, deadline);
            }
        }
        Ok(true)
    }

    fn expect(&mut self, number: u64, expect: Expect) {
        if let Some(call) = self.calls.get_mut(&number) {
            call.expect = Some(expect);
        }
    }

    /// Ends the pending switch of a session, if there is one, at the beginning of an action. A task
    /// that was given up for it is taken back if all of it is still there, as it is until the switch
    /// begins.
    pub(crate) fn fail(&mut self, place: (usize, u32), error: EngineError) {
        let given_up = self.session(place).pending.as_ref().and_then(|pending| pending.given_up);
        let error = match given_up {
            Some(old) if !self.take_back(place, old) => EngineError::Emptied(Box::new(error)),
            Some(_) => {
                self.notes.push(match error {
                    EngineError::Superseded => "taken back for another switch",
                    _ => "taken back at its deadline",
                });
                error
            }
            None => error,
        };
        self.resolve(place, Expect::Exactly(Err(error)));
    }

    fn take_back(&mut self, place: (usize, u32), old: TaskIndex) -> bool {
        let model = &self.models[place.0];
        let is_there = model.content.task_blocks(old).is_subset(&model.resident);
        if is_there {
            let session = self.session(place);
            let generation = session.active.generation.next();
            session.now_serves(Active { generation, task: Some(old) });
        }
        is_there
    }

    /// Ends the pending switch of a session, if there is one.
    pub(crate) fn resolve(&mut self, place: (usize, u32), expect: Expect) {
        let Some(pending) = self.session(place).pending.take() else { return };
        self.remember(place, pending.id, expect.clone());
        pending.calls.into_iter().for_each(|number| self.expect(number, expect.clone()));
    }

    /// Notes what a repeat of a request must get.
    pub(crate) fn remember(&mut self, place: (usize, u32), id: Option<String>, expect: Expect) {
        let Some(id) = id else { return };
        let Some(session) = self.models[place.0].sessions.get(&place.1) else { return };
        let key = (session.name.clone(), id);
        let answers = &mut self.models[place.0].answers;
        if matches!(&expect, Expect::Exactly(Err(error)) if may_pass(error)) {
            answers.remove(&key);
        } else if let Some(remembered) = answers.get_mut(&key) {
            remembered.result = Some(expect);
        }
    }

    /// Opens a session, which gets the first free place.
    pub(crate) fn open(&mut self, target: &Target) -> Result<(), EngineError> {
        let model = self.find_model(&target.model)?;
        let name = &target.session;
        if !is_name(name) {
            return Err(EngineError::BadName { what: "a session's name", limit: MAX_NAME_LEN });
        }
        let sessions = &mut self.models[model].sessions;
        if sessions.values().any(|session| session.name == *name) {
            return Err(EngineError::SessionExists(name.clone()));
        }
        let place = (0..).find(|place| !sessions.contains_key(place)).expect("a free place");
        sessions.insert(place, SessionWorld::new(name, place));
        Ok(())
    }

    /// Closes a session that so many clients are attached to.
    pub(crate) fn close(&mut self, target: &Target, clients: usize) -> Result<(), EngineError> {
        let place = self.find(target)?;
        let name = self.session(place).name.clone();
        if name == DEFAULT_SESSION {
            return Err(EngineError::DefaultSession);
        }
        if clients > 0 {
            return Err(EngineError::SessionInUse { name, clients });
        }
        // Nobody needs the task back that it may have given up.
        let given_up = self.session(place).pending.as_ref().and_then(|pending| pending.given_up);
        self.notes.extend(given_up.map(|_| "closed without its task"));
        self.resolve(place, Expect::Exactly(Err(EngineError::SessionClosed)));
        let model = &mut self.models[place.0];
        model.sessions.remove(&place.1);
        model.answers.retain(|(session, _), _| *session != name);
        Ok(())
    }

    /// Who has which task active, and which others are pending.
    pub(crate) fn snapshot(&self) -> Vec<Holding> {
        let models = self.models.iter().enumerate();
        let holdings = models.flat_map(|(model, sessions)| {
            sessions.sessions.iter().map(move |(&place, session)| Holding {
                place: (model, place),
                active: session.active.task,
                pending: session.pending.as_ref().map(|pending| pending.task),
                given_up: session.pending.as_ref().and_then(|pending| pending.given_up),
            })
        });
        holdings.collect()
    }
}

/// Whether a repeat of the request is a new attempt.
fn may_pass(error: &EngineError) -> bool {
    match error {
        EngineError::Emptied(cause) => may_pass(cause),
        other => matches!(other, EngineError::NoRoom { .. } | EngineError::DeadlineExceeded),
    }
}

/// What a session may hold in the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holding {
    pub(crate) place: (usize, u32),
    pub(crate) active: Option<TaskIndex>,
    pub(crate) pending: Option<TaskIndex>,
    /// It holds that until its switch begins.
    pub(crate) given_up: Option<TaskIndex>,
}

impl SessionWorld {
    fn new(name: &str, place: u32) -> Self {
        Self {
            name: name.to_owned(),
            entry: SessionEntry::new(place).expect("a place in the table"),
            active: Active { generation: Generation::NONE, task: None },
            pending: None,
            draining: Vec::new(),
            changes: 0,
        }
    }

    pub(crate) fn now_serves(&mut self, active: Active) {
        self.active = active;
        self.changes += 1;
    }
}

impl ModelWorld {
    /// Whether a task fits beside the active tasks, and those whose readers nobody waits for.
    pub(crate) fn fits(&self, task: TaskIndex) -> bool {
        let active = self.sessions.values().filter_map(|session| session.active.task);
        self.holds(active.chain(self.stuck()).chain([task]))
    }

    /// Whether these tasks fit together.
    pub(crate) fn holds(&self, tasks: impl IntoIterator<Item = TaskIndex>) -> bool {
        self.content.union(tasks).count_ones(..) <= self.slots
    }

    /// Tasks of old generations whose leases were revoked.
    pub(crate) fn stuck(&self) -> impl Iterator<Item = TaskIndex> + '_ {
        let draining = self.sessions.values().flat_map(|session| &session.draining);
        draining.filter(|draining| draining.revoked).map(|draining| draining.old.task)
    }
}
