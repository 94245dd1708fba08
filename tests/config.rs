//! Configuration faults C1 to C6, and the file that is shipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};
use synchromesh::config::{Config, ConfigError, LogFormat, Problem};
use tempfile::TempDir;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.yaml"))
}

/// What is wrong with a text that is otherwise a valid configuration.
fn problems(text: &str) -> Vec<Problem> {
    match parse(text).unwrap_err() {
        ConfigError::Invalid { problems, .. } => problems,
        other => panic!("{other}"),
    }
}

/// The keys of those problems.
fn keys(text: &str) -> Vec<String> {
    problems(text).into_iter().map(|problem| problem.key).collect()
}

const MODEL: &str = "models: [{bundle: /m.mesh, pool_bytes: 1MiB}]\n";

fn with(text: &str) -> String {
    format!("{MODEL}{text}\n")
}

/// A folder with a bundle and a configuration that names it.
fn files() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let shown = folder.path().display().to_string();
    fs::write(folder.path().join("m.mesh"), b"content does not matter here").unwrap();
    let text = format!("models: [{{bundle: {shown}/m.mesh, pool_bytes: 1MiB}}]\n");
    fs::write(folder.path().join("c.yaml"), text).unwrap();
    (folder, shown)
}

fn load(folder: &TempDir) -> Result<Config, ConfigError> {
    Config::load(&folder.path().join("c.yaml"))
}

#[test]
fn the_shipped_file_is_valid_and_shows_the_defaults() {
    let shipped = parse(include_str!("../config/synchromesh.yaml")).unwrap();
    let model = &shipped.models[0];
    let minimal = format!("models: [{{bundle: {}, pool_bytes: 512MiB}}]", model.bundle.display());
    assert_eq!(shipped, parse(&minimal).unwrap());
    assert_eq!(model.pool_bytes, 512 << 20);
    assert_eq!(shipped.log.format, LogFormat::Text);
}

