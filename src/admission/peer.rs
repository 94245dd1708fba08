//! The credentials of the process at the other end of a Unix socket.

use rustix::io::Errno;
use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// A process as the kernel knew it when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `None` if it lives in no pid namespace that is visible from here.
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective primary group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

/// Asks the kernel who connected. Not by rustix, in whose type no process has the number 0, which
/// is what the kernel says of one that cannot be seen.
#[expect(unsafe_code, reason = "a system call that fills a structure")]
pub fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
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
    Ok(Credentials { pid: (pid != 0).then_some(pid), uid, gid, groups: groups(socket)? })
}

/// The supplementary groups. A kernel before 4.13 does not tell them: then there are none.
#[expect(unsafe_code, reason = "a system call that fills a list")]
fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let (fd, level, name) = (socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS);
    let mut groups = vec![0u32; 32];
    loop {
        let mut len = size_of_val(&*groups) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes to where there are as many.
        let result =
            unsafe { libc::getsockopt(fd, level, name, groups.as_mut_ptr().cast(), &mut len) };
        let count = len as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        match Errno::from_io_error(&io::Error::last_os_error()) {
            // The kernel has set the length that it needs.
            Some(Errno::RANGE) if count > groups.len() => groups.resize(count, 0),
            Some(Errno::NOPROTOOPT | Errno::NODATA) => return Ok(Vec::new()),
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::{fd::AsFd as _, unix::net::UnixStream};

    #[test]
    fn the_kernel_tells_pid_user_and_all_groups_of_a_peer() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let found = credentials(ours.as_fd()).unwrap();
        assert_eq!(found.pid, Some(std::process::id()));
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        let groups = rustix::process::getgroups().unwrap();
        let groups: Vec<_> = groups.into_iter().map(|group| group.as_raw()).collect();
        assert_eq!(found.groups, groups);
    }
}
