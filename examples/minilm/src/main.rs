//! Sentence embeddings of all-MiniLM-L6-v2, computed with candle on the weights in a Synchromesh
//! daemon's memory: `embed` shows it, `verify` proves it while tasks are switched.

mod dense;
mod embed;
mod encoder;
mod error;
mod in_place;
mod model;
mod original;
mod references;
mod switching;
mod verify;

use clap::{Parser, Subcommand};
use error::Error;
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Sentence embeddings, computed where a Synchromesh daemon keeps the weights.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Embed sentences under the active task, and show how near they are to each other.
    Embed(embed::Args),
    /// Embed while tasks are switched as fast as they can be, and check every embedding.
    Verify(verify::Args),
    /// Switch among tasks at random until standard input ends: `verify` runs it beside itself.
    #[command(hide = true)]
    Churn(switching::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is gone, the code still tells.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match command {
        Command::Embed(args) => embed::run(&args, &mut out),
        Command::Verify(args) => verify::run(&args, &mut out),
        Command::Churn(args) => switching::churn(&args, &mut out),
    }
}
