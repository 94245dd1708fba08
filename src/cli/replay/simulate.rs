//! A trace against the real engine in virtual time: only clock and device are made up, and
//! verification takes no time.

use super::{
    clock::SetClock,
    device::Device,
    policy::{Adviser, Policy},
    report::{Ahead, Ending, Run, Switched},
    setting::Setting,
};
use crate::{
    cli::{failure::Failure, interrupt::Interrupt},
    config::{PrefetchConfig, StorageConfig},
    engine::{
        Action, Clock, Command, Effect, Engine, EngineError, HintCommand, Limits, LoadError, Model,
        ModelSpec, Outcome, Reply, SwitchCommand, SwitchReport, Target, Verified, Verify,
    },
    trace::Step,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot::{self, error::TryRecvError};

/// Longer than anything takes: the device here always answers.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// A timer is no finer than this, so time always goes on.
const TIMER: Duration = Duration::from_micros(100);

/// What can happen next. Of what happens at once, the first here comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Read,
    Step,
    Tick,
}

/// A switch that was asked for.
struct Pending {
    step: usize,
    begun: Duration,
    answer: oneshot::Receiver<Result<SwitchReport, EngineError>>,
}

struct Simulation<'a> {
    steps: &'a [Step],
    policy: Policy,
    adviser: Adviser<'a>,
    clock: Arc<SetClock>,
    engine: Engine,
    device: Device,
    next_step: usize,
    last_tick: Option<Duration>,
    pending: Vec<Pending>,
    switched: Vec<Switched>,
}

/// Replays a trace under a policy.
pub(super) fn simulate(
    setting: &Setting<'_>,
    policy: Policy,
    interrupt: &Interrupt,
) -> Result<Run, Failure> {
    let mut simulation = Simulation::new(setting, policy)?;
    while let Some((at, event)) = simulation.next_event() {
        interrupt.check()?;
        simulation.clock.set(at);
        simulation.happen(event);
        simulation.collect()?;
    }
    simulation.into_run()
}

impl<'a> Simulation<'a> {
    fn new(setting: &Setting<'a>, policy: Policy) -> Result<Self, Failure> {
        let Setting { bundle, pool_bytes, speed, steps } = *setting;
        let spec = ModelSpec { bundle: bundle.to_owned(), pool_bytes, lock_memory: false };
        let mut model = Model::load(&spec).map_err(refused)?;
        model.set_request_bytes(speed.request_bytes());
        let clock = Arc::new(SetClock::default());
        Ok(Self {
            steps,
            policy,
            adviser: Adviser::new(policy, steps),
            engine: Engine::new(vec![model], limits(policy), clock.clone()),
            clock,
            device: Device::new(speed),
            next_step: 0,
            last_tick: None,
            pending: Vec::new(),
            switched: Vec::with_capacity(steps.len()),
        })
    }

    /// What happens next, and when; nothing once all switches have ended.
    fn next_event(&self) -> Option<(Duration, Event)> {
        let step = self.steps.get(self.next_step).map(|step| (self.time_of(step), Event::Step));
        if step.is_none() && self.pending.is_empty() {
            return None;
        }
        let read = self.device.ends().map(|at| (at, Event::Read));
        let tick = self.next_tick().map(|at| (at, Event::Tick));
        [read, step, tick].into_iter().flatten().min()
    }

    fn next_tick(&self) -> Option<Duration> {
        let least = self.last_tick.map_or(Duration::ZERO, |last| last + TIMER);
        self.engine.next_tick().map(|due| due.max(least).max(self.clock.now()))
    }

