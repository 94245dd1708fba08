//! The calls of `TaskService`: arguments checked, commands sent, answers awaited. How the engine's
//! types are told in the protocol's words is `observe`'s matter.

use super::{access::Caller, trace_context::trace_context, turns::Turns};
use crate::{
    admission::{Full, Limit},
    bundle::MAX_NAME_LEN,
    engine::{
        Clock, Command, EngineError, Handle, HintCommand, Lifetime, Peer, PrepareCommand, Reply,
        SwitchCommand, Target,
    },
    observe::{Batch, Observed, reason, refusal, status},
    proto::{self, task_service_server::TaskService},
    units::Generation,
};
use std::{collections::HashMap, ops::RangeInclusive, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

/// Longest request id.
const MAX_REQUEST_ID_LEN: usize = 128;
/// Longest time that a prepared task can be held.
const MAX_HOLD: Duration = Duration::from_secs(3600);
/// Shortest and longest time to live of a session.
const TTL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
/// Most calls that watch events at once. One user has at most half of them, one process a quarter.
pub(super) const MAX_WATCHERS: usize = 32;
/// How much earlier than its caller a switch gives up, so that the answer can still be told: at
/// the caller's own deadline the transport would cut the call off with CANCELLED.
const ANSWER_TIME: Duration = Duration::from_millis(5);

/// Serves the calls.
pub(super) struct Service {
    pub(super) engine: Handle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observed: Observed,
    /// Places for calls that watch events.
    pub(super) watchers: Limit,
    /// Bounds the calls that read state.
    pub(super) turns: Turns,
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
        let trace = trace_context(request.metadata());
        let caller = peer(&request);
        let request = request.into_inner();
        let in_place = in_place(request.mode)?;
        let proto::SwitchTaskRequest {
            model,
            session,
            task,
            request_id,
            expected_generation,
            mode: _,
        } = request;
        if request_id.len() > MAX_REQUEST_ID_LEN {
            let what = format!("request_id must have at most {MAX_REQUEST_ID_LEN} bytes");
            return Err(bad_argument("BAD_REQUEST_ID", &what));
        }
        let command = SwitchCommand {
            target: Target { model, session },
            task,
            request_id: (!request_id.is_empty()).then_some(request_id),
            expected_generation: expected_generation.map(Generation),
            arrived,
            deadline,
            in_place,
            trace,
            caller,
        };
        let (target, task) = (command.target.clone(), command.task.clone());
        let answer = self.engine.ask(|reply| Command::Switch(command, reply));
        let answer = self.answer(deadline, answer).await;
        if let Err(error) = &answer
            && (never_began(error) || deadline.is_some_and(|deadline| deadline <= arrived))
        {
            tell_refused(error, &target, &task);
        }
        let report = answer.map_err(|error| status(&error))?;
        let instance = self.instance();
        Ok(Response::new(proto::SwitchTaskResponse { instance, ..report.into() }))
    }

    async fn hint_tasks(
        &self,
        request: Request<proto::HintTasksRequest>,
    ) -> Answer<proto::HintTasksResponse> {
        let deadline = self.deadline(&request);
        let proto::HintTasksRequest { model, session, hints } = request.into_inner();
        let target = Target { model, session };
        let command = HintCommand { target, hints: hints.into_iter().map(Into::into).collect() };
        let report = self.ask(deadline, |reply| Command::Hint(command, reply)).await?;
        let instance = self.instance();
        Ok(Response::new(proto::HintTasksResponse { instance, ..report.into() }))
    }

    async fn prepare_task(
        &self,
        request: Request<proto::PrepareTaskRequest>,
    ) -> Answer<proto::PrepareTaskResponse> {
        let arrived = self.clock.now();
        let deadline = self.deadline(&request);
        let caller = peer(&request);
        let proto::PrepareTaskRequest { model, task, hold_ms } = request.into_inner();
        let hold = Duration::from_millis(hold_ms);
        if hold > MAX_HOLD {
            let what = format!("hold_ms must be at most {}", MAX_HOLD.as_millis());
            return Err(bad_argument("BAD_HOLD", &what));
        }
        let command = PrepareCommand { model, task, hold, arrived, deadline, caller };
        let report = self.ask(deadline, |reply| Command::Prepare(command, reply)).await?;
        let instance = self.instance();
        Ok(Response::new(proto::PrepareTaskResponse { instance, ..report.into() }))
    }

    async fn open_session(
        &self,
        request: Request<proto::OpenSessionRequest>,
    ) -> Answer<proto::OpenSessionResponse> {
        let deadline = self.deadline(&request);
        let opener = peer(&request);
        let proto::OpenSessionRequest { model, session, ttl_ms, owner } = request.into_inner();
        let lifetime = lifetime(ttl_ms, owner)?;
        let target = Target { model, session };
        let open = |reply| Command::OpenSession { target, lifetime, opener, reply };
        let session = Some(self.ask(deadline, open).await?.into());
        let instance = self.instance();
        Ok(Response::new(proto::OpenSessionResponse { session, instance }))
    }

    async fn close_session(
        &self,
        request: Request<proto::CloseSessionRequest>,
    ) -> Answer<proto::CloseSessionResponse> {
        let deadline = self.deadline(&request);
        let caller = peer(&request);
        let proto::CloseSessionRequest { model, session } = request.into_inner();
        let target = Target { model, session };
        self.ask(deadline, |reply| Command::CloseSession { target, caller, reply }).await?;
        Ok(Response::new(proto::CloseSessionResponse { instance: self.instance() }))
    }

    async fn end_attachment(
        &self,
        request: Request<proto::EndAttachmentRequest>,
    ) -> Answer<proto::EndAttachmentResponse> {
        let deadline = self.deadline(&request);
        let caller = peer(&request);
        let proto::EndAttachmentRequest { model, session, pid } = request.into_inner();
        let target = Target { model, session };
        let end = |reply| Command::EndAttachment { target, pid, caller, reply };
        let ended = self.ask(deadline, end).await? as u32;
        let instance = self.instance();
        Ok(Response::new(proto::EndAttachmentResponse { ended, instance }))
    }

    async fn list_models(
        &self,
        request: Request<proto::ListModelsRequest>,
    ) -> Answer<proto::ListModelsResponse> {
        let deadline = self.deadline(&request);
        let turn = self.turns.wait(peer(&request).map(|peer| peer.uid));
        let models = async {
            let _turn = turn.await;
            self.observed.view.models().await
        };
        Ok(Response::new(self.within(deadline, models).await?))
    }

    async fn get_status(
        &self,
        request: Request<proto::GetStatusRequest>,
    ) -> Answer<proto::GetStatusResponse> {
        let deadline = self.deadline(&request);
        let turn = self.turns.wait(peer(&request).map(|peer| peer.uid));
        let proto::GetStatusRequest { model, picture } = request.into_inner();
        let told = async {
            let _turn = turn.await;
            self.observed.view.status(model, picture).await
        };
        Ok(Response::new(self.within(deadline, told).await?))
    }

    type WatchEventsStream = ReceiverStream<Result<proto::EncodedEvents, Status>>;

    async fn watch_events(
        &self,
        request: Request<proto::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        let deadline = self.deadline(&request);
        let caller = request.extensions().get::<Arc<Caller>>().cloned();
        let proto::WatchEventsRequest { model, after, only_new } = request.into_inner();
        if !model.is_empty() {
            // Nothing would ever happen to a model that is not there.
            self.within(deadline, self.observed.view.status(model.clone(), false)).await?;
        }
        let caller = caller.as_ref().and_then(|caller| caller.credentials());
        let place = self.watchers.take(caller).map_err(too_many_watchers)?;
        let mut watcher = self.observed.hub.watch(model, after, only_new);
        // One batch on its way: what the caller does not take yet waits in the history.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Batch { instance, events }) = tokio::select! {
                batch = watcher.next() => batch,
                () = sender.closed() => None,
            } {
                let events = events.iter().map(|told| told.encoded()).collect();
                if sender.send(Ok(proto::EncodedEvents { instance, events })).await.is_err() {
                    break;
                }
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Service {
    /// This run of the daemon.
    fn instance(&self) -> String {
        self.observed.hub.instance().to_owned()
    }

    fn deadline<T>(&self, request: &Request<T>) -> Option<Duration> {
        deadline(request.metadata(), self.clock.now())
    }

    /// Asks the engine, and waits for its answer no longer than the caller does.
    async fn ask<T>(
        &self,
        deadline: Option<Duration>,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, Status> {
        self.within(deadline, self.engine.ask(command)).await
    }

    /// Waits for an answer no longer than the caller does.
    async fn within<T>(
        &self,
        deadline: Option<Duration>,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, Status> {
        self.answer(deadline, answer).await.map_err(|error| status(&error))
    }

    /// The same in the engine's words.
    async fn answer<T>(
        &self,
        deadline: Option<Duration>,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        match deadline.map(|at| at.checked_sub(self.clock.now())) {
            None => answer.await,
            Some(None) => Err(EngineError::DeadlineExceeded),
            Some(Some(left)) => {
                timeout(left, answer).await.unwrap_or(Err(EngineError::DeadlineExceeded))
            }
        }
    }
}

/// The process that calls, where the kernel says so. Process 0 stands for one of another namespace.
fn peer<T>(request: &Request<T>) -> Option<Peer> {
    let caller = request.extensions().get::<Arc<Caller>>()?.credentials()?;
    Some(Peer { pid: caller.pid.unwrap_or_default(), uid: caller.uid })
}

/// Whether a switch that failed so was refused before it was one. Then the engine has no event of
/// it.
fn never_began(error: &EngineError) -> bool {
    use EngineError as E;
    matches!(
        error,
        E::UnknownModel { .. }
            | E::AmbiguousModel { .. }
            | E::UnknownSession { .. }
            | E::UnknownTask { .. }
            | E::BadName { .. }
            | E::GenerationMismatch { .. }
            | E::RequestIdReused
            | E::TooManyCallers(_)
            | E::Busy
    )
}

/// Tells in the log what nothing else would tell: that a stack asks for what is not there.
fn tell_refused(error: &EngineError, target: &Target, task: &str) {
    let Target { model, session } = target;
    let (_, reason) = reason(error);
    let [model, session, task] = [&**model, session, task].map(short);
    tracing::warn!(reason, model, session, task, "switch refused");
}

/// As much of a text as a name may be long: callers may send anything.
fn short(text: &str) -> &str {
    text.char_indices().nth(MAX_NAME_LEN).map_or(text, |(end, _)| &text[..end])
}

fn too_many_watchers(full: Full) -> Status {
    let what = format!("no more calls may watch: {full}; end one of them, or wait");
    refusal(Code::ResourceExhausted, "TOO_MANY_WATCHERS", &what, HashMap::new())
}

fn bad_argument(reason: &str, what: &str) -> Status {
    refusal(Code::InvalidArgument, reason, what, HashMap::new())
}

/// When an answer has to be there, from the call's `grpc-timeout`.
fn deadline(metadata: &MetadataMap, arrived: Duration) -> Option<Duration> {
    let timeout = parse_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Some(arrived + timeout.saturating_sub(ANSWER_TIME.min(timeout / 4)))
}

/// At most eight digits and a unit, as the gRPC protocol has it.
pub(super) fn parse_timeout(text: &str) -> Option<Duration> {
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

/// Whether a switch may give up the active task first.
fn in_place(mode: i32) -> Result<bool, Status> {
    match proto::SwitchMode::try_from(mode) {
        Ok(proto::SwitchMode::Unspecified | proto::SwitchMode::Seamless) => Ok(false),
        Ok(proto::SwitchMode::InPlace) => Ok(true),
        Err(_) => Err(bad_argument("BAD_MODE", "mode must be one that the protocol has")),
    }
}

/// How long a session is to stay open.
fn lifetime(ttl_ms: Option<u64>, owner: i32) -> Result<Lifetime, Status> {
    let ttl = ttl_ms.map(Duration::from_millis);
    if ttl.is_some_and(|ttl| !TTL.contains(&ttl)) {
        let [least, most] = [TTL.start(), TTL.end()].map(Duration::as_millis);
        return Err(bad_argument("BAD_TTL", &format!("ttl_ms must be {least} to {most}")));
    }
    let owned = match proto::SessionOwner::try_from(owner) {
        Ok(proto::SessionOwner::Unspecified) => false,
        Ok(proto::SessionOwner::Attachment) => true,
        Err(_) => return Err(bad_argument("BAD_OWNER", "owner must be one that the protocol has")),
    };
    Ok(Lifetime { ttl, owned })
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
