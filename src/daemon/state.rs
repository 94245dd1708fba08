//! What was learnt about switches, kept over restarts: two files a model, written in turn, so that
//! one is whole whatever becomes of the other.
//!
//! Knows neither when to write nor what the content means. What it reads is as untrusted as any
//! file: what is damaged is told and left out, and never keeps the daemon from starting.

use crate::{
    engine::Learnt,
    files::{AtomicFile, read_text},
    predict::SavedForesight,
};
use std::{
    collections::HashMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// What a file begins with.
const MAGIC: &str = "synchromesh-foresight";
/// The format that is written, and the only one that is read.
const VERSION: u32 = 1;
/// Largest file.
const MAX_BYTES: u64 = 16 << 20;
/// The two files of a model, by the ends of their names.
const PLACES: [&str; 2] = ["a", "b"];

/// Keeps what was learnt in a folder.
#[derive(Debug)]
pub struct Keeper {
    /// `None` if nothing is kept.
    folder: Option<PathBuf>,
    /// By model; one of which nothing is kept may be absent.
    kept: HashMap<String, Kept>,
}

/// What is on disk of a model.
#[derive(Debug, Default)]
struct Kept {
    /// The latest record's number; 0 if there is none.
    sequence: u64,
    /// Where the next record goes: never over the latest.
    next: usize,
    /// How much of this run's learning it holds.
    switches: u64,
}

/// A file's content.
struct Record {
    sequence: u64,
    foresight: SavedForesight,
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

impl Keeper {
    /// Keeps in this folder; if it is not there, that is told, and nothing is kept.
    pub fn open(folder: &Path) -> Self {
        let there = folder.is_dir();
        if !there {
            let what = "what is learnt is not kept over restarts: there is no such folder";
            tracing::warn!(state_dir = %folder.display(), "{what}");
        }
        Self { folder: there.then(|| folder.to_owned()), kept: HashMap::new() }
    }

    /// What was learnt of a model when it was served last.
    pub fn load(&mut self, model: &str) -> Option<SavedForesight> {
        let folder = self.folder.as_deref()?;
        let records = (0..PLACES.len()).filter_map(|place| {
            let record = load(&path(folder, model, place))?;
            Some((place, record))
        });
        let (place, Record { sequence, foresight }) =
            records.max_by_key(|(_, record)| record.sequence)?;
        let kept = Kept { sequence, next: other(place), switches: 0 };
        self.kept.insert(model.to_owned(), kept);
        Some(foresight)
    }

    /// Writes what was learnt of those models that have learnt since it was written last.
    pub fn save(&mut self, learnt: &[Learnt]) {
        let Some(folder) = &self.folder else { return };
        for Learnt { model, switches, foresight } in learnt {
            let kept = self.kept.entry(model.clone()).or_default();
            if *switches <= kept.switches {
                continue;
            }
            let path = path(folder, model, kept.next);
            match write(&path, kept.sequence + 1, foresight) {
                Ok(()) => kept.advance(*switches),
                Err(error) => {
                    let file = path.display();
                    tracing::warn!(model, %file, %error, "what was learnt is not kept");
                }
            }
        }
    }
}

impl Kept {
    fn advance(&mut self, switches: u64) {
        *self = Self { sequence: self.sequence + 1, next: other(self.next), switches };
    }
}

/// A model's name has no slash.
fn path(folder: &Path, model: &str, place: usize) -> PathBuf {
    folder.join(format!("foresight-{model}.{}", PLACES[place]))
}

fn other(place: usize) -> usize {
    PLACES.len() - 1 - place
}

/// The record of a file that is there and whole.
fn load(path: &Path) -> Option<Record> {
    match read(path) {
        Ok(record) => Some(record),
        Err(Damage::Read(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(damage) => {
            tracing::warn!(file = %path.display(), %damage, "what was learnt there is left out");
            None
        }
    }
}

fn read(path: &Path) -> Result<Record, Damage> {
    parse(&read_text(path, MAX_BYTES)?)
}

/// Takes a file apart: magic, version, sequence and checksum in a line, then JSON.
fn parse(text: &str) -> Result<Record, Damage> {
    let (head, body) = text.split_once('\n').ok_or(Damage::Header)?;
    let mut words = head.split(' ');
    let mut word = || words.next().ok_or(Damage::Header);
    if word()? != MAGIC {
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
    Ok(Record { sequence, foresight: serde_json::from_str(body)? })
}

fn write(path: &Path, sequence: u64, foresight: &SavedForesight) -> io::Result<()> {
    let body = serde_json::to_vec(foresight)?;
    let checksum = blake3::hash(&body).to_hex();
    let head = format!("{MAGIC} {VERSION} {sequence} {checksum}\n");
    if (head.len() + body.len()) as u64 > MAX_BYTES {
        let what = format!("it would be larger than {MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    let file = AtomicFile::create(path)?;
    file.file().write_all(head.as_bytes())?;
    file.file().write_all(&body)?;
    file.commit()
}
