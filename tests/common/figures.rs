//! What benchmarks need to take numbers and to make figures of them.

#![allow(clippy::expect_used, reason = "a wrong argument must stop a benchmark")]

use std::env;

/// The number behind an argument of this name.
pub(crate) fn argument(name: &str) -> Option<u64> {
    let mut arguments = env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map(|value| value.parse().expect("a number"))
}

/// The value below which this share of the values lies.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}
