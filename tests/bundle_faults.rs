//! Damaged and hostile bundles are refused, each for its own reason: the faults B1 to B19.
//!
//! Damage that a rule beyond the digest must find is signed again, so that only this rule is left
//! to refuse it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{
    Fixture,
    damage::{Parts, data_start, framed, seal, sign},
};
use safetensors::{Dtype, SafeTensorError};
use serde_json::{Value, json};
use std::{fs::File, os::unix::fs::FileExt as _};
use synchromesh::{
    bundle::{
        ABSENT, Bundle, FORMAT, Fault, MAX_BLOCKS, MAX_HEADER_BYTES, MAX_INDEX_BYTES, MAX_TASKS,
        OpenError, Subject, checksum,
    },
    units::BlockIndex,
};

fn refused(file: &[u8]) -> Fault {
    Bundle::parse(file).unwrap_err()
}

#[track_caller]
fn assert_header_error(fault: &Fault, part: &str) {
    let text = fault.to_string();
    assert!(matches!(fault, Fault::Safetensors(_)) && text.contains(part), "{text}");
}

macro_rules! assert_fault {
    ($fault:expr, $pattern:pat $(if $guard:expr)?) => {{
        let fault = $fault;
        assert!(matches!(&fault, $pattern $(if $guard)?), "refused for another reason: {fault:?}");
    }};
}

#[test]
fn the_helper_seals_what_is_accepted() {
    let parts = Parts::small();
    assert_eq!(Bundle::parse(&parts.seal()).unwrap().len(), 24);
    let mut parts = parts;
    parts.header["__metadata__"]["note"] = json!("other entries are not ours");
    let bytes = parts.remove("tasks/city");
    parts.insert(parts.range("tasks/highway").start, "tasks/city", &bytes);
    assert_eq!(Bundle::parse(&parts.seal()).unwrap().len(), 24);
}

