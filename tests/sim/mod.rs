//! A simulated world around the engine.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a simulation does not expect must stop the test"
)]

pub(crate) mod bundles;
pub(crate) mod changes;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod coverage;
pub(crate) mod rig;
pub(crate) mod sequence;
pub(crate) mod small;
pub(crate) mod wide;
pub(crate) mod world;
