//! The engine's types in the protocol's words, and hints the other way round. Decides and refuses
//! nothing.

use crate::{
    bundle::Bundle,
    engine::{
        Foreseen, Hint, HintReport, LeaseStatus, Likely, ModelStatus, Outcome, PoolStatus,
        PrefetchStatus, PrepareReport, SessionStatus, StorageStatus, SwitchReport, SwitchTiming,
    },
    proto,
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

/// A model as its bundle has it.
pub(super) fn model(bundle: &Bundle) -> proto::Model {
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
    proto::Model {
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
        Self { accepted: accepted as u32, ignored: ignored as u32 }
    }
}

impl From<PrepareReport> for proto::PrepareTaskResponse {
    fn from(report: PrepareReport) -> Self {
        let PrepareReport { block_bytes, needed, reused, took } = report;
        Self {
            needed: amount(needed, block_bytes),
            reused: amount(reused, block_bytes),
            total_us: us(took),
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
        } = status;
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
        }
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
            quarantined,
            read_again,
            mismatched,
            request_bytes,
            direct_io,
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
            // The engine knows nothing of it.
            storage: None,
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
        let StorageStatus { backend, fallback, counters } = status;
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
