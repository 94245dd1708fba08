//! The data plane against clients and daemons that misbehave: what a client may not do, who may not
//! attach, what is told to whom when somebody dies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]
#![allow(clippy::print_stderr, reason = "what is skipped must be seen")]

mod common;

use common::{
    calls::*,
    daemon::{Daemon, program},
};
use rustix::{
    fs::{FallocateFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate},
    io::{Errno, pwrite, read},
    net::{
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit},
};
use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader, IoSlice, Write as _},
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use synchromesh::{
    bundle::Bundle,
    client::{AttachError, Attachment},
    device::{Cell, Notice},
    proto,
    units::Generation,
    wire::{Hello, Refusal, Welcome, WireError},
};
use tonic::Code;

/// Names the attach socket for a test that runs again as a client in a process of its own.
const CHILD: &str = "SYNCHROMESH_TEST_ATTACH";
/// Longer than anything here takes.
const HANG: Duration = Duration::from_secs(60);

/// Runs one of this file's tests as another process, which finds the daemon in its environment.
fn as_child(test: &str, daemon: &Daemon) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(CHILD, daemon.attach());
    command
}

/// A process that has leased and says so, until it is killed or its input ends.
struct Client {
    process: Child,
}

impl Client {
    fn start(daemon: &Daemon) -> Self {
        let mut command = as_child("a_client_that_leases", daemon);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("leased")), "it leases");
        Self { process }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The client of the tests above.
#[test]
#[ignore = "a client of another test, in a process of its own"]
fn a_client_that_leases() {
    let attach = env::var_os(CHILD).expect("the test that starts it says where to attach");
    let mut attached = Attachment::connect(Path::new(&attach), "", "").unwrap();
    let _lease = attached.lease().unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "leased").unwrap();
    out.flush().unwrap();
    // Until the parent closes the pipe.
    let _ = read(std::io::stdin(), &mut [0]);
}

/// Attaches without the client library.
fn welcome(daemon: &Daemon) -> (OwnedFd, Result<Welcome, WireError>) {
    let socket = common::seqpacket::connect(&daemon.attach());
    Hello::default().send(&socket).unwrap();
    let welcome = Welcome::receive(&socket);
    (socket, welcome)
}

fn refusal(error: Result<Welcome, WireError>) -> (Refusal, String) {
    match error {
        Err(WireError::Refused { code, text }) => (code, text),
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn m1_what_clients_get_cannot_be_written_by_any_means() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let (_socket, welcome) = welcome(&daemon);
    let [pool, table, index, cell, _] = welcome.unwrap().descriptors;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for (name, fd) in [("pool", &pool), ("table", &table), ("index", &index)] {
        let again = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let reopened = fs::OpenOptions::new().read(true).write(true).open(again).unwrap();
        for fd in [fd, &OwnedFd::from(reopened)] {
            assert_eq!(pwrite(fd, b"x", 0), Err(Errno::PERM), "{name} written");
            let mapped = memmap2::MmapOptions::new().len(4096).map_raw(fd).unwrap_err();
            assert_eq!(Errno::from_io_error(&mapped), Some(Errno::PERM), "{name} mapped");
            assert_eq!(ftruncate(fd, 0), Err(Errno::PERM), "{name} cut");
            assert_eq!(ftruncate(fd, 1 << 40), Err(Errno::PERM), "{name} grown");
            assert_eq!(fallocate(fd, punch, 0, 4096), Err(Errno::PERM), "{name} punched");
            let beyond = fallocate(fd, FallocateFlags::empty(), 0, 1 << 40);
            assert_eq!(beyond, Err(Errno::PERM), "{name} filled up");
            assert_eq!(fcntl_add_seals(fd, SealFlags::WRITE), Err(Errno::PERM), "{name} sealed");
            assert_no_write_access(name, fd);
        }
    }
    assert!(ftruncate(&cell, 0).is_err(), "the daemon's own view of the cell");
    assert!(fcntl_add_seals(&cell, SealFlags::FUTURE_WRITE).is_err(), "the cell stays writable");
}

/// A mapping for reading cannot be made one for writing.
#[expect(unsafe_code, reason = "it is to be seen that the kernel refuses")]
fn assert_no_write_access(name: &str, fd: &OwnedFd) {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};
    let (len, null) = (4096, std::ptr::null_mut());
    // SAFETY: a new mapping, at a place that the kernel chooses.
    let mapped = unsafe { mmap(null, len, ProtFlags::READ, MapFlags::SHARED, fd, 0) }.unwrap();
    // SAFETY: the mapping is this function's own, and nothing refers to it.
    let allowed = unsafe { mprotect(mapped, len, MprotectFlags::READ | MprotectFlags::WRITE) };
    assert!(allowed.is_err(), "{name} made writable");
    // SAFETY: as above.
    unsafe { munmap(mapped, len) }.unwrap();
}

