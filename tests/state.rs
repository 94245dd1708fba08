//! What was learnt, kept over restarts: faults Q8, S21 and P15 of its files.

#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};
use synchromesh::{
    daemon::Keeper,
    engine::Learnt,
    predict::{SavedContext, SavedDwell, SavedForesight, SavedPredictor, SavedSession},
};
use tempfile::TempDir;

const MAX_BYTES: usize = 16 << 20;

/// A folder and what of a model is kept in it.
struct Rig {
    folder: TempDir,
    keeper: Keeper,
    switches: u64,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::open(folder.path());
        Self { folder, keeper, switches: 0 }
    }

    /// One that has kept the first `records` of what is learnt.
    fn with_records(records: u64) -> Self {
        let mut rig = Self::new();
        (1..=records).for_each(|number| rig.save(number));
        rig
    }

    fn file(&self, place: &str) -> PathBuf {
        self.folder.path().join(format!("foresight-m.{place}"))
    }

    fn save(&mut self, number: u64) {
        self.switches += 1;
        self.keeper.save(&[learnt("m", self.switches, number)]);
    }

    /// What the next start finds: the number of what was learnt.
    fn load(&mut self) -> Option<u64> {
        self.keeper = Keeper::open(self.folder.path());
        self.switches = 0;
        let found = self.keeper.load("m")?;
        let number = found.sessions[0].predictor.confidence;
        assert_eq!(found, foresight(number as u64));
        Some(number as u64)
    }

    fn damage(&self, place: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.file(place)).unwrap();
        damage(&mut bytes);
        fs::write(self.file(place), bytes).unwrap();
    }
}

fn foresight(number: u64) -> SavedForesight {
    let predictor = SavedPredictor {
        weights: vec![0.1; 10],
        confidence: number as f64,
        contexts: vec![SavedContext { after: vec![1, 0], counts: vec![(2, 0.1, 1e-7)] }],
        dwells: vec![SavedDwell { from: 0, to: 1, counts: vec![(3, 2.5)] }],
    };
    let tasks = ["city", "highway", "parking"].map(str::to_owned).to_vec();
    SavedForesight { tasks, sessions: vec![SavedSession { name: "default".into(), predictor }] }
}

fn learnt(model: &str, switches: u64, number: u64) -> Learnt {
    Learnt { model: model.into(), switches, foresight: foresight(number) }
}

/// A file with a checksum that matches.
fn file_of(version: u32, sequence: &str, body: &[u8]) -> Vec<u8> {
    let checksum = blake3::hash(body).to_hex();
    let mut file = format!("synchromesh-foresight {version} {sequence} {checksum}\n").into_bytes();
    file.extend(body);
    file
}

fn body(number: u64) -> Vec<u8> {
    serde_json::to_vec(&foresight(number)).unwrap()
}

#[test]
fn what_is_written_is_found_again_and_records_go_to_two_files_in_turn() {
    let mut rig = Rig::new();
    assert_eq!(rig.load(), None);
    for (number, place) in [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a")] {
        let other = if place == "a" { "b" } else { "a" };
        let untouched = fs::read(rig.file(other)).ok();
        rig.save(number);
        assert_eq!(fs::read(rig.file(other)).ok(), untouched, "record {number}");
        assert_eq!(rig.load(), Some(number));
    }
    assert_eq!(fs::read_dir(rig.folder.path()).unwrap().count(), 2, "and nothing else is left");
}

#[test]
fn nothing_is_written_unless_something_was_learnt_and_models_are_kept_apart() {
    let mut rig = Rig::with_records(1);
    rig.keeper.save(&[learnt("m", 1, 7), learnt("n", 0, 7)]);
    assert_eq!(fs::read_dir(rig.folder.path()).unwrap().count(), 1);
    rig.keeper.save(&[learnt("m", 1, 7), learnt("m.a", 1, 8)]);
    assert_eq!(rig.load(), Some(1));
    assert_eq!(rig.keeper.load("m.a"), Some(foresight(8)));
    assert_eq!(rig.keeper.load("n"), None);
}

#[test]
fn s21_of_two_records_the_last_that_is_whole_is_taken_and_the_other_is_written_next() {
    for cut in [0, 1, 40, 100, 200] {
        let mut rig = Rig::with_records(2);
        rig.damage("b", |bytes| bytes.truncate(cut));
        assert_eq!(rig.load(), Some(1), "cut at {cut}");
        let whole = fs::read(rig.file("a")).unwrap();
        rig.save(3);
        assert_eq!(fs::read(rig.file("a")).unwrap(), whole, "the whole one is not risked");
        assert_eq!(rig.load(), Some(3));
    }
    let mut rig = Rig::with_records(2);
    fs::remove_file(rig.file("b")).unwrap();
    assert_eq!(rig.load(), Some(1));
}

