//! The client for C and C++: attach to a session of the daemon, and compute on its memory in place.
//!
//! Attach once; then, for each frame: take a lease, compute on what it pins, release it. Nothing
//! here switches tasks, which is a gRPC call, and nothing starts a thread, takes a lock or attaches
//! again by itself.
//!
//! Results. A function that can fail gives a status; 0 is success, the others are gRPC codes. The
//! text of a thread's last failure is told by `sm_last_error`. A call that fails leaves the
//! attachment as it was, and writes no result.
//!
//! Pointers. One that is NULL or not aligned for its type is refused (SM_STATUS_INVALID_ARGUMENT),
//! where it is not said that it may be NULL. All others must be valid: an attachment comes from
//! `sm_attach` and is not detached yet, what is read is initialised and nobody writes it meanwhile,
//! what is written is nobody else's. Strings end with NUL and are UTF-8.
//!
//! Lifetimes. What points into weights holds until the lease is released, and is read-only memory;
//! after that the daemon may write there. If the daemon dies, what is leased stays as it is; if it
//! lives and ends the membership, see `sm_check`. Names and shapes hold until `sm_detach`. Positions
//! of tensors hold for as long as the attachment.
//!
//! Threads. A function that takes a const attachment may run beside others that do. One that takes
//! an attachment that is not const must be the only one that runs with that attachment; so must
//! `sm_detach`. So a thread that sleeps in `sm_wait` keeps all others from the attachment. Wait for
//! the descriptors of `sm_descriptors` instead, in the loop of the thread that takes the leases; or
//! give the thread that waits an attachment of its own. Bytes under a lease can be read by any number
//! of threads. After a fork, the child must not use the attachment.

mod args;
mod attach;
mod lease;
mod status;
mod tensor;
mod weights;

pub use attach::{
    sm_attach, sm_check, sm_descriptors, sm_detach, sm_generation, sm_version, sm_wait,
};
pub use lease::{sm_lease, sm_lease_generation, sm_lease_of, sm_release, sm_task};
pub use status::{Status, sm_last_error};
pub use tensor::{Dtype, Kind, TensorInfo, sm_find_tensor, sm_tensor_at, sm_tensor_count};
pub use weights::{PlacedBlock, sm_base, sm_block_at, sm_blocks, sm_product, sm_to_dense};

use super::attachment::{Attachment, Holder};
use crate::bundle::Bundle;
use std::ffi::CString;
use tensor::Described;

/// Membership in a session, with its lease if it has one.
#[derive(Debug)]
pub struct Handle {
    holder: Holder,
    /// As C is told of them: first those of the base.
    tensors: Vec<Described>,
    /// Names, by index.
    tasks: Vec<CString>,
}

const _: () = {
    const fn may_be_shared<T: Send + Sync>() {}
    may_be_shared::<Handle>(); // What the rules on threads allow.
};

impl Handle {
    fn new(attachment: Attachment) -> Self {
        let bundle = attachment.bundle();
        let tasks = bundle.meta().tasks.iter().map(|task| c_string(&task.name)).collect();
        let tensors = Described::all(bundle);
        Self { holder: Holder::new(attachment), tensors, tasks }
    }

    fn attachment(&self) -> &Attachment {
        self.holder.attachment()
    }

    fn bundle(&self) -> &Bundle {
        self.attachment().bundle()
    }
}

/// A text for C. What cannot be in one, as it would end it, is replaced.
fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}
