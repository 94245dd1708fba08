//! Experts' opinions, mixed by how well each has done lately.

use super::contexts::EXPERTS;
use crate::units::TaskIndex;

/// The share of its weight that each expert gives up to all at every step, so that one that was
/// wrong for long can come back soon.
const SHARED: f64 = 0.02;

/// The experts' weights, with a sum of 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mixture(pub(super) [f64; EXPERTS]);

impl Default for Mixture {
    fn default() -> Self {
        Self([1.0 / EXPERTS as f64; EXPERTS])
    }
}

impl Mixture {
    /// What the experts hold together.
    pub(super) fn blend(&self, experts: &[Vec<f64>]) -> Vec<f64> {
        let mut blend = vec![0.0; experts.first().map_or(0, Vec::len)];
        for (weight, opinion) in self.0.iter().zip(experts) {
            blend.iter_mut().zip(opinion).for_each(|(blend, p)| *blend += weight * p);
        }
        blend
    }

    /// Weighs each expert by the probability that it gave to what came.
    pub(super) fn learn(&mut self, experts: &[Vec<f64>], came: TaskIndex) {
        for (weight, opinion) in self.0.iter_mut().zip(experts) {
            // What somebody held to be impossible must not ruin him for ever.
            *weight *= opinion[came.index()].max(1e-6);
        }
        let sum: f64 = self.0.iter().sum();
        for weight in &mut self.0 {
            *weight = *weight / sum * (1.0 - SHARED) + SHARED / EXPERTS as f64;
        }
    }
}
