//! The JSON Schema of the configuration, made of the types in `raw`: for editors, and for `check`,
//! which enforces it.
//!
//! Each description ends with the range and the unit, as editors show no more than that.

use super::{raw::RawConfig, value::shown_bytes};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The schema.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let generator = settings.into_generator();
    let mut schema = generator.into_root_schema_for::<RawConfig>().to_value();
    schema["title"] = "Synchromesh".into();
    finish(&mut schema);
    schema
}

/// Brings descriptions into one line with the range, and drops defaults of whole sections and of
/// what must be given.
fn finish(schema: &mut Value) {
    if bounds(schema).1 == u64::MAX {
        // Not a bound, and more than most readers of JSON can tell from the next number.
        schema.as_object_mut().and_then(|schema| schema.remove("maximum"));
    }
    let each = || Some(format!("each {}", range(schema.get("items")?)?));
    let range = range(schema).or_else(each);
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
        if let Some(range) = range {
            description.push_str(&format!(" {}{}.", range[..1].to_uppercase(), &range[1..]));
        }
    }
    let required: Vec<_> = required(schema).map(str::to_owned).collect();
    let keys = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, key) in keys.into_iter().flatten() {
        finish(key);
        let needed = required.contains(name);
        if needed && let Some(Value::String(description)) = key.get_mut("description") {
            description.push_str(" Required.");
        }
        if let Some(key) = key.as_object_mut()
            && (needed || key.contains_key("properties"))
        {
            key.remove("default");
        }
    }
    if let Some(items) = schema.get_mut("items") {
        finish(items);
    }
}

/// The keys of a section.
pub(super) fn keys(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

/// Those that must be given.
pub(super) fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The texts that are allowed, if only some are.
pub(super) fn choices(schema: &Value) -> Option<Vec<&str>> {
    let texts = |field: &str| Some(schema.get(field)?.as_array()?.iter());
    let one_of = || Some(texts("oneOf")?.filter_map(|choice| choice.get("const")?.as_str()));
    one_of()
        .map(Iterator::collect)
        .or_else(|| Some(texts("enum")?.filter_map(Value::as_str).collect()))
}

/// Whether a value may be of this type.
pub(super) fn admits(schema: &Value, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(only)) => only == kind,
        Some(Value::Array(kinds)) => kinds.iter().any(|one| one == kind),
        _ => false,
    }
}

/// Least and largest number that is allowed.
pub(super) fn bounds(schema: &Value) -> (u64, u64) {
    let bound = |field: &str| schema.get(field).and_then(Value::as_u64);
    (bound("minimum").unwrap_or(0), bound("maximum").unwrap_or(u64::MAX))
}

/// Least and largest number of entries that a list may have.
pub(super) fn lengths(schema: &Value) -> (u64, u64) {
    let length = |field: &str| schema.get(field).and_then(Value::as_u64);
    (length("minItems").unwrap_or(0), length("maxItems").unwrap_or(u64::MAX))
}

/// The range of a number in words, such as `1 to 3600000 milliseconds`.
pub(super) fn range(schema: &Value) -> Option<String> {
    schema.get("minimum")?;
    let (least, most) = bounds(schema);
    let unit = schema.get("x-unit").and_then(Value::as_str);
    let number = |number| match unit {
        Some("bytes") => shown_bytes(number),
        _ => number.to_string(),
    };
    let (least, most) = (number(least), (most != u64::MAX).then(|| number(most)));
    let words =
        most.map_or_else(|| format!("at least {least}"), |most| format!("{least} to {most}"));
    Some(match unit {
        Some(unit) if !words.ends_with('B') => format!("{words} {unit}"),
        _ => words,
    })
}

/// Every key as `--set` takes it; a list's items go by `0`.
pub(super) fn walk(schema: &Value, at: &str, found: &mut Vec<String>) {
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    for (name, key) in keys(schema).into_iter().flatten() {
        found.push(below(name));
        walk(key, &below(name), found);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &below("0"), found);
    }
}
