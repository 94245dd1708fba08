//! Stands in for `synchromesh::client::product` until that is there.

use synchromesh::bundle::Tiling;
use thiserror::Error;
use zerocopy::FromBytes as _;

/// Why a product cannot be computed.
#[derive(Debug, Error)]
#[error("the block at place {0} is not one of 32-bit floats")]
pub(crate) struct ProductError(usize);

/// y = x · Wᵀ.
pub(crate) fn product<'a, E: From<ProductError>>(
    tiling: &Tiling,
    blocks: impl IntoIterator<Item = Result<(usize, &'a [u8]), E>>,
    x: &[f32],
    batch: usize,
    y: &mut [f32],
) -> Result<(), E> {
    let [rows, cols] = tiling.shape();
    let (height, width) = (tiling.block().rows(), tiling.block().cols());
    y.fill(0.0);
    for block in blocks {
        let (place, bytes) = block?;
        let weights = <[f32]>::ref_from_bytes(bytes).map_err(|_| ProductError(place))?;
        let [_, across] = tiling.grid();
        let (row, col) = (place / across * height, place % across * width);
        for at in 0..batch {
            let x = &x[at * cols + col..][..width];
            for (weights, y) in weights.chunks_exact(width).zip(&mut y[at * rows + row..]) {
                *y += weights.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
            }
        }
    }
    Ok(())
}
