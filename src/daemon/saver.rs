//! When what was learnt is written: now and then, and at the end; never on the thread that serves.
//! How it looks on disk is `state`'s matter.

use super::state::Keeper;
use crate::engine::{Command, Handle, Learnt};
use std::time::Duration;
use tokio::{sync::oneshot, task::spawn_blocking, time::sleep};

/// How often at most. What a crash takes with it is learnt again in about that time.
const EVERY: Duration = Duration::from_secs(600);

/// Saves what the engine has learnt now and then, until the last of it comes, which is saved too.
pub(super) async fn run(
    engine: Handle,
    mut keeper: Keeper,
    mut last: oneshot::Receiver<Vec<Learnt>>,
) {
    loop {
        let (learnt, ended) = tokio::select! {
            last = &mut last => (last.unwrap_or_default(), true),
            () = sleep(EVERY) => (learnt(&engine).await, false),
        };
        let saving = spawn_blocking(move || {
            keeper.save(&learnt);
            keeper
        });
        match saving.await {
            Ok(back) if !ended => keeper = back,
            _ => return,
        }
    }
}

/// What the engine has learnt.
pub(super) async fn learnt(engine: &Handle) -> Vec<Learnt> {
    engine.ask(|reply| Command::Learnt { reply }).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "what was learnt is not kept this time");
        Vec::new()
    })
}
