//! Synchromesh: block-sparse task switching for large models on vehicle computers.
//!
//! The modules form layers; each imports only from those below it (`ARCHITECTURE.md`).

pub mod bundle;
pub mod durable;
pub mod proto;
pub mod units;
