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
use serde::Serialize;
use std::{panic, path::PathBuf, process};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/synchromesh/synchromesh.yaml")]
    config: PathBuf,
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
    observe::log_to_stderr(&config.log);
    abort_on_panic();
    daemon::serve(&config, || {}).map_err(Failure::failed)
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
