//! `demo`: the whole story on this machine, from dense weights to switched tasks, with a check
//! and a comparison at its end.
//!
//! Uses the parts as their users do: the offline part by a recipe, the daemon as a process of its
//! own, its memory as an attached client. All files lie in one temporary folder. Is no benchmark:
//! that is `bench`.

mod child;
mod drive;
mod expect;
mod inputs;
mod place;
mod random;
mod report;
mod subject;
mod tensors;

use super::{
    OutputArgs, failure::Failure, interrupt::Interrupt, offline, output, progress::Bars,
    reader::Reader,
};
use crate::{bundle::Bundle, compile, config::StorageConfig};
use child::Daemon;
use clap::Args;
use drive::{Drive, Driver};
use expect::Expected;
use place::Place;
use report::{Report, Setting};
use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};
use subject::Subject;

/// How often a wait looks whether it should end.
const STOP_POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// A safetensors file to use instead of a model made for the demo. Its two-dimensional tensors
    /// of the float type that most of it has are pruned.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Whether the user has asked to stop.
#[derive(Clone, Debug)]
struct Stop(Interrupt);

impl Stop {
    #[cfg(test)]
    fn never() -> Self {
        Self(Interrupt::never())
    }

    fn came(&self) -> bool {
        self.0.came()
    }

    fn check(&self) -> Result<(), Failure> {
        self.0.check()
    }

    /// Waits for the user to ask.
    async fn wait(&self) -> Failure {
        while !self.came() {
            tokio::time::sleep(STOP_POLL).await;
        }
        Interrupt::failure()
    }
}

/// Shows the whole story.
pub(super) fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let interrupt = Interrupt::listen().map_err(Failure::failed)?;
    let stop = Stop(interrupt.clone());
    let report = match tell(args, interrupt, &stop) {
        // Whatever failed did so because of it, or does not matter any more.
        Err(_) if stop.came() => return Err(Interrupt::failure()),
        result => result?,
    };
    if args.output.json { output::print_json(&report) } else { output::print(&report.render()) }
}

fn tell(args: &DemoArgs, interrupt: Interrupt, stop: &Stop) -> Result<Report, Failure> {
    let begun = Instant::now();
    let given = args.model.as_deref().map(Subject::given).transpose()?;
    let needed = match &given {
        Some(subject) => subject.file.bytes(),
        None => 2 * subject::made_bytes(),
    };
    let place = Place::make(needed)?;
    let subject = match given {
        Some(subject) => {
            subject.link_into(place.path())?;
            subject
        }
        None => {
            say("making a model");
            Subject::make(place.path(), stop)?
        }
    };
    inputs::write_norms(&place, &subject, stop)?;
    say("compiling");
    let recipe = inputs::recipe(&place, &subject)?;
    let bars = Bars::new(interrupt);
    let bundle = compile::compile(&recipe, &bars).map_err(offline::failure)?;
    let masks = place.file(inputs::MASKS);
    compile::align(&recipe, Some(&masks), &bars).map_err(offline::failure)?;
    drop(bars);
    say("working out what must be served");
    let expected = Expected::work_out(&subject, &place, stop)?;
    let pool_bytes = pool_bytes(&bundle);
    let drive = drive(&place, &bundle, pool_bytes, &expected, stop)?;
    let setting = Setting { subject: &subject, place: &place, bundle: &bundle, pool_bytes };
    Ok(Report::new(&setting, expected.independent_diff, drive, begun.elapsed()))
}

/// Room for the two tasks of any switch, and no more: the least for switches during which the old
/// task goes on. It holds far less than all tasks' blocks, so that switches really read.
fn pool_bytes(bundle: &Bundle) -> u64 {
    let tasks = || bundle.task_indices();
    let pairs = tasks().flat_map(|from| tasks().map(move |to| (from, to)));
    let union = |(from, to)| bundle.task_blocks(from).union_count(bundle.task_blocks(to)) as u64;
    pairs.map(union).max().unwrap_or_default() * bundle.block().bytes()
}

fn drive(
    place: &Place,
    bundle: &Bundle,
    pool_bytes: u64,
    expected: &Expected<'_>,
    stop: &Stop,
) -> Result<Drive, Failure> {
    say("starting the daemon");
    let mut daemon = Daemon::start(place, pool_bytes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let drive = runtime.map_err(Failure::failed)?.block_on(async {
        let (control, attachment) = daemon.ready(stop).await?;
        let reloader = Reader::new(bundle, &place.bundle(), &StorageConfig::default())?;
        say("switching and checking");
        Driver { control, attachment, bundle, reloader, expected, stop }.run().await
    })?;
    daemon.stop()?;
    Ok(drive)
}

/// Says what comes next. If standard error is gone, nobody listens.
fn say(stage: &str) {
    let _ = writeln!(std::io::stderr(), "{stage}");
}
