//! What is kept of a daemon that has ended, and what the next one makes of it. Systemd is played by
//! the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    Fixture,
    calls::{assert_serves, bundle, runtime, switch},
    daemon::{Daemon, write_config},
    systemd::Manager,
};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::{pread, pwrite},
};
use std::{
    fs::{self, File},
    os::fd::{AsFd as _, OwnedFd},
    thread,
    time::Duration,
};
use synchromesh::{
    bundle::Bundle,
    client::{Attachment, Lease},
    proto,
    units::{BlockIndex, Generation, TaskIndex},
};
use tempfile::TempDir;

/// Descriptors that are kept of a model.
const PARTS: usize = 3;

struct Rig {
    folder: TempDir,
    fixture: Fixture,
    bundle: Bundle,
    manager: Manager,
}

impl Rig {
    fn new() -> Self {
        let (folder, fixture, bundle) = bundle();
        Self { folder, fixture, bundle, manager: Manager::start() }
    }

    fn task(&self, name: &str) -> TaskIndex {
        self.bundle.find_task(name).unwrap()
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("small.mesh")
    }

    /// A daemon in a new folder, which begins with `city`.
    fn start(&self) -> Daemon {
        self.start_with(1 << 20, "city")
    }

    fn start_with(&self, pool_bytes: u64, task: &str) -> Daemon {
        let place = tempfile::tempdir().unwrap();
        let file = self.file();
        let shown = file.display();
        let model = format!("{{bundle: {shown}, pool_bytes: {pool_bytes}, initial_task: {task}}}");
        write_config(place.path(), &format!("models: [{model}]\n"));
        self.run(place)
    }

    fn run(&self, place: TempDir) -> Daemon {
        self.ready(self.manager.run(place, &[], &[]))
    }

    fn ready(&self, mut daemon: Daemon) -> Daemon {
        assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
        self.manager.wait_for("READY=1");
        daemon
    }

    /// Kills a daemon and starts the next one, as systemd does.
    fn crash(&self, daemon: Daemon) -> Daemon {
        self.ready(self.crash_into(daemon, &[]))
    }

    /// The same, with these variables in the next one's environment, and not waiting for it.
    fn crash_into(&self, mut daemon: Daemon, env: &[(&str, &str)]) -> Daemon {
        daemon.kill();
        let place = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
        // What counts starts would have its way after the third one.
        let _ = fs::remove_file(place.path().join("starts"));
        self.manager.run(place, &[], env)
    }

    /// Damages every block on disk: whatever is read from now on is wrong.
    fn damage_disk(&self) {
        let file = File::options().write(true).open(self.file()).unwrap();
        for block in 0..self.bundle.len() as u32 {
            let at = self.bundle.block_offset(BlockIndex(block));
            pwrite(&file, &[0xA5; 64], at).unwrap();
        }
    }

    fn assert_bytes(&self, lease: &Lease<'_>, task: TaskIndex) {
        assert_eq!(lease.task(), task);
        for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
            let expected = self.fixture.expected_dense(task, position);
            assert_eq!(lease.sparse(tensor).to_dense().unwrap(), expected);
        }
    }
}

/// The number that a field of the line about adoption has.
fn adopted(daemon: &Daemon, field: &str) -> usize {
    let log = daemon.log();
    let line = log.iter().find(|line| line.contains("adopted what the daemon before has left"));
    let line = line.unwrap_or_else(|| panic!("{log:?}"));
    let value = line.split(&format!("{field}=")).nth(1).unwrap().split(' ').next().unwrap();
    value.parse().unwrap()
}

fn sessions(daemon: &Daemon) -> Vec<(String, String, u64)> {
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let status = client.get_status(proto::GetStatusRequest::default()).await.unwrap();
        let sessions = status.into_inner().models.remove(0).sessions;
        sessions.into_iter().map(|s| (s.session, s.task, s.generation)).collect()
    })
}

