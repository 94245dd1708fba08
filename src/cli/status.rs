//! What a daemon tells of itself: `status`, and `sessions`, which also opens and closes them
//! and ends attachments.

use super::{
    DaemonArgs, OutputArgs,
    call::{ANSWER_LIMIT, call},
    failure::Failure,
    output::{Table, bytes, percent, print, print_json},
};
use crate::proto::{self, SessionOwner};
use clap::{Args, Subcommand};
use indicatif::HumanDuration;
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only this model.
    #[arg(long, default_value = "")]
    model: String,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct SessionsArgs {
    #[command(subcommand)]
    action: Option<SessionsAction>,
    /// The model; may be left out if the daemon has one.
    #[arg(long, default_value = "", global = true)]
    model: String,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Subcommand)]
enum SessionsAction {
    /// Open a session.
    Open {
        /// Its name.
        session: String,
        /// Close it when this long passes without a call that names it, such as `30s`.
        #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
        ttl: Option<Duration>,
        /// The first client that attaches owns it: it closes when that client detaches or dies.
        #[arg(long)]
        owned: bool,
    },
    /// Close a session that no client is attached to.
    Close {
        /// Its name.
        session: String,
    },
    /// End the attachments of a process: it takes no lease any more. What it reads now stays as it is
    /// until it lets go or exits.
    Detach {
        /// The process, as `events` and `status` name it.
        pid: u32,
        /// The session that it is attached to.
        #[arg(default_value = "default")]
        session: String,
    },
}

/// Shows what a daemon holds and serves.
pub(super) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let status = fetch_status(&args.daemon, &args.model)?;
    if args.output.json {
        return print_json(&status);
    }
    let state = match status.state() {
        proto::DaemonState::Serving => "serving",
        proto::DaemonState::Draining => "draining",
        proto::DaemonState::Unspecified => "in an unknown state",
    };
    let up = HumanDuration(Duration::from_millis(status.uptime_ms));
    let mut text = format!("synchromesh {}, {state}, up {up}\n", status.version);
    for model in &status.models {
        let pool = model.pool.unwrap_or_default();
        text += &format!(
            "\nmodel {}, bundle {}\npool: {} slots of {} ({} free, {} filling, {} verifying, {} \
             resident, {} of them pinned), base {}, {}, {} in huge pages, {}\n",
            model.name,
            model.bundle_id,
            pool.slots,
            bytes(pool.slot_bytes),
            pool.free,
            pool.filling,
            pool.verifying,
            pool.resident,
            pool.pinned,
            bytes(pool.base_bytes),
            if pool.locked { "locked" } else { "not locked" },
            bytes(pool.huge_bytes),
            if model.direct_io { "direct I/O" } else { "read through the page cache" },
        );
        text += &storage_line(model.storage.as_ref());
        if let Some(ms) = model.stalled_ms {
            text += &format!("the device has not answered for {ms} ms\n");
        }
        text += &prefetch_line(&model.prefetch.unwrap_or_default());
        let rare = [
            ("blocks cannot be read", model.quarantined_blocks),
            ("blocks were read again after a failure", model.blocks_read_again),
            ("blocks did not match their checksum when they were read", model.blocks_mismatched),
            ("slots are lost until a restart", pool.lost),
        ];
        for (what, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            text += &format!("{count} {what}\n");
        }
        text += &sessions_table(&model.sessions).render();
        text.extend(model.sessions.iter().filter_map(likely_line));
        text.extend(
            model.sessions.iter().flat_map(|session| session.leases.iter().map(lease_line)),
        );
    }
    print(&text)
}

fn lease_line(lease: &proto::Lease) -> String {
    let proto::Lease { pid, uid, generation, task, kept, superseded_ms, revoked } = lease;
    format!(
        "process {pid} (user {uid}) still reads {task} of generation {generation}, superseded for \
         {superseded_ms} ms, and keeps {} in the pool{}\n",
        bytes(kept.unwrap_or_default().bytes),
        if *revoked { "; its lease is revoked" } else { "" },
    )
}

fn storage_line(storage: Option<&proto::StorageStatus>) -> String {
    let Some(storage) = storage else { return String::new() };
    let reason = match &storage.fallback_reason[..] {
        "" => String::new(),
        reason => format!(" (not io_uring: {reason})"),
    };
    let mut text = format!(
        "storage: {}{reason}, {} reads of {} in all",
        storage.backend,
        storage.reads,
        bytes(storage.read_bytes),
    );
    let rare = [
        ("failed", storage.failed_reads),
        ("in parts", storage.short_reads),
        ("deferred by the kernel", storage.deferred_reads),
        ("stray answers", storage.stray_completions),
    ];
    for (what, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
        text += &format!(", {count} {what}");
    }
    text + "\n"
}

