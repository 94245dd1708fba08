//! `config check`, `config schema` and `serve` as they are run.

use super::{
    common::{Fixture, calls::bundle, daemon::write_config},
    files,
};
use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
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
    Fixture::small().write(&folder.path().join("m.mesh"));
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
    Fixture::small().write(&folder.path().join("m.mesh"));
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

/// Models with this in the first one's entry, and with the bundle of the second one.
fn models(folder: &Path, first: &str, second: &str) -> String {
    let shown = folder.display();
    format!(
        "models:\n- {{{first}, bundle: {shown}/small.mesh}}\n\
         - {{pool_bytes: 1MiB, bundle: {shown}/{second}}}\n"
    )
}

#[test]
fn config_check_looks_into_bundles() {
    let (folder, _, _) = bundle();
    fs::copy(folder.path().join("small.mesh"), folder.path().join("copy.mesh")).unwrap();
    fs::write(folder.path().join("none.mesh"), "no bundle").unwrap();
    let (place, shown) = (tempfile::tempdir().unwrap(), folder.path().display());
    let said = |first: &str, second: &str, more: &[&str]| {
        write_config(place.path(), &models(folder.path(), first, second));
        let output = check(&place, "synchromesh.yaml", more);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let file = format!("{}/synchromesh.yaml", place.path().display());
        said.replace(&file, "FILE").replace(&shown.to_string(), "FOLDER")
    };

    // Everything at once, with what can be found without any bundle.
    let first = "pool_bytes: 4KiB, initial_task: nosuch";
    let expected = "error: FILE: 4 problems\n\
         FILE:2:16: models.0.pool_bytes: FOLDER/small.mesh: task `city` needs 61440 bytes, but \
         `pool_bytes` is 4096: enlarge the pool\n\
         FILE:2:36: models.0.initial_task: there is no task `nosuch`; the bundle has: city, \
         highway, parking\n\
         FILE:3:30: models.1.bundle: two bundles hold a model `small`: names must differ\n\
         --set log.format=xml: log.format: is `xml`; auto, text, json or journald are allowed\n";
    assert_eq!(said(first, "copy.mesh", &["--set", "log.format=xml"]), expected);

    let refused = said("pool_bytes: 1MiB", "none.mesh", &[]);
    let expected = "error: FILE:3:30: models.1.bundle: bundle FOLDER/none.mesh is refused: ";
    assert!(refused.starts_with(expected), "{refused}");
    let set = "models.1.bundle=/dev/null";
    let told_once = said("pool_bytes: 1MiB", "copy.mesh", &["--set", set]);
    let expected =
        format!("error: --set {set}: models.1.bundle: /dev/null is not a regular file\n");
    assert_eq!(told_once, expected);
    let twice = said("pool_bytes: 1MiB", "small.mesh", &[]);
    assert_eq!(twice, "error: FILE:3:30: models.1.bundle: is served by another entry already\n");
}

#[test]
fn what_only_another_configuration_mends_ends_serve_with_the_code_of_a_wrong_configuration() {
    let (folder, _, _) = bundle();
    fs::copy(folder.path().join("small.mesh"), folder.path().join("copy.mesh")).unwrap();
    fs::write(folder.path().join("none.mesh"), "no bundle").unwrap();
    let mut other = Fixture::small();
    other.model = "other";
    other.write(&folder.path().join("other.mesh"));
    for (first, second, code, told) in [
        ("pool_bytes: 1MiB, initial_task: nosuch", "other.mesh", 2, "there is no task `nosuch`"),
        ("pool_bytes: 1MiB, initial_task: a b", "other.mesh", 2, "a task's name must be 1 to 64"),
        ("pool_bytes: 4KiB", "other.mesh", 2, "`pool_bytes` is 4096: enlarge the pool"),
        ("pool_bytes: 1MiB", "copy.mesh", 2, "two bundles hold a model `small`"),
        // A whole file may be put there.
        ("pool_bytes: 1MiB", "none.mesh", 1, "none.mesh is refused"),
    ] {
        let place = tempfile::tempdir().unwrap();
        write_config(place.path(), &models(folder.path(), first, second));
        let checked = check(&place, "synchromesh.yaml", &[]);
        let file = place.path().join("synchromesh.yaml");
        let served = program().args(["serve", "--config"]).arg(file).output().unwrap();
        assert_eq!((checked.status.code(), served.status.code()), (Some(2), Some(code)), "{told}");
        for output in [checked, served] {
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(told), "{told}: {said}");
        }
    }
}

#[test]
fn c6_folders_of_other_users_are_refused_unless_root_looks() {
    const NOBODY: u32 = 65_534;
    const OTHER: u32 = 12_345;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give folders away");
        return;
    }
    let (folder, shown) = files();
    Fixture::small().write(&folder.path().join("m.mesh"));
    let copy = folder.path().join("synchromesh");
    fs::copy(env!("CARGO_BIN_EXE_synchromesh"), &copy).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let set = format!("state_dir={shown}/state");
    let checks = |uid: u32| {
        let mut check = Command::new(&copy);
        check.args(["config", "check", "--set", &set]).arg(folder.path().join("c.yaml"));
        String::from_utf8(check.uid(uid).output().unwrap().stderr).unwrap()
    };
    for owner in [0, NOBODY] {
        chown(&state, Some(owner), None).unwrap();
        assert_eq!((checks(0), checks(NOBODY)), Default::default(), "{owner}");
    }
    chown(&state, Some(OTHER), None).unwrap();
    assert_eq!(checks(0), "", "it may be the daemon's user");
    let what = "belongs to another user: chown it to the daemon's";
    let expected = format!("error: --set {set}: state_dir: {shown}/state {what}\n");
    assert_eq!(checks(NOBODY), expected);
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
