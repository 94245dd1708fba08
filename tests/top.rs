//! `top` in a terminal, against a daemon that runs.

#![cfg(feature = "top")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

mod common;

use common::{
    calls::{bundle, runtime, switch, whole},
    daemon::{Daemon, program, run},
    soon,
};
use rustix::{
    fs::{Mode, OFlags},
    io::ioctl_fionread,
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// `top` in a terminal of 80 columns and 24 lines.
struct Top {
    child: Child,
    terminal: File,
    /// The other end, open so that the terminal is there when `top` has ended.
    slave: OwnedFd,
    before: Termios,
    written: Arc<Mutex<Vec<u8>>>,
    /// While it is held, nothing is read of what is written.
    reading: Arc<Mutex<()>>,
}

impl Top {
    fn start(control: &Path) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&terminal, size).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = program()
            .args(["top", "--interval", "0.1", "--control"])
            .arg(control)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let terminal = File::from(terminal);
        let written = Arc::new(Mutex::new(Vec::new()));
        let reading = Arc::<Mutex<()>>::default();
        let (mut reader, sink) = (terminal.try_clone().unwrap(), written.clone());
        let may_read = reading.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = reader.read(&mut bytes) {
                sink.lock().unwrap().extend(&bytes[..count]);
                drop(may_read.lock().unwrap());
            }
        });
        Self { child, terminal, slave, before, written, reading }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    fn screen(&self) -> String {
        screen(&self.written())
    }

    /// Waits until the screen is as it should be.
    fn wait_for(&self, what: &str, holds: impl Fn(&str) -> bool) {
        assert!(soon(|| holds(&self.screen())), "{what}: {}", self.screen());
    }

    /// Waits until it has ended, and checks that the terminal is as it was.
    fn ended(mut self) -> ExitStatus {
        let mut status = None;
        let ends = soon(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(ends);
        let after = tcgetattr(self.slave.as_fd()).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert!(after.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));
        let left = |text: &str| text.contains("\x1b[?1049l") && text.contains("\x1b[?25h");
        let told = soon(|| left(&self.written()));
        assert!(told, "the screen is left and the cursor shown: {:?}", self.written());
        status.unwrap()
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal of 80 columns and 24 lines shows after this was written to it.
fn screen(written: &str) -> String {
    let mut cells = vec![[' '; 80]; 24];
    let (mut row, mut column) = (0, 0);
    let mut chars = written.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            if !c.is_control() && row < 24 && column < 80 {
                cells[row][column] = c;
                column += 1;
            }
            continue;
        }
        if chars.next_if_eq(&'[').is_none() {
            continue;
        }
        let mut numbers = String::new();
        while let Some(c) = chars.next_if(|c| !('\x40'..='\x7e').contains(c)) {
            numbers.push(c);
        }
        let mut numbers = numbers.split(';').map(|number| number.parse().unwrap_or(1));
        match chars.next() {
            Some('H') => {
                row = numbers.next().unwrap_or(1) - 1;
                column = numbers.next().unwrap_or(1) - 1;
            }
            Some('J') => cells = vec![[' '; 80]; 24],
            _ => {}
        }
    }
    cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n").collect()
}

/// Whether a line begins with these words.
fn has_row(screen: &str, words: &[&str]) -> bool {
    screen.lines().any(|line| line.split_whitespace().take(words.len()).eq(words.iter().copied()))
}

fn daemon() -> (tempfile::TempDir, Daemon) {
    let (folder, _, bundle) = bundle();
    let daemon = Daemon::start(&folder.path().join("small.mesh"), whole(&bundle));
    (folder, daemon)
}

fn switch_to(daemon: &Daemon, task: &str) {
    runtime().block_on(async {
        daemon.connect().await.switch_task(switch(task)).await.unwrap();
    });
}

