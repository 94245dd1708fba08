//! Calls, counted by method and by the gRPC code that they end with. How a code is found is
//! `control`'s matter.

use super::families::{Families, ladder, numbers, seconds};
use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, metrics::histogram::Histogram,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tonic::Code;

/// The methods that are told apart. What else is called, be there such a method or not, is the last
/// one, so that callers cannot make up labels.
const METHODS: [&str; 12] = [
    "SwitchTask",
    "HintTasks",
    "PrepareTask",
    "OpenSession",
    "CloseSession",
    "EndAttachment",
    "ListModels",
    "GetStatus",
    "Check",
    "WatchEvents",
    "Watch",
    "other",
];
/// How many of them, from the first on, are timed: what is watched lasts as long as its watcher
/// likes, and so may what is not known here.
const TIMED: usize = 9;
/// Names of the codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Counts calls.
#[derive(Debug)]
pub struct Rpc {
    /// By method and code.
    calls: [[AtomicU64; CODES.len()]; METHODS.len()],
    durations: [Histogram; TIMED],
    under_way: AtomicU64,
}

/// A call that has not ended. If it is dropped, its caller has gone.
#[derive(Debug)]
pub struct Call {
    rpc: Arc<Rpc>,
    method: usize,
    begun: Instant,
    code: Code,
}

impl Default for Rpc {
    fn default() -> Self {
        // Less than the first no call takes.
        let durations = || Histogram::new(ladder(50e-6, 10.0));
        Self {
            calls: Default::default(),
            durations: std::array::from_fn(|_| durations()),
            under_way: AtomicU64::new(0),
        }
    }
}

impl Rpc {
    /// Notes that a call of this path begins.
    pub fn begin(self: &Arc<Self>, path: &str) -> Call {
        let called = path.rsplit('/').next().unwrap_or_default();
        let method = METHODS.iter().position(|method| *method == called);
        self.under_way.fetch_add(1, Relaxed);
        Call {
            rpc: self.clone(),
            method: method.unwrap_or(METHODS.len() - 1),
            begun: Instant::now(),
            code: Code::Cancelled,
        }
    }
}

impl Call {
    /// Notes that it has ended with this code.
    pub fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(count) = self.rpc.calls[self.method].get(self.code as usize) {
            count.fetch_add(1, Relaxed);
        }
        if let Some(durations) = self.rpc.durations.get(self.method) {
            durations.observe(self.begun.elapsed().as_secs_f64());
        }
        self.rpc.under_way.fetch_sub(1, Relaxed);
    }
}

impl Collector for Rpc {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = Families(encoder);
        let calls = METHODS.iter().zip(&self.calls).flat_map(|(method, codes)| {
            CODES.iter().zip(codes).enumerate().filter_map(move |(number, (code, count))| {
                let count = count.load(Relaxed);
                // Of what has never happened, only that all went well.
                let labels = [("method", *method), ("code", *code)];
                (number == 0 || count > 0).then_some((labels, count))
            })
        });
        to.counters(numbers("rpc_requests", "Calls that have ended, by their gRPC code"), calls)?;
        let durations = METHODS.iter().zip(&self.durations);
        let durations = durations.map(|(method, durations)| ([("method", *method)], durations));
        to.histograms(seconds("rpc_duration", "How long calls take in the daemon"), durations)?;
        let under_way = numbers("rpc_under_way", "Calls that have begun and not ended");
        to.gauge(under_way, self.under_way.load(Relaxed) as f64)
    }
}
