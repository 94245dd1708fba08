//! Events as log lines. A switch has one line that says where its time went.

use crate::{
    engine::{Event, EventKind, Peer, SwitchEnd, SwitchTiming, TraceContext},
    proto::event::Kind,
};
use std::time::Duration;

/// Writes the line of an event.
pub(super) fn log(event: &Event) {
    let model = event.bundle.model();
    let name = |task| &event.bundle.task(task).name[..];
    match &event.kind {
        EventKind::Switch(end) => switch(model, end, end.from.map(name), name(end.task)),
        EventKind::GivenUp { session, task, generation } => {
            let (session, task) = (&**session, name(*task));
            tracing::info!(
                model,
                session,
                task,
                generation = generation.0,
                "given up for the next"
            );
        }
        EventKind::Prepared { task, result: Ok(report) } => {
            let (task, took_us) = (name(*task), us(report.took));
            let (needed, reused) = (report.needed, report.reused);
            tracing::info!(model, task, needed, reused, took_us, "prepared");
        }
        EventKind::Prepared { task, result: Err(error) } => {
            tracing::warn!(model, task = name(*task), %error, "not prepared");
        }
        EventKind::Opened { session } => tracing::info!(model, session = &**session, "opened"),
        EventKind::Closed { session } => tracing::info!(model, session = &**session, "closed"),
        EventKind::Attached { session, peer: Peer { pid, uid } } => {
            tracing::info!(model, session = &**session, pid, uid, "attached");
        }
        EventKind::Detached { session, peer: Peer { pid, uid } } => {
            tracing::info!(model, session = &**session, pid, uid, "detached");
        }
        EventKind::Revoked { session, peer: Peer { pid, uid }, generation, task } => {
            let (session, task, generation) = (&**session, name(*task), generation.0);
            let what = "lease revoked: it lasted too long";
            tracing::warn!(model, session, pid, uid, generation, task, "{what}");
        }
        EventKind::Quarantined(block) => {
            let what = "a block cannot be read: tasks that need it are not served";
            tracing::error!(model, block = block.0, "{what}");
        }
        EventKind::Stalled { switches } => {
            tracing::error!(model, switches, "the device does not answer: switches are ended");
        }
    }
}

/// Writes the line of what happened to the daemon as a whole.
pub(super) fn log_daemon(kind: &Kind) {
    if let Kind::Lost(lost) = kind {
        tracing::warn!(count = lost.count, "events came faster than they could be told");
    }
}

fn switch(model: &str, end: &SwitchEnd, from: Option<&str>, task: &str) {
    let (session, request_id) = (&*end.session, end.request_id.as_deref());
    let trace_id = end.trace.map(|TraceContext { trace_id, .. }| format!("{trace_id:032x}"));
    let trace_id = trace_id.as_deref();
    match &end.result {
        Ok(report) => {
            let SwitchTiming { queue, plan, read, verify, publish } = report.timing;
            tracing::info!(
                model,
                session,
                from,
                task,
                generation = report.generation.0,
                outcome = ?report.outcome,
                needed = report.needed,
                prefetched = report.prefetched,
                read = report.read,
                evicted = report.evicted,
                in_place = report.in_place.then_some(true),
                rank = report.foreseen.map(|foreseen| foreseen.rank),
                lead_us = report.foreseen.map(|foreseen| us(foreseen.lead)),
                queue_us = us(queue),
                plan_us = us(plan),
                read_us = us(read),
                verify_us = us(verify),
                publish_us = us(publish),
                request_id,
                trace_id,
                "switched"
            );
        }
        Err(error) => {
            tracing::warn!(model, session, from, task, %error, request_id, trace_id, "not switched");
        }
    }
}

fn us(time: Duration) -> u64 {
    time.as_micros() as u64
}
