//! S13: a file system that takes no writes; S18: one without direct reads; S20: a file that is
//! unlinked, replaced or unmounted while it is open.

use crate::{
    common::{Fixture, faulty::Fault},
    rig::{Rig, content},
    sim::bundles::Content,
};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};
use synchromesh::{
    bundle::WriteError,
    engine::{LoadError, Model, ModelSpec},
    storage::Backend,
};
use tempfile::TempDir;

const TASKS: [std::ops::Range<u32>; 3] = [0..8, 4..16, 20..26];

/// A folder seen from another place, where nothing can be written.
struct ReadOnly {
    at: TempDir,
    mounted: bool,
}

impl ReadOnly {
    /// `None` where that is not allowed.
    fn mount(folder: &Path) -> Option<Self> {
        let mut mount = Self { at: tempfile::tempdir().unwrap(), mounted: false };
        mount.mounted = run("mount", &["--bind".as_ref(), folder, mount.at.path()]);
        let options = ["-o", "remount,bind,ro"].map(Path::new);
        (mount.mounted && run("mount", &[options[0], options[1], mount.at.path()])).then_some(mount)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.at.path().join(file)
    }

    /// At once, whoever has files open there.
    fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            assert!(run("umount", &["--lazy".as_ref(), self.at.path()]));
        }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        self.unmount();
    }
}

fn run(program: &str, args: &[&Path]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A rig on a file system that takes no writes, where there can be one.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn read_only_rig(backend: Backend) -> Option<(ReadOnly, Rig)> {
    let mut content = content(&TASKS);
    let Some(mount) = ReadOnly::mount(content.path.parent().unwrap()) else {
        eprintln!("skipped: mounting is not permitted here");
        return None;
    };
    content.path = mount.path("alpha.mesh");
    Some((mount, Rig::with(backend, content, usize::MAX, 0)))
}

fn s13_where_nothing_can_be_written_switching_works_and_installing_is_refused(backend: Backend) {
    let Some((mount, rig)) = read_only_rig(backend) else { return };
    rig.load("parking");
    rig.load("city");
    rig.assert_serves("city");
    let refused = Fixture::small().try_write(&mount.path("small.mesh")).unwrap_err();
    let WriteError::Io(error) = refused else { panic!("{refused}") };
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    rig.finish();
}

fn s18_without_direct_reads_blocks_come_through_the_page_cache_and_it_is_told(backend: Backend) {
    let tasks = TASKS.map(Vec::from_iter);
    let in_memory = Content::write_in(Path::new("/dev/shm"), "alpha", &tasks);
    let rig = Rig::with(backend, in_memory, usize::MAX, 0);
    assert!(!rig.status().direct_io);
    rig.load("parking");
    for fault in Fault::HARMFUL {
        rig.faults.once(2, fault);
    }
    // Faults are met there as anywhere: five reads fail, and two a switch are made.
    assert!(rig.switch("city").is_err() && rig.switch("city").is_err());
    rig.assert_serves("parking");
    rig.load("city");
    rig.assert_serves("city");
    rig.finish();
}

fn s20_a_file_whose_name_is_gone_or_anothers_is_read_on(backend: Backend) {
    let unlink = |path: &Path| fs::remove_file(path).unwrap();
    let replace = |path: &Path| {
        let other = path.with_extension("other");
        fs::write(&other, "something else").unwrap();
        fs::rename(other, path).unwrap();
    };
    for change in [unlink, replace] {
        let rig = Rig::new(backend, &TASKS);
        rig.load("parking");
        change(&rig.content.path);
        rig.load("city");
        rig.assert_serves("city");
        let bundle = rig.content.path.clone();
        let spec = ModelSpec { bundle, pool_bytes: 1 << 20, lock_memory: false };
        assert!(matches!(Model::load(&spec), Err(LoadError::Open(_))), "it is not opened again");
        rig.finish();
    }
}

fn s20_a_bundle_that_takes_the_name_is_another_one_for_whoever_opens_it(backend: Backend) {
    let old = Rig::new(backend, &TASKS);
    old.load("parking");
    let mut content = Content::write_in(
        Path::new(env!("CARGO_TARGET_TMPDIR")),
        "beta",
        &TASKS.map(Vec::from_iter),
    );
    assert_ne!(content.blocks, old.content.blocks);
    fs::rename(&content.path, &old.content.path).unwrap();
    content.path = old.content.path.clone();
    let new = Rig::with(backend, content, usize::MAX, 0);
    assert_ne!(old.status().bundle_id, new.status().bundle_id);
    for rig in [old, new] {
        rig.load("city");
        rig.assert_serves("city");
        rig.finish();
    }
}

fn s20_a_file_whose_file_system_is_unmounted_is_read_on(backend: Backend) {
    let Some((mut mount, rig)) = read_only_rig(backend) else { return };
    rig.load("parking");
    mount.unmount();
    assert!(!rig.content.path.exists());
    rig.load("city");
    rig.assert_serves("city");
    rig.finish();
}

on_both_backends! {
    s13_where_nothing_can_be_written_switching_works_and_installing_is_refused,
    s18_without_direct_reads_blocks_come_through_the_page_cache_and_it_is_told,
    s20_a_file_whose_name_is_gone_or_anothers_is_read_on,
    s20_a_bundle_that_takes_the_name_is_another_one_for_whoever_opens_it,
    s20_a_file_whose_file_system_is_unmounted_is_read_on,
}
