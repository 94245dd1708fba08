//! Compares a tree with the schema and tells everything that does not fit: keys that are unknown,
//! missing or given twice, values of another type, outside their range, or against their rule.
//!
//! What is found bad is marked so, and the rest can be looked at further: see `relations`.

use super::{
    error::{Place, Problem},
    schema::{admits, bounds, choices, keys, lengths, range, required},
    suggest::unknown,
    tree::{Name, Node, Value},
    value::{breach, bytes_of},
};
use serde_json::Value as Schema;
use std::{collections::HashMap, fmt};

/// Most characters of a value that are repeated in a message.
const SHOWN: usize = 60;

/// Marks what does not fit, and says why.
pub(super) fn check(tree: &mut Node, schema: &Schema, problems: &mut Vec<Problem>) {
    Check { schema, problems }.node(tree, schema, "");
}

struct Check<'a> {
    /// Of the whole.
    schema: &'a Schema,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn wrong(&mut self, place: &Place, key: &str, what: String) {
        self.problems.push(Problem { place: place.clone(), key: key.to_owned(), what });
    }

    /// A section is bad if it is none, or lacks something that it must have.
    fn node(&mut self, node: &mut Node, schema: &Schema, key: &str) {
        node.bad = match (&mut node.value, keys(schema)) {
            (Value::Section(inner), Some(_)) => !self.section(inner, &node.place, schema, key),
            (Value::List(items), None) if admits(schema, "array") => {
                self.list(items, &node.place, schema, key)
            }
            (value, _) => match misfit(value, schema) {
                Some(what) => {
                    self.wrong(&node.place, key, what);
                    true
                }
                None => false,
            },
        };
    }

    fn section(
        &mut self,
        inner: &mut [(Name, Node)],
        place: &Place,
        schema: &Schema,
        key: &str,
    ) -> bool {
        let mut seen = HashMap::new();
        for (name, node) in inner {
            let at = below(key, &name.text);
            let Some(known) = keys(schema).and_then(|keys| keys.get(&name.text)) else {
                self.wrong(&name.place, &at, unknown(self.schema, key, schema, &name.text));
                node.bad = true;
                continue;
            };
            if let Some(first) = seen.get(&name.text) {
                self.wrong(&name.place, &at, format!("is given twice{first}: remove one"));
                node.bad = true;
                continue;
            }
            self.node(node, known, &at);
            seen.insert(name.text.clone(), First(name.place.clone(), node.bad));
        }
        let mut whole = true;
        for name in required(schema) {
            match seen.get(name) {
                Some(First(_, bad)) => whole &= !bad,
                None => {
                    self.wrong(place, &below(key, name), "is missing, and has no default".into());
                    whole = false;
                }
            }
        }
        whole
    }

    /// Gives whether the list is bad.
    fn list(&mut self, items: &mut [Node], place: &Place, schema: &Schema, key: &str) -> bool {
        let (count, (least, most)) = (items.len() as u64, lengths(schema));
        let bound = match count {
            _ if count < least => Some(format!("at least {least}")),
            _ if count > most => Some(format!("at most {most}")),
            _ => None,
        };
        if let Some(bound) = &bound {
            self.wrong(place, key, format!("has {count} entries; give {bound}"));
        }
        for (i, item) in items.iter_mut().enumerate() {
            self.node(item, &schema["items"], &below(key, &i.to_string()));
        }
        bound.is_some()
    }
}

/// Where a key was first, and whether it was bad there.
struct First(Place, bool);

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::At { line, .. } => write!(f, ", first in line {line}"),
            Place::File | Place::Override(_) => Ok(()),
        }
    }
}

/// The key of something in a section or list.
pub(super) fn below(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

/// What is wrong with a value that is no section or list, or should not be one.
fn misfit(value: &Value, schema: &Schema) -> Option<String> {
    if let (Value::Text(text), Some(choices)) = (value, choices(schema)) {
        let known = choices.contains(&text.as_str());
        return (!known).then(|| format!("is {}; {} are allowed", Shown(value), list(&choices)));
    }
    let rule = schema.get("format").and_then(Schema::as_str);
    match value {
        Value::Null if admits(schema, "null") => None,
        Value::Bool(_) if admits(schema, "boolean") => None,
        Value::Whole(number) if admits(schema, "integer") => outside(*number, value, schema),
        Value::Text(text) if rule == Some("byte-size") => match bytes_of(text) {
            Ok(bytes) => outside(bytes.into(), value, schema),
            Err(_) => Some(format!("is {}; {} is expected", Shown(value), expected(schema))),
        },
        Value::Text(text) if admits(schema, "string") => breach(rule.unwrap_or_default(), text),
        Value::Bool(_) | Value::Whole(_) | Value::Real(_) if admits(schema, "string") => {
            Some(format!("is {}; text is expected: put it in quotes", Shown(value)))
        }
        _ => Some(format!("is {}; {} is expected", Shown(value), expected(schema))),
    }
}

/// What is wrong with a number, if anything is.
fn outside(number: i128, written: &Value, schema: &Schema) -> Option<String> {
    let (least, most) = bounds(schema);
    if (i128::from(least)..=i128::from(most)).contains(&number) {
        return None;
    }
    Some(format!(
        "is {}; {} are allowed",
        Shown(written),
        range(schema).unwrap_or_else(|| "positive numbers".into())
    ))
}

/// What a key takes, in words.
fn expected(schema: &Schema) -> String {
    match schema.get("format").and_then(Schema::as_str) {
        Some("byte-size") => return "a number of bytes, or a size such as 256KiB,".into(),
        _ if choices(schema).is_some() => return list(&choices(schema).unwrap_or_default()),
        _ => {}
    }
    let kinds = [
        ("object", "a section of keys"),
        ("array", "a list"),
        ("boolean", "true or false"),
        ("integer", "a whole number"),
        ("string", "text"),
    ];
    let kind = kinds.iter().find(|(kind, _)| admits(schema, kind));
    kind.map_or("something else", |(_, words)| words).to_owned()
}

fn list(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// A value as a message repeats it.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("empty"),
            Value::Bool(value) => value.fmt(f),
            Value::Whole(i128::MAX) => f.write_str("a huge number"),
            Value::Whole(value) => value.fmt(f),
            Value::Real(value) => value.fmt(f),
            Value::Text(text) if text.chars().count() > SHOWN => {
                let start: String = text.chars().take(SHOWN).collect();
                write!(f, "`{}…`", start.escape_debug())
            }
            Value::Text(text) => write!(f, "`{}`", text.escape_debug()),
            Value::List(_) => f.write_str("a list"),
            Value::Section(_) => f.write_str("a section of keys"),
        }
    }
}
