//! The demo as its users run it: to the end, interrupted, and with a model that is none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

use rustix::process::{Pid, Signal, kill_process};
use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// A folder with a model in it, and another for the demo to work in.
struct Scene {
    folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.work()).unwrap();
        write_model(&scene.model());
        scene
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("a model.safetensors")
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("w")
    }

    fn demo(&self, model: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_synchromesh"));
        command.args(["demo", "--json", "--model"]).arg(model).env("TMPDIR", self.work());
        // It is not for the demo's own daemon.
        command.env("SYNCHROMESH_CONFIG__LISTEN__CONTROL", "/nowhere/control.sock");
        command
    }

    fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.work()).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?} are left");
        assert_eq!(self.daemons(), Vec::<String>::new(), "a daemon is left");
    }

    /// Command lines of processes that work in the demo's folder.
    fn daemons(&self) -> Vec<String> {
        let work = self.work();
        let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let line = fs::read(entry.unwrap().path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).replace('\0', " "))
        });
        lines.filter(|line| line.contains(work.to_str().unwrap())).collect()
    }
}

/// Weights with edges that blocks do not fill, another type, an odd name and a vector.
fn write_model(path: &Path) {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut values = |count: usize| -> Vec<u8> {
        (0..count).flat_map(|_| (rng.f32() - 0.5).to_le_bytes()).collect()
    };
    let tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = vec![
        ("first.weight", Dtype::F32, vec![300, 513], values(300 * 513)),
        ("second[*].weight", Dtype::F32, vec![256, 512], values(256 * 512)),
        ("zero.weight", Dtype::F32, vec![64, 64], vec![0; 64 * 64 * 4]),
        ("half.weight", Dtype::BF16, vec![64, 64], vec![1; 64 * 64 * 2]),
        ("norm", Dtype::F32, vec![7], values(7)),
    ];
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views.collect::<HashMap<_, _>>(), None, path).unwrap();
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} is a number in {value}"))
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn it_runs_to_its_end_and_its_figures_agree() {
    let scene = Scene::new();
    let output = scene.demo(&scene.model()).output().unwrap();
    assert!(output.status.success(), "{}", error(&output));
    scene.assert_nothing_left();

    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(number(&report["model"], "pruned_tensors"), 3);
    assert_eq!(number(&report["verified"], "switches"), 60);
    assert_eq!(number(&report["verified"], "tensors"), 5);

    let switches = report["switches"].as_array().unwrap();
    assert_eq!(switches.len(), 60);
    for switch in switches {
        assert!(number(switch, "read_bytes") < number(switch, "reload_bytes"), "{switch}");
        assert_eq!(number(switch, "read_bytes") % 4096, 0);
    }
    assert!(switches.iter().any(|switch| number(switch, "read_bytes") > 0), "something is read");
    let first = &report["first"];
    assert_eq!(number(first, "read_bytes"), number(first, "reload_bytes"), "an empty pool");

    let tasks = report["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 6);
    assert!(tasks.iter().all(|task| number(task, "switches") == 10));
    assert_eq!(number(&report["all"], "switches"), 60);
}

#[test]
fn its_table_says_what_is_compared() {
    let scene = Scene::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_synchromesh"));
    let command = command.args(["demo", "--model"]).arg(scene.model());
    let output = command.env("TMPDIR", scene.work()).output().unwrap();
    assert!(output.status.success(), "{}", error(&output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    for part in ["traffic-lights", "switch:", "reload:", "made up", "bit for bit"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for stage in ["compiling", "starting", "switching"] {
        assert!(error(&output).contains(stage), "{stage} is announced");
    }
}

/// Starts a demo and gives it together with what it says, up to the line that contains `stage`.
fn demo_at(scene: &Scene, stage: &str) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command = scene.demo(&scene.model());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(stage) {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "ended before {stage}");
    }
    (child, lines)
}

#[test]
fn interrupted_anywhere_it_leaves_nothing_behind() {
    let moments = [
        ("compiling", 0),
        ("working out", 0),
        ("starting", 0),
        ("starting", 3),
        ("starting", 10),
        ("switching", 0),
        ("switching", 5),
        ("switching", 20),
    ];
    for (stage, delay) in moments {
        let scene = Scene::new();
        let (mut child, mut lines) = demo_at(&scene, stage);
        thread::sleep(Duration::from_millis(delay));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        let status = child.wait().unwrap();
        // The signal may come when all is done.
        let told = status.code() == Some(1) && rest.contains("error: interrupted");
        assert!(told || status.success(), "{stage}, {delay} ms: {status}, {rest}");
        scene.assert_nothing_left();
    }
}

#[test]
fn killed_it_leaves_no_daemon() {
    let scene = Scene::new();
    let (mut child, _lines) = demo_at(&scene, "switching");
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    for _ in 0..1000 {
        if scene.daemons().is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?} are left", scene.daemons());
}

#[test]
fn a_model_that_is_none_is_wrong_usage() {
    let scene = Scene::new();
    let not = scene.folder.path().join("not.safetensors");
    fs::write(&not, "this is no safetensors file").unwrap();
    for file in [&not, &scene.folder.path().join("missing"), &scene.work()] {
        let output = scene.demo(file).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", file.display());
        assert!(error(&output).contains(file.to_str().unwrap()), "{}", error(&output));
        scene.assert_nothing_left();
    }
}

#[test]
fn weights_that_are_no_numbers_are_wrong_usage() {
    let scene = Scene::new();
    let nan: Vec<u8> = [f32::NAN; 64 * 64].into_iter().flat_map(f32::to_le_bytes).collect();
    let view = TensorView::new(Dtype::F32, vec![64, 64], &nan).unwrap();
    serialize_to_file([("w", view)], None, &scene.model()).unwrap();
    let output = scene.demo(&scene.model()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("finite"), "{}", error(&output));
    scene.assert_nothing_left();
}

#[test]
fn a_folder_that_is_no_good_is_named() {
    let scene = Scene::new();
    let missing = scene.work().join("missing");
    let output = scene.demo(&scene.model()).env("TMPDIR", &missing).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error(&output).contains(missing.to_str().unwrap()), "{}", error(&output));

    let deep = scene.work().join("d".repeat(100));
    fs::create_dir(&deep).unwrap();
    let output = scene.demo(&scene.model()).env("TMPDIR", &deep).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("shorter path"), "{}", error(&output));
    assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
}
