//! The file as a tree of values that know where they stand, before any of it has a meaning.
//!
//! `serde_yaml` says what the values are, and `marks` where. Keys that are given twice are both here.

use super::{
    error::{Place, Problem},
    marks::Mark,
};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::{cell::Cell, fmt};

/// Most values that a file may have once its aliases are followed.
const MAX_VALUES: usize = 100_000;
/// Most brackets: the parser takes seconds for some tens of thousands that are never closed.
const MAX_BRACKETS: usize = 10_000;

/// A value.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it stands.
    pub(super) place: Place,
    /// Whether it cannot be used, and has been told to be so.
    pub(super) bad: bool,
    /// What it is.
    pub(super) value: Value,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Whole(i128),
    Real(f64),
    Text(String),
    List(Vec<Node>),
    Section(Vec<(Name, Node)>),
}

/// A key as it is written.
#[derive(Clone, Debug)]
pub(super) struct Name {
    /// Where it stands.
    pub(super) place: Place,
    pub(super) text: String,
}

impl Node {
    /// A value that was put in from this place.
    pub(super) fn new(value: Value, place: Place) -> Self {
        Self { place, bad: false, value }
    }

    /// Reads a text. The only problem is one of syntax.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        // The parser takes a text without a document for one that was cut off.
        if text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#')) {
            return Ok(Self::new(Value::Null, Place::File));
        }
        if text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).nth(MAX_BRACKETS).is_some() {
            let what = format!("has more than {MAX_BRACKETS} brackets");
            return Err(Problem { place: Place::File, key: String::new(), what });
        }
        let left = Cell::new(MAX_VALUES);
        let read = Seed(&left).deserialize(serde_yaml::Deserializer::from_str(text));
        let mut node = read.map_err(|error| syntax(text, &error))?;
        node.stand(Mark::of(text).as_ref(), &Place::File);
        Ok(node)
    }

    /// Takes places over. What has none of its own, as where an alias stands for it, has that of
    /// what it is in.
    pub(super) fn stand(&mut self, mark: Option<&Mark>, around: &Place) {
        let place = mark.map_or(around, |mark| &mark.place).clone();
        let marks = mark.map_or(&[][..], |mark| &mark.inner);
        match &mut self.value {
            Value::List(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    item.stand(marks.get(i), &place);
                }
            }
            Value::Section(keys) => {
                for (i, (name, node)) in keys.iter_mut().enumerate() {
                    name.place = marks.get(2 * i).map_or(&place, |mark| &mark.place).clone();
                    node.stand(marks.get(2 * i + 1), &name.place);
                    if matches!(node.value, Value::Null) {
                        // A value that was left out stands wherever the parser noticed it.
                        node.place = name.place.clone();
                    }
                }
            }
            _ => {}
        }
        self.place = place;
    }

    /// What stands at a key, such as `models.0.bundle`.
    pub(super) fn find(&self, key: &str) -> Option<&Self> {
        key.split('.').try_fold(self, |node, step| match &node.value {
            Value::List(items) => items.get(step.parse::<usize>().ok()?),
            Value::Section(keys) => Some(&keys.iter().find(|(name, _)| name.text == step)?.1),
            _ => None,
        })
    }

    /// Without what is bad.
    pub(super) fn sound(&self) -> serde_yaml::Value {
        use serde_yaml::Value as Yaml;
        match &self.value {
            Value::Null => Yaml::Null,
            Value::Bool(value) => (*value).into(),
            Value::Whole(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => value.into(),
                (_, Ok(value)) => value.into(),
                _ => Yaml::Null,
            },
            Value::Real(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().filter(|item| !item.bad).map(Self::sound).collect(),
            Value::Section(keys) => {
                let sound = keys.iter().filter(|(_, node)| !node.bad);
                let pairs = sound.map(|(name, node)| (name.text.as_str().into(), node.sound()));
                Yaml::Mapping(pairs.collect())
            }
        }
    }
}

/// An error of the YAML parser.
fn syntax(text: &str, error: &serde_yaml::Error) -> Problem {
    let mut what = format!("cannot be read as YAML: {error}");
    let place = error.location().map_or(Place::File, |at| {
        let line = text.lines().nth(at.line().saturating_sub(1)).unwrap_or_default();
        if line.trim_start_matches(' ').starts_with('\t') {
            what.push_str("; the line begins with a tab, which YAML does not allow: use spaces");
        }
        Place::At { line: at.line(), column: at.column() }
    });
    Problem { place, key: String::new(), what }
}

/// Reads a value, and counts down how many there may still be.
#[derive(Clone, Copy)]
struct Seed<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        let left = self.0.get().checked_sub(1);
        self.0
            .set(left.ok_or_else(|| de::Error::custom(format!("more than {MAX_VALUES} values")))?);
        from.deserialize_any(self).map(|value| Node::new(value, Place::File))
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        // No key takes numbers as large as that.
        Ok(Value::Whole(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Real(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = from.next_key_seed(self)? {
            let text = match key.value {
                Value::Text(text) => text,
                Value::Null => "null".into(),
                Value::Bool(value) => value.to_string(),
                Value::Whole(value) => value.to_string(),
                Value::Real(value) => value.to_string(),
                Value::List(_) | Value::Section(_) => {
                    return Err(de::Error::custom("a list or mapping where a key is expected"));
                }
            };
            let name = Name { place: Place::File, text };
            keys.push((name, from.next_value_seed(self)?));
        }
        Ok(Value::Section(keys))
    }
}
