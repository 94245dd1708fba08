//! Which backend serves: io_uring where the kernel allows it, blocking calls elsewhere. And the way to
//! use one where there is no engine.

use super::{BlockFile, Preadv, Read, Sink, Storage, Uring};
use crate::{
    config::{StorageBackend, StorageConfig},
    device::{Pool, Window},
};
use std::{io, sync::Arc};

/// What is read from and into. It is known before the first read, so the kernel can be told.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// The bundles.
    pub files: Vec<Arc<BlockFile>>,
    /// Their pools.
    pub pools: Vec<Pool>,
}

/// A backend at work.
pub struct Started {
    /// The backend.
    pub storage: Box<dyn Storage>,
    /// Why it is not io_uring, if that was tried.
    pub fallback: Option<String>,
    /// Why the kernel does not keep pool memory registered, if it was to: reads cost a little more.
    pub unregistered: Option<String>,
}

/// Starts a backend that completes reads by this sink.
pub fn start(config: &StorageConfig, resources: Resources, sink: Sink) -> io::Result<Started> {
    let StorageConfig { backend, read_threads, reads_in_flight, .. } = *config;
    let fallback = match backend {
        StorageBackend::Preadv => None,
        StorageBackend::Auto => match Uring::start(reads_in_flight, resources, sink.clone()) {
            Ok((uring, unregistered)) => {
                let unregistered = unregistered.map(|error| error.to_string());
                return Ok(Started { storage: Box::new(uring), fallback: None, unregistered });
            }
            Err(error) => Some(error.to_string()),
        },
    };
    let storage = Box::new(Preadv::start(read_threads, reads_in_flight, sink)?);
    Ok(Started { storage, fallback, unregistered: None })
}

/// Carries reads out, as many at once as the storage takes, and gives their windows back. `next`
/// waits for a read that has ended.
pub fn carry_out<E>(
    storage: &dyn Storage,
    reads: Vec<Read>,
    mut next: impl FnMut() -> Result<Read, E>,
) -> Result<Vec<Window>, E> {
    let (mut windows, mut under_way) = (Vec::new(), 0);
    let mut take = |read: Read| windows.extend(read.blocks.into_iter().map(|(_, window)| window));
    for mut read in reads {
        while let Err(refused) = storage.submit(read) {
            read = refused;
            take(next()?);
            under_way -= 1;
        }
        under_way += 1;
    }
    for _ in 0..under_way {
        take(next()?);
    }
    Ok(windows)
}
