//! What every embedding should be: worked out beforehand from the original model and the masks of
//! the bundle's file, never from the daemon's memory.

use crate::{
    encoder::embedding, error::Error, in_place::InPlace, model::Model, original::Original,
};
use synchromesh::{bundle::Bundle, units::TaskIndex};

/// How far apart the same embedding may be when it is computed in two ways. It has length 1.
pub(crate) const TOLERANCE: f32 = 5e-6;
/// The embeddings of two tasks must be this many times farther apart.
const MARGIN: f32 = 10.0;

/// The embeddings of some sentences under every task.
pub(crate) struct References {
    by_task: Vec<Vec<Reference>>,
}

/// One sentence under one task.
struct Reference {
    /// By the same arithmetic as on the daemon's memory: every bit must agree.
    exact: Vec<f32>,
    /// By candle's own operations on dense weights.
    plain: Vec<f32>,
}

impl References {
    pub(crate) fn compute(
        model: &Model,
        bundle: &Bundle,
        sentences: &[Vec<u32>],
    ) -> Result<Self, Error> {
        let original = Original::load(model)?;
        let of_task = |task| {
            let (cut, dense) = original.of_task(bundle, task)?;
            let in_place = InPlace { source: &cut, config: model.config };
            let reference = |ids: &Vec<u32>| {
                let exact = embedding(&in_place, &model.config, ids)?;
                Ok(Reference { exact, plain: embedding(&dense, &model.config, ids)? })
            };
            sentences.iter().map(reference).collect()
        };
        let by_task = bundle.task_indices().map(of_task).collect::<Result<_, Error>>()?;
        Ok(Self { by_task })
    }

    /// What is wrong with an embedding, if anything is.
    pub(crate) fn fault(&self, task: TaskIndex, sentence: usize, got: &[f32]) -> Option<String> {
        let Reference { exact, plain } = &self.by_task[task.index()][sentence];
        let pairs = got.iter().zip(exact);
        let differ = pairs.filter(|(got, exact)| got.to_bits() != exact.to_bits()).count();
        if got.len() != exact.len() || differ > 0 {
            return Some(format!("{differ} of {} values are other bits", exact.len()));
        }
        let apart = distance(got, plain);
        // Not a number is too far away, too.
        let near = apart <= TOLERANCE;
        (!near).then(|| format!("{apart:.2e} away from the dense computation"))
    }

    /// Largest distance between the two ways to compute.
    pub(crate) fn rounding(&self) -> f32 {
        let all = self.by_task.iter().flatten();
        all.map(|one| distance(&one.exact, &one.plain)).fold(0.0, f32::max)
    }

    /// Smallest and largest distance between two tasks' embeddings of one sentence.
    pub(crate) fn tasks_apart(&self) -> (f32, f32) {
        let pairs = self.by_task.iter().enumerate().flat_map(|(task, of_task)| {
            self.by_task[..task].iter().flat_map(|other| of_task.iter().zip(other))
        });
        let apart = pairs.map(|(a, b)| distance(&a.exact, &b.exact));
        apart.fold((f32::INFINITY, 0.0), |(least, most), d| (least.min(d), most.max(d)))
    }

    /// Whether a wrong task would be told from rounding.
    pub(crate) fn check_margin(&self) -> Result<(), Error> {
        let (nearest, _) = self.tasks_apart();
        let needed = MARGIN * TOLERANCE;
        if nearest < needed { Err(Error::Alike { nearest, needed }) } else { Ok(()) }
    }
}

/// The Euclidean distance of two embeddings.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::{Reference, References, TOLERANCE};
    use synchromesh::units::TaskIndex;

    fn references(exact: [f32; 2], plain: [f32; 2]) -> References {
        let reference = Reference { exact: exact.to_vec(), plain: plain.to_vec() };
        References { by_task: vec![vec![reference]] }
    }

    #[test]
    fn any_other_bit_is_a_fault() {
        let references = references([0.6, 0.0], [0.6, 0.0]);
        let fault = |got: &[f32]| references.fault(TaskIndex(0), 0, got).is_some();
        assert!(!fault(&[0.6, 0.0]));
        for got in [&[0.6_f32.next_up(), 0.0][..], &[0.6, -0.0], &[0.6], &[0.6, f32::NAN]] {
            assert!(fault(got), "{got:?}");
        }
    }

    #[test]
    fn what_agrees_bit_for_bit_must_also_be_near_the_dense_computation() {
        for (plain, wrong) in [(0.6 + TOLERANCE / 2.0, false), (0.61, true), (f32::NAN, true)] {
            let fault = references([0.6, 0.0], [plain, 0.0]).fault(TaskIndex(0), 0, &[0.6, 0.0]);
            assert_eq!(fault.is_some(), wrong, "{plain}: {fault:?}");
        }
    }

    #[test]
    fn tasks_that_are_alike_are_refused() {
        let mut references = references([0.6, 0.0], [0.6, 0.0]);
        for (other, alike) in [(0.6 + 5.0 * TOLERANCE, true), (0.7, false)] {
            let reference = Reference { exact: vec![other, 0.0], plain: vec![other, 0.0] };
            references.by_task.truncate(1);
            references.by_task.push(vec![reference]);
            assert_eq!(references.check_margin().is_err(), alike, "{other}");
        }
    }
}
