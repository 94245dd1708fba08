//! Writes what a session really serves as a dense safetensors file, tensor by tensor.

use super::Lease;
use crate::{
    bundle::{BaseTensor, PrunedTensor},
    durable::AtomicFile,
};
use safetensors::{Dtype, SafeTensorError, View, serialize_to_file};
use std::{borrow::Cow, collections::HashMap, io, path::Path};
use thiserror::Error;

/// Why the file was not written; the target is as it was.
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
    #[error("cannot write {path}: {source}")]
    Format {
        /// The file.
        path: String,
        /// The cause.
        source: SafeTensorError,
    },
    /// The daemon's memory does not have the base that its bundle tells of.
    #[error("the daemon's memory has no base tensor `{0}`")]
    Base(String),
}

/// A tensor as the lease has it, made when it is written.
enum Tensor<'a> {
    Base(&'a BaseTensor, &'a [u8]),
    Pruned(&'a Lease<'a>, &'a PrunedTensor, [usize; 2]),
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Base(tensor, _) => tensor.dtype,
            Self::Pruned(_, tensor, _) => tensor.tiling().block().dtype(),
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Base(tensor, _) => &tensor.shape,
            Self::Pruned(_, _, shape) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Base(_, bytes) => Cow::Borrowed(bytes),
            Self::Pruned(lease, tensor, _) => Cow::Owned(lease.to_dense(tensor)),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Base(_, bytes) => bytes.len(),
            Self::Pruned(_, tensor, _) => tensor.tiling().dense_len(),
        }
    }
}

/// Writes all tensors as the lease's task has them. The file appears whole or not at all.
pub fn export(lease: &Lease<'_>, target: &Path) -> Result<(), ExportError> {
    let path = || target.display().to_string();
    let bundle = lease.bundle();
    let mut tensors = Vec::new();
    for tensor in &bundle.base().tensors {
        let bytes = lease.base(tensor).ok_or_else(|| ExportError::Base(tensor.name.clone()))?;
        tensors.push((tensor.name.as_str(), Tensor::Base(tensor, bytes)));
    }
    for tensor in bundle.tensors() {
        let shape = tensor.tiling().shape();
        tensors.push((tensor.name(), Tensor::Pruned(lease, tensor, shape)));
    }
    let task = &bundle.task(lease.task()).name;
    let about = HashMap::from([("synchromesh_task".to_owned(), task.clone())]);
    let file = AtomicFile::create(target);
    let file = file.map_err(|source| ExportError::Io { path: path(), source })?;
    serialize_to_file(tensors, Some(about), file.path())
        .map_err(|source| ExportError::Format { path: path(), source })?;
    file.commit().map_err(|source| ExportError::Io { path: path(), source })
}
