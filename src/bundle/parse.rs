//! From bytes to a [`Bundle`]: [`Raw`] is what a file claims, and [`Raw::validate`] is the only
//! way from there to what the program trusts.
//!
//! Reads header and index only. Every size is bounded before anything is allocated from it.

use super::{
    ABSENT, Base, BaseTensor, Bundle, FORMAT, Fault, MAX_BLOCKS, MAX_HEADER_BYTES, MAX_INDEX_BYTES,
    Meta, OpenError, PrunedTensor, Tiling,
};
use crate::{
    files::open_regular,
    units::{BLOCK_ALIGN, TaskIndex, align_up},
};
use fixedbitset::FixedBitSet;
use memmap2::Mmap;
use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};
use serde::{Deserialize, Deserializer, de};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::File,
    path::Path,
};
use zerocopy::{FromBytes as _, little_endian as le};

impl Bundle {
    /// Opens a bundle and checks its header and index. The blocks are not read.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::from_file(&open(path)?, path)
    }

    /// Like [`open`](Self::open) for a file that is open already; `path` is for messages.
    pub fn from_file(file: &File, path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        let map = map(file).map_err(io)?;
        Self::parse(&map).map_err(|source| OpenError::Refused { path: path.to_owned(), source })
    }

    /// Checks the bytes of a whole bundle and takes over its index.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        Raw::read(bytes)?.validate()
    }
}

/// Opens a file that should be a bundle.
pub fn open(path: &Path) -> Result<File, OpenError> {
    open_regular(path).map_err(|source| OpenError::Io { path: path.to_owned(), source })
}

#[expect(unsafe_code, reason = "a file mapping is shared with whoever may write the file")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping lives until `Bundle::parse` has copied header and index, which it does
    // before it looks at them, so that a file that changes meanwhile yields one state or fails its
    // digest. Padding alone is compared in place, byte by byte, where any value will do. A file
    // that is cut off in that moment stops the program with SIGBUS, as it would any reader of a
    // mapping: the config refuses bundles that others may write, and `pack` replaces files, never
    // cuts them.
    unsafe { Mmap::map(file) }
}

/// What a file claims to hold. Header and index are copies: the bytes that are checked are those
/// that are used, even if somebody changes the file meanwhile.
struct Raw<'a> {
    /// All bytes before the data.
    header: Vec<u8>,
    data: &'a [u8],
    /// Where the index begins in the data, and all from there on.
    index: (usize, Vec<u8>),
    tensors: Metadata,
    meta: Meta,
}