#[test]
fn m2_a_killed_client_gives_its_lease_back() {
    let (folder, fixture, bundle) = bundle();
    let city = bundle.find_task("city").unwrap();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        control.switch_task(switch("city")).await.unwrap();
        let client = Client::start(&daemon);
        control.switch_task(switch("highway")).await.unwrap();
        let session = session_of(&mut control).await;
        assert_eq!((session.clients, session.leases.len()), (1, 1));
        let lease = &session.leases[0];
        assert_eq!((lease.pid, lease.task.as_str()), (client.pid(), "city"));
        assert!(!lease.revoked && lease.kept.unwrap().bytes > 0, "{lease:?}");
        client.signal(Signal::KILL);
        let since = Instant::now();
        while !session_of(&mut control).await.leases.is_empty() {
            assert!(since.elapsed() < HANG, "the lease is gone with its process");
            thread::sleep(Duration::from_millis(1));
        }
        eprintln!("the lease was gone after {:?}", since.elapsed());
        assert_eq!(session_of(&mut control).await.clients, 0);
        control.switch_task(switch("city")).await.unwrap();
    });
    assert_serves(&daemon, &fixture, city);
}

async fn session_of(control: &mut synchromesh::client::Control) -> proto::SessionStatus {
    let status = control.get_status(proto::GetStatusRequest::default()).await.unwrap();
    status.into_inner().models.remove(0).sessions.remove(0)
}

/// A pool that holds any two of the tasks, but not all three.
fn two_tasks(bundle: &Bundle) -> u64 {
    let set = |name: &str| bundle.task_blocks(bundle.find_task(name).unwrap());
    let [city, highway, parking] = ["city", "highway", "parking"].map(set);
    let pairs = [(city, highway), (highway, parking), (city, parking)];
    let most = pairs.iter().map(|(one, other)| one.union_count(other)).max().unwrap();
    most as u64 * bundle.block().bytes()
}

fn impatient(bundle: &Path, pool_bytes: u64, patience_ms: u64) -> Daemon {
    Daemon::with_config(|_| {
        format!(
            "models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\nprefetch: {{enabled: false}}\n\
             limits: {{lease_patience_ms: {patience_ms}}}\n",
            bundle.display()
        )
    })
}

#[test]
fn m3_a_stopped_client_is_revoked_and_costs_room_but_nothing_is_overwritten() {
    let (folder, fixture, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    let daemon = impatient(&path, two_tasks(&bundle), 300);
    let parking = bundle.find_task("parking").unwrap();
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        control.switch_task(switch("city")).await.unwrap();
        let mut witness = Attachment::connect(&daemon.attach(), "", "").unwrap();
        let lease = witness.lease().unwrap();
        assert!(lease.is_current());
        let client = Client::start(&daemon);
        client.signal(Signal::STOP);
        control.switch_task(switch("highway")).await.unwrap();
        let since = Instant::now();
        let full = control.switch_task(switch("parking")).await.unwrap_err();
        assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "POOL_FULL"));
        assert!(since.elapsed() >= Duration::from_millis(200), "it waited as long as patience");
        let session = session_of(&mut control).await;
        assert_eq!(session.task, "highway", "nothing has changed");
        assert_eq!(session.leases.iter().filter(|lease| lease.revoked).count(), 2);
        assert!(matches!(lease.check(), Err(AttachError::Revoked(Generation(1)))), "it is told");
        assert!(!lease.is_current());
        // What is leased stays, however long it takes.
        let city = bundle.find_task("city").unwrap();
        for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
            let served = lease.sparse(tensor).to_dense().unwrap();
            assert_eq!(served, fixture.expected_dense(city, position));
        }
        drop(lease);
        assert!(matches!(witness.lease(), Err(AttachError::Revoked(Generation(1)))));
        let told = witness.wait(Generation(99), HANG);
        assert!(matches!(told, Err(AttachError::Revoked(Generation(1)))), "{told:?}");
        drop(witness);
        client.signal(Signal::KILL);
        let since = Instant::now();
        while control.switch_task(switch("parking")).await.is_err() {
            assert!(since.elapsed() < HANG, "the room is back");
        }
    });
    assert_serves(&daemon, &fixture, parking);
}