fn prefetch_line(prefetch: &proto::PrefetchStatus) -> String {
    let size = |amount: Option<proto::Amount>| bytes(amount.unwrap_or_default().bytes);
    let blocks = |amount: Option<proto::Amount>| amount.unwrap_or_default().blocks;
    let covered = blocks(prefetch.used);
    let mut text = format!(
        "prefetch: {} of switches found all of their task, {} of what they lacked was there; {} \
         loaded, {} used, {} wasted, {} late, {} allowed now",
        share(prefetch.hits, prefetch.switches),
        share(covered, covered + blocks(prefetch.read)),
        size(prefetch.loaded),
        size(prefetch.used),
        size(prefetch.wasted),
        size(prefetch.late),
        bytes(prefetch.budget_bytes),
    );
    let rare = [("tasks prepared", prefetch.prepared), ("hints ignored", prefetch.ignored_hints)];
    for (what, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
        text += &format!(", {what}: {count}");
    }
    text + "\n"
}

/// A part in percent; a dash if there is nothing that it could be a part of.
fn share(part: u64, all: u64) -> String {
    if all == 0 { "-".to_owned() } else { percent(part as f64 / all as f64) }
}

fn likely_line(session: &proto::SessionStatus) -> Option<String> {
    let task = |likely: &proto::LikelyTask| {
        let time = Duration::from_millis(likely.expected_ms);
        format!("{} ({}, in {time:.1?})", likely.task, percent(likely.probability))
    };
    let tasks: Vec<_> = session.likely.iter().map(task).collect();
    (!tasks.is_empty()).then(|| {
        let (name, tasks) = (&session.session, tasks.join(", "));
        let confidence = percent(session.confidence);
        format!("likely next in {name}: {tasks}; the likeliest was right in {confidence} lately\n")
    })
}

fn fetch_status(daemon: &DaemonArgs, model: &str) -> Result<proto::GetStatusResponse, Failure> {
    let request = proto::GetStatusRequest { model: model.to_owned(), picture: false };
    call(daemon, ANSWER_LIMIT, async |client| client.get_status(request).await)
}

fn sessions_table(sessions: &[proto::SessionStatus]) -> Table {
    let heads = ["session", "task", "generation", "loading", "clients", "closes in", "owner"];
    let mut table = Table::new(&heads);
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for session in sessions {
        table.row(vec![
            session.session.clone(),
            or_dash(&session.task),
            session.generation.to_string(),
            or_dash(&session.pending_task),
            session.clients.to_string(),
            or_dash(&remaining(session)),
            or_dash(&owner(session)),
        ]);
    }
    table
}

/// In how long a session closes if nothing happens; empty if it does not.
fn remaining(session: &proto::SessionStatus) -> String {
    let time = |ms| format!("{:.1?}", Duration::from_millis(ms));
    session.remaining_ms.map(time).unwrap_or_default()
}

/// The client that a session closes with; empty if there is none.
fn owner(session: &proto::SessionStatus) -> String {
    match (session.owned_by(), &session.owner) {
        (_, Some(proto::Client { pid, uid })) => format!("process {pid} of user {uid}"),
        (SessionOwner::Attachment, None) => "the first to attach".to_owned(),
        (SessionOwner::Unspecified, None) => String::new(),
    }
}

/// Lists, opens or closes sessions.
pub(super) fn sessions(args: &SessionsArgs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Listed {
        sessions: Vec<proto::SessionStatus>,
    }
    let model = args.model.clone();
    let sessions = match &args.action {
        None => {
            let status = fetch_status(&args.daemon, &model)?;
            status.models.into_iter().flat_map(|model| model.sessions).collect()
        }
        Some(SessionsAction::Open { session, ttl, owned }) => {
            let session = session.clone();
            let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            let owner = if *owned { SessionOwner::Attachment } else { SessionOwner::Unspecified };
            let owner = owner.into();
            let request = proto::OpenSessionRequest { model, session, ttl_ms, owner };
            let opened = call(&args.daemon, ANSWER_LIMIT, async |client| {
                client.open_session(request).await
            })?;
            opened.session.into_iter().collect()
        }
        Some(SessionsAction::Close { session }) => {
            let request = proto::CloseSessionRequest { model, session: session.clone() };
            call(&args.daemon, ANSWER_LIMIT, async |client| client.close_session(request).await)?;
            Vec::new()
        }
        Some(SessionsAction::Detach { pid, session }) => {
            let (pid, session) = (*pid, session.clone());
            let request = proto::EndAttachmentRequest { model, session, pid };
            call(&args.daemon, ANSWER_LIMIT, async |client| client.end_attachment(request).await)?;
            Vec::new()
        }
    };
    match &args.action {
        _ if args.output.json => print_json(&Listed { sessions }),
        Some(SessionsAction::Close { session }) => print(&format!("{session} is closed\n")),
        Some(SessionsAction::Detach { pid, session }) => {
            print(&format!("process {pid} is not attached to {session} any more\n"))
        }
        _ => print(&sessions_table(&sessions).render()),
    }
}
