//! Whatever bytes come, a bundle is refused or is whole: parsing never panics.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Fixture, damage::Parts};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;
use synchromesh::bundle::Bundle;

static PARTS: LazyLock<Parts> = LazyLock::new(Parts::small);
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| Fixture::small().bytes());

/// Goes through all that a bundle says, as its users would.
fn explore(bundle: &Bundle, file: &[u8]) {
    for task in bundle.task_indices() {
        for other in bundle.task_indices() {
            assert!(bundle.diff(task, other) <= bundle.len());
        }
        for tensor in bundle.tensors() {
            let blocks: Vec<_> = tensor.blocks_of(bundle, task).collect();
            assert_eq!(blocks.len(), tensor.tiling().places());
            for block in blocks.into_iter().flatten() {
                assert!(bundle.task_blocks(task).contains(block.index()));
                let offset = usize::try_from(bundle.block_offset(block)).unwrap();
                bundle.block_matches(block, &file[offset..][..bundle.block().len()]);
            }
        }
    }
    let base = bundle.base();
    for tensor in &base.tensors {
        assert!(base.region.start + tensor.range.end <= base.region.end);
    }
    assert!(base.region.end <= file.len() as u64);
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Overwrite(usize, Vec<u8>),
    Move(usize, usize, usize),
    Cut(usize, usize),
    Truncate(usize),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let at = || prop_oneof![3 => 0..4096_usize, 1 => any::<usize>()];
        prop_oneof![
            (at(), 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            (at(), prop::collection::vec(any::<u8>(), 1..16))
                .prop_map(|(a, b)| Self::Overwrite(a, b)),
            (at(), at(), 1..200_usize).prop_map(|(from, to, len)| Self::Move(from, to, len)),
            (at(), 1..200_usize).prop_map(|(at, len)| Self::Cut(at, len)),
            at().prop_map(Self::Truncate),
        ]
    }

    fn apply(&self, file: &mut Vec<u8>) {
        let len = file.len();
        let within = |at: usize, n: usize| at % len..(at % len + n).min(len);
        match self {
            _ if len == 0 => {}
            Self::Flip(at, bit) => file[at % len] ^= 1 << bit,
            Self::Overwrite(at, bytes) => {
                let range = within(*at, bytes.len());
                let bytes = &bytes[..range.len()];
                file[range].copy_from_slice(bytes);
            }
            Self::Move(from, to, n) => {
                let bytes = file[within(*from, *n)].to_vec();
                file.splice(to % len..to % len, bytes);
            }
            Self::Cut(at, n) => drop(file.drain(within(*at, *n))),
            Self::Truncate(at) => file.truncate(at % len),
        }
    }
}

/// The places of all values in a document that hold no others.
fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            leaves(value, format!("{path}/{key}"), found);
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, value)| leaves(value, format!("{path}/{i}"), found)),
        _ => found.push(path),
    }
}

fn any_leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0..130_u64).prop_map(|n| json!(n)),
        (0..64_u32).prop_map(|bit| json!(1_u64 << bit)),
        any::<u64>().prop_map(|n| json!(n)),
        prop::sample::select(vec![
            json!(null),
            json!(-1),
            json!(0.5),
            json!([]),
            json!("F16"),
            json!("U8"),
            json!("city"),
            json!("layer.1.weight"),
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_never_panic(damages in prop::collection::vec(Damage::any(), 1..6)) {
        let mut file = FILE.clone();
        damages.iter().for_each(|damage| damage.apply(&mut file));
        if let Ok(bundle) = Bundle::parse(&file) {
            explore(&bundle, &file);
        }
    }

    #[test]
    fn damage_that_was_signed_never_panics(
        edits in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any_leaf()), 0..4),
        index in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut parts = PARTS.clone();
        for (meta, which, value) in edits {
            let part = if meta { &mut parts.meta } else { &mut parts.header };
            let mut places = Vec::new();
            leaves(part, String::new(), &mut places);
            *part.pointer_mut(&places[which.index(places.len())]).unwrap() = value;
        }
        let start = PARTS.range("index/checksum").start;
        for (which, value) in index {
            let len = parts.data.len();
            parts.data[start + which.index(len - start)] = value;
        }
        if !parts.header["__metadata__"].is_object() {
            parts.header["__metadata__"] = json!({});
        }
        let file = parts.seal();
        if let Ok(bundle) = Bundle::parse(&file) {
            explore(&bundle, &file);
        }
    }

    #[test]
    fn random_bytes_are_refused(len in 0..200_u64, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Bundle::parse(&tail).is_err());
        prop_assert!(Bundle::parse(&[&len.to_le_bytes()[..], &tail].concat()).is_err());
    }
}
