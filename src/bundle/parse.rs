//! The first half of the way from bytes to a [`Bundle`]: an [`Outline`] is what a header claims,
//! checked as far as it can be without the index. The second half is `validate`.
//!
//! Reads header, index and the few bytes of padding, and never a block or the base. Every size is
//! bounded before anything is allocated from it.

use super::{
    Bundle, FORMAT, Fault, IndexBytes, MAX_HEADER_BYTES, MAX_HEADER_TENSORS, MAX_INDEX_BYTES, Meta,
    OpenError,
};
use crate::{
    files::open_regular,
    units::{BLOCK_ALIGN, align_up},
};
use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};
use serde::{Deserialize, Deserializer, de};
use std::{
    collections::HashSet, fmt, fs::File, io, ops::Range, os::unix::fs::FileExt as _, path::Path,
    sync::Arc,
};
use thiserror::Error;

impl Bundle {
    /// Opens a bundle and checks its header and index. The blocks are not read.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::from_file(&open(path)?, path)
    }

    /// Like [`open`](Self::open) for a file that is open already; `path` is for messages. The index
    /// is copied: a file may change, or be cut off, at any time.
    pub fn from_file(file: &File, path: &Path) -> Result<Self, OpenError> {
        let outline = Outline::of_file(file, path)?;
        let index = read_range(file, outline.index()).map_err(OpenError::io(path))?;
        outline.validate(Arc::new(index)).map_err(OpenError::refused(path))
    }

    /// Checks the bytes of a whole bundle and copies its index.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let read = |range: Range<u64>| copy_range(bytes, range);
        let outline = Outline::read(bytes.len() as u64, read)?;
        let index: IndexBytes = Arc::new(read(outline.index())?);
        outline.validate(index)
    }
}

/// Opens a file that should be a bundle.
pub fn open(path: &Path) -> Result<File, OpenError> {
    open_regular(path).map_err(OpenError::io(path))
}

fn read_range(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

fn copy_range(bytes: &[u8], range: Range<u64>) -> Result<Vec<u8>, Fault> {
    let cut_off = Fault::Truncated { len: bytes.len() as u64, needed: range.end };
    bytes.get(range.start as usize..range.end as usize).map(<[u8]>::to_vec).ok_or(cut_off)
}

/// What a bundle's header claims, with all checked of it that needs no index. The header is a copy:
/// the bytes that are checked are those that are used, even if somebody changes the file meanwhile.
#[derive(Debug)]
pub struct Outline {
    /// All bytes before the data.
    pub(super) header: Vec<u8>,
    /// Bytes of the data.
    data_len: usize,
    pub(super) tensors: Metadata,
    /// The tensors' names, in the order of their offsets.
    pub(super) names: Vec<String>,
    pub(super) meta: Meta,
    /// Where the index begins in the data, and where its digest does.
    pub(super) index: Range<usize>,
}

/// Why a file has no outline.
#[derive(Debug, Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ReadError {
    fn told(self, path: &Path) -> OpenError {
        match self {
            Self::Io(source) => OpenError::io(path)(source),
            Self::Fault(source) => OpenError::refused(path)(source),
        }
    }
}

impl Outline {
    /// Reads a file's header and padding; `path` is for messages.
    pub fn of_file(file: &File, path: &Path) -> Result<Self, OpenError> {
        let len = file.metadata().map_err(OpenError::io(path))?.len();
        let read = |range| Ok::<_, ReadError>(read_range(file, range)?);
        Self::read(len, read).map_err(|error| error.told(path))
    }

    /// Reads the outline of an *image* of an index: a file's header, and right behind it its index,
    /// without padding, blocks and base; `path` is for messages.
    pub fn of_image(image: &File, path: &Path) -> Result<Self, OpenError> {
        let len = image.metadata().map_err(OpenError::io(path))?.len();
        let read = |range| Ok::<_, ReadError>(read_range(image, range)?);
        let outline = read_header(len, read).and_then(|header| {
            let outline = Self::of_header(header, None)?;
            let needed = outline.image_len();
            if needed == len { Ok(outline) } else { Err(Fault::Truncated { len, needed }.into()) }
        });
        outline.map_err(|error| error.told(path))
    }

    /// All bytes before the data.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Where the index lies in the file, its digest included.
    pub fn index(&self) -> Range<u64> {
        self.in_file(self.index.start)..self.file_len()
    }

    /// Bytes of an image.
    fn image_len(&self) -> u64 {
        let index = self.index();
        self.header.len() as u64 + (index.end - index.start)
    }

    /// Bytes of the file.
    fn file_len(&self) -> u64 {
        self.in_file(self.data_len)
    }

