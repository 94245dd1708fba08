//! Who is at the other end of the data-plane socket, and how often one process may be there.

use crate::engine::Peer;
use rustix::io::Errno;
use std::{
    collections::HashMap,
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A process as the kernel knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credentials {
    /// `None` if it lives in no pid namespace that is visible from here.
    pub(super) pid: Option<u32>,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Asks the kernel who connected. Not by rustix, in whose type no process has the number 0, which
/// is what the kernel says of one that cannot be seen.
#[expect(unsafe_code, reason = "a system call that fills a structure")]
pub(super) fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut ucred = MaybeUninit::<libc::ucred>::zeroed();
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, level, name) = (socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED);
    // SAFETY: the kernel writes at most `len` bytes to where there are as many.
    let result = unsafe { libc::getsockopt(fd, level, name, ucred.as_mut_ptr().cast(), &mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and any bytes are a `ucred`.
    let libc::ucred { pid, uid, gid } = unsafe { ucred.assume_init() };
    let pid = u32::try_from(pid).map_err(|_| Errno::INVAL)?;
    Ok(Credentials { pid: (pid != 0).then_some(pid), uid, gid })
}

/// Counts the attachments of each process, so that one that leaks them harms itself only. A copy
/// counts the same.
#[derive(Clone, Debug)]
pub struct Processes {
    limit: Arc<AtomicUsize>,
    seats: Arc<Mutex<HashMap<u32, usize>>>,
}

/// One attachment of a process.
#[derive(Debug)]
pub(super) struct Seat {
    pid: u32,
    processes: Processes,
}

impl Processes {
    /// Each process may have so many.
    pub fn new(limit: usize) -> Self {
        Self { limit: Arc::new(limit.into()), seats: Arc::default() }
    }

    /// From now on each may have so many. Nobody loses one for that.
    pub fn change(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A seat for one more attachment, or the limit if the process has no more.
    pub(super) fn seat(&self, peer: Peer) -> Result<Seat, usize> {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = seats.entry(peer.pid).or_default();
        let limit = self.limit.load(Ordering::Relaxed);
        if *taken >= limit {
            return Err(limit);
        }
        *taken += 1;
        Ok(Seat { pid: peer.pid, processes: self.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.processes.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = seats.get_mut(&self.pid) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&self.pid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_so_many_seats_and_gets_them_back() {
        let processes = Processes::new(2);
        let peer = |pid| Peer { pid, uid: 0 };
        let seats = [processes.seat(peer(7)).unwrap(), processes.seat(peer(7)).unwrap()];
        assert_eq!(processes.seat(peer(7)).unwrap_err(), 2);
        assert!(processes.seat(peer(8)).is_ok(), "another one has its own");
        drop(seats);
        assert!(processes.seats.lock().unwrap().is_empty());
        assert!(processes.seat(peer(7)).is_ok());
    }
}
