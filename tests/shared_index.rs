//! The index that a daemon shares: what is refused, and what it costs its clients.

#![allow(clippy::unwrap_used, reason = "what a test does not expect must stop it")]
#![allow(clippy::print_stdout, reason = "figures are shown to whoever asks for them")]

mod common;

use common::{Fixture, damage::Parts};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use safetensors::Dtype;
use serde_json::Value;
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{Write as _, stdin},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    process::{Command, Stdio},
    time::Instant,
};
use synchromesh::{
    bundle::{
        self, BlockShape, Bundle, BundleId, FORMAT, Fault, LayoutMeta, Meta, OpenError, Provenance,
        TaskMeta, TensorMeta,
    },
    client::AttachError,
    device::{MemoryError, SharedIndex},
    units::BlockIndex,
};
use tempfile::NamedTempFile;

const BLOCKS: usize = 1 << 20;
const TASKS: usize = 64;
/// What a client may add to its memory, whatever the model's size.
const CLIENT_KIB: u64 = 10 << 10;

fn duplicate(fd: &impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

fn share(file: &NamedTempFile) -> Result<(SharedIndex, Bundle), AttachError> {
    SharedIndex::create(file.as_file(), file.path())
}

fn attach(fd: OwnedFd) -> Result<Bundle, AttachError> {
    SharedIndex::open(fd)
}

fn file_of(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A memfd with these bytes and seals.
fn memfd(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("test", flags).unwrap();
    rustix::io::write(&fd, bytes).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// What is shared of a file: its header, and its index right behind it. What has no index stays as it
/// is.
fn image(bytes: &[u8]) -> Vec<u8> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return bytes.to_vec() };
    let (json, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let tensors: serde_json::Map<String, Value> = serde_json::from_slice(json).unwrap();
    let of_index = |name: &str| {
        ["index/", "grid/", "own/", "tasks/"].iter().any(|part| name.starts_with(part))
    };
    let of_index = tensors.iter().filter(|(name, _)| of_index(name));
    let start = of_index.map(|(_, tensor)| tensor["data_offsets"][0].as_u64().unwrap()).min();
    let index = &data[start.unwrap() as usize..];
    [&bytes[..8 + json.len()], index].concat()
}

fn assert_same(one: &Bundle, other: &Bundle) {
    assert_eq!(one.meta(), other.meta());
    assert_eq!((one.len(), one.base().bytes()), (other.len(), other.base().bytes()));
    for block in (0..one.len() as u32).map(BlockIndex) {
        assert_eq!(one.expected_checksum(block), other.expected_checksum(block));
        assert_eq!(one.block_offset(block), other.block_offset(block));
    }
    for task in one.task_indices() {
        assert_eq!(one.task_blocks(task), other.task_blocks(task));
        for (tensor, same) in one.tensors().iter().zip(other.tensors()) {
            assert!(tensor.blocks_of(one, task).eq(same.blocks_of(other, task)));
            assert!(tensor.all_blocks().eq(same.all_blocks()));
        }
    }
}

#[test]
fn daemon_and_client_read_what_the_file_says_even_after_the_file_has_changed() {
    let file = file_of(&Fixture::small().bytes());
    let copied = Bundle::open(file.path()).unwrap();
    let (shared, served) = share(&file).unwrap();
    file.as_file().set_len(0).unwrap();
    assert_same(&served, &copied);
    assert_same(&attach(duplicate(&shared)).unwrap(), &copied);
}

#[test]
fn header_and_index_are_shared_sealed_and_nothing_else_is() {
    let bytes = Fixture::small().bytes();
    let (shared, _) = share(&file_of(&bytes)).unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL | SealFlags::FUTURE_WRITE;
    assert!(fcntl_get_seals(&shared).unwrap().contains(seals));
    let shared = File::from(duplicate(&shared));
    let mut copy = vec![0; shared.metadata().unwrap().len() as usize];
    shared.read_exact_at(&mut copy, 0).unwrap();
    assert!(copy == image(&bytes));
}

#[test]
fn what_could_change_under_its_mapping_is_refused() {
    let bytes = image(&Fixture::small().bytes());
    let ordinary = OwnedFd::from(file_of(&bytes).into_file());
    let unsealed = [SealFlags::SHRINK, SealFlags::FUTURE_WRITE].map(|seal| memfd(&bytes, seal));
    for fd in unsealed.into_iter().chain([ordinary]) {
        let refused = attach(fd).unwrap_err();
        assert!(matches!(refused, AttachError::Memory(MemoryError::NotSealed("index"))));
    }
    let empty = attach(memfd(&[], SealFlags::SHRINK | SealFlags::FUTURE_WRITE)).unwrap_err();
    assert!(matches!(empty, AttachError::Memory(MemoryError::TooSmall { .. })), "{empty}");
    let whole = memfd(&bytes, SealFlags::SHRINK | SealFlags::FUTURE_WRITE);
    assert!(attach(whole).is_ok());
}

/// Why both the daemon, for a file, and a client, for what it was handed, refuse these bytes.
fn refusals(bytes: &[u8]) -> [Fault; 2] {
    let sealed = memfd(&image(bytes), SealFlags::SHRINK | SealFlags::FUTURE_WRITE);
    let both = [share(&file_of(bytes)).map(|_| ()), attach(sealed).map(|_| ())];
    both.map(|result| match result {
        Err(AttachError::Bundle(OpenError::Refused { source, .. })) => source,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_file_and_what_is_handed_out_are_refused_for_the_same_faults() {
    let cut_off = refusals(b"1234567");
    assert!(matches!(cut_off, [Fault::Truncated { .. }, Fault::Truncated { .. }]));
    let mut parts = Parts::small();
    parts.bytes("grid/layer.0.weight")[0] ^= 1;
    assert!(matches!(refusals(&parts.seal()), [Fault::Orphan(0), Fault::Orphan(0)]));
    // One byte too many or too few behind the header.
    let whole = image(&Fixture::small().bytes());
    for bytes in [[&whole[..], &[0]].concat(), whole[..whole.len() - 1].to_vec()] {
        let other = attach(memfd(&bytes, SealFlags::SHRINK | SealFlags::FUTURE_WRITE)).unwrap_err();
        let AttachError::Bundle(OpenError::Refused { source, .. }) = other else {
            panic!("{other}")
        };
        assert!(matches!(source, Fault::Truncated { .. }), "{source}");
    }
    let mut parts = Parts::small();
    parts.rename("index/digest", "pad/9");
    assert!(matches!(refusals(&parts.seal()), [Fault::Padding(_), Fault::Padding(_)]));
    let mut file = Fixture::small().bytes();
    *file.last_mut().unwrap() ^= 1;
    assert!(matches!(refusals(&file), [Fault::Digest, Fault::Digest]));
}

/// A bundle of which only header and index were ever written.
fn large() -> NamedTempFile {
    let bits = |task: usize| -> Vec<u8> {
        (0..BLOCKS / 8).map(|at| (at * 31 + task * 7) as u8 | 1).collect()
    };
    let sets: Vec<_> = (0..TASKS).map(bits).collect();
    let header = header_of_large(&sets);
    let mut index = Vec::new();
    let numbers = || 0..BLOCKS as u64;
    index.extend(numbers().flat_map(|block| (block * block).to_le_bytes()));
    index.extend(0u64.to_le_bytes());
    index.extend(numbers().flat_map(|block| (block as u32).to_le_bytes()));
    sets.iter().for_each(|set| index.extend(set));
    let digest = *blake3::Hasher::new().update(&header).update(&index).finalize().as_bytes();
    index.extend(digest);
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&header, 0).unwrap();
    let start = header.len() as u64 + BLOCKS as u64 * 4096 + 4096;
    file.as_file().write_all_at(&index, start).unwrap();
    file
}

fn header_of_large(sets: &[Vec<u8>]) -> Vec<u8> {
    let task = |(number, set): (usize, &Vec<u8>)| TaskMeta {
        name: format!("task-{number}"),
        keep: None,
        blocks: set.iter().map(|byte| u64::from(byte.count_ones())).sum(),
        retained: 1.0,
        best: 1.0,
    };
    let meta = Meta {
        format: FORMAT,
        model: "large".into(),
        bundle_id: BundleId([7; 16]),
        block: BlockShape::new(32, 32, Dtype::F32).unwrap(),
        tasks: sets.iter().enumerate().map(task).collect(),
        tensors: vec![TensorMeta { name: "w".into(), shape: [32 << 10; 2] }],
        transitions: vec![vec![0.0; TASKS]; TASKS],
        layout: LayoutMeta { groups: 1, places: BLOCKS as u64, request_bytes: 0 },
        provenance: Provenance { tool: String::new(), settings: String::new(), inputs: vec![] },
    };
    let mut tensors = vec![
        ("blocks".to_owned(), Dtype::F32, vec![BLOCKS, 32, 32]),
        ("base/b".to_owned(), Dtype::U8, vec![96]),
        ("pad/0".to_owned(), Dtype::U8, vec![4000]),
        ("index/checksum".to_owned(), Dtype::U64, vec![BLOCKS]),
        ("index/base".to_owned(), Dtype::U64, vec![1]),
        ("grid/w".to_owned(), Dtype::U32, vec![1024; 2]),
    ];
    let set = |task: &TaskMeta| (format!("tasks/{}", task.name), Dtype::U8, vec![BLOCKS / 8]);
    tensors.extend(meta.tasks.iter().map(set));
    tensors.push(("index/digest".to_owned(), Dtype::U8, vec![blake3::OUT_LEN]));
    let about = HashMap::from([("synchromesh".to_owned(), serde_json::to_string(&meta).unwrap())]);
    bundle::header(Some(about), bundle::lay_out(tensors).unwrap()).unwrap()
}

/// What the process alone has in memory, and what of it is in no file, in KiB.
#[derive(Debug)]
struct Memory {
    private: u64,
    anonymous: u64,
}

impl Memory {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let private = value("Private_Clean:") + value("Private_Dirty:");
        Self { private, anonymous: value("Anonymous:") }
    }
}

#[test]
fn a_client_adds_little_to_its_memory_and_nothing_to_the_index() {
    let file = large();
    let since = Instant::now();
    let (shared, served) = share(&file).unwrap();
    println!("served after {:?}", since.elapsed());
    assert_eq!(served.len(), BLOCKS);
    let bytes = || fstat(&shared).unwrap().st_blocks.cast_unsigned() * 512;
    let before = bytes();
    println!("the index takes {before} bytes");
    assert!(before < 24 << 20, "{before}");
    let grown = rustix::fs::fallocate(&shared, rustix::fs::FallocateFlags::empty(), 0, 1 << 30);
    assert!(grown.is_err(), "beyond its end there is nothing to be had");
    let mut client = Command::new(std::env::current_exe().unwrap());
    client.args(["--exact", "attaching_client", "--ignored", "--nocapture"]);
    let output = client.stdin(Stdio::from(duplicate(&shared))).output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bytes(), before, "nothing that a client does makes it grow");
}

#[test]
#[ignore = "the client's side of another test, in a process of its own"]
fn attaching_client() {
    let before = Memory::now();
    let since = Instant::now();
    let bundle = attach(duplicate(&stdin())).unwrap();
    let attached = since.elapsed();
    let placed = bundle.task_indices().map(|task| bundle.tensors()[0].blocks_of(&bundle, task));
    let placed = placed.map(|blocks| blocks.flatten().count() as u64).sum::<u64>();
    let meta = bundle.meta().tasks.iter().map(|task| task.blocks).sum::<u64>();
    assert_eq!(placed, meta);
    let after = Memory::now();
    println!("before {before:?}, attached in {attached:?}, after {after:?}, in KiB");
    assert!(after.private.saturating_sub(before.private) < CLIENT_KIB);
    assert!(after.anonymous.saturating_sub(before.anonymous) < CLIENT_KIB);
}
