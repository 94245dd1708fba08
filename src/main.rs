//! The command line of Synchromesh.

use clap::Parser as _;
use std::process::ExitCode;
use synchromesh::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
