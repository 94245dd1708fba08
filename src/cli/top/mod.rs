//! `top`: a daemon, looked at in a terminal as it works.
//!
//! `state` knows what the daemon told, `ui` what the user chose, `draw` makes a picture of both;
//! `feed` asks the daemon, `screen` is the terminal, and `live` brings them together. Changes nothing
//! of the daemon.

mod draw;
mod feed;
mod live;
mod once;
mod screen;
mod state;
#[cfg(test)]
mod tests;
mod ui;

use super::{DaemonArgs, failure::Failure};
use crate::observe::Stamp;
use clap::Args;
use state::Now;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// The model to begin with; the first one if left out.
    #[arg(long, default_value = "")]
    model: String,
    /// How often to look, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print one frame as text, after one interval, and end.
    #[arg(long)]
    once: bool,
    /// The same as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "not from 0.1 to 60".into())
}

/// Shows a daemon until the user has seen enough.
pub(super) fn top(args: &TopArgs) -> Result<(), Failure> {
    if args.once || args.json {
        return once::once(args);
    }
    if !screen::is_there() {
        return Err(Failure::usage(
            "`top` needs a terminal for its input and output: use `status` or `events`, or `top \
             --once` for one frame as text",
        ));
    }
    live::live(args)
}

impl TopArgs {
    fn control(&self) -> &PathBuf {
        &self.daemon.control
    }

    fn wanted(&self) -> feed::Wanted {
        feed::Wanted { model: self.model.clone(), interval: self.interval }
    }
}

/// The clocks.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Now {
        Now { running: self.0.elapsed(), wall_us: Stamp::now().0 }
    }
}
