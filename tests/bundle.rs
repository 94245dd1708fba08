//! A bundle is written, read back and found to be what it was, where the format says.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Base, Fixture, Own, Pruned, Task};
use safetensors::{Dtype, SafeTensors};
use std::{fs, iter::repeat_n};
use synchromesh::{
    bundle::{
        ABSENT, BlockShape, Bundle, Fault, MAX_BLOCKS, MAX_HEADER_BYTES, Meta, OpenError, Subject,
        WriteError, Writer, checksum,
    },
    units::{BLOCK_ALIGN, BlockIndex, TaskIndex},
};
use tempfile::tempdir;

/// The tensor as the task sees it, put together from the file's bytes by the code under test.
fn dense(bundle: &Bundle, file: &[u8], task: TaskIndex, tensor: usize) -> Vec<u8> {
    let tensor = &bundle.tensors()[tensor];
    let mut dense = vec![0; tensor.tiling().dense_len()];
    for (place, block) in tensor.blocks_of(bundle, task).enumerate() {
        if let Some(block) = block {
            tensor.tiling().paste(block_in(bundle, file, block), place, &mut dense);
        }
    }
    dense
}

fn block_in<'f>(bundle: &Bundle, file: &'f [u8], block: BlockIndex) -> &'f [u8] {
    let offset = usize::try_from(bundle.block_offset(block)).unwrap();
    &file[offset..][..bundle.block().len()]
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("small.mesh");
    let fixture = Fixture::small();
    let written = fixture.write(&path);
    let read = Bundle::open(&path).unwrap();
    let file = fs::read(&path).unwrap();

    for bundle in [&written, &read] {
        assert_eq!(bundle.meta(), &fixture.meta());
        assert_eq!(bundle.len(), 24);
        for task in bundle.task_indices() {
            let expected = &fixture.tasks[task.index()];
            assert_eq!(bundle.find_task(expected.name), Some(task));
            let set: Vec<_> = bundle.task_blocks(task).ones().collect();
            assert_eq!(set, expected.blocks.iter().map(|&b| b as usize).collect::<Vec<_>>());
            for tensor in 0..fixture.tensors.len() {
                let expected = fixture.expected_dense(task, tensor);
                assert!(dense(bundle, &file, task, tensor) == expected, "{task:?} {tensor}");
            }
        }
        assert_eq!(bundle.find_task("unknown"), None);
        assert_eq!(bundle.diff(TaskIndex(0), TaskIndex(1)), 6);
        assert_eq!(bundle.diff(TaskIndex(1), TaskIndex(0)), 5);
    }
}

#[test]
fn base_tensors_are_read_back_aligned_in_order_and_with_their_checksums() {
    let fixture = Fixture::small();
    let file = fixture.bytes();
    let bundle = Bundle::parse(&file).unwrap();
    let base = bundle.base();
    assert_eq!(base.tensors.len(), 2);
    for ((position, expected), tensor) in (0..).zip(&fixture.base).zip(&base.tensors) {
        assert_eq!(tensor.name, expected.name);
        assert_eq!((tensor.dtype, &tensor.shape), (expected.dtype, &expected.shape));
        let [start, end] = [tensor.range.start, tensor.range.end].map(|n| base.region.start + n);
        assert!(start.is_multiple_of(BLOCK_ALIGN));
        let bytes = &file[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        assert!(bytes == fixture.base_bytes(position));
        let sum = checksum(bundle.id(), Subject::Base(position), bytes);
        assert_eq!(sum, tensor.checksum);
    }
    assert_eq!(base.tensors[1].range.end, base.region.end - base.region.start);
}

#[test]
fn block_i_lies_at_data_start_plus_i_times_block_bytes_and_is_aligned() {
    let fixture = Fixture::small();
    let file = fixture.bytes();
    let bundle = Bundle::parse(&file).unwrap();
    let data_start = 8 + u64::from_le_bytes(*file.first_chunk().unwrap());
    for block in (0..24).map(BlockIndex) {
        let offset = data_start + u64::from(block.0) * 4096;
        assert_eq!(bundle.block_offset(block), offset);
        assert!(offset.is_multiple_of(BLOCK_ALIGN));
        let bytes = block_in(&bundle, &file, block);
        assert!(bytes == fixture.block_bytes(block));
        assert!(bundle.block_matches(block, bytes));
    }
}

#[test]
fn any_safetensors_reader_opens_it() {
    let fixture = Fixture::small();
    let file = fixture.bytes();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let blocks = tensors.tensor("blocks").unwrap();
    assert_eq!(blocks.dtype(), Dtype::F32);
    assert_eq!(blocks.shape(), [24, 32, 32]);
    assert!(blocks.data()[5 * 4096..6 * 4096] == fixture.block_bytes(BlockIndex(5)));
    let embed = tensors.tensor("base/embed.weight").unwrap();
    assert_eq!(embed.shape(), [40, 32]);
    assert!(embed.data() == fixture.base_bytes(1));
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "base/embed.weight",
            "base/norm.weight",
            "blocks",
            "grid/layer.0.weight",
            "grid/layer.1.weight",
            "index/base",
            "index/checksum",
            "index/digest",
            "own/parking/layer.0.weight",
            "pad/0",
            "pad/1",
            "tasks/city",
            "tasks/highway",
            "tasks/parking",
        ]
    );
}

