//! Metrics of models: what has happened to each, and what it is like now.

use super::{
    counted::{Counted, OUTCOMES, PHASES, RANKS, counts},
    families::{Families, Family, bytes, flag, numbers, ratios, seconds},
    sessions,
};
use crate::{
    bundle::Bundle,
    engine::{ModelStatus, PrefetchStatus},
    residency::SlotCounts,
};
use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, histogram::Histogram},
};
use std::{fmt, sync::Arc};

/// A model at one moment.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) bundle: Arc<Bundle>,
    pub(super) now: ModelStatus,
    pub(super) counted: Arc<Counted>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Models(pub(super) Vec<Model>);

/// The label that all of these have, and others beside it.
pub(super) type Label<'a> = (&'static str, &'a str);

type Gauge = (Family, fn(&ModelStatus) -> f64);

const GAUGES: [Gauge; 12] = [
    (bytes("pool", "All of the pool, its base included"), |m| {
        (slots(m) * m.pool.slot_bytes + m.pool.base_bytes) as f64
    }),
    (bytes("pool_base", "What every task needs as it is"), |m| m.pool.base_bytes as f64),
    (bytes("pool_slot", "One slot, which holds one block"), |m| m.pool.slot_bytes as f64),
    (bytes("pool_huge_pages", "What of the pool lies in huge pages"), |m| m.pool.huge_bytes as f64),
    (numbers("pool_locked", "Whether the pool is locked into memory"), |m| flag(m.pool.locked)),
    (numbers("pinned_blocks", "Resident blocks that may not go"), |m| m.pool.pinned as f64),
    (numbers("quarantined_blocks", "Blocks that are not to be had: their last read failed"), |m| {
        m.quarantined as f64
    }),
    (numbers("direct_io", "Whether blocks are read past the page cache"), |m| flag(m.direct_io)),
    (seconds("storage_stalled", "For how long the device has not answered; 0 if it does"), |m| {
        m.stalled_for.unwrap_or_default().as_secs_f64()
    }),
    (numbers("prepared_tasks", "Tasks that are being prepared, or held"), |m| {
        m.prefetch.prepared as f64
    }),
    (bytes("prefetch_budget", "What may be loaded ahead in vain at the moment"), |m| {
        m.prefetch.budget_bytes as f64
    }),
    (bytes("prefetch_waiting", "What was loaded ahead and waits to be used"), |m| {
        (m.prefetch.waiting * m.pool.slot_bytes) as f64
    }),
];

type Known = (Family, fn(&ModelStatus) -> u64);

const KNOWN: [Known; 6] = [
    (numbers("blocks_evicted", "Blocks that went to make room"), |m| m.evicted),
    (numbers("blocks_mismatched", "Blocks that did not match their checksum when read"), |m| {
        m.mismatched
    }),
    (numbers("blocks_read_again", "Blocks that were read again after a first failure"), |m| {
        m.read_again
    }),
    (numbers("prefetch_switches", "Switches to another task"), |m| m.prefetch.switches),
    (numbers("prefetch_hits", "Of these, those that found all of their task in the pool"), |m| {
        m.prefetch.hits
    }),
    (numbers("hints_ignored", "Hints that cannot be, and were as if not given"), |m| {
        m.prefetch.ignored_hints
    }),
];

type Event = (Family, fn(&Counted) -> &Counter);

const EVENTS: [Event; 10] = [
    (numbers("switches_in_place", "Switches that gave the old task up first"), |c| &c.in_place),
    (numbers("tasks_given_up", "Tasks that were given up for the next"), |c| &c.given_up),
    (numbers("sessions_opened", "Sessions that were opened"), |c| &c.sessions_opened),
    (numbers("sessions_closed", "Sessions that were closed"), |c| &c.sessions_closed),
    (numbers("clients_attached", "Clients that have attached"), |c| &c.attached),
    (numbers("clients_detached", "Clients that have gone"), |c| &c.detached),
    (numbers("attachments_ended", "Attachments that calls have ended"), |c| &c.attachments_ended),
    (numbers("leases_revoked", "Leases that lasted too long"), |c| &c.revoked),
    (numbers("blocks_quarantined", "Blocks that were read twice in vain"), |c| &c.quarantined),
    (numbers("storage_stalls", "Times that the device did not answer in time"), |c| &c.stalls),
];

impl Collector for Models {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = Families(encoder);
        for (family, value) in GAUGES {
            to.gauges(family, self.each(|model| value(&model.now)))?;
        }
        for (family, value) in KNOWN {
            to.counters(family, self.each(|model| value(&model.now)))?;
        }
        for (family, counter) in EVENTS {
            to.counters(family, self.each(|model| counter(&model.counted).get()))?;
        }
        self.switches(&mut to)?;
        self.pools(&mut to)?;
        self.foresight(&mut to)?;
        sessions::write(&self.0, &mut to)
    }
}

