//! How long clients are without a daemon: from the kill of one until the next has answered a call and
//! let a client attach, with what is kept over a restart and without. Systemd is played.
//!
//! Prints one JSON object. `--rounds N` sets the number of pairs (10). What systemd itself takes
//! (`RestartSec=`, 0.1 s in the shipped unit) comes on top.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what is not expected must stop it")]
#![allow(clippy::print_stdout, reason = "the figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{
    Fixture,
    calls::{runtime, switch},
    daemon::{Daemon, write_config},
    figures::{argument, quantile},
    systemd::Manager,
};
use serde_json::{Value, json};
use std::{
    fs,
    hint::black_box,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use synchromesh::client::{Attachment, connect};
use tempfile::TempDir;

/// Blocks of the bundles: 80 MiB and 1 GiB.
const BLOCKS: [u32; 2] = [20_000, 262_144];
/// What a daemon takes beside its pool, and more.
const SPARE: usize = 256 << 20;
/// Descriptors that are kept of a model.
const PARTS: usize = 3;

fn main() {
    let rounds = argument("--rounds").unwrap_or(10);
    let measured: Vec<Value> = BLOCKS.iter().map(|blocks| measure(*blocks, rounds)).collect();
    println!("{}", serde_json::to_string_pretty(&json!(measured)).unwrap());
}

fn measure(blocks: u32, rounds: u64) -> Value {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("wide.mesh");
    let bundle = Fixture::wide(blocks).write(&path);
    let task = bundle.task(bundle.find_task("highway").unwrap());
    let task_bytes = task.blocks * bundle.block().bytes();
    let mut taken = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (is_kept, taken) in [true, false].into_iter().zip(&mut taken) {
            taken.push(restart(&path, u64::from(blocks) * 4096, is_kept).as_secs_f64());
        }
    }
    let [kept, anew] = taken.map(|mut seconds| quantile(&mut seconds, 0.5));
    let pool_bytes = u64::from(blocks) * 4096;
    json!({ "pool_bytes": pool_bytes, "task_bytes": task_bytes, "kept_s": kept, "anew_s": anew })
}

/// Kills a daemon, starts the next, and gives the time in between. Without what was kept, the next one
/// begins with the same task by its configuration.
fn restart(bundle: &Path, pool_bytes: u64, is_kept: bool) -> Duration {
    let place = tempfile::tempdir().unwrap();
    let (shown, task) = (bundle.display(), "highway");
    let model = format!("{{bundle: {shown}, pool_bytes: {pool_bytes}, initial_task: {task}}}");
    write_config(place.path(), &format!("models: [{model}]\n"));
    let manager = Manager::start();
    let mut daemon = run(&manager, place);
    runtime().block_on(async {
        daemon.connect().await.switch_task(switch("highway")).await.unwrap();
    });
    manager.wait_for_kept(PARTS);
    if !is_kept {
        (0..PARTS).for_each(|_| drop(manager.take_kept("")));
    }
    // What a virtual machine has not used for a while it gets from its host, much later than asked:
    // here that is not what is measured, so it has as much as the next pool needs.
    drop(black_box(vec![1_u8; pool_bytes as usize + SPARE]));
    daemon.kill();
    let place = std::mem::replace(&mut daemon.folder, tempfile::tempdir().unwrap());
    let _ = fs::remove_file(place.path().join("starts"));
    let begun = Instant::now();
    let next = manager.run(place, &[], &[]);
    runtime().block_on(async {
        let mut control = loop {
            match connect(&next.control()).await {
                Ok(control) => break control,
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        };
        control.switch_task(switch("highway")).await.unwrap();
    });
    let mut attached = Attachment::connect(&next.attach(), "", "").unwrap();
    drop(attached.lease().unwrap());
    begun.elapsed()
}

fn run(manager: &Manager, place: TempDir) -> Daemon {
    let mut daemon = manager.run(place, &[], &[]);
    assert!(daemon.wait_for("ready"), "{:?}", daemon.log());
    daemon
}
