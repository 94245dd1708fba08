//! Faults of the storage, met by the whole of it: a bundle on a disk, each real backend, the
//! engine's loop, real verification, and a client that reads what it is shown.
//!
//! Test names begin with the faults that they are about. Each case runs on both backends and ends
//! with [`rig::Rig::finish`], which holds the daemon to what must be true after any fault.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test does not expect must stop it"
)]
#![allow(clippy::single_range_in_vec_init, reason = "a range is a task's blocks")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../sim/mod.rs"]
mod sim;

/// Runs each case on both backends.
macro_rules! on_both_backends {
    ($($case:ident,)*) => {
        on_both_backends!(@io_uring IoUring $($case)*);
        on_both_backends!(@preadv Preadv $($case)*);
    };
    (@$name:ident $backend:ident $($case:ident)*) => {
        mod $name {
            $(#[test]
            fn $case() {
                super::$case(synchromesh::storage::Backend::$backend);
            })*
        }
    };
}

mod blocks;
mod descriptors;
mod device;
mod files;
mod random;
mod rig;
