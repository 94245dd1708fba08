//! Everything that is wrong is told at once, each with its place.

use super::{at, files, load, parse, problems, problems_of};
use proptest::prelude::*;
use std::fs;
use synchromesh::config::{ConfigError, Place};

const SHIPPED: &str = include_str!("../../config/synchromesh.yaml");

const MANY: &str = "\
# One of each kind.
models:
  - bundle: m.mesh
    pool_bytes: 0
  - pool_bytes: 1MiB
    inital_task: city
  - {bundle: /m, pool_bytes: 1MiB}
  - {bundle: /m, pool_bytes: 1MiB}
storage:
  backend: uring
  read_threads: 8
  reads_in_flight: 4
limits: {connections: 0, conections: 5, switch_timeout_ms: soon}
log:
  filter: '=x=y'
  filter: info
peers:
  - {user: 7, role: observe}
  - {user: [root], role: command}
  - {group: nosuch, role: command}
prefetch:
";

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let expected = [
        ("models.0.bundle", 3, 13),
        ("models.0.pool_bytes", 4, 17),
        ("models.1.bundle", 5, 5),
        ("models.1.inital_task", 6, 5),
        ("models.3.bundle", 8, 14),
        ("storage.backend", 10, 12),
        ("storage.read_threads", 11, 17),
        ("limits.connections", 13, 23),
        ("limits.conections", 13, 26),
        ("limits.switch_timeout_ms", 13, 60),
        ("log.filter", 15, 11),
        ("log.filter", 16, 3),
        ("peers.1.user", 19, 12),
        ("peers.2.group", 20, 13),
        ("prefetch", 21, 1),
    ];
    let found = problems(MANY);
    let told: Vec<_> = found.iter().map(|problem| (problem.key.as_str(), &problem.place)).collect();
    let expected = expected.map(|(key, line, column)| (key, at(line, column)));
    assert_eq!(told, expected.iter().map(|(key, place)| (*key, place)).collect::<Vec<_>>());

    let shown = parse(MANY).unwrap_err().to_string();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[0], "test.yaml: 15 problems");
    assert_eq!(lines[8], "test.yaml:13:23: limits.connections: is 0; 1 to 4096 are allowed");
    assert_eq!(lines.len(), 16);
}

#[test]
fn files_are_looked_at_even_if_something_else_is_wrong() {
    let (folder, shown) = files();
    let text = format!(
        "log: {{format: xml}}\nmodels:\n  - bundle: {shown}/n.mesh\n    pool_bytes: 1MiB\n"
    );
    fs::write(folder.path().join("c.yaml"), text).unwrap();
    let found = problems_of(load(&folder));
    let told: Vec<_> = found.iter().map(|problem| (problem.key.as_str(), &problem.place)).collect();
    assert_eq!(told, [("log.format", &at(1, 15)), ("models.0.bundle", &at(3, 13))]);
}

#[test]
fn columns_count_characters_and_a_value_of_an_alias_stands_where_the_alias_does() {
    let text = "log: {filter: 'é=ü=é=', format: xml}\npeers: [{user: &name 'no one', role: observe}, {group: *name, role: observe}]\n";
    let found = problems(&format!("models: [{{bundle: /m, pool_bytes: 1MiB}}]\n{text}"));
    let places: Vec<_> = found.into_iter().map(|problem| problem.place).collect();
    assert_eq!(places, [at(2, 15), at(2, 33), at(3, 16), at(3, 56)]);
}

/// A text that somebody is still typing, or that was damaged.
fn damaged() -> impl Strategy<Value = String> {
    let cut = |at: prop::sample::Index| {
        let mut place = at.index(SHIPPED.len());
        while !SHIPPED.is_char_boundary(place) {
            place -= 1;
        }
        place
    };
    let bits = prop_oneof![
        Just("- "),
        Just(": "),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just("&a "),
        Just("*a"),
        Just("\n"),
        Just("  "),
        Just("\t"),
        Just("'"),
        Just("\""),
        Just("#"),
        Just("!x "),
        Just("|"),
        Just("? "),
        Just("---\n"),
        Just("é"),
        Just("<<: "),
        Just("limits: 5\n"),
        Just("99999999999"),
    ];
    let edit = (any::<prop::sample::Index>(), 0..40usize, bits);
    prop::collection::vec(edit, 1..4).prop_map(move |edits| {
        let mut text = SHIPPED.to_owned();
        for (place, drop, bit) in edits {
            let start = cut(place).min(text.len());
            let start = (0..=start).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            let end = (start + drop).min(text.len());
            let end = (end..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(start);
            text.replace_range(start..end, bit);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_is_written_is_refused_with_a_place_in_the_file_or_accepted(text in damaged()) {
        if let Err(error) = parse(&text) {
            let ConfigError::Invalid { problems, .. } = error else { panic!("{error}") };
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(!problem.what.is_empty());
                if let Place::At { line, column } = problem.place {
                    let lines = text.split('\n').count();
                    prop_assert!((1..=lines + 1).contains(&line) && column >= 1, "{problem:?}");
                }
            }
        }
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }
}
