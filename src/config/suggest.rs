//! What to say of a key that there is not: which one was probably meant.

use super::{
    check::below,
    schema::{keys, walk},
};
use serde_json::Value;

/// What is wrong with `name`, which the section at `key` does not have, and what to do.
pub(super) fn unknown(root: &Value, key: &str, section: &Value, name: &str) -> String {
    let known: Vec<_> =
        keys(section).into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let distance = |other: &str| strsim::osa_distance(name, other);
    let near = known.iter().copied().min_by_key(|other| distance(other));
    let near = near.filter(|other| distance(other) <= 1 + name.chars().count() / 4);
    if let Some(meant) = near.map(|near| below(key, near)).or_else(|| elsewhere(root, name)) {
        return format!("is no key: did you mean `{meant}`?");
    }
    match known.as_slice() {
        [] => "is no key: nothing is below the one before".into(),
        known => format!("is no key: known here are {}", known.join(", ")),
    }
}

/// A key of that name in another section.
fn elsewhere(root: &Value, name: &str) -> Option<String> {
    let mut all = Vec::new();
    walk(root, "", &mut all);
    all.into_iter().find(|key| key.rsplit('.').next() == Some(name))
}