impl<'a> Raw<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let len = bytes.len() as u64;
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(Fault::Truncated { len, needed: 8 });
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER_BYTES {
            return Err(Fault::HeaderLength(length));
        }
        let needed = 8 + length;
        let Some((json, data)) =
            usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n))
        else {
            return Err(Fault::Truncated { len, needed });
        };
        let mut header = length.to_le_bytes().to_vec();
        header.extend_from_slice(json);
        let json = str::from_utf8(&header[8..]).map_err(SafeTensorError::InvalidHeader)?;
        refuse_duplicates(json)?;
        // Not `SafeTensors::read_metadata`: its sum of the lengths can overflow.
        let tensors: Metadata =
            serde_json::from_str(json).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
        if tensors.data_len() != data.len() {
            let [claimed, found] = [tensors.data_len(), data.len()].map(|n| n as u64);
            return Err(Fault::DataLength { claimed, found });
        }
        let meta = read_meta(&tensors)?;
        if !needed.is_multiple_of(BLOCK_ALIGN) {
            return Err(Fault::Misaligned { what: "the data".into(), offset: needed });
        }
        Ok(Self { header, data, index: (data.len(), Vec::new()), tensors, meta })
    }

    fn validate(mut self) -> Result<Bundle, Fault> {
        self.meta.check()?;
        let names = self.tensors.offset_keys();
        let index = self.check_order(&names)?;
        self.index = (index.start, self.data[index.start..].to_vec());
        self.check_digest(index.len())?;
        self.check_names(&names)?;
        let blocks = self.check_blocks()?;
        let checksums = self.u64s("index/checksum", blocks)?;
        let base = self.read_base(&names)?;
        let tasks = self.read_tasks(blocks)?;
        let tensors = self.read_tensors(&names, blocks, &tasks)?;
        check_every_block_is_placed(&tensors, blocks)?;
        let blocks_offset = self.header.len() as u64;
        Ok(Bundle { meta: self.meta, checksums, tasks, tensors, base, blocks_offset })
    }

    /// Checks that tensors come in the order blocks, base, index, digest, and gives the index's
    /// range within the data.
    fn check_order(&self, names: &[String]) -> Result<std::ops::Range<usize>, Fault> {
        let mut reached = Section::Blocks;
        let mut index_start = None;
        for name in names {
            let section = Section::of(name).ok_or_else(|| Fault::Unexpected(name.clone()))?;
            if section == Section::Padding {
                self.check_padding(name)?;
                continue;
            }
            if section < reached {
                return Err(Fault::OutOfOrder(name.clone()));
            }
            reached = section;
            if section == Section::Index {
                index_start.get_or_insert(self.info(name)?.data_offsets.0);
            }
        }
        let digest = self.info("index/digest")?.data_offsets;
        if digest.1 != self.data.len() {
            return Err(Fault::OutOfOrder("index/digest".into()));
        }
        let index = index_start.unwrap_or(digest.0)..digest.0;
        match index.len() as u64 {
            ..=MAX_INDEX_BYTES => Ok(index),
            len => Err(Fault::IndexLength(len)),
        }
    }

    /// Checks that padding is what the alignment of the next tensor needs, and zero. So there is
    /// none before the blocks, and nothing is hidden where no checksum looks.
    fn check_padding(&self, name: &str) -> Result<(), Fault> {
        let (start, end) = self.info(name)?.data_offsets;
        let needed = align_up(start as u64, BLOCK_ALIGN) == Some(end as u64) && start < end;
        if needed && self.data[start..end].iter().all(|&byte| byte == 0) {
            Ok(())
        } else {
            Err(Fault::Padding(name.to_owned()))
        }
    }

    fn check_digest(&self, index_len: usize) -> Result<(), Fault> {
        let stored = self.table("index/digest", Dtype::U8, &[blake3::OUT_LEN])?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.header).update(&self.index.1[..index_len]);
        if hasher.finalize().as_bytes() == stored { Ok(()) } else { Err(Fault::Digest) }
    }

    /// Checks that every tensor is one that the metadata speaks of, and that none is both in the
    /// base and cut into blocks.
    fn check_names(&self, names: &[String]) -> Result<(), Fault> {
        let tasks: HashSet<_> = self.meta.tasks.iter().map(|task| task.name.as_str()).collect();
        let tensors: HashSet<_> = self.meta.tensors.iter().map(|t| t.name.as_str()).collect();
        for name in names {
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
        let info = self.info("blocks")?;
        let count = info.shape.first().copied().unwrap_or(0);
        if !(1..=MAX_BLOCKS).contains(&(count as u64)) {
            return Err(Fault::blocks(count as u64));
        }
        let block = self.meta.block;
        self.typed("blocks", block.dtype(), &[count, block.rows(), block.cols()])?;
        Ok(count)
    }

    fn read_base(&self, names: &[String]) -> Result<Base, Fault> {
        let names: Vec<_> = names.iter().filter(|name| name.starts_with("base/")).collect();
        let checksums = self.u64s("index/base", names.len())?;
        let mut region = 0..0;
        let mut tensors = Vec::with_capacity(names.len());
        for (name, checksum) in names.into_iter().zip(checksums) {
            let info = self.info(name)?;
            let [start, end] = [info.data_offsets.0, info.data_offsets.1].map(|n| self.in_file(n));
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
                checksum,
            });
        }
        Ok(Base { region, tensors })
    }

    fn read_tasks(&self, blocks: usize) -> Result<Vec<FixedBitSet>, Fault> {
        let mut sets = Vec::with_capacity(self.meta.tasks.len());
        for task in &self.meta.tasks {
            let wrong = |problem| Fault::Task { task: task.name.clone(), problem };
            let bytes =
                self.table(&format!("tasks/{}", task.name), Dtype::U8, &[blocks.div_ceil(8)])?;
            let used = (blocks - 1) % 8 + 1;
            if bytes.last().is_some_and(|&last| u16::from(last) >> used != 0) {
                return Err(wrong("has bits set past the last block"));
            }
            let words = bytes.chunks(size_of::<usize>()).map(|chunk| {
                let mut word = [0; size_of::<usize>()];
                word[..chunk.len()].copy_from_slice(chunk);
                usize::from_le_bytes(word)
            });
            let set = FixedBitSet::with_capacity_and_blocks(blocks, words);
            if set.is_clear() {
                return Err(wrong("has no blocks"));
            }
            if set.count_ones(..) as u64 != task.blocks {
                return Err(wrong("has another number of blocks than its metadata says"));
            }
            sets.push(set);
        }
        Ok(sets)
    }

    fn read_tensors(
        &self,
        names: &[String],
        blocks: usize,
        tasks: &[FixedBitSet],
    ) -> Result<Vec<PrunedTensor>, Fault> {
        let mut owners = self.owners(names);
        let mut tensors = Vec::with_capacity(self.meta.tensors.len());
        for tensor in &self.meta.tensors {
            let tiling = Tiling::new(tensor.shape, self.meta.block)
                .ok_or_else(|| Fault::TensorSize(tensor.name.clone()))?;
            let grid = self.grid(&format!("grid/{}", tensor.name), tiling, blocks)?;
            let mut own = Vec::new();
            for (task, name) in owners.remove(tensor.name.as_str()).unwrap_or_default() {
                let grid = self.grid(name, tiling, blocks)?;
                let set = &tasks[task.index()];
                if let Some(&block) =
                    grid.iter().find(|&&b| b != ABSENT && !set.contains(b as usize))
                {
                    return Err(Fault::OwnBlock { name: name.to_owned(), block });
                }
                own.push((task, grid));
            }
            tensors.push(PrunedTensor { name: tensor.name.clone(), tiling, grid, own });
        }
        Ok(tensors)
    }

    /// Sorts the overriding grids, named `own/<task>/<tensor>`, by tensor.
    fn owners<'n>(&self, names: &'n [String]) -> Owners<'n> {
        let mut owners = Owners::new();
        for name in names {
            let Some(rest) = name.strip_prefix("own/") else { continue };
            for (position, task) in (0..).zip(&self.meta.tasks) {
                let tensor = rest.strip_prefix(&task.name).and_then(|rest| rest.strip_prefix('/'));
                if let Some(tensor) = tensor {
                    owners.entry(tensor).or_default().push((TaskIndex(position), name.as_str()));
                }
            }
        }
        owners
    }

    fn grid(&self, name: &str, tiling: Tiling, blocks: usize) -> Result<Vec<u32>, Fault> {
        let bytes = self.table(name, Dtype::U32, &tiling.grid())?;
        let grid: Vec<u32> = as_table::<le::U32>(bytes).iter().map(|value| value.get()).collect();
        match grid.iter().find(|&&block| block != ABSENT && block as usize >= blocks) {
            Some(&block) => {
                Err(Fault::BlockIndex { name: name.to_owned(), block, blocks: blocks as u64 })
            }
            None => Ok(grid),
        }
    }

    fn u64s(&self, name: &str, count: usize) -> Result<Vec<u64>, Fault> {
        let bytes = self.table(name, Dtype::U64, &[count])?;
        Ok(as_table::<le::U64>(bytes).iter().map(|value| value.get()).collect())
    }

    /// A tensor of the index that must have this type and shape.
    fn table(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&[u8], Fault> {
        let (start, end) = self.typed(name, dtype, shape)?.data_offsets;
        let (index_start, index) = &self.index;
        let range = start.checked_sub(*index_start).map(|start| start..end - index_start);
        range.and_then(|range| index.get(range)).ok_or_else(|| Fault::OutOfOrder(name.to_owned()))
    }

    /// What is said of a tensor that must have this type and shape. That its offsets lie within the
    /// data and agree with type and shape, the safetensors crate has checked.
    fn typed(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<&TensorInfo, Fault> {
        let info = self.info(name)?;
        if info.dtype != dtype || info.shape != shape {
            return Err(Fault::TensorShape {
                name: name.to_owned(),
                found: format!("{:?} {:?}", info.dtype, info.shape),
                expected: format!("{dtype:?} {shape:?}"),
            });
        }
        Ok(info)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, Fault> {
        self.tensors.info(name).ok_or_else(|| Fault::Missing(name.to_owned()))
    }

    fn in_file(&self, data_offset: usize) -> u64 {
        (self.header.len() + data_offset) as u64
    }
}

/// The overriding grids of each tensor: whose, and under which name.
type Owners<'n> = BTreeMap<&'n str, Vec<(TaskIndex, &'n str)>>;

/// The parts of the data, in their order. Padding may stand anywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Blocks,
    Base,
    Index,
    Digest,
    Padding,
}

impl Section {
    fn of(name: &str) -> Option<Self> {
        let has = |prefix| name.strip_prefix(prefix).is_some_and(|rest: &str| !rest.is_empty());
        match name {
            "blocks" => Some(Self::Blocks),
            "index/checksum" | "index/base" => Some(Self::Index),
            "index/digest" => Some(Self::Digest),
            // Names end up in logs and on terminals.
            _ if name.contains(char::is_control) => None,
            _ if has("base/") => Some(Self::Base),
            _ if has("grid/") || has("own/") => Some(Self::Index),
            _ if has("tasks/") => Some(Self::Index),
            _ if has("pad/") => Some(Self::Padding),
            _ => None,
        }
    }
}

fn as_table<
    T: zerocopy::FromBytes + zerocopy::Immutable + zerocopy::KnownLayout + zerocopy::Unaligned,
>(
    bytes: &[u8],
) -> &[T] {
    // The length is a multiple of the element's, as type and shape were checked.
    <[T]>::ref_from_bytes(bytes).unwrap_or_default()
}

fn read_meta(tensors: &Metadata) -> Result<Meta, Fault> {
    #[derive(Deserialize)]
    struct Version {
        format: u64,
    }
    let json = tensors.metadata().as_ref().and_then(|entries| entries.get("synchromesh"));
    let json = json.ok_or(Fault::NotABundle)?;
    let Version { format } = serde_json::from_str(json).map_err(Fault::Metadata)?;
    if format != u64::from(FORMAT) {
        return Err(Fault::Version(format));
    }
    serde_json::from_str(json).map_err(Fault::Metadata)
}

fn check_every_block_is_placed(tensors: &[PrunedTensor], blocks: usize) -> Result<(), Fault> {
    let mut placed = FixedBitSet::with_capacity(blocks);
    for tensor in tensors {
        let grids = std::iter::once(&tensor.grid).chain(tensor.own.iter().map(|(_, grid)| grid));
        for &block in grids.flatten().filter(|&&block| block != ABSENT) {
            placed.insert(block as usize);
        }
    }
    match placed.zeroes().next() {
        Some(orphan) => Err(Fault::Orphan(orphan)),
        None => Ok(()),
    }
}

/// Refuses a header that has a key twice, among the tensors or in `__metadata__`: serde's maps
/// would keep the last silently, and two readers could see two different files.
fn refuse_duplicates(json: &str) -> Result<(), Fault> {
    struct Twice(Option<String>);

    impl<'de> de::DeserializeSeed<'de> for &mut Twice {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }
    }

    impl<'de> de::Visitor<'de> for &mut Twice {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut keys = HashSet::new();
            while let Some(key) = map.next_key::<String>()? {
                if key == "__metadata__" {
                    map.next_value_seed(&mut *self)?;
                } else {
                    map.next_value::<de::IgnoredAny>()?;
                }
                if let Some(twice) = keys.replace(key) {
                    self.0.get_or_insert(twice);
                }
            }
            Ok(())
        }
    }

    let mut twice = Twice(None);
    // Errors of syntax are left to the safetensors crate, which reads the same text next.
    let _ = serde_json::Deserializer::from_str(json).deserialize_map(&mut twice);
    twice.0.map_or(Ok(()), |key| Err(Fault::Duplicate(key)))
}
