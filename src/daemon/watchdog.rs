//! Tells systemd that the daemon is alive, as long as it is: the engine answers, and every thread that
//! reads or verifies comes round. Silence has it started anew.
//!
//! A device that hangs is not a daemon that hangs: a thread that waits for it counts as alive, as a
//! new daemon would wait just the same.

use super::systemd::Notifier;
use crate::engine::{EngineError, Handle, Serving};
use sd_notify::{NotifyState, watchdog_enabled};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Notices within the time after which systemd gives the daemon up.
const NOTICES: u32 = 3;
/// How long the answers before the start may take, and how often they are looked for.
const SELF_CHECK: Duration = Duration::from_secs(5);
const GLANCE: Duration = Duration::from_millis(1);

/// How often systemd wants to hear, if it does.
pub(super) fn wanted() -> Option<Duration> {
    watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| limit / NOTICES)
}

/// Tells systemd every so often what it wants to hear, if it is so, until the engine stops.
pub(super) async fn run(engine: Handle, notifier: Arc<Notifier>, every: Duration) {
    let mut before = None;
    loop {
        let silent = match look(&engine, every).await {
            Err(EngineError::Stopped) => return,
            Err(_) => Some("the engine".to_owned()),
            Ok(silent) => silent,
        };
        match &silent {
            None => notifier.tell_now(&[NotifyState::Watchdog]),
            Some(silent) if before.as_ref() != Some(silent) => {
                tracing::error!(silent, "no answer: systemd will start the daemon anew");
            }
            Some(_) => {}
        }
        before = silent;
    }
}

/// Waits until the engine and all threads have answered once, and gives what is served; or tells who
/// has not.
pub(super) async fn check(engine: &Handle) -> Result<Vec<Serving>, String> {
    engine.ask_threads();
    let serving = timeout(SELF_CHECK, engine.serving()).await;
    let serving = serving.unwrap_or(Err(EngineError::DeadlineExceeded));
    let serving = serving.map_err(|_| "the engine".to_owned())?;
    let until = Instant::now() + SELF_CHECK;
    while let Some(silent) = engine.silent_thread() {
        if Instant::now() > until {
            return Err(silent);
        }
        sleep(GLANCE).await;
    }
    Ok(serving)
}

/// Looks for `time`, and tells which thread was silent, or that the engine was.
async fn look(engine: &Handle, time: Duration) -> Result<Option<String>, EngineError> {
    engine.ask_threads();
    let (answer, ()) = tokio::join!(timeout(time, engine.serving()), sleep(time));
    answer.unwrap_or(Err(EngineError::DeadlineExceeded))?;
    Ok(engine.silent_thread())
}
