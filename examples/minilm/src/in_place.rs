//! Weights that are computed with where they lie: operations for candle that borrow their weights
//! instead of holding them. No weight is copied, dense or otherwise; only activations are made.

use crate::{encoder::Weights, error::Error, model::Config};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, bail};
use synchromesh::client::{self, Lease};

/// Where weights lie.
pub(crate) trait Source {
    /// A tensor that every task has as it is.
    fn base(&self, name: &str) -> Result<&[f32], Error>;
    /// y = x · Wᵀ by the blocks that the task has of W.
    fn multiply(&self, name: &str, x: &[f32], batch: usize, y: &mut [f32]) -> Result<(), Error>;
}

/// The daemon's memory: nothing in it changes while the lease lives.
impl Source for Lease<'_> {
    fn base(&self, name: &str) -> Result<&[f32], Error> {
        let floats = match self.tensor(name) {
            Some(client::Tensor::Base(base)) => base.as_slice(),
            _ => None,
        };
        floats.ok_or_else(|| Error::no_tensor(name, "in the daemon's base, of 32-bit floats"))
    }

    fn multiply(&self, name: &str, x: &[f32], batch: usize, y: &mut [f32]) -> Result<(), Error> {
        let Some(client::Tensor::Sparse(weight)) = self.tensor(name) else {
            return Err(Error::no_tensor(name, "among those that are cut into blocks"));
        };
        Ok(weight.product(x, batch, y)?)
    }
}

/// The encoder's weights from a source.
pub(crate) struct InPlace<'a, S> {
    pub(crate) source: &'a S,
    pub(crate) config: Config,
}

impl<S: Source> Weights for InPlace<'_, S> {
    fn embed(&self, ids: &[u32]) -> Result<Tensor, Error> {
        let table = |kind: &str| {
            let name = format!("embeddings.{kind}_embeddings.weight");
            Ok::<_, Error>((self.source.base(&name)?, name))
        };
        let (words, positions, types) = (table("word")?, table("position")?, table("token_type")?);
        let width = self.config.hidden_size;
        let mut sums = Vec::with_capacity(ids.len() * width);
        for (position, &id) in ids.iter().enumerate() {
            let word = row(&words, id as usize, width)?.iter();
            let rest = row(&positions, position, width)?.iter().zip(row(&types, 0, width)?);
            sums.extend(word.zip(rest).map(|(word, (position, kind))| word + position + kind));
        }
        Ok(Tensor::from_vec(sums, (ids.len(), width), &Device::Cpu)?)
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let bias = self.source.base(&bias)?;
        Ok(x.apply_op1_no_bwd(&Linear { source: self.source, weight, bias })?)
    }

    fn normalise(&self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let weight = self.source.base(&format!("{name}.LayerNorm.weight"))?;
        let bias = self.source.base(&format!("{name}.LayerNorm.bias"))?;
        let epsilon = self.config.layer_norm_eps as f32;
        Ok(x.apply_op1_no_bwd(&Normalise { weight, bias, epsilon })?)
    }
}

/// A row of an embedding table.
fn row<'t>(
    (table, name): &(&'t [f32], String),
    row: usize,
    width: usize,
) -> Result<&'t [f32], Error> {
    let found = table.get(row * width..(row + 1) * width);
    found.ok_or_else(|| Error::no_tensor(name, "with a row for each token"))
}

/// A linear layer whose weight is cut into blocks.
struct Linear<'a, S> {
    source: &'a S,
    weight: String,
    bias: &'a [f32],
}

impl<S: Source> CustomOp1 for Linear<'_, S> {
    fn name(&self) -> &'static str {
        "block-sparse-linear"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let (batch, features) = (layout.dims()[0], self.bias.len());
        let mut y = vec![0.0; batch * features];
        let done = self.source.multiply(&self.weight, x, batch, &mut y);
        done.map_err(|error| candle_core::Error::Wrapped(Box::new(error)))?;
        for (y, bias) in y.iter_mut().zip(self.bias.iter().cycle()) {
            *y += bias;
        }
        Ok((CpuStorage::F32(y), Shape::from((batch, features))))
    }
}

/// A layer normalisation.
struct Normalise<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl CustomOp1 for Normalise<'_> {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let width = self.weight.len();
        if layout.dims().last() != Some(&width) || self.bias.len() != width {
            bail!("a norm of {width} features is applied to {:?}", layout.shape());
        }
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            let mean = row.iter().sum::<f32>() / width as f32;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / width as f32;
            let scale = (variance + self.epsilon).sqrt().recip();
            let parts = row.iter().zip(self.weight.iter().zip(self.bias));
            y.extend(parts.map(|(x, (weight, bias))| (x - mean) * scale * weight + bias));
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

/// The elements of activations that lie in a row.
fn contiguous<'s>(storage: &'s CpuStorage, layout: &Layout) -> candle_core::Result<&'s [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice()?[start..end]),
        None => bail!("activations must lie in a row"),
    }
}
