//! What callers in C are told of a failure: a status to act on, and a text to show. And the end of
//! every panic, as none may reach C.

use super::c_string;
use crate::{
    client::{AttachError, ProductError},
    wire::{Refusal, WireError},
};
use rustix::io::Errno;
use std::{
    cell::RefCell,
    ffi::{CString, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// What became of a call: a gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Status {
    /// It is done.
    Ok = 0,
    /// A lease lasted too long and was revoked: detach, and attach again.
    Cancelled = 1,
    /// The daemon refuses for a reason that this library does not know.
    Unknown = 2,
    /// An argument cannot be right.
    InvalidArgument = 3,
    /// It did not happen in time.
    DeadlineExceeded = 4,
    /// There is nothing of this name.
    NotFound = 5,
    /// A lease is held already: release it first.
    AlreadyExists = 6,
    /// This process may not attach.
    PermissionDenied = 7,
    /// There is no place left, or not enough of something that the system gives.
    ResourceExhausted = 8,
    /// No lease is held; or, when one is asked for, the session has no task, or is at another
    /// generation than the one asked for.
    FailedPrecondition = 9,
    /// This library cannot do it: another version of the daemon, another type of elements.
    Unimplemented = 12,
    /// A defect of this library, or a failure of the system that it does not expect.
    Internal = 13,
    /// The daemon is gone, not there yet, or busy, or has ended the membership: attach again later.
    Unavailable = 14,
    /// What the daemon hands out is inconsistent.
    DataLoss = 15,
}

/// A status other than success, and why.
#[derive(Debug)]
pub(super) struct Failure {
    status: Status,
    text: String,
}

impl Failure {
    pub(super) fn argument(text: String) -> Self {
        Self { status: Status::InvalidArgument, text }
    }

    pub(super) fn not_found(text: String) -> Self {
        Self { status: Status::NotFound, text }
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        Self { status: status(&error), text: error.to_string() }
    }
}

/// What a caller can do about an error.
fn status(error: &AttachError) -> Status {
    use AttachError as E;
    match error {
        E::Busy(_) | E::Closed => Status::Unavailable,
        E::Connect { source, .. } => connect_status(*source),
        E::Wire(error) => wire_status(error),
        E::Memory(_) => Status::ResourceExhausted,
        E::Table(_) | E::Bundle(_) => Status::Unimplemented,
        E::OtherBundle | E::NoSlot(_) => Status::DataLoss,
        E::NoTask | E::NotHeld | E::OtherGeneration { .. } => Status::FailedPrecondition,
        E::Revoked(_) => Status::Cancelled,
        E::Held(_) => Status::AlreadyExists,
        E::TimedOut => Status::DeadlineExceeded,
        E::Product(ProductError::Dtype(_)) => Status::Unimplemented,
        E::Product(_) | E::Wait(_) => Status::Internal,
    }
}

fn connect_status(error: Errno) -> Status {
    match error {
        Errno::ACCESS | Errno::PERM => Status::PermissionDenied,
        Errno::NAMETOOLONG | Errno::INVAL => Status::InvalidArgument,
        Errno::MFILE | Errno::NFILE => Status::ResourceExhausted,
        _ => Status::Unavailable,
    }
}

fn wire_status(error: &WireError) -> Status {
    match error {
        WireError::Io(_) | WireError::Closed => Status::Unavailable,
        WireError::Malformed | WireError::Version(_) | WireError::Descriptors => {
            Status::Unimplemented
        }
        WireError::DescriptorsLost => Status::ResourceExhausted,
        WireError::Refused { code, .. } => refusal_status(*code),
    }
}

fn refusal_status(code: Refusal) -> Status {
    match code {
        Refusal::INVALID_ARGUMENT => Status::InvalidArgument,
        Refusal::DEADLINE_EXCEEDED => Status::DeadlineExceeded,
        Refusal::NOT_FOUND => Status::NotFound,
        Refusal::PERMISSION_DENIED => Status::PermissionDenied,
        Refusal::RESOURCE_EXHAUSTED => Status::ResourceExhausted,
        Refusal::UNIMPLEMENTED => Status::Unimplemented,
        Refusal::UNAVAILABLE => Status::Unavailable,
        _ => Status::Unknown,
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of a function that gives a status.
pub(super) fn run(body: impl FnOnce() -> Result<(), Failure>) -> Status {
    attempt(body).err().unwrap_or(Status::Ok)
}

/// Runs the body of a function that gives a value, and another one if it fails.
pub(super) fn run_or<T>(other: T, body: impl FnOnce() -> Result<T, Failure>) -> T {
    attempt(body).unwrap_or(other)
}

/// Runs a body, keeps the text of its failure, and ends its panic. That a panic leaves nothing half
/// done is true as bodies change no more than whether there is a lease, at their end.
fn attempt<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Status> {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(failure)) => failure,
        Err(_) => Failure {
            status: Status::Internal,
            text: "a defect of this library: it panicked".into(),
        },
    };
    // A thread that ends may have dropped its text already.
    let _ = LAST_ERROR.try_with(|last| last.replace(c_string(&failure.text)));
    Err(failure.status)
}

/// Why the last call of this thread that failed did so, for people to read; empty if none has. Holds
/// until the next call of this thread. Success does not clear it.
#[unsafe(no_mangle)]
pub extern "C" fn sm_last_error() -> *const c_char {
    let text = LAST_ERROR.try_with(|last| last.borrow().as_ptr());
    text.unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[expect(unsafe_code, reason = "the text is read as C does")]
    fn last_error() -> String {
        // SAFETY: no call of this thread comes in between.
        unsafe { CStr::from_ptr(sm_last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_ends_here_and_a_text_is_its_threads_own() {
        assert_eq!(last_error(), "");
        assert_eq!(run(|| panic!("as a test does")), Status::Internal);
        assert!(last_error().contains("panicked"));
        assert_eq!(run_or(7, || Err(Failure::argument("a\0b".into()))), 7);
        assert_eq!(run(|| Ok(())), Status::Ok);
        assert_eq!(last_error(), "a\u{fffd}b");
        assert_eq!(std::thread::spawn(last_error).join().unwrap(), "");
    }
}
