//! Safetensors inputs: one file or several, seen as one set of named tensors, in place.
//!
//! What the tensors should be is not known here: that is `inputs`.

use super::{
    error::{InputError, Origin, TensorFault},
    progress::Run,
};
use crate::{bundle::InputDigest, compile::CompileError, files::open_regular};
use memmap2::Mmap;
use safetensors::{
    Dtype, SafeTensors,
    tensor::{Metadata, TensorInfo},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::Read as _,
    path::{Component, Path, PathBuf},
};

/// Largest index of a sharded checkpoint.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Bytes hashed between two looks at whether to stop.
const HASH_STEP: usize = 4 << 20;

/// The tensors of one key of the recipe.
#[derive(Debug)]
pub(super) struct Source {
    key: String,
    /// The path that the recipe gives, or the first of them.
    path: PathBuf,
    files: Vec<Mapped>,
    /// All files that were opened, indexes included.
    read: Vec<PathBuf>,
    tensors: BTreeMap<String, Located>,
}

#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    map: Mmap,
    /// Where the data begins.
    data: usize,
}

/// Where a tensor is. The offsets were checked against the file by the safetensors crate.
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
    pub(super) bytes: &'a [u8],
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
                let (file, metadata) = source.map(path)?;
                for name in metadata.offset_keys() {
                    source.add_tensor(file, &metadata, name)?;
                }
            }
        }
        Ok(source)
    }

    /// The names of all tensors, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Refuses to have a file replaced, under whatever name, that is read.
    pub(super) fn check_output(&self, output: &Path) -> Result<(), InputError> {
        let Ok(output) = output.canonicalize() else { return Ok(()) };
        let is_output = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| path == output);
        match self.read.iter().find(is_output) {
            Some(path) => Err(InputError::IsOutput(self.at(path))),
            None => Ok(()),
        }
    }

    /// The tensor of this name.
    pub(super) fn get(&self, name: &str) -> Result<Tensor<'_>, InputError> {
        let Some((name, Located { file, info })) = self.tensors.get_key_value(name) else {
            return Err(self.missing(self.path.clone(), name.to_owned()));
        };
        let Mapped { path, map, data } = &self.files[*file];
        let (start, end) = info.data_offsets;
        Ok(Tensor {
            name,
            dtype: info.dtype,
            shape: &info.shape,
            bytes: &map[data + start..data + end],
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
            let (file, metadata) = self.map(&folder.join(shard))?;
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

    /// Maps a safetensors file and reads its header.
    fn map(&mut self, path: &Path) -> Result<(usize, Metadata), InputError> {
        let file = self.open_file(path)?;
        let map = map(&file).map_err(|source| InputError::Read { at: self.at(path), source })?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|source| InputError::Format { at: self.at(path), source })?;
        let data = size_of::<u64>() + header;
        self.files.push(Mapped { path: path.to_owned(), map, data });
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

#[expect(unsafe_code, reason = "a file mapping is shared with whoever may write the file")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the bytes are only ever read, as plain bytes. Whoever changes an input while it is
    // compiled gets a bundle of mixed content, or stops the program with SIGBUS by cutting the
    // file off: the same risk as with any tool that maps its inputs, and none to a bundle that
    // exists already.
    unsafe { Mmap::map(file) }
}

impl Tensor<'_> {
    /// An error about this tensor.
    pub(super) fn fault(&self, fault: TensorFault) -> InputError {
        let at = Origin { key: self.key.to_owned(), path: self.path.to_owned() };
        InputError::Tensor { at, tensor: self.name.to_owned(), fault }
    }
}

/// Digests the tensors that are used for one role: name, type, shape and bytes of each, with
/// lengths in front, so that no two sequences of tensors look alike.
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
        self.length(tensor.bytes.len());
        for part in tensor.bytes.chunks(HASH_STEP) {
            self.hasher.update(part);
            run.advance(part.len())?;
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
