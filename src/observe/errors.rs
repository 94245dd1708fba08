//! Engine errors as gRPC statuses: a code to act on, and an `ErrorInfo` with a stable reason.
//! Texts name models, sessions and tasks; never paths, slots or keys.

use crate::engine::{EngineError, LISTED_NAMES};
use std::{collections::HashMap, time::Duration};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const DOMAIN: &str = "synchromesh";
/// What a caller is told to wait before it asks for scarce room again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The status of an error.
pub fn status(error: &EngineError) -> Status {
    let (code, reason) = reason(error);
    refusal(code, reason, &error.to_string(), metadata(error))
}

/// What a caller can do about an error, and which error it is.
pub fn reason(error: &EngineError) -> (Code, &'static str) {
    use EngineError as E;
    match error {
        E::Emptied(cause) => reason(cause),
        E::UnknownModel { .. } => (Code::NotFound, "UNKNOWN_MODEL"),
        E::UnknownSession { .. } => (Code::NotFound, "UNKNOWN_SESSION"),
        E::UnknownTask { .. } => (Code::NotFound, "UNKNOWN_TASK"),
        E::NotAttached { .. } => (Code::NotFound, "NOT_ATTACHED"),
        E::AmbiguousModel { .. } => (Code::InvalidArgument, "MODEL_NOT_NAMED"),
        E::BadName { .. } => (Code::InvalidArgument, "BAD_NAME"),
        E::RequestIdReused => (Code::InvalidArgument, "REQUEST_ID_REUSED"),
        E::SessionExists(_) => (Code::AlreadyExists, "SESSION_EXISTS"),
        E::DefaultSession => (Code::FailedPrecondition, "DEFAULT_SESSION"),
        E::SessionInUse { .. } => (Code::FailedPrecondition, "SESSION_IN_USE"),
        E::GenerationMismatch { .. } => (Code::FailedPrecondition, "GENERATION_MISMATCH"),
        E::TooManySessions(_) | E::TooManySessionsOf { .. } => {
            (Code::ResourceExhausted, "TOO_MANY_SESSIONS")
        }
        E::TooManyCallers(_) => (Code::ResourceExhausted, "TOO_MANY_CALLERS"),
        E::TooManyClients(_) | E::TooManyClientsOfUser(_) => {
            (Code::ResourceExhausted, "TOO_MANY_CLIENTS")
        }
        E::NoClientMemory => (Code::ResourceExhausted, "NO_CLIENT_MEMORY"),
        E::NoRoom { .. } => (Code::ResourceExhausted, "POOL_FULL"),
        E::Busy => (Code::ResourceExhausted, "QUEUE_FULL"),
        E::Superseded => (Code::Aborted, "SUPERSEDED"),
        E::SessionClosed => (Code::Aborted, "SESSION_CLOSED"),
        E::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        E::Corrupt { .. } => (Code::DataLoss, "BLOCKS_CORRUPT"),
        E::StorageUnavailable => (Code::Unavailable, "STORAGE_UNAVAILABLE"),
        E::Draining => (Code::Unavailable, "DRAINING"),
        E::Stopped => (Code::Unavailable, "STOPPED"),
    }
}

/// A status with an `ErrorInfo`; what is exhausted comes with a `RetryInfo`.
pub fn refusal(
    code: Code,
    reason: &str,
    message: &str,
    metadata: HashMap<String, String>,
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if code == Code::ResourceExhausted {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(code, message, details)
}

/// What a program may want to know of an error, beyond its reason.
fn metadata(error: &EngineError) -> HashMap<String, String> {
    use EngineError as E;
    let pairs: Vec<(&str, String)> = match error {
        E::UnknownModel { name, known }
        | E::UnknownSession { name, known }
        | E::UnknownTask { name, known } => {
            vec![("name", name.clone()), ("known", names(known))]
        }
        E::AmbiguousModel { known } => vec![("known", names(known))],
        E::NoRoom { needed_bytes, available_bytes } => vec![
            ("needed_bytes", needed_bytes.to_string()),
            ("available_bytes", available_bytes.to_string()),
        ],
        E::GenerationMismatch { expected, actual } => {
            vec![("expected", expected.to_string()), ("actual", actual.to_string())]
        }
        E::Corrupt { task } => vec![("task", task.clone())],
        E::Emptied(cause) => {
            let mut metadata = metadata(cause);
            metadata.insert("active_task".into(), "none".into());
            return metadata;
        }
        _ => Vec::new(),
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The first of the names, with commas between.
fn names(known: &[String]) -> String {
    known[..known.len().min(LISTED_NAMES)].join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_tells_needed_and_available_bytes_and_when_to_retry() {
        let error = EngineError::NoRoom { needed_bytes: 8192, available_bytes: 4096 };
        let status = status(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("8192") && status.message().contains("4096"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("POOL_FULL", "synchromesh"));
        assert_eq!(info.metadata["needed_bytes"], "8192");
        assert_eq!(info.metadata["available_bytes"], "4096");
        assert!(details.retry_info().is_some());
    }
}
