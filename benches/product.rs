//! What a product with blocks in place costs: against reading the same bytes, and against the dense
//! product of a well-kept library. One thread.
//!
//! The matrices are those of some layers of a transformer with a billion weights, so many that no
//! cache holds them; a round passes once over all of them, as a model does for a token. The ways
//! take turns, round by round, so that what else the machine does falls on all of them.
//!
//! `cargo bench --bench product -- [--json] [--rounds N] [--layers N]`

#![allow(clippy::unwrap_used, reason = "what a benchmark does not expect must stop it")]
#![allow(clippy::print_stdout, reason = "it reports")]

use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};
use safetensors::Dtype;
use serde_json::json;
use std::{hint::black_box, time::Instant};
use synchromesh::{
    bundle::{BlockShape, Tiling},
    client::{ProductError, product},
};
use zerocopy::FromBytes;

/// Rows and columns of a layer's matrices: queries and output, gate and up, down.
const LAYER: [[u64; 2]; 5] = [[2048, 2048], [2048, 2048], [5632, 2048], [5632, 2048], [2048, 5632]];
const BLOCK: u32 = 64;
const KEEP: f64 = 0.5;
const BATCHES: [usize; 2] = [1, 16];
const DTYPES: [Dtype; 3] = [Dtype::BF16, Dtype::F16, Dtype::F32];
const PAGE: usize = 4096;

/// What the command line says.
struct Options {
    json: bool,
    rounds: usize,
    layers: usize,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self { json: false, rounds: 15, layers: 4 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number = || words.next().unwrap().parse().unwrap();
            match word.as_str() {
                "--json" => options.json = true,
                "--rounds" => options.rounds = number(),
                "--layers" => options.layers = number(),
                "--bench" => {}
                other => panic!("unknown: {other}"),
            }
        }
        options
    }
}

/// The blocks that a task keeps of some layers, in slots of one piece of memory.
struct Sparse {
    memory: Vec<u8>,
    /// Where the first slot begins: at a page.
    start: usize,
    tensors: Vec<Tensor>,
}

struct Tensor {
    tiling: Tiling,
    /// Place in the grid and slot.
    blocks: Vec<(usize, usize)>,
}

impl Sparse {
    fn new(dtype: Dtype, layers: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let block = BlockShape::new(BLOCK, BLOCK, dtype).unwrap();
        let mut slots = 0;
        let mut tensor = |shape: [u64; 2]| {
            let tiling = Tiling::new(shape, block).unwrap();
            let places = (0..tiling.places()).filter(|_| random.f64() < KEEP);
            Tensor { tiling, blocks: places.zip(slots..).inspect(|_| slots += 1).collect() }
        };
        let tensors = (0..layers).flat_map(|_| LAYER).map(&mut tensor).collect();
        let mut memory = vec![0; slots * block.len() + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        let elements = memory[start..].chunks_exact_mut(block.element_bytes());
        elements.for_each(|element| write(dtype, random.f32() - 0.5, element));
        Self { memory, start, tensors }
    }

    fn blocks<'a>(
        &'a self,
        tensor: &'a Tensor,
    ) -> impl Iterator<Item = Result<(usize, &'a [u8]), ProductError>> + 'a {
        let len = tensor.tiling.block().len();
        let slots = &self.memory[self.start..];
        tensor.blocks.iter().map(move |&(place, slot)| Ok((place, &slots[slot * len..][..len])))
    }

    fn bytes(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.blocks.len() * tensor.tiling.block().len()).sum()
    }

    fn dtype(&self) -> Dtype {
        self.tensors[0].tiling.block().dtype()
    }

    /// A tensor with zeros where it has no block, of elements `T` that are its own.
    fn dense<T: FromBytes + Copy>(&self, tensor: &Tensor, order: Order) -> Vec<T> {
        let mut dense = vec![0; tensor.tiling.dense_len()];
        for (place, bytes) in self.blocks(tensor).map(Result::unwrap) {
            tensor.tiling.paste(bytes, place, &mut dense);
        }
        let elements = dense.chunks_exact(size_of::<T>());
        let elements: Vec<_> = elements.map(|bytes| T::read_from_bytes(bytes).unwrap()).collect();
        let [rows, columns] = tensor.tiling.shape();
        match order {
            Order::Rows => elements,
            Order::Columns => {
                (0..elements.len()).map(|at| elements[at % rows * columns + at / rows]).collect()
            }
        }
    }

