//! Memory that the daemon owns and clients see: the pool of weights, the table that says what is
//! where, the bundle's index, and each client's cell. And a roster of sessions that only another
//! daemon sees.
//!
//! Everything here is host memory in sealed memfds; on boards with unified memory that *is* the
//! device's memory. Which block lies where is `residency`'s business, and handing descriptors to
//! clients is `attach`'s.

mod cell;
mod index;
pub mod lease;
mod life;
mod memory;
mod pages;
mod pool;
mod roster;
mod table;

pub use cell::{Cell, Doorbell, Notice};
pub use index::SharedIndex;
pub use lease::{Active, ActiveTask};
pub use memory::{MemoryError, SharedMemory, Sharing};
pub use pages::MemInfo;
pub use pool::{Pool, PoolLayout, PoolView, Window};
pub use roster::Roster;
pub use table::{MAX_SESSIONS, SessionEntry, TableError, TableView, TableWriter};
