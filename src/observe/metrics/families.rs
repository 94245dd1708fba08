//! How families of metrics are written: a name, what it means, a unit, and values with labels.

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeLabelSet, EncodeMetric as _, MetricEncoder,
        NoLabelSet,
    },
    metrics::{MetricType, histogram::Histogram},
    registry::Unit,
};
use std::fmt;

/// What values are of, as it stands at the end of the name.
#[derive(Clone, Copy)]
pub(super) enum Of {
    Number,
    Bytes,
    Seconds,
    Ratio,
}

impl Of {
    fn unit(self) -> Option<Unit> {
        match self {
            Self::Number => None,
            Self::Bytes => Some(Unit::Bytes),
            Self::Seconds => Some(Unit::Seconds),
            Self::Ratio => Some(Unit::Other("ratio".into())),
        }
    }
}

/// A family of one kind of values.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) name: &'static str,
    /// A phrase.
    pub(super) help: &'static str,
    pub(super) of: Of,
}

/// A family without a unit.
pub(super) const fn numbers(name: &'static str, help: &'static str) -> Family {
    Family { name, help, of: Of::Number }
}

/// A family of bytes.
pub(super) const fn bytes(name: &'static str, help: &'static str) -> Family {
    Family { name, help, of: Of::Bytes }
}

/// A family of seconds.
pub(super) const fn seconds(name: &'static str, help: &'static str) -> Family {
    Family { name, help, of: Of::Seconds }
}

/// A family of shares, 0 to 1.
pub(super) const fn ratios(name: &'static str, help: &'static str) -> Family {
    Family { name, help, of: Of::Ratio }
}

/// Writes families.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    /// A value that goes up and down; nothing if it is not known.
    pub(super) fn gauge(&mut self, family: Family, value: impl Into<Option<f64>>) -> fmt::Result {
        self.alone(family, MetricType::Gauge, value.into(), write_gauge)
    }

    /// A value that only grows; nothing if it is not known.
    pub(super) fn counter<V: EncodeCounterValue>(
        &mut self,
        family: Family,
        value: impl Into<Option<V>>,
    ) -> fmt::Result {
        self.alone(family, MetricType::Counter, value.into(), write_counter)
    }

    /// Values that go up and down.
    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        self.each(family, MetricType::Gauge, values, write_gauge)
    }

    /// Values that only grow.
    pub(super) fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.each(family, MetricType::Counter, values, write_counter)
    }

    /// Distributions.
    pub(super) fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let kind = MetricType::Histogram;
        self.each(family, kind, values, |encoder, histogram| histogram.encode(encoder))
    }

    /// Texts, told as labels.
    pub(super) fn infos<L: EncodeLabelSet>(
        &mut self,
        family: Family,
        values: impl IntoIterator<Item = L>,
    ) -> fmt::Result {
        let (Family { name, help, .. }, mut values) = (family, values.into_iter().peekable());
        if values.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        values.try_for_each(|labels| encoder.encode_info(&labels))
    }

    /// Writes a value without labels.
    fn alone<V>(
        &mut self,
        family: Family,
        kind: MetricType,
        value: Option<V>,
        write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        let Family { name, help, of } = family;
        write(self.0.encode_descriptor(name, help, of.unit().as_ref(), kind)?, value)
    }

    /// Writes each value. Of a family without any there is nothing at all.
    fn each<L: EncodeLabelSet, V>(
        &mut self,
        family: Family,
        kind: MetricType,
        values: impl IntoIterator<Item = (L, V)>,
        write: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let (Family { name, help, .. }, unit) = (family, family.of.unit());
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        values.try_for_each(|(labels, value)| write(encoder.encode_family(&labels)?, value))
    }
}

fn write_gauge(mut encoder: MetricEncoder<'_>, value: f64) -> fmt::Result {
    // Whole numbers are shorter so.
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return encoder.encode_gauge(&(value as i64));
    }
    encoder.encode_gauge(&value)
}

fn write_counter<V: EncodeCounterValue>(mut encoder: MetricEncoder<'_>, value: V) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, V, f64>(&value, None)
}

/// 1 for what is so, else 0.
pub(super) fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

/// Bounds of buckets: 1, 2 and 5 of each power of ten between two, both included.
pub(super) fn ladder(from: f64, to: f64) -> impl Iterator<Item = f64> {
    // Powers of ten as texts read them, so that a bound is shown as it is meant.
    let steps = (-9..=3).flat_map(|power| [1, 2, 5].map(|step| format!("{step}e{power}")));
    let bounds = steps.filter_map(|text| text.parse::<f64>().ok());
    bounds.filter(move |bound| (from..=to).contains(bound))
}
