//! The keys' types, `config/synchromesh.yaml`, `config/synchromesh.schema.json` and what is checked
//! all say the same. With `SYNCHROMESH_BLESS=1` the schema is written anew.

use super::{files, parse, problems_of, source, with};
use serde_json::Value;
use std::{env, fs, path::Path};
use synchromesh::config::{ConfigError, LogFormat, schema};

const SHIPPED: &str = include_str!("../../config/synchromesh.yaml");
const SCHEMA: &str = "config/synchromesh.schema.json";

/// Every key as `--set` takes it, with its schema; the first entry stands for all of a list.
fn keys() -> Vec<(String, Value)> {
    fn walk(at: &str, schema: &Value, found: &mut Vec<(String, Value)>) {
        let below = |name: &str| if at.is_empty() { name.into() } else { format!("{at}.{name}") };
        for (name, key) in schema["properties"].as_object().into_iter().flatten() {
            found.push((below(name), key.clone()));
            walk(&below(name), key, found);
        }
        if schema["items"].is_object() {
            found.push((below("0"), schema["items"].clone()));
            walk(&below("0"), &schema["items"], found);
        }
    }
    let mut found = Vec::new();
    walk("", &schema(), &mut found);
    assert!(found.len() > 30, "keys are found");
    found
}

fn is_section(schema: &Value) -> bool {
    schema["properties"].is_object()
}

#[test]
fn the_schema_is_made_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCHEMA);
    let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if env::var_os("SYNCHROMESH_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(made == kept, "{SCHEMA} is old: run SYNCHROMESH_BLESS=1 cargo test --test config");
}

#[test]
fn the_shipped_file_tells_editors_where_the_schema_is() {
    let first = SHIPPED.lines().next().unwrap();
    let place = first.strip_prefix("# yaml-language-server: $schema=").unwrap();
    assert_eq!(Path::new("config").join(place), Path::new(SCHEMA));
}

#[test]
fn the_shipped_file_is_valid_and_shows_the_defaults() {
    let shipped = parse(SHIPPED).unwrap();
    let model = &shipped.models[0];
    let minimal = format!("models: [{{bundle: {}, pool_bytes: 512MiB}}]", model.bundle.display());
    assert_eq!(shipped, parse(&minimal).unwrap());
    assert_eq!(model.pool_bytes, 512 << 20);
    assert_eq!(shipped.log.format, LogFormat::Auto);
}

/// A key of the shipped file.
#[derive(Debug)]
struct Written {
    key: String,
    /// The comment above it, in one line.
    comment: String,
    /// What it is set to; `None` where it is commented out.
    value: Option<String>,
}

/// The keys of the shipped file, those that are commented out included.
fn written(known: &[(String, Value)]) -> Vec<Written> {
    let (mut found, mut comment, mut section) = (Vec::new(), Vec::new(), String::new());
    for line in SHIPPED.lines() {
        let text = line.trim_start_matches([' ', '-']);
        let (text, hidden) = text.strip_prefix("# ").map_or((text, false), |text| (text, true));
        let name = text.split(':').next().unwrap();
        let key =
            if line.starts_with([' ', '-']) { format!("{section}{name}") } else { name.into() };
        let Some((_, schema)) = known.iter().find(|(known, _)| *known == key) else {
            match hidden {
                true => comment.push(text),
                false => comment.clear(),
            }
            continue;
        };
        if is_section(schema) {
            section = format!("{key}.");
        } else if schema["items"]["properties"].is_object() {
            section = format!("{key}.0.");
        }
        let value = text[name.len() + 1..].trim().to_owned();
        let value = (!hidden).then_some(value);
        found.push(Written { key, comment: comment.join(" "), value });
        comment.clear();
    }
    found
}

#[test]
fn every_key_is_in_the_shipped_file_with_its_description_and_default() {
    let known = keys();
    let mut written = written(&known);
    for (key, schema) in known.iter().filter(|(key, _)| !key.ends_with(".0")) {
        let at = written.iter().position(|found| found.key == *key);
        let found = written.remove(at.unwrap_or_else(|| panic!("the file lacks {key}")));
        assert_eq!(found.comment, schema["description"].as_str().unwrap(), "{key}");
        match schema.get("default") {
            Some(Value::Null) => {
                assert_eq!(found.value, None, "{key} is shown as a comment");
                assert!(found.comment.ends_with("Default: none."), "{key}");
            }
            Some(default) => {
                let shown: Value = serde_yaml::from_str(found.value.as_ref().unwrap()).unwrap();
                assert_eq!(shown, *default, "{key}");
            }
            None => assert!(is_section(schema) || found.comment.ends_with("Required."), "{key}"),
        }
    }
    assert!(written.is_empty(), "told once: {written:?}");
}

