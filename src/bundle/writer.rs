//! Writes a bundle: sizes are fixed first, then blocks and base tensors arrive in any order, then
//! the tables; the file appears under its name only when it is complete and synced.
//!
//! The same calls give the same bytes.

use super::{
    BlockShape, Bundle, FORMAT, Fault, MAX_BLOCKS, MAX_HEADER_BYTES, MAX_INDEX_BYTES, Meta,
    Subject, checksum, header,
};
use crate::{
    files::AtomicFile,
    units::{BLOCK_ALIGN, BlockIndex, TaskIndex, align_up},
};
use fixedbitset::FixedBitSet;
use rayon::prelude::*;
use safetensors::{Dtype, tensor::TensorInfo};
use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
};
use thiserror::Error;

/// A base tensor to come.
#[derive(Clone, Debug)]
pub struct BaseSpec {
    /// The tensor's name in the model.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: u64,
}

/// An overriding grid to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSpec {
    /// The tensor, by its position in the metadata.
    pub tensor: usize,
    /// The task that has values of its own.
    pub task: TaskIndex,
}

/// The tables that make sense of the blocks.
#[derive(Debug)]
pub struct Tables {
    /// The grid of each tensor, in the order of the metadata.
    pub grids: Vec<Vec<u32>>,
    /// The overriding grids, in the order that was announced.
    pub own: Vec<Vec<u32>>,
    /// Each task's set of blocks, in the order of the metadata.
    pub tasks: Vec<FixedBitSet>,
}

/// Why a bundle could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Writing, syncing or renaming failed; the target is as it was, unless the error says otherwise.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What was announced does not fit the format; nothing was written.
    #[error("this cannot be a bundle: {0}")]
    Limit(#[source] Fault),
    /// What was written does not read back as a valid bundle.
    #[error("what was written is not a valid bundle: {0}")]
    Invalid(#[source] Fault),
}

/// Where a tensor's bytes lie in the file.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    bytes: u64,
}

/// A bundle under construction.
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    meta: Meta,
    header: Vec<u8>,
    base: Vec<Place>,
    /// From the first table to the digest.
    index: Range<u64>,
    checksums: Vec<u64>,
    base_checksums: Vec<u64>,
    written: FixedBitSet,
}

impl Writer {
    /// Fixes the sizes and writes the header.
    ///
    /// # Panics
    /// If an overriding grid is announced for a task or a tensor that is not in the metadata.
    pub fn create(
        target: &Path,
        meta: Meta,
        blocks: u32,
        base: &[BaseSpec],
        own: &[GridSpec],
    ) -> Result<Self, WriteError> {
        if meta.format != FORMAT {
            return Err(WriteError::Limit(Fault::Version(meta.format.into())));
        }
        meta.check().map_err(WriteError::Limit)?;
        if !(1..=MAX_BLOCKS).contains(&u64::from(blocks)) {
            return Err(WriteError::Limit(Fault::blocks(u64::from(blocks))));
        }
        let mut layout = Layout::default();
        layout.blocks(meta.block, blocks)?;
        let base = base.iter().map(|spec| layout.base(spec)).collect::<Result<Vec<_>, _>>()?;
        let index = layout.index(&meta, blocks, base.len(), own)?;
        let header = layout.header(&meta)?;
        let shift = header.len() as u64;
        let file = AtomicFile::create(target)?;
        file.file().write_all_at(&header, 0)?;
        let base: Vec<_> =
            base.into_iter().map(|at| Place { offset: at.offset + shift, ..at }).collect();
        Ok(Self {
            checksums: vec![0; blocks as usize],
            base_checksums: vec![0; base.len()],
            written: FixedBitSet::with_capacity(blocks as usize + base.len()),
            index: index.start + shift..index.end + shift,
            file,
            meta,
            header,
            base,
        })
    }

    /// Writes a block.
    ///
    /// # Panics
    /// If the index or the length is not what was announced.
    pub fn block(&mut self, index: BlockIndex, bytes: &[u8]) -> Result<(), WriteError> {
        self.blocks(&[index], bytes)
    }

