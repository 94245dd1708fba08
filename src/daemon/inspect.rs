//! What keeps models from being served, as far as it can be said without loading them: for who checks
//! a configuration.
//!
//! No start comes by here: loading opens each bundle anyway, and says the same.

use super::DaemonError;
use crate::{
    bundle::Bundle,
    config::ModelConfig,
    engine::{ModelSpec, find_task},
};
use std::collections::HashSet;

/// Looks into bundles, one after the other.
#[derive(Debug, Default)]
pub struct Inspector {
    /// The models' names so far.
    names: HashSet<String>,
}

impl Inspector {
    /// Says which of a model's keys are wrong by what its bundle is, and how.
    pub fn inspect(&mut self, model: &ModelConfig) -> Vec<(&'static str, String)> {
        let ModelConfig { bundle: path, pool_bytes, initial_task } = model;
        let bundle = match Bundle::open(path) {
            Ok(bundle) => bundle,
            Err(error) => return vec![("bundle", error.to_string())],
        };
        let name = bundle.model();
        let is_new = self.names.insert(name.to_owned());
        let same = (!is_new).then(|| DaemonError::SameModel(name.to_owned()).to_string());
        let spec = ModelSpec { bundle: path.clone(), pool_bytes: *pool_bytes, lock_memory: false };
        let room = spec.layout(&bundle).err().map(|error| error.to_string());
        let task = initial_task.as_deref().and_then(|task| find_task(&bundle, task).err());
        let task = task.map(|error| error.to_string());
        let found = [("bundle", same), ("pool_bytes", room), ("initial_task", task)];
        found.into_iter().filter_map(|(key, what)| Some((key, what?))).collect()
    }
}