#[test]
fn prefetching_and_the_folder_of_the_state_are_set_by_themselves() {
    let set = parse(&with("prefetch: {enabled: false}\nstate_dir: /data/learnt")).unwrap();
    assert!(!set.prefetch.enabled);
    let default = parse(MODEL).unwrap();
    assert_eq!(set.prefetch.waste_bytes_per_s, default.prefetch.waste_bytes_per_s);
    assert!(default.prefetch.enabled);
    assert_eq!(set.state_dir, Path::new("/data/learnt"));
    let bounds = "prefetch: {waste_bytes_per_s: 1MiB}";
    assert_eq!(parse(&with(bounds)).unwrap().prefetch.waste_bytes_per_s, 1 << 20);
    assert!(parse(&with("prefetch: {waste_bytes_per_s: 1TiB}")).is_ok());
    for wrong in ["prefetch: {enabled: 1}", "prefetch: {waste_bytes_per_s: -1}", "state_dir: []"] {
        assert!(parse(&with(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn c1_a_missing_file_is_named() {
    let error = Config::load(Path::new("/nowhere/synchromesh.yaml")).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(error.to_string().contains("/nowhere/synchromesh.yaml"), "{error}");
    let missing_bundle = files();
    fs::remove_file(missing_bundle.0.path().join("m.mesh")).unwrap();
    let error = load(&missing_bundle.0).unwrap_err().to_string();
    assert!(error.contains("models[0].bundle") && error.contains("m.mesh"), "{error}");
}

#[test]
fn c2_a_syntax_error_tells_line_and_column() {
    for (text, place) in [
        ("models: [{bundle: /m, pool_bytes: 1MiB}]\nlisten: {tcp: [}\n", "line 2 column"),
        ("models:\n  - bundle: /m\n", "line 2 column"),
        ("models: [{bundle: /m, pool_bytes: lots}]", "line 1 column"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { .. }), "{text}");
        let error = error.to_string();
        assert!(error.starts_with("test.yaml: ") && error.contains(place), "{error}");
    }
    assert!(matches!(parse("").unwrap_err(), ConfigError::Syntax { .. }), "an empty file");
    assert!(parse("\u{0}").is_err());
}

#[test]
fn c3_an_unknown_key_refuses_the_file_at_every_level() {
    for text in [
        "pool: 5",
        "listen: {tpc: '127.0.0.1:1'}",
        "storage: {threads: 1}",
        "limits: {x: 1}",
        "log: {level: info}",
        "peers: {users: [1]}",
        "prefetch: {waste: 1MiB}",
    ] {
        let error = parse(&with(text)).unwrap_err().to_string();
        assert!(error.contains("unknown field") && error.contains("line 2"), "{error}");
    }
    let model = "models: [{bundle: /m, pool_bytes: 1MiB, pools: 1}]";
    assert!(parse(model).unwrap_err().to_string().contains("unknown field `pools`"));
}

#[test]
fn c4_zero_negative_overflowing_and_oversized_values_are_refused() {
    let bytes = |value: &str| format!("models: [{{bundle: /m, pool_bytes: {value}}}]");
    assert_eq!(keys(&bytes("0")), ["models[0].pool_bytes"]);
    assert_eq!(keys(&bytes("900TiB")), ["models[0].pool_bytes"], "more than this machine has");
    for value in ["-1", "-1MiB", "99999999999999999999999", "1.5.2MiB", "''", "null", "[]"] {
        assert!(parse(&bytes(value)).is_err(), "{value}");
    }
    for (text, key) in [
        ("storage: {read_threads: 0}", "storage.read_threads"),
        ("storage: {read_threads: 65, reads_in_flight: 100}", "storage.read_threads"),
        ("storage: {reads_in_flight: 5000}", "storage.reads_in_flight"),
        ("storage: {read_bytes: 4095}", "storage.read_bytes"),
        ("storage: {read_bytes: 1GiB}", "storage.read_bytes"),
        ("prefetch: {waste_bytes_per_s: 0}", "prefetch.waste_bytes_per_s"),
        ("prefetch: {waste_bytes_per_s: 1048575}", "prefetch.waste_bytes_per_s"),
        ("prefetch: {waste_bytes_per_s: 1025GiB}", "prefetch.waste_bytes_per_s"),
        ("limits: {switch_timeout_ms: 0}", "limits.switch_timeout_ms"),
        ("limits: {drain_timeout_ms: 3600001}", "limits.drain_timeout_ms"),
        ("limits: {clients_per_session: 0}", "limits.clients_per_session"),
        ("limits: {connections: 4097}", "limits.connections"),
    ] {
        assert_eq!(keys(&with(text)), [key], "{text}");
    }
    assert!(parse(&with("limits: {connections: -1}")).is_err());
    assert!(parse(&with("peers: {uids: [4294967296]}")).is_err());
}

#[test]
fn c5_contradictions_are_refused_and_all_problems_are_told_at_once() {
    let same = "listen: {control: /run/s.sock, attach: /run/s.sock}";
    assert_eq!(keys(&with(same)), ["listen.attach"]);
    let few = "storage: {read_threads: 8, reads_in_flight: 4}";
    assert_eq!(keys(&with(few)), ["storage.reads_in_flight"]);
    let twice = "models: [{bundle: /m, pool_bytes: 1MiB}, {bundle: /m, pool_bytes: 1MiB}]";
    assert_eq!(keys(twice), ["models[1].bundle"]);
    assert_eq!(keys("models: []"), ["models"]);
    assert_eq!(keys(&with("listen: {tcp: '0.0.0.0:7420'}")), ["listen.tcp"]);
    assert_eq!(keys(&with("listen: {tcp: here}")), ["listen.tcp"]);
    assert_eq!(keys(&with("log: {filter: '=x=y'}")), ["log.filter"]);

    let many =
        "models: [{bundle: m, pool_bytes: 0}]\nlimits: {connections: 0}\nlog: {filter: '=x=y'}";
    let mut found = keys(many);
    found.sort();
    let all = ["limits.connections", "log.filter", "models[0].bundle", "models[0].pool_bytes"];
    assert_eq!(found, all);
}

#[test]
fn c6_relative_paths_are_refused() {
    for path in ["m.mesh", "./m.mesh", "/var/../m.mesh", "''"] {
        let text = format!("models: [{{bundle: {path}, pool_bytes: 1MiB}}]");
        assert_eq!(keys(&text), ["models[0].bundle"], "{path}");
    }
    assert_eq!(keys(&with("listen: {control: c.sock}")), ["listen.control"]);
    for path in ["state", "./state", "/var/../state", "''"] {
        assert_eq!(keys(&with(&format!("state_dir: {path}"))), ["state_dir"], "{path}");
    }
    let long = format!("listen: {{attach: /{}}}", "x".repeat(107));
    assert_eq!(keys(&with(&long)), ["listen.attach"]);
}

#[test]
fn c6_symbolic_links_are_refused() {
    let (folder, shown) = files();
    load(&folder).unwrap();
    let bundle = folder.path().join("m.mesh");
    fs::rename(&bundle, folder.path().join("real.mesh")).unwrap();
    symlink(folder.path().join("real.mesh"), &bundle).unwrap();
    let error = load(&folder).unwrap_err().to_string();
    assert!(error.contains(&format!("{shown}/m.mesh is a symbolic link")), "{error}");

    let (folder, _) = files();
    symlink(folder.path().join("c.yaml"), folder.path().join("link.yaml")).unwrap();
    let error = Config::load(&folder.path().join("link.yaml")).unwrap_err().to_string();
    assert!(error.contains("link.yaml is a symbolic link"), "{error}");
}

#[test]
fn c6_files_and_folders_that_everybody_can_write_are_refused() {
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    for name in ["m.mesh", "c.yaml"] {
        let (folder, _) = files();
        mode(&folder.path().join(name), 0o666).unwrap();
        let error = load(&folder).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} is writable by everybody")), "{error}");
    }
    let (folder, _) = files();
    mode(folder.path(), 0o777).unwrap();
    assert!(load(&folder).unwrap_err().to_string().contains("the folder of"));
    mode(folder.path(), 0o1777).unwrap();
    load(&folder).expect("a sticky folder, such as /tmp, protects its files");
}

#[test]
fn what_is_not_a_regular_file_is_refused_without_waiting_for_it() {
    let (folder, shown) = files();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [format!("{shown}/fifo"), shown.clone(), "/dev/null".into()] {
        let text = format!("models: [{{bundle: {path}, pool_bytes: 1MiB}}]\n");
        fs::write(folder.path().join("c.yaml"), text).unwrap();
        let error = load(&folder).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }
    assert!(Config::load(&fifo).is_err());
}

#[test]
fn config_check_says_so_with_its_exit_code() {
    let (folder, _) = files();
    let check = |name: &str, json: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_synchromesh"));
        let path = folder.path().join(name);
        command.args(["config", "check"]).arg(path).args(json).output().unwrap()
    };
    let good = check("c.yaml", &[]);
    assert_eq!((good.status.code(), good.stderr.len()), (Some(0), 0), "{good:?}");

    fs::write(folder.path().join("bad.yaml"), "models: []\nlimits: {connections: 0}\n").unwrap();
    let bad = check("bad.yaml", &[]);
    assert_eq!(bad.status.code(), Some(2));
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(
        said.contains("models: name at least one") && said.contains("limits.connections"),
        "{said}"
    );

    let json = check("bad.yaml", &["--json"]);
    assert_eq!(json.status.code(), Some(2));
    let verdict: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(verdict["valid"], false);
    assert_eq!(verdict["problems"].as_array().unwrap().len(), 2);
}