#[test]
fn q8_a_damaged_record_is_left_out_wherever_it_is_damaged() {
    let mut rig = Rig::with_records(2);
    let whole = fs::read(rig.file("b")).unwrap();
    // But for the sequence, every bit is covered.
    let sequence = "synchromesh-foresight 1 ".len();
    for at in (0..whole.len()).filter(|&at| at != sequence) {
        rig.damage("b", |bytes| bytes[at] ^= 1);
        assert_eq!(rig.load(), Some(1), "byte {at}");
        fs::write(rig.file("b"), &whole).unwrap();
    }
    assert_eq!(rig.load(), Some(2));
    rig.damage("b", |bytes| bytes.push(b'\n'));
    assert_eq!(rig.load(), Some(1), "something follows");
}

#[test]
fn q8_when_both_are_damaged_all_is_learnt_anew_and_kept_again() {
    let mut rig = Rig::with_records(2);
    rig.damage("a", |bytes| bytes.fill(0xFF));
    rig.damage("b", Vec::clear);
    assert_eq!(rig.load(), None);
    rig.save(3);
    rig.save(4);
    assert_eq!(rig.load(), Some(4));
}

#[test]
fn q8_p15_content_that_is_not_known_is_left_out_though_its_checksum_matches() {
    let unknown = br#"{"tasks": [], "sessions": [], "clock": 5}"#;
    let named = br#"{"tasks": "city", "sessions": []}"#;
    let deep = "[".repeat(100_000).into_bytes();
    let last = u64::MAX.to_string();
    let files = [
        ("another version", file_of(2, "9", &body(9))),
        ("no version", file_of(0, "9", &body(9))),
        ("a sequence with none after it", file_of(1, &last, &body(9))),
        ("a sequence that is too large", file_of(1, "18446744073709551616", &body(9))),
        ("a negative sequence", file_of(1, "-1", &body(9))),
        ("no sequence", file_of(1, "", &body(9))),
        ("an unknown key", file_of(1, "9", unknown)),
        ("a wrong type", file_of(1, "9", named)),
        ("nesting", file_of(1, "9", &deep)),
        ("nothing", file_of(1, "9", b"")),
        ("no line", b"synchromesh-foresight 1 9".to_vec()),
        ("one word too many", {
            let text = String::from_utf8(file_of(1, "9", &body(9))).unwrap();
            text.replacen('\n', " x\n", 1).into_bytes()
        }),
    ];
    for (what, file) in files {
        let mut rig = Rig::with_records(1);
        fs::write(rig.file("b"), file).unwrap();
        assert_eq!(rig.load(), Some(1), "{what}");
    }
    let mut rig = Rig::with_records(1);
    fs::write(rig.file("b"), file_of(1, "9", &body(9))).unwrap();
    assert_eq!(rig.load(), Some(9), "the same without damage");
}

#[test]
fn q8_files_of_hostile_size_or_kind_are_left_out_without_waiting_for_them() {
    let mut rig = Rig::with_records(1);
    let mut large = body(9);
    large.resize(MAX_BYTES, b' ');
    fs::write(rig.file("b"), file_of(1, "9", &large)).unwrap();
    assert_eq!(rig.load(), Some(1), "too large");
    fs::File::create(rig.file("b")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(rig.load(), Some(1), "far too large, and sparse");
    fs::write(rig.file("b"), vec![b' '; MAX_BYTES]).unwrap();
    assert_eq!(rig.load(), Some(1), "nothing but blanks");

    fs::remove_file(rig.file("b")).unwrap();
    symlink("/dev/zero", rig.file("b")).unwrap();
    assert_eq!(rig.load(), Some(1), "endless");
    fs::remove_file(rig.file("b")).unwrap();
    assert!(Command::new("mkfifo").arg(rig.file("b")).status().unwrap().success());
    assert_eq!(rig.load(), Some(1), "nobody writes");
    rig.save(2);
    assert_eq!(rig.load(), Some(1), "and what is no file is not replaced");
}

#[test]
fn what_is_too_large_to_be_read_again_is_not_written() {
    let mut rig = Rig::with_records(1);
    let mut large = learnt("m", 2, 2);
    large.foresight.tasks = vec!["x".repeat(MAX_BYTES)];
    rig.keeper.save(&[large]);
    assert!(!rig.file("b").exists());
    assert_eq!(rig.load(), Some(1));
    rig.save(3);
    assert_eq!(rig.load(), Some(3));
}

#[test]
fn without_its_folder_nothing_is_kept_and_nothing_fails() {
    let missing = Path::new("/nowhere/synchromesh");
    let mut keeper = Keeper::open(missing);
    assert_eq!(keeper.load("m"), None);
    keeper.save(&[learnt("m", 1, 1)]);
    assert!(!missing.exists());

    // A folder that goes is no harm, either: what cannot be written is tried again.
    let mut rig = Rig::with_records(1);
    let path = rig.folder.path().to_owned();
    fs::remove_dir_all(&path).unwrap();
    rig.save(2);
    fs::create_dir(&path).unwrap();
    rig.keeper.save(&[learnt("m", rig.switches, 2)]);
    assert_eq!(rig.load(), Some(2));
}
