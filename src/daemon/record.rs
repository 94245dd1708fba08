//! A record in the state folder: two files, written in turn, so that one is whole whatever becomes of
//! the other. Each holds a line (magic, version, sequence, checksum) and then JSON.
//!
//! What is read is as untrusted as any file: what is damaged is logged and left out. What the content
//! means is not known here.

use crate::files::{AtomicFile, read_text};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// The format that is written, and the only one that is read.
const VERSION: u32 = 1;
/// Largest file.
const MAX_BYTES: u64 = 16 << 20;

/// What a record is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// In the names of its files, and behind `synchromesh-` in their first line.
    pub(super) name: &'static str,
    /// What to log of a damaged file.
    pub(super) left_out: &'static str,
}

/// The record of one model.
#[derive(Debug)]
pub(super) struct Record {
    kind: Kind,
    paths: [PathBuf; 2],
    /// The number of the latest content; 0 if there is none.
    sequence: u64,
    /// Where the next content goes: never over the latest.
    next: usize,
}

/// A file's content.
struct Content<T> {
    sequence: u64,
    body: T,
}

/// Why a file is left out.
#[derive(Debug, Error)]
enum Damage {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it does not begin as it should")]
    Header,
    #[error("it has version {0}, and only {VERSION} is known")]
    Version(u32),
    #[error("its checksum does not match")]
    Checksum,
    #[error("its content is not as it should be: {0}")]
    Content(#[from] serde_json::Error),
}

impl Record {
    /// A record in this folder, whose files were not looked at. A model's name has no slash.
    pub(super) fn new(kind: Kind, folder: &Path, model: &str) -> Self {
        let path = |place: &str| folder.join(format!("{}-{model}.{place}", kind.name));
        Self { kind, paths: ["a", "b"].map(path), sequence: 0, next: 0 }
    }

    /// The latest content of those files that are there and whole.
    pub(super) fn load<T: DeserializeOwned>(&mut self) -> Option<T> {
        let contents = (0..self.paths.len()).filter_map(|place| Some((place, self.read(place)?)));
        let (place, Content { sequence, body }) =
            contents.max_by_key(|(_, content)| content.sequence)?;
        (self.sequence, self.next) = (sequence, self.other(place));
        Some(body)
    }

    /// Writes content in the place of what came before the latest, durably.
    pub(super) fn write<T: Serialize>(&mut self, content: &T) -> io::Result<()> {
        let body = serde_json::to_vec(content)?;
        let checksum = blake3::hash(&body).to_hex();
        let sequence = self.sequence + 1;
        let head = format!("{} {VERSION} {sequence} {checksum}\n", self.magic());
        if (head.len() + body.len()) as u64 > MAX_BYTES {
            let what = format!("it would be larger than {MAX_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        let file = AtomicFile::create(self.next_path())?;
        file.file().write_all(head.as_bytes())?;
        file.file().write_all(&body)?;
        file.commit()?;
        (self.sequence, self.next) = (sequence, self.other(self.next));
        Ok(())
    }

    /// The file that is written next.
    pub(super) fn next_path(&self) -> &Path {
        &self.paths[self.next]
    }

    fn other(&self, place: usize) -> usize {
        self.paths.len() - 1 - place
    }

    fn magic(&self) -> String {
        format!("synchromesh-{}", self.kind.name)
    }

    /// The content of a file that is there and whole.
    fn read<T: DeserializeOwned>(&self, place: usize) -> Option<Content<T>> {
        let path = &self.paths[place];
        let read = || self.parse(&read_text(path, MAX_BYTES)?);
        match read() {
            Ok(content) => Some(content),
            Err(Damage::Read(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(damage) => {
                tracing::warn!(file = %path.display(), %damage, "{}", self.kind.left_out);
                None
            }
        }
    }

    /// Takes a file apart: magic, version, sequence and checksum in a line, then JSON.
    fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<Content<T>, Damage> {
        let (head, body) = text.split_once('\n').ok_or(Damage::Header)?;
        let mut words = head.split(' ');
        let mut word = || words.next().ok_or(Damage::Header);
        if word()? != self.magic() {
            return Err(Damage::Header);
        }
        let version = word()?.parse().map_err(|_| Damage::Header)?;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let sequence: u64 = word()?.parse().map_err(|_| Damage::Header)?;
        if word()? != blake3::hash(body.as_bytes()).to_hex().as_str() {
            return Err(Damage::Checksum);
        }
        // The last number of all has none after it.
        if sequence == u64::MAX || words.next().is_some() {
            return Err(Damage::Header);
        }
        Ok(Content { sequence, body: serde_json::from_str(body)? })
    }
}
