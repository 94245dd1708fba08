//! The engine's types in the protocol's words, and hints the other way round. Decides and refuses
//! nothing.

use super::errors::reason;
use crate::{
    bundle::Bundle,
    engine::{
        Cell, CellState, Event, EventKind, Foreseen, Hint, HintReport, LeaseStatus, Likely,
        ModelStatus, Outcome, Peer, Picture, PoolStatus, PrefetchStatus, PrepareReport, SessionEnd,
        SessionStatus, StorageStatus, SwitchEnd, SwitchReport, SwitchTiming, TraceContext,
        Transition,
    },
    proto::{self, event::Kind},
    residency::SlotCounts,
    storage::CounterValues,
};
use std::time::Duration;

fn amount(blocks: usize, block_bytes: u64) -> Option<proto::Amount> {
    let blocks = blocks as u64;
    Some(proto::Amount { blocks, bytes: blocks * block_bytes })
}

fn us(time: Duration) -> u64 {
    time.as_micros() as u64
}

impl From<&Bundle> for proto::Model {
    fn from(bundle: &Bundle) -> Self {
        let block = bundle.block();
        let mut tasks: Vec<_> = bundle
            .meta()
            .tasks
            .iter()
            .map(|task| proto::Task {
                name: task.name.clone(),
                needed: amount(task.blocks as usize, block.bytes()),
                retained: task.retained,
            })
            .collect();
        tasks.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            name: bundle.model().to_owned(),
            bundle_id: bundle.id().to_string(),
            block_rows: block.rows() as u32,
            block_cols: block.cols() as u32,
            dtype: format!("{:?}", block.dtype()),
            total: amount(bundle.len(), block.bytes()),
            base_bytes: bundle.base().bytes(),
            tasks,
        }
    }
}

impl From<SwitchReport> for proto::SwitchTaskResponse {
    fn from(report: SwitchReport) -> Self {
        let SwitchReport {
            generation,
            outcome,
            block_bytes,
            needed,
            reused,
            prefetched,
            read,
            evicted,
            in_place,
            foreseen,
            timing,
        } = report;
        let outcome = match outcome {
            Outcome::AlreadyActive => proto::SwitchOutcome::AlreadyActive,
            Outcome::Resident => proto::SwitchOutcome::Resident,
            Outcome::PartlyPrefetched => proto::SwitchOutcome::PartlyPrefetched,
            Outcome::Loaded => proto::SwitchOutcome::Loaded,
        };
        Self {
            generation: generation.0,
            outcome: outcome.into(),
            needed: amount(needed, block_bytes),
            reused: amount(reused, block_bytes),
            prefetched: amount(prefetched, block_bytes),
            read: amount(read, block_bytes),
            evicted: amount(evicted, block_bytes),
            in_place,
            timing: Some(timing.into()),
            foresight: foreseen.map(Into::into),
            instance: String::new(),
        }
    }
}

impl From<SwitchTiming> for proto::SwitchTiming {
    fn from(timing: SwitchTiming) -> Self {
        let SwitchTiming { queue, plan, read, verify, publish } = timing;
        Self {
            queue_us: us(queue),
            plan_us: us(plan),
            read_us: us(read),
            verify_us: us(verify),
            publish_us: us(publish),
            total_us: us(timing.total()),
        }
    }
}

impl From<Foreseen> for proto::Foresight {
    fn from(foreseen: Foreseen) -> Self {
        let Foreseen { probability, rank, lead } = foreseen;
        Self { probability, rank: rank as u32, lead_us: us(lead) }
    }
}

impl From<proto::TaskHint> for Hint {
    fn from(hint: proto::TaskHint) -> Self {
        let proto::TaskHint { task, probability, starts_in_ms, expires_in_ms } = hint;
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        Self { task, probability, starts_in: time(starts_in_ms), expires_in: time(expires_in_ms) }
    }
}

impl From<HintReport> for proto::HintTasksResponse {
    fn from(report: HintReport) -> Self {
        let HintReport { accepted, ignored } = report;
        let (accepted, ignored) = (accepted as u32, ignored as u32);
        Self { accepted, ignored, instance: String::new() }
    }
}

impl From<PrepareReport> for proto::PrepareTaskResponse {
    fn from(report: PrepareReport) -> Self {
        let PrepareReport { block_bytes, needed, reused, took } = report;
        Self {
            needed: amount(needed, block_bytes),
            reused: amount(reused, block_bytes),
            total_us: us(took),
            instance: String::new(),
        }
    }
}

