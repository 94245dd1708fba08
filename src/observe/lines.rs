//! Events as log lines: the words for people, and fields for machines. A switch has one line that
//! says where its time went.
//!
//! Lines are asked for by kind, so that each kind has its own place in the source and its own share
//! of the log (`log::gate`): a flood of one does not drown the others. What is left out there costs
//! neither fields nor words.

use super::words::Words;
use crate::proto::{self, Amount, Event, SessionEnd, event::Kind};

/// What the lines of events have for a target, for `log.filter`.
pub(super) const TARGET: &str = "synchromesh::event";

/// A line of an event. Its name is that of its kind.
macro_rules! line {
    ($level:ident, $kind:literal, $event:expr, $($fields:tt)*) => {
        tracing::$level!(
            name: $kind,
            target: TARGET,
            kind = $kind,
            time_us = $event.time_us,
            model = present(&$event.model),
            session = present(&$event.session),
            $($fields)*
            "{}",
            Words($event)
        )
    };
}

/// The line of a switch.
macro_rules! switched_line {
    ($event:expr, $switched:expr, $result:expr, $timing:expr) => {
        line!(
            info,
            "switched",
            $event,
            from = present(&$switched.from),
            task = $switched.task,
            generation = $result.generation,
            outcome = outcome_name($result.outcome()),
            needed_bytes = bytes($result.needed),
            prefetched_bytes = bytes($result.prefetched),
            read_bytes = bytes($result.read),
            evicted_bytes = bytes($result.evicted),
            in_place = $result.in_place.then_some(true),
            rank = $result.foresight.as_ref().map(|foresight| foresight.rank),
            lead_us = $result.foresight.as_ref().map(|foresight| foresight.lead_us),
            queue_us = $timing.queue_us,
            plan_us = $timing.plan_us,
            read_us = $timing.read_us,
            verify_us = $timing.verify_us,
            publish_us = $timing.publish_us,
            total_us = $timing.total_us,
            request_id = present(&$switched.request_id),
            trace_id = present(&$switched.trace_id),
            caller_pid = $switched.caller.map(|caller| caller.pid),
            caller_uid = $switched.caller.map(|caller| caller.uid),
        )
    };
}

/// A switch that reads, or takes longer than this, in microseconds, is one that somebody may ask for.
const SLOW_US: u64 = 1_000;

/// Writes the line of an event. What happens to the daemon as a whole is told where it happens.
pub(super) fn log(event: &Event) {
    match &event.kind {
        None | Some(Kind::DaemonChanged(_) | Kind::ConfigReloaded(_)) => {}
        Some(Kind::Lost(lost)) => line!(warn, "lost", event, count = lost.count,),
        Some(Kind::Switched(switched)) => log_switch(event, switched),
        Some(Kind::SwitchFailed(failed)) => line!(
            warn,
            "switch_failed",
            event,
            from = present(&failed.from),
            task = failed.task,
            reason = failed.reason,
            error = failed.message,
            request_id = present(&failed.request_id),
            trace_id = present(&failed.trace_id),
            caller_pid = failed.caller.map(|caller| caller.pid),
            caller_uid = failed.caller.map(|caller| caller.uid),
        ),
        Some(Kind::GivenUp(proto::TaskGivenUp { task, generation })) => {
            line!(info, "given_up", event, task = task, generation = generation,)
        }
        Some(Kind::Prepared(prepared)) => log_prepared(event, prepared),
        Some(Kind::SessionOpened(proto::SessionOpened { caller })) => line!(
            info,
            "session_opened",
            event,
            caller_pid = caller.map(|caller| caller.pid),
            caller_uid = caller.map(|caller| caller.uid),
        ),
        Some(Kind::SessionClosed(closed)) => line!(
            info,
            "session_closed",
            event,
            end = end_name(closed.end()),
            caller_pid = closed.caller.map(|caller| caller.pid),
            caller_uid = closed.caller.map(|caller| caller.uid),
        ),
        Some(Kind::ClientAttached(proto::ClientAttached { pid, uid })) => {
            line!(info, "client_attached", event, pid = pid, uid = uid,)
        }
        Some(Kind::ClientDetached(proto::ClientDetached { pid, uid })) => {
            line!(info, "client_detached", event, pid = pid, uid = uid,)
        }
        Some(Kind::AttachmentEnded(proto::AttachmentEnded { pid, uid, caller })) => line!(
            warn,
            "attachment_ended",
            event,
            pid = pid,
            uid = uid,
            caller_pid = caller.map(|caller| caller.pid),
            caller_uid = caller.map(|caller| caller.uid),
        ),
        Some(Kind::LeaseRevoked(proto::LeaseRevoked { pid, uid, generation, task })) => line!(
            warn,
            "lease_revoked",
            event,
            task = task,
            generation = generation,
            pid = pid,
            uid = uid,
        ),
        Some(Kind::BlockQuarantined(block)) => {
            line!(error, "block_quarantined", event, block = block.block,)
        }
        Some(Kind::StorageStalled(stalled)) => {
            line!(error, "storage_stalled", event, switches = stalled.switches,)
        }
        Some(Kind::StorageRecovered(recovered)) => {
            line!(warn, "storage_recovered", event, stalled_ms = recovered.stalled_ms,)
        }
    }
}

/// Why a session was closed, in a word.
fn end_name(end: SessionEnd) -> Option<&'static str> {
    match end {
        SessionEnd::Unspecified => None,
        SessionEnd::Call => Some("call"),
        SessionEnd::Expired => Some("expired"),
        SessionEnd::Owner => Some("owner"),
    }
}

fn log_switch(event: &Event, switched: &proto::TaskSwitched) {
    let Some(result) = &switched.result else { return };
    let timing = result.timing.unwrap_or_default();
    // Two places, so that many that take no time do not drown those that do.
    if bytes(result.read) > 0 || timing.total_us >= SLOW_US {
        switched_line!(event, switched, result, timing);
    } else {
        switched_line!(event, switched, result, timing);
    }
}

fn log_prepared(event: &Event, prepared: &proto::TaskPrepared) {
    let proto::TaskPrepared { task, result, reason, caller } = prepared;
    let (caller_pid, caller_uid) =
        (caller.map(|caller| caller.pid), caller.map(|caller| caller.uid));
    match result {
        Some(result) => line!(
            info,
            "prepared",
            event,
            task = task,
            needed_bytes = bytes(result.needed),
            reused_bytes = bytes(result.reused),
            total_us = result.total_us,
            caller_pid,
            caller_uid,
        ),
        None => {
            line!(warn, "not_prepared", event, task = task, reason = reason, caller_pid, caller_uid,)
        }
    }
}

/// The outcome of a switch without what all of them begin with: `loaded`.
pub(super) fn outcome_name(outcome: proto::SwitchOutcome) -> String {
    let name = outcome.as_str_name();
    name.strip_prefix("SWITCH_OUTCOME_").unwrap_or(name).to_ascii_lowercase()
}

/// An empty text is one that is not there.
fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn bytes(amount: Option<Amount>) -> u64 {
    amount.unwrap_or_default().bytes
}
