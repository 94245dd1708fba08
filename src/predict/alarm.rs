//! Whether forecasts have become so much worse that something must have changed: a cumulative sum of
//! what they cost beyond the usual (Page, Biometrika 41, 1954).

/// How much worse than usual a forecast has to be before it counts, in nats.
const TOLERANCE: f64 = 0.5;
/// How much has to come together.
const LIMIT: f64 = 8.0;
/// How fast the usual follows.
const RATE: f64 = 0.02;
/// What is held to be usual at first: about one of eight right.
const FIRST: f64 = 2.0;

/// Watches what forecasts cost.
#[derive(Clone, Debug)]
pub(super) struct Alarm {
    usual: f64,
    excess: f64,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { usual: FIRST, excess: 0.0 }
    }
}

impl Alarm {
    /// Takes note of the probability that was given to what came, and says whether it is time to
    /// doubt what was learnt. If so, it begins anew.
    pub(super) fn raised(&mut self, probability: f64) -> bool {
        let cost = -probability.max(1e-6).ln();
        self.excess = (self.excess + cost - self.usual - TOLERANCE).max(0.0);
        self.usual += RATE * (cost - self.usual);
        let raised = self.excess > LIMIT;
        if raised {
            *self = Self::default();
        }
        raised
    }
}