    /// The product with as much of `x` as the tensor has columns for.
    fn product(&self, tensor: &Tensor, x: &[f32], batch: usize) -> Vec<f32> {
        let [rows, columns] = tensor.tiling.shape();
        let mut y = vec![0.0; batch * rows];
        product(&tensor.tiling, self.blocks(tensor), &x[..batch * columns], batch, &mut y).unwrap();
        y
    }
}

fn write(dtype: Dtype, value: f32, to: &mut [u8]) {
    match dtype {
        Dtype::BF16 => to.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        Dtype::F16 => to.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        _ => to.copy_from_slice(&value.to_le_bytes()),
    }
}

/// The sum of the words, as fast as they can be read.
struct Sum<'a>(&'a [u64]);

impl WithSimd for Sum<'_> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> u64 {
        let (vectors, rest) = S::as_simd_u64s(self.0);
        assert!(rest.is_empty());
        let mut sums = [simd.splat_u64s(0); 8];
        for vectors in vectors.chunks_exact(sums.len()) {
            for (sum, &vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.add_u64s(*sum, vector);
            }
        }
        let sum = sums.into_iter().reduce(|a, b| simd.add_u64s(a, b)).unwrap();
        let mut lanes = [0; 8];
        simd.partial_store_u64s(&mut lanes, sum);
        lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
    }
}

/// How dense weights lie.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Row by row, as the blocks' do.
    Rows,
    /// Column by column: as the library likes them best, but as no checkpoint has them.
    Columns,
}

/// y = x · Wᵀ by the library, with dense weights; `x` and `y` row by row.
#[expect(unsafe_code, reason = "the library takes pointers")]
#[rustfmt::skip]
fn library<T: 'static>(
    weights: &[T], order: Order, x: &[T], [zero, one]: [T; 2], y: &mut [T], batch: usize,
) {
    let (rows, columns) = (y.len() / batch, x.len() / batch);
    assert_eq!([weights.len(), x.len(), y.len()], [rows * columns, batch * columns, batch * rows]);
    let (y_row, x_row) = (rows as isize, columns as isize);
    let (w_row, w_column) = match order {
        Order::Rows => (x_row, 1),
        Order::Columns => (1, y_row),
    };
    // SAFETY: the lengths that were just compared are those that the strides reach to.
    unsafe {
        gemm::gemm(
            batch, rows, columns, y.as_mut_ptr(), 1, y_row, false, x.as_ptr(), 1, x_row,
            weights.as_ptr(), w_row, w_column, zero, one, false, false, false,
            gemm::Parallelism::None,
        );
    }
}

/// Inputs for the widest matrix.
fn inputs(batch: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(2);
    let widest = LAYER.iter().map(|shape| shape[1]).max().unwrap();
    (0..batch * widest as usize).map(|_| random.f32() - 0.5).collect()
}

/// A way to pass over all matrices once.
struct Way<'a> {
    name: String,
    /// Bytes of weights that it reads.
    bytes: usize,
    pass: Box<dyn FnMut() + 'a>,
    seconds: Vec<f64>,
}

impl<'a> Way<'a> {
    fn new(name: String, bytes: usize, pass: impl FnMut() + 'a) -> Self {
        Self { name, bytes, pass: Box::new(pass), seconds: Vec::new() }
    }

    fn blocks(sparse: &'a Sparse, batch: usize) -> Self {
        let x = inputs(batch);
        let name = format!("{:?} blocks", sparse.dtype()).to_lowercase();
        Self::new(name, sparse.bytes(), move || {
            for tensor in &sparse.tensors {
                black_box(sparse.product(tensor, &x, batch));
            }
        })
    }

    fn read(sparse: &'a Sparse) -> Self {
        let name = format!("{:?} read", sparse.dtype()).to_lowercase();
        let arch = Arch::new();
        Self::new(name, sparse.bytes(), move || {
            for block in sparse.tensors.iter().flat_map(|tensor| sparse.blocks(tensor)) {
                let words = <[u64]>::ref_from_bytes(block.unwrap().1).unwrap();
                black_box(arch.dispatch(Sum(words)));
            }
        })
    }

