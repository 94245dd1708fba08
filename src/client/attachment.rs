//! Reading a session's weights where they lie.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use synchromesh::client::Attachment;
//! let mut session = Attachment::connect("/run/synchromesh/attach.sock".as_ref(), "", "")?;
//! let lease = session.lease()?;
//! for tensor in lease.bundle().tensors() {
//!     for block in lease.blocks(tensor) {
//!         let (place, bytes) = block?;
//!         // Compute with the block at this place of the grid.
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use crate::{
    bundle::{BaseTensor, Bundle, OpenError, PrunedTensor},
    device::{
        ActiveTask, EpochCell, MemoryError, PoolView, SessionEntry, SharedIndex, TableError,
        TableView,
    },
    units::{BlockIndex, Generation, TaskIndex},
    wire::{Hello, Welcome, WireError},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use std::{os::fd::OwnedFd, path::Path, time::Duration};
use thiserror::Error;

/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why memory cannot be attached or read.
#[derive(Debug, Error)]
pub enum AttachError {
    /// All places for clients are taken, and so are those of the queue before them.
    #[error("the daemon at {0} takes no more clients at the moment: try again later")]
    Busy(String),
    /// There is nobody at the socket.
    #[error("cannot connect to {path}: {source}; is the daemon running?")]
    Connect {
        /// The socket.
        path: String,
        /// The cause.
        source: Errno,
    },
    /// The daemon refuses, or speaks otherwise.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// What the daemon hands out cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The table is not one that this program can read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The bundle is not one that this program can read.
    #[error(transparent)]
    Bundle(#[from] OpenError),
    /// What the daemon hands out does not belong together.
    #[error("table, pool and bundle that the daemon hands out do not belong together")]
    OtherBundle,
    /// The table names no slot for a block that the active task needs.
    #[error("the daemon's table does not say where block {0} of the active task is")]
    NoSlot(BlockIndex),
    /// The session has no active task.
    #[error("the session has no active task: switch to one first")]
    NoTask,
    /// The daemon has gone, or has ended the membership.
    #[error("the daemon has closed the connection: attach again")]
    Closed,
}

/// Membership in a session: its memory, mapped. Dropping it ends the membership.
#[derive(Debug)]
pub struct Attachment {
    socket: OwnedFd,
    entry: SessionEntry,
    pool: PoolView,
    table: TableView,
    cell: EpochCell,
    doorbell: OwnedFd,
    bundle: Bundle,
    /// The generation at which the connection was last seen alive.
    seen: Generation,
}

/// A pin on what the session served when the lease was taken. While it lives, none of its blocks
/// changes; an attachment has one lease at a time.
#[derive(Debug)]
pub struct Lease<'a> {
    attachment: &'a Attachment,
    active: ActiveTask,
}

impl Attachment {
    /// Attaches to a session. Empty names mean the only model and its default session.
    pub fn connect(path: &Path, model: &str, session: &str) -> Result<Self, AttachError> {
        let failed = |source| AttachError::Connect { path: path.display().to_string(), source };
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        for direction in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, direction, Some(ANSWER_TIMEOUT)).map_err(failed)?;
        }
        let busy = || AttachError::Busy(path.display().to_string());
        connect(&socket, &address).map_err(|error| match error {
            Errno::AGAIN => busy(),
            other => failed(other),
        })?;
        Hello { model: model.into(), session: session.into() }.send(&socket)?;
        let welcome = Welcome::receive(&socket).map_err(|error| match error {
            WireError::Io(Errno::AGAIN) => busy(),
            other => other.into(),
        });
        let Welcome { entry, descriptors } = welcome?;
        let [pool, table, bundle, cell, doorbell] = descriptors;
        let table = TableView::open(table)?;
        let pool = PoolView::open(pool, table.layout())?;
        let bundle = SharedIndex::open::<AttachError>(bundle)?;
        if !belong_together(&table, &bundle) {
            return Err(AttachError::OtherBundle);
        }
        let cell = EpochCell::open(cell)?;
        let seen = Generation::NONE;
        Ok(Self { socket, entry, pool, table, cell, doorbell, bundle, seen })
    }

    /// The bundle that is served.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The reading end of a pipe that gets a byte whenever a generation is published.
    pub fn doorbell(&self) -> &OwnedFd {
        &self.doorbell
    }

    /// Pins what the session serves now. No system call, unless the generation is a new one.
    pub fn lease(&mut self) -> Result<Lease<'_>, AttachError> {
        loop {
            let now = self.table.active(self.entry);
            let Some(active) = now.task() else {
                self.check_alive()?;
                return Err(AttachError::NoTask);
            };
            self.cell.announce(active.generation);
            if self.table.active(self.entry) != now {
                // A switch was published in between: the daemon may not have seen the announcement.
                self.cell.announce(Generation::NONE);
                continue;
            }
            if active.generation != self.seen {
                if let Err(error) = self.check_alive() {
                    self.cell.announce(Generation::NONE);
                    return Err(error);
                }
                self.seen = active.generation;
            }
            if active.task.index() >= self.bundle.task_indices().count() {
                self.cell.announce(Generation::NONE);
                return Err(AttachError::OtherBundle);
            }
            return Ok(Lease { attachment: self, active });
        }
    }

    /// The daemon sends nothing after its welcome: whatever can be read is the end.
    fn check_alive(&self) -> Result<(), AttachError> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN | PollFlags::HUP)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut polled, Some(&now)) {
            Ok(0) => Ok(()),
            _ => Err(AttachError::Closed),
        }
    }
}

