//! The daemon as a child process of the demo. It does not outlive the demo, however that ends.
//!
//! Speaks to it through nothing but its standard input, whose end tells it to stop.

use super::{Stop, place::Place};
use crate::{
    cli::failure::Failure,
    client::{self, Attachment, Control},
    config::is_override,
};
use std::{
    env,
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often it is looked whether the daemon is ready, or has ended.
const POLL: Duration = Duration::from_millis(10);
/// How long the daemon may take to end when it is told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of its log that are shown if it fails.
const LAST_LINES: usize = 10;

/// A running daemon. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Daemon<'a> {
    child: Child,
    /// The daemon stops at its end, which comes even if this process is killed.
    stdin: Option<ChildStdin>,
    place: &'a Place,
}

impl<'a> Daemon<'a> {
    /// Starts a daemon that serves the bundle with a pool of this size.
    pub(super) fn start(place: &'a Place, pool_bytes: u64) -> Result<Self, Failure> {
        let config = place.file("synchromesh.yaml");
        fs::write(&config, configuration(place, pool_bytes)).map_err(Failure::failed)?;
        let spawn = || -> io::Result<Child> {
            let mut command = Command::new(env::current_exe()?);
            // What is set for a daemon that is in use is not meant for this one.
            for (name, _) in env::vars_os().filter(|(name, _)| is_override(name)) {
                command.env_remove(name);
            }
            command
                .args(["serve", "--stop-with-stdin", "--config"])
                .arg(config)
                .env_remove("NOTIFY_SOCKET")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(File::create(place.file(LOG))?)
                // Ctrl-C is for the demo alone, which then stops the daemon.
                .process_group(0)
                .spawn()
        };
        let mut child = spawn()
            .map_err(|error| Failure::failed(format!("cannot start the daemon: {error}")))?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, place })
    }

    /// Waits until the daemon takes calls and clients.
    pub(super) async fn ready(&mut self, stop: &Stop) -> Result<(Control, Attachment), Failure> {
        loop {
            stop.check()?;
            if let Some(status) = self.child.try_wait().map_err(Failure::failed)? {
                return Err(Failure::failed(format!(
                    "the daemon ended with {status}; the last lines of its log:\n{}",
                    self.last_lines()
                )));
            }
            // A socket that exists may still have nobody who listens.
            if self.place.attach().exists()
                && let Ok(control) = client::connect(&self.place.control()).await
                && let Ok(attachment) = Attachment::connect(&self.place.attach(), "", "")
            {
                return Ok((control, attachment));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Lets the daemon end as it should.
    pub(super) fn stop(mut self) -> Result<(), Failure> {
        self.stdin = None;
        let told = Instant::now();
        while told.elapsed() < STOP_TIMEOUT {
            match self.child.try_wait().map_err(Failure::failed)? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let lines = self.last_lines();
                    let text = format!("the daemon did not end well ({status}):\n{lines}");
                    return Err(Failure::failed(text));
                }
                None => thread::sleep(POLL),
            }
        }
        Err(Failure::failed(format!("the daemon did not end within {STOP_TIMEOUT:?}")))
    }

    fn last_lines(&self) -> String {
        let log = fs::read(self.place.file(LOG)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

const LOG: &str = "daemon.log";

/// JSON, which is YAML. Everything but the pool and the places is what the daemon does by default,
/// except that locking the pool takes a right that not every user has.
fn configuration(place: &Place, pool_bytes: u64) -> String {
    let config = serde_json::json!({
        "models": [{ "bundle": place.bundle(), "pool_bytes": pool_bytes }],
        "listen": { "control": place.control(), "attach": place.attach() },
        "lock_memory": false,
        // What a switch reads is to be seen, not what foresight spares it.
        "prefetch": { "enabled": false },
        "state_dir": place.path(),
        // A large model may be on a slow disk; Ctrl-C still works.
        "limits": { "switch_timeout_ms": 600_000 },
    });
    config.to_string()
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
