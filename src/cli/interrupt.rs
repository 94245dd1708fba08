//! Ctrl-C for commands that work on files: the first one asks them to stop and clean up, the
//! second one stops them.

use super::failure::Failure;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whether the user wants to stop.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to SIGINT and SIGTERM from now on.
    pub(super) fn listen() -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Registered first, so it acts on the second signal only.
            flag::register_conditional_shutdown(signal, 1, flag.clone())?;
            flag::register(signal, flag.clone())?;
        }
        Ok(Self(flag))
    }

    /// Listens to nothing.
    #[cfg(test)]
    pub(super) fn never() -> Self {
        Self(Arc::default())
    }

    /// Fails if a signal came.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.came() { Err(Self::failure()) } else { Ok(()) }
    }

    /// How a command fails because of a signal.
    pub(super) fn failure() -> Failure {
        Failure::failed("interrupted; nothing is left behind")
    }

    /// Whether a signal came.
    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
