//! Attaching, waiting and detaching, for C.

use super::{
    Handle,
    args::{Out, exclusive, shared, text, text_or_empty},
    status::{Failure, Status, run, run_or},
};
use crate::{bundle::is_name, client::Attachment, units::Generation};
use std::{
    ffi::{CStr, c_char, c_int},
    os::fd::AsRawFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("a version has no NUL"),
    };

/// Attaches to a session of the daemon whose attach socket is at `path`.
///
/// `model` and `session` may be NULL or empty: the only model, its default session. The result is to
/// be given to sm_detach. May block for as long as the daemon does not answer, at most some 20 s.
///
/// SM_STATUS_UNAVAILABLE: nobody listens, or all places are taken at the moment: try again later.
/// SM_STATUS_NOT_FOUND: there is no such model or session. SM_STATUS_PERMISSION_DENIED: this process
/// may not attach. SM_STATUS_RESOURCE_EXHAUSTED: the session, or this process, has as many clients as
/// it may. SM_STATUS_UNIMPLEMENTED: daemon and library differ in version.
///
/// # Safety
///
/// `path`, `model` and `session` are strings or NULL, `attachment` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_attach(
    path: *const c_char,
    model: *const c_char,
    session: *const c_char,
    attachment: *mut *mut Handle,
) -> Status {
    run(|| {
        // SAFETY: it can be written, as the caller promises.
        let out = unsafe { Out::new(attachment, "attachment") }?;
        // SAFETY: it is a string or NULL, as the caller promises.
        let path = unsafe { text(path, "path") }?;
        // SAFETY: likewise.
        let model = name(unsafe { text_or_empty(model, "model") }?, "model")?;
        // SAFETY: likewise.
        let session = name(unsafe { text_or_empty(session, "session") }?, "session")?;
        let attached = Attachment::connect(Path::new(path), model, session)?;
        out.write(Box::into_raw(Box::new(Handle::new(attached))));
        Ok(())
    })
}

fn name<'a>(name: &'a str, what: &str) -> Result<&'a str, Failure> {
    if name.is_empty() || is_name(name) {
        return Ok(name);
    }
    Err(Failure::argument(format!("{what} is no name: 1 to 64 letters, digits, '.', '_' or '-'")))
}

/// Ends the membership, and the lease if one is held. Nothing happens if `attachment` is NULL.
///
/// # Safety
///
/// `attachment` comes from sm_attach and is not used any more, nor is anything that points into it
/// or its weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_detach(attachment: *mut Handle) {
    if attachment.is_null() {
        return;
    }
    // SAFETY: `sm_attach` made it of a box, and the caller gives it up, once.
    let owned = unsafe { Box::from_raw(attachment) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(owned)));
}

/// Gives two descriptors to poll for reading: the doorbell, which can be read when something was
/// published, and the socket, which can be read when the connection has ended. Whenever one of them
/// is ready, call sm_wait with a timeout of 0, and it can sleep again. They stay the attachment's:
/// neither read, write nor close them.
///
/// # Safety
///
/// `attachment` is one or NULL, `doorbell` and `socket` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_descriptors(
    attachment: *const Handle,
    doorbell: *mut c_int,
    socket: *mut c_int,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        // SAFETY: it can be written, as the caller promises.
        let doorbell = unsafe { Out::new(doorbell, "doorbell") }?;
        // SAFETY: likewise.
        let socket = unsafe { Out::new(socket, "socket") }?;
        let [bell, line] = handle.attachment().descriptors();
        doorbell.write(bell.as_raw_fd());
        socket.write(line.as_raw_fd());
        Ok(())
    })
}

/// The session's generation, which grows with each switch that is published; 0 before the first one,
/// and if `attachment` is NULL. There may be no task in it. No system call.
///
/// # Safety
///
/// `attachment` is one or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_generation(attachment: *const Handle) -> u64 {
    run_or(0, || {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        Ok(handle.attachment().generation().0)
    })
}

/// Whether the daemon lives and the membership stands. No system call.
///
/// SM_STATUS_UNAVAILABLE: the daemon is gone, or has ended the membership, as it does when its socket
/// is written to or shut down. SM_STATUS_CANCELLED: a lease lasted longer than
/// `limits.lease_patience_ms` of the daemon, and was revoked. After both there will be no other lease:
/// detach, and attach again. What is leased stays readable. It also stays as it is, except where a
/// daemon that lives has ended the membership: that one may write there.
///
/// # Safety
///
/// `attachment` is one or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_check(attachment: *const Handle) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        Ok(handle.attachment().check()?)
    })
}

/// Waits until the session serves a task in a generation beyond this one, and tells which; a lease
/// may be held meanwhile. `timeout_ms` is in milliseconds: 0 only looks, a negative one waits for ever.
/// No other thread may use the attachment meanwhile, not even sm_check or a const one: a thread that
/// only waits wants an attachment of its own, or the descriptors of sm_descriptors.
///
///
/// When a lease is taken then, the session may have gone on: to a later generation, which sm_lease
/// tells, or to none with a task.
///
/// SM_STATUS_DEADLINE_EXCEEDED: there was none in time. SM_STATUS_UNAVAILABLE and
/// SM_STATUS_CANCELLED, at once: as for sm_check.
///
/// # Safety
///
/// `attachment` is one or NULL that nobody else uses meanwhile, `generation` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_wait(
    attachment: *mut Handle,
    beyond: u64,
    timeout_ms: c_int,
    generation: *mut u64,
) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody else uses meanwhile, as the caller promises.
        let handle = unsafe { exclusive(attachment, "attachment") }?;
        // SAFETY: it can be written, as the caller promises.
        let out = unsafe { Out::new(generation, "generation") }?;
        let timeout = u64::try_from(timeout_ms).map_or(Duration::MAX, Duration::from_millis);
        out.write(handle.holder.wait(Generation(beyond), timeout)?.0);
        Ok(())
    })
}

/// The version of this library, such as "0.1.0". Holds for ever.
#[unsafe(no_mangle)]
pub extern "C" fn sm_version() -> *const c_char {
    VERSION.as_ptr()
}
