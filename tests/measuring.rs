//! The commands that look at the machine: `bench` and `doctor`. No figure is judged here.

#![allow(clippy::unwrap_used, reason = "what a test does not expect must stop it")]

mod common;

use common::{Fixture, daemon::run};
use serde_json::Value;
use std::path::Path;

fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that must fail, and gives its exit code and what it says.
fn fails(args: &[&str]) -> (i32, String) {
    let output = run(args);
    assert!(output.stdout.is_empty(), "nothing is told as if it were a result");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn bench_measures_each_thing_in_each_round_and_tells_ratios() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("small.mesh");
    let bundle = Fixture::small().write(&path);
    let path = path.to_str().unwrap();
    let pair = ["--from", "city", "--to", "highway"];
    let told = json(&[&["bench", path, "--rounds", "2", "--json"][..], &pair].concat());
    let [city, highway] = ["city", "highway"].map(|name| bundle.find_task(name).unwrap());
    let diff = bundle.diff(city, highway) as u64 * 4096;
    assert_eq!(told["diff_bytes"], diff);
    assert_eq!(told["task_bytes"], bundle.task(highway).blocks * 4096);
    let samples = |name: &str| {
        let measures = told["measures"].as_array().unwrap();
        let measure = measures.iter().find(|measure| measure["name"] == name).unwrap();
        (measure["bytes"].as_u64().unwrap(), measure["samples_us"].as_array().unwrap().len())
    };
    for name in ["sequential", "pread4", "cold"] {
        assert_eq!(samples(name), (diff, 2), "{name}");
    }
    assert_eq!(samples("half"), (diff / 4096 / 2 * 4096, 2));
    for name in ["resident", "rpc_switch", "rpc_empty"] {
        assert_eq!(samples(name), (0, 400), "{name}");
    }
    assert!(told["ratios"]["cold_of_device"].as_f64().unwrap() > 0.0);
    // Without names it finds tasks that differ.
    let table = run(&["bench", path, "--rounds", "1"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("resident SwitchTask call: "), "{table}");
}

#[test]
fn bench_says_what_is_wrong_with_what_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.mesh");
    Fixture::small().write(&path);
    let path = path.to_str().unwrap();
    let (code, text) = fails(&["bench", path, "--from", "city", "--to", "sea"]);
    assert_eq!(code, 2);
    assert!(text.contains("no task `sea`; the bundle has: city, highway, parking"), "{text}");
    let (code, text) = fails(&["bench", path, "--from", "city", "--to", "city"]);
    assert_eq!(code, 2);
    assert!(text.contains("name tasks that differ"), "{text}");
    assert_eq!(fails(&["bench", "/nowhere.mesh"]).0, 1);
    assert_eq!(fails(&["bench", path, "--rounds", "0"]).0, 2);
}

#[test]
fn doctor_tells_what_there_is_and_what_would_be_better() {
    let told = json(&["doctor", "--json"]);
    let findings = told["findings"].as_array().unwrap();
    let names: Vec<_> = findings.iter().map(|finding| finding["what"].as_str().unwrap()).collect();
    assert_eq!(names, ["kernel", "io_uring", "locked memory", "memory", "huge pages"]);
    for finding in findings {
        let good = finding["good"].as_bool().unwrap();
        assert_eq!(
            finding["advice"].is_null(),
            good,
            "advice where something is lacking: {finding}"
        );
    }
}

#[test]
fn doctor_tells_whether_a_file_is_read_past_the_page_cache() {
    let folder = tempfile::tempdir_in(Path::new("/dev/shm")).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let told = json(&["doctor", "--json", "--file", file.to_str().unwrap()]);
    let last = told["findings"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (last["what"].as_str(), last["good"].as_bool()),
        (Some("reads of the file"), Some(false))
    );
    let (code, text) = fails(&["doctor", "--file", "/nowhere"]);
    assert_eq!(code, 1);
    assert!(text.contains("cannot open /nowhere"), "{text}");
}
