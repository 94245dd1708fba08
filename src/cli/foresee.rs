//! Commands that tell a daemon what is to come: `hint`, `prepare`.

use super::{
    DaemonArgs, OutputArgs,
    call::{ANSWER_LIMIT, call, loading},
    failure::Failure,
    output::{bytes, print, print_json},
};
use crate::proto;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct HintArgs {
    /// Tasks that may be switched to. A probability is above 0 and at most 1, and 1 if left out; a
    /// start is in milliseconds from now, and at once if left out.
    #[arg(value_name = "TASK[=PROBABILITY][@STARTS_IN_MS]", value_parser = hint_of)]
    #[arg(required_unless_present = "clear")]
    hints: Vec<proto::TaskHint>,
    /// Forget the session's hints.
    #[arg(long, conflicts_with = "hints")]
    clear: bool,
    /// Let the hints hold for so many milliseconds; until a minute after their start if left out.
    #[arg(long, value_name = "MS")]
    expires_ms: Option<u64>,
    /// The model; may be left out if the daemon has one.
    #[arg(long, default_value = "")]
    model: String,
    /// The session.
    #[arg(long, default_value = "default")]
    session: String,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct PrepareArgs {
    /// The task.
    task: String,
    /// The model; may be left out if the daemon has one.
    #[arg(long, default_value = "")]
    model: String,
    /// Let the task stay for so many milliseconds, unless a switch needs its room.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    hold_ms: u64,
    /// Give up after so many milliseconds.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Reads `TASK[=PROBABILITY][@STARTS_IN_MS]`. What such a hint is worth is for the daemon to say.
fn hint_of(text: &str) -> Result<proto::TaskHint, String> {
    let (text, starts_in_ms) = match text.split_once('@') {
        Some((rest, ms)) => (rest, Some(ms.parse().map_err(|_| format!("start `{ms}`"))?)),
        None => (text, None),
    };
    let (task, probability) = match text.split_once('=') {
        Some((task, p)) => (task, p.parse().map_err(|_| format!("probability `{p}`"))?),
        None => (text, 1.0),
    };
    Ok(proto::TaskHint { task: task.to_owned(), probability, starts_in_ms, expires_in_ms: None })
}

/// Tells which tasks a session may switch to.
pub(super) fn hint(args: &HintArgs) -> Result<(), Failure> {
    let mut hints = args.hints.clone();
    hints.iter_mut().for_each(|hint| hint.expires_in_ms = args.expires_ms);
    let (model, session) = (args.model.clone(), args.session.clone());
    let request = proto::HintTasksRequest { model, session, hints };
    let response =
        call(&args.daemon, ANSWER_LIMIT, async |client| client.hint_tasks(request).await)?;
    if args.output.json {
        return print_json(&response);
    }
    print(&format!("hints: {} hold, {} ignored\n", response.accepted, response.ignored))
}

/// Loads a task without making it active.
pub(super) fn prepare(args: &PrepareArgs) -> Result<(), Failure> {
    let PrepareArgs { task, model, hold_ms, timeout_ms, .. } = args;
    let (task, model) = (task.clone(), model.clone());
    let message = proto::PrepareTaskRequest { model, task, hold_ms: *hold_ms };
    let (request, limit) = loading(message, *timeout_ms);
    let response = call(&args.daemon, limit, async |client| client.prepare_task(request).await)?;
    if args.output.json {
        return print_json(&response);
    }
    let (needed, reused) =
        (response.needed.unwrap_or_default(), response.reused.unwrap_or_default());
    print(&format!(
        "{} is resident: {} blocks ({}), {} of them were already, in {} µs\n",
        args.task,
        needed.blocks,
        bytes(needed.bytes),
        reused.blocks,
        response.total_us,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_has_a_probability_and_a_start_if_they_are_given() {
        let hint = |text| hint_of(text).map(|h| (h.task, h.probability, h.starts_in_ms));
        assert_eq!(hint("city"), Ok(("city".into(), 1.0, None)));
        assert_eq!(hint("city=0.5"), Ok(("city".into(), 0.5, None)));
        assert_eq!(hint("city@8000"), Ok(("city".into(), 1.0, Some(8000))));
        assert_eq!(hint("city=.25@0"), Ok(("city".into(), 0.25, Some(0))));
        for wrong in ["city=", "city=much", "city@", "city@-1", "city@1=0.5"] {
            assert!(hint(wrong).is_err(), "{wrong}");
        }
    }
}