/// Whether a table has a place for each of the bundle's blocks, in a pool of the right shape.
fn belong_together(table: &TableView, bundle: &Bundle) -> bool {
    let layout = table.layout();
    table.bundle_id() == bundle.id()
        && table.blocks() as usize == bundle.len()
        && layout.slot_bytes() == bundle.block().bytes()
        && layout.base_bytes() == bundle.base().bytes()
}

impl Lease<'_> {
    /// The generation that is pinned.
    pub fn generation(&self) -> Generation {
        self.active.generation
    }

    /// The task that is served.
    pub fn task(&self) -> TaskIndex {
        self.active.task
    }

    /// The bundle that is served.
    pub fn bundle(&self) -> &Bundle {
        &self.attachment.bundle
    }

    /// A base tensor's bytes, in place.
    pub fn base(&self, tensor: &BaseTensor) -> Option<&[u8]> {
        let range = tensor.range.start as usize..tensor.range.end as usize;
        self.attachment.pool.base().get(range)
    }

    /// The task's blocks of a tensor, in place, each with its place in the grid, row by row. A
    /// block that the table does not place is an error: its weights are not zero but unknown.
    pub fn blocks<'b>(
        &'b self,
        tensor: &'b PrunedTensor,
    ) -> impl Iterator<Item = Result<(usize, &'b [u8]), AttachError>> + 'b {
        let blocks = tensor.blocks_of(self.bundle(), self.active.task).enumerate();
        blocks.filter_map(|(place, block)| {
            let block = block?;
            Some(self.block(block).map(|bytes| (place, bytes)).ok_or(AttachError::NoSlot(block)))
        })
    }

    /// A tensor as the task has it, with zeros where it has no block: rows x columns elements of
    /// the bundle's type, row by row.
    pub fn to_dense(&self, tensor: &PrunedTensor) -> Result<Vec<u8>, AttachError> {
        let tiling = tensor.tiling();
        let mut dense = vec![0; tiling.dense_len()];
        for block in self.blocks(tensor) {
            let (place, bytes) = block?;
            tiling.paste(bytes, place, &mut dense);
        }
        Ok(dense)
    }

    #[expect(unsafe_code, reason = "slots are written by the daemon when nobody leases them")]
    fn block(&self, block: BlockIndex) -> Option<&[u8]> {
        let Attachment { table, pool, .. } = self.attachment;
        let slot = table.slot_of(block)?;
        // SAFETY: the lease holds its generation for as long as `self` is borrowed, and `blocks`
        // asks for blocks of the task that was active in it.
        unsafe { pool.slot(slot) }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.attachment.cell.announce(Generation::NONE);
    }
}
