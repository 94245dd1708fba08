//! Counts starts that came to no good end, so that a daemon that crashes again and again stops doing
//! what it need not do: safe mode.
//!
//! A file that cannot be read, or is of another version, counts for nothing; nor does one of an earlier
//! boot, as a machine that was switched off did not crash. What safe mode leaves out is decided where
//! it would be done.

use crate::files::{read_text, write_text};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const NAME: &str = "starts";
/// What the file begins with, with its version.
const MAGIC: &str = "synchromesh-starts 2";
/// Where the kernel tells which boot this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const MAX_BYTES: u64 = 256;
/// Safe mode begins with this start in a row.
const SAFE_FROM: u32 = 3;

/// A start that is under way.
#[derive(Debug)]
pub(super) struct Start {
    /// `None` where nothing can be kept.
    file: Option<PathBuf>,
    /// In a row, this one included.
    number: u32,
}

impl Start {
    /// Counts a start, before anything is done that could crash.
    pub(super) fn begin(folder: &Path) -> Self {
        let file = folder.is_dir().then(|| folder.join(NAME));
        let before = file.as_deref().map_or(0, read);
        let start = Self { file, number: before.saturating_add(1) };
        start.write(start.number);
        start
    }

    /// Whether so many before it have crashed that this one should do only what it must.
    pub(super) fn is_safe_mode(&self) -> bool {
        self.number >= SAFE_FROM
    }

    /// Which one in a row it is.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Notes that the daemon has been well for long enough, or has ended as it should.
    pub(super) fn went_well(&self) {
        let Some(file) = &self.file else { return };
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => warn(file, &error),
            _ => {}
        }
    }

    /// Notes that the daemon has ended and said why. That is no crash, and heals none.
    pub(super) fn was_refused(&self) {
        self.write(self.number - 1);
    }

    fn write(&self, number: u32) {
        let Some(file) = &self.file else { return };
        if number == 0 {
            return self.went_well();
        }
        if let Err(error) = write_text(file, &format!("{MAGIC} {number} {}\n", boot())) {
            warn(file, &error);
        }
    }
}

fn warn(file: &Path, error: &io::Error) {
    tracing::warn!(file = %file.display(), %error, "starts are not counted");
}

fn read(file: &Path) -> u32 {
    let parse = |text: String| {
        let (number, of) = text.strip_prefix(MAGIC)?.trim().split_once(' ')?;
        (of == boot()).then(|| number.parse().ok())?
    };
    read_text(file, MAX_BYTES).ok().and_then(parse).unwrap_or_default()
}

/// Which boot this is, as far as the kernel tells.
fn boot() -> String {
    let id = fs::read_to_string(BOOT).unwrap_or_default();
    let id = id.trim();
    if id.is_empty() { "unknown".into() } else { id.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_from_the_third_start_in_a_row_on_it_is_safe_mode_until_one_went_well() {
        let folder = tempfile::tempdir().unwrap();
        let begin = || Start::begin(folder.path());
        let modes = [(); 4].map(|()| begin().is_safe_mode());
        assert_eq!(modes, [false, false, true, true]);
        begin().went_well();
        assert!(!begin().is_safe_mode());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn p5_a_start_that_was_refused_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..5 {
            Start::begin(folder.path()).was_refused();
        }
        assert_eq!(Start::begin(folder.path()).number(), 1);
        Start::begin(folder.path()).was_refused();
        assert_eq!(Start::begin(folder.path()).number(), 2, "the crash before it still counts");
    }

    #[test]
    fn p5_starts_of_another_boot_count_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let other = "0d5cb5e8-0000-4000-8000-000000000000";
        fs::write(folder.path().join(NAME), format!("{MAGIC} 7 {other}\n")).unwrap();
        assert_eq!(Start::begin(folder.path()).number(), 1);
        assert_eq!(Start::begin(folder.path()).number(), 2);
    }

    #[test]
    fn p15_a_count_that_cannot_be_read_or_is_of_another_version_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NAME);
        for text in ["", "7", "synchromesh-starts 1 7\n", "synchromesh-starts 2 7\n", "\u{0}"] {
            fs::write(&file, text).unwrap();
            assert_eq!(Start::begin(folder.path()).number(), 1, "{text:?}");
        }
        fs::write(&file, format!("{MAGIC} -7 {}\n", boot())).unwrap();
        assert_eq!(Start::begin(folder.path()).number(), 1);
        fs::write(&file, format!("{MAGIC} {} {}\n", u32::MAX, boot())).unwrap();
        assert!(Start::begin(folder.path()).is_safe_mode());
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(Start::begin(folder.path()).number(), 1);
        assert_eq!(Start::begin(Path::new("/nowhere")).number(), 1);
    }
}
