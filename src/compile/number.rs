//! What the bytes of an element mean as a number.
//!
//! Only scores need this; the bundle carries elements as bytes and never rounds them.

use half::{bf16, f16};
use safetensors::Dtype;

/// Replaces `values` by the little-endian elements of `bytes`; integers are plain numbers. A type
/// that neither blocks nor importance can have gives no values.
pub(super) fn decode(dtype: Dtype, bytes: &[u8], values: &mut Vec<f64>) {
    values.clear();
    with_elements(dtype, bytes, Collect(values));
}

/// What is done with elements: generic, so that each type has a loop of its own.
pub(super) trait Consume {
    fn consume(self, values: impl Iterator<Item = f64>);
}

struct Collect<'a>(&'a mut Vec<f64>);

impl Consume for Collect<'_> {
    fn consume(self, values: impl Iterator<Item = f64>) {
        self.0.extend(values);
    }
}

/// Hands out the elements as numbers.
pub(super) fn with_elements(dtype: Dtype, bytes: &[u8], consumer: impl Consume) {
    match dtype {
        Dtype::F64 => consumer.consume(elements(bytes).map(f64::from_le_bytes)),
        Dtype::F32 => consumer.consume(elements(bytes).map(|b| f64::from(f32::from_le_bytes(b)))),
        Dtype::F16 => consumer.consume(elements(bytes).map(|b| f16::from_le_bytes(b).to_f64())),
        Dtype::BF16 => {
            // Straight to f32 and on: bf16 is its upper half.
            let widen = |b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
            consumer.consume(elements(bytes).map(widen));
        }
        Dtype::F8_E4M3 => consumer.consume(bytes.iter().map(|&b| f64::from(E4M3[usize::from(b)]))),
        Dtype::F8_E5M2 => consumer.consume(bytes.iter().map(|&b| f64::from(E5M2[usize::from(b)]))),
        Dtype::I8 => consumer.consume(bytes.iter().map(|&b| f64::from(b.cast_signed()))),
        Dtype::U8 => consumer.consume(bytes.iter().map(|&b| f64::from(b))),
        _ => {}
    }
}

/// The bytes of a value in a type of weights, rounded to the nearest; none for types that are not
/// floating point.
pub(super) fn encode(dtype: Dtype, value: f64, bytes: &mut Vec<u8>) {
    match dtype {
        Dtype::F32 => bytes.extend((value as f32).to_le_bytes()),
        Dtype::F16 => bytes.extend(f16::from_f64(value).to_le_bytes()),
        Dtype::BF16 => bytes.extend(bf16::from_f64(value).to_le_bytes()),
        _ => {}
    }
}

fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// 4 bits of exponent, 3 of mantissa, no infinity (the `FN` variant, as safetensors has it).
static E4M3: [f32; 256] = {
    let mut table = table(3, 7);
    table[0x7f] = f32::NAN;
    table[0xff] = f32::NAN;
    table
};

/// 5 bits of exponent, 2 of mantissa, infinity and NaN as IEEE 754 has them.
static E5M2: [f32; 256] = {
    let mut table = table(2, 15);
    table[0x7c] = f32::INFINITY;
    table[0xfc] = f32::NEG_INFINITY;
    let mut nan = 0x7d;
    while nan <= 0x7f {
        table[nan] = f32::NAN;
        table[nan + 0x80] = f32::NAN;
        nan += 1;
    }
    table
};

/// The values of all bytes as sign, exponent and `mantissa_bits` of mantissa, without specials.
const fn table(mantissa_bits: u32, bias: usize) -> [f32; 256] {
    let scale = 1usize << mantissa_bits;
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (exponent, mantissa) = ((byte & 0x7f) / scale, byte % scale);
        let (significand, power) =
            if exponent == 0 { (mantissa, 1) } else { (scale + mantissa, exponent) };
        let value = significand as f32 / scale as f32 * power_of_two(power, bias);
        values[byte] = if byte < 0x80 { value } else { -value };
        byte += 1;
    }
    values
}

/// Two to the power of `exponent - bias`.
const fn power_of_two(exponent: usize, bias: usize) -> f32 {
    let mut value = 1.0;
    let mut up = bias;
    while up < exponent {
        value *= 2.0;
        up += 1;
    }
    let mut down = exponent;
    while down < bias {
        value /= 2.0;
        down += 1;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(dtype: Dtype, bytes: &[u8]) -> f64 {
        let mut values = vec![9.0];
        decode(dtype, bytes, &mut values);
        assert_eq!(values.len(), 1);
        values[0]
    }

    #[test]
    fn e4m3_has_the_values_of_its_specification() {
        for (byte, value) in [
            (0x00, 0.0),
            (0x01, 0.001_953_125), // 2^-9, the smallest
            (0x07, 0.013_671_875), // 7 * 2^-9, the largest below normal
            (0x08, 0.015_625),     // 2^-6, the smallest normal
            (0x38, 1.0),
            (0xb9, -1.125),
            (0x7e, 448.0),
        ] {
            assert_eq!(one(Dtype::F8_E4M3, &[byte]), value, "{byte:#x}");
        }
        assert!(one(Dtype::F8_E4M3, &[0x7f]).is_nan() && one(Dtype::F8_E4M3, &[0xff]).is_nan());
    }

    #[test]
    fn e5m2_is_the_upper_half_of_f16() {
        for byte in 0..=255 {
            let (short, long) = (one(Dtype::F8_E5M2, &[byte]), one(Dtype::F16, &[0, byte]));
            assert!(short == long || (short.is_nan() && long.is_nan()), "{byte:#x}");
        }
    }

    #[test]
    fn wider_and_integer_types_are_read_little_endian() {
        assert_eq!(one(Dtype::F64, &(-2.5f64).to_le_bytes()), -2.5);
        assert_eq!(one(Dtype::F32, &1.5f32.to_le_bytes()), 1.5);
        assert_eq!(one(Dtype::F16, &[0x00, 0x3c]), 1.0);
        assert_eq!(one(Dtype::BF16, &[0xc0, 0xbf]), -1.5);
        assert_eq!((one(Dtype::I8, &[0x80]), one(Dtype::U8, &[0x80])), (-128.0, 128.0));
    }
}
