//! What the daemon and systemd say to each other. Systemd is played by the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]
#![allow(clippy::print_stderr, reason = "what is skipped is said")]

mod common;

use common::{
    calls::{assert_serves, bundle, runtime, switch},
    daemon::{Daemon, program, write_config},
    http,
    systemd::{HeldThread, Manager, passing},
};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{fs::symlink, net::UnixDatagram, process::CommandExt as _},
    },
    path::Path,
    process::Command,
    time::Duration,
};
use synchromesh::{client::Attachment, proto};
use tempfile::TempDir;

/// A folder with a configuration that serves the bundle of another one.
fn place(bundle: &Path) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let shown = bundle.display();
    let models =
        format!("models: [{{bundle: {shown}/small.mesh, pool_bytes: 1MiB, initial_task: city}}]\n");
    write_config(place.path(), &models);
    place
}

fn socket(path: &Path, kind: SocketType) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&socket, 16).unwrap();
    socket
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can hold a thread of the daemon");
    }
    root
}

#[test]
fn sockets_of_systemd_are_served_by_their_names_and_stay_when_the_daemon_goes() {
    let (folder, fixture, bundle) = bundle();
    let (place, sockets) = (place(folder.path()), tempfile::tempdir().unwrap());
    let [control, attach] = ["c", "a"].map(|name| sockets.path().join(name));
    let metrics = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = metrics.local_addr().unwrap();
    let metrics_socket = sockets.path().join("m");
    let opened = [
        ("metrics", metrics.into()),
        ("metrics", socket(&metrics_socket, SocketType::STREAM)),
        ("attach", socket(&attach, SocketType::SEQPACKET)),
        ("control", socket(&control, SocketType::STREAM)),
    ];
    let passed: Vec<_> = opened.iter().map(|(name, fd)| (*name, fd)).collect();
    let manager = Manager::start();
    runtime().block_on(async {
        // The first call starts it, so it comes before there is a daemon.
        let early = tokio::spawn({
            let control = control.clone();
            async move {
                let mut client = synchromesh::client::connect(&control).await.unwrap();
                client.switch_task(switch("highway")).await.unwrap().into_inner().generation
            }
        });
        tokio::task::yield_now().await;
        let mut daemon = manager.run(place, &passed, &[]);
        assert_eq!(early.await.unwrap(), 2, "the first was the initial task");
        assert!(!daemon.control().exists() && !daemon.attach().exists(), "nothing else is bound");
        let mut attached = Attachment::connect(&attach, "", "").unwrap();
        assert_eq!(attached.lease().unwrap().task(), bundle.find_task("highway").unwrap());
        drop(attached);
        let text = http::scrape(&address.to_string());
        assert!(text.contains("synchromesh_build_info"), "{text}");
        let get = "GET /metrics HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n";
        assert_eq!(http::ask_socket(&metrics_socket, get).status, 200);

        // Who is not started by systemd keeps off.
        let second = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(daemon.folder.path().join("synchromesh.yaml")).unwrap();
        let text = text.replace(&daemon.control().display().to_string(), control.to_str().unwrap());
        fs::write(second.path().join("synchromesh.yaml"), text).unwrap();
        let mut second = Daemon::spawn(second);
        assert!(second.wait_for("another daemon serves"), "{:?}", second.log());

        assert_eq!(daemon.stop(), Some(0), "{:?}", daemon.log());
        assert!([&control, &attach].iter().all(|path| path.exists()));
        let mut second =
            Daemon::spawn(std::mem::replace(&mut second.folder, tempfile::tempdir().unwrap()));
        assert!(second.wait_for("another daemon serves"), "systemd listens: {:?}", second.log());
        assert!(control.exists());
    });
    drop(fixture);
}

