//! Events in words: one line for people, the same in the log, in `events` and wherever else they
//! are shown. The line of a switch says where its time went.

use crate::proto::{
    self, Amount, DaemonState, Event, SessionEnd, SwitchOutcome, SwitchTaskResponse, SwitchTiming,
    event::Kind,
};
use indicatif::HumanBytes;
use std::fmt;

/// An event in words, without its time, model and session.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(pub &'a Event);

impl fmt::Display for Words<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Some(kind) => write_kind(to, kind),
            None => to.write_str("something that this version does not know"),
        }
    }
}

/// The names of everything that can happen.
pub const KINDS: [&str; 16] = [
    "lost",
    "switched",
    "switch_failed",
    "given_up",
    "prepared",
    "session_opened",
    "session_closed",
    "client_attached",
    "client_detached",
    "lease_revoked",
    "block_quarantined",
    "storage_stalled",
    "daemon_changed",
    "config_reloaded",
    "storage_recovered",
    "attachment_ended",
];

/// The stable name of what happened, as in the protocol's `Event`.
pub fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Lost(_) => "lost",
        Kind::Switched(_) => "switched",
        Kind::SwitchFailed(_) => "switch_failed",
        Kind::GivenUp(_) => "given_up",
        Kind::Prepared(_) => "prepared",
        Kind::SessionOpened(_) => "session_opened",
        Kind::SessionClosed(_) => "session_closed",
        Kind::ClientAttached(_) => "client_attached",
        Kind::ClientDetached(_) => "client_detached",
        Kind::LeaseRevoked(_) => "lease_revoked",
        Kind::BlockQuarantined(_) => "block_quarantined",
        Kind::StorageStalled(_) => "storage_stalled",
        Kind::StorageRecovered(_) => "storage_recovered",
        Kind::DaemonChanged(_) => "daemon_changed",
        Kind::ConfigReloaded(_) => "config_reloaded",
        Kind::AttachmentEnded(_) => "attachment_ended",
    }
}

fn write_kind(to: &mut fmt::Formatter<'_>, kind: &Kind) -> fmt::Result {
    match kind {
        Kind::Lost(lost) => write!(
            to,
            "{} events are missing: they came too fast, or are not kept any more",
            lost.count
        ),
        Kind::Switched(switched) => write_switch(to, switched),
        Kind::SwitchFailed(failed) => {
            let proto::SwitchFailed { from, task, reason, message, .. } = failed;
            to.write_str("not switched ")?;
            write_way(to, from, task)?;
            write!(to, " ({reason}): {message}")
        }
        Kind::GivenUp(given_up) => write!(to, "{} given up for the next", given_up.task),
        Kind::Prepared(prepared) => write_prepared(to, prepared),
        Kind::SessionOpened(_) => to.write_str("session opened"),
        Kind::SessionClosed(closed) => to.write_str(match closed.end() {
            SessionEnd::Expired => "session closed: no call has named it for its time to live",
            SessionEnd::Owner => {
                "session closed: the client that owned it is not attached any more"
            }
            SessionEnd::Unspecified | SessionEnd::Call => "session closed",
        }),
        Kind::ClientAttached(client) => {
            write!(to, "process {} of user {} attached", client.pid, client.uid)
        }
        Kind::ClientDetached(client) => {
            write!(to, "process {} of user {} detached", client.pid, client.uid)
        }
        Kind::AttachmentEnded(client) => {
            write!(to, "attachment of process {} of user {} ended", client.pid, client.uid)?;
            match client.caller {
                Some(proto::Client { pid, uid }) => write!(to, " by process {pid} of user {uid}"),
                None => Ok(()),
            }
        }
        Kind::LeaseRevoked(lease) => {
            let proto::LeaseRevoked { pid, uid, generation, task } = lease;
            write!(
                to,
                "lease revoked: process {pid} of user {uid} reads {task} of generation \
                 {generation} for too long"
            )
        }
        Kind::BlockQuarantined(block) => {
            let block = block.block;
            write!(to, "block {block} cannot be read: tasks that need it are not served")
        }
        Kind::StorageStalled(stalled) => {
            write!(to, "the device does not answer: {} switches are ended", stalled.switches)
        }
        Kind::StorageRecovered(recovered) => {
            write!(to, "the device answers again after {} ms", recovered.stalled_ms)
        }
        Kind::DaemonChanged(changed) => {
            let what = match changed.state() {
                DaemonState::Serving => "serves",
                DaemonState::Draining => "finishes what runs and takes nothing new",
                DaemonState::Unspecified => "is in an unknown state",
            };
            write!(to, "synchromesh {} {what}", changed.version)?;
            if changed.remark.is_empty() { Ok(()) } else { write!(to, ": {}", changed.remark) }
        }
        Kind::ConfigReloaded(reloaded) => match &reloaded.error[..] {
            "" => to.write_str("the configuration was read again and holds"),
            error => write!(to, "the old configuration stays: {error}"),
        },
    }
}

/// `city → parking`, or `to parking` if there was no task before.
fn write_way(to: &mut fmt::Formatter<'_>, from: &str, task: &str) -> fmt::Result {
    if from.is_empty() { write!(to, "to {task}") } else { write!(to, "{from} → {task}") }
}

fn write_switch(to: &mut fmt::Formatter<'_>, switched: &proto::TaskSwitched) -> fmt::Result {
    let proto::TaskSwitched { from, task, result, .. } = switched;
    let Some(result) = result else { return write!(to, "switched to {task}") };
    if result.outcome() == SwitchOutcome::AlreadyActive {
        return write!(to, "{task} was active already");
    }
    to.write_str("switched ")?;
    write_way(to, from, task)?;
    write_timing(to, &result.timing.unwrap_or_default())?;
    write_amounts(to, result)
}