#[test]
fn it_shows_a_daemon_follows_a_switch_and_gives_the_terminal_back() {
    let (_folder, daemon) = daemon();
    switch_to(&daemon, "city");
    let mut top = Top::start(&daemon.control());
    top.wait_for("the task", |screen| has_row(screen, &["default", "city"]));
    switch_to(&daemon, "parking");
    top.wait_for("the next task", |screen| has_row(screen, &["default", "parking"]));
    top.wait_for("the switch", |screen| screen.contains("city → parking"));
    top.wait_for("the pool", |screen| screen.contains("24 slots of 4.00 KiB"));
    top.press("p");
    top.wait_for("that it stands still", |screen| screen.contains("PAUSED"));
    switch_to(&daemon, "highway");
    top.press("?");
    top.wait_for("help", |screen| screen.contains("this help"));
    top.press("x");
    top.wait_for("no help", |screen| !screen.contains("this help"));
    assert!(has_row(&top.screen(), &["default", "parking"]), "{}", top.screen());
    top.press("p");
    top.wait_for("the task meanwhile", |screen| has_row(screen, &["default", "highway"]));
    top.press("/nothing\r");
    top.wait_for("a filter", |screen| screen.contains("none matches the filter"));
    top.press("q");
    assert_eq!(top.ended().code(), Some(0));
}

#[test]
fn signals_end_it_and_the_terminal_is_given_back() {
    let (_folder, daemon) = daemon();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let top = Top::start(&daemon.control());
        top.wait_for("the session", |screen| screen.contains("default"));
        top.signal(signal);
        assert_eq!(top.ended().code(), Some(0), "{signal:?}");
    }
    let mut top = Top::start(&daemon.control());
    top.wait_for("the session", |screen| screen.contains("default"));
    top.press("\x03");
    assert_eq!(top.ended().code(), Some(0));
}

#[test]
fn a_terminal_that_takes_nothing_does_not_keep_it_from_ending() {
    let (_folder, daemon) = daemon();
    let mut top = Top::start(&daemon.control());
    top.wait_for("the session", |screen| screen.contains("default"));
    let reading = top.reading.clone();
    let held = reading.lock().unwrap();
    // It waits for its terminal once no more of what it writes comes there.
    let (mut before, mut same) = (0, 0);
    while same < 20 {
        // Each key has all of the screen drawn anew.
        top.press("?");
        thread::sleep(Duration::from_millis(50));
        let waiting = ioctl_fionread(&top.terminal).unwrap();
        same = if waiting == before { same + 1 } else { 0 };
        before = waiting;
    }
    top.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(300));
    assert!(top.child.try_wait().unwrap().is_none(), "it is not there to hear it");
    top.signal(Signal::TERM);
    let ends = soon(|| top.child.try_wait().unwrap().is_some());
    drop(held);
    assert!(ends);
}

#[test]
fn a_daemon_that_goes_away_is_told_and_its_successor_is_found() {
    let (_folder, mut daemon) = daemon();
    switch_to(&daemon, "city");
    switch_to(&daemon, "parking");
    let mut top = Top::start(&daemon.control());
    top.wait_for("the switch", |screen| screen.contains("city → parking"));
    daemon.kill();
    top.wait_for("that it is away", |screen| screen.contains("no daemon"));
    assert!(top.screen().contains("city → parking"), "what was known stays: {}", top.screen());
    let daemon = daemon.again();
    top.wait_for("that it is back", |screen| {
        screen.contains("● serving") && screen.contains("1 restarts seen")
    });
    assert!(top.screen().contains("city → parking"), "the history, too: {}", top.screen());
    switch_to(&daemon, "highway");
    top.wait_for("the task", |screen| has_row(screen, &["default", "highway"]));
    top.press("q");
    assert_eq!(top.ended().code(), Some(0));
}

#[test]
fn without_a_terminal_it_says_what_else_there_is() {
    let output = run(&["top"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("terminal") && told.contains("`status`"), "{told}");
    assert!(output.stdout.is_empty());
}

#[test]
fn once_is_a_frame_as_text_and_json_is_one_object() {
    let (_folder, daemon) = daemon();
    switch_to(&daemon, "city");
    let control = daemon.control();
    let control = control.to_str().unwrap();
    let looked = |mode| run(&["top", mode, "--interval", "0.1", "--control", control]);
    let output = looked("--once");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let frame = String::from_utf8(output.stdout).unwrap();
    assert_eq!(frame.lines().count(), 24, "{frame}");
    assert!(has_row(&frame, &["default", "city"]), "{frame}");
    assert!(!frame.contains(|c: char| c.is_control() && c != '\n'), "{frame:?}");
    let output = looked("--json");
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(view["sessions"][0]["task"], "city");
    assert_eq!(view["model"]["switches"][0]["done"]["outcome"], "loaded");
    assert_eq!(view["model"]["rates"].as_array().unwrap().len(), 1);
    let output = run(&["top", "--once", "--control", "/nowhere/control.sock"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("/nowhere/control.sock"), "{told}");
}