#[test]
fn m4_a_process_that_leaks_attachments_harms_itself_only() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let city = bundle.find_task("city").unwrap();
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let leaked: Vec<_> =
        (0..8).map(|_| Attachment::connect(&daemon.attach(), "", "").unwrap()).collect();
    let (_, more) = welcome(&daemon);
    let (code, text) = refusal(more);
    assert_eq!(code, Refusal::RESOURCE_EXHAUSTED);
    assert!(text.contains("limits.attachments_per_process"), "{text}");
    let other = Client::start(&daemon);
    drop((leaked, other));
    // The daemon learns of the ends one after another.
    let since = Instant::now();
    while Attachment::connect(&daemon.attach(), "", "").is_err() {
        assert!(since.elapsed() < HANG, "the places are back");
    }
    assert_serves(&daemon, &fixture, city);
}

#[test]
fn m11_a_generation_that_has_gone_cannot_be_leased() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        for (task, generation) in [("city", 1), ("highway", 2), ("city", 3)] {
            let switched = control.switch_task(switch(task)).await.unwrap().into_inner();
            assert_eq!(switched.generation, generation);
            let waited = attached.wait(Generation(generation - 1), HANG).unwrap();
            assert_eq!(waited, Generation(generation));
            let lease = attached.lease_of(Generation(generation)).unwrap();
            assert_eq!((lease.task_name(), lease.generation().0), (task, generation));
        }
    });
    // The same task, but not the same generation.
    let stale = attached.lease_of(Generation(1)).unwrap_err();
    let (expected, actual) = (Generation(1), Generation(3));
    assert!(
        matches!(stale, AttachError::OtherGeneration { expected: e, actual: a } if (e, a) == (expected, actual)),
        "{stale}"
    );
    assert!(attached.lease().is_ok(), "the refused lease left nothing behind");
    let late = attached.wait(Generation(3), Duration::from_millis(10));
    assert!(matches!(late, Err(AttachError::TimedOut)));
}

#[test]
fn a_daemon_that_is_killed_under_a_lease_is_noticed_at_once_and_attached_to_again() {
    let (folder, fixture, bundle) = bundle();
    let path = folder.path().join("small.mesh");
    let mut daemon = Daemon::start(&path, whole(&bundle));
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let city = bundle.find_task("city").unwrap();
    let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
    let lease = attached.lease().unwrap();
    daemon.kill();
    assert!(matches!(lease.check(), Err(AttachError::Closed)), "seen at once, under the lease");
    for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
        let served = lease.sparse(tensor).to_dense().unwrap();
        assert_eq!(served, fixture.expected_dense(city, position), "it stays readable");
    }
    drop(lease);
    assert!(matches!(attached.check(), Err(AttachError::Closed)), "seen by a load from memory");
    assert!(matches!(attached.lease(), Err(AttachError::Closed)));
    assert!(matches!(attached.wait(Generation(9), HANG), Err(AttachError::Closed)));
    let again = daemon.again();
    runtime().block_on(async { again.connect().await.switch_task(switch("city")).await.unwrap() });
    let mut attached = Attachment::connect(&again.attach(), "", "").unwrap();
    assert_eq!(attached.lease().unwrap().task(), city);
}

#[test]
fn a_client_that_waits_is_told_when_the_daemon_dies() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
    let pid = Pid::from_raw(daemon.pid() as i32).unwrap();
    let waiting = thread::spawn(move || attached.wait(Generation(0), HANG));
    thread::sleep(Duration::from_millis(50));
    kill_process(pid, Signal::KILL).unwrap();
    assert!(matches!(waiting.join().unwrap(), Err(AttachError::Closed)));
}

