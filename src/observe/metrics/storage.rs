//! Metrics of how blocks are read. They come from the storage itself, so they are there even if the
//! engine does not answer.

use super::families::{Families, bytes, flag, numbers};
use crate::engine::StorageStatus;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};
use std::fmt;

/// Models' storage, by the models' names.
#[derive(Debug)]
pub(super) struct Storages(pub(super) Vec<(String, StorageStatus)>);

type Count = (&'static str, &'static str, fn(&StorageStatus) -> u64);

const COUNTS: [Count; 4] = [
    ("storage_reads", "Reads that ended well", |s| s.counters.reads),
    ("storage_short_reads", "Times that the kernel gave less than was asked for", |s| {
        s.counters.short
    }),
    ("storage_deferred_reads", "Times that the kernel had no room for a read", |s| {
        s.counters.again
    }),
    ("storage_stray_completions", "Answers of the kernel that no read was waiting for", |s| {
        s.counters.stray
    }),
];

impl Collector for Storages {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = Families(encoder);
        let backend = |(model, status): &(String, StorageStatus)| {
            [("model", model.clone()), ("backend", status.backend.to_string())]
        };
        to.infos(numbers("storage_backend", "How blocks are read"), self.0.iter().map(backend))?;
        let fallback = "Whether blocks are read by blocking calls because io_uring cannot be used";
        to.gauges(
            numbers("storage_fallback", fallback),
            self.each(|status| flag(status.fallback.is_some())),
        )?;
        for (name, help, count) in COUNTS {
            to.counters(numbers(name, help), self.each(count))?;
        }
        let read = bytes("storage_read", "Bytes of reads that ended well, gaps included");
        to.counters(read, self.each(|status| status.counters.bytes))?;
        let errors = self.0.iter().flat_map(|(model, status)| {
            let of = |(kind, count)| ([("model", &model[..]), ("kind", kind)], count);
            status.load.errors().map(of)
        });
        to.counters(
            numbers("storage_read_errors", "Reads that failed, by what went wrong"),
            errors,
        )?;
        let depths = self.0.iter().flat_map(|(model, status)| {
            let depths = [("waiting", status.load.waiting), ("under_way", status.load.under_way)];
            depths.map(|(state, count)| ([("model", &model[..]), ("state", state)], count as f64))
        });
        to.gauges(
            numbers("storage_queue_depth", "Reads that wait, or that are under way"),
            depths,
        )?;
        self.durations(&mut to)
    }
}

impl Storages {
    fn each<'a, V>(
        &'a self,
        value: impl Fn(&StorageStatus) -> V + 'a,
    ) -> impl Iterator<Item = ([(&'static str, &'a str); 1], V)> {
        self.0.iter().map(move |(model, status)| ([("model", &model[..])], value(status)))
    }

    fn durations(&self, to: &mut Families<'_>) -> fmt::Result {
        let help = "How long reads take, from being taken up to their end";
        let (kind, unit) = (MetricType::Histogram, Unit::Seconds);
        let name = "storage_read_duration";
        let mut encoder = to.0.encode_descriptor(name, help, Some(&unit), kind)?;
        for (model, status) in &self.0 {
            let (sum, buckets) = (status.load.time.as_secs_f64(), status.load.buckets());
            let buckets: Vec<_> = buckets.collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let labels = [("model", &model[..])];
            let mut encoder = encoder.encode_family(&labels)?;
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