fn open(daemon: &Daemon, session: &str, task: &str) {
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        let open = proto::OpenSessionRequest { session: session.into(), ..Default::default() };
        client.open_session(open).await.unwrap();
        if !task.is_empty() {
            let request = proto::SwitchTaskRequest { session: session.into(), ..switch(task) };
            client.switch_task(request).await.unwrap();
        }
    });
}

fn switch_to(daemon: &Daemon, task: &str) {
    runtime().block_on(async { daemon.connect().await.switch_task(switch(task)).await.unwrap() });
}

#[test]
fn m17_p1_a_killed_daemons_tasks_go_on_from_its_pool_and_its_clients_keep_theirs() {
    let rig = Rig::new();
    let daemon = rig.start();
    let first = rig.manager.wait_for_kept(PARTS);
    open(&daemon, "gone", "");
    open(&daemon, "rear", "parking");
    open(&daemon, "idle", "");
    runtime().block_on(async {
        let close = proto::CloseSessionRequest { session: "gone".into(), ..Default::default() };
        daemon.connect().await.close_session(close).await.unwrap();
    });
    switch_to(&daemon, "highway");
    let before = sessions(&daemon);
    let mut old = Attachment::connect(&daemon.attach(), "", "").unwrap();
    let lease = old.lease().unwrap();

    // Whatever the next daemon serves, it does not have it from there.
    rig.damage_disk();
    let daemon = rig.crash(daemon);
    assert_eq!(adopted(&daemon, "sessions"), 3);
    assert_eq!(adopted(&daemon, "read"), 0);
    let mut needed = rig.bundle.task_blocks(rig.task("highway")).clone();
    needed.union_with(rig.bundle.task_blocks(rig.task("parking")));
    assert_eq!(adopted(&daemon, "copied"), needed.count_ones(..));
    // Those that serve a task do so at a later generation; a task is served again as it was.
    let later = |(session, task, generation): &(String, String, u64)| {
        (session.clone(), task.clone(), generation + u64::from(!task.is_empty()))
    };
    assert_eq!(sessions(&daemon), before.iter().map(later).collect::<Vec<_>>());
    assert_serves(&daemon, &rig.fixture, rig.task("highway"));
    let mut rear = Attachment::connect(&daemon.attach(), "", "rear").unwrap();
    rig.assert_bytes(&rear.lease().unwrap(), rig.task("parking"));

    // The old client computes on, and learns that its daemon is gone.
    rig.assert_bytes(&lease, rig.task("highway"));
    drop(lease);
    assert!(old.lease().is_err());
    let second = rig.manager.wait_for_kept(PARTS);
    assert!(second.iter().all(|name| !first.contains(name)), "{first:?} {second:?}");
    // Whoever was in a session's place finds the same one there.
    open(&daemon, "new", "");
    assert_eq!(sessions(&daemon).len(), 4);
}

#[test]
fn m17_without_the_old_pool_sessions_go_on_and_their_tasks_are_read() {
    let rig = Rig::new();
    let daemon = rig.start();
    rig.manager.wait_for_kept(PARTS);
    open(&daemon, "rear", "parking");
    switch_to(&daemon, "highway");
    let before = sessions(&daemon);
    // Where memory is short, a start that came to nothing has given it up.
    drop(rig.manager.take_kept("pool"));
    let daemon = rig.crash(daemon);
    assert_eq!(adopted(&daemon, "copied"), 0);
    for ((name, task, generation), (before_name, before_task, last)) in
        sessions(&daemon).into_iter().zip(before)
    {
        assert_eq!((name, task), (before_name, before_task));
        assert!(generation > last, "generations never go back");
    }
    assert_serves(&daemon, &rig.fixture, rig.task("highway"));
}