#[test]
fn b01_bad_magic() {
    assert_fault!(refused(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"), Fault::HeaderLength(_));
    assert_fault!(refused(b"GGUF\x03\0\0\0"), Fault::HeaderLength(_));
    assert_fault!(refused(b"\x80\x02\0\0\0\0\0\0"), Fault::Truncated { len: 8, .. });
    assert_header_error(&refused(&framed("not json at all")), "invalid JSON");
    let plain = r#"{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    let with = |file: Vec<u8>| [file, vec![1, 2, 3, 4]].concat();
    assert_fault!(refused(&with(framed(plain))), Fault::NotABundle);
    let other = plain.replacen('{', r#"{"__metadata__":{"format":"pt"},"#, 1);
    assert_fault!(refused(&with(framed(&other))), Fault::NotABundle);
    assert_fault!(refused(&framed("{}")), Fault::NotABundle);
}

#[test]
fn b02_other_version() {
    for version in [0, u64::from(FORMAT) + 1, u64::MAX] {
        let mut parts = Parts::small();
        parts.meta["format"] = json!(version);
        // A version to come may have other metadata; it is still told from damage.
        parts.meta["new"] = json!("field");
        assert_fault!(parts.fault(), Fault::Version(found) if *found == version);
    }
    for version in [json!(-1), json!(1.0), json!("1"), json!(null)] {
        let mut parts = Parts::small();
        parts.meta["format"] = version;
        assert_fault!(parts.fault(), Fault::Metadata(_));
    }
}

#[test]
fn b03_truncated() {
    let file = Fixture::small().bytes();
    let start = data_start(&file);
    let index = start + Parts::small().range("index/checksum").start;
    for cut in 0..start {
        let needed = if cut < 8 { 8 } else { start };
        assert_fault!(
            refused(&file[..cut]),
            Fault::Truncated { len, needed: n } if (*len, *n) == (cut as u64, needed as u64)
        );
    }
    let data = (start..index).step_by(509);
    for cut in data.chain(index..file.len()) {
        let [all, left] = [file.len() - start, cut - start].map(|n| n as u64);
        assert_fault!(
            refused(&file[..cut]),
            Fault::DataLength { claimed, found } if (*claimed, *found) == (all, left)
        );
    }
}

#[test]
fn b04_header_length_beyond_cap_or_file() {
    let mut file = Fixture::small().bytes();
    for length in [MAX_HEADER_BYTES + 1, 1 << 63, u64::MAX - 8, u64::MAX] {
        file[..8].copy_from_slice(&length.to_le_bytes());
        assert_fault!(refused(&file), Fault::HeaderLength(found) if *found == length);
    }
    let beyond = file.len() as u64 - 8 + 1;
    for length in [beyond, MAX_HEADER_BYTES] {
        file[..8].copy_from_slice(&length.to_le_bytes());
        assert_fault!(refused(&file), Fault::Truncated { needed, .. } if *needed == length + 8);
    }
}

#[test]
fn b05_bad_encoding() {
    let parts = Parts::small();
    let text = parts.text();

    let mut file = parts.seal();
    let at = 8 + text.find("blocks").unwrap();
    file[at] = 0xff;
    assert_fault!(refused(&file), Fault::Safetensors(SafeTensorError::InvalidHeader(_)));

    let garbage = ["x", "{}", "\0", "\u{feff}", ",", "]"];
    for trailing in garbage {
        let fault = refused(&seal(&format!("{text}{trailing}"), &parts.data));
        assert_header_error(&fault, "invalid JSON");
    }
    for leading in ["\u{feff}", "[", "{"] {
        let fault = refused(&seal(&format!("{leading}{text}"), &parts.data));
        assert_header_error(&fault, "invalid JSON");
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_header_error(&refused(&framed(&nested)), "invalid JSON");
    let nested = format!(r#"{{"blocks":{nested}}}"#);
    assert_header_error(&refused(&framed(&nested)), "recursion limit");

    for meta in ["", "null", "{", "{} x", r#"{"format":1}"#, r#"{"format":1} "#] {
        let mut header = parts.header.clone();
        header["__metadata__"]["synchromesh"] = json!(meta);
        let fault = refused(&seal(&header.to_string(), &parts.data));
        assert_fault!(fault, Fault::Metadata(_));
    }
    let mut unknown = parts.clone();
    unknown.meta["tasks"][0]["colour"] = json!("red");
    assert_fault!(unknown.fault(), Fault::Metadata(_));
    for id in ["", "00", &"0".repeat(31), &"G".repeat(32), &"A".repeat(32), &"é".repeat(16)] {
        let mut parts = parts.clone();
        parts.meta["bundle_id"] = json!(id);
        assert_fault!(parts.fault(), Fault::Metadata(_));
    }
}

#[test]
fn b06_huge_or_zero_counts() {
    for count in [u64::MAX, 1 << 61, 25, 0] {
        let mut parts = Parts::small();
        parts.set_shape("blocks", json!([count, 32, 32]));
        let reason = if count > 1 << 48 { "overflow" } else { "invalid shape" };
        assert_header_error(&parts.fault(), reason);
    }
    for (count, expected) in [(0, "has another"), (25, "has another"), (u64::MAX, "has another")] {
        let mut parts = Parts::small();
        parts.meta["tasks"][0]["blocks"] = json!(count);
        assert_fault!(
            parts.fault(),
            Fault::Task { task, problem } if task == "city" && problem.starts_with(expected)
        );
    }
    for count in [0, MAX_TASKS + 1] {
        let mut parts = Parts::small();
        let task = parts.meta["tasks"][0].take();
        parts.meta["tasks"] = json!(vec![task; count]);
        assert_fault!(
            parts.fault(),
            Fault::Count { what: "tasks", count: found, .. } if *found == count as u64
        );
    }
}

#[test]
fn transitions_that_are_no_shares_of_switches() {
    for rows in [
        json!([]),
        json!([[0.0]]),
        json!([[0.5, 0.5], [0.5, 0.0]]),
        json!([[0.0, 1.5], [0.5, 0.0]]),
        json!([[0.0, -0.5], [0.5, 0.0]]),
    ] {
        let mut parts = Parts::small();
        parts.meta["tasks"].as_array_mut().unwrap().truncate(2);
        parts.meta["transitions"] = rows;
        assert_fault!(parts.fault(), Fault::Transitions { tasks: 2 });
    }
}

/// A sparse file with a header that is right and a digest, but with as many blocks or as long an
/// index as no bundle may have.
fn sparse(blocks: u64, checksums: u32) -> Fault {
    let mut parts = Parts::small();
    parts.meta["tensors"] = json!([]);
    parts.meta["tasks"].as_array_mut().unwrap().truncate(1);
    parts.meta["transitions"] = json!([[0.0]]);
    let tensor = |dtype: &str, shape: Value, from: u64, bytes: u64| json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, from + bytes] });
    let table = u64::from(checksums) * 8;
    let [index, digest] = [blocks * 4096, blocks * 4096 + table];
    parts.header = json!({
        "__metadata__": {},
        "blocks": tensor("F32", json!([blocks, 32, 32]), 0, index),
        "index/checksum": tensor("U64", json!([checksums]), index, table),
        "index/digest": tensor("U8", json!([32]), digest, 32),
    });
    let header = framed(&parts.text());
    let file = tempfile::NamedTempFile::new().unwrap();
    let end = header.len() as u64 + digest;
    file.as_file().set_len(end + 32).unwrap();
    file.as_file().write_all_at(&header, 0).unwrap();
    if checksums < 2 {
        let zeros = vec![0; checksums as usize * 8];
        let hash = blake3::hash(&[header, zeros].concat());
        file.as_file().write_all_at(hash.as_bytes(), end).unwrap();
    }
    match Bundle::from_file(&File::open(file.path()).unwrap(), file.path()) {
        Err(OpenError::Refused { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn b06_counts_that_only_a_sparse_file_can_hold() {
    let most = u32::try_from(MAX_INDEX_BYTES / 8).unwrap();
    assert_fault!(sparse(1, most + 1), Fault::IndexLength(len) if *len == MAX_INDEX_BYTES + 8);
    assert_fault!(sparse(0, 1), Fault::Count { what: "blocks", count: 0, .. });
    assert_fault!(
        sparse(MAX_BLOCKS + 1, 0),
        Fault::Count { what: "blocks", count, limit: MAX_BLOCKS } if *count == MAX_BLOCKS + 1
    );
}

#[test]
fn b07_offset_and_length_overflow() {
    for offsets in [
        json!([u64::MAX - 4095, u64::MAX]),
        json!([u64::MAX, 0]),
        json!([1, 0]),
        json!([0, u64::MAX]),
    ] {
        let mut parts = Parts::small();
        parts.header["index/digest"]["data_offsets"] = offsets;
        assert_header_error(&parts.fault(), "invalid offset");
    }
    for offsets in [json!([0, 18_446_744_073_709_551_616.0]), json!([-1, 4]), json!([0])] {
        let mut parts = Parts::small();
        parts.header["index/digest"]["data_offsets"] = offsets;
        assert_header_error(&parts.fault(), "invalid JSON");
    }
    // Each length is possible, and only their sum with the header's overflows.
    let mut parts = Parts::small();
    let mut end = parts.data.len();
    let most = usize::MAX / 8;
    for i in 0.. {
        let bytes = most.min(usize::MAX - end);
        if bytes == 0 {
            break;
        }
        parts.header[format!("pad/x{i}")] =
            json!({ "dtype": "U8", "shape": [bytes], "data_offsets": [end, end + bytes] });
        end += bytes;
    }
    assert_fault!(parts.fault(), Fault::DataLength { claimed: u64::MAX, .. });
}

#[test]
fn b08_offset_past_the_end() {
    let mut parts = Parts::small();
    let digest = parts.range("index/digest");
    parts.set_offsets("index/digest", digest.start..digest.end + 4096);
    parts.set_shape("index/digest", json!([32 + 4096]));
    let claimed = digest.end as u64 + 4096;
    assert_fault!(parts.fault(), Fault::DataLength { claimed: c, .. } if *c == claimed);

    let mut parts = Parts::small();
    let tasks = parts.range("tasks/parking");
    parts.set_offsets("tasks/parking", tasks.start + (1 << 40)..tasks.end + (1 << 40));
    assert_header_error(&parts.fault(), "invalid offset");
}

#[test]
fn b09_misaligned() {
    let parts = Parts::small();
    for extra in [1, 13, 512, 4095] {
        let mut header = framed(&parts.text());
        header.resize(header.len() + extra, b' ');
        let len = header.len() as u64 - 8;
        header[..8].copy_from_slice(&len.to_le_bytes());
        assert_fault!(
            refused(&sign(header, &parts.data)),
            Fault::Misaligned { what, offset } if what == "the data" && *offset == len + 8
        );
    }
    let bare = [&(parts.text().len() as u64).to_le_bytes(), parts.text().as_bytes()].concat();
    assert_fault!(refused(&sign(bare, &parts.data)), Fault::Misaligned { .. });

    // Without padding, the second base tensor follows right behind the first.
    let mut misaligned = parts.clone();
    misaligned.remove("pad/0");
    misaligned.remove("pad/1");
    assert_fault!(
        misaligned.fault(),
        Fault::Misaligned { what, .. } if what.contains("base/embed.weight")
    );

    for (rows, cols) in [(0, 32), (1, 1), (13, 1), (33, 32), (32, 31)] {
        let mut parts = parts.clone();
        (parts.meta["block"]["rows"], parts.meta["block"]["cols"]) = (json!(rows), json!(cols));
        assert_fault!(parts.fault(), Fault::BlockShape(_));
    }
}

#[test]
fn b10_overlapping() {
    let mut parts = Parts::small();
    let [city, highway] = ["tasks/city", "tasks/highway"].map(|name| parts.range(name));
    parts.set_offsets("tasks/highway", city.clone());
    assert_header_error(&parts.fault(), "invalid offset");
    parts.set_offsets("tasks/highway", city.end - 1..highway.end - 1);
    assert_header_error(&parts.fault(), "invalid offset");
    parts.set_offsets("tasks/highway", highway);
    parts.set_offsets("index/digest", 0..32);
    assert_header_error(&parts.fault(), "invalid offset");
}

#[test]
fn b11_holes_trailing_bytes_and_hidden_padding() {
    let small = Parts::small();
    let digest = small.range("index/digest");

    for extra in [1, 32, 4096] {
        let mut parts = small.clone();
        parts.data.resize(digest.end + extra, 0);
        assert_fault!(parts.fault(), Fault::DataLength { .. });
    }
    let mut hole = small.clone();
    hole.header.as_object_mut().unwrap().remove("pad/1");
    assert_header_error(&hole.fault(), "invalid offset");
    let mut first = small.clone();
    first.insert(0, "pad/x", &[0; 4096]);
    first.header.as_object_mut().unwrap().remove("pad/x");
    assert_header_error(&first.fault(), "invalid offset");

    // Declared, and yet no more than a hole: before the blocks, among them and the base, of no
    // length, and longer than needed.
    for (at, len) in [(0, 4096), (0, 0), (24 * 4096, 4096), (24 * 4096, 0), (24 * 4096 + 400, 8)] {
        let mut parts = small.clone();
        parts.insert(at, "pad/x", &vec![0; len]);
        assert_fault!(parts.fault(), Fault::Padding(name) if name == "pad/x");
    }
    let mut long = small.clone();
    let pad = long.range("pad/1");
    long.insert(pad.end, "pad/x", &[0; 4096]);
    long.remove("pad/1");
    long.insert(pad.start, "pad/1", &vec![0; pad.len()]);
    assert_fault!(long.fault(), Fault::Padding(name) if name == "pad/x");
    let mut full = small.clone();
    full.bytes("pad/1")[0] = 1;
    assert_fault!(full.fault(), Fault::Padding(name) if name == "pad/1");

    // Behind the digest, nothing.
    let mut after = small.clone();
    after.insert(digest.end, "pad/x", &vec![0; 4096 - digest.end % 4096]);
    assert_fault!(after.fault(), Fault::OutOfOrder(name) if name == "index/digest");
}

#[test]
fn b11_sections_out_of_order() {
    let moved = |name: &str, at: usize| {
        let mut parts = Parts::small();
        let info = parts.header[name].clone();
        let bytes = parts.remove(name);
        parts.insert(at, name, &bytes);
        (parts.header[name]["dtype"], parts.header[name]["shape"]) =
            (info["dtype"].clone(), info["shape"].clone());
        parts.fault()
    };
    let small = Parts::small();
    let base = small.range("base/norm.weight").start;
    let digest = small.range("index/digest");
    assert_fault!(moved("tasks/city", 0), Fault::OutOfOrder(name) if name == "blocks");
    assert_fault!(moved("tasks/city", base), Fault::OutOfOrder(name) if name == "base/norm.weight");
    assert_fault!(moved("tasks/city", digest.end - 3), Fault::OutOfOrder(name) if name == "tasks/city");
    assert_fault!(
        moved("index/digest", small.range("tasks/city").start),
        Fault::OutOfOrder(name) if name == "tasks/city"
    );
}

#[test]
fn b12_duplicates() {
    let parts = Parts::small();
    let text = parts.text();
    let twice = |key: &str, value: &str, into: &str| {
        let json = text.replacen(into, &format!("{into}{key}:{value},"), 1);
        assert_ne!(json, text);
        refused(&seal(&json, &parts.data))
    };
    let tensor = parts.header["tasks/city"].to_string();
    assert_fault!(twice("\"tasks/city\"", &tensor, "{"), Fault::Duplicate(k) if k == "tasks/city");
    // The same key, spelt otherwise.
    assert_fault!(
        twice("\"t\\u0061sks/city\"", &tensor, "{"),
        Fault::Duplicate(key) if key == "tasks/city"
    );
    assert_fault!(twice("\"__metadata__\"", "{}", "{"), Fault::Duplicate(k) if k == "__metadata__");
    assert_fault!(
        twice("\"synchromesh\"", "\"{}\"", "\"__metadata__\":{"),
        Fault::Duplicate(key) if key == "synchromesh"
    );
    assert_header_error(&twice("\"dtype\"", "\"U8\"", "\"tasks/city\":{"), "duplicate field");

    for key in ["\"format\":1", "\"model\":\"other\""] {
        let mut header = parts.header.clone();
        let meta = parts.meta.to_string().replacen('{', &format!("{{{key},"), 1);
        header["__metadata__"]["synchromesh"] = json!(meta);
        let fault = refused(&seal(&header.to_string(), &parts.data));
        assert_fault!(&fault, Fault::Metadata(why) if why.to_string().contains("duplicate"));
    }

    let mut tasks = parts.clone();
    tasks.meta["tasks"][1]["name"] = json!("city");
    assert_fault!(tasks.fault(), Fault::Duplicate(name) if name == "tasks/city");
    let mut tensors = parts.clone();
    tensors.meta["tensors"][1]["name"] = json!("layer.0.weight");
    assert_fault!(tensors.fault(), Fault::Duplicate(name) if name == "grid/layer.0.weight");
    let mut both = parts.clone();
    both.rename("base/norm.weight", "base/layer.0.weight");
    assert_fault!(both.fault(), Fault::Duplicate(name) if name == "layer.0.weight");
}

#[test]
fn b13_shapes_that_disagree() {
    let small = Parts::small();
    for shape in [json!([0, 128]), json!([u64::MAX, 2]), json!([1_u64 << 62, 1])] {
        let mut parts = small.clone();
        parts.meta["tensors"][0]["shape"] = shape;
        assert_fault!(parts.fault(), Fault::TensorSize(name) if name == "layer.0.weight");
    }
    for shape in [json!([97, 128]), json!([96, 129]), json!([64, 128]), json!([128, 96])] {
        let mut parts = small.clone();
        parts.meta["tensors"][0]["shape"] = shape;
        assert_fault!(
            parts.fault(),
            Fault::TensorShape { name, .. } if name == "grid/layer.0.weight"
        );
    }
    for shape in [json!([96]), json!([96, 128, 1]), json!([-1, 128]), json!(["96", 128])] {
        let mut parts = small.clone();
        parts.meta["tensors"][0]["shape"] = shape;
        assert_fault!(parts.fault(), Fault::Metadata(_));
    }
    for (name, shape) in [
        ("index/checksum", json!([12, 2])),
        ("index/base", json!([1, 2])),
        ("index/digest", json!([4, 8])),
        ("grid/layer.1.weight", json!([4, 3])),
        ("own/parking/layer.0.weight", json!([12])),
        ("tasks/highway", json!([1, 3])),
        ("blocks", json!([12, 64, 32])),
        ("blocks", json!([24, 1024])),
    ] {
        let mut parts = small.clone();
        parts.set_shape(name, shape);
        assert_fault!(parts.fault(), Fault::TensorShape { name: found, .. } if found == name);
    }
    for (name, dtype) in [
        ("index/checksum", "I64"),
        ("index/base", "F64"),
        ("index/digest", "I8"),
        ("grid/layer.1.weight", "F32"),
        ("own/parking/layer.0.weight", "I32"),
        ("tasks/highway", "BOOL"),
        ("blocks", "I32"),
    ] {
        let mut parts = small.clone();
        parts.header[name]["dtype"] = json!(dtype);
        assert_fault!(parts.fault(), Fault::TensorShape { name: found, .. } if found == name);
    }
    for shape in [json!([101]), json!([25, 5]), json!([0]), json!([])] {
        let mut parts = small.clone();
        parts.set_shape("base/norm.weight", shape);
        assert_header_error(&parts.fault(), "invalid shape");
    }
    // A base tensor without elements, which is all right for safetensors.
    let mut parts = small.clone();
    parts.header["base/empty"] =
        json!({ "dtype": "F32", "shape": [0, 7], "data_offsets": [24 * 4096, 24 * 4096] });
    parts.insert(parts.range("index/base").end, "grow", &[0; 8]);
    parts.header.as_object_mut().unwrap().remove("grow");
    let base = parts.range("index/base");
    parts.set_offsets("index/base", base.start..base.end + 8);
    parts.set_shape("index/base", json!([3]));
    assert_fault!(parts.fault(), Fault::TensorSize(name) if name == "empty");

    let mut scalar = Fixture::small();
    scalar.base[0].shape = vec![];
    assert_eq!(Bundle::parse(&scalar.bytes()).unwrap().base().tensors[0].range, 0..4);
}

#[test]
fn b14_unknown_types_and_tensors() {
    let small = Parts::small();
    for dtype in [json!("F33"), json!(""), json!(7), json!(null)] {
        let mut parts = small.clone();
        parts.header["blocks"]["dtype"] = dtype.clone();
        assert_header_error(&parts.fault(), "invalid JSON");
        let mut parts = small.clone();
        parts.meta["block"]["dtype"] = dtype;
        assert_fault!(parts.fault(), Fault::Metadata(_));
    }
    for dtype in [Dtype::BOOL, Dtype::F4, Dtype::I32, Dtype::I64, Dtype::F64, Dtype::F8_E8M0] {
        let mut parts = small.clone();
        parts.meta["block"]["dtype"] = json!(dtype);
        assert_fault!(parts.fault(), Fault::BlockShape(_));
    }
    for name in ["stray", "index/more", "pads/1", "base/", "grid/", "own/", "tasks/", "pad/", ""] {
        let mut parts = small.clone();
        parts.insert(parts.range("index/digest").start, name, &[1; 4]);
        assert_fault!(parts.fault(), Fault::Unexpected(found) if found == name);
    }
    for name in ["tasks/nobody", "grid/stray", "grid/layer.0.weight/"] {
        let mut parts = small.clone();
        parts.insert(parts.range("index/digest").start, name, &[1; 4]);
        assert_fault!(parts.fault(), Fault::Unexpected(found) if found == name);
    }
    for name in ["base/\u{1b}[2J", "base/a\nb", "base/\u{85}"] {
        let mut parts = small.clone();
        parts.rename("base/norm.weight", name);
        let fault = parts.fault();
        assert!(!fault.to_string().contains(char::is_control), "{fault}");
        assert_fault!(fault, Fault::Unexpected(found) if found == name);
    }
    // Odd, but harmless.
    let mut parts = small;
    parts.rename("base/norm.weight", "base/нормы/../\"x\"");
    assert_eq!(Bundle::parse(&parts.seal()).unwrap().base().tensors[0].name, "нормы/../\"x\"");
}

#[test]
fn b15_block_larger_than_allowed_or_than_the_blocks_are() {
    for (rows, cols) in [(4096, 4096), (u32::MAX, u32::MAX), (2048, 2049)] {
        let mut parts = Parts::small();
        (parts.meta["block"]["rows"], parts.meta["block"]["cols"]) = (json!(rows), json!(cols));
        assert_fault!(parts.fault(), Fault::BlockShape(_));
    }
    for (rows, cols) in [(64, 32), (32, 64), (16, 64), (2048, 2048)] {
        let mut parts = Parts::small();
        (parts.meta["block"]["rows"], parts.meta["block"]["cols"]) = (json!(rows), json!(cols));
        assert_fault!(parts.fault(), Fault::TensorShape { name, .. } if name == "blocks");
    }
}

#[test]
fn b16_references_that_lead_nowhere() {
    let small = Parts::small();
    let own = "own/parking/layer.0.weight";

    let mut without_grid = small.clone();
    without_grid.remove("grid/layer.0.weight");
    assert_fault!(without_grid.fault(), Fault::Missing(n) if n == "grid/layer.0.weight");
    let mut unknown = small.clone();
    unknown.meta["tensors"].as_array_mut().unwrap().remove(0);
    unknown.remove("grid/layer.0.weight");
    assert_fault!(unknown.fault(), Fault::Unexpected(name) if name == own);
    for name in ["own/nobody/layer.0.weight", "own/parking/w", "own/parking", "own//x"] {
        let mut parts = small.clone();
        parts.rename(own, name);
        assert_fault!(parts.fault(), Fault::Unexpected(found) if found == name);
    }

    for block in [24_u32, 25, ABSENT - 1] {
        for name in ["grid/layer.1.weight", own] {
            let mut parts = small.clone();
            parts.bytes(name)[..4].copy_from_slice(&block.to_le_bytes());
            assert_fault!(
                parts.fault(),
                Fault::BlockIndex { name: n, block: b, blocks: 24 } if (n.as_str(), *b) == (name, block)
            );
        }
    }
    // Block 1 exists, but `parking` does not have it.
    let mut outside = small.clone();
    outside.bytes(own)[..4].copy_from_slice(&1_u32.to_le_bytes());
    assert_fault!(outside.fault(), Fault::OwnBlock { name, block: 1 } if name == own);

    let mut orphan = small.clone();
    orphan.bytes("grid/layer.0.weight")[..4].copy_from_slice(&ABSENT.to_le_bytes());
    assert_fault!(orphan.fault(), Fault::Orphan(0));

    for name in ["blocks", "index/checksum", "index/base", "index/digest", "tasks/city"] {
        let mut parts = small.clone();
        parts.remove(name);
        assert_fault!(parts.fault(), Fault::Missing(found) if found == name);
    }
    let mut no_index = small;
    let names: Vec<_> = no_index.header.as_object().unwrap().keys().cloned().collect();
    for name in names.iter().filter(|n| ["i", "g", "o", "t"].iter().any(|p| n.starts_with(p))) {
        if name != "index/digest" {
            no_index.remove(name);
        }
    }
    assert_fault!(no_index.fault(), Fault::Missing(name) if name == "index/checksum");
}

#[test]
fn b16_task_sets_that_disagree() {
    let mut parts = Parts::small();
    parts.bytes("tasks/city").fill(0);
    parts.meta["tasks"][0]["blocks"] = json!(0);
    assert_fault!(parts.fault(), Fault::Task { problem: "has no blocks", .. });
    let mut parts = Parts::small();
    parts.bytes("tasks/city")[2] |= 1 << 7;
    assert_fault!(parts.fault(), Fault::Task { task, problem } if task == "city" && problem.starts_with("has another"));

    // With 21 blocks, three bits of the last byte stand for none.
    let mut fixture = Fixture::small();
    fixture.own.clear();
    fixture.blocks = 21;
    fixture.tasks[2].blocks.retain(|&block| block < 21);
    let small = Parts::of(&fixture);
    for bit in 5..8 {
        let mut parts = small.clone();
        parts.bytes("tasks/highway")[2] |= 1 << bit;
        assert_fault!(
            parts.fault(),
            Fault::Task { task, problem } if task == "highway" && problem.contains("past the last")
        );
    }
}

#[test]
fn names_and_shares_out_of_bounds() {
    let long = "x".repeat(65);
    for name in ["", "a b", "a/b", "ü", "\n", &long] {
        let mut parts = Parts::small();
        parts.meta["model"] = json!(name);
        assert_fault!(parts.fault(), Fault::Name { what: "model", name: n } if n == name);
        let mut parts = Parts::small();
        parts.meta["tasks"][1]["name"] = json!(name);
        assert_fault!(parts.fault(), Fault::Name { what: "task", name: n } if n == name);
    }
    for field in ["keep", "retained", "best"] {
        for share in [-0.1, 1.1, f64::MAX] {
            let mut parts = Parts::small();
            parts.meta["tasks"][1][field] = json!(share);
            assert_fault!(
                parts.fault(),
                Fault::Task { task, problem: "has a share beyond 0 to 1" } if task == "highway"
            );
        }
    }
    let mut parts = Parts::small();
    parts.meta["tasks"][1]["keep"] = json!(null);
    assert_eq!(Bundle::parse(&parts.seal()).unwrap().task_indices().count(), 3);
    parts.meta["tasks"][1]["best"] = json!(null);
    assert_fault!(parts.fault(), Fault::Metadata(_));
}

/// Which blocks of the file are not what the index says.
fn bad_blocks(file: &[u8]) -> Vec<u32> {
    let bundle = Bundle::parse(file).unwrap();
    let bytes = |block| &file[usize::try_from(bundle.block_offset(block)).unwrap()..][..4096];
    (0..24).filter(|&i| !bundle.block_matches(BlockIndex(i), bytes(BlockIndex(i)))).collect()
}

/// Which base tensors of the file are not what the index says.
fn bad_bases(file: &[u8]) -> Vec<u32> {
    let bundle = Bundle::parse(file).unwrap();
    let base = bundle.base();
    let numbered = (0..).zip(&base.tensors);
    let bad = numbered.filter(|(position, tensor)| {
        let [start, end] = [tensor.range.start, tensor.range.end]
            .map(|n| usize::try_from(base.region.start + n).unwrap());
        checksum(bundle.id(), Subject::Base(*position), &file[start..end]) != tensor.checksum
    });
    bad.map(|(position, _)| position).collect()
}

#[test]
fn b17_any_bit_of_the_header_flipped() {
    let mut file = Fixture::small().bytes();
    for at in 0..data_start(&file) {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            assert!(Bundle::parse(&file).is_err(), "byte {at} bit {bit}");
            file[at] ^= 1 << bit;
        }
    }
    assert!(Bundle::parse(&file).is_ok());
}

#[test]
fn b17_any_bit_of_the_index_flipped() {
    let mut file = Fixture::small().bytes();
    let index = data_start(&file) + Parts::small().range("index/checksum").start;
    for at in index..file.len() {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            assert_fault!(refused(&file), Fault::Digest);
            file[at] ^= 1 << bit;
        }
    }
}

#[test]
fn b17_bits_of_blocks_flipped_are_found_in_that_block_alone() {
    let mut file = Fixture::small().bytes();
    let start = data_start(&file);
    assert!(bad_blocks(&file).is_empty());
    let mut random = fastrand::Rng::with_seed(17);
    for block in 0..24_u32 {
        for at in [0, 4095, random.usize(..4096), random.usize(..4096)] {
            let at = start + block as usize * 4096 + at;
            let bit = random.u8(..8);
            file[at] ^= 1 << bit;
            assert_eq!(bad_blocks(&file), [block], "byte {at} bit {bit}");
            file[at] ^= 1 << bit;
        }
    }
}

#[test]
fn b17_bits_of_base_and_padding_flipped() {
    let parts = Parts::small();
    let mut file = Fixture::small().bytes();
    let start = data_start(&file);
    assert!(bad_bases(&file).is_empty());
    for (position, name) in [(0, "base/norm.weight"), (1, "base/embed.weight")] {
        for at in parts.range(name).step_by(57) {
            file[start + at] ^= 1 << (at % 8);
            assert_eq!(bad_bases(&file), [position]);
            assert!(bad_blocks(&file).is_empty());
            file[start + at] ^= 1 << (at % 8);
        }
    }
    for pad in ["pad/0", "pad/1"] {
        for at in parts.range(pad) {
            file[start + at] ^= 1 << (at % 8);
            assert_fault!(refused(&file), Fault::Padding(name) if name == pad);
            file[start + at] ^= 1 << (at % 8);
        }
    }
}

#[test]
fn b18_two_valid_blocks_swapped() {
    let file = Fixture::small().bytes();
    let start = data_start(&file);
    for (one, other) in [(0, 1), (3, 20), (22, 23)] {
        let mut file = file.clone();
        let (left, right) = file.split_at_mut(start + other * 4096);
        left[start + one * 4096..][..4096].swap_with_slice(&mut right[..4096]);
        assert_eq!(bad_blocks(&file), [one, other].map(|block| u32::try_from(block).unwrap()));
    }

    // Even together with their checksums: those are bound to the place.
    let mut parts = Parts::small();
    for (name, item) in [("blocks", 4096), ("index/checksum", 8)] {
        let (left, right) = parts.bytes(name).split_at_mut(item);
        left.swap_with_slice(&mut right[..item]);
    }
    assert_eq!(bad_blocks(&parts.seal()), [0, 1]);
}

#[test]
fn b19_a_block_of_another_bundle() {
    let [mut file, other] =
        [1, 2].map(|seed| Fixture { seed, ..Fixture::small() }).map(|fixture| fixture.bytes());
    let at = data_start(&file) + 7 * 4096;
    file[at..at + 4096].copy_from_slice(&other[at..at + 4096]);
    assert_eq!(bad_blocks(&file), [7]);

    // The same blocks and sums under another id: every sum is bound to the id.
    let mut parts = Parts::small();
    parts.meta["bundle_id"] = json!("0123456789abcdef".repeat(2));
    assert_eq!(bad_blocks(&parts.seal()).len(), 24);
    assert_eq!(bad_bases(&parts.seal()), [0, 1]);
}
