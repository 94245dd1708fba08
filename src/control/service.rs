//! The calls of `TaskService`.

use super::errors::{refusal, status};
use crate::{
    bundle::Bundle,
    engine::{
        Clock, Command, EngineError, Handle, ModelStatus, Outcome, PoolStatus, Reply,
        SessionStatus, StorageStatus, SwitchCommand, SwitchReport, Target,
    },
    proto::{self, task_service_server::TaskService},
    residency::SlotCounts,
    storage::CounterValues,
    units::Generation,
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

/// Longest request id.
const MAX_REQUEST_ID_LEN: usize = 128;
/// How much earlier than its caller a switch gives up, so that the answer can still be told: at
/// the caller's own deadline the transport would cut the call off with CANCELLED.
const ANSWER_TIME: Duration = Duration::from_millis(5);

/// Serves the calls.
pub(super) struct Service {
    pub(super) engine: Handle,
    pub(super) clock: Arc<dyn Clock>,
    /// When the daemon was ready, on that clock.
    pub(super) ready_at: Duration,
    pub(super) draining: Arc<AtomicBool>,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl TaskService for Service {
    async fn switch_task(
        &self,
        request: Request<proto::SwitchTaskRequest>,
    ) -> Answer<proto::SwitchTaskResponse> {
        let arrived = self.clock.now();
        let deadline = self.deadline(&request);
        let proto::SwitchTaskRequest { model, session, task, request_id, expected_generation } =
            request.into_inner();
        if request_id.len() > MAX_REQUEST_ID_LEN {
            let what = format!("request_id must have at most {MAX_REQUEST_ID_LEN} bytes");
            return Err(refusal(Code::InvalidArgument, "BAD_REQUEST_ID", &what, HashMap::new()));
        }
        let command = SwitchCommand {
            target: Target { model, session },
            task,
            request_id: (!request_id.is_empty()).then_some(request_id),
            expected_generation: expected_generation.map(Generation),
            arrived,
            deadline,
        };
        let report = self.ask(deadline, |reply| Command::Switch(command, reply)).await?;
        Ok(Response::new(report.into()))
    }

    async fn open_session(
        &self,
        request: Request<proto::OpenSessionRequest>,
    ) -> Answer<proto::OpenSessionResponse> {
        let deadline = self.deadline(&request);
        let proto::OpenSessionRequest { model, session } = request.into_inner();
        let target = Target { model, session };
        let session = self.ask(deadline, |reply| Command::OpenSession { target, reply }).await?;
        Ok(Response::new(proto::OpenSessionResponse { session: Some(session.into()) }))
    }

    async fn close_session(
        &self,
        request: Request<proto::CloseSessionRequest>,
    ) -> Answer<proto::CloseSessionResponse> {
        let deadline = self.deadline(&request);
        let proto::CloseSessionRequest { model, session } = request.into_inner();
        let target = Target { model, session };
        self.ask(deadline, |reply| Command::CloseSession { target, reply }).await?;
        Ok(Response::new(proto::CloseSessionResponse {}))
    }

    async fn list_models(
        &self,
        request: Request<proto::ListModelsRequest>,
    ) -> Answer<proto::ListModelsResponse> {
        let deadline = self.deadline(&request);
        let bundles = self.ask(deadline, |reply| Command::ListModels { reply }).await?;
        let mut models: Vec<_> = bundles.iter().map(|bundle| model(bundle)).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(proto::ListModelsResponse { models }))
    }

    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Answer<proto::GetStatusResponse> {
        let deadline = self.deadline(&request);
        let model = request.into_inner().model;
        let models = self.ask(deadline, |reply| Command::Status { model, reply }).await?;
        let status = |model: ModelStatus| {
            let storage = self.engine.storage(&model.name).map(Into::into);
            proto::ModelStatus { storage, ..model.into() }
        };
        let mut models: Vec<_> = models.into_iter().map(status).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let state = if self.draining.load(Ordering::Relaxed) {
            proto::DaemonState::Draining
        } else {
            proto::DaemonState::Serving
        };
        Ok(Response::new(proto::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            state: state.into(),
            uptime_ms: self.clock.now().saturating_sub(self.ready_at).as_millis() as u64,
            models,
        }))
    }
}

