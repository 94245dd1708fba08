//! The model that the demo is about: one that it makes, or the user's file.
//!
//! Says which tensors are cut and into which blocks; cuts nothing.

use super::{
    Stop, random,
    tensors::{self, Spec, TensorFile},
};
use crate::{
    bundle::BlockShape,
    cli::{failure::Failure, progress},
};
use safetensors::Dtype;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// The shape of the model that is made: 10 layers of 24.5 MiB and 11 MiB of embedding in bf16.
const LAYERS: usize = 10;
const HIDDEN: usize = 1024;
const MLP: usize = 2816;
const VOCABULARY: usize = 5632;

/// The model's name within the temporary folder.
pub(super) const FILE: &str = "model.safetensors";

/// A model, and what is done with it.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) file: TensorFile,
    /// The user's file; `None` if the model was made.
    pub(super) given: Option<PathBuf>,
    pub(super) block: BlockShape,
    /// The tensors that are cut: two-dimensional, all of one type.
    pub(super) pruned: Vec<Spec>,
}

/// The bytes of the model that [`Subject::make`] writes.
pub(super) fn made_bytes() -> u64 {
    specs(LAYERS).iter().map(|spec| spec.bytes() as u64).sum()
}

/// Tensors in the manner of today's transformers: linears as `[out, in]`.
fn specs(layers: usize) -> Vec<Spec> {
    let bf16 = |name: String, shape: &[usize]| Spec::new(name, Dtype::BF16, shape);
    let mut specs = vec![bf16("model.embed_tokens.weight".into(), &[VOCABULARY, HIDDEN])];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        specs.push(bf16(name("input_layernorm"), &[HIDDEN]));
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            specs.push(bf16(name(&format!("self_attn.{part}")), &[HIDDEN, HIDDEN]));
        }
        specs.push(bf16(name("post_attention_layernorm"), &[HIDDEN]));
        specs.push(bf16(name("mlp.gate_proj"), &[MLP, HIDDEN]));
        specs.push(bf16(name("mlp.up_proj"), &[MLP, HIDDEN]));
        specs.push(bf16(name("mlp.down_proj"), &[HIDDEN, MLP]));
    }
    specs.push(bf16("model.norm.weight".into(), &[HIDDEN]));
    specs
}

fn content(spec: &Spec) -> Vec<u8> {
    match *spec.shape {
        [rows, cols] => random::weight(&spec.name, rows, cols),
        _ => random::gains(&spec.name, spec.elements()),
    }
}

impl Subject {
    /// Makes a model in the folder.
    pub(super) fn make(folder: &Path, stop: &Stop) -> Result<Self, Failure> {
        let bar = progress::bar("make", made_bytes());
        let path = folder.join(FILE);
        let written = tensors::write(&path, &specs(LAYERS), stop, |spec| {
            bar.inc(spec.bytes() as u64);
            content(spec)
        });
        bar.finish_and_clear();
        written?;
        let file = TensorFile::open(&path)?;
        let layers = file.specs().filter(|spec| spec.name.contains("_proj"));
        let pruned = layers.cloned().collect();
        Ok(Self { file, given: None, block: block_of(Dtype::BF16)?, pruned })
    }

    /// Takes the user's model: its two-dimensional tensors of the type that most of it has are
    /// cut.
    pub(super) fn given(path: &Path) -> Result<Self, Failure> {
        let file = TensorFile::open(path)?;
        let Some(dtype) = majority(&file) else {
            return Err(Failure::usage(format!(
                "{} has no two-dimensional tensor of F32, F16 or BF16, so there is nothing to cut",
                path.display()
            )));
        };
        let pruned = file.specs().filter(|spec| is_linear(spec) && spec.dtype == dtype);
        let pruned = pruned.cloned().collect();
        Ok(Self { file, given: Some(path.to_owned()), block: block_of(dtype)?, pruned })
    }

    /// Lets the user's model be found in the folder, as the made one is.
    pub(super) fn link_into(&self, folder: &Path) -> Result<(), Failure> {
        let Some(path) = &self.given else { return Ok(()) };
        let path = fs::canonicalize(path).map_err(Failure::failed)?;
        symlink(path, folder.join(FILE)).map_err(Failure::failed)
    }

    /// Input channels of a tensor that is cut.
    pub(super) fn channels(spec: &Spec) -> usize {
        spec.shape.get(1).copied().unwrap_or_default()
    }
}

fn is_linear(spec: &Spec) -> bool {
    let float = matches!(spec.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    float && spec.shape.len() == 2 && spec.elements() > 0
}

/// The type of most elements in two-dimensional tensors of floats.
fn majority(file: &TensorFile) -> Option<Dtype> {
    let mut elements = BTreeMap::<Dtype, usize>::new();
    for spec in file.specs().filter(|spec| is_linear(spec)) {
        *elements.entry(spec.dtype).or_default() += spec.elements();
    }
    elements.into_iter().max_by_key(|&(_, count)| count).map(|(dtype, _)| dtype)
}

/// Square blocks of one or two pages.
fn block_of(dtype: Dtype) -> Result<BlockShape, Failure> {
    let side = if dtype == Dtype::F32 { 32 } else { 64 };
    BlockShape::new(side, side, dtype).map_err(Failure::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_that_is_made_has_about_256_mib() {
        assert_eq!(made_bytes() >> 20, 256);
    }

    #[test]
    fn the_type_of_most_elements_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let specs = [
            Spec::new("small", Dtype::BF16, &[64, 64]),
            Spec::new("large", Dtype::F32, &[64, 65]),
            Spec::new("long", Dtype::F16, &[10_000]),
            Spec::new("ids", Dtype::I64, &[100, 100]),
        ];
        tensors::write(&path, &specs, &Stop::never(), |spec| vec![0; spec.bytes()]).unwrap();
        let subject = Subject::given(&path).unwrap();
        assert_eq!(subject.block.bytes(), 4096);
        let names: Vec<_> = subject.pruned.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["large"]);
    }

    #[test]
    fn a_model_with_nothing_to_cut_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let specs = [Spec::new("ids", Dtype::I64, &[10, 10]), Spec::new("v", Dtype::F32, &[7])];
        tensors::write(&path, &specs, &Stop::never(), |spec| vec![0; spec.bytes()]).unwrap();
        assert!(Subject::given(&path).is_err());
    }
}
