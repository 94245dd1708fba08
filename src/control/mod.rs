//! The gRPC control plane: takes calls, asks the engine, and puts its answers into words.
//!
//! Decides nothing itself. Handlers are cheap and share one thread with the engine's loop, so a
//! call costs no hand-over between threads.

mod access;
mod calls;
mod http2;
mod incoming;
mod server;
mod service;
mod shape;
mod trace_context;
mod turns;

pub use server::{Server, ServerError};