#[test]
fn m17_where_there_is_no_room_for_two_pools_the_old_one_is_given_up() {
    const POOL: u64 = 192 << 20;
    let rig = Rig::new();
    let bundle = Fixture::wide((POOL / 4096) as u32).write(&rig.file());
    // Threads do not have address space in reserve each, so that it can be told what is needed.
    let sparing = ("MALLOC_ARENA_MAX", "1");
    let daemon = rig.start_with(POOL, "highway");
    let first = rig.manager.wait_for_kept(PARTS);
    let daemon = rig.crash_into(daemon, &[sparing]);
    rig.manager.wait_for_forgotten(&first);
    let daemon = rig.ready(daemon);
    let pool = rig.manager.wait_for_kept(PARTS).remove(0);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size: u64 = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    let room = (size + POOL / 2 / 1024).to_string();
    let mut daemon = rig.crash_into(daemon, &[sparing, ("ADDRESS_KIB", &room)]);
    assert!(daemon.wait_for("old pools are given up"), "{:?}", daemon.log());
    // The kernel has its memory back before there is anything new to be kept.
    rig.manager.wait_for_forgotten(&[pool]);
    rig.manager.wait_for("FDSTORE=1");
    rig.manager.wait_for("READY=1");
    let needed = bundle.task(bundle.find_task("highway").unwrap()).blocks as usize;
    assert_eq!((adopted(&daemon, "copied"), adopted(&daemon, "read")), (0, needed));
    let [(_, task, generation)] = &sessions(&daemon)[..] else { panic!("one session") };
    assert_eq!((&**task, *generation), ("highway", 3));
}

#[test]
fn p1_what_a_crash_between_keeping_and_forgetting_has_left_is_forgotten_first() {
    let rig = Rig::new();
    let daemon = rig.start();
    switch_to(&daemon, "highway");
    rig.manager.wait_for_kept(PARTS);
    let older = ["pool", "table", "roster"].map(|part| {
        let (name, fd) = rig.manager.take_kept(part);
        let older = format!("{part}.0000000000000001.0");
        rig.manager.keep(&older, fd.try_clone().unwrap());
        rig.manager.keep(&name, fd);
        older
    });
    rig.damage_disk();
    let mut daemon = rig.crash_into(daemon, &[]);
    rig.manager.wait_for_forgotten(&older);
    // Else there might be no room for it.
    rig.manager.wait_for("FDSTORE=1");
    rig.manager.wait_for("READY=1");
    assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
    assert_eq!(adopted(&daemon, "read"), 0);
    assert_serves(&daemon, &rig.fixture, rig.task("highway"));
    rig.manager.wait_for_kept(PARTS);
}

#[test]
fn m17_a_store_that_is_small_is_warned_of_and_used_as_far_as_it_goes() {
    let rig = Rig::new();
    let mut daemon = rig.start();
    // What two daemons leave, and what one does, has room or has not.
    for (room, is_warned_of, is_renewed) in
        [("6", false, true), ("5", true, true), ("3", true, true), ("2", true, false)]
    {
        let before = rig.manager.wait_for_kept(PARTS);
        daemon = rig.ready(rig.crash_into(daemon, &[("FDSTORE", room)]));
        let log = daemon.log();
        assert_eq!(adopted(&daemon, "read"), 0, "{room}: {log:?}");
        let warning = format!("raise FileDescriptorStoreMax= room={room} needed=6");
        assert_eq!(log.iter().any(|line| line.contains(&warning)), is_warned_of, "{log:?}");
        let now = rig.manager.wait_for_kept(PARTS);
        assert_eq!(now.iter().all(|name| !before.contains(name)), is_renewed, "{room}");
    }
    let daemon = rig.crash(daemon);
    assert_eq!(adopted(&daemon, "read"), 0, "from what an earlier one has left");
}

#[test]
fn m17_a_daemon_that_was_stopped_is_gone_on_from_as_well() {
    let rig = Rig::new();
    let mut daemon = rig.start();
    switch_to(&daemon, "parking");
    rig.manager.wait_for_kept(PARTS);
    assert_eq!(daemon.stop(), Some(0));
    rig.damage_disk();
    let place = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
    let daemon = rig.run(place);
    assert_eq!(adopted(&daemon, "read"), 0);
    assert_serves(&daemon, &rig.fixture, rig.task("parking"));
}

