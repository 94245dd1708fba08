//! Weights as dense tensors of candle, and nothing of Synchromesh: what everything else is compared
//! with.

use crate::{encoder::Weights, error::Error, model::Config};
use candle_core::{D, Device, Tensor};
use std::collections::HashMap;

/// All weights by name.
pub(crate) struct Dense {
    pub(crate) tensors: HashMap<String, Tensor>,
    pub(crate) config: Config,
}

impl Dense {
    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.tensors.get(name).ok_or_else(|| Error::no_tensor(name, "in the original model"))
    }
}

impl Weights for Dense {
    fn embed(&self, ids: &[u32]) -> Result<Tensor, Error> {
        let table = |kind: &str| self.tensor(&format!("embeddings.{kind}_embeddings.weight"));
        let words = table("word")?.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let positions = table("position")?.narrow(0, 0, ids.len())?;
        let kind = table("token_type")?.narrow(0, 0, 1)?;
        Ok((words + positions)?.broadcast_add(&kind)?)
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let weight = self.tensor(&format!("{name}.weight"))?;
        let bias = self.tensor(&format!("{name}.bias"))?;
        Ok(x.matmul(&weight.t()?)?.broadcast_add(bias)?)
    }

    fn normalise(&self, name: &str, x: &Tensor) -> Result<Tensor, Error> {
        let weight = self.tensor(&format!("{name}.LayerNorm.weight"))?;
        let bias = self.tensor(&format!("{name}.LayerNorm.bias"))?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = centred.broadcast_div(&(variance + self.config.layer_norm_eps)?.sqrt()?)?;
        Ok(scaled.broadcast_mul(weight)?.broadcast_add(bias)?)
    }
}
