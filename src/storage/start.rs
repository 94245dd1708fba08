//! Which backend serves: io_uring where the kernel allows it, blocking calls elsewhere.

use super::{BlockFile, Preadv, Sink, Storage, Uring};
use crate::device::Pool;
use std::{io, sync::Arc};

/// How bundles are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which backend.
    pub choice: Choice,
    /// Threads of blocking reads.
    pub threads: usize,
    /// Reads queued or under way.
    pub depth: usize,
}

/// Which backend is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring if it works here, else blocking calls.
    #[default]
    Auto,
    /// Blocking calls.
    Preadv,
}

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
pub fn start(settings: Settings, resources: Resources, sink: Sink) -> io::Result<Started> {
    let fallback = match settings.choice {
        Choice::Preadv => None,
        Choice::Auto => match Uring::start(settings.depth, resources, sink.clone()) {
            Ok((uring, unregistered)) => {
                let unregistered = unregistered.map(|error| error.to_string());
                return Ok(Started { storage: Box::new(uring), fallback: None, unregistered });
            }
            Err(error) => Some(error.to_string()),
        },
    };
    let storage = Box::new(Preadv::start(settings.threads, settings.depth, sink)?);
    Ok(Started { storage, fallback, unregistered: None })
}