impl Models {
    /// A value of each model.
    fn each<'a, V>(
        &'a self,
        value: impl Fn(&'a Model) -> V + 'a,
    ) -> impl Iterator<Item = ([Label<'a>; 1], V)> {
        self.0.iter().map(move |model| ([model.label()], value(model)))
    }

    /// Several values of each model, told apart by a label.
    fn parts<'a, K: AsRef<str> + 'a, V, I: IntoIterator<Item = (K, V)>>(
        &'a self,
        label: &'static str,
        parts: impl Fn(&'a Model) -> I + 'a,
    ) -> impl Iterator<Item = ([(&'static str, String); 2], V)> {
        self.0.iter().flat_map(move |model| {
            let labelled = move |(part, value): (K, V)| {
                let (key, name) = model.label();
                ([(key, name.to_owned()), (label, part.as_ref().to_owned())], value)
            };
            parts(model).into_iter().map(labelled).collect::<Vec<_>>()
        })
    }

    fn switches(&self, to: &mut Families<'_>) -> fmt::Result {
        let whole = "How long switches take, from arrival to publication, by how much was there";
        let family = seconds("switch_duration", whole);
        self.histograms(to, family, "outcome", |m| named(OUTCOMES, &m.counted.durations))?;
        let family = seconds("switch_phase_duration", "How long each phase of a switch takes");
        self.histograms(to, family, "phase", |m| named(PHASES, &m.counted.phases))?;
        let failed = numbers("switch_failures", "Switches that were begun and not done, by reason");
        to.counters(failed, self.parts("reason", |m| counts(&m.counted.failures)))?;
        let took = seconds("prepare_duration", "How long preparations take that were done");
        to.histograms(took, self.each(|m| &m.counted.prepared))?;
        let failed = numbers("prepare_failures", "Preparations that were not done, by reason");
        to.counters(failed, self.parts("reason", |m| counts(&m.counted.preparations_failed)))
    }

    fn histograms<const N: usize>(
        &self,
        to: &mut Families<'_>,
        family: Family,
        label: &'static str,
        parts: impl for<'a> Fn(&'a Model) -> [(&'static str, &'a Histogram); N],
    ) -> fmt::Result {
        let labelled = self.0.iter().flat_map(|model| {
            parts(model).map(|(part, histogram)| ([model.label(), (label, part)], histogram))
        });
        to.histograms(family, labelled)
    }

    fn pools(&self, to: &mut Families<'_>) -> fmt::Result {
        let family = numbers("slots", "Slots of the pool, by what they hold");
        to.gauges(family, self.parts("state", Model::slots))?;
        let family = bytes("block", "Bytes of blocks, by what became of them");
        to.counters(family, self.parts("kind", Model::bytes_by_kind))?;
        let family = ratios("task_resident", "What of a task's blocks is in the pool");
        to.gauges(family, self.parts("task", Model::residents))
    }

    fn foresight(&self, to: &mut Families<'_>) -> fmt::Result {
        let family =
            numbers("foresight_switches", "Switches by the rank their task had been given");
        to.counters(family, self.parts("rank", Model::ranks))?;
        let what = "What the probabilities of tasks switched to lacked to 1, squared";
        let errors = self.each(|model| model.counted.squared_error.get());
        to.counters(numbers("foresight_squared_error", what), errors)?;
        let lead = seconds("foresight_lead", "How long tasks had been reckoned with when needed");
        to.histograms(lead, self.each(|model| &model.counted.lead))
    }
}

impl Model {
    pub(super) fn label(&self) -> Label<'_> {
        ("model", &self.now.name)
    }

    /// Slots by what they hold.
    fn slots(&self) -> [(&'static str, f64); 5] {
        let SlotCounts { free, filling, verifying, resident, lost } = self.now.pool.slots;
        let names = ["free", "filling", "verifying", "resident", "lost"];
        let counts = [free, filling, verifying, resident, lost];
        std::array::from_fn(|at| (names[at], counts[at] as f64))
    }

    /// Switches by the rank that their task had been given.
    fn ranks(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RANKS.into_iter().zip(self.counted.foreseen.iter().map(Counter::get))
    }

    /// What switches found, needed and read, what was loaded ahead, and what went.
    fn bytes_by_kind(&self) -> [(&'static str, u64); 7] {
        let PrefetchStatus { loaded, wasted, late, .. } = self.now.prefetch;
        let bytes = |blocks: u64| blocks * self.now.pool.slot_bytes;
        [
            ("reused", self.counted.reused_bytes.get()),
            ("prefetched", self.counted.prefetched_bytes.get()),
            ("read", self.counted.read_bytes.get()),
            ("loaded_ahead", bytes(loaded)),
            ("wasted", bytes(wasted)),
            ("late", bytes(late)),
            ("evicted", bytes(self.now.evicted)),
        ]
    }

    /// The resident share of each task.
    fn residents(&self) -> impl Iterator<Item = (&str, f64)> {
        let tasks = self.bundle.task_indices().zip(&self.now.missing);
        tasks.map(|(task, missing)| {
            let task = self.bundle.task(task);
            let needed = task.blocks.max(1) as f64;
            (&task.name[..], 1.0 - *missing as f64 / needed)
        })
    }
}

fn named<'a, const N: usize>(
    names: [&'static str; N],
    histograms: &'a [Histogram; N],
) -> [(&'static str, &'a Histogram); N] {
    std::array::from_fn(|at| (names[at], &histograms[at]))
}

fn slots(model: &ModelStatus) -> u64 {
    let SlotCounts { free, filling, verifying, resident, lost } = model.pool.slots;
    (free + filling + verifying + resident + lost) as u64
}
