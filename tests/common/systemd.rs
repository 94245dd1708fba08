//! A service manager for daemons under test: it passes sockets and what it was asked to keep, and
//! hears notices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper may stop its test")]

use super::{
    HANG,
    daemon::{Daemon, program},
    soon,
};
use rustix::{
    io::fcntl_dupfd_cloexec,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{net::UnixDatagram, process::CommandExt as _},
    },
    path::Path,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Descriptors that the daemon's own do not get in the way of.
const HIGH: i32 = 200;

/// The service manager.
pub(crate) struct Manager {
    folder: TempDir,
    socket: UnixDatagram,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    notices: Vec<String>,
    last_ping: Option<Instant>,
    kept: Vec<(String, OwnedFd)>,
    /// How many can be kept, if that is bounded.
    room: Option<usize>,
}

impl Manager {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let heard = Arc::<Heard>::default();
        let (own, ear) = (heard.clone(), socket.try_clone().unwrap());
        thread::spawn(move || {
            while let Some((notice, fd)) = receive(&ear) {
                own.take_in(notice, fd);
            }
        });
        Self { folder, socket, heard }
    }

    /// Runs the daemon of this folder, with these sockets and what was kept. Further variables of
    /// its environment may be set.
    pub(crate) fn run(
        &self,
        folder: TempDir,
        sockets: &[(&str, &OwnedFd)],
        env: &[(&str, &str)],
    ) -> Daemon {
        let mut state = self.heard.state.lock().unwrap();
        let room = env.iter().find(|(name, _)| *name == "FDSTORE");
        state.room = room.map(|(_, room)| room.parse().unwrap());
        let kept = state.kept.iter().map(|(name, fd)| (&**name, fd));
        let all: Vec<_> = sockets.iter().copied().chain(kept).collect();
        let mut command = passing(&all);
        drop(state);
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify")).envs(env.iter().copied());
        Daemon::spawn_by(command, folder)
    }

    /// Waits for a notice that has this line, and gives it. What was heard before does not count.
    pub(crate) fn wait_for(&self, line: &str) -> String {
        self.wait(|state| {
            let has = |notice: &String| notice.lines().any(|other| other.starts_with(line));
            let at = state.notices.iter().position(has)?;
            let notice = state.notices[at].clone();
            state.notices.drain(..=at);
            Some(notice)
        })
        .unwrap_or_else(|| panic!("no notice says {line}"))
    }

    /// Waits until these are no longer to be kept, whatever comes first. What was heard before the
    /// last of them does not count.
    pub(crate) fn wait_for_forgotten(&self, names: &[String]) {
        let mut left: Vec<_> = names.iter().map(|name| format!("FDNAME={name}")).collect();
        while !left.is_empty() {
            let notice = self.wait_for("FDSTOREREMOVE=1");
            left.retain(|line| !notice.lines().any(|other| other == line));
        }
    }

    /// Waits until so many descriptors are kept, and gives their names.
    pub(crate) fn wait_for_kept(&self, count: usize) -> Vec<String> {
        let names =
            |state: &mut State| state.kept.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let kept = self.wait(|state| Some(names(state)).filter(|names| names.len() == count));
        kept.unwrap_or_else(|| panic!("{count} descriptors are not kept but others"))
    }

    /// What is kept under a name that begins so; it is taken away.
    pub(crate) fn take_kept(&self, name: &str) -> (String, OwnedFd) {
        let kept = &mut self.heard.state.lock().unwrap().kept;
        let at = kept.iter().position(|(other, _)| other.starts_with(name));
        kept.remove(at.expect("it is kept"))
    }

    pub(crate) fn keep(&self, name: &str, fd: OwnedFd) {
        self.heard.state.lock().unwrap().kept.push((name.into(), fd));
    }

    /// Whether the daemon does not ping for so long, as it should not. What was heard before does
    /// not count any more.
    pub(crate) fn misses_pings(&self, limit: Duration) -> bool {
        soon(|| {
            let mut state = self.heard.state.lock().unwrap();
            let is_silent = state.last_ping.expect("there was one").elapsed() > limit;
            if is_silent {
                state.notices.clear();
            }
            is_silent
        })
    }

    /// Waits for so many pings.
    pub(crate) fn hears_pings(&self, count: usize) {
        for _ in 0..count {
            self.wait_for("WATCHDOG=1");
        }
    }

    fn wait<T>(&self, mut found: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let until = Instant::now() + HANG;
        let mut state = self.heard.state.lock().unwrap();
        loop {
            if let Some(found) = found(&mut state) {
                return Some(found);
            }
            let left = until.checked_duration_since(Instant::now())?;
            state = self.heard.news.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Drop for Manager {
    /// Ends the thread, and with it what is kept.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Heard {
    fn take_in(&self, notice: String, fd: Option<OwnedFd>) {
        let mut state = self.state.lock().unwrap();
        let value =
            |key: &str| notice.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
        let name = value("FDNAME=").unwrap_or_else(|| "stored".into());
        let has_room = state.room.is_none_or(|room| state.kept.len() < room);
        match fd {
            Some(fd) if value("FDSTORE=1").is_some() && has_room => state.kept.push((name, fd)),
            _ if value("FDSTOREREMOVE=1").is_some() => {
                state.kept.retain(|(other, _)| *other != name)
            }
            _ => {}
        }
        if value("WATCHDOG=1").is_some() {
            state.last_ping = Some(Instant::now());
        }
        state.notices.push(notice);
        self.news.notify_all();
    }
}

fn receive(socket: &UnixDatagram) -> Option<(String, Option<OwnedFd>)> {
    let mut buffer = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let bytes = &mut [IoSliceMut::new(&mut buffer)];
    let message = recvmsg(socket, bytes, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    if message.bytes == 0 {
        return None;
    }
    let mut fd = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            fd = fds.last();
        }
    }
    assert!(message.bytes < 4096, "systemd takes no notice that is as long");
    Some((String::from_utf8(buffer[..message.bytes].to_vec()).unwrap(), fd))
}

/// The program with these descriptors, as systemd passes them. `ADDRESS_KIB` in its environment
/// bounds its address space.
#[expect(unsafe_code, reason = "descriptors are put in their places between fork and exec")]
pub(crate) fn passing(fds: &[(&str, &OwnedFd)]) -> Command {
    let names: Vec<_> = fds.iter().map(|(name, _)| *name).collect();
    let high: Vec<_> =
        fds.iter().map(|(_, fd)| fcntl_dupfd_cloexec(fd.as_fd(), HIGH).unwrap()).collect();
    let mut command = Command::new("sh");
    // Only the process itself knows its number.
    let script = "export LISTEN_PID=$$; ulimit -v ${ADDRESS_KIB:-unlimited}; exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(program().get_program());
    if !fds.is_empty() {
        command.env("LISTEN_FDS", fds.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    }
    let place = move || {
        for (to, fd) in (3..).zip(&high) {
            // SAFETY: the child has one thread, which owns none of these places.
            if unsafe { libc::dup2(fd.as_raw_fd(), to) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: it makes system calls only.
    unsafe { command.pre_exec(place) };
    command
}

/// A thread of a daemon that is held, as a fault would.
pub(crate) struct HeldThread(i32);

impl HeldThread {
    /// Holds the daemon's thread of this name; its main thread has the program's.
    pub(crate) fn hold(daemon: &Daemon, name: &str) -> Self {
        let tasks = format!("/proc/{}/task", daemon.pid());
        let is_it = |path: &Path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let mut threads = std::fs::read_dir(tasks).unwrap().map(|entry| entry.unwrap().path());
        let thread = threads.find(|path| is_it(path)).expect("there is such a thread");
        let id = thread.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let held = ptrace(libc::PTRACE_SEIZE, id) && ptrace(libc::PTRACE_INTERRUPT, id);
        assert!(held, "{}: root may do this", std::io::Error::last_os_error());
        wait(id);
        Self(id)
    }

    /// Lets it go on. Only the thread that holds it may do so.
    pub(crate) fn let_go(self) {}
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        if !ptrace(libc::PTRACE_DETACH, self.0) {
            // It was killed meanwhile, and is not gone before that was taken note of.
            wait(self.0);
        }
    }
}

#[expect(unsafe_code, reason = "rustix waits for no thread of another process")]
fn wait(thread: i32) {
    // SAFETY: the status is not asked for.
    let stopped = unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) };
    assert_eq!(stopped, thread, "{}", std::io::Error::last_os_error());
}

/// Whether it could be done.
#[expect(unsafe_code, reason = "a system call that no crate at hand has")]
fn ptrace(request: libc::c_uint, thread: i32) -> bool {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests reads or writes memory of this process.
    unsafe { libc::ptrace(request, thread, null, null) == 0 }
}