#[test]
fn the_same_calls_give_the_same_bytes_in_any_order_of_arrival() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("backwards.mesh");
    let fixture = Fixture::small();
    let mut writer = fixture.writer(&path).unwrap();
    for position in [1, 0] {
        writer.base(position, &fixture.base_bytes(position)).unwrap();
    }
    for block in (0..24).rev().map(BlockIndex) {
        writer.block(block, &fixture.block_bytes(block)).unwrap();
    }
    writer.finish(&fixture.tables()).unwrap();
    let backwards = fs::read(path).unwrap();
    assert!(backwards == fixture.bytes());
    assert!(backwards != Fixture { seed: 2, ..fixture }.bytes());
}

#[test]
fn a_dropped_writer_leaves_nothing_behind_and_the_target_untouched() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("small.mesh");
    fs::write(&path, b"what was there").unwrap();
    let fixture = Fixture::small();
    let mut writer = fixture.writer(&path).unwrap();
    writer.block(BlockIndex(0), &fixture.block_bytes(BlockIndex(0))).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the writer has a file of its own");
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read(&path).unwrap(), b"what was there");

    fixture.write(&path);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(fs::read(&path).unwrap() == fixture.bytes());
}

#[test]
fn tables_that_make_no_valid_bundle_leave_the_target_untouched() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("small.mesh");
    let mut fixture = Fixture::small();
    fixture.tensors[0].grid[0] = 24;
    let error = fixture.try_write(&path).unwrap_err();
    assert!(matches!(error, WriteError::Invalid(Fault::BlockIndex { block: 24, .. })), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
#[should_panic(expected = "every block and every base tensor is written")]
fn a_writer_does_not_finish_with_a_block_missing() {
    let folder = tempdir().unwrap();
    let fixture = Fixture::small();
    let writer = fixture.writer(&folder.path().join("small.mesh")).unwrap();
    let _ = writer.finish(&fixture.tables());
}

#[test]
#[should_panic(expected = "the tables have the announced sizes")]
fn a_writer_does_not_finish_with_a_table_missing() {
    let folder = tempdir().unwrap();
    let mut fixture = Fixture::small();
    let grids = fixture.grid_specs();
    fixture.own.clear();
    let path = folder.path().join("small.mesh");
    let bases = fixture.base_specs();
    let mut writer = Writer::create(&path, fixture.meta(), 24, &bases, &grids).unwrap();
    for block in (0..24).map(BlockIndex) {
        writer.block(block, &fixture.block_bytes(block)).unwrap();
    }
    (0..2).for_each(|position| writer.base(position, &fixture.base_bytes(position)).unwrap());
    let _ = writer.finish(&fixture.tables());
}

/// Checks that a writer refuses the fixture before it writes anything.
fn assert_refused_at_once(fixture: &Fixture, expected: fn(&Fault) -> bool) {
    let folder = tempdir().unwrap();
    match fixture.writer(&folder.path().join("refused.mesh")) {
        Err(WriteError::Limit(fault)) => assert!(expected(&fault), "{fault}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_writer_refuses_at_once_what_cannot_be_a_bundle() {
    let small = Fixture::small();
    let beyond = u32::try_from(MAX_BLOCKS + 1).unwrap();
    for blocks in [0, beyond] {
        let fixture = Fixture { blocks, ..small.clone() };
        assert_refused_at_once(&fixture, |f| matches!(f, Fault::Count { what: "blocks", .. }));
    }
    let fixture = Fixture { model: "a model", ..small.clone() };
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::Name { what: "model", .. }));
    let fixture = Fixture { tasks: vec![], ..small.clone() };
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::Count { what: "tasks", .. }));
    let mut fixture = small.clone();
    fixture.tasks[1].name = "city";
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::Duplicate(_)));
    let mut fixture = small.clone();
    fixture.base[1].name = "norm.weight";
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::Duplicate(_)));
    let mut fixture = small.clone();
    fixture.own = repeat_n(fixture.own[0].clone(), 2).collect();
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::Duplicate(_)));
    let mut fixture = small.clone();
    fixture.base[0].shape = vec![3, 0];
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::TensorSize(_)));
    for shape in [[0, 32], [usize::MAX, 2]] {
        let mut fixture = small.clone();
        fixture.tensors[0].shape = shape;
        assert_refused_at_once(&fixture, |f| matches!(f, Fault::TensorSize(_)));
    }
    let mut fixture = small.clone();
    fixture.tensors[0].shape = [1, isize::MAX as usize];
    fixture.block = BlockShape::new(4096, 1, Dtype::U8).unwrap();
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::TensorSize(_)));
    let mut fixture = small.clone();
    fixture.tensors[0].shape = [32 << 15, 32 << 15];
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::IndexLength(_)));
    let mut fixture = small;
    let huge = |name| Base { name, dtype: Dtype::U8, shape: vec![1 << 60] };
    fixture.base = ["a", "b", "c", "d", "e", "f", "g", "h"].map(huge).to_vec();
    assert_refused_at_once(&fixture, |f| matches!(f, Fault::TensorSize(_)));
}

