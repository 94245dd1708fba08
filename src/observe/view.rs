//! The daemon's state in the protocol's words, for calls and for the page.

use crate::{
    bundle::Bundle,
    engine::{Clock, Command, EngineError, Handle, ModelStatus, StorageStatus},
    proto,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;

/// How long the engine may take to answer whoever measures or looks.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// The state as it is measured.
#[derive(Clone)]
pub(super) struct Snapshot {
    /// What the engine tells of each model; nothing if it does not answer.
    pub(super) models: Option<Vec<(Arc<Bundle>, ModelStatus)>>,
    /// Each model's storage.
    pub(super) storage: Vec<(String, StorageStatus)>,
    /// Commands that wait to be taken up.
    pub(super) commands_waiting: usize,
}

/// Sees the daemon's state.
pub struct View {
    engine: Handle,
    clock: Arc<dyn Clock>,
    /// This run of the daemon.
    instance: String,
    /// When the daemon was ready, on that clock.
    ready_at: Duration,
    serving: AtomicBool,
}

impl View {
    /// A view of a daemon that is ready now, but does not serve yet.
    pub fn new(engine: Handle, clock: Arc<dyn Clock>, instance: &str) -> Self {
        let (instance, serving) = (instance.to_owned(), AtomicBool::new(false));
        Self { engine, ready_at: clock.now(), clock, instance, serving }
    }

    /// Notes whether switches are taken.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    /// Tells the state of a model, or of all if none is named.
    pub async fn status(
        &self,
        model: String,
        picture: bool,
    ) -> Result<proto::GetStatusResponse, EngineError> {
        let models = self.engine.ask(|reply| Command::Status { model, reply }).await?;
        let mut told = Vec::with_capacity(models.len());
        for model in models {
            let picture = if picture { Some(self.picture(&model.name).await?) } else { None };
            told.push(self.told(model, picture));
        }
        told.sort_by(|a, b| a.name.cmp(&b.name));
        let serving = self.serving.load(Ordering::Relaxed);
        use proto::DaemonState::{Draining, Serving};
        Ok(proto::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            state: if serving { Serving } else { Draining }.into(),
            uptime_ms: self.clock.now().saturating_sub(self.ready_at).as_millis() as u64,
            models: told,
            instance: self.instance.clone(),
        })
    }

    /// Lists the models.
    pub async fn models(&self) -> Result<proto::ListModelsResponse, EngineError> {
        let bundles = self.engine.ask(|reply| Command::ListModels { reply }).await?;
        let mut models: Vec<proto::Model> =
            bundles.iter().map(|bundle| bundle.as_ref().into()).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(proto::ListModelsResponse { models, instance: self.instance.clone() })
    }

    /// Tells the state as it is measured, whether or not the engine answers.
    pub(super) async fn snapshot(&self) -> Snapshot {
        let commands_waiting = self.engine.commands_waiting();
        let models = timeout(PATIENCE, self.measured()).await;
        let storage = self.engine.all_storage().map(|(model, status)| (model.to_owned(), status));
        let storage = storage.collect();
        Snapshot { models: models.ok().and_then(Result::ok), storage, commands_waiting }
    }

    async fn measured(&self) -> Result<Vec<(Arc<Bundle>, ModelStatus)>, EngineError> {
        let bundles = self.engine.ask(|reply| Command::ListModels { reply }).await?;
        let model = String::new();
        let models = self.engine.ask(|reply| Command::Status { model, reply }).await?;
        let of = |model: ModelStatus| {
            let bundle = bundles.iter().find(|bundle| bundle.model() == model.name)?;
            Some((bundle.clone(), model))
        };
        Ok(models.into_iter().filter_map(of).collect())
    }

    async fn picture(&self, model: &str) -> Result<proto::Picture, EngineError> {
        let model = model.to_owned();
        Ok(self.engine.ask(|reply| Command::Picture { model, reply }).await?.into())
    }

    fn told(&self, model: ModelStatus, picture: Option<proto::Picture>) -> proto::ModelStatus {
        let storage = self.engine.storage(&model.name).map(Into::into);
        proto::ModelStatus { storage, picture, ..model.into() }
    }
}
