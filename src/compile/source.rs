//! Safetensors inputs: one file or several, seen as one set of named tensors.
//!
//! Headers are read when a source is opened, tensors piece by piece when they are needed, so that
//! memory does not grow with the files. What the tensors should be is not known here: that is
//! `inputs`.

use super::{
    error::{InputError, Origin, TensorFault},
    progress::Run,
};
use crate::{
    bundle::InputDigest,
    compile::CompileError,
    files::{is_same_file, open_regular},
};
use rayon::prelude::*;
use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Component, Path, PathBuf},
};

/// Largest index of a sharded checkpoint.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Largest header of an input, as the safetensors crate has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes that are hashed as a piece. The digests depend on it.
const HASH_PIECE: usize = 1 << 20;
/// Pieces between two looks at whether to stop.
const HASH_PIECES: usize = 4;

/// The tensors of one key of the recipe.
#[derive(Debug)]
pub(super) struct Source {
    key: String,
    /// The path that the recipe gives, or the first of them.
    path: PathBuf,
    files: Vec<Opened>,
    /// All files that were opened, indexes included.
    read: Vec<PathBuf>,
    tensors: BTreeMap<String, Located>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    /// Where the data begins.
    data: u64,
}

/// Where a tensor is. The offsets were checked against the length of the file.
#[derive(Debug)]
struct Located {
    file: usize,
    info: TensorInfo,
}

/// A tensor in its file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [usize],
    pub(super) len: usize,
    file: &'a File,
    offset: u64,
    key: &'a str,
    path: &'a Path,
}

/// The part of Hugging Face's `*.safetensors.index.json` that counts here.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Source {
    /// Opens all files of a key. A name that ends in `.json` is an index of shards.
    pub(super) fn open(key: &str, paths: &[PathBuf]) -> Result<Self, InputError> {
        let mut source = Self {
            key: key.to_owned(),
            path: paths.first().cloned().unwrap_or_default(),
            files: Vec::new(),
            read: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for path in paths {
            if path.extension().is_some_and(|extension| extension == "json") {
                source.add_index(path)?;
            } else {
                let (file, metadata) = source.open_tensors(path)?;
                for name in metadata.offset_keys() {
                    source.add_tensor(file, &metadata, name)?;
                }
            }
        }
        Ok(source)
    }

    /// The key of the recipe.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The names of all tensors, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Refuses to have a file replaced, under whatever name, that is read.
    pub(super) fn check_output(&self, output: &Path) -> Result<(), InputError> {
        match self.read.iter().find(|path| is_same_file(path, output)) {
            Some(path) => Err(InputError::IsOutput(self.at(path))),
            None => Ok(()),
        }
    }

    /// The tensor of this name.
    pub(super) fn get(&self, name: &str) -> Result<Tensor<'_>, InputError> {
        self.find(name).ok_or_else(|| self.missing(self.path.clone(), name.to_owned()))
    }

    /// The tensor of this name, if there is one.
    pub(super) fn find(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, Located { file, info }) = self.tensors.get_key_value(name)?;
        let Opened { path, file, data } = &self.files[*file];
        let (start, end) = info.data_offsets;
        Some(Tensor {
            name,
            dtype: info.dtype,
            shape: &info.shape,
            len: end - start,
            file,
            offset: data + start as u64,
            key: &self.key,
            path,
        })
    }

    /// Takes the tensors that an index of shards names, from the shards in which it says they are.
    fn add_index(&mut self, path: &Path) -> Result<(), InputError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut shards = BTreeMap::<String, Vec<String>>::new();
        for (tensor, shard) in self.read_index(path)?.weight_map {
            shards.entry(shard).or_default().push(tensor);
        }
        for (shard, names) in shards {
            let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            if shard.is_empty() || !Path::new(&shard).components().all(inside) {
                return Err(InputError::ShardPath { at: self.at(path), file: shard });
            }
            let (file, metadata) = self.open_tensors(&folder.join(shard))?;
            for name in names {
                self.add_tensor(file, &metadata, name)?;
            }
        }
        Ok(())
    }

    fn read_index(&mut self, path: &Path) -> Result<ShardIndex, InputError> {
        let file = self.open_file(path)?;
        let read = |source| InputError::Read { at: self.at(path), source };
        let len = file.metadata().map_err(read)?.len();
        if len > MAX_INDEX_BYTES {
            return Err(InputError::IndexSize { at: self.at(path), len, limit: MAX_INDEX_BYTES });
        }
        let mut json = Vec::new();
        file.take(MAX_INDEX_BYTES).read_to_end(&mut json).map_err(read)?;
        serde_json::from_slice(&json)
            .map_err(|source| InputError::Index { at: self.at(path), source })
    }

    fn add_tensor(
        &mut self,
        file: usize,
        metadata: &Metadata,
        name: String,
    ) -> Result<(), InputError> {
        let path = self.files[file].path.clone();
        let Some(info) = metadata.info(&name).cloned() else {
            return Err(self.missing(path, name));
        };
        match self.tensors.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(Located { file, info });
                Ok(())
            }
            Entry::Occupied(entry) => Err(InputError::Twice {
                at: Origin { key: self.key.clone(), path },
                tensor: entry.key().clone(),
                other: self.files[entry.get().file].path.clone(),
            }),
        }
    }

    /// Opens a safetensors file and reads its header.
    fn open_tensors(&mut self, path: &Path) -> Result<(usize, Metadata), InputError> {
        let file = self.open_file(path)?;
        let (data, metadata) = read_header(&file).map_err(|fault| match fault {
            HeaderFault::Io(source) => InputError::Read { at: self.at(path), source },
            HeaderFault::Format(source) => InputError::Format { at: self.at(path), source },
        })?;
        self.files.push(Opened { path: path.to_owned(), file, data });
        Ok((self.files.len() - 1, metadata))
    }

    /// Opens a file and notes that it is an input.
    fn open_file(&mut self, path: &Path) -> Result<File, InputError> {
        self.read.push(path.to_owned());
        open_regular(path).map_err(|source| InputError::Read { at: self.at(path), source })
    }

    fn missing(&self, path: PathBuf, tensor: String) -> InputError {
        let at = Origin { key: self.key.clone(), path };
        InputError::Tensor { at, tensor, fault: TensorFault::Missing }
    }

    fn at(&self, path: &Path) -> Origin {
        Origin { key: self.key.clone(), path: path.to_owned() }
    }
}

