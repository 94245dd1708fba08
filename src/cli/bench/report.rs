//! What was measured: medians, spread and ratios, as a table or one JSON object.

use super::{Pair, measure::Series};
use crate::{
    bundle::Bundle,
    cli::output::{Table, bytes, time},
    engine::StorageStatus,
};
use serde::Serialize;
use std::{path::Path, time::Duration};

/// The yardsticks of a cold switch.
const LIMITS: [&str; 3] = ["sequential", "pread4", "fio"];

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bundle: String,
    bundle_id: String,
    from: String,
    to: String,
    rounds: u32,
    backend: String,
    block_bytes: u64,
    task_bytes: u64,
    diff_bytes: u64,
    measures: Vec<Measure>,
    ratios: Ratios,
}

/// One series.
#[derive(Debug, Serialize)]
struct Measure {
    name: &'static str,
    /// Bytes read each time; 0 for calls.
    bytes: u64,
    median_us: f64,
    p99_us: f64,
    min_us: f64,
    max_us: f64,
    samples_us: Vec<f64>,
}

/// Ratios of medians; a ratio of something that was not measured is absent.
#[derive(Debug, Serialize)]
struct Ratios {
    /// Bytes over time of a cold switch, as a share of the fastest yardstick's.
    cold_of_device: Option<f64>,
    /// The yardstick.
    device: Option<&'static str>,
    /// How often a cold switch is done while the whole task is reloaded.
    reload_over_cold: Option<f64>,
    /// A resident `SwitchTask` call over an empty call.
    rpc_p50: Option<f64>,
    /// The same of the slowest hundredth.
    rpc_p99: Option<f64>,
}

impl Report {
    pub(super) fn new(
        bundle: &Bundle,
        path: &Path,
        pair: &Pair,
        rounds: u32,
        storage: Option<StorageStatus>,
        series: Vec<Series>,
    ) -> Self {
        let block_bytes = bundle.block().bytes();
        let mut measures: Vec<_> = series.into_iter().map(Measure::new).collect();
        measures.sort_by_key(|measure| ORDER.iter().position(|name| *name == measure.name));
        Self {
            bundle: path.display().to_string(),
            bundle_id: bundle.id().to_string(),
            from: pair.from.clone(),
            to: pair.to.clone(),
            rounds,
            backend: storage.map_or_else(String::new, |storage| storage.backend.to_string()),
            block_bytes,
            task_bytes: pair.task as u64 * block_bytes,
            diff_bytes: pair.diff as u64 * block_bytes,
            ratios: Ratios::new(&measures),
            measures,
        }
    }

    pub(super) fn render(&self) -> String {
        let mut table = Table::new(&["", "bytes", "median", "p99", "min", "max", "GB/s"]);
        for measure in &self.measures {
            let speed = measure.bytes as f64 / measure.median_us / 1e3;
            let of_bytes = |text: String| if measure.bytes == 0 { String::new() } else { text };
            table.row(vec![
                measure.name.into(),
                of_bytes(bytes(measure.bytes)),
                time(measure.median_us),
                time(measure.p99_us),
                time(measure.min_us),
                time(measure.max_us),
                of_bytes(format!("{speed:.2}")),
            ]);
        }
        format!(
            "{}: from `{}` to `{}`, {} of {}, {} rounds, by {}\n\n{}\n{}",
            self.bundle,
            self.from,
            self.to,
            bytes(self.diff_bytes),
            bytes(self.task_bytes),
            self.rounds,
            self.backend,
            table.render(),
            self.ratios.render(),
        )
    }
}

/// The rows of the table.
const ORDER: [&str; 12] = [
    "sequential",
    "pread4",
    "fio",
    "cold",
    "cold: plan",
    "cold: read",
    "cold: verify",
    "half",
    "reload",
    "resident",
    "rpc_switch",
    "rpc_empty",
];

impl Measure {
    fn new(series: Series) -> Self {
        let Series { name, bytes, samples } = series;
        let us = |time: &Duration| time.as_nanos() as f64 / 1e3;
        let samples_us: Vec<_> = samples.iter().map(us).collect();
        let mut sorted = samples_us.clone();
        sorted.sort_by(f64::total_cmp);
        // The sample that a share of all samples does not exceed.
        let at = |share: f64| {
            let place = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(place.clamp(1, sorted.len()) - 1).copied().unwrap_or_default()
        };
        Self {
            name,
            bytes,
            median_us: at(0.5),
            p99_us: at(0.99),
            min_us: at(0.0),
            max_us: at(1.0),
            samples_us,
        }
    }
}

impl Ratios {
    fn new(measures: &[Measure]) -> Self {
        let find = |name: &str| measures.iter().find(|measure| measure.name == name);
        let speed = |measure: &Measure| measure.bytes as f64 / measure.median_us;
        let over = |above: &str, below: &str, of: fn(&Measure) -> f64| {
            Some(of(find(above)?) / of(find(below)?))
        };
        let limits = LIMITS.iter().filter_map(|name| find(name));
        let device = limits.max_by(|a, b| speed(a).total_cmp(&speed(b)));
        let cold = find("cold");
        Self {
            cold_of_device: device.zip(cold).map(|(device, cold)| speed(cold) / speed(device)),
            device: device.map(|device| device.name),
            reload_over_cold: over("reload", "cold", |measure| measure.median_us),
            rpc_p50: over("rpc_switch", "rpc_empty", |measure| measure.median_us),
            rpc_p99: over("rpc_switch", "rpc_empty", |measure| measure.p99_us),
        }
    }

    fn render(&self) -> String {
        let mut text = String::new();
        if let (Some(share), Some(device)) = (self.cold_of_device, self.device) {
            text += &format!("cold switch: {share:.2} of the bytes over time of {device}\n");
        }
        if let Some(times) = self.reload_over_cold {
            text += &format!("reloading the whole task: {times:.1} x a cold switch\n");
        }
        if let (Some(p50), Some(p99)) = (self.rpc_p50, self.rpc_p99) {
            text += &format!(
                "resident SwitchTask call: {p50:.2} x an empty call, {p99:.2} x at the 99th percentile\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &'static str, bytes: u64, ms: &[u64]) -> Measure {
        let samples = ms.iter().map(|&ms| Duration::from_millis(ms)).collect();
        Measure::new(Series { name, bytes, samples })
    }

    #[test]
    fn percentiles_and_ratios_are_those_of_the_samples() {
        let cold = series("cold", 1000, &[30, 10, 20]);
        assert_eq!((cold.median_us, cold.min_us, cold.max_us), (20e3, 10e3, 30e3));
        assert_eq!(series("cold", 0, &(1..=200).collect::<Vec<_>>()).p99_us, 198e3);
        let slow = series("pread4", 1000, &[40]);
        let fast = series("sequential", 1000, &[16]);
        let reload = series("reload", 5000, &[100]);
        let ratios = Ratios::new(&[cold, slow, fast, reload]);
        assert_eq!((ratios.cold_of_device, ratios.device), (Some(0.8), Some("sequential")));
        assert_eq!(ratios.reload_over_cold, Some(5.0));
        assert_eq!(ratios.rpc_p50, None);
    }
}