#[test]
fn hellos_of_other_versions_and_other_shapes_are_refused_with_a_code() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let say = |bytes: &[u8]| {
        let socket = common::seqpacket::connect(&daemon.attach());
        send(&socket, bytes, SendFlags::NOSIGNAL).unwrap();
        refusal(Welcome::receive(&socket))
    };
    let mut hello = [0; 144];
    hello[..8].copy_from_slice(b"SMATTACH");
    hello[8] = 2;
    let (code, text) = say(&hello);
    assert_eq!(code, Refusal::UNIMPLEMENTED);
    assert!(text.contains("version 2"), "{text}");
    hello[8] = 1;
    assert_eq!(say(&hello[..143]).0, Refusal::INVALID_ARGUMENT);
    assert_eq!(say(b"hello").0, Refusal::INVALID_ARGUMENT);
    hello[16..20].copy_from_slice(b"none");
    let (code, text) = say(&hello);
    assert_eq!(code, Refusal::NOT_FOUND);
    assert!(text.contains("there is no model `none`"), "{text}");
}

#[test]
fn r16_a_process_of_a_pid_namespace_that_the_daemon_does_not_see_is_refused() {
    let (folder, _, bundle) = bundle();
    // The daemon lives in a namespace of its own, so that the test's processes are none of its.
    let can = Command::new("unshare").args(["--pid", "--fork", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no pid namespace can be made here");
        return;
    }
    let apart = ["unshare", "--pid", "--fork", "--kill-child"];
    let daemon = Daemon::start_through(&apart, &folder.path().join("small.mesh"), whole(&bundle));
    let (_, refused) = welcome(&daemon);
    let (code, text) = refusal(refused);
    assert_eq!(code, Refusal::PERMISSION_DENIED);
    assert!(text.contains("pid namespace"), "{text}");
}

#[test]
fn r17_descriptors_that_a_client_sends_are_closed_and_it_is_disconnected() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let city = bundle.find_task("city").unwrap();
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    assert_serves(&daemon, &fixture, city);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let before = descriptors();
    let junk = fs::File::open("/dev/null").unwrap();
    let mut sockets = Vec::new();
    for round in 0..20 {
        let socket = common::seqpacket::connect(&daemon.attach());
        set_socket_timeout(&socket, Timeout::Recv, Some(HANG)).unwrap();
        if round % 2 == 1 {
            // After a welcome nothing may come, and so no descriptor either.
            Hello::default().send(&socket).unwrap();
            Welcome::receive(&socket).unwrap();
        }
        let mut hello = [0; 144];
        hello[..8].copy_from_slice(b"SMATTACH");
        hello[8] = 1;
        send_with(&socket, &hello, &junk, 253);
        match Welcome::receive(&socket) {
            Err(WireError::Refused { code, .. }) => assert_eq!(code, Refusal::INVALID_ARGUMENT),
            Err(WireError::Closed | WireError::Io(Errno::CONNRESET)) => {}
            other => panic!("{other:?}"),
        }
        // The daemon hangs up; until then the connection holds one of the process's places.
        let end = Welcome::receive(&socket).unwrap_err();
        assert!(matches!(end, WireError::Closed | WireError::Io(Errno::CONNRESET)), "{end}");
        sockets.push(socket);
    }
    let since = Instant::now();
    while descriptors() > before {
        assert!(since.elapsed() < HANG, "no descriptor is kept: {} > {before}", descriptors());
        thread::sleep(Duration::from_millis(1));
    }
    assert_serves(&daemon, &fixture, city);
}

fn send_with(socket: &OwnedFd, bytes: &[u8], fd: &fs::File, count: usize) {
    let fds = vec![fd.as_fd(); count];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(count))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

