//! A trace against a running daemon, at the trace's own times.

use super::{
    positive,
    report::{Ending, Run, Switched},
};
use crate::{
    cli::{call, failure::Failure, interrupt::Interrupt},
    client::{self, Control},
    proto::{self, SwitchOutcome},
    trace::Step,
};
use clap::Args;
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet, time::sleep};
use tonic::Status;
use tonic_types::StatusExt as _;

/// How often a signal is looked for while the next step is waited for.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, Args)]
pub(super) struct LiveArgs {
    /// Replay against the daemon at this control socket, instead of in virtual time.
    #[arg(long, value_name = "SOCKET", conflicts_with = "bundle")]
    pub(super) control: Option<PathBuf>,
    /// How much faster than the trace says.
    #[arg(long, default_value_t = 1.0, value_parser = positive, requires = "control")]
    speed: f64,
    /// The model; may be left out if the daemon has one.
    #[arg(long, default_value = "", requires = "control")]
    model: String,
    /// The session.
    #[arg(long, default_value = "default", requires = "control")]
    session: String,
}

/// What a trace was replayed against.
#[derive(Debug, Serialize)]
pub(super) struct LiveSetting {
    control: PathBuf,
    session: String,
    speed: f64,
}

/// A daemon that a trace is replayed against.
pub(super) struct Live {
    runtime: Runtime,
    client: Control,
    control: PathBuf,
    args: LiveArgs,
}

impl Live {
    pub(super) fn connect(control: &Path, args: &LiveArgs) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::failed)?;
        let client = runtime.block_on(client::connect(control)).map_err(Failure::failed)?;
        Ok(Self { runtime, client, control: control.to_owned(), args: args.clone() })
    }

    /// The tasks that the daemon knows.
    pub(super) fn tasks(&mut self) -> Result<Vec<String>, Failure> {
        let models = self.client.list_models(proto::ListModelsRequest {});
        let models = self.runtime.block_on(models).map_err(|status| failed(&status))?;
        let wanted = &self.args.model;
        let models = models.into_inner().models.into_iter();
        let models = models.filter(|model| wanted.is_empty() || model.name == *wanted);
        Ok(models.flat_map(|model| model.tasks).map(|task| task.name).collect())
    }

    /// Switches as the trace says. A step does not wait for the one before.
    pub(super) fn play(&self, steps: &[Step], interrupt: &Interrupt) -> Result<Run, Failure> {
        let mut switched = self.runtime.block_on(self.follow(steps, interrupt))?;
        switched.sort_by_key(|one| one.at);
        let demand_bytes = switched.iter().map(|one| one.read_bytes).sum();
        Ok(Run { name: "live", switched, demand_bytes, ahead: None })
    }

    pub(super) fn setting(self) -> LiveSetting {
        let LiveArgs { session, speed, .. } = self.args;
        LiveSetting { control: self.control, session, speed }
    }

    async fn follow(
        &self,
        steps: &[Step],
        interrupt: &Interrupt,
    ) -> Result<Vec<Switched>, Failure> {
        let begun = Instant::now();
        let mut calls = JoinSet::new();
        for step in steps {
            let ms = (step.at_ms - steps[0].at_ms) as f64 / self.args.speed;
            let at = Duration::from_secs_f64(ms / 1e3);
            wait(begun + at, interrupt).await?;
            calls.spawn(switch(self.client.clone(), self.request(step), at));
        }
        let ended = calls.join_all().await;
        ended.into_iter().collect()
    }

    fn request(&self, step: &Step) -> proto::SwitchTaskRequest {
        proto::SwitchTaskRequest {
            model: self.args.model.clone(),
            session: self.args.session.clone(),
            task: step.task.clone(),
            ..Default::default()
        }
    }
}

async fn wait(until: Instant, interrupt: &Interrupt) -> Result<(), Failure> {
    loop {
        interrupt.check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The calls that were begun get their turn, too.
            tokio::task::yield_now().await;
            return Ok(());
        }
        sleep(left.min(LOOK)).await;
    }
}

async fn switch(
    mut client: Control,
    request: proto::SwitchTaskRequest,
    at: Duration,
) -> Result<Switched, Failure> {
    let begun = Instant::now();
    match client.switch_task(request).await {
        Ok(response) => Ok(switched(at, &response.into_inner())),
        Err(status) => {
            let ending = ending(&status).ok_or_else(|| failed(&status))?;
            Ok(Switched::failed(at, begun.elapsed(), ending))
        }
    }
}

fn switched(at: Duration, response: &proto::SwitchTaskResponse) -> Switched {
    let bytes = |amount: Option<proto::Amount>| amount.unwrap_or_default().bytes;
    let ending = match response.outcome() {
        SwitchOutcome::AlreadyActive => Ending::AlreadyActive,
        SwitchOutcome::Resident => Ending::Resident,
        SwitchOutcome::PartlyPrefetched => Ending::Partly,
        SwitchOutcome::Loaded | SwitchOutcome::Unspecified => Ending::Loaded,
    };
    Switched {
        at,
        waited: Duration::from_micros(response.timing.unwrap_or_default().total_us),
        ending,
        prefetched_bytes: bytes(response.prefetched),
        read_bytes: bytes(response.read),
    }
}

/// How a refused switch is counted, if that is part of life.
fn ending(status: &Status) -> Option<Ending> {
    let details = status.get_error_details();
    match details.error_info()?.reason.as_str() {
        "SUPERSEDED" => Some(Ending::Superseded),
        "POOL_FULL" => Some(Ending::Refused),
        _ => None,
    }
}

fn failed(status: &Status) -> Failure {
    Failure::failed(call::refused(status))
}