    /// Writes blocks, one after another in `bytes`; neighbours go out in one piece.
    ///
    /// # Panics
    /// If an index or the length is not what was announced.
    pub fn blocks(&mut self, indices: &[BlockIndex], bytes: &[u8]) -> Result<(), WriteError> {
        let len = self.meta.block.len();
        assert_eq!(bytes.len(), indices.len() * len, "a block has the announced size");
        let id = self.meta.bundle_id;
        let blocks = indices.par_iter().zip(bytes.par_chunks(len));
        let sums = blocks.map(|(&index, bytes)| checksum(id, Subject::Block(index), bytes));
        for (index, sum) in indices.iter().zip(sums.collect::<Vec<_>>()) {
            self.checksums[index.index()] = sum;
            self.written.insert(index.index());
        }
        // One after another: writes to one file wait for each other anyway.
        let mut rest = bytes;
        for run in indices.chunk_by(|a, b| a.0.checked_add(1) == Some(b.0)) {
            let (bytes, behind) = rest.split_at(run.len() * len);
            rest = behind;
            let offset = self.header.len() as u64 + u64::from(run[0].0) * self.meta.block.bytes();
            self.file.file().write_all_at(bytes, offset)?;
        }
        Ok(())
    }

    /// Writes a base tensor.
    ///
    /// # Panics
    /// If the position or the length is not what was announced.
    pub fn base(&mut self, position: u32, bytes: &[u8]) -> Result<(), WriteError> {
        let at = position as usize;
        let place = self.base[at];
        assert_eq!(bytes.len() as u64, place.bytes, "a tensor has the announced size");
        self.file.file().write_all_at(bytes, place.offset)?;
        self.base_checksums[at] = checksum(self.meta.bundle_id, Subject::Base(position), bytes);
        self.written.insert(self.checksums.len() + at);
        Ok(())
    }

    /// Writes the tables, reads the index back as any reader would, and commits the file.
    ///
    /// # Panics
    /// If a block or a base tensor was not written, or the tables are not what was announced.
    pub fn finish(self, tables: &Tables) -> Result<Bundle, WriteError> {
        assert!(self.written.is_full(), "every block and every base tensor is written");
        let mut index = Vec::new();
        extend_u64(&mut index, &self.checksums);
        extend_u64(&mut index, &self.base_checksums);
        for grid in tables.grids.iter().chain(&tables.own) {
            index.extend(grid.iter().flat_map(|block| block.to_le_bytes()));
        }
        for set in &tables.tasks {
            let bytes = set.as_slice().iter().flat_map(|word| word.to_le_bytes());
            index.extend(bytes.take(self.checksums.len().div_ceil(8)));
        }
        let announced = self.index.end - self.index.start;
        assert_eq!(index.len() as u64, announced, "the tables have the announced sizes");
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.header).update(&index);
        index.extend_from_slice(hasher.finalize().as_bytes());
        self.file.file().write_all_at(&index, self.index.start)?;
        let bundle = Bundle::from_file(self.file.file(), self.file.path());
        let bundle = bundle.map_err(|error| match error {
            super::OpenError::Refused { source, .. } => WriteError::Invalid(source),
            other => WriteError::Io(io::Error::other(other)),
        })?;
        self.file.commit()?;
        Ok(bundle)
    }
}