impl From<SessionStatus> for proto::SessionStatus {
    fn from(status: SessionStatus) -> Self {
        let SessionStatus {
            model,
            session,
            task,
            generation,
            pending_task,
            clients,
            draining_generations,
            leases,
            likely,
            confidence,
            remaining,
            owned,
            owner,
        } = status;
        let owned_by = match owned {
            true => proto::SessionOwner::Attachment,
            false => proto::SessionOwner::Unspecified,
        };
        Self {
            model,
            session,
            task: task.unwrap_or_default(),
            generation: generation.0,
            pending_task: pending_task.unwrap_or_default(),
            clients: clients as u32,
            draining_generations: draining_generations as u32,
            leases: leases.into_iter().map(Into::into).collect(),
            likely: likely.into_iter().map(Into::into).collect(),
            confidence,
            remaining_ms: remaining.map(|time| time.as_millis() as u64),
            owner: owner.map(Into::into),
            owned_by: owned_by.into(),
        }
    }
}

impl From<Peer> for proto::Client {
    fn from(peer: Peer) -> Self {
        let Peer { pid, uid } = peer;
        Self { pid, uid }
    }
}

impl From<LeaseStatus> for proto::Lease {
    fn from(lease: LeaseStatus) -> Self {
        let LeaseStatus { peer, generation, task, kept, block_bytes, superseded_for, revoked } =
            lease;
        Self {
            pid: peer.pid,
            uid: peer.uid,
            generation: generation.0,
            task,
            kept: amount(kept, block_bytes),
            superseded_ms: superseded_for.as_millis() as u64,
            revoked,
        }
    }
}

impl From<Likely> for proto::LikelyTask {
    fn from(likely: Likely) -> Self {
        let Likely { task, probability, expected } = likely;
        Self { task, probability, expected_ms: expected.as_millis() as u64 }
    }
}

impl From<ModelStatus> for proto::ModelStatus {
    fn from(status: ModelStatus) -> Self {
        let ModelStatus {
            name,
            bundle_id,
            pool,
            sessions,
            missing: _,
            evicted: _,
            quarantined,
            read_again,
            mismatched,
            request_bytes,
            direct_io,
            stalled_for,
            prefetch,
        } = status;
        Self {
            name,
            bundle_id,
            prefetch: Some(prefetch_status(prefetch, pool.slot_bytes)),
            pool: Some(pool.into()),
            sessions: sessions.into_iter().map(Into::into).collect(),
            quarantined_blocks: quarantined as u64,
            direct_io,
            blocks_read_again: read_again,
            blocks_mismatched: mismatched,
            request_bytes,
            stalled_ms: stalled_for.map(|time| time.as_millis() as u64),
            // The engine knows nothing of it, or is asked by itself.
            storage: None,
            picture: None,
        }
    }
}

impl From<PoolStatus> for proto::PoolStatus {
    fn from(pool: PoolStatus) -> Self {
        let PoolStatus { slot_bytes, base_bytes, slots, pinned, locked, huge_bytes } = pool;
        let SlotCounts { free, filling, verifying, resident, lost } = slots;
        let all = free + filling + verifying + resident + lost;
        Self {
            slot_bytes,
            base_bytes,
            slots: all as u64,
            free: free as u64,
            filling: filling as u64,
            verifying: verifying as u64,
            resident: resident as u64,
            lost: lost as u64,
            pinned: pinned as u64,
            locked,
            huge_bytes,
        }
    }
}

fn prefetch_status(status: PrefetchStatus, block_bytes: u64) -> proto::PrefetchStatus {
    let PrefetchStatus {
        switches,
        hits,
        loaded,
        used,
        wasted,
        late,
        waiting,
        read,
        budget_bytes,
        ignored_hints,
        prepared,
    } = status;
    let amount = |blocks: u64| amount(blocks as usize, block_bytes);
    proto::PrefetchStatus {
        switches,
        hits,
        loaded: amount(loaded),
        used: amount(used),
        wasted: amount(wasted),
        late: amount(late),
        waiting: amount(waiting),
        read: amount(read),
        budget_bytes,
        ignored_hints,
        prepared: prepared as u64,
    }
}

impl From<StorageStatus> for proto::StorageStatus {
    fn from(status: StorageStatus) -> Self {
        let StorageStatus { backend, fallback, counters, load: _ } = status;
        let CounterValues { reads, bytes, failed, short, again, stray } = counters;
        Self {
            backend: backend.to_string(),
            fallback_reason: fallback.map_or_else(String::new, |reason| reason.to_string()),
            reads,
            read_bytes: bytes,
            failed_reads: failed,
            short_reads: short,
            deferred_reads: again,
            stray_completions: stray,
        }
    }
}

impl From<Picture> for proto::Picture {
    fn from(picture: Picture) -> Self {
        let Picture { tasks, cells, slots_per_cell, transitions } = picture;
        Self {
            tasks,
            cells: cells.into_iter().map(|(count, cell)| cell_run(count, cell)).collect(),
            slots_per_cell: slots_per_cell as u32,
            transitions: transitions.into_iter().map(Into::into).collect(),
        }
    }
}

