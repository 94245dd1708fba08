//! What the service manager and the daemon say to each other: descriptors that come with the start,
//! and notices of how it goes. Without a service manager there is neither, and nothing is missing.
//!
//! A notice is a datagram that is never waited for on the way: if the manager is busy, it is tried
//! again a little later, and in the end given up. What is in a notice is decided elsewhere.

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, sendmsg_addr, socket_with,
    },
};
use sd_notify::{NotifyState, listen_fds_with_names};
use std::{
    env,
    ffi::OsStr,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::time::sleep;

/// How often a notice is tried, and how long it rests in between.
const TRIES: u32 = 50;
const REST: Duration = Duration::from_millis(20);

/// Whether the descriptors of the start are taken: they are the process's, once.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A descriptor that came with the start.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) name: String,
    pub(super) fd: OwnedFd,
}

/// Takes the descriptors that came with the start; nothing comes of a second call. They will not be
/// inherited by other programs.
#[expect(unsafe_code, reason = "their numbers are told by the environment")]
pub(super) fn passed() -> io::Result<Vec<Passed>> {
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let take = |(fd, name)| Passed {
        name,
        // SAFETY: whoever started this process says that the number was opened for it, and
        // `listen_fds_with_names` has found it open. Nothing else here relies on the numbers that
        // the process began with, but for the first three, which are not among them, and `TAKEN`
        // makes sure that they are owned once.
        fd: unsafe { OwnedFd::from_raw_fd(fd) },
    };
    Ok(listen_fds_with_names()?.map(take).collect())
}

/// How many descriptors systemd keeps at most: it drops later ones, and tells nobody. It says so from
/// version 254 on, if it keeps any at all.
pub(super) fn store_size() -> Option<usize> {
    env::var("FDSTORE").ok()?.parse().ok()
}

/// Where notices go.
#[derive(Debug)]
pub(super) struct Notifier(Option<Manager>);

#[derive(Debug)]
struct Manager {
    socket: OwnedFd,
    /// Not connected to it: the manager may bind its socket anew.
    address: SocketAddrUnix,
    /// Whether the latest notice was lost. Only the first in a row is worth a line.
    is_deaf: AtomicBool,
}

impl Notifier {
    /// The service manager that the environment names, if it does.
    pub(super) fn from_env() -> Self {
        env::var_os("NOTIFY_SOCKET").map_or(Self(None), |path| Self::at(&path))
    }

    /// The service manager whose socket has this name.
    pub(super) fn at(path: &OsStr) -> Self {
        match Manager::at(path.as_bytes()) {
            Ok(manager) => Self(Some(manager)),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used: systemd is not notified");
                Self(None)
            }
        }
    }

    /// Whether there is anybody to be told.
    pub(super) fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the latest notice was lost.
    #[cfg(test)]
    pub(super) fn is_deaf(&self) -> bool {
        self.0.as_ref().is_some_and(|manager| manager.is_deaf.load(Ordering::Relaxed))
    }

    /// Tells it, if that can be done at once.
    pub(super) fn tell_now(&self, notice: &[NotifyState<'_>]) {
        if let Some(manager) = &self.0 {
            manager.note(manager.send(&text(notice), None));
        }
    }

    /// Tells it, as soon as the manager has room for it.
    pub(super) async fn tell(&self, notice: &[NotifyState<'_>]) {
        self.hand_over(notice, None).await;
    }

    /// Tells it together with a descriptor, and whether that went.
    pub(super) async fn hand_over(
        &self,
        notice: &[NotifyState<'_>],
        fd: Option<BorrowedFd<'_>>,
    ) -> bool {
        let Some(manager) = &self.0 else { return false };
        let text = text(notice);
        for _ in 1..TRIES {
            match manager.send(&text, fd) {
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => sleep(REST).await,
                result => return manager.note(result),
            }
        }
        manager.note(manager.send(&text, fd))
    }
}

/// A line for each: what a line says cannot begin another one.
fn text(notice: &[NotifyState<'_>]) -> String {
    notice.iter().map(|state| state.to_string().replace('\n', " ") + "\n").collect()
}

impl Manager {
    fn at(path: &[u8]) -> Result<Self, Errno> {
        let address = match path {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self { socket, address, is_deaf: AtomicBool::new(false) })
    }

    /// Notes whether a notice was sent, and gives that.
    fn note(&self, result: Result<(), Errno>) -> bool {
        let was_deaf = self.is_deaf.swap(result.is_err(), Ordering::Relaxed);
        if let Err(error) = &result
            && !was_deaf
        {
            tracing::warn!(%error, "systemd was not notified");
        }
        result.is_ok()
    }

    fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let bytes = [IoSlice::new(text.as_bytes())];
        let (to, flags) = (&self.address, SendFlags::NOSIGNAL);
        sendmsg_addr(self.socket.as_fd(), to, &bytes, &mut control, flags).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_notice_says_begins_no_other_line() {
        let notice = [NotifyState::Ready, NotifyState::Status("broken\nSTOPPING=1")];
        assert_eq!(text(&notice), "READY=1\nSTATUS=broken STOPPING=1\n");
    }
}
