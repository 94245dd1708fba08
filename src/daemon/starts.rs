//! Counts starts that came to no good end, so that a daemon that crashes again and again stops doing
//! what it need not do: safe mode.
//!
//! A file that cannot be read, or is of another version, counts for nothing; nor does one of an earlier
//! boot, as a machine that was switched off did not crash. Where the kernel does not tell which boot this
//! is, as where `/proc` is hidden, nothing is counted, and that is said: better no safe mode than one
//! after power cuts. The clock would not tell, as it can be set. What safe mode leaves out is decided
//! where it would be done.

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
    /// Which boot this is; `None` where that is not known, and nothing is counted.
    boot: Option<String>,
    /// In a row, this one included.
    number: u32,
}

impl Start {
    /// Counts a start, before anything is done that could crash.
    pub(super) fn begin(folder: &Path) -> Self {
        Self::begin_in(folder, Path::new(BOOT))
    }

    fn begin_in(folder: &Path, boot: &Path) -> Self {
        let file = folder.is_dir().then(|| folder.join(NAME));
        let boot = match read_boot(boot) {
            Ok(boot) => Some(boot),
            Err(error) => {
                let what = "starts are not counted: which boot this is cannot be read";
                tracing::warn!(file = %boot.display(), %error, "{what}");
                None
            }
        };
        let before = file.as_deref().zip(boot.as_deref());
        let before = before.map_or(0, |(file, boot)| read(file, boot));
        let start = Self { file, boot, number: before.saturating_add(1) };
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
        let (Some(file), Some(boot)) = (&self.file, &self.boot) else { return };
        if number == 0 {
            return self.went_well();
        }
        if let Err(error) = write_text(file, &format!("{MAGIC} {number} {boot}\n")) {
            warn(file, &error);
        }
    }
}

fn warn(file: &Path, error: &io::Error) {
    tracing::warn!(file = %file.display(), %error, "starts are not counted");
}

fn read(file: &Path, boot: &str) -> u32 {
    let parse = |text: String| {
        let (number, of) = text.strip_prefix(MAGIC)?.trim().split_once(' ')?;
        (of == boot).then(|| number.parse().ok())?
    };
    read_text(file, MAX_BYTES).ok().and_then(parse).unwrap_or_default()
}

/// Which boot this is.
fn read_boot(from: &Path) -> io::Result<String> {
    let id = fs::read_to_string(from)?.trim().to_owned();
    if id.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "there is nothing in it"));
    }
    Ok(id)
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
    fn p12_where_no_boot_can_be_told_from_another_power_cuts_are_no_crashes() {
        let folder = tempfile::tempdir().unwrap();
        let (hidden, empty) = (folder.path().join("hidden"), folder.path().join("empty"));
        fs::write(&empty, "\n").unwrap();
        for boot in [hidden, empty] {
            for _ in 0..5 {
                let start = Start::begin_in(folder.path(), &boot);
                assert_eq!((start.number(), start.is_safe_mode()), (1, false), "{boot:?}");
            }
            Start::begin_in(folder.path(), &boot).was_refused();
        }
        assert!(!folder.path().join(NAME).exists());
        // What was counted before ends with a start that goes well.
        Start::begin(folder.path());
        Start::begin_in(folder.path(), Path::new("/nowhere")).went_well();
        assert_eq!(Start::begin(folder.path()).number(), 1);
    }

    #[test]
    fn p15_a_count_that_cannot_be_read_or_is_of_another_version_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NAME);
        for text in ["", "7", "synchromesh-starts 1 7\n", "synchromesh-starts 2 7\n", "\u{0}"] {
            fs::write(&file, text).unwrap();
            assert_eq!(Start::begin(folder.path()).number(), 1, "{text:?}");
        }
        let boot = read_boot(Path::new(BOOT)).unwrap();
        fs::write(&file, format!("{MAGIC} -7 {boot}\n")).unwrap();
        assert_eq!(Start::begin(folder.path()).number(), 1);
        fs::write(&file, format!("{MAGIC} {} {boot}\n", u32::MAX)).unwrap();
        assert!(Start::begin(folder.path()).is_safe_mode());
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(Start::begin(folder.path()).number(), 1);
        assert_eq!(Start::begin(Path::new("/nowhere")).number(), 1);
    }
}