/// Why there is no header.
enum HeaderFault {
    Io(io::Error),
    Format(SafeTensorError),
}

/// Where the data of a safetensors file begins, and what is in it.
fn read_header(file: &File) -> Result<(u64, Metadata), HeaderFault> {
    use HeaderFault::{Format, Io};
    let len = file.metadata().map_err(Io)?.len();
    let mut length = [0; size_of::<u64>()];
    if len < length.len() as u64 {
        return Err(Format(SafeTensorError::HeaderTooSmall));
    }
    file.read_exact_at(&mut length, 0).map_err(Io)?;
    let header = u64::from_le_bytes(length);
    if header > MAX_HEADER_BYTES {
        return Err(Format(SafeTensorError::HeaderTooLarge));
    }
    let data = length.len() as u64 + header;
    if data > len {
        return Err(Format(SafeTensorError::InvalidHeaderLength));
    }
    // At most the limit above.
    let mut json = vec![0; header as usize];
    file.read_exact_at(&mut json, length.len() as u64).map_err(Io)?;
    let metadata: Metadata = serde_json::from_slice(&json)
        .map_err(|error| Format(SafeTensorError::InvalidHeaderDeserialization(error)))?;
    if data.checked_add(metadata.data_len() as u64) != Some(len) {
        return Err(Format(SafeTensorError::MetadataIncompleteBuffer));
    }
    Ok((data, metadata))
}

impl<'a> Tensor<'a> {
    /// Replaces `bytes` by a part of the tensor.
    pub(super) fn read(&self, part: Range<usize>, bytes: &mut Vec<u8>) -> Result<(), InputError> {
        bytes.resize(part.len(), 0);
        let read = self.file.read_exact_at(bytes, self.offset + part.start as u64);
        read.map_err(|source| InputError::Read {
            at: Origin { key: self.key.to_owned(), path: self.path.to_owned() },
            source,
        })
    }

    /// The same tensor with its bytes elsewhere.
    pub(super) fn moved_to(self, file: &'a File, offset: u64) -> Self {
        Self { file, offset, ..self }
    }

    /// The whole tensor.
    pub(super) fn read_all(&self) -> Result<Vec<u8>, InputError> {
        let mut bytes = Vec::new();
        self.read(0..self.len, &mut bytes)?;
        Ok(bytes)
    }

    /// An error about this tensor.
    pub(super) fn fault(&self, fault: TensorFault) -> InputError {
        let at = Origin { key: self.key.to_owned(), path: self.path.to_owned() };
        InputError::Tensor { at, tensor: self.name.to_owned(), fault }
    }
}

/// Digests the tensors that are used for one role: name, type, shape and bytes of each, with
/// lengths in front, so that no two sequences of tensors look alike. The bytes count by the digests
/// of their pieces, which are worked out side by side.
#[derive(Debug)]
pub(super) struct Digester {
    role: String,
    hasher: blake3::Hasher,
}

impl Digester {
    pub(super) fn new(role: String) -> Self {
        Self { role, hasher: blake3::Hasher::new() }
    }

    /// Adds a tensor; they are to come in the order of their names.
    pub(super) fn add(&mut self, tensor: &Tensor<'_>, run: Run<'_>) -> Result<(), CompileError> {
        self.text(tensor.name);
        self.text(&format!("{:?} {:?}", tensor.dtype, tensor.shape));
        self.length(tensor.len);
        let pieces: Vec<_> = (0..tensor.len).step_by(HASH_PIECE).collect();
        for starts in pieces.chunks(HASH_PIECES) {
            let digest = |bytes: &mut Vec<u8>, &start: &usize| {
                tensor.read(start..tensor.len.min(start + HASH_PIECE), bytes)?;
                Ok((bytes.len(), blake3::hash(bytes)))
            };
            let digests = starts.par_iter().map_init(Vec::new, digest);
            for (len, digest) in digests.collect::<Result<Vec<_>, InputError>>()? {
                self.hasher.update(digest.as_bytes());
                run.advance(len)?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> InputDigest {
        let Self { role, hasher } = self;
        InputDigest { role, blake3: hasher.finalize().to_hex().to_string() }
    }

    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.hasher.update(text.as_bytes());
    }

    fn length(&mut self, length: usize) {
        self.hasher.update(&(length as u64).to_le_bytes());
    }
}
