//! The element types of weights: how they lie in 32-bit words, and how they become 32-bit floats.
//!
//! Words of two elements are widened into two vectors, one of the lower halves and one of the upper
//! ones, so that nothing changes its lane; the inputs are laid out to match. It deliberately uses
//! only arithmetic that every processor has, and converts exactly, so there is no second path.

use pulp::Simd;

/// A type of weights.
pub(super) trait Element {
    /// Elements in a 32-bit word, at most [`MAX_PARTS`].
    const PARTS: usize;

    /// The elements of each word as floats, exactly: of each word the first, of each the second,
    /// of which only [`Self::PARTS`] mean anything.
    fn widen<S: Simd>(simd: S, words: S::u32s) -> [S::f32s; MAX_PARTS];
}

/// Most elements in a word.
pub(super) const MAX_PARTS: usize = 2;

/// 32-bit floats.
pub(super) struct F32;
/// 16-bit floats with the exponent of 32-bit ones: their upper halves.
pub(super) struct Bf16;
/// 16-bit floats of IEEE 754.
pub(super) struct F16;

/// The bits of a word that are its upper half.
const UPPER: u32 = 0xffff_0000;

impl Element for F32 {
    const PARTS: usize = 1;

    #[inline(always)]
    fn widen<S: Simd>(simd: S, words: S::u32s) -> [S::f32s; MAX_PARTS] {
        [simd.transmute_f32s_u32s(words), simd.splat_f32s(0.0)]
    }
}

impl Element for Bf16 {
    const PARTS: usize = 2;

    #[inline(always)]
    fn widen<S: Simd>(simd: S, words: S::u32s) -> [S::f32s; MAX_PARTS] {
        let [first, second] = uppers(simd, words);
        [simd.transmute_f32s_u32s(first), simd.transmute_f32s_u32s(second)]
    }
}

impl Element for F16 {
    const PARTS: usize = 2;

    #[inline(always)]
    fn widen<S: Simd>(simd: S, words: S::u32s) -> [S::f32s; MAX_PARTS] {
        let [first, second] = uppers(simd, words);
        [half_to_float(simd, first), half_to_float(simd, second)]
    }
}

/// Both halves of words, each in the upper half of a word of its own.
#[inline(always)]
fn uppers<S: Simd>(simd: S, words: S::u32s) -> [S::u32s; MAX_PARTS] {
    let lower = simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(16));
    [lower, simd.and_u32s(words, simd.splat_u32s(UPPER))]
}

/// IEEE 754 halves, in the upper halves of words, as floats.
#[inline(always)]
fn half_to_float<S: Simd>(simd: S, upper: S::u32s) -> S::f32s {
    const SIGN: u32 = 0x8000_0000;
    /// Moves the five bits of the exponent to the end of the eight of a float's.
    const SHIFT: u32 = 3;
    /// 2^112: what the biases differ by. To multiply makes subnormals right, too.
    const BIAS: f32 = f32::from_bits((127 + 112) << 23);
    /// What the least infinity or NaN becomes by that; no number reaches it.
    const INFINITE: f32 = 65536.0;
    /// The exponent of what is not finite.
    const EXPONENT: u32 = 0x7f80_0000;

    let sign = simd.and_u32s(upper, simd.splat_u32s(SIGN));
    let magnitude = simd.and_u32s(upper, simd.splat_u32s(!SIGN));
    let magnitude = simd.wrapping_dyn_shr_u32s(magnitude, simd.splat_u32s(SHIFT));
    let float = simd.mul_f32s(simd.transmute_f32s_u32s(magnitude), simd.splat_f32s(BIAS));
    let finite = simd.less_than_f32s(float, simd.splat_f32s(INFINITE));
    let bits = simd.transmute_u32s_f32s(float);
    let infinite = simd.or_u32s(bits, simd.splat_u32s(EXPONENT));
    let bits = simd.select_u32s(finite, bits, infinite);
    simd.transmute_f32s_u32s(simd.or_u32s(bits, sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use pulp::{Arch, Scalar, WithSimd};

    /// Every value of 16 bits, two in a word.
    fn words() -> Vec<u32> {
        (0..1 << 15).map(|pair: u32| (pair * 2) | ((pair * 2 + 1) << 16)).collect()
    }

    /// Widens words; gives the first and the second elements.
    struct Widen<W>(W);

    impl<W: Element> WithSimd for Widen<W> {
        type Output = [Vec<f32>; MAX_PARTS];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let words = words();
            let mut parts = [vec![0.0; words.len()], vec![0.0; words.len()]];
            let [first, second] = parts.each_mut().map(|part| S::as_mut_simd_f32s(part).0);
            let to = first.iter_mut().zip(second);
            for (&words, to) in S::as_simd_u32s(&words).0.iter().zip(to) {
                [*to.0, *to.1] = W::widen(simd, words);
            }
            parts
        }
    }

    fn check<W: Element>(name: &str, [first, second]: [Vec<f32>; 2], float: fn(u16) -> f32) {
        for (pair, parts) in first.iter().zip(&second).enumerate() {
            for (part, got) in [(0, *parts.0), (1, *parts.1)] {
                let bits = (pair * W::PARTS + part) as u16;
                let expected = float(bits);
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "{name} {bits:#06x} became {got}, not {expected}");
            }
        }
    }

    #[test]
    fn every_half_becomes_the_float_that_it_is() {
        let bf = |bits| bf16::from_bits(bits).to_f32();
        check::<Bf16>("bf16", Arch::new().dispatch(Widen(Bf16)), bf);
        check::<Bf16>("bf16", Scalar.vectorize(Widen(Bf16)), bf);
        let ieee = |bits| f16::from_bits(bits).to_f32();
        check::<F16>("f16", Arch::new().dispatch(Widen(F16)), ieee);
        check::<F16>("f16", Scalar.vectorize(Widen(F16)), ieee);
    }
}
