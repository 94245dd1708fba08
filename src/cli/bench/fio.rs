//! fio as a yardstick: io_uring, O_DIRECT, 1 MiB, depth 32, in one piece.

use crate::cli::failure::Failure;
use std::{path::Path, process::Command, time::Duration};

/// fio tells whole milliseconds: so many bytes at least make that exact enough.
const LEAST_BYTES: u64 = 256 << 20;
const MAX_LOOPS: u64 = 1000;
const REQUEST_BYTES: u64 = 1 << 20;

/// An installed fio.
pub(super) struct Fio;

impl Fio {
    /// Looks whether there is one.
    pub(super) fn find() -> Result<Self, Failure> {
        match Command::new("fio").arg("--version").output() {
            Ok(output) if output.status.success() => Ok(Self),
            _ => Err(Failure::usage("fio is not installed: install it, or leave --fio out")),
        }
    }

    /// Time to read a piece of a file: the mean of as many times as it takes to tell.
    pub(super) fn read(&self, file: &Path, offset: u64, bytes: u64) -> Result<Duration, Failure> {
        let loops = LEAST_BYTES.div_ceil(bytes).clamp(1, MAX_LOOPS);
        let output = Command::new("fio")
            .args(["--name=read", "--rw=read", "--direct=1", "--ioengine=io_uring"])
            .arg(format!("--bs={}", bytes.min(REQUEST_BYTES)))
            .args(["--iodepth=32", "--output-format=json", "--readonly"])
            .arg(format!("--filename={}", file.display()))
            .arg(format!("--offset={offset}"))
            .arg(format!("--size={bytes}"))
            .arg(format!("--loops={loops}"))
            .output()
            .map_err(Failure::failed)?;
        // It may say other things before.
        let json = output.stdout.iter().position(|&byte| byte == b'{').unwrap_or_default();
        let told: serde_json::Value =
            serde_json::from_slice(&output.stdout[json..]).unwrap_or_default();
        let read = &told["jobs"][0]["read"];
        match (read["io_bytes"].as_u64(), read["bw_bytes"].as_u64()) {
            (Some(done), Some(speed)) if done >= bytes && speed > 0 => {
                Ok(Duration::from_secs_f64(bytes as f64 / speed as f64))
            }
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(Failure::failed(format!("fio did not read the bundle: {}", said.trim())))
            }
        }
    }
}
