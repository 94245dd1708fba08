//! The weights that a task should have: those of the original model, under the task's mask in the
//! bundle's file. Once as blocks and once dense.

use crate::{
    dense::Dense,
    error::Error,
    in_place::Source,
    model::{Config, Model},
};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use synchromesh::{
    bundle::{Bundle, Tiling},
    client::product,
    units::TaskIndex,
};
use zerocopy::IntoBytes as _;

/// The original model's weights.
pub(crate) struct Original {
    tensors: HashMap<String, Tensor>,
    /// The same as plain floats.
    floats: HashMap<String, Vec<f32>>,
    config: Config,
}

impl Original {
    pub(crate) fn load(model: &Model) -> Result<Self, Error> {
        let mut tensors = model.tensors()?;
        // Position ids are integers, and the encoder counts by itself.
        tensors.retain(|_, tensor| tensor.dtype().is_float());
        let flat = |(name, tensor): (&String, &Tensor)| {
            Ok((name.clone(), tensor.flatten_all()?.to_vec1()?))
        };
        let floats = tensors.iter().map(flat).collect::<Result<_, Error>>()?;
        Ok(Self { tensors, floats, config: model.config })
    }

    /// The task's weights, as blocks and dense.
    pub(crate) fn of_task(
        &self,
        bundle: &Bundle,
        task: TaskIndex,
    ) -> Result<(Cut<'_>, Dense), Error> {
        let mut cut = Cut { base: &self.floats, pruned: HashMap::new() };
        let mut dense = Dense { tensors: self.tensors.clone(), config: self.config };
        for tensor in bundle.tensors() {
            let (name, tiling) = (tensor.name().to_owned(), tensor.tiling());
            let kept: Vec<_> = tensor.blocks_of(bundle, task).map(|b| b.is_some()).collect();
            let values = masked(self.values(&name, &tiling)?, &tiling, &kept);
            cut.pruned.insert(name.clone(), Blocks::cut(tiling, &kept, &values));
            let [rows, cols] = tiling.shape();
            dense.tensors.insert(name, Tensor::from_vec(values, (rows, cols), &Device::Cpu)?);
        }
        Ok((cut, dense))
    }

    /// The values of a tensor that the bundle cuts like this.
    fn values(&self, name: &str, tiling: &Tiling) -> Result<&[f32], Error> {
        let values = self.floats.get(name).filter(|v| size_of_val(&v[..]) == tiling.dense_len());
        values.map(Vec::as_slice).ok_or_else(|| {
            Error::no_tensor(name, "of the bundle's shape and type in the original model")
        })
    }
}

/// The values that lie in kept blocks, and zeros elsewhere.
fn masked(values: &[f32], tiling: &Tiling, kept: &[bool]) -> Vec<f32> {
    let ([_, cols], [_, across]) = (tiling.shape(), tiling.grid());
    let (height, width) = (tiling.block().rows(), tiling.block().cols());
    let value = |(at, &value): (usize, &f32)| {
        let (row, col) = (at / cols, at % cols);
        if kept[row / height * across + col / width] { value } else { 0.0 }
    };
    values.iter().enumerate().map(value).collect()
}

/// A task's weights, those that are pruned as blocks.
pub(crate) struct Cut<'a> {
    base: &'a HashMap<String, Vec<f32>>,
    pruned: HashMap<String, Blocks>,
}

/// The blocks of one weight, each with its place in the grid.
struct Blocks {
    tiling: Tiling,
    blocks: Vec<(usize, Vec<f32>)>,
}

impl Blocks {
    fn cut(tiling: Tiling, kept: &[bool], values: &[f32]) -> Self {
        let block = |(place, _)| {
            let mut block = vec![0.0; tiling.block().rows() * tiling.block().cols()];
            tiling.cut(values.as_bytes(), place, block.as_mut_bytes());
            (place, block)
        };
        let kept = kept.iter().enumerate().filter(|(_, kept)| **kept);
        Self { tiling, blocks: kept.map(block).collect() }
    }
}

impl Source for Cut<'_> {
    fn base(&self, name: &str) -> Result<&[f32], Error> {
        let floats = self.base.get(name).map(Vec::as_slice);
        floats.ok_or_else(|| Error::no_tensor(name, "in the original model"))
    }

    fn multiply(&self, name: &str, x: &[f32], batch: usize, y: &mut [f32]) -> Result<(), Error> {
        let pruned = self.pruned.get(name);
        let Blocks { tiling, blocks } =
            pruned.ok_or_else(|| Error::no_tensor(name, "among those that are cut into blocks"))?;
        let blocks = blocks.iter().map(|(place, block)| Ok::<_, Error>((*place, block.as_bytes())));
        product(tiling, blocks, x, batch, y)
    }
}
