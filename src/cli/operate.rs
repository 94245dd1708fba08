//! Commands that have to do with a session's active task: `switch`, `export`.

use super::{
    DaemonArgs, OutputArgs,
    call::{call, loading},
    failure::Failure,
    interrupt::Interrupt,
    output::{Table, bytes, percent, print, print_json},
};
use crate::{
    client::{self, Attachment},
    proto,
};
use clap::Args;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

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
    /// For a pool that holds one task only: give up the active task first, if there is no other way
    /// to make room.
    #[arg(long)]
    in_place: bool,
    /// Give up after so many milliseconds.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    output: OutputArgs,
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

/// Makes a task active.
pub(super) fn switch(args: &SwitchArgs) -> Result<(), Failure> {
    let mode = match args.in_place {
        true => proto::SwitchMode::InPlace,
        false => proto::SwitchMode::Seamless,
    };
    let message = proto::SwitchTaskRequest {
        model: args.model.clone(),
        session: args.session.clone(),
        task: args.task.clone(),
        request_id: args.request_id.clone(),
        expected_generation: args.expect,
        mode: mode.into(),
    };
    let (request, limit) = loading(message, args.timeout_ms);
    let response = call(&args.daemon, limit, async |client| client.switch_task(request).await)?;
    if args.output.json {
        return print_json(&response);
    }
    print(&format!(
        "{} {}{}, generation {}\n{}{}{}",
        args.task,
        outcome(response.outcome()),
        if response.in_place { " in place" } else { "" },
        response.generation,
        amounts(&response).render(),
        timing_line(&response.timing.unwrap_or_default()),
        response.foresight.as_ref().map_or_else(String::new, foresight_line),
    ))
}

fn outcome(outcome: proto::SwitchOutcome) -> &'static str {
    match outcome {
        proto::SwitchOutcome::AlreadyActive => "was active already",
        proto::SwitchOutcome::Resident => "was resident",
        proto::SwitchOutcome::PartlyPrefetched => "was partly prefetched",
        proto::SwitchOutcome::Loaded => "was loaded",
        proto::SwitchOutcome::Unspecified => "is active",
    }
}

fn amounts(response: &proto::SwitchTaskResponse) -> Table {
    let mut table = Table::new(&["", "blocks", "size"]);
    let rows = [
        ("needed", response.needed),
        ("reused", response.reused),
        ("prefetched", response.prefetched),
        ("read", response.read),
        ("evicted", response.evicted),
    ];
    for (name, amount) in rows {
        let proto::Amount { blocks, bytes: size } = amount.unwrap_or_default();
        table.row(vec![name.to_owned(), blocks.to_string(), bytes(size)]);
    }
    table
}

fn timing_line(timing: &proto::SwitchTiming) -> String {
    format!(
        "{} µs: queue {}, plan {}, read {}, verify {}, publish {}\n",
        timing.total_us,
        timing.queue_us,
        timing.plan_us,
        timing.read_us,
        timing.verify_us,
        timing.publish_us,
    )
}

fn foresight_line(foresight: &proto::Foresight) -> String {
    let proto::Foresight { probability, rank, lead_us } = *foresight;
    let lead = Duration::from_micros(lead_us);
    format!("foreseen {lead:.1?} ahead at {}, in place {rank}\n", percent(probability))
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
