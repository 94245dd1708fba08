//! The line that `systemctl status` shows: what is active, and what an operator should know besides.
//!
//! It is told once a second at most, only if it has changed, and only if somebody listens.

use super::systemd::Notifier;
use crate::engine::{Handle, Serving};
use sd_notify::NotifyState;
use std::{fmt::Write as _, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// How often it is told at most.
const EVERY: Duration = Duration::from_secs(1);
/// Sessions that are named.
const NAMED: usize = 16;

/// Longest text on what is served: systemd takes no notice of more than 4096 bytes.
const MOST_BYTES: usize = 2048;

/// What there is to be told besides what is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remarks {
    /// How the daemon was started, if not as usual.
    pub(super) mode: Option<&'static str>,
    /// What became of the latest reload.
    pub(super) reload: Option<String>,
}

/// The line.
pub(super) fn line(serving: &[Serving], remarks: &Remarks) -> String {
    let mut line = remarks.mode.map(|mode| format!("{mode}; ")).unwrap_or_default();
    line += "active:";
    let mut model = "";
    for session in serving.iter().take(NAMED) {
        // Writing to a string does not fail.
        if session.model() != model {
            model = session.model();
            let _ = write!(line, " {model}");
        }
        let _ = write!(line, " {}={}", session.session(), session.task().unwrap_or("none"));
    }
    if serving.len() > NAMED {
        let _ = write!(line, " and {} more", serving.len() - NAMED);
    }
    if cut(&mut line, MOST_BYTES) {
        line += "…";
    }
    if let Some(reload) = &remarks.reload {
        let _ = write!(line, "; {reload}");
    }
    line
}

/// Cuts a text that is longer than so many bytes, and says whether it was.
pub(super) fn cut(text: &mut String, most: usize) -> bool {
    let is_long = text.len() > most;
    if is_long {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
    }
    is_long
}

/// Tells the line whenever it has changed, until the engine stops.
pub(super) async fn run(
    engine: Handle,
    notifier: Arc<Notifier>,
    remarks: watch::Receiver<Remarks>,
    mut told: String,
) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(serving) = engine.serving().await else { return };
        let line = line(&serving, &remarks.borrow());
        if line != told {
            notifier.tell(&[NotifyState::Status(&line)]).await;
            told = line;
        }
    }
}