fn extend_u64(index: &mut Vec<u8>, values: &[u64]) {
    index.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// Lays tensors out one after another, relative to the start of the data.
#[derive(Default)]
struct Layout {
    end: u64,
    paddings: u32,
    tensors: Vec<(String, TensorInfo)>,
}

impl Layout {
    fn blocks(&mut self, block: BlockShape, count: u32) -> Result<(), WriteError> {
        let shape = vec![count as usize, block.rows(), block.cols()];
        self.push("blocks".into(), block.dtype(), shape, u64::from(count) * block.bytes())?;
        Ok(())
    }

    fn base(&mut self, spec: &BaseSpec) -> Result<Place, WriteError> {
        if spec.bytes == 0 {
            return Err(WriteError::Limit(Fault::TensorSize(spec.name.clone())));
        }
        self.pad()?;
        self.push(format!("base/{}", spec.name), spec.dtype, spec.shape.clone(), spec.bytes)
    }

    /// Lays out the index and gives the place of what its digest covers.
    fn index(
        &mut self,
        meta: &Meta,
        blocks: u32,
        base: usize,
        own: &[GridSpec],
    ) -> Result<Range<u64>, WriteError> {
        self.pad()?;
        let start = self.end;
        self.push_table("index/checksum".into(), Dtype::U64, vec![blocks as usize])?;
        self.push_table("index/base".into(), Dtype::U64, vec![base])?;
        let overflow = |name: &str| WriteError::Limit(Fault::TensorSize(name.to_owned()));
        let mut grids = Vec::with_capacity(meta.tensors.len());
        for tensor in &meta.tensors {
            let tiling = super::Tiling::new(tensor.shape, meta.block);
            let grid = tiling.ok_or_else(|| overflow(&tensor.name))?.grid().to_vec();
            self.push_table(format!("grid/{}", tensor.name), Dtype::U32, grid.clone())?;
            grids.push(grid);
        }
        for spec in own {
            let task = &meta.tasks[spec.task.index()].name;
            let tensor = &meta.tensors[spec.tensor].name;
            let grid = grids[spec.tensor].clone();
            self.push_table(format!("own/{task}/{tensor}"), Dtype::U32, grid)?;
        }
        for task in &meta.tasks {
            let bytes = (blocks as usize).div_ceil(8);
            self.push_table(format!("tasks/{}", task.name), Dtype::U8, vec![bytes])?;
        }
        let end = self.end;
        if end - start > MAX_INDEX_BYTES {
            return Err(WriteError::Limit(Fault::IndexLength(end - start)));
        }
        self.push_table("index/digest".into(), Dtype::U8, vec![blake3::OUT_LEN])?;
        Ok(start..end)
    }

    fn push_table(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
    ) -> Result<(), WriteError> {
        let element = dtype.bitsize() / 8;
        let bytes = shape.iter().try_fold(element, |bytes, &n| bytes.checked_mul(n));
        let bytes = bytes.ok_or_else(|| WriteError::Limit(Fault::TensorSize(name.clone())))?;
        self.push(name, dtype, shape, bytes as u64)?;
        Ok(())
    }

    fn pad(&mut self) -> Result<(), WriteError> {
        let gap = align_up(self.end, BLOCK_ALIGN).map_or(0, |aligned| aligned - self.end);
        if gap > 0 {
            let name = format!("pad/{}", self.paddings);
            self.paddings += 1;
            let shape = vec![usize::try_from(gap).map_err(io::Error::other)?];
            self.push(name, Dtype::U8, shape, gap)?;
        }
        Ok(())
    }

    fn push(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: u64,
    ) -> Result<Place, WriteError> {
        let overflow = || WriteError::Limit(Fault::TensorSize(name.clone()));
        let offset = self.end;
        // No file is longer; so neither padding nor the header in front can overflow.
        let fits = |end: &u64| i64::try_from(*end).is_ok();
        let end = offset.checked_add(bytes).filter(fits).ok_or_else(overflow)?;
        let [start, stop] = [offset, end].map(usize::try_from);
        let data_offsets = (start.map_err(|_| overflow())?, stop.map_err(|_| overflow())?);
        self.end = end;
        self.tensors.push((name, TensorInfo { dtype, shape, data_offsets }));
        Ok(Place { offset, bytes })
    }

    /// The header with its length in front, filled up with spaces to the alignment.
    fn header(self, meta: &Meta) -> Result<Vec<u8>, WriteError> {
        let mut names = HashSet::new();
        if let Some((twice, _)) = self.tensors.iter().find(|(name, _)| !names.insert(name)) {
            return Err(WriteError::Limit(Fault::Duplicate(twice.clone())));
        }
        let meta = serde_json::to_string(meta).map_err(io::Error::other)?;
        let entries = HashMap::from([("synchromesh".to_owned(), meta)]);
        let header = header(Some(entries), self.tensors)
            .map_err(|error| WriteError::Limit(Fault::Safetensors(error)))?;
        let len = header.len() as u64 - 8;
        if len > MAX_HEADER_BYTES {
            return Err(WriteError::Limit(Fault::HeaderLength(len)));
        }
        Ok(header)
    }
}
