//! Single keys that are set besides the file: `--set limits.connections=128`, or the environment
//! variable `SYNCHROMESH_CONFIG__LIMITS__CONNECTIONS=128`.
//!
//! A key is written with a dot (in a variable: two underscores, and capital letters) between levels,
//! an entry of a list as its number from 0. The value is YAML. Every variable whose name begins with
//! `SYNCHROMESH_CONFIG` must be one of these, so that a slip of the pen is told; other variables that
//! begin with `SYNCHROMESH_` mean nothing here.

use super::{
    check::below,
    error::{Place, Problem},
    schema::keys,
    suggest::unknown,
    tree::{Name, Node, Value},
};
use serde_json::Value as Schema;
use std::ffi::{OsStr, OsString};

/// How variables begin that set keys.
const PREFIX: &str = "SYNCHROMESH_CONFIG";

/// Whether an environment variable of this name is meant to set a key.
pub fn is_override(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
}

/// A key that is set besides the file.
#[derive(Clone, Debug)]
pub(super) struct Override {
    /// The variable or argument.
    name: String,
    key: String,
    /// What is set, or what is wrong.
    text: Result<String, &'static str>,
}

impl Override {
    /// Those among these variables, in the order of their keys.
    pub(super) fn variables(all: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<Self> {
        let mut found: Vec<_> = all
            .into_iter()
            .filter_map(|(name, value)| {
                let name = name.to_string_lossy().into_owned();
                let rest = name.strip_prefix(PREFIX)?;
                let key = rest.strip_prefix("__").filter(|key| **key == key.to_uppercase());
                let text = match (key, value.into_string()) {
                    (None, _) => {
                        Err("sets no key: write SYNCHROMESH_CONFIG__SECTION__KEY, in capitals")
                    }
                    (_, Err(_)) => Err("is not UTF-8"),
                    (_, Ok(text)) => Ok(text),
                };
                let key = key.unwrap_or_default().to_lowercase().replace("__", ".");
                Some(Self { name, key, text })
            })
            .collect();
        // An entry can only follow the one before it: 10 comes after 9.
        found.sort_by_cached_key(|set| {
            let part = |step: &str| (step.parse::<usize>().ok(), step.to_owned());
            set.key.split('.').map(part).collect::<Vec<_>>()
        });
        found
    }

    /// What an argument of `--set` says.
    pub(super) fn argument(argument: &str) -> Self {
        let name = format!("--set {argument}");
        match argument.split_once('=') {
            Some((key, text)) => {
                Self { name, key: key.trim().to_owned(), text: Ok(text.to_owned()) }
            }
            None => Self { name, key: String::new(), text: Err("sets no key: write KEY=VALUE") },
        }
    }

    /// Puts the value into the tree.
    pub(super) fn apply(&self, tree: &mut Node, schema: &Schema) -> Result<(), Problem> {
        let place = Place::Override(self.name.clone());
        let wrong = |what: String| Problem { place: place.clone(), key: self.key.clone(), what };
        let text = self.text.as_ref().map_err(|&what| wrong(what.to_owned()))?;
        let mut value = Node::parse(text).map_err(|problem| wrong(problem.what))?;
        value.stand(None, &place);
        let steps: Vec<_> = self.key.split('.').collect();
        known(schema, &steps).map_err(&wrong)?;
        put(tree, schema, &steps, value).map_err(wrong)
    }
}

/// Whether there is such a key; if not, what is wrong.
fn known(root: &Schema, steps: &[&str]) -> Result<(), String> {
    let (mut schema, mut at) = (root, String::new());
    for step in steps {
        let next = match schema.get("items") {
            Some(items) if step.parse::<usize>().is_ok() => items,
            Some(_) => {
                return Err(format!("`{step}` is no number of an entry of {at}: use 0, 1 …"));
            }
            None => match keys(schema).and_then(|keys| keys.get(*step)) {
                Some(next) => next,
                None => return Err(unknown(root, &at, schema, step)),
            },
        };
        at = below(&at, step);
        schema = next;
    }
    Ok(())
}

/// Puts a value at a key that the schema has. What stands in the way, and cannot be right, is left:
/// it is told where it stands.
fn put(node: &mut Node, schema: &Schema, steps: &[&str], value: Node) -> Result<(), String> {
    let [step, rest @ ..] = steps else {
        *node = value;
        return Ok(());
    };
    let fresh = Node::new(Value::Null, value.place.clone());
    if matches!(node.value, Value::Null) {
        let (items, section) = (Value::List(Vec::new()), Value::Section(Vec::new()));
        let inner = if schema.get("items").is_some() { items } else { section };
        *node = Node::new(inner, value.place.clone());
    }
    match &mut node.value {
        Value::List(items) => {
            let at = step.parse::<usize>().unwrap_or(usize::MAX);
            if at == items.len() {
                items.push(fresh);
            }
            let count = items.len();
            let item = items.get_mut(at).ok_or_else(|| {
                format!("the list has {count} entries: the next one is number {count}")
            })?;
            put(item, &schema["items"], rest, value)
        }
        Value::Section(inner) => {
            let at = inner.iter().position(|(name, _)| name.text == *step).unwrap_or(inner.len());
            if at == inner.len() {
                let name = Name { place: value.place.clone(), text: (*step).to_owned() };
                inner.push((name, fresh));
            }
            put(&mut inner[at].1, &schema["properties"][step], rest, value)
        }
        _ => Ok(()),
    }
}
