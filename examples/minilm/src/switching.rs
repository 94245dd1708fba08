//! Switching among all tasks as fast as the daemon can, in a process of its own.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use synchromesh::{client::BlockingControl, proto::SwitchTaskRequest};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The daemon's control socket.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// The tasks, two or more.
    #[arg(required = true, num_args = 2..)]
    tasks: Vec<String>,
}

/// What was done.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) switches: u64,
    /// What the daemon had to read for them.
    pub(crate) read_bytes: u64,
}

/// The other process. It ends when its standard input does, so at the latest with this one.
pub(crate) struct Switching(Child);

impl Switching {
    pub(crate) fn start<'t>(
        control: &Path,
        tasks: impl Iterator<Item = &'t str>,
    ) -> Result<Self, Error> {
        let program = env::current_exe().map_err(Error::io("this program cannot find itself"))?;
        let mut command = Command::new(program);
        command.args(["churn", "--control"]).arg(control).args(tasks);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(Self(command.spawn().map_err(Error::io("this program cannot start itself"))?))
    }

    /// Whether it goes on; it does not end by itself unless it fails.
    pub(crate) fn goes_on(&mut self) -> Result<bool, Error> {
        Ok(self.0.try_wait().map_err(Error::io("the process that switches is lost"))?.is_none())
    }

    /// Ends it, and tells what it did.
    pub(crate) fn end(self) -> Result<Done, Error> {
        // Waiting closes its standard input first.
        let output = self.0.wait_with_output().map_err(Error::io("the process that switches"))?;
        let failed = || Error::Switching(output.status.to_string());
        if !output.status.success() {
            return Err(failed());
        }
        serde_json::from_slice(&output.stdout).map_err(|_| failed())
    }
}

/// The other process's side.
pub(crate) fn churn(args: &Args, out: &mut impl Write) -> Result<(), Error> {
    let mut control = BlockingControl::connect(&args.control)?;
    let ended = Arc::new(AtomicBool::new(false));
    let end = ended.clone();
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        end.store(true, Ordering::Relaxed);
    });
    let done = switch_until(&ended, &mut control, &args.tasks)?;
    let line = serde_json::to_string(&done).unwrap_or_default();
    // If whoever started this is gone, nobody wants to know.
    let _ = writeln!(out, "{line}");
    Ok(())
}

fn switch_until(
    ended: &AtomicBool,
    control: &mut BlockingControl,
    tasks: &[String],
) -> Result<Done, Error> {
    let mut done = Done::default();
    let mut at = 0;
    while !ended.load(Ordering::Relaxed) {
        // Any task but the one before.
        at = (at + fastrand::usize(1..tasks.len())) % tasks.len();
        let request = SwitchTaskRequest { task: tasks[at].clone(), ..Default::default() };
        let answer = control.call(async |client| client.switch_task(request).await);
        let answer = answer.map_err(|status| Error::Refused {
            task: tasks[at].clone(),
            cause: status.message().to_owned(),
        })?;
        done.switches += 1;
        done.read_bytes += answer.read.unwrap_or_default().bytes;
    }
    Ok(done)
}
