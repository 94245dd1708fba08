//! What was learnt about switches, kept over restarts: a record for each model.
//!
//! Knows neither when to write nor what the content means.

use super::record::{Kind, Record};
use crate::{engine::Learnt, predict::SavedForesight};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

const FORESIGHT: Kind = Kind { name: "foresight", left_out: "what was learnt there is left out" };

/// Keeps what was learnt in a folder.
#[derive(Debug)]
pub struct Keeper {
    /// `None` if nothing is kept.
    folder: Option<PathBuf>,
    /// By model; one of which nothing is kept may be absent.
    kept: HashMap<String, Kept>,
}

/// What is on disk of a model.
#[derive(Debug)]
struct Kept {
    record: Record,
    /// How much of this run's learning it holds.
    switches: u64,
}

impl Kept {
    fn new(folder: &Path, model: &str) -> Self {
        Self { record: Record::new(FORESIGHT, folder, model), switches: 0 }
    }
}

impl Keeper {
    /// Keeps in this folder; if it is not there, that is told, and nothing is kept.
    pub fn open(folder: &Path) -> Self {
        let there = folder.is_dir();
        if !there {
            let what = "what is learnt is not kept over restarts: there is no such folder";
            tracing::warn!(state_dir = %folder.display(), "{what}");
        }
        Self { folder: there.then(|| folder.to_owned()), kept: HashMap::new() }
    }

    /// What was learnt of a model when it was served last.
    pub fn load(&mut self, model: &str) -> Option<SavedForesight> {
        let mut kept = Kept::new(self.folder.as_deref()?, model);
        let foresight = kept.record.load();
        self.kept.insert(model.to_owned(), kept);
        foresight
    }

    /// Writes what was learnt of those models that have learnt since it was written last.
    pub fn save(&mut self, learnt: &[Learnt]) {
        let Some(folder) = &self.folder else { return };
        for Learnt { model, switches, foresight } in learnt {
            let kept = self.kept.entry(model.clone()).or_insert_with(|| Kept::new(folder, model));
            if *switches <= kept.switches {
                continue;
            }
            match kept.record.write(foresight) {
                Ok(()) => kept.switches = *switches,
                Err(error) => {
                    let file = kept.record.next_path().display();
                    tracing::warn!(model, %file, %error, "what was learnt is not kept");
                }
            }
        }
    }
}