#[test]
fn where_systemd_listens_is_told_and_keys_that_say_something_else_are_warned_of() {
    let (folder, _, _bundle) = bundle();
    let sockets = tempfile::tempdir().unwrap();
    let (elsewhere, metrics) =
        (sockets.path().join("c"), TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, metrics) = (metrics.local_addr().unwrap(), OwnedFd::from(metrics));
    let control = socket(&elsewhere, SocketType::STREAM);
    let run = |metrics_key: &str, agree: bool| {
        let place = place(folder.path());
        let config = place.path().join("synchromesh.yaml");
        let text = fs::read_to_string(&config).unwrap();
        let mut text = text.replace("listen: {", &format!("listen: {{{metrics_key}"));
        let attach = place.path().join("attach.sock");
        let named = place.path().join("control.sock");
        if agree {
            // By another way to the same place.
            symlink(sockets.path(), place.path().join("link")).unwrap();
            let same = place.path().join("link/c").display().to_string();
            text = text.replace(named.to_str().unwrap(), &same);
        }
        fs::write(config, text).unwrap();
        let attach_fd = socket(&attach, SocketType::SEQPACKET);
        let passed = [("control", &control), ("attach", &attach_fd), ("metrics", &metrics)];
        let mut daemon = Daemon::spawn_by(passing(&passed), place);
        let ready = format!(
            "ready control={} attach={} metrics={address}",
            elsewhere.display(),
            attach.display()
        );
        assert!(daemon.wait_for(&ready), "{ready}: {:?}", daemon.log());
        let log = daemon.log();
        let warned = log.into_iter().filter(|line| line.contains("is not heeded"));
        (warned.collect::<Vec<_>>(), named)
    };
    assert_eq!(run("", true).0, [""; 0], "no key says anything else");
    assert_eq!(run(&format!("metrics: '{address}', "), true).0, [""; 0], "the same address");

    let (warned, named) = run("metrics: '127.0.0.1:1', ", false);
    assert_eq!(warned.len(), 2, "attach is where it should be: {warned:?}");
    let both = [
        ("control", named.display().to_string(), elsewhere.display().to_string()),
        ("metrics", "127.0.0.1:1".into(), address.to_string()),
    ];
    for (line, (key, configured, served)) in warned.iter().zip(both) {
        let told = format!("key=\"listen.{key}\" configured={configured} served={served}");
        assert!(line.contains("WARN") && line.contains(&told), "{line}");
    }
}

#[test]
fn sockets_of_unknown_names_or_other_kinds_are_refused() {
    let (folder, _, _bundle) = bundle();
    let sockets = tempfile::tempdir().unwrap();
    let path = |name: &str| sockets.path().join(name);
    let [one, two] = ["s", "t"].map(|name| socket(&path(name), SocketType::STREAM));
    let packets = socket(&path("p"), SocketType::SEQPACKET);
    let tcp = OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let cases: [(&[(&str, &OwnedFd)], &str); 7] = [
        (&[("grpc", &one)], "systemd passed a socket named `grpc`"),
        (&[("control", &one), ("control", &two)], "two sockets named `control`"),
        (&[("control", &packets)], "`control` that systemd passed is not a Unix stream socket"),
        (&[("control", &tcp)], "`control` that systemd passed is not a Unix stream socket"),
        (&[("attach", &one)], "`attach` that systemd passed is not a Unix seqpacket socket"),
        (&[("metrics", &packets)], "`metrics` that systemd passed is not a TCP socket"),
        (&[("metrics", &one), ("metrics", &two)], "two sockets named `metrics`"),
    ];
    for (passed, said) in cases {
        let mut daemon = Daemon::spawn_by(passing(passed), place(folder.path()));
        assert!(daemon.wait_for(said), "{said}: {:?}", daemon.log());
        assert!(daemon.ends());
    }
    let mut daemon = Daemon::spawn_by(passing(&[("metrics", &tcp)]), place(folder.path()));
    assert!(daemon.wait_for("ready"), "the others are bound: {:?}", daemon.log());
    assert!(daemon.control().exists() && daemon.attach().exists());
}

#[test]
fn readiness_is_told_when_all_is_served_and_the_status_follows_the_tasks() {
    let (folder, fixture, bundle) = bundle();
    let manager = Manager::start();
    let mut daemon = manager.run(place(folder.path()), &[], &[]);
    assert!(manager.wait_for("EXTEND_TIMEOUT_USEC=").contains("STATUS=loading "));
    let ready = manager.wait_for("READY=1");
    assert!(ready.contains("STATUS=active: small default=city\n"), "{ready}");
    assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
    runtime().block_on(async {
        let mut client = daemon.connect().await;
        client.switch_task(switch("parking")).await.unwrap();
        manager.wait_for("STATUS=active: small default=parking");
        let open = proto::OpenSessionRequest { session: "rear".into(), ..Default::default() };
        client.open_session(open).await.unwrap();
        manager.wait_for("STATUS=active: small default=parking rear=none");
    });
    assert_eq!(daemon.stop(), Some(0));
    assert!(manager.wait_for("STOPPING=1").contains("EXTEND_TIMEOUT_USEC="));
}

#[test]
fn a_manager_that_does_not_listen_holds_nobody_up() {
    let (folder, fixture, bundle) = bundle();
    let place = place(folder.path());
    let path = place.path().join("notify");
    let deaf = UnixDatagram::bind(&path).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"STATUS=full", &path).is_ok() {}
    let mut command = passing(&[]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "30000");
    let mut daemon = Daemon::spawn_by(command, place);
    assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
    assert!(daemon.wait_for("systemd was not notified"), "{:?}", daemon.log());
    runtime()
        .block_on(async { daemon.connect().await.switch_task(switch("parking")).await.unwrap() });
    assert_serves(&daemon, &fixture, bundle.find_task("parking").unwrap());
    assert_eq!(daemon.stop(), Some(0));
    drop(deaf);
}

