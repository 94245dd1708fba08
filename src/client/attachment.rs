//! Reading a session's weights where they lie.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use synchromesh::client::Attachment;
//! let mut session = Attachment::connect("/run/synchromesh/attach.sock".as_ref(), "", "")?;
//! let lease = session.lease()?;
//! for tensor in lease.bundle().tensors() {
//!     for block in lease.sparse(tensor).blocks() {
//!         let block = block?;
//!         // Compute with `block.bytes` at this row and column of the grid.
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A process that forks leaves attaching to the child: what the two share is one membership, and a
//! lease that ends in the one ends in the other.
//!
//! An attachment starts no thread and takes no lock. It does not attach again by itself: who was
//! told that the daemon is gone decides when to try.

use super::{
    product::ProductError,
    tensor::{Base, Sparse, Tensor},
};
use crate::{
    bundle::{BaseTensor, Bundle, OpenError, PrunedTensor},
    device::{
        ActiveTask, Cell, MemoryError, Notice, PoolView, SessionEntry, SharedIndex, TableError,
        TableView, lease,
    },
    units::{BlockIndex, Generation, TaskIndex},
    wire::{Hello, Welcome, WireError},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, read, retry_on_intr},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
    time::Timespec,
};
use std::{
    mem::ManuallyDrop,
    ops::Deref,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};
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
    /// The session is at another generation.
    #[error("the session is at generation {actual}, so {expected} cannot be leased")]
    OtherGeneration {
        /// The generation asked for.
        expected: Generation,
        /// The session's.
        actual: Generation,
    },
    /// The daemon has gone, or has ended the membership.
    #[error("the daemon is gone or has ended the membership: attach again")]
    Closed,
    /// A lease lasted longer than the daemon waits for one.
    #[error(
        "the lease on generation {0} lasted too long and was revoked: detach, attach again, and \
         keep leases short (`limits.lease_patience_ms`)"
    )]
    Revoked(Generation),
    /// The product cannot be computed.
    #[error(transparent)]
    Product(#[from] ProductError),
    /// The attachment holds a lease already.
    #[error("the lease on generation {0} is still held: release it first")]
    Held(Generation),
    /// The attachment holds no lease.
    #[error("no lease is held: take one first")]
    NotHeld,
    /// Nothing was published in time.
    #[error("no later generation was published in time")]
    TimedOut,
    /// Waiting failed.
    #[error("cannot wait for the daemon: {0}")]
    Wait(Errno),
}

/// Membership in a session: its memory, mapped. Dropping it ends the membership.
#[derive(Debug)]
pub struct Attachment {
    socket: OwnedFd,
    entry: SessionEntry,
    pool: PoolView,
    table: TableView,
    cell: Cell,
    doorbell: OwnedFd,
    bundle: Bundle,
}

/// An attachment that keeps its lease itself, for callers whose language cannot say that a lease
/// borrows it.
#[derive(Debug)]
pub(super) struct Holder {
    attachment: Attachment,
    /// What the cell announces; `None` exactly if it announces nothing.
    held: Option<ActiveTask>,
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
        retry_on_intr(|| connect(&socket, &address)).map_err(|error| match error {
            Errno::AGAIN => busy(),
            other => failed(other),
        })?;
        let hello = Hello { model: model.into(), session: session.into() };
        let Welcome { entry, descriptors } =
            greet(&socket, &hello).map_err(|error| match error {
                WireError::Io(Errno::AGAIN) => busy(),
                other => other.into(),
            })?;
        let [pool, table, index, cell, doorbell] = descriptors;
        let table = TableView::open(table)?;
        let pool = PoolView::open(pool, table.layout())?;
        let bundle = SharedIndex::open::<AttachError>(index)?;
        if !belong_together(&table, &bundle) {
            return Err(AttachError::OtherBundle);
        }
        let cell = Cell::open(cell)?;
        Ok(Self { socket, entry, pool, table, cell, doorbell, bundle })
    }

    /// The bundle that is served.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Two descriptors for a loop of the caller's own: whenever one can be read, call
    /// [`wait`](Self::wait) with no time, which takes in what rang and tells of the daemon's end.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.doorbell.as_fd(), self.socket.as_fd()]
    }

    /// The session's generation; it has no task where [`lease`](Self::lease) says so.
    pub fn generation(&self) -> Generation {
        self.table.active(self.entry).generation
    }

    /// Whether the daemon lives and the membership stands. No system call.
    pub fn check(&self) -> Result<(), AttachError> {
        if self.table.is_orphaned() {
            return Err(AttachError::Closed);
        }
        match self.cell.notice() {
            None => Ok(()),
            Some(Notice::Revoked(generation)) => Err(AttachError::Revoked(generation)),
            Some(Notice::Ended) => Err(AttachError::Closed),
        }
    }

    /// Pins what the session serves now. No system call.
    pub fn lease(&mut self) -> Result<Lease<'_>, AttachError> {
        self.check()?;
        let active = lease::acquire(self.table.word(self.entry), self.cell.epoch());
        let active = active.ok_or(AttachError::NoTask)?;
        let lease = Lease { attachment: self, active };
        if active.task.index() >= lease.bundle().meta().tasks.len() {
            return Err(AttachError::OtherBundle);
        }
        Ok(lease)
    }

    /// The same, if the session is at this generation, as told by whoever switched.
    pub fn lease_of(&mut self, expected: Generation) -> Result<Lease<'_>, AttachError> {
        let lease = self.lease()?;
        match lease.generation() {
            actual if actual == expected => Ok(lease),
            actual => Err(AttachError::OtherGeneration { expected, actual }),
        }
    }

    /// Waits until the session serves a task in a generation beyond this one, and tells which.
    pub fn wait(
        &mut self,
        beyond: Generation,
        timeout: Duration,
    ) -> Result<Generation, AttachError> {
        let end = Instant::now().checked_add(timeout);
        loop {
            self.silence()?;
            self.check()?;
            let later = self.table.active(self.entry).task();
            if let Some(later) = later.filter(|later| later.generation > beyond) {
                return Ok(later.generation);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            self.sleep(left)?;
        }
    }

    /// Takes in what rang, so that the next ring can be told from it.
    fn silence(&self) -> Result<(), AttachError> {
        let mut rings = [0; 256];
        loop {
            match read(&self.doorbell, &mut rings) {
                // The end of the pipe is that of the daemon, which `check` tells.
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(AttachError::Wait(error)),
            }
        }
    }

    /// Sleeps until the doorbell rings.
    fn sleep(&self, left: Option<Duration>) -> Result<(), AttachError> {
        let watched = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut polled = self.descriptors().map(watched);
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polled, left.as_ref()) {
            Ok(0) => Err(AttachError::TimedOut),
            // The daemon says nothing after its welcome: whatever comes is its end.
            Ok(_) if !polled[1].revents().is_empty() => Err(AttachError::Closed),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(AttachError::Wait(error)),
        }
    }
}

