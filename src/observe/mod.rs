//! What people see of the daemon: log lines, metrics, events, and a page with its state.
//!
//! Everything here hangs on the engine's events and on what it tells when asked; nothing here changes
//! what it does, and it waits for nothing here. Of all the daemon, this alone looks at the time of
//! day, and only to tell it to people.

mod convert;
mod errors;
mod history;
mod http;
mod hub;
mod lines;
mod log;
mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "no_otlp.rs"]
mod otlp;
mod view;
mod wall;
mod words;

pub use errors::{reason, refusal, status};
pub use history::Told;
pub use http::HttpServer;
pub use hub::{Batch, Hub, Watcher};
pub use log::{FilterError, LogCounters, LogGuard, log_counters, log_to, log_to_stderr};
pub use metrics::{Call, Rpc};
pub use view::View;
pub use wall::Stamp;
pub use words::{KINDS, Words, kind_name};

use crate::engine::{Clock, Handle};
use std::sync::Arc;

/// What there is to see.
#[derive(Clone)]
pub struct Observed {
    /// What happens.
    pub hub: Arc<Hub>,
    /// What is.
    pub view: Arc<View>,
}

impl Observed {
    /// A daemon that is ready now, does not serve yet, and of which nothing was told.
    pub fn new(engine: Handle, clock: Arc<dyn Clock>) -> Self {
        let hub = Hub::new(clock.clone());
        let view = Arc::new(View::new(engine, clock, hub.instance()));
        Self { hub, view }
    }
}
