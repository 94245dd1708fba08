//! What is set besides the file: fault C8, and which of several settings counts.

use super::{files, load, problems_of, source};
use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt as _,
};
use synchromesh::config::{Account, Config, ConfigError, PeerRule, Place, Problem, Role, Source};
use tempfile::TempDir;

fn variables(all: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    all.iter().map(|&(name, value)| (name.into(), value.into())).collect()
}

/// Loads with variables and arguments.
fn set(
    folder: &TempDir,
    environment: &[(&str, &str)],
    arguments: &[&str],
) -> Result<Config, ConfigError> {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    source(folder).with_variables(variables(environment)).with_arguments(&arguments).load()
}

/// The only problem with an argument.
fn refused(argument: &str) -> Problem {
    let mut found = problems_of(set(&files().0, &[], &[argument]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, Place::Override(format!("--set {argument}")));
    found.remove(0)
}

/// The only problem with a variable.
fn refused_variable(name: &str, value: &str) -> Problem {
    let mut found = problems_of(set(&files().0, &[(name, value)], &[]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, Place::Override(name.to_owned()));
    found.remove(0)
}

#[test]
fn arguments_come_before_variables_and_these_before_the_file() {
    let (folder, _) = files();
    let path = folder.path().join("c.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}limits: {{connections: 20, drain_timeout_ms: 7}}\n")).unwrap();
    let connections = |environment: &[_], arguments: &[_]| {
        let config = set(&folder, environment, arguments).unwrap();
        assert_eq!(config.limits.drain_timeout.as_millis(), 7, "what is beside it stays");
        config.limits.connections
    };
    let variable = ("SYNCHROMESH_CONFIG__LIMITS__CONNECTIONS", "21");
    assert_eq!(connections(&[], &[]), 20);
    assert_eq!(connections(&[variable], &[]), 21);
    assert_eq!(connections(&[variable], &["limits.connections=22"]), 22);
    assert_eq!(connections(&[], &["limits.connections=22", "limits.connections=23"]), 23);
}

#[test]
fn every_kind_of_value_can_be_set() {
    let (folder, shown) = files();
    fs::write(folder.path().join("other.mesh"), b"x").unwrap();
    let added = format!("models.1={{bundle: {shown}/other.mesh, pool_bytes: 2MiB}}");
    let config = set(
        &folder,
        &[
            ("SYNCHROMESH_CONFIG__MODELS__0__POOL_BYTES", "3MiB"),
            ("SYNCHROMESH_CONFIG__LOG__FILTER", "info,synchromesh::engine=debug"),
            ("SYNCHROMESH_CONFIG__LISTEN__TCP", "127.0.0.1:7420"),
            ("SYNCHROMESH_CONFIG__LOCK_MEMORY", "false"),
        ],
        &[
            &added,
            "models.1.initial_task='7'",
            "models.0.initial_task=a=b",
            "peers=[{user: 5, role: observe}, {group: 6, role: attach}]",
            "peers.2={user: root, role: command}",
            "peers.1.role=command",
            "limits={connections: 30}",
            "limits.drain_timeout_ms=9",
            "listen.tcp=",
        ],
    )
    .unwrap();
    let [first, second] = config.models.as_slice() else { panic!("{:?}", config.models) };
    assert_eq!((first.pool_bytes, first.initial_task.as_deref()), (3 << 20, Some("a=b")));
    assert_eq!((second.pool_bytes, second.initial_task.as_deref()), (2 << 20, Some("7")));
    assert_eq!(config.log.filter, "info,synchromesh::engine=debug");
    assert_eq!(config.listen.tcp, None, "an argument takes it back");
    assert!(!config.lock_memory);
    let rule = |account, role| PeerRule { account, role };
    let expected = [
        rule(Account::User(5), Role::Observe),
        rule(Account::Group(6), Role::Command),
        rule(Account::User(0), Role::Command),
    ];
    assert_eq!(config.peers.0, expected);
    assert_eq!(config.limits.connections, 30);
    assert_eq!(config.limits.drain_timeout.as_millis(), 9);
}

#[test]
fn entries_of_a_list_can_be_made_by_variables_alone() {
    let (folder, shown) = files();
    for i in 0..12 {
        fs::write(folder.path().join(format!("{i}.mesh")), b"x").unwrap();
    }
    fs::write(folder.path().join("c.yaml"), "log: {filter: info}\n").unwrap();
    let names: Vec<_> = (0..12)
        .flat_map(|i| {
            let name = |key: &str| format!("SYNCHROMESH_CONFIG__MODELS__{i}__{key}");
            [(name("BUNDLE"), format!("{shown}/{i}.mesh")), (name("POOL_BYTES"), "1MiB".into())]
        })
        .collect();
    let all: Vec<_> = names.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let config = set(&folder, &all, &[]).unwrap();
    assert_eq!(config.models.len(), 12);
    assert!(config.models[10].bundle.ends_with("10.mesh"), "10 comes after 9");
}

#[test]
fn c8_an_override_that_names_no_key_is_refused_by_name() {
    for (argument, key, told) in [
        ("limits.conections=8", "limits.conections", "did you mean `limits.connections`?"),
        ("connections=8", "connections", "did you mean `limits.connections`?"),
        ("=8", "", "is no key"),
        ("limits..connections=8", "limits..connections", "is no key"),
        ("limits.connections.x=8", "limits.connections.x", "is no key"),
        ("models.first.bundle=/m", "models.first.bundle", "`first` is no number"),
        ("models.-1.bundle=/m", "models.-1.bundle", "`-1` is no number"),
        ("models.2.bundle=/m", "models.2.bundle", "the list has 1 entries"),
        (
            "models.99999999999999999999.bundle=/m",
            "models.99999999999999999999.bundle",
            "no number",
        ),
        ("limits.connections", "", "write KEY=VALUE"),
    ] {
        let found = refused(argument);
        assert_eq!(found.key, key, "{argument}");
        assert!(found.what.contains(told), "{}", found.what);
    }
    for (name, told) in [
        ("SYNCHROMESH_CONFIG__LIMITS__CONECTIONS", "did you mean `limits.connections`?"),
        ("SYNCHROMESH_CONFIG__LIMITS_CONNECTIONS", "is no key"),
        ("SYNCHROMESH_CONFIG__limits__connections", "sets no key"),
        ("SYNCHROMESH_CONFIG_LIMITS__CONNECTIONS", "sets no key"),
        ("SYNCHROMESH_CONFIG", "sets no key"),
        ("SYNCHROMESH_CONFIG__", "is no key"),
    ] {
        let found = refused_variable(name, "8");
        assert!(found.what.contains(told), "{name}: {}", found.what);
    }
}

#[test]
fn c8_an_override_with_a_bad_value_is_refused_by_name() {
    for (argument, key, told) in [
        ("limits.connections=0", "limits.connections", "is 0; 1 to 4096 are allowed"),
        ("limits.connections=many", "limits.connections", "is `many`; a whole number"),
        ("limits.connections=", "limits.connections", "is empty"),
        ("limits.connections=15", "limits.connections", "below limits.clients_per_session"),
        ("limits={connections: 80, x: 1}", "limits.x", "is no key"),
        ("models=[]", "models", "give at least 1"),
        ("models.0={bundle: /m}", "models.0.pool_bytes", "is missing"),
        ("models.0.initial_task=7", "models.0.initial_task", "put it in quotes"),
        ("models.0.bundle=m.mesh", "models.0.bundle", "must be an absolute path"),
        ("models.0.bundle=/nowhere/m.mesh", "models.0.bundle", "cannot read /nowhere/m.mesh"),
        ("peers=[{user: no one, role: observe}]", "peers.0.user", "is `no one`"),
        ("log.filter={", "log.filter", "cannot be read as YAML"),
        ("log.filter=*a", "log.filter", "cannot be read as YAML"),
        ("listen.control=/run/synchromesh/attach.sock", "listen.control", "the same path as"),
    ] {
        let found = refused(argument);
        assert_eq!(found.key, key, "{argument}");
        assert!(found.what.contains(told), "{argument}: {}", found.what);
    }
    let found = refused_variable("SYNCHROMESH_CONFIG__STORAGE__READ_BYTES", "1");
    assert_eq!(found.what, "is 1; 4KiB to 64MiB are allowed");

    let name = OsString::from("SYNCHROMESH_CONFIG__LOG__FILTER");
    let value = OsStr::from_bytes(b"inf\xff").to_owned();
    let found = problems_of(source(&files().0).with_variables([(name, value)]).load());
    assert!(found[0].what.contains("is not UTF-8"), "{found:?}");
}

#[test]
fn c8_a_contradiction_with_the_file_names_the_override() {
    let (folder, _) = files();
    let path = folder.path().join("c.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}limits: {{clients_per_session: 20}}\n")).unwrap();
    let found = problems_of(set(&folder, &[], &["limits.connections=18"]));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "limits.clients_per_session"));
    assert!(found[0].what.ends_with("which is 18 by --set limits.connections=18"), "{found:?}");
}