    /// Reads an outline of `len` bytes, of which `read` gives any range.
    fn read<E: From<Fault>>(
        len: u64,
        read: impl Fn(Range<u64>) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let header = read_header(len, &read)?;
        let data_len = len - header.len() as u64;
        let outline = Self::of_header(header, Some(data_len))?;
        for name in outline.paddings() {
            let (start, end) = outline.info(name)?.data_offsets;
            let bytes = read(outline.in_file(start)..outline.in_file(end))?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Err(Fault::Padding(name.to_owned()).into());
            }
        }
        Ok(outline)
    }

    /// Checks a header, and that the data behind it has the length that it claims, where the data is.
    fn of_header(header: Vec<u8>, data_len: Option<u64>) -> Result<Self, Fault> {
        let json = str::from_utf8(&header[8..]).map_err(SafeTensorError::InvalidHeader)?;
        check_keys(json)?;
        // Not `SafeTensors::read_metadata`: its sum of the lengths can overflow.
        let tensors: Metadata =
            serde_json::from_str(json).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
        let claimed = tensors.data_len() as u64;
        if let Some(found) = data_len.filter(|&found| found != claimed) {
            return Err(Fault::DataLength { claimed, found });
        }
        // What is counted from here on is less than a file can have.
        if claimed > i64::MAX as u64 - MAX_HEADER_BYTES - 8 {
            return Err(Fault::DataLength { claimed, found: 0 });
        }
        let meta = read_meta(&tensors)?;
        let data_start = header.len() as u64;
        if !data_start.is_multiple_of(BLOCK_ALIGN) {
            return Err(Fault::Misaligned { what: "the data".into(), offset: data_start });
        }
        meta.check()?;
        let (data_len, names) = (tensors.data_len(), tensors.offset_keys());
        let mut outline = Self { header, data_len, tensors, names, meta, index: 0..0 };
        outline.index = outline.check_order()?;
        Ok(outline)
    }

    /// Checks that tensors come in the order blocks, base, index, digest, and gives the index's
    /// range within the data.
    fn check_order(&self) -> Result<Range<usize>, Fault> {
        let mut reached = Section::Blocks;
        let mut index_start = None;
        for name in &self.names {
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
        let digest = self.typed("index/digest", Dtype::U8, &[blake3::OUT_LEN])?.data_offsets;
        if digest.1 != self.data_len {
            return Err(Fault::OutOfOrder("index/digest".into()));
        }
        let index = index_start.unwrap_or(digest.0)..digest.0;
        match index.len() as u64 {
            ..=MAX_INDEX_BYTES => Ok(index),
            len => Err(Fault::IndexLength(len)),
        }
    }

    /// Checks that padding is what the alignment of the next tensor needs. So there is none before
    /// the blocks. That it is zero, and hides nothing where no checksum looks, `read` sees to.
    fn check_padding(&self, name: &str) -> Result<(), Fault> {
        let (start, end) = self.info(name)?.data_offsets;
        if align_up(start as u64, BLOCK_ALIGN) == Some(end as u64) && start < end {
            Ok(())
        } else {
            Err(Fault::Padding(name.to_owned()))
        }
    }

    fn paddings(&self) -> impl Iterator<Item = &str> {
        let names = self.names.iter().map(String::as_str);
        names.filter(|name| Section::of(name) == Some(Section::Padding))
    }

    /// What is said of a tensor that must have this type and shape. That its offsets lie within the
    /// data and agree with type and shape, the safetensors crate has checked.
    pub(super) fn typed(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<&TensorInfo, Fault> {
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

    pub(super) fn info(&self, name: &str) -> Result<&TensorInfo, Fault> {
        self.tensors.info(name).ok_or_else(|| Fault::Missing(name.to_owned()))
    }

    /// Where in the file a byte of the data lies.
    pub(super) fn in_file(&self, data_offset: usize) -> u64 {
        (self.header.len() + data_offset) as u64
    }
}

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

/// Reads all bytes before the data from `len` bytes, of which `read` gives any range.
fn read_header<E: From<Fault>>(
    len: u64,
    read: impl Fn(Range<u64>) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let cut_off = |needed| Fault::Truncated { len, needed };
    if len < 8 {
        return Err(cut_off(8).into());
    }
    let mut header = read(0..8)?;
    let length = u64::from_le_bytes(*header.first_chunk().ok_or_else(|| cut_off(8))?);
    if length > MAX_HEADER_BYTES {
        return Err(Fault::HeaderLength(length).into());
    }
    let end = 8 + length;
    if end > len {
        return Err(cut_off(end).into());
    }
    header.append(&mut read(8..end)?);
    Ok(header)
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

/// Refuses a header that describes too many tensors, before memory is used for them; and one that has
/// a key twice, among the tensors or in `__metadata__`: serde's maps would keep the last silently, and
/// two readers could see two different files.
fn check_keys(json: &str) -> Result<(), Fault> {
    #[derive(Default)]
    struct Keys {
        twice: Option<String>,
        too_many: bool,
    }

    impl<'de> de::DeserializeSeed<'de> for &mut Keys {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }
    }

    impl<'de> de::Visitor<'de> for &mut Keys {
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
                    self.twice.get_or_insert(twice);
                }
                if keys.len() > MAX_HEADER_TENSORS {
                    self.too_many = true;
                    return Err(de::Error::custom("too many tensors"));
                }
            }
            Ok(())
        }
    }

    let mut keys = Keys::default();
    // Errors of syntax are left to the safetensors crate, which reads the same text next.
    let _ = serde_json::Deserializer::from_str(json).deserialize_map(&mut keys);
    let limit = MAX_HEADER_TENSORS as u64;
    match keys {
        Keys { too_many: true, .. } => {
            Err(Fault::Count { what: "or more tensors in the header", count: limit + 1, limit })
        }
        Keys { twice: Some(key), .. } => Err(Fault::Duplicate(key)),
        Keys { .. } => Ok(()),
    }
}