/// A memfd with other content, sealed as the daemon seals what it hands out.
fn forged(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("forged", flags).unwrap();
    pwrite(&fd, bytes, 0).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn sealed() -> SealFlags {
    SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL
}

fn content(fd: &OwnedFd) -> Vec<u8> {
    let len = fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd)));
    let mut bytes = vec![0; len.unwrap().len() as usize];
    let mut at = 0;
    while at < bytes.len() {
        at += pread(fd.as_fd(), &mut bytes[at..], at as u64).unwrap();
    }
    bytes
}

#[test]
fn m17_blocks_that_are_damaged_in_the_old_pool_are_read_instead() {
    let rig = Rig::new();
    let daemon = rig.start();
    let block_bytes = rig.bundle.block().bytes() as usize;
    let city = rig.task("city");
    rig.manager.wait_for_kept(PARTS);
    let (name, pool) = rig.manager.take_kept("pool");
    let mut bytes = content(&pool);
    // Slots follow the base; one that is in use by the task, and one bit of the base.
    let first = bytes.len() - (1 << 20).min(rig.bundle.len() * block_bytes);
    bytes[first + 3 * block_bytes + 77] ^= 8;
    bytes[5] ^= 1;
    rig.manager.keep(&name, forged(&bytes, sealed()));
    let daemon = rig.crash(daemon);
    assert_eq!(adopted(&daemon, "read"), 1);
    let needed = rig.bundle.task(city).blocks as usize;
    assert_eq!(adopted(&daemon, "copied"), needed - 1);
    assert_serves(&daemon, &rig.fixture, city);
}

#[test]
fn p15_whatever_is_odd_in_what_was_left_is_dropped_and_the_daemon_starts() {
    type Change = fn(&mut Vec<u8>);
    const VERSION: &str = "it is dropped .* the table is not one that this client can read";
    const BUNDLES: &str = "it is dropped .* table and roster do not belong together";
    const SIZE: &str = "it is dropped .* the pool has ";
    const ROSTER: &str = "it is dropped .* the roster is not one that this daemon can read";
    const CLOSED: &str = "a session was left that cannot be: it stays closed";
    const READ: &str = "adopted .* sessions=1 copied=0 read=15";
    const COPIED: &str = "adopted .* sessions=1 copied=15 read=0";
    // What is done, where, to what the daemon before has left; and what the next one says of it.
    let cases: [(&str, &str, Change, &[&str]); 15] = [
        ("of another version", "table", |bytes| bytes[7] = b'2', &[VERSION]),
        ("of another bundle", "table", |bytes| bytes[16] ^= 1, &[BUNDLES]),
        ("of more blocks", "table", |bytes| bytes[8..12].fill(0xFF), &[VERSION]),
        ("of more slots", "table", |bytes| bytes[12..16].fill(0xFF), &[SIZE]),
        ("of larger slots", "table", |bytes| bytes[32..40].fill(0xFF), &[VERSION]),
        ("of a base with other pages", "table", |bytes| bytes[41] ^= 0xFF, &[SIZE]),
        ("of a base as many pages long", "table", |bytes| bytes[40] ^= 0xFF, &[COPIED]),
        ("of no slot that there is", "table", |bytes| bytes[576..].fill(0x7F), &[READ]),
        ("of a task that there is not", "table", |bytes| bytes[64..66].fill(0x70), &[READ]),
        (
            "of a generation without end",
            "table",
            |bytes| bytes[66..72].fill(0xFF),
            &[CLOSED, "adopted .* sessions=0"],
        ),
        ("cut off", "pool", |bytes| bytes.truncate(4096), &[SIZE]),
        ("of another version", "roster", |bytes| bytes[7] = b'2', &[ROSTER]),
        ("of another bundle", "roster", |bytes| bytes[8] ^= 1, &[BUNDLES]),
        (
            "of names that are none",
            "roster",
            |bytes| bytes[96..].fill(0xFF),
            &["adopted .* sessions=1 copied=15 read=0"],
        ),
        (
            "of twice the same name",
            "roster",
            |bytes| bytes.copy_within(96..168, 168),
            &[CLOSED, COPIED],
        ),
    ];
    let rig = Rig::new();
    let mut daemon = rig.start();
    for (what, part, change, said) in cases {
        rig.manager.wait_for_kept(PARTS);
        let (name, fd) = rig.manager.take_kept(part);
        let mut bytes = content(&fd);
        change(&mut bytes);
        rig.manager.keep(&name, forged(&bytes, sealed()));
        daemon = rig.crash(daemon);
        let log = daemon.log();
        for words in said {
            let says = |line: &String| words.split(" .* ").all(|words| line.contains(words));
            assert!(log.iter().any(says), "{part} {what}: no line says {words}: {log:?}");
        }
        assert_serves(&daemon, &rig.fixture, rig.task("city"));
        let names: Vec<_> = sessions(&daemon).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["default"], "{part} {what}");
    }
    // Without its seals, memory could change or go under its reader.
    for part in ["pool", "table", "roster"] {
        rig.manager.wait_for_kept(PARTS);
        let (name, fd) = rig.manager.take_kept(part);
        rig.manager.keep(&name, forged(&content(&fd), SealFlags::GROW));
        daemon = rig.crash(daemon);
        assert!(daemon.wait_for("cannot be used: it is dropped"), "{part}: {:?}", daemon.log());
        assert_serves(&daemon, &rig.fixture, rig.task("city"));
    }
    // Two of the three, more of one, and something else altogether.
    rig.manager.wait_for_kept(PARTS);
    rig.manager.take_kept("table");
    rig.manager.keep("stored", File::open("/dev/null").unwrap().into());
    rig.manager.keep("pool.1.0", File::open("/dev/null").unwrap().into());
    let daemon = rig.crash(daemon);
    let log = daemon.log();
    let dropped = log.iter().filter(|line| line.contains("is of no use here: it is dropped"));
    assert_eq!(dropped.count(), 2, "{log:?}");
    assert!(log.iter().any(|line| line.contains("not all of it is there")), "{log:?}");
    assert_serves(&daemon, &rig.fixture, rig.task("city"));
    rig.manager.wait_for_kept(PARTS);
}