#[test]
fn a_writer_refuses_at_once_another_version_and_a_header_that_is_too_long() {
    let folder = tempdir().unwrap();
    let create = |change: fn(&mut Meta)| {
        let mut meta = Fixture::small().meta();
        change(&mut meta);
        Writer::create(&folder.path().join("refused.mesh"), meta, 24, &[], &[]).unwrap_err()
    };
    let error = create(|meta| meta.format = 2);
    assert!(matches!(error, WriteError::Limit(Fault::Version(2))), "{error}");
    let error = create(|meta| {
        let most = usize::try_from(MAX_HEADER_BYTES).unwrap();
        meta.provenance.settings = "x".repeat(most);
    });
    assert!(matches!(error, WriteError::Limit(Fault::HeaderLength(_))), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn only_regular_files_are_opened() {
    let folder = tempdir().unwrap();
    let missing = Bundle::open(&folder.path().join("missing"));
    assert!(matches!(missing, Err(OpenError::Io { .. })));
    assert!(matches!(Bundle::open(folder.path()), Err(OpenError::Io { .. })));
    let fifo = folder.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(Bundle::open(&fifo), Err(OpenError::Io { .. })));
    let empty = folder.path().join("empty");
    fs::write(&empty, b"").unwrap();
    let refused = Bundle::open(&empty);
    assert!(matches!(
        refused,
        Err(OpenError::Refused { source: Fault::Truncated { len: 0, needed: 8 }, .. })
    ));
}

#[test]
fn every_block_type_and_a_bundle_without_base_or_own_grids_are_fine() {
    use Dtype::{BF16, F8_E4M3, F8_E5M2, F16, F32, I8, U8};
    for (dtype, rows) in
        [(F32, 16), (F16, 32), (BF16, 32), (I8, 64), (U8, 64), (F8_E4M3, 64), (F8_E5M2, 64)]
    {
        let fixture = Fixture {
            model: "plain",
            seed: 3,
            block: BlockShape::new(rows, 64, dtype).unwrap(),
            blocks: 2,
            tensors: vec![Pruned { name: "w", shape: [65, 3], grid: grid_of_two(rows) }],
            tasks: vec![Task { name: "t", blocks: vec![0, 1] }],
            own: vec![],
            base: vec![],
        };
        let file = fixture.bytes();
        let bundle = Bundle::parse(&file).unwrap();
        assert!(bundle.base().tensors.is_empty() && bundle.base().region.is_empty());
        assert!(dense(&bundle, &file, TaskIndex(0), 0) == fixture.expected_dense(TaskIndex(0), 0));
    }
}

/// The grid of a tensor of 65 rows and one column of blocks: two blocks, then none.
fn grid_of_two(block_rows: u32) -> Vec<u32> {
    [0, 1].into_iter().chain(repeat_n(ABSENT, 65usize.div_ceil(block_rows as usize) - 2)).collect()
}

/// The bundle that `docs/format.md` shows.
fn worked_example() -> Fixture {
    Fixture {
        model: "example",
        seed: 0,
        block: BlockShape::new(64, 64, Dtype::U8).unwrap(),
        blocks: 3,
        tensors: vec![Pruned { name: "w", shape: [100, 64], grid: vec![0, 1] }],
        tasks: vec![
            Task { name: "city", blocks: vec![0, 1] },
            Task { name: "park", blocks: vec![0, 2] },
        ],
        own: vec![Own { task: 1, tensor: 0, grid: vec![ABSENT, 2] }],
        base: vec![Base { name: "b", dtype: Dtype::F16, shape: vec![4] }],
    }
}

#[test]
fn the_worked_example_of_the_format_page_is_true() {
    let page = include_str!("../docs/format.md");
    let (_, example) = page.split_once("## Worked example").unwrap();
    let file = worked_example().bytes();
    let mut shown = 0;
    for line in example.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        let Ok(offset) = usize::from_str_radix(offset, 16) else { continue };
        let bytes = rest.split("  ").next().unwrap().split(' ');
        for (at, byte) in bytes.enumerate() {
            let byte = u8::from_str_radix(byte, 16).unwrap();
            assert_eq!(file[offset + at], byte, "at byte {:#x}: {line}", offset + at);
            shown += 1;
        }
    }
    assert!(shown > 150, "the example is found: {shown} bytes");

    let header = std::str::from_utf8(&file[8..4096]).unwrap();
    let shown: serde_json::Value = json_in(example);
    assert_eq!(serde_json::from_str::<serde_json::Value>(header).unwrap(), shown);
    assert_eq!(file.len(), 0x5052);
}

/// The first JSON block of a page.
fn json_in(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once("```json\n").unwrap();
    serde_json::from_str(rest.split_once("```").unwrap().0).unwrap()
}
