//! `config check`, `config schema` and `serve` as they are run.

use super::files;
use std::{
    fs,
    process::{Command, Output},
};
use tempfile::TempDir;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_synchromesh"))
}

fn check(folder: &TempDir, name: &str, more: &[&str]) -> Output {
    program().args(["config", "check"]).arg(folder.path().join(name)).args(more).output().unwrap()
}

#[test]
fn config_check_says_so_with_its_exit_code() {
    let (folder, shown) = files();
    let good = check(&folder, "c.yaml", &[]);
    assert_eq!((good.status.code(), good.stderr.len()), (Some(0), 0), "{good:?}");

    fs::write(folder.path().join("bad.yaml"), "models: []\nlimits: {connections: 0}\n").unwrap();
    let bad = check(&folder, "bad.yaml", &["--set", "log.format=xml"]);
    assert_eq!(bad.status.code(), Some(2));
    let said = String::from_utf8(bad.stderr).unwrap();
    let expected = format!(
        "error: {shown}/bad.yaml: 3 problems\n\
         {shown}/bad.yaml:1:9: models: has 0 entries; give at least 1\n\
         {shown}/bad.yaml:2:23: limits.connections: is 0; 1 to 4096 are allowed\n\
         --set log.format=xml: log.format: is `xml`; auto, text, json or journald are allowed\n"
    );
    assert_eq!(said, expected);
}

#[test]
fn config_check_gives_all_of_it_as_json() {
    let (folder, _) = files();
    let verdict =
        |output: &Output| -> serde_json::Value { serde_json::from_slice(&output.stdout).unwrap() };
    let good = check(&folder, "c.yaml", &["--json"]);
    assert_eq!(verdict(&good), serde_json::json!({ "valid": true, "problems": [] }));

    fs::write(folder.path().join("bad.yaml"), "models: []\n").unwrap();
    let bad = check(&folder, "bad.yaml", &["--json", "--set", "lock_memory=1"]);
    assert_eq!(bad.status.code(), Some(2));
    let expected = serde_json::json!({ "valid": false, "problems": [
        {
            "key": "models", "line": 1, "column": 9, "set_by": null,
            "problem": "has 0 entries; give at least 1",
        },
        {
            "key": "lock_memory", "line": null, "column": null, "set_by": "--set lock_memory=1",
            "problem": "is 1; true or false is expected",
        },
    ]});
    assert_eq!(verdict(&bad), expected);
    let missing = verdict(&check(&folder, "none.yaml", &["--json"]));
    assert!(missing["problems"][0]["problem"].as_str().unwrap().contains("none.yaml"));
}

#[test]
fn c8_serve_and_config_check_heed_the_environment_and_arguments() {
    let (folder, _) = files();
    let path = folder.path().join("c.yaml");
    let variable = "SYNCHROMESH_CONFIG__LIMITS__CONNECTIONS";
    for command in [["serve", "--config"].as_slice(), &["config", "check"]] {
        let run = |value: &str, more: &[&str]| {
            let mut program = program();
            program.args(command).arg(&path).args(more).env(variable, value).output().unwrap()
        };
        let output = run("0", &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("{variable}: limits.connections: is 0")), "{said}");

        let output = run("0", &["--set", "limits.connections=8", "--set", "log.filtr=x"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--set log.filtr=x: log.filtr: is no key"), "{said}");
        let kept =
            "--set limits.connections=8: limits.connections: is 8, below limits.clients_per_";
        assert!(said.contains(kept), "{said}");
    }
}

#[test]
fn config_schema_prints_the_schema() {
    let output = program().args(["config", "schema"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, include_str!("../../config/synchromesh.schema.json"));
}
