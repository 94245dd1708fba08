//! The client side: speaking to a daemon, and reading its memory in place.

mod attachment;
#[expect(unsafe_code, reason = "C gives pointers, and takes functions by their names")]
pub mod c;
mod control;
mod export;
mod product;
mod tensor;

pub use attachment::{AttachError, Attachment, Lease};
pub use control::{BlockingControl, ConnectError, Control, channel, connect};
pub use export::{ExportError, export};
pub use product::{ProductError, product};
pub use tensor::{Base, Block, Element, Sparse, Tensor};