#[test]
fn m17_another_bundle_in_its_place_takes_nothing_over() {
    let rig = Rig::new();
    let daemon = rig.start();
    switch_to(&daemon, "parking");
    rig.manager.wait_for_kept(PARTS);
    let other = Fixture { seed: 2, ..Fixture::small() };
    fs::remove_file(rig.file()).unwrap();
    let bundle = other.write(&rig.file());
    let daemon = rig.crash(daemon);
    assert_serves(&daemon, &other, bundle.find_task("city").unwrap());
    rig.manager.wait_for_kept(PARTS);
}

#[test]
fn m17_each_of_several_models_goes_on_with_its_own() {
    let rig = Rig::new();
    let other = Fixture { model: "other", ..Fixture::small() };
    other.write(&rig.folder.path().join("other.mesh"));
    let place = tempfile::tempdir().unwrap();
    let shown = rig.folder.path().display();
    let model = |name: &str| format!("- {{bundle: {shown}/{name}.mesh, pool_bytes: 1MiB}}\n");
    let text = format!("models:\n{}{}", model("small"), model("other"));
    write_config(place.path(), &text);
    let daemon = rig.run(place);
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        for (model, task) in [("small", "highway"), ("other", "parking")] {
            let request = proto::SwitchTaskRequest { model: model.into(), ..switch(task) };
            client.switch_task(request).await.unwrap();
        }
    });
    rig.manager.wait_for_kept(2 * PARTS);
    rig.damage_disk();
    let daemon = rig.crash(daemon);
    for (model, fixture, task) in [("small", &rig.fixture, "highway"), ("other", &other, "parking")]
    {
        let mut attached = Attachment::connect(&daemon.attach(), model, "").unwrap();
        let lease = attached.lease().unwrap();
        let task = rig.task(task);
        assert_eq!(lease.task(), task);
        for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
            let expected = fixture.expected_dense(task, position);
            assert_eq!(lease.sparse(tensor).to_dense().unwrap(), expected, "{model}");
        }
    }
    rig.manager.wait_for_kept(2 * PARTS);
}