/// The time that a switch took, and its phases in the same unit; those that do not count are left
/// out.
fn write_timing(to: &mut fmt::Formatter<'_>, timing: &SwitchTiming) -> fmt::Result {
    let SwitchTiming { queue_us, plan_us, read_us, verify_us, publish_us, total_us } = *timing;
    let (unit, per_us, digits) = if total_us < 1000 { ("µs", 1.0, 0) } else { ("ms", 1e3, 1) };
    write!(to, " in {:.digits$} {unit}", total_us as f64 / per_us)?;
    let phases = [
        ("queue", queue_us),
        ("plan", plan_us),
        ("read", read_us),
        ("verify", verify_us),
        ("publish", publish_us),
    ];
    let counts = |us: u64| us as f64 / per_us >= if digits == 0 { 1.0 } else { 0.05 };
    let mut between = " (";
    for (name, us) in phases.into_iter().filter(|(_, us)| counts(*us)) {
        write!(to, "{between}{name} {:.digits$}", us as f64 / per_us)?;
        between = ", ";
    }
    if between == ", " { to.write_str(")") } else { Ok(()) }
}

fn write_amounts(to: &mut fmt::Formatter<'_>, result: &SwitchTaskResponse) -> fmt::Result {
    let bytes = |amount: Option<Amount>| amount.unwrap_or_default().bytes;
    match bytes(result.read) {
        0 => to.write_str(", all of it was there")?,
        read => write!(to, ", {} read", HumanBytes(read))?,
    }
    let prefetched = bytes(result.prefetched);
    if prefetched > 0 {
        write!(to, ", {} prefetched", HumanBytes(prefetched))?;
    }
    if result.in_place { to.write_str(", in place") } else { Ok(()) }
}

fn write_prepared(to: &mut fmt::Formatter<'_>, prepared: &proto::TaskPrepared) -> fmt::Result {
    let proto::TaskPrepared { task, result, reason, .. } = prepared;
    let Some(result) = result else { return write!(to, "{task} not prepared ({reason})") };
    let bytes = |amount: Option<Amount>| amount.unwrap_or_default().bytes;
    let loaded = bytes(result.needed).saturating_sub(bytes(result.reused));
    let ms = result.total_us as f64 / 1e3;
    write!(to, "{task} prepared in {ms:.1} ms, {} loaded", HumanBytes(loaded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn told(kind: Kind) -> String {
        Words(&Event { kind: Some(kind), ..Event::default() }).to_string()
    }

    fn switched(from: &str, outcome: SwitchOutcome, timing: SwitchTiming) -> proto::TaskSwitched {
        let result = SwitchTaskResponse {
            outcome: outcome.into(),
            timing: Some(timing),
            ..SwitchTaskResponse::default()
        };
        proto::TaskSwitched {
            from: from.into(),
            task: "parking".into(),
            result: Some(result),
            ..proto::TaskSwitched::default()
        }
    }

    #[test]
    fn a_switch_says_where_its_time_went() {
        let timing = SwitchTiming {
            queue_us: 40,
            read_us: 12_900,
            verify_us: 120,
            total_us: 13_210,
            ..SwitchTiming::default()
        };
        let mut switch = switched("city", SwitchOutcome::PartlyPrefetched, timing);
        if let Some(result) = &mut switch.result {
            result.read = Some(Amount { blocks: 2, bytes: 40 << 20 });
            result.prefetched = Some(Amount { blocks: 1, bytes: 1 << 20 });
        }
        let expected = "switched city → parking in 13.2 ms (read 12.9, verify 0.1), 40.00 MiB read, \
                        1.00 MiB prefetched";
        assert_eq!(told(Kind::Switched(switch)), expected);
    }

    #[test]
    fn a_resident_switch_is_told_in_microseconds() {
        let timing =
            SwitchTiming { queue_us: 20, publish_us: 1, total_us: 21, ..SwitchTiming::default() };
        let switch = switched("", SwitchOutcome::Resident, timing);
        let expected = "switched to parking in 21 µs (queue 20, publish 1), all of it was there";
        assert_eq!(told(Kind::Switched(switch)), expected);
        let none = switched("city", SwitchOutcome::AlreadyActive, timing);
        assert_eq!(told(Kind::Switched(none)), "parking was active already");
        let nothing = switched("city", SwitchOutcome::Resident, SwitchTiming::default());
        let expected = "switched city → parking in 0 µs, all of it was there";
        assert_eq!(told(Kind::Switched(nothing)), expected);
    }

    #[test]
    fn kinds_have_the_names_of_the_protocol() {
        let descriptors = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
        let mut messages = descriptors.file.iter().flat_map(|file| &file.message_type);
        let event = messages.find(|message| message.name() == "Event").unwrap();
        let kinds = event.field.iter().filter(|field| field.oneof_index.is_some());
        assert_eq!(kinds.map(|field| field.name()).collect::<Vec<_>>(), KINDS);
    }

    #[test]
    fn a_failure_says_why() {
        let failed = proto::SwitchFailed {
            from: "city".into(),
            task: "parking".into(),
            reason: "POOL_FULL".into(),
            message: "there is no room".into(),
            ..proto::SwitchFailed::default()
        };
        let expected = "not switched city → parking (POOL_FULL): there is no room";
        assert_eq!(told(Kind::SwitchFailed(failed)), expected);
    }
}
