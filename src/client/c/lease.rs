//! Leases for C: one at a time for each attachment, held by the attachment itself.

use super::{
    Handle,
    args::{Out, exclusive, shared},
    status::{Status, run, run_or},
};
use crate::units::Generation;
use std::{ffi::c_char, ptr};

/// Pins what the session serves now, until sm_release: none of its weights changes meanwhile. Tells
/// the generation. No system call. A lease that outlasts `limits.lease_patience_ms` of the daemon
/// after a switch is revoked: sm_check tells.
///
/// SM_STATUS_FAILED_PRECONDITION: the session has no task: sm_wait for one.
/// SM_STATUS_ALREADY_EXISTS: a lease is held already, and goes on. SM_STATUS_UNAVAILABLE and
/// SM_STATUS_CANCELLED: as for sm_check.
///
/// # Safety
///
/// `attachment` is one or NULL that nobody else uses meanwhile, `generation` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_lease(attachment: *mut Handle, generation: *mut u64) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody else uses meanwhile, as the caller promises.
        let handle = unsafe { exclusive(attachment, "attachment") }?;
        // SAFETY: it can be written, as the caller promises.
        let out = unsafe { Out::new(generation, "generation") }?;
        out.write(handle.holder.hold(None)?.0);
        Ok(())
    })
}

/// The same, if the session is at this very generation, as told by whoever switched.
///
/// SM_STATUS_FAILED_PRECONDITION: the session has no task, or is at another generation; sm_last_error
/// says which, and no lease is held. Do not ask for the same one again before sm_generation is there;
/// once that is beyond it, it never comes back. The others: as for sm_lease.
///
/// # Safety
///
/// `attachment` is one or NULL that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_lease_of(attachment: *mut Handle, generation: u64) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody else uses meanwhile, as the caller promises.
        let handle = unsafe { exclusive(attachment, "attachment") }?;
        handle.holder.hold(Some(Generation(generation)))?;
        Ok(())
    })
}

/// Ends the lease. No system call.
///
/// SM_STATUS_FAILED_PRECONDITION: no lease is held.
///
/// # Safety
///
/// `attachment` is one or NULL that nobody else uses meanwhile; nobody goes on reading weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_release(attachment: *mut Handle) -> Status {
    run(|| {
        // SAFETY: it is an attachment that nobody else uses meanwhile, as the caller promises.
        let handle = unsafe { exclusive(attachment, "attachment") }?;
        Ok(handle.holder.release()?)
    })
}

/// The generation that is leased; 0 if no lease is held.
///
/// # Safety
///
/// `attachment` is one or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_lease_generation(attachment: *const Handle) -> u64 {
    run_or(0, || {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        Ok(handle.holder.lease()?.generation().0)
    })
}

/// The name of the task that is leased; NULL if no lease is held. Holds until sm_detach.
///
/// # Safety
///
/// `attachment` is one or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sm_task(attachment: *const Handle) -> *const c_char {
    run_or(ptr::null(), || {
        // SAFETY: it is an attachment that nobody changes meanwhile, as the caller promises.
        let handle = unsafe { shared(attachment, "attachment") }?;
        let task = handle.holder.lease()?.task();
        Ok(handle.tasks[task.index()].as_ptr())
    })
}
