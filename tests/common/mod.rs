//! Bundles for tests, whose every byte can be computed again from the fixture.
//!
//! What is expected is worked out element by element, not by the code under test.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a fixture that fails must stop the test")]

pub(crate) mod calls;
pub(crate) mod daemon;
pub(crate) mod damage;
pub(crate) mod faulty;
pub(crate) mod figures;
pub(crate) mod http;
pub(crate) mod seqpacket;
pub(crate) mod systemd;

use fixedbitset::FixedBitSet;
use safetensors::Dtype;
use std::{
    collections::HashSet,
    io::Write as _,
    ops::Range,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use synchromesh::{
    bundle::{
        ABSENT, BaseSpec, BlockShape, Bundle, BundleId, FORMAT, GridSpec, InputDigest, LayoutMeta,
        Meta, Provenance, Tables, TaskMeta, TensorMeta, WriteError, Writer,
    },
    storage::{Resources, Unavailable, Uring},
    units::{BlockIndex, TaskIndex},
};

/// Longer than anything takes that is waited for.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Whether something comes to hold.
pub(crate) fn soon(mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + HANG;
    while Instant::now() < until {
        if holds() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Whether the kernel refuses io_uring here, as many containers have it do. Then its tests are
/// skipped, and say so past what the test harness captures.
pub(crate) fn io_uring_is_refused() -> bool {
    let refused = Uring::start(1, Resources::default(), Arc::new(|_| {})).err();
    if let Some(Unavailable::SetUp(_)) = &refused {
        let told = format!("skipped: io_uring cannot be used here: {}", refused.unwrap());
        let _ = writeln!(std::io::stderr(), "{told}");
        return true;
    }
    false
}

/// A bundle to be written: change the fields as a test needs.
#[derive(Clone, Debug)]
pub(crate) struct Fixture {
    /// The model's name; with `seed`, it decides the content and the bundle id.
    pub(crate) model: &'static str,
    /// Decides the content and the bundle id.
    pub(crate) seed: u64,
    /// The shape of a block.
    pub(crate) block: BlockShape,
    /// Number of blocks; `tensors` and `own` must place each.
    pub(crate) blocks: u32,
    /// The tensors that are cut into blocks.
    pub(crate) tensors: Vec<Pruned>,
    /// The tasks.
    pub(crate) tasks: Vec<Task>,
    /// Grids that override a tensor's grid for one task.
    pub(crate) own: Vec<Own>,
    /// The base tensors.
    pub(crate) base: Vec<Base>,
}

/// A tensor that is cut into blocks.
#[derive(Clone, Debug)]
pub(crate) struct Pruned {
    /// Its name.
    pub(crate) name: &'static str,
    /// Rows and columns.
    pub(crate) shape: [usize; 2],
    /// The block at each place.
    pub(crate) grid: Vec<u32>,
}

/// A task.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its set of blocks.
    pub(crate) blocks: Vec<u32>,
}

/// A grid that overrides a tensor's grid for one task.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    /// The task, by position.
    pub(crate) task: u32,
    /// The tensor, by position.
    pub(crate) tensor: usize,
    /// The task's own block at each place, or [`ABSENT`].
    pub(crate) grid: Vec<u32>,
}

/// A base tensor.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its element type.
    pub(crate) dtype: Dtype,
    /// Its shape.
    pub(crate) shape: Vec<usize>,
}

impl Fixture {
    /// 24 blocks of 32 x 32 F32 (4096 bytes) in two tensors, one with edges; three tasks that
    /// overlap, of which `parking` has three blocks of its own; two base tensors. Block 16 is at
    /// two places, and some places have no block.
    pub(crate) fn small() -> Self {
        let mut own = vec![ABSENT; 12];
        (own[1], own[7], own[11]) = (21, 22, 23);
        Self {
            model: "small",
            seed: 1,
            block: BlockShape::new(32, 32, Dtype::F32).unwrap(),
            blocks: 24,
            tensors: vec![
                Pruned {
                    name: "layer.0.weight",
                    shape: [96, 128],
                    grid: vec![0, 1, 2, 3, 4, 5, 6, ABSENT, 7, 8, 9, 10],
                },
                Pruned {
                    name: "layer.1.weight",
                    shape: [70, 100],
                    grid: vec![11, 12, 13, 14, 15, 16, 16, 17, 18, ABSENT, 19, 20],
                },
            ],
            tasks: vec![
                Task { name: "city", blocks: (0..15).collect() },
                Task { name: "highway", blocks: (5..21).collect() },
                Task {
                    name: "parking",
                    blocks: vec![0, 2, 3, 4, 8, 9, 12, 15, 16, 19, 21, 22, 23],
                },
            ],
            own: vec![Own { task: 2, tensor: 0, grid: own }],
            base: vec![
                Base { name: "norm.weight", dtype: Dtype::F32, shape: vec![100] },
                Base { name: "embed.weight", dtype: Dtype::F32, shape: vec![40, 32] },
            ],
        }
    }

