//! When what was learnt is written: now and then, and at the end; never on the thread that serves.
//! How it looks on disk is `state`'s matter.

use super::{aside::aside, state::Keeper};
use crate::engine::{Command, Handle, Learnt};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::sleep};

/// How often at most. What a crash takes with it is learnt again in about that time.
const EVERY: Duration = Duration::from_secs(600);
const NOT_KEPT: &str = "what was learnt is not kept this time";

/// Saves what the engine has learnt now and then, until the last of it comes, which is saved too.
pub(super) async fn run(engine: Handle, keeper: Keeper, mut last: oneshot::Receiver<Vec<Learnt>>) {
    let keeper = Arc::new(Mutex::new(keeper));
    loop {
        let (learnt, ended) = tokio::select! {
            last = &mut last => (last.unwrap_or_default(), true),
            () = sleep(EVERY) => (learnt(&engine).await, false),
        };
        let keeper = keeper.clone();
        let save = move || keeper.lock().unwrap_or_else(PoisonError::into_inner).save(&learnt);
        if let Err(error) = aside("save", save).await {
            tracing::warn!(%error, "{NOT_KEPT}");
        }
        if ended {
            return;
        }
    }
}

/// What the engine has learnt.
pub(super) async fn learnt(engine: &Handle) -> Vec<Learnt> {
    engine.ask(|reply| Command::Learnt { reply }).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "{NOT_KEPT}");
        Vec::new()
    })
}