/// Says hello, and gives the answer. A daemon that refuses does not wait for the hello, which then
/// meets a closed connection; why is there to be read all the same.
fn greet(socket: &OwnedFd, hello: &Hello) -> Result<Welcome, WireError> {
    match hello.send(socket) {
        Err(WireError::Io(Errno::PIPE)) => {}
        result => result?,
    }
    match Welcome::receive(socket) {
        // The hello came, but was not read before the end; the refusal is behind this error.
        Err(WireError::Io(Errno::CONNRESET)) => Welcome::receive(socket),
        result => result,
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
    /// Whether the daemon lives, the membership stands and the lease was not revoked. What is leased
    /// stays as it is in any case but one: that this client broke the protocol, and the daemon ended
    /// its membership. No system call.
    pub fn check(&self) -> Result<(), AttachError> {
        self.attachment.check()
    }

    /// Whether the session still serves this generation. No system call.
    pub fn is_current(&self) -> bool {
        self.attachment.generation() == self.generation()
    }

    /// As [`Attachment::descriptors`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        self.attachment.descriptors()
    }

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

    /// The name of that task.
    pub fn task_name(&self) -> &str {
        &self.bundle().task(self.task()).name
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let bundle = self.bundle();
        let pruned = bundle.tensors().iter().find(|tensor| tensor.name() == name);
        let base = || bundle.base().tensors.iter().find(|tensor| tensor.name == name);
        match pruned {
            Some(tensor) => Some(Tensor::Sparse(self.sparse(tensor))),
            None => Some(Tensor::Base(self.base(base()?))),
        }
    }

    /// A base tensor of the bundle.
    pub fn base<'l>(&'l self, tensor: &'l BaseTensor) -> Base<'l> {
        // That the base is as long as the bundle's, `belong_together` has checked.
        let range = tensor.range.start as usize..tensor.range.end as usize;
        Base::new(tensor, self.attachment.pool.base().get(range).unwrap_or_default())
    }

    /// A tensor of the bundle that is cut into blocks.
    pub fn sparse<'l>(&'l self, tensor: &'l PrunedTensor) -> Sparse<'l> {
        Sparse::new(self, tensor)
    }

    #[expect(unsafe_code, reason = "slots are written by the daemon when nobody leases them")]
    pub(super) fn block(&self, block: BlockIndex) -> Result<&[u8], AttachError> {
        let Attachment { table, pool, .. } = self.attachment;
        let slot = table.slot_of(block).ok_or(AttachError::NoSlot(block))?;
        // SAFETY: the lease holds its generation for as long as `self` is borrowed, and `Sparse`
        // asks for blocks of the task that was active in it.
        let bytes = unsafe { pool.slot(slot) };
        bytes.ok_or(AttachError::NoSlot(block))
    }
}

impl Holder {
    pub(super) fn new(attachment: Attachment) -> Self {
        Self { attachment, held: None }
    }

    /// The attachment; a shared reference takes no lease.
    pub(super) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// As [`Attachment::wait`]; a lease may be held meanwhile.
    pub(super) fn wait(
        &mut self,
        beyond: Generation,
        timeout: Duration,
    ) -> Result<Generation, AttachError> {
        self.attachment.wait(beyond, timeout)
    }

    /// Takes a lease, of the expected generation if one is, that lasts until it is released.
    pub(super) fn hold(&mut self, expected: Option<Generation>) -> Result<Generation, AttachError> {
        if let Some(held) = self.held {
            return Err(AttachError::Held(held.generation));
        }
        let lease = match expected {
            Some(generation) => self.attachment.lease_of(generation)?,
            None => self.attachment.lease()?,
        };
        // The guard is left, but not what it guards.
        let active = ManuallyDrop::new(lease).active;
        self.held = Some(active);
        Ok(active.generation)
    }

    /// Ends the lease. Nobody borrows it any more, as `self` is borrowed alone.
    pub(super) fn release(&mut self) -> Result<(), AttachError> {
        self.held.take().ok_or(AttachError::NotHeld)?;
        lease::release(self.attachment.cell.epoch());
        Ok(())
    }

    /// The lease. To drop what is given here does not end it.
    pub(super) fn lease(&self) -> Result<impl Deref<Target = Lease<'_>>, AttachError> {
        let active = self.held.ok_or(AttachError::NotHeld)?;
        Ok(ManuallyDrop::new(Lease { attachment: &self.attachment, active }))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        lease::release(self.attachment.cell.epoch());
    }
}