#[test]
fn no_key_could_be_mistaken_in_a_variable() {
    for (key, _) in keys() {
        assert_eq!(key, key.to_lowercase());
        assert!(!key.contains("__"), "two underscores are what is between levels");
    }
}

/// What is wrong with a key that is set to a value; nothing if it is in order by itself.
fn wrong(key: &str, value: &str) -> Option<String> {
    let result = source(&files().0).with_arguments(&[format!("{key}={value}")]).load();
    match result {
        Ok(_) => None,
        Err(error @ ConfigError::Read { .. }) => panic!("{error}"),
        Err(error) => {
            let found = problems_of(Err(error));
            // What contradicts another key, or the machine's memory, is a matter of both.
            let relation =
                |what: &str| what.contains(", which is ") || what.contains("the machine's");
            found
                .into_iter()
                .find(|found| found.key == key && !relation(&found.what))
                .map(|f| f.what)
        }
    }
}

#[test]
fn ranges_of_the_schema_are_those_that_are_checked() {
    let mut probed = 0;
    for (key, schema) in keys() {
        let Some(least) = schema["minimum"].as_i64() else { continue };
        let most = schema["maximum"].as_i64();
        assert_eq!(wrong(&key, &least.to_string()), None, "{key}");
        let below = wrong(&key, &(least - 1).to_string());
        assert!(below.unwrap_or_else(|| panic!("{key}")).contains(" are allowed"));
        if let Some(most) = most {
            assert_eq!(wrong(&key, &most.to_string()), None, "{key}");
            let above = wrong(&key, &(most + 1).to_string());
            assert!(above.unwrap_or_else(|| panic!("{key}")).contains(" are allowed"));
        }
        probed += 1;
    }
    assert!(probed >= 12, "{probed} keys have a range");
}

#[test]
fn choices_and_rules_of_the_schema_are_those_that_are_checked() {
    let (mut choices, mut rules) = (0, 0);
    for (key, schema) in keys() {
        if let Some(one_of) = schema["oneOf"].as_array() {
            for choice in one_of {
                assert_eq!(wrong(&key, choice["const"].as_str().unwrap()), None, "{key}");
            }
            assert!(wrong(&key, "other").is_some(), "{key}");
            choices += 1;
        }
        // A format must be a rule: this text is against all of them.
        if schema["format"].is_string() {
            assert!(wrong(&key, "'=x=y'").is_some(), "{key}: {schema}");
            rules += 1;
        }
    }
    assert!(choices >= 2 && rules >= 7, "{choices} choices, {rules} rules");
}

#[test]
fn types_of_the_schema_are_those_that_are_checked() {
    let samples = [
        ("null", "null"),
        ("boolean", "true"),
        ("integer", "5000"),
        ("number", "1.5"),
        ("array", "[]"),
        ("object", "{}"),
        ("string", "/word"),
    ];
    for (key, schema) in keys() {
        let types = match &schema["type"] {
            Value::String(one) => vec![one.as_str()],
            Value::Array(all) => all.iter().map(|one| one.as_str().unwrap()).collect(),
            _ => vec!["string"],
        };
        for (kind, sample) in samples {
            let refused = wrong(&key, sample).is_some_and(|what| what.contains(" expected"));
            let may_be = types.contains(&kind);
            // What is text may still not be the text that is wanted.
            assert!(refused != may_be || kind == "string", "{key}={sample}: {types:?}");
        }
    }
}

#[test]
fn prefetching_and_the_folder_of_the_state_are_set_by_themselves() {
    let set = parse(&with("prefetch: {enabled: false}\nstate_dir: /data/learnt")).unwrap();
    assert!(!set.prefetch.enabled);
    let default = parse(&with("")).unwrap();
    assert_eq!(set.prefetch.waste_bytes_per_s, default.prefetch.waste_bytes_per_s);
    assert!(default.prefetch.enabled);
    assert_eq!(set.state_dir, Path::new("/data/learnt"));
    let bounds = "prefetch: {waste_bytes_per_s: 1MiB}";
    assert_eq!(parse(&with(bounds)).unwrap().prefetch.waste_bytes_per_s, 1 << 20);
}
