//! Sessions, kept over restarts: a record for each model, written soon after each change by a thread
//! that may wait for the disk, never by the one that serves.
//!
//! A session's generations must not decrease over restarts, and a switch must not wait for a disk. So
//! a record reserves generations ahead (its `ceiling`), and the next daemon begins there
//! (decision 17).

use super::{
    aside::aside,
    record::{Kind, Record},
};
use crate::engine::{Command, Handle, KeptSessions};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};

const SESSIONS: Kind =
    Kind { name: "sessions", left_out: "the sessions that are stored there are left out" };

const NOT_KEPT: &str = "sessions are not kept over a restart this time";
/// How often at most sessions are written.
const REST: Duration = Duration::from_millis(100);

/// Keeps sessions in a folder.
#[derive(Debug)]
pub struct SessionKeeper {
    /// `None` if nothing is kept.
    folder: Option<PathBuf>,
    /// By model.
    records: HashMap<String, (Record, Option<KeptSessions>)>,
}

impl SessionKeeper {
    /// Keeps in this folder, if it is there.
    pub fn open(folder: &Path) -> Self {
        let folder = folder.is_dir().then(|| folder.to_owned());
        Self { folder, records: HashMap::new() }
    }

    /// The sessions of a model when it was served last.
    pub fn load(&mut self, model: &str) -> Option<KeptSessions> {
        let mut record = Record::new(SESSIONS, self.folder.as_deref()?, model);
        let kept: Option<KeptSessions> = record.load();
        self.records.insert(model.to_owned(), (record, None));
        let sound = kept.as_ref().is_none_or(KeptSessions::is_sound);
        if !sound {
            tracing::warn!(model, "{}: their generations cannot be", SESSIONS.left_out);
        }
        kept.filter(|_| sound)
    }

    /// Writes the sessions of a model, unless what is written says the same.
    pub fn save(&mut self, model: &str, kept: KeptSessions) {
        let Some(folder) = &self.folder else { return };
        let new = || (Record::new(SESSIONS, folder, model), None);
        let (record, written) = self.records.entry(model.to_owned()).or_insert_with(new);
        if written.as_ref().is_some_and(|written| written.covers(&kept)) {
            return;
        }
        match record.write(&kept) {
            Ok(()) => *written = Some(kept),
            Err(error) => {
                let file = record.next_path().display();
                tracing::warn!(model, %file, %error, "{NOT_KEPT}");
            }
        }
    }
}

/// Writes the sessions whenever they have changed, until the last of them come, which are written too.
pub(super) async fn run(
    engine: Handle,
    keeper: SessionKeeper,
    changes: Arc<Notify>,
    mut last: oneshot::Receiver<Vec<(String, KeptSessions)>>,
) {
    let keeper = Arc::new(Mutex::new(keeper));
    // What was written at the start is from before the sessions had their first tasks.
    changes.notify_one();
    loop {
        let (kept, ended) = tokio::select! {
            last = &mut last => (last.unwrap_or_default(), true),
            () = changes.notified() => {
                (engine.ask(|reply| Command::Kept { reply }).await.unwrap_or_default(), false)
            }
        };
        let keeper = keeper.clone();
        let save = move || {
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            kept.into_iter().for_each(|(model, kept)| keeper.save(&model, kept));
        };
        if let Err(error) = aside("sessions", save).await {
            tracing::warn!(%error, "{NOT_KEPT}");
        }
        if ended {
            return;
        }
        sleep(REST).await;
    }
}
