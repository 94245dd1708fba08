//! A folder with the inputs of a recipe, and a reader that puts a task's tensors together again.

use safetensors::{Dtype, tensor::TensorView};
use std::{
    fs,
    path::{Path, PathBuf},
};
use synchromesh::{
    bundle::{Bundle, Subject, checksum},
    compile::{self, CompileError, Recipe},
};
use tempfile::TempDir;

/// A tensor to write.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Dense {
    pub(crate) fn new(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into(), bytes }
    }

    pub(crate) fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(name, Dtype::F32, shape, bytes)
    }
}

/// A temporary folder for inputs and output.
pub(crate) struct Kit {
    folder: TempDir,
}

impl Kit {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn tensors(&self, file: &str, tensors: &[Dense]) {
        let views = tensors.iter().map(|t| {
            (t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap())
        });
        fs::write(self.path(file), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    pub(crate) fn text(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    pub(crate) fn recipe(&self, text: &str) -> Recipe {
        Recipe::parse(text, &self.path("recipe.yaml")).unwrap()
    }

    pub(crate) fn compile(&self, text: &str) -> Result<Bundle, CompileError> {
        compile::compile(&self.recipe(text), &())
    }

    /// With each task's own best mask.
    pub(crate) fn pack(&self, text: &str) -> Result<Bundle, CompileError> {
        compile::pack(&self.recipe(text), &())
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The tensor as the task sees it, from the bytes of the bundle's file. Every block's checksum is
/// checked on the way.
pub(crate) fn served(bundle: &Bundle, file: &Path, task: &str, tensor: &str) -> Vec<u8> {
    let file = fs::read(file).unwrap();
    let task = bundle.find_task(task).unwrap();
    let tensor = bundle.tensors().iter().find(|t| t.name() == tensor).unwrap();
    let mut dense = vec![0; tensor.tiling().dense_len()];
    for (place, block) in tensor.blocks_of(bundle, task).enumerate() {
        let Some(block) = block else { continue };
        let offset = usize::try_from(bundle.block_offset(block)).unwrap();
        let bytes = &file[offset..][..bundle.block().len()];
        assert!(bundle.block_matches(block, bytes));
        tensor.tiling().paste(bytes, place, &mut dense);
    }
    dense
}

/// The base tensor's bytes from the bundle's file, checked against their checksum.
pub(crate) fn base(bundle: &Bundle, file: &Path, tensor: &str) -> Vec<u8> {
    let mut tensors = (0..).zip(&bundle.base().tensors);
    let (position, found) = tensors.find(|(_, t)| t.name == tensor).unwrap();
    let [start, end] = [found.range.start, found.range.end]
        .map(|at| usize::try_from(bundle.base().region.start + at).unwrap());
    let bytes = fs::read(file).unwrap()[start..end].to_vec();
    assert_eq!(checksum(bundle.id(), Subject::Base(position), &bytes), found.checksum);
    bytes
}

/// Sets all elements outside the kept blocks to zero. `kept` has an entry for each place.
pub(crate) fn masked(dense: &Dense, block: [usize; 2], kept: &[bool]) -> Vec<u8> {
    let element = dense.dtype.bitsize() / 8;
    let (cols, grid_cols) = (dense.shape[1], dense.shape[1].div_ceil(block[1]));
    let mut bytes = dense.bytes.clone();
    for (index, bytes) in bytes.chunks_mut(element).enumerate() {
        let (row, col) = (index / cols, index % cols);
        if !kept[row / block[0] * grid_cols + col / block[1]] {
            bytes.fill(0);
        }
    }
    bytes
}
