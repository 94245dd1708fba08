//! `serve` and `config check`.

use super::{
    OutputArgs,
    failure::Failure,
    output::{print, print_json},
};
use crate::{
    config::{Config, ConfigError},
    daemon, observe,
};
use clap::Args;
use rustix::process::{Signal, getpid, kill_process};
use serde::Serialize;
use std::{io, panic, path::PathBuf, process, thread};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/synchromesh/synchromesh.yaml")]
    config: PathBuf,
    /// Stop when standard input ends: for whoever runs a daemon as a child process.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration.
    #[arg(value_name = "FILE", default_value = "/etc/synchromesh/synchromesh.yaml")]
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the daemon until it is told to stop.
pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    let _log = observe::log_to_stderr(&config.log);
    abort_on_panic();
    if args.stop_with_stdin {
        stop_with_stdin().map_err(Failure::failed)?;
    }
    daemon::serve(&config).map_err(Failure::failed)
}

/// A panic anywhere ends the process: the service manager starts a whole one, and clients keep
/// what they have mapped. A daemon that had lost one of its threads would hang instead.
fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
}

/// Does what SIGTERM does when standard input ends. The kernel closes a pipe whose other end has
/// gone, however it went, so a daemon cannot outlive a parent that was killed.
fn stop_with_stdin() -> io::Result<()> {
    let watch = || {
        // What is written there means nothing, and an input that cannot be read has ended too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        // A signal to oneself cannot be refused.
        let _ = kill_process(getpid(), Signal::TERM);
    };
    thread::Builder::new().name("stdin".into()).spawn(watch).map(drop)
}

/// What `config check` shows.
#[derive(Serialize)]
struct Verdict {
    valid: bool,
    problems: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    key: String,
    problem: String,
}

/// Says whether a configuration can be used.
pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let checked = Config::load(&args.file);
    if args.output.json {
        let problems = match &checked {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid { problems, .. }) => problems
                .iter()
                .map(|problem| Found { key: problem.key.clone(), problem: problem.what.clone() })
                .collect(),
            Err(error) => vec![Found { key: String::new(), problem: error.to_string() }],
        };
        print_json(&Verdict { valid: checked.is_ok(), problems })?;
    } else if checked.is_ok() {
        print(&format!("{} can be used\n", args.file.display()))?;
    }
    checked.map(drop).map_err(Failure::usage)
}