#[test]
fn r6_silent_connections_of_one_process_take_no_places_from_another() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let city = bundle.find_task("city").unwrap();
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    // As many as there are places in all.
    let silent: Vec<_> = (0..64).map(|_| common::seqpacket::connect(&daemon.attach())).collect();
    let since = Instant::now();
    let other = Client::start(&daemon);
    assert!(since.elapsed() < Duration::from_secs(4), "it need not wait for theirs to run out");
    drop((silent, other));
    let since = Instant::now();
    while Attachment::connect(&daemon.attach(), "", "").is_err() {
        assert!(since.elapsed() < HANG, "the places are back");
    }
    assert_serves(&daemon, &fixture, city);
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_in_its_cell_that_it_is_no_member_any_more() {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let (socket, welcome) = welcome(&daemon);
    let [.., cell, _] = welcome.unwrap().descriptors;
    let cell = Cell::open(cell).unwrap();
    assert_eq!(cell.notice(), None);
    send(&socket, b"more", SendFlags::NOSIGNAL).unwrap();
    let since = Instant::now();
    while cell.notice() != Some(Notice::Ended) {
        assert!(since.elapsed() < HANG, "it is told");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn r18_a_client_without_room_for_descriptors_is_told_and_the_daemon_goes_on() {
    let (folder, fixture, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    let city = bundle.find_task("city").unwrap();
    runtime().block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
    let mut child = as_child("a_client_without_room_for_descriptors", &daemon);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("raise its limit"), "{said}");
    assert_serves(&daemon, &fixture, city);
}

/// The descriptors that are open.
fn descriptors() -> BTreeSet<u64> {
    let folder = fs::read_dir("/proc/self/fd").unwrap();
    let mut open: BTreeSet<u64> =
        folder.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // The folder's own is not open any more.
    open.retain(|fd| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok());
    open
}

/// The client of the test above.
#[test]
#[ignore = "a client of another test, in a process of its own"]
fn a_client_without_room_for_descriptors() {
    let attach = env::var_os(CHILD).expect("the test that starts it says where to attach");
    let open = descriptors();
    let hard = getrlimit(Resource::Nofile).maximum;
    // Room for the socket and two of the five.
    let limit = (0..).filter(|fd| !open.contains(fd)).nth(3);
    setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: hard }).unwrap();
    let error = Attachment::connect(Path::new(&attach), "", "").unwrap_err();
    assert!(matches!(error, AttachError::Wire(WireError::DescriptorsLost)), "{error}");
    writeln!(std::io::stdout(), "{error}").unwrap();
    assert_eq!(descriptors(), open, "what came through is closed");
}

#[test]
fn a_client_in_a_pool_of_one_task_sees_none_for_a_while_and_then_the_next() {
    let (folder, fixture, bundle) = bundle();
    let blocks = bundle.task_indices().map(|task| bundle.task(task).blocks).max().unwrap();
    let path = folder.path().join("small.mesh");
    let daemon = impatient(&path, blocks * bundle.block().bytes(), 60_000);
    let tasks = ["city", "highway", "parking"].map(|name| (name, bundle.find_task(name).unwrap()));
    runtime().block_on(async {
        let mut control = daemon.connect().await;
        control.switch_task(switch("city")).await.unwrap();
        let full = control.switch_task(switch("highway")).await.unwrap_err();
        assert_eq!(reason(&full), "POOL_FULL", "there is no room for both");
        let mut attached = Attachment::connect(&daemon.attach(), "", "").unwrap();
        for (name, task) in tasks.into_iter().cycle().skip(1).take(6) {
            let mode = proto::SwitchMode::InPlace.into();
            let request = proto::SwitchTaskRequest { mode, ..switch(name) };
            let before = attached.generation();
            let switched = control.switch_task(request).await.unwrap().into_inner();
            assert!(switched.in_place, "{switched:?}");
            assert_eq!(switched.generation, before.0 + 2, "none, then the next");
            let lease = attached.lease_of(Generation(switched.generation)).unwrap();
            assert_eq!(lease.task(), task);
            for (position, tensor) in lease.bundle().tensors().iter().enumerate() {
                let served = lease.sparse(tensor).to_dense().unwrap();
                assert_eq!(served, fixture.expected_dense(task, position));
            }
        }
    });
    let mut switching = program();
    switching.args(["switch", "highway", "--in-place", "--control"]).arg(daemon.control());
    let output = switching.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("in place"), "{text}");
}
