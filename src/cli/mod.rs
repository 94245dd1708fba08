//! The commands: arguments in, tables or JSON out. What they do is done by the modules below.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, recipe or configuration.

mod bench;
mod bundle;
mod call;
mod demo;
mod doctor;
mod events;
mod failure;
mod foresee;
mod frontier;
mod interrupt;
mod offline;
mod operate;
mod output;
mod progress;
mod reader;
mod replay;
mod serve;
mod status;
#[cfg(feature = "top")]
mod top;

use clap::{Args, Parser, Subcommand};
use failure::Failure;
use std::{path::PathBuf, process::ExitCode};

/// Switches a large model between block-sparse tasks by streaming only the blocks that differ.
#[derive(Debug, Parser)]
#[command(name = "synchromesh", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole story on this machine: make and compile a model, serve it, switch tasks,
    /// check what is served, and compare with reloading. Takes about a minute; leaves nothing.
    Demo(demo::DemoArgs),
    /// Choose all tasks' masks together, so that they overlap, and show what they retain and share.
    Align(offline::AlignArgs),
    /// Pack a bundle in which every task has its own best mask.
    Pack(offline::RecipeArgs),
    /// Align and pack: a bundle of which a switch loads little.
    Compile(offline::RecipeArgs),
    /// Show what a bundle holds and how its tasks differ.
    Inspect(bundle::BundleArgs),
    /// Compare every block and base tensor of a bundle with its checksum.
    Verify(bundle::BundleArgs),
    /// Run the daemon.
    Serve(serve::ServeArgs),
    /// Make a task active.
    Switch(operate::SwitchArgs),
    /// Tell which tasks a session may switch to next, so that they are loaded ahead.
    Hint(foresee::HintArgs),
    /// Load a task without making it active.
    Prepare(foresee::PrepareArgs),
    /// Show what a daemon holds and serves, and what it foresees.
    Status(status::StatusArgs),
    /// Watch a daemon in the terminal as it works.
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// Show what happens to a daemon, as it happens: switches and where their time went, failures,
    /// sessions, clients.
    Events(events::EventsArgs),
    /// List, open or close sessions, or end attachments.
    Sessions(status::SessionsArgs),
    /// Attach to a session and write what it serves as a dense safetensors file.
    Export(operate::ExportArgs),
    /// Measure this machine with a bundle: device limit, cold, half prefetched and resident
    /// switches, reloading, calls; side by side.
    Bench(bench::BenchArgs),
    /// Play a trace of task switches: in virtual time against ways to foresee, or against a daemon.
    /// Makes traces up, too.
    Replay(replay::ReplayArgs),
    /// Say what this machine offers: io_uring, huge pages, locked memory, direct reads.
    Doctor(doctor::DoctorArgs),
    /// Work with configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a configuration can be used.
    Check(serve::CheckArgs),
    /// Print the JSON Schema of configurations, for editors.
    Schema,
}

/// How results are shown.
#[derive(Clone, Copy, Debug, Args)]
struct OutputArgs {
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
}

/// Where a daemon is.
#[derive(Clone, Debug, Args)]
struct DaemonArgs {
    /// Control socket of the daemon.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/synchromesh/control.sock",
        global = true
    )]
    control: PathBuf,
}

impl Cli {
    /// Carries the command out and says how it went.
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Demo(args) => demo::demo(&args),
            Command::Align(args) => offline::align(&args),
            Command::Pack(args) => offline::pack(&args),
            Command::Compile(args) => offline::compile(&args),
            Command::Inspect(args) => bundle::inspect(&args),
            Command::Verify(args) => bundle::verify(&args),
            Command::Serve(args) => serve::serve(&args),
            Command::Switch(args) => operate::switch(&args),
            Command::Hint(args) => foresee::hint(&args),
            Command::Prepare(args) => foresee::prepare(&args),
            Command::Status(args) => status::status(&args),
            #[cfg(feature = "top")]
            Command::Top(args) => top::top(&args),
            Command::Events(args) => events::events(&args),
            Command::Sessions(args) => status::sessions(&args),
            Command::Export(args) => operate::export(&args),
            Command::Bench(args) => bench::bench(&args),
            Command::Replay(args) => replay::replay(&args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::Config(ConfigCommand::Check(args)) => serve::check(&args),
            Command::Config(ConfigCommand::Schema) => serve::print_schema(),
        };
        result.map_or_else(Failure::report, |()| ExitCode::SUCCESS)
    }
}
