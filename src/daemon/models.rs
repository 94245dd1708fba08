//! Loading what the configuration names, and bringing back what an earlier daemon served; each
//! session's first task.
//!
//! What is learnt and what is left come from `state` and `store`.

use super::{DaemonError, sessions::SessionKeeper, state::Keeper, store::Store, systemd::Notifier};
use crate::{
    config::{Config, ModelConfig},
    engine::{
        Adopted, Clock, Command, EngineError, Handle, KeptSessions, Lacking, LoadError, Model,
        ModelSpec, SwitchCommand, Target,
    },
};
use sd_notify::NotifyState;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// What a slow machine gets ready in a second, at least.
const LOADED_PER_S: u64 = 50 << 20;
const LOADED_ANYHOW: Duration = Duration::from_secs(30);
/// How often loading is tried again when old pools were given up, whose memory the kernel does not
/// have back at once, and how long it rests in between.
const TRIES: u32 = 50;
const REST: Duration = Duration::from_millis(20);

/// A session's first task.
#[derive(Debug)]
pub(super) struct First {
    target: Target,
    task: String,
    /// Whether it was active before the restart; then it is no mistake if it cannot be.
    was_active: bool,
}

impl First {
    pub(super) fn model(&self) -> String {
        self.target.model.clone()
    }
}

/// What was loaded.
pub(super) struct Loaded {
    pub(super) models: Vec<Model>,
    pub(super) first: Vec<First>,
    begun: Instant,
    adopted: Vec<(String, Adopted)>,
}

/// Loads all models.
pub(super) fn load(
    config: &Config,
    keeper: &mut Keeper,
    sessions: &mut SessionKeeper,
    store: &mut Store,
    notifier: &Notifier,
) -> Result<Loaded, DaemonError> {
    let (models, first, adopted) = Default::default();
    let mut loaded = Loaded { models, first, begun: Instant::now(), adopted };
    for model in &config.models {
        let ModelConfig { bundle, pool_bytes, initial_task } = model;
        let (bundle, lock_memory) = (bundle.clone(), config.lock_memory);
        let spec = ModelSpec { bundle, pool_bytes: *pool_bytes, lock_memory };
        tell_loading(&spec, notifier);
        let mut model = load_one(&spec, store, notifier)?;
        let request_bytes = model.measure(&config.storage);
        if loaded.models.iter().any(|other| other.name() == model.name()) {
            return Err(DaemonError::SameModel(model.name().to_owned()));
        }
        if let Some(foresight) = keeper.load(model.name()) {
            model.relearn(&foresight);
        }
        loaded.go_on(&mut model, store, sessions, initial_task.as_deref());
        tracing::info!(
            model = model.name(),
            bundle = %model.bundle().id(),
            blocks = model.bundle().len(),
            tasks = model.bundle().task_indices().count(),
            request_bytes,
            huge_bytes = model.pool_status().huge_bytes,
            "loaded"
        );
        loaded.models.push(model);
    }
    Ok(loaded)
}

/// A large pool takes longer than a start may otherwise.
fn tell_loading(spec: &ModelSpec, notifier: &Notifier) {
    let time = LOADED_ANYHOW + Duration::from_secs(spec.pool_bytes / LOADED_PER_S);
    let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let status = format!("loading {}", spec.bundle.display());
    notifier.tell_now(&[NotifyState::Status(&status), NotifyState::ExtendTimeoutUsec(time)]);
}

/// Loads a model. If there is no memory for it beside old pools, those go first.
fn load_one(spec: &ModelSpec, store: &mut Store, notifier: &Notifier) -> Result<Model, LoadError> {
    let mut result = Model::load_after(spec, store.predecessors());
    if !store.has_memory() && !store.gave_up_memory() {
        return result;
    }
    if let Err(LoadError::Memory(error)) = &result
        && store.has_memory()
    {
        tracing::warn!(%error, "old pools are given up: what they hold is read instead");
        store.give_up_memory(notifier);
    }
    for _ in 0..TRIES {
        let Err(LoadError::Memory(_)) = &result else { return result };
        sleep(REST);
        result = Model::load_after(spec, store.predecessors());
    }
    result
}

impl Loaded {
    /// Opens the sessions of earlier daemons again, and stores that they are open.
    fn go_on(
        &mut self,
        model: &mut Model,
        store: &Store,
        sessions: &mut SessionKeeper,
        initial_task: Option<&str>,
    ) {
        let name = model.name().to_owned();
        let id = model.bundle().id();
        let left = store.predecessors().iter().find(|left| left.bundle_id() == id);
        let kept = sessions.load(&name);
        let adopted = model.go_on(left, kept.as_ref());
        // Until the first switches are done, the tasks are those that were stored.
        let next = model.kept();
        let kept = kept.map(|kept| kept.sessions).unwrap_or_else(|| next.sessions.clone());
        sessions.save(&name, KeptSessions { sessions: kept, ..next });
        let target = |session: &str| Target { model: name.clone(), session: session.to_owned() };
        let lacking = adopted.iter().flat_map(|adopted| &adopted.lacking);
        self.first.extend(lacking.map(|Lacking { session, task }| First {
            target: target(session),
            task: task.clone(),
            was_active: true,
        }));
        if !adopted.as_ref().is_some_and(|adopted| adopted.default_task) {
            self.first.extend(initial_task.map(|task| First {
                target: target(""),
                task: task.to_owned(),
                was_active: false,
            }));
        }
        self.adopted.extend(adopted.map(|adopted| (name, adopted)));
    }

    /// Tells, in one line for each model, what became of what was left.
    pub(super) fn tell_adopted(&self, read: &[(String, usize)]) {
        for (model, Adopted { sessions, copied, .. }) in &self.adopted {
            let read = read.iter().filter(|(of, _)| of == model);
            let read: usize = read.map(|(_, blocks)| blocks).sum();
            let ms = self.begun.elapsed().as_millis() as u64;
            let what = "adopted what the daemon before has left";
            tracing::info!(model, sessions, copied, read, ms, "{what}");
        }
    }
}

/// Makes a session's first task active, and gives the blocks that were read. A task whose blocks
/// cannot be read must not keep the other tasks and models from being served; one that does not exist
/// is a mistake to be told.
pub(super) async fn activate(
    engine: &Handle,
    clock: &dyn Clock,
    first: &First,
) -> Result<usize, DaemonError> {
    let First { target, task, was_active } = first;
    let command = SwitchCommand {
        target: target.clone(),
        task: task.clone(),
        request_id: None,
        expected_generation: None,
        arrived: clock.now(),
        deadline: None,
        in_place: false,
        trace: None,
        caller: None,
    };
    let unreadable = |error: &EngineError| {
        use EngineError::{Corrupt, DeadlineExceeded, StorageUnavailable};
        matches!(error, Corrupt { .. } | StorageUnavailable | DeadlineExceeded)
    };
    let Target { model, session } = target;
    match engine.ask(|reply| Command::Switch(command, reply)).await {
        Ok(report) => Ok(report.read),
        Err(error) if *was_active || unreadable(&error) => {
            tracing::error!(model, session, task, %error, "served without its initial task");
            Ok(0)
        }
        Err(source) => Err(DaemonError::InitialTask { model: model.clone(), source }),
    }
}
