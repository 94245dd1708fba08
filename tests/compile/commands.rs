//! `align`, `pack` and `compile` as commands: exit codes, files, and disks that are full.

use crate::kit::{Dense, Kit};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Output, Stdio},
};

const RECIPE: &str = "
model: m
output: o.mesh
weights: w.safetensors
block: {rows: 32, cols: 32}
prune: {include: [w]}
tasks:
- {name: city, keep: 0.5, norms: city.safetensors}
- {name: park, keep: 0.5, norms: park.safetensors}
";

fn kit() -> Kit {
    let kit = Kit::new();
    let mut rng = fastrand::Rng::with_seed(21);
    let weight: Vec<_> = (0..512 * 512).map(|_| rng.f32() - 0.5).collect();
    kit.tensors("w.safetensors", &[Dense::f32("w", &[512, 512], &weight)]);
    for task in ["city", "park"] {
        let norms: Vec<_> = (0..512).map(|_| 0.9 + 0.2 * rng.f32()).collect();
        kit.tensors(&format!("{task}.safetensors"), &[Dense::f32("w", &[512], &norms)]);
    }
    kit.text("recipe.yaml", RECIPE);
    kit
}

fn run(kit: &Kit, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synchromesh"));
    command.args(args).current_dir(kit.path("")).output().unwrap()
}

/// The same where no file may have more than so many blocks of 512 bytes.
fn run_with_files_of(kit: &Kit, blocks: u32, args: &str) -> Output {
    let program = env!("CARGO_BIN_EXE_synchromesh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {program} {args}");
    Command::new("sh").args(["-c", &script]).current_dir(kit.path("")).output().unwrap()
}

/// The same where a system call fails, as told in the manner of `strace --inject`. `None` where
/// calls cannot be made to fail.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn run_with_fault(kit: &Kit, fault: &str, args: &[&str]) -> Option<Output> {
    let strace = |fault: &str, program: &str, args: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "calls", "-e", &format!("inject={fault}"), program]);
        command.args(args).current_dir(kit.path("")).output()
    };
    let works = strace("fsync:error=EIO", "true", &[]).is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: no strace here that may trace");
        return None;
    }
    let output = strace(fault, env!("CARGO_BIN_EXE_synchromesh"), args).unwrap();
    fs::remove_file(kit.path("calls")).unwrap();
    Some(output)
}

fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_frontier_is_a_table_a_plot_and_a_drawing() {
    let kit = kit();
    let before = kit.files();
    let shown = run(&kit, &["align", "recipe.yaml", "--frontier"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    for part in ["independent", "mean quality", "expected bytes of a switch", "|", "o", "I"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(kit.files(), before);
    let drawn = run(&kit, &["align", "recipe.yaml", "--frontier", "--svg", "f.svg", "--json"]);
    assert!(drawn.status.success(), "{}", error(&drawn));
    let frontier: Value = serde_json::from_slice(&drawn.stdout).unwrap();
    let points = frontier["points"].as_array().unwrap();
    let svg = fs::read_to_string(kit.path("f.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<circle").count(), 2 * points.len());
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert_eq!(run(&kit, &["align", "recipe.yaml", "--svg", "f.svg"]).status.code(), Some(2));
}

#[test]
fn nothing_that_is_written_replaces_an_input_or_the_bundle() {
    let kit = kit();
    let trace = "{\"at_ms\": 1, \"task\": \"city\"}\n{\"at_ms\": 2, \"task\": \"park\"}\n";
    kit.text("t.jsonl", trace);
    kit.text("recipe.yaml", &format!("{RECIPE}transitions: {{trace: t.jsonl}}\n"));
    assert!(run(&kit, &["compile", "recipe.yaml"]).status.success());
    let before = fs::read(kit.path("o.mesh")).unwrap();
    for taken in ["recipe.yaml", "w.safetensors", "t.jsonl", "o.mesh", "no/x"] {
        let masks = ["align", "recipe.yaml", "--masks-out", taken];
        let svg = ["align", "recipe.yaml", "--frontier", "--svg", taken];
        assert_eq!(run(&kit, &masks).status.code(), Some(2), "{taken}");
        assert_eq!(run(&kit, &svg).status.code(), Some(2), "{taken}");
    }
    assert!(fs::read(kit.path("o.mesh")).unwrap() == before);
    assert_eq!(fs::read_to_string(kit.path("t.jsonl")).unwrap(), trace);
    let onto = format!("{RECIPE}transitions: {{trace: t.jsonl}}\n").replace("o.mesh", "t.jsonl");
    kit.text("recipe.yaml", &onto);
    assert_eq!(run(&kit, &["compile", "recipe.yaml"]).status.code(), Some(2));
    assert_eq!(fs::read_to_string(kit.path("t.jsonl")).unwrap(), trace);
}

#[test]
fn masks_are_written_whole_or_not_at_all() {
    let kit = kit();
    let out = run(&kit, &["align", "recipe.yaml", "--masks-out", "m.safetensors", "--json"]);
    assert!(out.status.success(), "{}", error(&out));
    let figures: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(figures["algorithm"], "joint/1");
    assert!(kit.path("m.safetensors").is_file() && !kit.path("o.mesh").exists());
    for input in ["w.safetensors", "recipe.yaml"] {
        let replaced = run(&kit, &["align", "recipe.yaml", "--masks-out", input]);
        assert_eq!(replaced.status.code(), Some(2), "{input}");
        assert!(error(&replaced).contains("this is also the output"), "{}", error(&replaced));
    }
    let nowhere = run(&kit, &["align", "recipe.yaml", "--masks-out", "no/m.safetensors"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(error(&nowhere).contains("no is not a folder"), "{}", error(&nowhere));
}

#[test]
fn an_interrupted_command_exits_with_1_and_leaves_nothing() {
    let kit = kit();
    // Enough work that the signal comes before its end.
    let weight: Vec<_> = (0..4096 * 2048).map(|i| (i % 977) as f32 - 400.5).collect();
    kit.tensors("w.safetensors", &[Dense::f32("w", &[4096, 2048], &weight)]);
    for task in ["city", "park"] {
        let norms: Vec<_> = (0..2048).map(|i| 1.0 + (i * task.len() % 13) as f32).collect();
        kit.tensors(&format!("{task}.safetensors"), &[Dense::f32("w", &[2048], &norms)]);
    }
    let before = kit.files();
    for args in [&["compile", "recipe.yaml"][..], &["align", "recipe.yaml", "--masks-out", "m"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_synchromesh"));
        command.args(args).current_dir(kit.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        // Once the program has opened an input it listens to signals.
        let open = format!("/proc/{}/fd", child.id());
        let reads = |fd: fs::DirEntry| {
            fs::read_link(fd.path()).is_ok_and(|path| path.ends_with("w.safetensors"))
        };
        while !fs::read_dir(&open).is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(reads))) {}
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", error(&output));
        assert!(error(&output).contains("interrupted"), "{}", error(&output));
        assert_eq!(kit.files(), before, "{args:?}");
    }
}

#[test]
fn wrong_recipes_exit_with_2_and_name_file_and_key() {
    let kit = kit();
    for (more, part) in [
        ("transitions: {matrix: [[0, 0.5], [1, 0]]}", "transitions.matrix[0]"),
        ("transitions: {pairs: [{from: city, to: snow, weight: 1}]}", "transitions.pairs[0].to"),
        ("align: {quality_floor: 2}", "align.quality_floor: 2 must be 0 to 1"),
        ("align: {quality: 1}", "align: unknown field `quality`"),
    ] {
        kit.text("recipe.yaml", &format!("{RECIPE}{more}\n"));
        for command in ["align", "compile"] {
            let out = run(&kit, &[command, "recipe.yaml"]);
            assert_eq!(out.status.code(), Some(2), "{more}");
            let message = error(&out);
            assert!(message.contains("recipe.yaml") && message.contains(part), "{message}");
        }
    }
    assert!(!kit.path("o.mesh").exists());
}

#[test]
fn a_disk_that_fills_is_told_and_leaves_nothing() {
    let kit = kit();
    let before = kit.files();
    // Scores take 4 KiB, the bundle 512 KiB and more.
    let bundle = run_with_files_of(&kit, 200, "compile recipe.yaml");
    assert_eq!(bundle.status.code(), Some(1));
    assert!(error(&bundle).contains("output: cannot write"), "{}", error(&bundle));
    let scratch = run_with_files_of(&kit, 1, "compile recipe.yaml");
    assert_eq!(scratch.status.code(), Some(1));
    assert!(error(&scratch).contains("scratch file in"), "{}", error(&scratch));
    assert_eq!(kit.files(), before);
    // What was there stays.
    fs::write(kit.path("o.mesh"), "old").unwrap();
    assert_eq!(run_with_files_of(&kit, 200, "compile recipe.yaml").status.code(), Some(1));
    assert_eq!(fs::read(kit.path("o.mesh")).unwrap(), b"old");
}

#[test]
fn s12_s15_a_disk_that_is_full_or_cannot_sync_keeps_the_old_bundle_whole() {
    let kit = kit();
    kit.text("o.mesh", "old");
    let before = kit.files();
    // Scores, header, blocks, index. A second sync would succeed, and mean nothing.
    for (fault, told) in [
        ("pwrite64:error=ENOSPC:when=1", "No space left on device"),
        ("pwrite64:error=EDQUOT:when=2", "Disk quota exceeded"),
        ("pwrite64:error=ENOSPC:when=3", "No space left on device"),
        ("pwrite64:error=EDQUOT:when=4", "Disk quota exceeded"),
        ("fsync:error=EIO:when=1", "Input/output error"),
        ("fsync:error=ENOSPC:when=1", "No space left on device"),
    ] {
        let Some(failed) = run_with_fault(&kit, fault, &["compile", "recipe.yaml"]) else { return };
        assert_eq!(failed.status.code(), Some(1), "{fault}: {failed:?}");
        assert!(error(&failed).contains(told), "{fault}: {}", error(&failed));
        assert_eq!(fs::read(kit.path("o.mesh")).unwrap(), b"old", "{fault}");
        assert_eq!(kit.files(), before, "{fault}: nothing is left");
    }
    // The folder's own sync comes when the new bundle is in place: told as a failure, and whole.
    let fault = "fsync:error=EIO:when=2";
    let Some(failed) = run_with_fault(&kit, fault, &["compile", "recipe.yaml"]) else { return };
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(kit.files(), before);
    assert!(run(&kit, &["verify", "o.mesh"]).status.success(), "old or new, never half");
}
