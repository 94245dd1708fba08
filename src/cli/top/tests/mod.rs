//! Tests of `top` without terminal and daemon.

mod draw;
mod sample;
mod state;
mod ui;