impl Service {
    fn deadline<T>(&self, request: &Request<T>) -> Option<Duration> {
        deadline(request.metadata(), self.clock.now())
    }

    /// Asks the engine, and waits for its answer no longer than the caller does.
    async fn ask<T>(
        &self,
        deadline: Option<Duration>,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Status> {
        let answer = self.engine.ask(command);
        let answer = match deadline.map(|at| at.checked_sub(self.clock.now())) {
            None => answer.await,
            Some(None) => Err(EngineError::DeadlineExceeded),
            Some(Some(left)) => {
                timeout(left, answer).await.unwrap_or(Err(EngineError::DeadlineExceeded))
            }
        };
        answer.map_err(|error| status(&error))
    }
}

/// When an answer has to be there, from the call's `grpc-timeout`.
fn deadline(metadata: &MetadataMap, arrived: Duration) -> Option<Duration> {
    let timeout = parse_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Some(arrived + timeout.saturating_sub(ANSWER_TIME.min(timeout / 4)))
}

/// At most eight digits and a unit, as the gRPC protocol has it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

fn amount(blocks: usize, block_bytes: u64) -> Option<proto::Amount> {
    let blocks = blocks as u64;
    Some(proto::Amount { blocks, bytes: blocks * block_bytes })
}

fn model(bundle: &Bundle) -> proto::Model {
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
            read,
            evicted,
            timing,
            ..
        } = report;
        let outcome = match outcome {
            Outcome::AlreadyActive => proto::SwitchOutcome::AlreadyActive,
            Outcome::Resident => proto::SwitchOutcome::Resident,
            Outcome::PartlyPrefetched => proto::SwitchOutcome::PartlyPrefetched,
            Outcome::Loaded => proto::SwitchOutcome::Loaded,
        };
        let us = |time: Duration| time.as_micros() as u64;
        Self {
            generation: generation.0,
            outcome: outcome.into(),
            needed: amount(needed, block_bytes),
            reused: amount(reused, block_bytes),
            prefetched: amount(0, block_bytes),
            read: amount(read, block_bytes),
            evicted: amount(evicted, block_bytes),
            timing: Some(proto::SwitchTiming {
                queue_us: us(timing.queue),
                plan_us: us(timing.plan),
                read_us: us(timing.read),
                verify_us: us(timing.verify),
                publish_us: us(timing.publish),
                total_us: us(timing.total()),
            }),
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
            ..
        } = status;
        Self {
            model,
            session,
            task: task.unwrap_or_default(),
            generation: generation.0,
            pending_task: pending_task.unwrap_or_default(),
            clients: clients as u32,
            draining_generations: draining_generations as u32,
        }
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
            ..
        } = status;
        let PoolStatus { slot_bytes, base_bytes, slots, pinned, locked, huge_bytes } = pool;
        let SlotCounts { free, filling, verifying, resident, lost } = slots;
        let all = free + filling + verifying + resident + lost;
        Self {
            name,
            bundle_id,
            pool: Some(proto::PoolStatus {
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
            }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_has_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("1n"), Some(Duration::from_nanos(1)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "5", "S", "-1S", "+1S", "123456789S", "1X", "é", "1é"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_answer_is_due_before_its_caller_stops_waiting() {
        let mut metadata = MetadataMap::new();
        assert_eq!(deadline(&metadata, Duration::from_secs(9)), None);
        metadata.insert("grpc-timeout", "1S".parse().unwrap());
        let due = deadline(&metadata, Duration::from_secs(9)).unwrap();
        assert_eq!(due, Duration::from_millis(9995));
        metadata.insert("grpc-timeout", "800u".parse().unwrap());
        let due = deadline(&metadata, Duration::ZERO).unwrap();
        assert_eq!(due, Duration::from_micros(600));
    }
}
