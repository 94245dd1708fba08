//! `serve`, `config check` and `config schema`.

use super::{
    OutputArgs,
    failure::Failure,
    output::{print, print_json},
};
use crate::{
    config::{ConfigError, Place, Problem, Source, schema},
    daemon::{self, Inspector},
    observe,
};
use clap::Args;
use rustix::process::{Signal, getpid, kill_process};
use serde::Serialize;
use std::{
    env, io, panic,
    path::{Path, PathBuf},
    process,
    sync::Arc,
    thread,
    time::Duration,
};

/// How long a report of a panic may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/synchromesh/synchromesh.yaml")]
    config: PathBuf,
    #[command(flatten)]
    settings: Settings,
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
    settings: Settings,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is set besides the file.
#[derive(Debug, Args)]
struct Settings {
    /// Set a key, such as limits.connections=128 or models.0.pool_bytes=1GiB. May be given more than
    /// once. Comes before the environment (SYNCHROMESH_CONFIG__LIMITS__CONNECTIONS=128), and that
    /// before the file.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Settings {
    fn source(&self, file: &Path) -> Source {
        Source::new(file).with_variables(env::vars_os()).with_arguments(&self.set)
    }
}

/// Runs the daemon until it is told to stop.
pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let source = args.settings.source(&args.config);
    let read = move || source.load();
    let config = read().map_err(Failure::usage)?;
    let log = observe::log_to_stderr(&config.log);
    abort_on_panic();
    if args.stop_with_stdin {
        stop_with_stdin().map_err(Failure::failed)?;
    }
    daemon::serve(config, Arc::new(read), &log).map_err(|error| {
        if error.is_misconfiguration() { Failure::usage(error) } else { Failure::failed(error) }
    })
}

/// A panic anywhere ends the process: the service manager starts a whole one, and clients keep
/// what they have mapped. A daemon that had lost one of its threads would hang instead; so would one
/// whose last words nobody reads, so they have a second.
fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let end = || {
            thread::sleep(LAST_WORDS);
            process::abort();
        };
        // Without a thread for it, the words are left out rather than waited for.
        if thread::Builder::new().spawn(end).is_ok() {
            report(info);
        }
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
    line: Option<usize>,
    column: Option<usize>,
    /// The variable or argument, where it is not the file that says so.
    set_by: Option<String>,
    problem: String,
}

impl From<Problem> for Found {
    fn from(Problem { place, key, what: problem }: Problem) -> Self {
        let (line, column, set_by) = match place {
            Place::File => (None, None, None),
            Place::At { line, column } => (Some(line), Some(column), None),
            Place::Override(name) => (None, None, Some(name)),
        };
        Self { key, line, column, set_by, problem }
    }
}

/// Says whether a configuration can be used, with the bundles that it names.
pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let mut bundles = Inspector::default();
    let source = args.settings.source(&args.file);
    let checked = source.load_inspected(&mut |model| bundles.inspect(model));
    if args.output.json {
        let problems = match &checked {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid { problems, .. }) => problems.clone(),
            Err(error @ ConfigError::Read { .. }) => {
                vec![Problem { place: Place::File, key: String::new(), what: error.to_string() }]
            }
        };
        let problems = problems.into_iter().map(Found::from).collect();
        print_json(&Verdict { valid: checked.is_ok(), problems })?;
    } else if checked.is_ok() {
        print(&format!("{} can be used\n", args.file.display()))?;
    }
    checked.map(drop).map_err(Failure::usage)
}

/// Prints the JSON Schema of configurations.
pub(super) fn print_schema() -> Result<(), Failure> {
    print_json(&schema())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::ioctl_fionbio;
    use std::{io::Write as _, os::unix::process::ExitStatusExt as _};

    const CHILD: &str = "SYNCHROMESH_TEST_PANICS";

    /// Runs the test of this name again, in a process of its own in which a worker panics.
    fn child(name: &str) -> process::Command {
        let mut child = process::Command::new(env::current_exe().unwrap());
        let name = format!("cli::serve::tests::{name}");
        child.args(["--exact", &name, "--nocapture"]).env(CHILD, "1");
        child
    }

    /// What such a process does; elsewhere nothing.
    fn panics_as_child() -> bool {
        let is_child = env::var_os(CHILD).is_some();
        if is_child {
            abort_on_panic();
            let _ = thread::spawn(|| panic!("a worker that fails")).join();
        }
        is_child
    }

    #[test]
    fn p2_a_panic_in_any_thread_ends_the_process() {
        if panics_as_child() {
            return;
        }
        let output = child("p2_a_panic_in_any_thread_ends_the_process").output().unwrap();
        assert_eq!(output.status.signal(), Some(Signal::ABORT.as_raw()), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("a worker that fails"));
    }

    #[test]
    fn p13_a_panic_of_which_nobody_reads_ends_the_process_all_the_same() {
        if panics_as_child() {
            return;
        }
        let (_unread, mut full) = io::pipe().unwrap();
        ioctl_fionbio(&full, true).unwrap();
        while full.write(&[0; 4096]).is_ok() {}
        ioctl_fionbio(&full, false).unwrap();
        let mut child = child("p13_a_panic_of_which_nobody_reads_ends_the_process_all_the_same");
        let status = child.stdout(process::Stdio::null()).stderr(full).status().unwrap();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{status}");
    }
}
