//! `replay`: makes traces of task switches up, and plays traces against policies of foresight in
//! virtual time, or against a daemon in real time.

mod clock;
mod device;
mod generate;
mod live;
mod measure;
mod policy;
mod report;
mod setting;
mod simulate;
mod stories;
mod timeline;
mod walk;

use super::{OutputArgs, failure::Failure, interrupt::Interrupt, output, progress};
use crate::{
    bundle::Bundle,
    files::{self, read_text, text_of},
    trace::{self, MAX_TRACE_BYTES, Step},
};
use clap::Args;
use generate::{Scenario, generate};
use live::{Live, LiveArgs};
use report::{Figures, Report, Run};
use serde::Serialize;
use setting::{Setting, Virtual, VirtualArgs};
use simulate::simulate;
use std::{
    io,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The trace, or `-` for standard input: a line `{"at_ms": 12, "task": "city"}` for each task
    /// that becomes active.
    #[arg(required_unless_present = "generate")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    made_up: GenerateArgs,
    /// The bundle that the trace is replayed on, or whose tasks a made-up trace has.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["generate", "control"])]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    virtually: VirtualArgs,
    #[command(flatten)]
    live: LiveArgs,
    /// Draw how each switch went into this file as well.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct GenerateArgs {
    /// Print a trace that tells this story, instead of replaying one.
    #[arg(
        long,
        value_name = "SCENARIO",
        conflicts_with_all = ["trace", "control", "svg", "json"]
    )]
    generate: Option<Scenario>,
    /// The same seed gives the same trace.
    #[arg(long, default_value_t = 1, requires = "generate")]
    seed: u64,
    /// Switches of the trace.
    #[arg(
        long,
        default_value_t = 1000,
        requires = "generate",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    switches: u32,
}

/// Makes up or replays a trace.
pub(super) fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    match (&args.trace, &args.live.control) {
        (None, _) => make_up(args),
        (Some(trace), Some(control)) => replay_live(args, trace, control),
        (Some(trace), None) => replay_virtually(args, trace),
    }
}

fn make_up(args: &ReplayArgs) -> Result<(), Failure> {
    let GenerateArgs { generate: scenario, seed, switches } = args.made_up;
    let Some(scenario) = scenario else { return Err(missing("--generate")) };
    let tasks = args.bundle.as_deref().map(open).transpose()?.map(|bundle| names(&bundle));
    let mut text = String::new();
    for step in generate(scenario, tasks, seed, switches as usize)? {
        text += &serde_json::to_string(&step).map_err(Failure::failed)?;
        text.push('\n');
    }
    output::print(&text)
}

fn replay_live(args: &ReplayArgs, trace: &Path, control: &Path) -> Result<(), Failure> {
    let interrupt = Interrupt::listen().map_err(Failure::failed)?;
    let mut live = Live::connect(control, &args.live)?;
    let tasks = live.tasks()?;
    let steps = steps(trace, |name| tasks.iter().any(|task| task == name))?;
    let run = live.play(&steps, &interrupt)?;
    let heading = format!("{}: {}, against the daemon\n", trace.display(), told(&steps));
    tell(args, &heading, live.setting(), &[run])
}

fn replay_virtually(args: &ReplayArgs, trace: &Path) -> Result<(), Failure> {
    let interrupt = Interrupt::listen().map_err(Failure::failed)?;
    let Some(path) = args.bundle.as_deref() else { return Err(missing("--bundle")) };
    let bundle = open(path)?;
    let steps = steps(trace, |name| bundle.find_task(name).is_some())?;
    let speed = args.virtually.speed(&bundle, path, &interrupt)?;
    let pool_bytes = args.virtually.pool_bytes(&bundle, &steps);
    let setting = Setting { bundle: path, pool_bytes, speed, steps: &steps };
    let policies = args.virtually.policies();
    let bar = progress::steps("policy", policies.len());
    let mut runs = Vec::with_capacity(policies.len());
    for policy in policies {
        runs.push(simulate(&setting, policy, &interrupt)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let shown = Virtual::of(&setting, &bundle);
    let heading = format!("{}: {}\n{}", trace.display(), told(&steps), shown.render());
    tell(args, &heading, shown, &runs)
}

/// Shows what came of it.
fn tell(
    args: &ReplayArgs,
    heading: &str,
    setting: impl Serialize,
    runs: &[Run],
) -> Result<(), Failure> {
    let results = Figures::of_all(runs);
    if let Some(svg) = &args.svg {
        files::write_text(svg, &timeline::svg(runs)).map_err(Failure::failed)?;
    }
    if args.output.json {
        return output::print_json(&Report { setting, results });
    }
    output::print(&format!("{heading}\n{}", report::table(&results)))
}

/// The steps of a trace that switches at all.
fn steps(path: &Path, is_known: impl Fn(&str) -> bool) -> Result<Vec<Step>, Failure> {
    let is_stdin = path == Path::new("-");
    let shown = if is_stdin { "standard input".into() } else { path.display().to_string() };
    let wrong = |error: String| Failure::usage(format!("{shown}: {error}"));
    let text = match is_stdin {
        true => text_of(io::stdin().lock(), MAX_TRACE_BYTES),
        false => read_text(path, MAX_TRACE_BYTES),
    };
    let text = text.map_err(|error| wrong(error.to_string()))?;
    let steps = trace::parse(&text, is_known).map_err(|bad| {
        wrong(format!("{bad}: correct the line, or make a trace with `replay --generate`"))
    })?;
    match steps.len() {
        0 => Err(wrong("the trace is empty: make one with `replay --generate`".into())),
        _ => Ok(steps),
    }
}

/// How much a trace holds.
fn told(steps: &[Step]) -> String {
    let ms = steps.last().map_or(0, |last| last.at_ms - steps[0].at_ms);
    format!("{} switches in {:.1} s", steps.len(), ms as f64 / 1e3)
}

fn open(path: &Path) -> Result<Bundle, Failure> {
    Bundle::open(path).map_err(super::bundle::failure)
}

fn names(bundle: &Bundle) -> Vec<String> {
    bundle.task_indices().map(|task| bundle.task(task).name.clone()).collect()
}

fn missing(what: &str) -> Failure {
    Failure::usage(format!("{what} is missing"))
}

/// A number that a device or a clock may have.
fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (1e-3..=1e9).contains(&number) { Ok(number) } else { Err("must be 0.001 to 1e9".into()) }
}
