//! Writes what a session really serves as a dense safetensors file, tensor by tensor.

use super::{AttachError, Lease};
use crate::{bundle, files::AtomicFile};
use safetensors::SafeTensorError;
use std::{
    collections::HashMap,
    io::{self, Write as _},
    path::Path,
};
use thiserror::Error;

/// Why the file was not written; the target is as it was, unless the error says otherwise.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The file cannot be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The tensors cannot be put into a safetensors file.
    #[error("the tensors do not fit into a safetensors file: {0}")]
    Format(#[from] SafeTensorError),
    /// The caller wanted to stop.
    #[error("interrupted; nothing was written")]
    Cancelled,
    /// A block is missing.
    #[error(transparent)]
    Block(#[from] AttachError),
}

/// Writes all tensors as the lease's task has them. The file appears whole or not at all; not if
/// `cancelled` says so before it is complete. Memory stays near the largest tensor.
pub fn export(
    lease: &Lease<'_>,
    target: &Path,
    cancelled: impl Fn() -> bool,
) -> Result<(), ExportError> {
    let failed = |source| ExportError::Io { path: target.display().to_string(), source };
    let bundle = lease.bundle();
    let base = bundle.base().tensors.iter();
    let base = base.map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone()));
    let pruned = bundle.tensors().iter().map(|tensor| {
        let tiling = tensor.tiling();
        (tensor.name().to_owned(), tiling.block().dtype(), tiling.shape().to_vec())
    });
    let infos = bundle::lay_out(base.chain(pruned)).ok_or(SafeTensorError::ValidationOverflow)?;
    let task = bundle.task(lease.task()).name.clone();
    let about = HashMap::from([("synchromesh_task".to_owned(), task)]);
    let header = bundle::header(Some(about), infos)?;

    let file = AtomicFile::create(target).map_err(failed)?;
    let write = |bytes: &[u8]| match cancelled() {
        true => Err(ExportError::Cancelled),
        false => file.file().write_all(bytes).map_err(failed),
    };
    write(&header)?;
    for tensor in &bundle.base().tensors {
        write(lease.base(tensor).bytes())?;
    }
    for tensor in bundle.tensors() {
        write(&lease.sparse(tensor).to_dense()?)?;
    }
    file.commit().map_err(failed)
}
