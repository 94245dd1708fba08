//! Synchromesh: block-sparse task switching for large models on vehicle computers.
//!
//! The modules form layers; each imports only from those below it (`ARCHITECTURE.md`).

pub mod admission;
pub mod attach;
pub mod bundle;
pub mod cli;
pub mod client;
pub mod compile;
pub mod config;
pub mod control;
pub mod daemon;
pub mod device;
pub mod engine;
pub mod files;
pub mod observe;
pub mod predict;
pub mod proto;
pub mod residency;
pub mod storage;
pub mod text;
pub mod trace;
pub mod units;
pub mod wire;

const _: () = assert!(usize::BITS == 64, "pools and bundles are larger than 32 bits can address");

/// Compiles the Rust program of the page.
#[cfg(doctest)]
#[doc = include_str!("../docs/control-plane.md")]
struct ControlPlaneGuide;