    /// So many blocks of 4096 bytes, of which all of eight tasks share twelve twentieths, and each
    /// has a twentieth of its own; and one base tensor of as many bytes as a twentieth.
    pub(crate) fn wide(blocks: u32) -> Self {
        let of_part = |parts: Range<u32>| parts.start * blocks / 20..parts.end * blocks / 20;
        let task = |(own, name): (u32, &'static str)| Task {
            name,
            blocks: of_part(0..12).chain(of_part(12 + own..13 + own)).collect(),
        };
        let names = ["city", "fog", "highway", "night", "parking", "rain", "rural", "tunnel"];
        let shape = [32, 32 * blocks as usize];
        Self {
            model: "wide",
            seed: 1,
            block: BlockShape::new(32, 32, Dtype::F32).unwrap(),
            blocks,
            tensors: vec![Pruned { name: "weight", shape, grid: (0..blocks).collect() }],
            tasks: (0..).zip(names).map(task).collect(),
            own: Vec::new(),
            base: vec![Base {
                name: "embed.weight",
                dtype: Dtype::F32,
                shape: vec![blocks as usize / 20, 1024],
            }],
        }
    }

    /// The bundle id.
    pub(crate) fn id(&self) -> BundleId {
        let mut id = [0; 16];
        self.fill("id", 0, &mut id);
        BundleId(id)
    }

    /// The bytes of a block; what lies outside its tensor is zero.
    pub(crate) fn block_bytes(&self, block: BlockIndex) -> Vec<u8> {
        let mut bytes = vec![0; self.block.len()];
        self.fill("block", block.0, &mut bytes);
        let element = self.block.element_bytes();
        for (tensor, place) in self.places_of(block) {
            let origin = self.origin(tensor, place);
            for (at, bytes) in bytes.chunks_exact_mut(element).enumerate() {
                let row = origin[0] + at / self.block.cols();
                let col = origin[1] + at % self.block.cols();
                if row >= tensor.shape[0] || col >= tensor.shape[1] {
                    bytes.fill(0);
                }
            }
        }
        bytes
    }