fn cell_run(count: u32, cell: Cell) -> proto::CellRun {
    let Cell { state, tasks, pinned, ahead } = cell;
    let state = match state {
        CellState::Free => proto::SlotState::Free,
        CellState::Filling => proto::SlotState::Filling,
        CellState::Verifying => proto::SlotState::Verifying,
        CellState::Resident => proto::SlotState::Resident,
        CellState::Lost => proto::SlotState::Lost,
    };
    let task_words = if tasks == 0 { Vec::new() } else { vec![tasks] };
    proto::CellRun { count, state: state.into(), task_words, pinned, ahead }
}

impl From<Transition> for proto::Transition {
    fn from(transition: Transition) -> Self {
        let Transition { from, to, probability } = transition;
        Self { from: from as u32, to: to as u32, probability }
    }
}

/// An event of the engine, without its number.
pub(super) fn event(event: &Event, time_us: u64) -> proto::Event {
    let Event { at: _, bundle, kind } = event;
    let (session, kind) = event_kind(bundle, kind);
    let (model, session) = (bundle.model().to_owned(), session.to_owned());
    proto::Event { sequence: 0, time_us, model, session, kind: Some(kind) }
}

/// The session that an event is about, and what it was.
fn event_kind<'a>(bundle: &Bundle, kind: &'a EventKind) -> (&'a str, Kind) {
    let name = |task| bundle.task(task).name.clone();
    match kind {
        EventKind::Switch(end) => (&end.session, switch_end(bundle, end)),
        EventKind::GivenUp { session, task, generation } => {
            let given_up = proto::TaskGivenUp { task: name(*task), generation: generation.0 };
            (session, Kind::GivenUp(given_up))
        }
        EventKind::Prepared { task, caller, result } => {
            let reason = result.as_ref().err().map_or("", |error| reason(error).1);
            let result = result.as_ref().ok().map(|report| (*report).into());
            let (task, caller) = (name(*task), caller.map(Into::into));
            let reason = reason.into();
            ("", Kind::Prepared(proto::TaskPrepared { task, result, reason, caller }))
        }
        EventKind::Opened { session, caller } => {
            let caller = caller.map(Into::into);
            (session, Kind::SessionOpened(proto::SessionOpened { caller }))
        }
        EventKind::Closed { session, end } => {
            let (end, caller) = match end {
                SessionEnd::Call(caller) => (proto::SessionEnd::Call, *caller),
                SessionEnd::Expired => (proto::SessionEnd::Expired, None),
                SessionEnd::Owner => (proto::SessionEnd::Owner, None),
            };
            let (end, caller) = (end.into(), caller.map(Into::into));
            (session, Kind::SessionClosed(proto::SessionClosed { end, caller }))
        }
        EventKind::Attached { session, peer: Peer { pid, uid } } => {
            (session, Kind::ClientAttached(proto::ClientAttached { pid: *pid, uid: *uid }))
        }
        EventKind::Detached { session, peer: Peer { pid, uid } } => {
            (session, Kind::ClientDetached(proto::ClientDetached { pid: *pid, uid: *uid }))
        }
        EventKind::AttachmentEnded { session, peer: Peer { pid, uid }, caller } => {
            let (pid, uid, caller) = (*pid, *uid, caller.map(Into::into));
            (session, Kind::AttachmentEnded(proto::AttachmentEnded { pid, uid, caller }))
        }
        EventKind::Revoked { session, peer: Peer { pid, uid }, generation, task } => {
            let (pid, uid, generation, task) = (*pid, *uid, generation.0, name(*task));
            (session, Kind::LeaseRevoked(proto::LeaseRevoked { pid, uid, generation, task }))
        }
        EventKind::Quarantined(block) => {
            ("", Kind::BlockQuarantined(proto::BlockQuarantined { block: block.0 }))
        }
        EventKind::Stalled { switches } => {
            ("", Kind::StorageStalled(proto::StorageStalled { switches: *switches as u32 }))
        }
        EventKind::Recovered { stalled } => {
            let stalled_ms = stalled.as_millis() as u64;
            ("", Kind::StorageRecovered(proto::StorageRecovered { stalled_ms }))
        }
    }
}

fn switch_end(bundle: &Bundle, end: &SwitchEnd) -> Kind {
    let SwitchEnd { session: _, from, task, request_id, trace, caller, result } = end;
    let caller = caller.map(Into::into);
    let name = |task| bundle.task(task).name.clone();
    let (from, task) = (from.map(name).unwrap_or_default(), name(*task));
    let request_id = request_id.clone().unwrap_or_default();
    let trace_id = trace.map(|TraceContext { trace_id, .. }| format!("{trace_id:032x}"));
    let trace_id = trace_id.unwrap_or_default();
    match result {
        Ok(report) => {
            let result = Some(report.clone().into());
            let switched = proto::TaskSwitched { from, task, result, request_id, trace_id, caller };
            Kind::Switched(switched)
        }
        Err(error) => {
            let (reason, message) = (reason(error).1.to_owned(), error.to_string());
            Kind::SwitchFailed(proto::SwitchFailed {
                from,
                task,
                reason,
                message,
                request_id,
                trace_id,
                caller,
            })
        }
    }
}
