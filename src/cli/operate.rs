//! Commands that speak to a daemon: `switch`, `status`, `sessions`, `export`.

use super::{
    DaemonArgs, OutputArgs,
    failure::Failure,
    interrupt::Interrupt,
    output::{Table, bytes, print, print_json},
};
use crate::{
    client::{self, Attachment, Control},
    proto,
};
use clap::{Args, Subcommand};
use indicatif::HumanDuration;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Request, Status};

#[derive(Debug, Args)]
pub(super) struct SwitchArgs {
    /// The task.
    task: String,
    /// The model; may be left out if the daemon has one.
    #[arg(long, default_value = "")]
    model: String,
    /// The session.
    #[arg(long, default_value = "default")]
    session: String,
    /// Makes a repeat of the call get the first one's answer.
    #[arg(long, value_name = "ID", default_value = "")]
    request_id: String,
    /// Switch only if the session is at this generation.
    #[arg(long, value_name = "GENERATION")]
    expect: Option<u64>,
    /// Give up after so many milliseconds.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    output: OutputArgs,
}

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
    },
    /// Close a session that no client is attached to.
    Close {
        /// Its name.
        session: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The session.
    #[arg(long, default_value = "default")]
    session: String,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The model; may be left out if the daemon has one.
    #[arg(long, default_value = "")]
    model: String,
    /// Data-plane socket of the daemon.
    #[arg(long, value_name = "PATH", default_value = "/run/synchromesh/attach.sock")]
    attach: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// The longest switch that a daemon can be configured to allow.
const SWITCH_LIMIT: Duration = Duration::from_secs(3600);
/// How long a daemon may take to answer what needs no reading.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Nobody answers at a socket.
#[derive(Debug, Error)]
#[error("cannot reach a daemon at {}; is it running?", socket.display())]
struct Unreachable {
    socket: PathBuf,
    source: tonic::transport::Error,
}

/// Makes a task active.
pub(super) fn switch(args: &SwitchArgs) -> Result<(), Failure> {
    let mut request = Request::new(proto::SwitchTaskRequest {
        model: args.model.clone(),
        session: args.session.clone(),
        task: args.task.clone(),
        request_id: args.request_id.clone(),
        expected_generation: args.expect,
    });
    if let Some(timeout) = args.timeout_ms {
        request.set_timeout(Duration::from_millis(timeout));
    }
    // The daemon answers at the deadline; the rest is for one that does not.
    let limit = args.timeout_ms.map_or(SWITCH_LIMIT, Duration::from_millis) + ANSWER_LIMIT;
    let response = call(&args.daemon, limit, async |client| client.switch_task(request).await)?;
    if args.output.json {
        return print_json(&response);
    }
    let amount = |amount: Option<proto::Amount>| {
        let proto::Amount { blocks, bytes: size } = amount.unwrap_or_default();
        vec![blocks.to_string(), bytes(size)]
    };
    let mut table = Table::new(&["", "blocks", "size"]);
    let rows = [
        ("needed", response.needed),
        ("reused", response.reused),
        ("read", response.read),
        ("evicted", response.evicted),
    ];
    for (name, value) in rows {
        table.row(std::iter::once(name.to_owned()).chain(amount(value)).collect());
    }
    let timing = response.timing.unwrap_or_default();
    let outcome = match response.outcome() {
        proto::SwitchOutcome::AlreadyActive => "was active already",
        proto::SwitchOutcome::Resident => "was resident",
        proto::SwitchOutcome::PartlyPrefetched => "was partly prefetched",
        proto::SwitchOutcome::Loaded => "was loaded",
        proto::SwitchOutcome::Unspecified => "is active",
    };
    print(&format!(
        "{} {outcome}, generation {}\n{}{} µs: queue {}, plan {}, read {}, verify {}, publish {}\n",
        args.task,
        response.generation,
        table.render(),
        timing.total_us,
        timing.queue_us,
        timing.plan_us,
        timing.read_us,
        timing.verify_us,
        timing.publish_us,
    ))
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
    }
    print(&text)
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

fn fetch_status(daemon: &DaemonArgs, model: &str) -> Result<proto::GetStatusResponse, Failure> {
    let request = proto::GetStatusRequest { model: model.to_owned() };
    call(daemon, ANSWER_LIMIT, async |client| client.get_status(request).await)
}

fn sessions_table(sessions: &[proto::SessionStatus]) -> Table {
    let mut table = Table::new(&["session", "task", "generation", "loading", "clients"]);
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    for session in sessions {
        table.row(vec![
            session.session.clone(),
            or_dash(&session.task),
            session.generation.to_string(),
            or_dash(&session.pending_task),
            session.clients.to_string(),
        ]);
    }
    table
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
        Some(SessionsAction::Open { session }) => {
            let request = proto::OpenSessionRequest { model, session: session.clone() };
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
    };
    match &args.action {
        _ if args.output.json => print_json(&Listed { sessions }),
        Some(SessionsAction::Close { session }) => print(&format!("{session} is closed\n")),
        _ => print(&sessions_table(&sessions).render()),
    }
}

/// Writes what a session serves.
pub(super) fn export(args: &ExportArgs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Exported {
        task: String,
        generation: u64,
        tensors: usize,
        file: PathBuf,
    }
    // Ctrl-C does not end the program but the command, so that no half-written file is left.
    let interrupt = Interrupt::listen().map_err(Failure::failed)?;
    let attachment = Attachment::connect(&args.attach, &args.model, &args.session);
    let mut attachment = attachment.map_err(Failure::failed)?;
    let lease = attachment.lease().map_err(Failure::failed)?;
    client::export(&lease, &args.out, || interrupt.came()).map_err(Failure::failed)?;
    let bundle = lease.bundle();
    let exported = Exported {
        task: bundle.task(lease.task()).name.clone(),
        generation: lease.generation().0,
        tensors: bundle.base().tensors.len() + bundle.tensors().len(),
        file: args.out.clone(),
    };
    if args.output.json {
        return print_json(&exported);
    }
    print(&format!(
        "{}: {} tensors as task {} has them, generation {}\n",
        exported.file.display(),
        exported.tensors,
        exported.task,
        exported.generation
    ))
}

/// Connects, makes one call, and gives its response.
fn call<T>(
    daemon: &DaemonArgs,
    limit: Duration,
    call: impl AsyncFnOnce(&mut Control) -> Result<tonic::Response<T>, Status>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::failed)?.block_on(async {
        let unreachable = |source| Unreachable { socket: daemon.control.clone(), source };
        let answer = async {
            let client = client::connect(&daemon.control).await;
            let mut client = client.map_err(unreachable).map_err(Failure::failed)?;
            call(&mut client).await.map_err(|status| Failure::failed(refused(&status)))
        };
        match timeout(limit, answer).await {
            Ok(response) => Ok(response?.into_inner()),
            Err(_) => Err(Failure::failed(format!("no answer from the daemon in {limit:?}"))),
        }
    })
}

/// A status in words, with the stable reason.
fn refused(status: &Status) -> String {
    use tonic_types::StatusExt as _;
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| info.reason.as_str());
    match reason {
        // Our own end of the transport gave up; the daemon would have given a reason.
        "" if status.code() == Code::Cancelled => "no answer from the daemon in time".into(),
        "" => format!("{} ({:?})", status.message(), status.code()),
        _ => format!("{} ({:?}, {reason})", status.message(), status.code()),
    }
}