    fn dense<T: FromBytes + 'static + Copy>(
        sparse: &'a Sparse,
        order: Order,
        batch: usize,
        convert: fn(f32) -> T,
    ) -> Self {
        let x: Vec<_> = inputs(batch).into_iter().map(convert).collect();
        let weights = sparse.tensors.iter().map(|tensor| sparse.dense::<T>(tensor, order));
        let weights: Vec<_> = weights.collect();
        let bytes = weights.iter().map(|weights| size_of_val(&weights[..])).sum();
        let name = format!("{:?} dense by {order:?}", sparse.dtype()).to_lowercase();
        Self::new(name, bytes, move || {
            for (tensor, weights) in sparse.tensors.iter().zip(&weights) {
                let [rows, columns] = tensor.tiling.shape();
                let mut y = vec![convert(0.0); batch * rows];
                let units = [0.0, 1.0].map(convert);
                library(weights, order, &x[..batch * columns], units, &mut y, batch);
                black_box(y);
            }
        })
    }

    fn median(&self) -> f64 {
        median(self.seconds.clone())
    }

    /// How many times as long another way takes, by rounds.
    fn gain_over(&self, other: &Self) -> f64 {
        median(self.seconds.iter().zip(&other.seconds).map(|(own, other)| other / own).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Lets all ways take turns; the first round only warms up.
fn measure(ways: &mut [Way], rounds: usize) {
    for round in 0..=rounds {
        for way in &mut *ways {
            let start = Instant::now();
            (way.pass)();
            if round > 0 {
                way.seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
}

/// The products must agree before it matters how long they take.
fn check(sparse: &Sparse, order: Order) {
    let (tensor, batch) = (&sparse.tensors[0], 2);
    let [rows, columns] = tensor.tiling.shape();
    let x = &inputs(batch)[..batch * columns];
    let mut y = vec![0.0; batch * rows];
    library(&sparse.dense::<f32>(tensor, order), order, x, [0.0, 1.0], &mut y, batch);
    let product = sparse.product(tensor, x, batch);
    assert!(y.iter().zip(&product).all(|(a, b)| (a - b).abs() < 1e-3), "the products differ");
}

/// A way's figures. Ratios are of times in the same round, their median; above 1 it is faster.
fn describe(way: &Way, ways: &[Way]) -> serde_json::Value {
    let over = |name: &str| {
        let others = ways.iter().filter(|other| other.name.starts_with(name));
        let gains = others.map(|other| way.gain_over(other));
        // Against the better of two orders.
        (gains.fold(f64::INFINITY, f64::min) * 1000.0).round() / 1000.0
    };
    json!({
        "way": way.name,
        "weights_mib": way.bytes >> 20,
        "median_ms": way.median() * 1e3,
        "gb_per_s": way.bytes as f64 / way.median() / 1e9,
        "over_reading": over(&format!("{} read", &way.name[..way.name.find(' ').unwrap()])),
        "over_dense_f32": over("f32 dense"),
        "over_dense_f16": over("f16 dense"),
    })
}

fn main() {
    let Options { json, rounds, layers } = Options::parse();
    let [bf16, f16, f32] = DTYPES.map(|dtype| Sparse::new(dtype, layers));
    check(&f32, Order::Rows);
    check(&f32, Order::Columns);
    let mut batches = Vec::new();
    for batch in BATCHES {
        let mut ways = Vec::new();
        for sparse in [&bf16, &f16, &f32] {
            ways.extend([Way::blocks(sparse, batch), Way::read(sparse)]);
        }
        for order in [Order::Rows, Order::Columns] {
            ways.push(Way::dense(&f32, order, batch, |float: f32| float));
            ways.push(Way::dense(&f16, order, batch, gemm::f16::from_f32));
        }
        measure(&mut ways, rounds);
        let ways: Vec<_> = ways.iter().map(|way| describe(way, &ways)).collect();
        batches.push(json!({ "batch": batch, "ways": ways }));
    }
    let report = json!({
        "arch": format!("{:?}", Arch::new()).split('(').next(),
        "layers": layers, "layer": LAYER, "block": [BLOCK, BLOCK], "keep": KEEP,
        "rounds": rounds, "threads": 1, "batches": batches,
    });
    if json {
        println!("{report}");
    } else {
        print(&report);
    }
}

fn print(report: &serde_json::Value) {
    for batch in report["batches"].as_array().unwrap() {
        println!(
            "\nbatch {}, medians of {} rounds; how many times as fast as",
            batch["batch"], report["rounds"]
        );
        println!("way                   MiB       ms    GB/s   reading  dense f32  dense f16");
        for way in batch["ways"].as_array().unwrap() {
            let number = |key: &str| way[key].as_f64().unwrap();
            println!(
                "{:20} {:4} {:8.2} {:7.1} {:9.2} {:10.2} {:10.2}",
                way["way"].as_str().unwrap(),
                way["weights_mib"],
                number("median_ms"),
                number("gb_per_s"),
                number("over_reading"),
                number("over_dense_f32"),
                number("over_dense_f16"),
            );
        }
    }
}