#[test]
fn p1_killed_at_any_moment_under_load_nothing_torn_is_served() {
    let rig = Rig::new();
    let mut daemon = rig.start();
    let mut random = fastrand::Rng::with_seed(1);
    let mut generation = Generation(0);
    for round in 0..12 {
        let load = switches(&daemon);
        let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
        let delay = Duration::from_micros(random.u64(0..30_000));
        thread::sleep(delay);
        let lease = attached.lease().unwrap();
        let leased = lease.generation();
        assert!(leased > generation, "round {round}: {leased} after {generation}");
        generation = leased;
        daemon = rig.crash(daemon);
        load.join().unwrap();
        rig.assert_bytes(&lease, lease.task());
        let [(_, task, now)] = &sessions(&daemon)[..] else { panic!("one session") };
        assert!(*now > leased.0, "round {round}");
        assert_serves(&daemon, &rig.fixture, rig.task(task));
    }
}

/// Switches as fast as can be, until the daemon is gone.
fn switches(daemon: &Daemon) -> thread::JoinHandle<()> {
    let control = daemon.control();
    thread::spawn(move || {
        runtime().block_on(async {
            let Ok(mut client) = synchromesh::client::connect(&control).await else { return };
            for turn in 0.. {
                let task = ["parking", "city", "highway"][turn % 3];
                if client.switch_task(switch(task)).await.is_err() {
                    return;
                }
            }
        });
    })
}

#[test]
fn p5_a_daemon_that_crashes_again_and_again_does_only_what_it_must() {
    let rig = Rig::new();
    let mut daemon = rig.start();
    let again = |mut daemon: Daemon, is_safe: bool| {
        let before = rig.manager.wait_for_kept(PARTS);
        daemon.kill();
        let place = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
        let mut daemon = rig.manager.run(place, &[], &[]);
        if is_safe {
            // What made the daemons before it crash may have been a lack of memory.
            rig.manager.wait_for_forgotten(&before[..1]);
            rig.manager.wait_for("FDSTORE=1");
        }
        rig.manager.wait_for_forgotten(&before);
        let ready = rig.manager.wait_for("READY=1");
        assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
        (daemon, ready)
    };
    switch_to(&daemon, "parking");
    let ready;
    (daemon, _) = again(daemon, false);
    assert!(adopted(&daemon, "copied") > 0);
    assert!(!daemon.log().iter().any(|line| line.contains("safe mode")));
    (daemon, ready) = again(daemon, true);
    assert!(ready.contains("STATUS=safe mode; active: small default=parking"), "{ready}");
    assert!(daemon.wait_for("safe mode: earlier starts crashed"), "{:?}", daemon.log());
    let needed = rig.bundle.task(rig.task("parking")).blocks as usize;
    assert_eq!((adopted(&daemon, "copied"), adopted(&daemon, "read")), (0, needed));
    assert_serves(&daemon, &rig.fixture, rig.task("parking"));
    // A clean end is the end of it.
    assert_eq!(daemon.stop(), Some(0));
    let place = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
    let daemon = rig.run(place);
    assert!(adopted(&daemon, "copied") > 0);
    assert!(!daemon.log().iter().any(|line| line.contains("safe mode")));
}

#[test]
fn what_a_later_daemon_has_stored_goes_before_an_older_hand_over() {
    let rig = Rig::new();
    let mut daemon = rig.start();
    rig.manager.wait_for_kept(PARTS);
    daemon.kill();
    // It runs without the service manager, which keeps what the first one has left.
    let mut daemon = daemon.again();
    switch_to(&daemon, "highway");
    let before = sessions(&daemon).remove(0);
    assert_eq!(daemon.stop(), Some(0));
    let place = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
    let daemon = rig.run(place);
    let (_, task, generation) = sessions(&daemon).remove(0);
    assert_eq!(task, "highway");
    assert!(generation > before.2, "{generation} after {}", before.2);
    assert_serves(&daemon, &rig.fixture, rig.task("highway"));
}
