//! From a bundle's file to a model that can be served: the one part of the engine that blocks, so
//! it runs before the loop.

use super::{adopt, adopt::Predecessor, model::Model};
use crate::{
    bundle::{self, BaseTensor, Bundle, OpenError, Subject, checksum},
    device::{MemoryError, Pool, PoolLayout, Roster, SharedIndex, TableWriter},
    files::more_descriptors,
    residency::Residency,
    storage::{BlockFile, ReadError},
    units::{BLOCK_ALIGN, align_up},
};
use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;

/// A model to be served.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// The bundle.
    pub bundle: PathBuf,
    /// Room for blocks, in bytes. Never more is taken than all blocks need.
    pub pool_bytes: u64,
    /// Whether the pool must be locked into memory.
    pub lock_memory: bool,
}

/// Why a model cannot be served.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The bundle cannot be opened, or is refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file cannot be opened for block reads.
    #[error("cannot open {} for reading blocks: {source}{}", path.display(), more_descriptors(source))]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another file took the bundle's place in between.
    #[error("{} was replaced while it was opened: try again", .0.display())]
    Replaced(PathBuf),
    /// There is no memory for the pool or the index.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The base tensors cannot be read.
    #[error("cannot read the base of {}: {source}", path.display())]
    Base {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ReadError,
    },
    /// A base tensor is damaged.
    #[error("{}: base tensor `{tensor}` does not match its checksum: restore the bundle", path.display())]
    BaseCorrupt {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The pool cannot hold one of the tasks.
    #[error(
        "{}: task `{task}` needs {needed_bytes} bytes, but `pool_bytes` is {pool_bytes}: enlarge \
         the pool", path.display()
    )]
    PoolTooSmall {
        /// The file.
        path: PathBuf,
        /// The task.
        task: String,
        /// What the task needs.
        needed_bytes: u64,
        /// What there is.
        pool_bytes: u64,
    },
}

impl ModelSpec {
    /// How the bundle's pool is laid out, if it can hold each of its tasks.
    pub fn layout(&self, bundle: &Bundle) -> Result<PoolLayout, LoadError> {
        let block_bytes = bundle.block().bytes();
        let slots = (self.pool_bytes / block_bytes).min(bundle.len() as u64) as u32;
        for task in bundle.task_indices().map(|task| bundle.task(task)) {
            if task.blocks > u64::from(slots) {
                return Err(LoadError::PoolTooSmall {
                    path: self.bundle.clone(),
                    task: task.name.clone(),
                    needed_bytes: task.blocks * block_bytes,
                    pool_bytes: self.pool_bytes,
                });
            }
        }
        let layout = PoolLayout::new(bundle.base().bytes(), block_bytes, slots);
        Ok(layout.ok_or(MemoryError::TOO_LARGE)?)
    }
}

impl Model {
    /// Opens a bundle, allocates its pool, and reads and verifies its base.
    pub fn load(spec: &ModelSpec) -> Result<Self, LoadError> {
        Self::load_after(spec, &[])
    }

    /// The same, but the base is copied if one of these has it.
    pub fn load_after(spec: &ModelSpec, left: &[Predecessor]) -> Result<Self, LoadError> {
        let path = &spec.bundle;
        let failed = |source| LoadError::File { path: path.clone(), source };
        let opened = bundle::open(path)?;
        let (index, bundle) = SharedIndex::create::<LoadError>(&opened, path)?;
        let bundle = Arc::new(bundle);
        let file = BlockFile::open(path).map_err(failed)?;
        if !same_file(&opened, file.file()).map_err(failed)? {
            return Err(LoadError::Replaced(path.clone()));
        }
        if !file.direct() {
            tracing::warn!(
                model = bundle.model(),
                "the file system does not honour O_DIRECT: blocks are read through the page cache"
            );
        }
        let layout = spec.layout(&bundle)?;
        let left = adopt::find(left, bundle.id());
        let (pool, windows) = Pool::create(layout, spec.lock_memory, |region| {
            if left.is_some_and(|left| copy_base(&bundle, left, region)) {
                return Ok(());
            }
            read_base(&bundle, &file, path, region)
        })?;
        let table = TableWriter::create(bundle.id(), bundle.len() as u32, layout)?;
        let roster = Roster::create(bundle.id(), bundle.model())?;
        let residency = Residency::new(bundle, table, windows);
        Ok(Self::new(Arc::new(file), index, roster, pool, residency))
    }
}

fn same_file(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// Reads the base region as it lies in the file, and verifies each tensor.
fn read_base(
    bundle: &Bundle,
    file: &BlockFile,
    path: &Path,
    memory: &mut [u8],
) -> Result<(), LoadError> {
    let base = bundle.base();
    let len = base.bytes();
    let fail = |source| LoadError::Base { path: path.to_owned(), source };
    // O_DIRECT reads whole blocks: the region's last one may reach beyond it, or the file.
    let aligned = align_up(len, BLOCK_ALIGN).unwrap_or(len) as usize;
    let buffer = &mut memory[..aligned];
    let read = file.read_up_to(&mut [IoSliceMut::new(buffer)], base.region.start);
    let read = read.map_err(fail)?;
    if read < len {
        return Err(fail(ReadError::Eof { end: base.region.start + read }));
    }
    buffer[len as usize..].fill(0);
    match damaged(bundle, memory) {
        Some(tensor) => Err(LoadError::BaseCorrupt { path: path.to_owned(), tensor }),
        None => Ok(()),
    }
}

/// Copies the base region from an old pool, if all of it is there and as it should be.
fn copy_base(bundle: &Bundle, left: &Predecessor, memory: &mut [u8]) -> bool {
    left.copy_base(&mut memory[..bundle.base().bytes() as usize])
        && damaged(bundle, memory).is_none()
}

/// The name of a base tensor that is not what it should be.
fn damaged(bundle: &Bundle, memory: &[u8]) -> Option<String> {
    let is_damaged = |(position, tensor): &(u32, &BaseTensor)| {
        let bytes = &memory[tensor.range.start as usize..tensor.range.end as usize];
        checksum(bundle.id(), Subject::Base(*position), bytes) != tensor.checksum
    };
    (0..).zip(&bundle.base().tensors).find(is_damaged).map(|(_, tensor)| tensor.name.clone())
}
