//! The header of a safetensors file, for files that are written piece by piece: the safetensors
//! crate itself writes only what is in memory as a whole, and orders it as it likes.

use crate::units::BLOCK_ALIGN;
use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};
use std::collections::HashMap;

/// Lays tensors out one after another. `None` if their sizes overflow.
pub fn lay_out(
    tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
) -> Option<Vec<(String, TensorInfo)>> {
    let mut end = 0usize;
    let mut place = |(name, dtype, shape): (String, Dtype, Vec<usize>)| {
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &n| bits.checked_mul(n))?;
        let start = end;
        end = start.checked_add(bits / 8)?;
        Some((name, TensorInfo { dtype, shape, data_offsets: (start, end) }))
    };
    tensors.into_iter().map(&mut place).collect()
}

/// The header's length and the header, filled up with spaces so that the data begins at a multiple
/// of [`BLOCK_ALIGN`]. The tensors come in the order of their offsets, which cover the data.
pub fn header(
    about: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
) -> Result<Vec<u8>, SafeTensorError> {
    let mut json = serde_json::to_vec(&Metadata::new(about, tensors)?)?;
    let aligned = (8 + json.len()).next_multiple_of(BLOCK_ALIGN as usize);
    json.resize(aligned - 8, b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
