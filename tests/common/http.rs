//! Requests over HTTP, as a scraper or a browser sends them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper may stop its test")]

use super::{HANG, daemon::Daemon};
use std::{
    io::{Read, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
};

/// The key of `listen` that has the kernel choose a port; see [`address`].
const ANY_PORT: &str = "metrics: '127.0.0.1:0'";

/// What came back, all of it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(mut stream: impl Read) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.into() }
    }
}

/// The address that a daemon tells in its log.
pub(crate) fn address(daemon: &Daemon) -> String {
    let log = daemon.log();
    let line = log.iter().find(|line| line.contains("metrics are served")).unwrap();
    line.split_once("address=").unwrap().1.trim().to_owned()
}

/// A daemon that serves HTTP, and where.
pub(crate) fn served(models: impl FnOnce(&Path) -> String) -> (Daemon, String) {
    let daemon = Daemon::with_listen(ANY_PORT, models);
    let address = address(&daemon);
    (daemon, address)
}

/// Sends a request, all of it, and takes nothing of the answer yet.
pub(crate) fn send(address: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// What a server at a Unix socket answers.
pub(crate) fn ask_socket(path: &Path, request: &str) -> Answer {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    Answer::read(stream)
}

pub(crate) fn ask(address: &str, method: &str, path: &str, headers: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    Answer::read(send(address, &head))
}

pub(crate) fn get_metrics(address: &str, headers: &str) -> Answer {
    ask(address, "GET", "/metrics", &format!("Host: {address}\r\n{headers}"))
}

/// The text of a scrape.
pub(crate) fn scrape(address: &str) -> String {
    let answer = get_metrics(address, "");
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer.body
}
