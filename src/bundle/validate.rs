//! The second half of the way from bytes to a [`Bundle`]: an [`Outline`] and the bytes of its index
//! become what the program trusts, here alone.
//!
//! Nothing is copied from the index: the bundle reads its tables where they were checked.

use super::{
    ABSENT, Base, BaseTensor, Bundle, Fault, IndexBytes, MAX_BLOCKS, Outline, PrunedTensor, Tiling,
    table::{Table, TaskSet, Value},
};
use crate::units::{BLOCK_ALIGN, TaskIndex};
use fixedbitset::FixedBitSet;
use std::collections::{BTreeMap, HashSet};
use zerocopy::little_endian as le;

impl Outline {
    /// Checks the index, of which these are the bytes from [`index`](Self::index), against the
    /// header and itself.
    pub fn validate(self, index: IndexBytes) -> Result<Bundle, Fault> {
        let claims = Claims { outline: &self, index };
        claims.check_digest()?;
        claims.check_names()?;
        let blocks = claims.check_blocks()?;
        let checksums = claims.table("index/checksum", &[blocks])?;
        let base = claims.read_base()?;
        let tasks = claims.read_tasks(blocks)?;
        let tensors = claims.read_tensors(blocks, &tasks)?;
        check_every_block_is_placed(&tensors, blocks)?;
        let blocks_offset = self.in_file(0);
        Ok(Bundle { meta: self.meta, checksums, tasks, tensors, base, blocks_offset })
    }
}

/// What header and index claim together.
struct Claims<'a> {
    outline: &'a Outline,
    index: IndexBytes,
}

