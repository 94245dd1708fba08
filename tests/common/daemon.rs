//! A daemon in a folder of its own, run from the built binary.

#![allow(clippy::expect_used, reason = "a daemon that does not start must stop the test")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
};
use synchromesh::client::Control;
use tempfile::TempDir;

/// The built program.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_synchromesh"))
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the program starts")
}

/// A running daemon. Dropped, it is killed.
pub(crate) struct Daemon {
    pub(crate) folder: TempDir,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Starts a daemon with one model, and waits until it is ready.
    pub(crate) fn start(bundle: &Path, pool_bytes: u64) -> Self {
        Self::with_config(|_| {
            format!("models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n", bundle.display())
        })
    }

    /// Starts a daemon with this configuration, given its folder; the sockets and what does not
    /// need root are added. Waits until it is ready.
    pub(crate) fn with_config(config: impl FnOnce(&Path) -> String) -> Self {
        Self::with_listen("reflection: true", config)
    }

    /// The same with a further key of `listen`.
    pub(crate) fn with_listen(listen: &str, config: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = config(folder.path());
        write_config_with(folder.path(), listen, &text);
        let mut daemon = Self::spawn(folder);
        assert!(daemon.wait_for("ready"), "the daemon is ready: {:?}", daemon.log());
        daemon
    }

    /// The same as [`start`](Self::start), run by another command.
    pub(crate) fn start_through(command: &[&str], bundle: &Path, pool_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let models =
            format!("models: [{{bundle: {}, pool_bytes: {pool_bytes}}}]\n", bundle.display());
        write_config(folder.path(), &models);
        let mut command = command.iter();
        let mut runner = Command::new(command.next().expect("a command"));
        runner.args(command).arg(program().get_program());
        let mut daemon = Self::spawn_by(runner, folder);
        assert!(daemon.wait_for("ready"), "the daemon is ready: {:?}", daemon.log());
        daemon
    }

    /// Starts a daemon in a folder that has a configuration.
    pub(crate) fn spawn(folder: TempDir) -> Self {
        Self::spawn_by(program(), folder)
    }

    /// The same, run by another command.
    pub(crate) fn spawn_by(mut program: Command, folder: TempDir) -> Self {
        let mut child = program
            .args(["serve", "--config"])
            .arg(folder.path().join("synchromesh.yaml"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, sink) = (child.stderr.take().expect("piped"), log.clone());
        thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                sink.lock().expect("not poisoned").push(line);
            }
        });
        Self { folder, child, log }
    }

    /// Waits for a line of the log that contains `text`; false if the daemon ends before.
    pub(crate) fn wait_for(&mut self, text: &str) -> bool {
        for _ in 0..10_000 {
            if self.log().iter().any(|line| line.contains(text)) {
                return true;
            }
            if self.child.try_wait().expect("a child").is_some() {
                thread::sleep(std::time::Duration::from_millis(50));
                return self.log().iter().any(|line| line.contains(text));
            }
            thread::sleep(std::time::Duration::from_millis(2));
        }
        false
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("not poisoned").clone()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    pub(crate) fn attach(&self) -> PathBuf {
        self.folder.path().join("attach.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ends by itself, soon.
    pub(crate) fn ends(&mut self) -> bool {
        (0..10_000).any(|_| {
            thread::sleep(std::time::Duration::from_millis(1));
            !self.is_running()
        })
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    pub(crate) async fn connect(&self) -> Control {
        synchromesh::client::connect(&self.control()).await.expect("the daemon listens")
    }

    /// Stops it, and starts another in the same folder.
    pub(crate) fn restart(mut self) -> Self {
        assert_eq!(self.stop(), Some(0), "{:?}", self.log());
        self.again()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    /// Starts another in the same folder, when this one has ended.
    pub(crate) fn again(mut self) -> Self {
        let nothing = tempfile::tempdir().expect("a temporary folder");
        let mut next = Self::spawn(std::mem::replace(&mut self.folder, nothing));
        assert!(next.wait_for("ready"), "{:?}", next.log());
        next
    }

    /// Sends SIGTERM and gives the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("a child").code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration with sockets in `folder`. What it does not say of prefetching and of
/// state is that there is no prefetching, and that state is in `folder`, too.
pub(crate) fn write_config(folder: &Path, models: &str) {
    write_config_with(folder, "reflection: true", models);
}

/// The same with further keys of `listen`.
pub(crate) fn write_config_with(folder: &Path, listen: &str, models: &str) {
    let shown = folder.display();
    let listen =
        format!("{{control: {shown}/control.sock, attach: {shown}/attach.sock, {listen}}}");
    let mut text = format!("{models}listen: {listen}\nlock_memory: false\n");
    // What is loaded ahead would change what a switch is expected to find.
    let others = [("prefetch", "{enabled: false}".to_owned()), ("state_dir", shown.to_string())];
    for (key, value) in others {
        if !text.contains(&format!("{key}:")) {
            text += &format!("{key}: {value}\n");
        }
    }
    fs::write(folder.join("synchromesh.yaml"), text).expect("a folder");
}
