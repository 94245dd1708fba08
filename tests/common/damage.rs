//! Bundles taken apart, damaged, and put together again.

#![allow(clippy::unwrap_used, reason = "a test helper must stop the test")]

use super::Fixture;
use serde_json::{Value, json};
use std::ops::Range;
use synchromesh::bundle::{Bundle, Fault};

/// A bundle taken apart, to be damaged and put together again.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) header: Value,
    pub(crate) meta: Value,
    pub(crate) data: Vec<u8>,
}

impl Parts {
    pub(crate) fn small() -> Self {
        Self::of(&Fixture::small())
    }

    pub(crate) fn of(fixture: &Fixture) -> Self {
        let file = fixture.bytes();
        let start = data_start(&file);
        let header: Value = serde_json::from_slice(&file[8..start]).unwrap();
        let meta = header["__metadata__"]["synchromesh"].as_str().unwrap();
        Self { meta: serde_json::from_str(meta).unwrap(), data: file[start..].to_vec(), header }
    }

    pub(crate) fn range(&self, name: &str) -> Range<usize> {
        range_in(&self.header, name).unwrap()
    }

    pub(crate) fn bytes(&mut self, name: &str) -> &mut [u8] {
        let range = self.range(name);
        &mut self.data[range]
    }

    pub(crate) fn set_shape(&mut self, name: &str, shape: Value) {
        self.header[name]["shape"] = shape;
    }

    pub(crate) fn set_offsets(&mut self, name: &str, offsets: Range<usize>) {
        self.header[name]["data_offsets"] = json!([offsets.start, offsets.end]);
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let tensors = self.header.as_object_mut().unwrap();
        let tensor = tensors.remove(from).unwrap();
        tensors.insert(to.into(), tensor);
    }

    /// Puts a tensor of bytes at this offset and moves what follows.
    pub(crate) fn insert(&mut self, at: usize, name: &str, bytes: &[u8]) {
        self.shift(at, |offset| offset + bytes.len());
        self.header[name] = json!({
            "dtype": "U8", "shape": [bytes.len()], "data_offsets": [at, at + bytes.len()],
        });
        self.data.splice(at..at, bytes.iter().copied());
    }

    /// Takes a tensor out and moves what follows.
    pub(crate) fn remove(&mut self, name: &str) -> Vec<u8> {
        let range = self.range(name);
        self.header.as_object_mut().unwrap().remove(name);
        self.shift(range.end, |offset| offset - range.len());
        self.data.drain(range).collect()
    }

    pub(crate) fn shift(&mut self, from: usize, by: impl Fn(usize) -> usize) {
        let names: Vec<_> = self.header.as_object().unwrap().keys().cloned().collect();
        for name in names {
            if let Some(range) = range_in(&self.header, &name)
                && range.start >= from
            {
                self.set_offsets(&name, by(range.start)..by(range.end));
            }
        }
    }

    /// The header as text, with the metadata in it.
    pub(crate) fn text(&self) -> String {
        let mut header = self.header.clone();
        header["__metadata__"]["synchromesh"] = json!(self.meta.to_string());
        header.to_string()
    }

    /// A file of which header and index agree with the digest.
    pub(crate) fn seal(&self) -> Vec<u8> {
        seal(&self.text(), &self.data)
    }

    /// Why the sealed file is refused.
    pub(crate) fn fault(&self) -> Fault {
        Bundle::parse(&self.seal()).unwrap_err()
    }
}

/// Where the data of a file begins.
pub(crate) fn data_start(file: &[u8]) -> usize {
    8 + usize::try_from(u64::from_le_bytes(*file.first_chunk().unwrap())).unwrap()
}

pub(crate) fn range_in(header: &Value, name: &str) -> Option<Range<usize>> {
    let at = |i: usize| usize::try_from(header[name]["data_offsets"][i].as_u64()?).ok();
    Some(at(0)?..at(1)?)
}

/// Puts the header's length in front and spaces behind.
pub(crate) fn framed(json: &str) -> Vec<u8> {
    let mut file = vec![0; 8];
    file.extend(json.as_bytes());
    file.resize(file.len().next_multiple_of(4096), b' ');
    let len = file.len() as u64 - 8;
    file[..8].copy_from_slice(&len.to_le_bytes());
    file
}

pub(crate) fn seal(json: &str, data: &[u8]) -> Vec<u8> {
    sign(framed(json), data)
}

/// Joins header and data and puts the right digest in, where the header has room for one.
pub(crate) fn sign(header: Vec<u8>, data: &[u8]) -> Vec<u8> {
    let mut file = header;
    let start = file.len();
    let tensors: Value = serde_json::from_slice(&file[8..]).unwrap_or_default();
    file.extend(data);
    let is_index = |name: &str| {
        let parts = ["index/checksum", "index/base", "grid/", "own/", "tasks/"];
        parts.iter().any(|part| name.starts_with(part))
    };
    let names = tensors.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let starts = names.filter(|name| is_index(name)).filter_map(|name| range_in(&tensors, name));
    let Some(digest) = range_in(&tensors, "index/digest") else { return file };
    let first = starts.map(|range| range.start).min().unwrap_or(digest.start);
    let Some(index) = data.get(first..digest.start) else { return file };
    let hash = *blake3::Hasher::new().update(&file[..start]).update(index).finalize().as_bytes();
    if let Some(stored) = file[start..].get_mut(digest).filter(|stored| stored.len() == hash.len())
    {
        stored.copy_from_slice(&hash);
    }
    file
}
