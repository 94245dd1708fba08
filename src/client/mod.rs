//! The client side: speaking to a daemon, and reading its memory in place.

mod attachment;
mod control;
mod export;
mod product;

pub use attachment::{AttachError, Attachment, Lease};
pub use control::{Control, channel, connect};
pub use export::{ExportError, export};
pub use product::{ProductError, product};