/// A daemon run by this never gets beyond its first piece of shared memory, which it makes when it
/// loads: the kernel asks somebody about it who does not answer.
#[expect(unsafe_code, reason = "a filter of system calls is put on between fork and exec")]
fn that_never_has_loaded() -> Command {
    let instruction = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let mut filter = [
        // The call's number is what the kernel tells first.
        instruction((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0),
        instruction(
            (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            libc::SYS_memfd_create as u32,
            1,
        ),
        instruction((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_USER_NOTIF, 0),
        instruction((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let mut command = program();
    let put_on = move || {
        let filter = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: it reads no memory.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let (mode, listen) =
            (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        // SAFETY: it reads the filter, which has as many instructions as it says.
        let asked = unsafe { libc::syscall(libc::SYS_seccomp, mode, listen, &raw const filter) };
        // Who is asked has to stay, or the call would fail rather than wait.
        // SAFETY: it reads no memory.
        if asked < 0 || unsafe { libc::fcntl(asked as i32, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(put_on) };
    command
}

#[test]
fn p7_a_daemon_that_is_told_to_end_while_it_loads_does_so_and_that_is_no_crash() {
    let (folder, _, _bundle) = bundle();
    let place = place(folder.path());
    let path = place.path().join("notify");
    let notices = UnixDatagram::bind(&path).unwrap();
    notices.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = that_never_has_loaded();
    command.env("NOTIFY_SOCKET", &path);
    let mut daemon = Daemon::spawn_by(command, place);
    let mut notice = [0; 4096];
    let len = notices.recv(&mut notice).unwrap();
    let notice = String::from_utf8_lossy(&notice[..len]);
    assert!(notice.contains("STATUS=loading "), "{notice}");
    let starts = daemon.folder.path().join("starts");
    assert!(starts.exists(), "a crash would count now");
    assert_eq!(daemon.stop(), Some(0), "{:?}", daemon.log());
    assert!(!starts.exists(), "it is not counted");
    assert!(!daemon.wait_for("loaded"), "{:?}", daemon.log());
}

/// A daemon that is to ping every tenth of a second.
fn watched(manager: &Manager, folder: &Path, backend: &str) -> Daemon {
    let place = place(folder);
    let config = place.path().join("synchromesh.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, format!("{text}storage: {{backend: {backend}, read_threads: 2}}\n")).unwrap();
    let daemon = manager.run(place, &[], &[("WATCHDOG_USEC", "300000")]);
    manager.hears_pings(3);
    daemon
}

/// Longer than a daemon that is well is silent, on a machine that is busy, too.
const LIMIT: Duration = Duration::from_millis(1_500);

#[test]
fn p3_a_loop_that_hangs_is_not_reported_alive() {
    if !root() {
        return;
    }
    let (folder, _, _bundle) = bundle();
    let manager = Manager::start();
    let daemon = watched(&manager, folder.path(), "auto");
    let held = HeldThread::hold(&daemon, "synchromesh");
    assert!(manager.misses_pings(LIMIT));
    held.let_go();
    manager.hears_pings(3);
}

#[test]
fn p4_a_thread_that_does_not_come_round_keeps_the_daemon_from_being_reported_alive() {
    if !root() {
        return;
    }
    let (folder, fixture, bundle) = bundle();
    for (backend, thread) in [("preadv", "read-1"), ("preadv", "verify"), ("auto", "verify")] {
        let manager = Manager::start();
        let mut daemon = watched(&manager, folder.path(), backend);
        let held = HeldThread::hold(&daemon, thread);
        assert!(manager.misses_pings(LIMIT), "{thread}");
        assert!(daemon.wait_for(&format!("silent=\"{thread}")), "{:?}", daemon.log());
        // The loop goes on all the while.
        runtime()
            .block_on(async { daemon.connect().await.switch_task(switch("city")).await.unwrap() });
        held.let_go();
        manager.hears_pings(3);
        assert_serves(&daemon, &fixture, bundle.find_task("city").unwrap());
    }
    if common::io_uring_is_refused() {
        return;
    }
    let manager = Manager::start();
    let mut daemon = watched(&manager, folder.path(), "auto");
    let held = HeldThread::hold(&daemon, "io_uring");
    assert!(manager.misses_pings(LIMIT));
    assert!(daemon.wait_for("silent=\"io_uring"), "{:?}", daemon.log());
    held.let_go();
    manager.hears_pings(3);
}

#[test]
fn without_a_manager_nothing_is_told_and_nothing_is_missing() {
    let (folder, _, _bundle) = bundle();
    let mut daemon = Daemon::spawn(place(folder.path()));
    assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
    assert!(!daemon.log().iter().any(|line| line.contains("systemd")), "{:?}", daemon.log());
}
