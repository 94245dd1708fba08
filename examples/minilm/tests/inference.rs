//! Embeddings from the memory of a real daemon, which switches all the while in a pool that cannot
//! hold all tasks.

#![allow(clippy::unwrap_used, reason = "a test says what it expects")]
#![allow(clippy::print_stdout, reason = "the figures are for whoever runs this by hand")]

use serde_json::Value;
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    thread,
    time::Duration,
};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The model's folder, or a failure that says how to get it.
fn model() -> PathBuf {
    let folder = env::var_os("SYNCHROMESH_MINILM")
        .map_or_else(|| root().join("target/minilm"), PathBuf::from);
    assert!(
        folder.join("model.safetensors").is_file(),
        "{} does not hold the model: run scripts/fetch-minilm.sh, or set SYNCHROMESH_MINILM",
        folder.display()
    );
    folder.canonicalize().unwrap()
}

/// The daemon's program: `SYNCHROMESH_BIN`, or what a build left beside this package's own.
fn synchromesh() -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_minilm-example")).with_file_name("synchromesh");
    let program = env::var_os("SYNCHROMESH_BIN").map_or(beside, PathBuf::from);
    assert!(
        program.is_file(),
        "{} is not there: run cargo build, or set SYNCHROMESH_BIN",
        program.display()
    );
    Command::new(program)
}

fn example() -> Command {
    Command::new(env!("CARGO_BIN_EXE_minilm-example"))
}

/// Runs a command, which must succeed.
fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// Packs the example's recipe in a folder, so that each task has its own best mask, and gives the
/// bytes of a pool for 1.2 tasks.
fn pack(folder: &Path, model: &Path) -> u64 {
    let recipe = fs::read_to_string(root().join("examples/minilm/recipe.yaml")).unwrap();
    let recipe = recipe
        .replace("../../target/minilm.mesh", "minilm.mesh")
        .replace("../../target/minilm", model.to_str().unwrap())
        .replace("../..", root().to_str().unwrap());
    let file = folder.join("recipe.yaml");
    fs::write(&file, recipe).unwrap();
    let packed = succeed(synchromesh().arg("pack").arg(&file).arg("--json"));
    let packed: Value = serde_json::from_slice(&packed.stdout).unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    let tasks = packed["tasks"].as_array().unwrap();
    let largest = tasks.iter().map(|task| number(&task["bytes"])).max().unwrap();
    let (pool, all) = (largest * 6 / 5, number(&packed["blocks"]) * number(&packed["block_bytes"]));
    println!("a pool of {pool} bytes for {all} bytes of blocks");
    assert!(pool < all, "the pool cannot hold all tasks");
    pool
}

/// A running daemon. Dropped, it is killed.
struct Daemon(Child);

impl Daemon {
    /// Starts a daemon in a folder that has a bundle, and waits until it is ready.
    fn start(folder: &Path, pool: u64) -> Self {
        let shown = folder.display();
        let text = format!(
            "models: [{{bundle: {shown}/minilm.mesh, pool_bytes: {pool}}}]\n\
             listen: {{control: {shown}/control.sock, attach: {shown}/attach.sock}}\n\
             lock_memory: false\nstate_dir: {shown}\n"
        );
        let (config, log) = (folder.join("synchromesh.yaml"), folder.join("log"));
        fs::write(&config, text).unwrap();
        let mut command = synchromesh();
        command.args(["serve", "--config"]).arg(config).stderr(File::create(&log).unwrap());
        let mut daemon = Self(command.spawn().unwrap());
        for _ in 0..2_000 {
            let log = fs::read_to_string(&log).unwrap();
            if log.contains("ready") {
                return daemon;
            }
            assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon ended: {log}");
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the daemon is not ready");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command of the example on the daemon in a folder, and gives what it says.
fn says(command: &mut Command) -> String {
    let text = String::from_utf8(succeed(command).stdout).unwrap();
    println!("{text}");
    text
}

#[test]
#[ignore = "needs the model: run scripts/fetch-minilm.sh and cargo build, then \
            cargo test -p minilm-example -- --ignored"]
fn every_embedding_is_that_of_the_task_that_its_lease_names_while_tasks_are_switched() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let pool = pack(folder.path(), &model);
    let _daemon = Daemon::start(folder.path(), pool);
    let [bundle, attach, control] =
        ["minilm.mesh", "attach.sock", "control.sock"].map(|name| folder.path().join(name));

    let mut verify = example();
    verify.args(["verify", "--seconds", "10", "--bundle"]).arg(&bundle);
    verify.arg("--model").arg(&model).arg("--attach").arg(&attach).arg("--control").arg(&control);
    let said = says(&mut verify);
    assert!(said.contains("each as expected: 6 of 6 tasks"), "{said}");

    let mut embed = example();
    embed.arg("embed").arg("--attach").arg(&attach).arg("--model").arg(&model);
    let said = says(embed.args(["It rains.", "Rain is falling.", "The list is empty."]));
    let line = said.lines().find(|line| line.ends_with("The list is empty.")).unwrap();
    let cosines: Vec<f64> =
        line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    assert!(matches!(cosines[..], [a, b] if a < 0.9 && b < 0.9), "{said}");
}
