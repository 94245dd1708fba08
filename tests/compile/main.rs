//! From a recipe and its files to a bundle: what it must hold, and what it must refuse.

#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it like the test itself")]

mod commands;
mod content;
mod interruption;
mod joint;
mod kit;
mod refusal;