    /// The bytes of a base tensor.
    pub(crate) fn base_bytes(&self, position: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.base[position as usize].len()];
        self.fill("base", position, &mut bytes);
        bytes
    }

    /// A tensor as the task sees it: its blocks where it has them, zeros elsewhere.
    pub(crate) fn expected_dense(&self, task: TaskIndex, tensor: usize) -> Vec<u8> {
        let set = &self.tasks[task.index()].blocks;
        let own = self.own.iter().find(|own| own.task == task.0 && own.tensor == tensor);
        let tensor = &self.tensors[tensor];
        let element = self.block.element_bytes();
        let mut dense = vec![0; tensor.shape[0] * tensor.shape[1] * element];
        for (place, &shared) in tensor.grid.iter().enumerate() {
            let own = own.map(|own| own.grid[place]).filter(|&block| block != ABSENT);
            let block = own.unwrap_or(shared);
            if !set.contains(&block) {
                continue;
            }
            let origin = self.origin(tensor, place);
            let bytes = self.block_bytes(BlockIndex(block));
            for (at, bytes) in bytes.chunks_exact(element).enumerate() {
                let row = origin[0] + at / self.block.cols();
                let col = origin[1] + at % self.block.cols();
                if row < tensor.shape[0] && col < tensor.shape[1] {
                    let to = (row * tensor.shape[1] + col) * element;
                    dense[to..to + element].copy_from_slice(bytes);
                }
            }
        }
        dense
    }

    /// What the bundle says of itself.
    pub(crate) fn meta(&self) -> Meta {
        let task = |task: &Task| TaskMeta {
            name: task.name.into(),
            keep: Some(0.5),
            blocks: task.blocks.len() as u64,
            retained: 0.875,
            best: 0.9375,
        };
        let tensor = |tensor: &Pruned| TensorMeta {
            name: tensor.name.into(),
            shape: tensor.shape.map(|n| n as u64),
        };
        Meta {
            format: FORMAT,
            model: self.model.into(),
            bundle_id: self.id(),
            block: self.block,
            tasks: self.tasks.iter().map(task).collect(),
            tensors: self.tensors.iter().map(tensor).collect(),
            transitions: self.transitions(),
            layout: self.layout(),
            provenance: Provenance {
                tool: "fixture 1".into(),
                settings: "{}".into(),
                inputs: vec![InputDigest { role: "weights".into(), blake3: "00".repeat(32) }],
            },
        }
    }

    /// Every switch is equally likely.
    fn transitions(&self) -> Vec<Vec<f64>> {
        let tasks = self.tasks.len();
        let share = |from, to| if from == to { 0.0 } else { 1.0 / (tasks * (tasks - 1)) as f64 };
        (0..tasks).map(|from| (0..tasks).map(|to| share(from, to)).collect()).collect()
    }

    fn layout(&self) -> LayoutMeta {
        let owners = |block| self.tasks.iter().map(move |task| task.blocks.contains(&block));
        let groups: HashSet<Vec<bool>> = (0..self.blocks).map(|b| owners(b).collect()).collect();
        let grids = self.tensors.iter().map(|tensor| &tensor.grid);
        let grids = grids.chain(self.own.iter().map(|own| &own.grid));
        let places = grids.flatten().filter(|&&block| block != ABSENT).count();
        let (groups, places) = (groups.len() as u64, places as u64);
        LayoutMeta { groups, places, request_bytes: 12_000 }
    }

    /// The base tensors as the writer wants them announced.
    pub(crate) fn base_specs(&self) -> Vec<BaseSpec> {
        let spec = |base: &Base| BaseSpec {
            name: base.name.into(),
            dtype: base.dtype,
            shape: base.shape.clone(),
            bytes: base.len() as u64,
        };
        self.base.iter().map(spec).collect()
    }

    /// The overriding grids as the writer wants them announced.
    pub(crate) fn grid_specs(&self) -> Vec<GridSpec> {
        let spec = |own: &Own| GridSpec { tensor: own.tensor, task: TaskIndex(own.task) };
        self.own.iter().map(spec).collect()
    }

    /// The tables that the writer takes at the end.
    pub(crate) fn tables(&self) -> Tables {
        let set = |task: &Task| {
            let mut set = FixedBitSet::with_capacity(self.blocks as usize);
            set.extend(task.blocks.iter().map(|&block| block as usize));
            set
        };
        Tables {
            grids: self.tensors.iter().map(|tensor| tensor.grid.clone()).collect(),
            own: self.own.iter().map(|own| own.grid.clone()).collect(),
            tasks: self.tasks.iter().map(set).collect(),
        }
    }

    /// Starts to write: the header is in the file, blocks and base are not.
    pub(crate) fn writer(&self, target: &Path) -> Result<Writer, WriteError> {
        Writer::create(target, self.meta(), self.blocks, &self.base_specs(), &self.grid_specs())
    }

    /// Writes the bundle, or says why it cannot be.
    pub(crate) fn try_write(&self, target: &Path) -> Result<Bundle, WriteError> {
        let mut writer = self.writer(target)?;
        for block in (0..self.blocks).map(BlockIndex) {
            writer.block(block, &self.block_bytes(block))?;
        }
        for (position, _) in (0..).zip(&self.base) {
            writer.base(position, &self.base_bytes(position))?;
        }
        writer.finish(&self.tables())
    }

    /// Writes the bundle.
    pub(crate) fn write(&self, target: &Path) -> Bundle {
        self.try_write(target).unwrap()
    }

    /// The bytes of the bundle's file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fixture.mesh");
        self.write(&path);
        std::fs::read(path).unwrap()
    }

    /// The places that hold a block.
    fn places_of(&self, block: BlockIndex) -> impl Iterator<Item = (&Pruned, usize)> {
        let shared = self.tensors.iter().map(|tensor| (tensor, &tensor.grid));
        let own = self.own.iter().map(|own| (&self.tensors[own.tensor], &own.grid));
        shared.chain(own).flat_map(move |(tensor, grid)| {
            let here = move |&(_, at): &(usize, &u32)| *at == block.0;
            grid.iter().enumerate().filter(here).map(move |(place, _)| (tensor, place))
        })
    }

    /// The first row and column of a place.
    fn origin(&self, tensor: &Pruned, place: usize) -> [usize; 2] {
        let grid_cols = tensor.shape[1].div_ceil(self.block.cols());
        [place / grid_cols * self.block.rows(), place % grid_cols * self.block.cols()]
    }

    fn fill(&self, what: &str, number: u32, bytes: &mut [u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.model.as_bytes()).update(&self.seed.to_le_bytes());
        hasher.update(what.as_bytes()).update(&number.to_le_bytes());
        hasher.finalize_xof().fill(bytes);
    }
}

impl Base {
    fn len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}