/// The overriding grids of each tensor: whose, and under which name.
type Owners<'n> = BTreeMap<&'n str, Vec<(TaskIndex, &'n str)>>;

impl Claims<'_> {
    fn check_digest(&self) -> Result<(), Fault> {
        let stored = self.table::<u8>("index/digest", &[blake3::OUT_LEN])?;
        let covered = (*self.index).as_ref().get(..self.outline.index.len());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.outline.header).update(covered.unwrap_or_default());
        if hasher.finalize().as_bytes() == &*stored { Ok(()) } else { Err(Fault::Digest) }
    }

    /// Checks that every tensor is one that the metadata speaks of, and that none is both in the
    /// base and cut into blocks.
    fn check_names(&self) -> Result<(), Fault> {
        let meta = &self.outline.meta;
        let tasks: HashSet<_> = meta.tasks.iter().map(|task| task.name.as_str()).collect();
        let tensors: HashSet<_> = meta.tensors.iter().map(|t| t.name.as_str()).collect();
        for name in &self.outline.names {
            let known = match name.split_once('/') {
                Some(("base", tensor)) if tensors.contains(tensor) => {
                    return Err(Fault::Duplicate(tensor.to_owned()));
                }
                Some(("grid", tensor)) => tensors.contains(tensor),
                Some(("own", rest)) => rest
                    .split_once('/')
                    .is_some_and(|(task, tensor)| tasks.contains(task) && tensors.contains(tensor)),
                Some(("tasks", task)) => tasks.contains(task),
                _ => true,
            };
            if !known {
                return Err(Fault::Unexpected(name.clone()));
            }
        }
        Ok(())
    }

    /// Checks the tensor of blocks and gives their number.
    fn check_blocks(&self) -> Result<usize, Fault> {
        let info = self.outline.info("blocks")?;
        let count = info.shape.first().copied().unwrap_or(0);
        if !(1..=MAX_BLOCKS).contains(&(count as u64)) {
            return Err(Fault::blocks(count as u64));
        }
        let block = self.outline.meta.block;
        self.outline.typed("blocks", block.dtype(), &[count, block.rows(), block.cols()])?;
        Ok(count)
    }

    fn read_base(&self) -> Result<Base, Fault> {
        let Outline { names, .. } = self.outline;
        let names: Vec<_> = names.iter().filter(|name| name.starts_with("base/")).collect();
        let checksums = self.table::<le::U64>("index/base", &[names.len()])?;
        let mut region = 0..0;
        let mut tensors = Vec::with_capacity(names.len());
        for (name, checksum) in names.into_iter().zip(&*checksums) {
            let info = self.outline.info(name)?;
            let (start, end) = info.data_offsets;
            let [start, end] = [start, end].map(|at| self.outline.in_file(at));
            if !start.is_multiple_of(BLOCK_ALIGN) {
                return Err(Fault::Misaligned { what: format!("tensor {name:?}"), offset: start });
            }
            if start == end {
                return Err(Fault::TensorSize(name["base/".len()..].to_owned()));
            }
            if tensors.is_empty() {
                region.start = start;
            }
            region.end = end;
            tensors.push(BaseTensor {
                name: name["base/".len()..].to_owned(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                range: start - region.start..end - region.start,
                checksum: checksum.get(),
            });
        }
        Ok(Base { region, tensors })
    }

    fn read_tasks(&self, blocks: usize) -> Result<Vec<TaskSet>, Fault> {
        let mut sets = Vec::with_capacity(self.outline.meta.tasks.len());
        for task in &self.outline.meta.tasks {
            let wrong = |problem| Fault::Task { task: task.name.clone(), problem };
            let bits = self.table::<u8>(&format!("tasks/{}", task.name), &[blocks.div_ceil(8)])?;
            let used = (blocks - 1) % 8 + 1;
            if bits.last().is_some_and(|&last| u16::from(last) >> used != 0) {
                return Err(wrong("has bits set past the last block"));
            }
            let set = TaskSet::new(bits);
            match set.count() {
                0 => return Err(wrong("has no blocks")),
                count if count != task.blocks => {
                    return Err(wrong("has another number of blocks than its metadata says"));
                }
                _ => sets.push(set),
            }
        }
        Ok(sets)
    }

    fn read_tensors(&self, blocks: usize, tasks: &[TaskSet]) -> Result<Vec<PrunedTensor>, Fault> {
        let Outline { meta, .. } = self.outline;
        let mut owners = self.owners();
        let mut tensors = Vec::with_capacity(meta.tensors.len());
        for tensor in &meta.tensors {
            let tiling = Tiling::new(tensor.shape, meta.block)
                .ok_or_else(|| Fault::TensorSize(tensor.name.clone()))?;
            let grid = self.grid(&format!("grid/{}", tensor.name), tiling, blocks)?;
            let mut own = Vec::new();
            for (task, name) in owners.remove(tensor.name.as_str()).unwrap_or_default() {
                let grid = self.grid(name, tiling, blocks)?;
                let members = tasks[task.index()].members();
                if let Some(block) = placed(&grid).find(|&block| !members.contain(block)) {
                    return Err(Fault::OwnBlock { name: name.to_owned(), block });
                }
                own.push((task, grid));
            }
            tensors.push(PrunedTensor { name: tensor.name.clone(), tiling, grid, own });
        }
        Ok(tensors)
    }

    /// Sorts the overriding grids, named `own/<task>/<tensor>`, by tensor.
    fn owners(&self) -> Owners<'_> {
        let mut owners = Owners::new();
        for name in &self.outline.names {
            let Some(rest) = name.strip_prefix("own/") else { continue };
            for (position, task) in (0..).zip(&self.outline.meta.tasks) {
                let tensor = rest.strip_prefix(&task.name).and_then(|rest| rest.strip_prefix('/'));
                if let Some(tensor) = tensor {
                    owners.entry(tensor).or_default().push((TaskIndex(position), name.as_str()));
                }
            }
        }
        owners
    }

    fn grid(&self, name: &str, tiling: Tiling, blocks: usize) -> Result<Table<le::U32>, Fault> {
        let grid = self.table(name, &tiling.grid())?;
        let beyond = placed(&grid).find(|&block| block as usize >= blocks);
        match beyond {
            Some(block) => {
                Err(Fault::BlockIndex { name: name.to_owned(), block, blocks: blocks as u64 })
            }
            None => Ok(grid),
        }
    }

    /// A tensor of the index that must have this type and shape.
    fn table<T: Value>(&self, name: &str, shape: &[usize]) -> Result<Table<T>, Fault> {
        let (start, end) = self.outline.typed(name, T::DTYPE, shape)?.data_offsets;
        let first = self.outline.index.start;
        let range = start.checked_sub(first).map(|start| start..end - first);
        let table = range.and_then(|range| Table::new(&self.index, range));
        table.ok_or_else(|| Fault::OutOfOrder(name.to_owned()))
    }
}

/// The blocks that a grid names.
fn placed(grid: &[le::U32]) -> impl Iterator<Item = u32> {
    grid.iter().map(|block| block.get()).filter(|&block| block != ABSENT)
}

fn check_every_block_is_placed(tensors: &[PrunedTensor], blocks: usize) -> Result<(), Fault> {
    let mut found = FixedBitSet::with_capacity(blocks);
    for tensor in tensors {
        let grids = std::iter::once(&tensor.grid).chain(tensor.own.iter().map(|(_, grid)| grid));
        grids.flat_map(|grid| placed(grid)).for_each(|block| found.insert(block as usize));
    }
    match found.zeroes().next() {
        Some(orphan) => Err(Fault::Orphan(orphan)),
        None => Ok(()),
    }
}