    /// The trace begins with the clock.
    fn time_of(&self, step: &Step) -> Duration {
        Duration::from_millis(step.at_ms - self.steps[0].at_ms)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Read => {
                let done = self.device.finish();
                done.into_iter().for_each(|done| self.apply(Action::ReadDone(done)));
            }
            Event::Step => self.switch(),
            Event::Tick => {
                self.last_tick = Some(self.clock.now());
                self.apply(Action::Tick);
            }
        }
    }

    /// Applies an action, and what follows from it in no time.
    fn apply(&mut self, action: Action) {
        let mut actions = vec![action];
        while let Some(action) = actions.pop() {
            for effect in self.engine.apply(action) {
                match effect {
                    Effect::Read(read) => self.device.submit(read, self.clock.now()),
                    Effect::Verify(verify) => actions.push(Action::Verified(believed(verify))),
                }
            }
        }
        // Nobody logs them here.
        self.engine.events().for_each(drop);
    }

    fn switch(&mut self) {
        let (step, begun) = (self.next_step, self.clock.now());
        self.next_step += 1;
        let command = SwitchCommand {
            target: Target::default(),
            task: self.steps[step].task.clone(),
            request_id: None,
            expected_generation: None,
            arrived: begun,
            deadline: None,
            in_place: false,
            trace: None,
            caller: None,
        };
        let answer = self.ask(|reply| Command::Switch(command, reply));
        self.pending.push(Pending { step, begun, answer });
    }

    fn ask<T>(
        &mut self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> oneshot::Receiver<Result<T, EngineError>> {
        let (reply, answer) = oneshot::channel();
        self.apply(Action::Command(command(reply)));
        answer
    }

    /// Takes the answers that have come.
    fn collect(&mut self) -> Result<(), Failure> {
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.answer.try_recv() {
                Ok(result) => self.ended(&pending, result)?,
                Err(TryRecvError::Empty) => self.pending.push(pending),
                Err(error @ TryRecvError::Closed) => return Err(Failure::failed(error)),
            }
        }
        Ok(())
    }

    fn ended(
        &mut self,
        pending: &Pending,
        result: Result<SwitchReport, EngineError>,
    ) -> Result<(), Failure> {
        let is_published = result.is_ok();
        let waited = self.clock.now().saturating_sub(pending.begun);
        let at = pending.begun;
        self.switched.push(match result {
            Ok(report) => switched(at, waited, &report),
            Err(EngineError::Superseded) => Switched::failed(at, waited, Ending::Superseded),
            Err(EngineError::NoRoom { .. }) => Switched::failed(at, waited, Ending::Refused),
            Err(error) => return Err(Failure::failed(error)),
        });
        if is_published {
            self.advise(pending.step, waited);
        }
        Ok(())
    }

    /// Does what the policy wants once a task is active.
    fn advise(&mut self, step: usize, waited: Duration) {
        if self.policy.drops_all() {
            let model = String::new();
            self.ask(|reply| Command::Trim { model, blocks: usize::MAX, reply });
        }
        self.adviser.observe(step);
        if let Some(hints) = self.adviser.hints(step, waited) {
            let command = HintCommand { target: Target::default(), hints };
            self.ask(|reply| Command::Hint(command, reply));
        }
    }

    fn into_run(mut self) -> Result<Run, Failure> {
        let model = String::new();
        let mut answer = self.ask(|reply| Command::Status { model, reply });
        let status = answer.try_recv().map_err(Failure::failed)?.map_err(Failure::failed)?;
        let ahead = status.first().map(|model| {
            let bytes = |blocks: u64| blocks * model.pool.slot_bytes;
            let prefetch = model.prefetch;
            Ahead {
                loaded_bytes: bytes(prefetch.loaded),
                used_bytes: bytes(prefetch.used),
                wasted_bytes: bytes(prefetch.wasted),
                late_bytes: bytes(prefetch.late),
            }
        });
        Ok(Run {
            name: self.policy.name(),
            demand_bytes: self.device.demand_bytes(),
            switched: self.switched,
            ahead,
        })
    }
}

/// The size of the pool is for whoever asks to say.
fn refused(error: LoadError) -> Failure {
    match error {
        LoadError::PoolTooSmall { .. } => Failure::usage(error),
        _ => Failure::failed(error),
    }
}

fn limits(policy: Policy) -> Limits {
    let StorageConfig { reads_in_flight, read_bytes, .. } = StorageConfig::default();
    Limits {
        reads_in_flight,
        read_bytes,
        stall: PATIENCE,
        switch_timeout: PATIENCE,
        clients_per_session: 1,
        lease_patience: PATIENCE,
        prefetch: PrefetchConfig { enabled: policy.prefetches(), ..PrefetchConfig::default() },
    }
}

/// No byte was read, so none is compared.
fn believed(verify: Verify) -> Verified {
    let Verify { model, attempt, priority, blocks, .. } = verify;
    Verified { model, attempt, priority, good: blocks, bad: Vec::new() }
}

fn switched(at: Duration, waited: Duration, report: &SwitchReport) -> Switched {
    let bytes = |blocks: usize| blocks as u64 * report.block_bytes;
    let ending = match report.outcome {
        Outcome::AlreadyActive => Ending::AlreadyActive,
        Outcome::Resident => Ending::Resident,
        Outcome::PartlyPrefetched => Ending::Partly,
        Outcome::Loaded => Ending::Loaded,
    };
    let (prefetched_bytes, read_bytes) = (bytes(report.prefetched), bytes(report.read));
    Switched { at, waited, ending, prefetched_bytes, read_bytes }
}
