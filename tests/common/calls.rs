//! Calls of a running daemon, and what must come of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper may stop its test")]

use super::{Fixture, daemon::Daemon};
use safetensors::SafeTensors;
use std::{collections::HashMap, fs, path::Path};
use synchromesh::{bundle::Bundle, client::Attachment, proto, units::TaskIndex};
use tempfile::TempDir;
use tonic::Status;
use tonic_types::StatusExt as _;

/// A folder with the small bundle in it.
pub(crate) fn bundle() -> (TempDir, Fixture, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::small();
    let bundle = fixture.write(&folder.path().join("small.mesh"));
    (folder, fixture, bundle)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn switch(task: &str) -> proto::SwitchTaskRequest {
    proto::SwitchTaskRequest { task: task.into(), ..Default::default() }
}

pub(crate) fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has an ErrorInfo");
    assert_eq!(info.domain, "synchromesh");
    info.reason.clone()
}

pub(crate) fn metadata(status: &Status) -> HashMap<String, String> {
    status.get_error_details().error_info().unwrap().metadata.clone()
}

/// Bytes of a pool that holds all blocks.
pub(crate) fn whole(bundle: &Bundle) -> u64 {
    bundle.len() as u64 * bundle.block().bytes()
}

/// Compares everything that a file exported from a session has with the fixture.
pub(crate) fn assert_exported(file: &Path, fixture: &Fixture, bundle: &Bundle, task: TaskIndex) {
    let bytes = fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), bundle.tensors().len() + bundle.base().tensors.len());
    for (position, tensor) in bundle.tensors().iter().enumerate() {
        let view = tensors.tensor(tensor.name()).unwrap();
        assert_eq!(view.shape(), tensor.tiling().shape());
        assert_eq!(view.data(), fixture.expected_dense(task, position), "{}", tensor.name());
    }
    for (position, tensor) in (0..).zip(&bundle.base().tensors) {
        let view = tensors.tensor(&tensor.name).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        assert_eq!(view.data(), fixture.base_bytes(position), "{}", tensor.name);
    }
}

/// Attaches and compares every tensor.
pub(crate) fn assert_serves(daemon: &Daemon, fixture: &Fixture, task: TaskIndex) {
    let mut attachment = Attachment::connect(&daemon.attach(), "", "").unwrap();
    let lease = attachment.lease().unwrap();
    assert_eq!(lease.task(), task);
    for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
        assert_eq!(
            lease.sparse(tensor).to_dense().unwrap(),
            fixture.expected_dense(task, position)
        );
    }
    for (position, tensor) in (0..).zip(&lease.bundle().base().tensors) {
        assert_eq!(lease.base(tensor).bytes(), fixture.base_bytes(position));
    }
}
