//! `replay`: traces that are made up, replayed in virtual time, and against a daemon.

#![allow(clippy::unwrap_used, reason = "what a test does not expect must stop it")]

mod common;
mod sim;

use common::daemon::{Daemon, program, run};
use serde_json::Value;
use sim::bundles::{BLOCK_BYTES, Content, TASKS};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
};

const SCENARIOS: [&str; 6] = ["commute", "city", "highway", "valet", "random", "adversarial"];
const POLICIES: [&str; 6] = ["none", "lru", "recent", "markov1", "full", "oracle"];

/// Six tasks that share some blocks and have others of their own.
fn content() -> Content {
    let task = |own: u32| (0..8).chain(8 + own * 8..16 + own * 8).collect();
    Content::write("replayed", &(0..6).map(task).collect::<Vec<_>>())
}

/// Room for three tasks.
fn pool() -> String {
    (32 * BLOCK_BYTES).to_string()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a command that must be refused as used wrongly, and gives what it says.
fn refused(args: &[&str]) -> String {
    let output = run(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "nothing is told as if it were a result");
    said
}

fn generated(scenario: &str, more: &[&str]) -> String {
    text(&run(&[&["replay", "--generate", scenario][..], more].concat()))
}

/// The times and tasks of a trace.
fn steps(trace: &str) -> Vec<(u64, String)> {
    let step = |line: &str| {
        let step: Value = serde_json::from_str(line).unwrap();
        (step["at_ms"].as_u64().unwrap(), step["task"].as_str().unwrap().to_owned())
    };
    trace.lines().map(step).collect()
}

/// A trace that goes round these tasks, a step every so many milliseconds.
fn round(tasks: &[&str], switches: usize, ms: usize) -> String {
    let mut trace = String::new();
    for step in 0..switches {
        let (at_ms, task) = (step * ms, tasks[step % tasks.len()]);
        writeln!(trace, "{{\"at_ms\": {at_ms}, \"task\": \"{task}\"}}").unwrap();
    }
    trace
}

/// Replays a trace from standard input.
fn replay(trace: &str, args: &[&str]) -> Output {
    let mut command = program();
    command.args(["replay", "-"]).args(args);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child.stdin.take().unwrap().write_all(trace.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The results by policy.
fn results(json: &str) -> BTreeMap<String, Value> {
    let told: Value = serde_json::from_str(json).unwrap();
    let results = told["results"].as_array().unwrap().iter();
    results.map(|one| (one["policy"].as_str().unwrap().to_owned(), one.clone())).collect()
}

#[test]
fn made_up_traces_are_the_same_each_time_and_switch_at_each_step() {
    let content = content();
    let bundle = content.path.to_str().unwrap();
    for scenario in SCENARIOS {
        let trace = generated(scenario, &["--seed", "7", "--switches", "300"]);
        assert_eq!(trace, generated(scenario, &["--seed", "7", "--switches", "300"]));
        assert_ne!(trace, generated(scenario, &["--seed", "8", "--switches", "300"]));
        let mapped = generated(scenario, &["--switches", "300", "--bundle", bundle]);
        for trace in [&trace, &mapped] {
            let steps = steps(trace);
            assert_eq!(steps.len(), 300, "{scenario}");
            let switches = |pair: &[(u64, String)]| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1;
            assert!(steps.windows(2).all(switches), "{scenario}");
        }
        let tasks: BTreeSet<_> = steps(&mapped).into_iter().map(|(_, task)| task).collect();
        assert!(tasks.iter().all(|task| TASKS.contains(&&**task)), "{scenario}: {tasks:?}");
        assert!(tasks.len() > 1, "{scenario}");
    }
}

#[test]
fn stories_have_the_roles_that_they_tell_of() {
    for (scenario, least) in [("commute", 10), ("city", 12), ("highway", 5), ("valet", 6)] {
        let steps = steps(&generated(scenario, &[]));
        let roles: BTreeSet<_> = steps.into_iter().map(|(_, task)| task).collect();
        assert!(roles.len() >= least, "{scenario}: {roles:?}");
    }
}

#[test]
fn who_foresees_more_finds_more() {
    let content = content();
    let (bundle, pool) = (content.path.to_str().unwrap(), pool());
    let args = ["--bundle", bundle, "--pool-bytes", &pool, "--json"];
    let trace = round(&TASKS, 120, 2000);
    let json = text(&replay(&trace, &args));
    assert_eq!(json, text(&replay(&trace, &args)), "nothing is left to chance");
    let results = results(&json);
    assert_eq!(results.len(), POLICIES.len());
    let figure = |policy: &str, key: &str| results[policy][key].as_f64().unwrap();
    for key in ["hit_rate", "covered"] {
        assert!(figure("oracle", key) >= figure("full", key), "{key}: {results:#?}");
        assert!(figure("full", key) >= figure("lru", key), "{key}: {results:#?}");
    }
    // What was used longest ago comes next, and goes first.
    assert_eq!(figure("lru", "hit_rate"), 0.0);
    assert!(figure("full", "hit_rate") > 0.5 && figure("oracle", "hit_rate") > 0.95);
    for policy in POLICIES {
        assert_eq!(figure(policy, "switches"), 120.0);
        assert_eq!(figure(policy, "superseded"), 0.0);
        assert!(figure(policy, "demand_bytes") <= figure("none", "demand_bytes"), "{policy}");
        assert!(figure(policy, "p50_us") <= figure(policy, "p99_us"));
        assert!(figure(policy, "p99_us") <= figure(policy, "max_us"));
        let ratio = figure(policy, "waited_us") / figure("none", "waited_us");
        assert!((figure(policy, "waited_of_none") - ratio).abs() < 1e-9);
    }
    assert_eq!(figure("none", "loaded_bytes") + figure("lru", "loaded_bytes"), 0.0);
    assert!(figure("full", "used_bytes") > 0.0);
}

#[test]
fn what_a_switch_waits_for_is_what_the_device_needs() {
    let content = content();
    let bundle = content.path.to_str().unwrap();
    let device = ["--mb-per-s", "4.096", "--latency-us", "500", "--policy", "none", "--json"];
    let args = [&["--bundle", bundle][..], &device].concat();
    let results = results(&text(&replay(&round(&["city", "rain"], 10, 1000), &args)));
    // A block takes a millisecond and a request 8 µs. The first task's blocks lie in one row, as
    // do those that the others lack.
    let figure = |key: &str| results["none"][key].as_f64().unwrap();
    assert_eq!((figure("p50_us"), figure("max_us")), (8508.0, 16508.0));
    assert_eq!(figure("demand_bytes"), (16 + 9 * 8) as f64 * BLOCK_BYTES as f64);
}

#[test]
fn a_step_that_comes_too_soon_supersedes_the_one_before() {
    let content = content();
    let bundle = content.path.to_str().unwrap();
    let args = ["--bundle", bundle, "--policy", "lru,none", "--mb-per-s", "1", "--latency-us", "0"];
    let json = text(&replay(&round(&TASKS, 12, 5), &[&args[..], &["--json"]].concat()));
    let results = results(&json);
    assert_eq!(results.keys().collect::<Vec<_>>(), ["lru", "none"]);
    assert_eq!(results["lru"]["superseded"], 11);
    assert!(results["lru"]["waited_us"].as_f64().unwrap() > 55e3);
}

#[test]
fn a_table_and_a_drawing_show_every_policy() {
    let content = content();
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("replay.svg");
    let (bundle, pool) = (content.path.to_str().unwrap(), pool());
    let args = ["--bundle", bundle, "--pool-bytes", &pool, "--svg", svg.to_str().unwrap()];
    let table = text(&replay(&round(&TASKS, 40, 500), &args));
    let drawing = fs::read_to_string(svg).unwrap();
    for policy in POLICIES {
        assert!(table.lines().any(|line| line.starts_with(policy)), "{table}");
        assert!(drawing.contains(&format!(">{policy}</text>")));
    }
    assert!(drawing.contains("prefers-color-scheme: dark"));
    assert_well_formed(&drawing);
}

/// Every element is closed, in order.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn traces_that_cannot_be_used_are_refused_with_their_line() {
    let content = content();
    let folder = tempfile::tempdir().unwrap();
    let (bundle, path) = (content.path.to_str().unwrap(), folder.path().join("t.jsonl"));
    let trace = path.to_str().unwrap();
    let good = "{\"at_ms\": 5, \"task\": \"city\"}\n";
    for (text, part) in [
        (format!("{good}city\n"), "line 2: not a JSON object"),
        (format!("{good}\n{{\"at_ms\": 9, \"task\": \"snow\"}}\n"), "line 3: no task is named"),
        (format!("{good}{{\"at_ms\": 4, \"task\": \"rain\"}}\n"), "line 2: `at_ms` is 4"),
        (String::new(), "the trace is empty"),
    ] {
        fs::write(&path, text).unwrap();
        let said = refused(&["replay", trace, "--bundle", bundle]);
        assert!(said.contains(part) && said.contains("t.jsonl"), "{said}");
        assert!(said.contains("replay --generate"), "{said}");
    }
    fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    let said = refused(&["replay", trace, "--bundle", bundle]);
    assert!(said.contains("larger than"), "{said}");
    let gone = refused(&["replay", "/nowhere/t.jsonl", "--bundle", bundle]);
    assert!(gone.contains("/nowhere/t.jsonl: "), "{gone}");
}

#[test]
fn arguments_that_make_no_sense_together_are_refused() {
    for args in [
        &["replay"][..],
        &["replay", "t"],
        &["replay", "t", "--generate", "city"],
        &["replay", "--generate", "moon"],
        &["replay", "--generate", "city", "--json"],
        &["replay", "--generate", "city", "--policy", "lru"],
        &["replay", "t", "--bundle", "b", "--seed", "1"],
        &["replay", "t", "--bundle", "b", "--speed", "2"],
        &["replay", "t", "--bundle", "b", "--control", "c"],
        &["replay", "t", "--control", "c", "--policy", "lru"],
        &["replay", "t", "--control", "c", "--speed", "0"],
        &["replay", "t", "--bundle", "b", "--measure", "--mb-per-s", "9"],
        &["replay", "t", "--bundle", "b", "--mb-per-s", "-1"],
        &["replay", "t", "--bundle", "/nowhere/b.mesh"],
    ] {
        refused(args);
    }
}

#[test]
fn a_pool_that_is_too_small_is_refused() {
    let content = content();
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("t.jsonl");
    fs::write(&trace, round(&TASKS, 12, 50)).unwrap();
    let [trace, bundle] = [&trace, &content.path].map(|path| path.to_str().unwrap());
    let said = refused(&["replay", trace, "--bundle", bundle, "--pool-bytes", "8KiB"]);
    assert!(said.contains("enlarge the pool"), "{said}");
    // Room for each task, but for no two of them.
    let pool = (16 * BLOCK_BYTES).to_string();
    let args = ["replay", trace, "--bundle", bundle, "--policy", "lru", "--pool-bytes", &pool];
    let table = text(&run(&args));
    assert!(table.contains("lru: no room for 10 switches: enlarge the pool"), "{table}");
}

#[test]
fn the_device_can_be_measured() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let content = Content::write_in(folder.path(), "measured", &[vec![0, 1, 2], vec![2, 3]]);
    let args = ["--bundle", content.path.to_str().unwrap(), "--measure", "--json"];
    let json = text(&replay(&round(&TASKS[..2], 4, 100), &args));
    let told: Value = serde_json::from_str(&json).unwrap();
    assert!(told["mb_per_s"].as_f64().unwrap() > 0.0, "{told}");
}

#[test]
fn a_daemon_gets_the_switches_of_a_trace() {
    let content = content();
    let daemon = Daemon::start(&content.path, 56 * BLOCK_BYTES);
    let control = daemon.control();
    let args = ["--control", control.to_str().unwrap(), "--speed", "10"];
    let trace = round(&TASKS[..3], 9, 200);
    let json = text(&replay(&trace, &[&args[..], &["--json"]].concat()));
    let live = &results(&json)["live"];
    assert_eq!(live["switches"], 9);
    // Each task is loaded at most once, and all of them fit.
    assert!(live["hit_rate"].as_f64().unwrap() >= 6.0 / 9.0, "{live}");
    assert!(live["demand_bytes"].as_u64().unwrap() <= 32 * BLOCK_BYTES);
    assert!(text(&replay(&trace, &args)).lines().any(|line| line.starts_with("live")));
    assert_refuses_what_the_daemon_does_not_know(&control);
}

fn assert_refuses_what_the_daemon_does_not_know(control: &Path) {
    let output = replay(&round(&["snow"], 1, 1), &["--control", control.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("standard input: line 1: no task is named \"snow\""), "{said}");
}

#[test]
fn a_daemon_that_is_not_there_is_told() {
    let output = replay(&round(&TASKS, 2, 1), &["--control", "/nowhere/control.sock"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/nowhere/control.sock; is it running?"), "{said}");
}
