//! A bare connection to the data-plane socket.

#![allow(clippy::expect_used, reason = "a socket that does not connect must stop the test")]

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use std::{os::fd::OwnedFd, path::Path};

pub(crate) fn connect(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("a socket");
    connect_to(&socket, &SocketAddrUnix::new(path).expect("short")).expect("the daemon listens");
    socket
}