#[test]
fn c8_other_variables_mean_nothing() {
    let (folder, _) = files();
    let others = [("SYNCHROMESH_BIN", "/x"), ("PATH", "x"), ("SYNCHROMESHCONFIG__X", "1")];
    assert_eq!(set(&folder, &others, &[]).unwrap(), load(&folder).unwrap());
}

#[test]
fn c8_overrides_and_the_file_are_told_of_together() {
    let (folder, shown) = files();
    let text = format!(
        "limits: 5\nmodels: [{{bundle: {shown}/m.mesh, pool_bytes: 1MiB}}]\nlog: {{format: xml}}\n"
    );
    fs::write(folder.path().join("c.yaml"), text).unwrap();
    let variable = ("SYNCHROMESH_CONFIG__LOG__FILTR", "x");
    let arguments = ["limits.connections=8", "storage.read_threads=0", "log.format=json"];
    let found = problems_of(set(&folder, &[variable], &arguments));
    let told: Vec<_> = found.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(told, ["limits", "storage.read_threads", "log.filtr"], "{found:?}");
}

#[test]
fn a_source_is_loaded_again_with_what_was_set() {
    let (folder, _) = files();
    let path = folder.path().join("c.yaml");
    let source: Source = source(&folder)
        .with_arguments(&["limits.connections=30".to_owned()])
        .with_variables(variables(&[("SYNCHROMESH_CONFIG__LIMITS__CONNECTIONS", "31")]));
    assert_eq!(source.load().unwrap().limits.connections, 30, "in whatever order they are given");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}log: {{filter: debug}}\n")).unwrap();
    let again = source.load().unwrap();
    assert_eq!((again.log.filter.as_str(), again.limits.connections), ("debug", 30));
    fs::write(&path, format!("{text}log: {{filtr: debug}}\n")).unwrap();
    assert!(source.load().is_err());
    fs::write(&path, text).unwrap();
    assert_eq!(source.load().unwrap().log.filter, "info");
}
