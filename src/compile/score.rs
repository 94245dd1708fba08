//! How much each block matters to each task, and which tasks have the same values there.
//!
//! One pass over the inputs, tensor by tensor: it digests them, checks the values that nothing
//! else looks at, and keeps one number for each block and task. Chooses nothing.

use super::{
    align::{Classes, Demand, Scores},
    error::{CompileError, InputError, TensorFault},
    inputs::{Inputs, Pruned},
    number::{Consume, decode, with_elements},
    progress::Run,
    recipe::{Choice, Recipe},
    source::{Digester, Tensor},
    taskset::TaskSet,
};
use crate::{
    bundle::{InputDigest, Tiling},
    units::TaskIndex,
};
use std::ops::Range;

/// Importance beyond this is refused. Weights are at most this too, so that no score, a sum over
/// at most 2^63 elements, can overflow an `f64`.
const MAX_IMPORTANCE: f64 = f32::MAX as f64;

/// What the pass over the inputs yields.
pub(super) struct Scored {
    pub(super) scores: Scores,
    pub(super) demands: Vec<Demand>,
    pub(super) digests: Vec<InputDigest>,
}

/// Reads all inputs.
pub(super) fn score(
    recipe: &Recipe,
    inputs: &Inputs,
    run: Run<'_>,
) -> Result<Scored, CompileError> {
    run.stage("score", inputs.bytes_to_read()?)?;
    let mut digesters = vec![Digester::new("weights".into())];
    digesters.extend(recipe.tasks.iter().map(|task| Digester::new(task.key())));
    digesters.extend(inputs.extras().map(|source| Digester::new(source.key().to_owned())));
    let mut scores = Scores::new(recipe.tasks.len())?;
    let mut pruned = inputs.pruned.iter().peekable();
    for name in inputs.weight_names() {
        let (weights, of_tasks) = digesters.split_at_mut(1);
        weights[0].add(&inputs.weight(name)?, run)?;
        if let Some(pruned) = pruned.next_if(|pruned| pruned.name == name) {
            let (tasks, extra) = of_tasks.split_at_mut(recipe.tasks.len());
            for (task, digester) in inputs.task_indices().zip(tasks) {
                digester.add(&inputs.of_task(task, name)?, run)?;
            }
            for (tensor, digester) in inputs.extra_tensors(name).zip(extra) {
                if let Some(tensor) = tensor {
                    digester.add(&tensor, run)?;
                }
            }
            score_tensor(inputs, pruned, &mut scores, run)?;
        }
    }
    let demands = inputs.task_indices().map(|task| demand(inputs.choice(task))).collect();
    let digests = digesters.into_iter().map(Digester::finish).collect();
    Ok(Scored { scores, demands, digests })
}

/// A checkpoint without a share keeps all that it has; its zero blocks are dropped with all others.
fn demand(choice: Choice) -> Demand {
    match choice {
        Choice::Mask => Demand::Given,
        Choice::Norms { .. } | Choice::Importance { .. } | Choice::Checkpoint { .. } => {
            Demand::Share(choice.keep().unwrap_or(1.0))
        }
    }
}

fn score_tensor(
    inputs: &Inputs,
    pruned: &Pruned,
    scores: &mut Scores,
    run: Run<'_>,
) -> Result<(), CompileError> {
    let scorer = Scorer::new(inputs, pruned)?;
    let [grid_rows, _] = pruned.tiling.grid();
    let mut bands = Vec::with_capacity(grid_rows);
    let score = |buffers: &mut Buffers, row| scorer.band(row, buffers);
    run.bands(grid_rows, score, |_, band| {
        bands.push(band);
        Ok(())
    })?;
    let all: Vec<f64> = bands.iter().flat_map(|band| &band.scores).copied().collect();
    let places = scores.add_tensor(&all)?;
    let classes = bands.into_iter().flat_map(|band| band.classes);
    for (place, classes) in places.clone().zip(classes) {
        if let Some(classes) = classes {
            scores.classify(place, classes);
        }
    }
    require(inputs, pruned, places, scores)
}

/// Gives tasks the places that masks say they keep in any case.
fn require(
    inputs: &Inputs,
    pruned: &Pruned,
    places: Range<usize>,
    scores: &mut Scores,
) -> Result<(), CompileError> {
    for task in inputs.task_indices() {
        let Some(mask) = inputs.required(task, &pruned.name)? else { continue };
        for (index, &keep) in mask.read_all()?.iter().enumerate() {
            match keep {
                0 => {}
                1 => scores.require(places.start + index, task),
                other => {
                    let (value, expected) = (f64::from(other), "0 or 1");
                    return Err(mask.fault(TensorFault::Value { index, value, expected }).into());
                }
            }
        }
    }
    Ok(())
}

/// Scores one tensor.
struct Scorer<'a> {
    tiling: Tiling,
    tasks: usize,
    weight: Tensor<'a>,
    /// The tasks that take their values from the weights, with what each column counts; several
    /// tasks differ in that alone.
    by_weight: Vec<(TaskIndex, Vec<f64>)>,
    /// Tasks that score a tensor of their own.
    own: Vec<(TaskIndex, Tensor<'a>, Term)>,
    /// Tasks that have values of their own.
    checkpoints: Vec<(TaskIndex, Tensor<'a>)>,
    /// All other tasks.
    alike: TaskSet,
    /// Whether those will have other values than the weights': then no checkpoint has the same.
    rebuilt: bool,
}

/// The scores of a row of blocks.
struct Band {
    /// For each column of the grid one a task.
    scores: Vec<f64>,
    /// For each column of the grid who has the same values, where that is not just all.
    classes: Vec<Option<Classes>>,
}

#[derive(Default)]
struct Buffers {
    bytes: Vec<u8>,
    weight: Vec<u8>,
    checkpoints: Vec<Vec<u8>>,
}

impl<'a> Scorer<'a> {
    fn new(inputs: &'a Inputs, pruned: &Pruned) -> Result<Self, InputError> {
        let mut scorer = Self {
            tiling: pruned.tiling,
            tasks: inputs.task_indices().count(),
            weight: inputs.weight(&pruned.name)?,
            by_weight: Vec::new(),
            own: Vec::new(),
            checkpoints: Vec::new(),
            alike: TaskSet::EMPTY,
            rebuilt: pruned.reconstruct,
        };
        let ones = vec![1.0; pruned.tiling.shape()[1]];
        for task in inputs.task_indices() {
            let tensor = inputs.of_task(task, &pruned.name)?;
            match inputs.choice(task) {
                Choice::Importance { .. } => scorer.own.push((task, tensor, Term::Plain)),
                Choice::Checkpoint { .. } => {
                    scorer.own.push((task, tensor, Term::Square));
                    scorer.checkpoints.push((task, tensor));
                    continue;
                }
                Choice::Norms { .. } => {
                    scorer.by_weight.push((task, squares(&importance(&tensor)?)));
                }
                Choice::Mask => scorer.by_weight.push((task, ones.clone())),
            }
            scorer.alike.insert(task);
        }
        Ok(scorer)
    }

    fn band(&self, row: usize, buffers: &mut Buffers) -> Result<Band, InputError> {
        let (part, band) = self.tiling.band(row);
        let [_, grid_cols] = band.grid();
        let mut scores = vec![0.0; grid_cols * self.tasks];
        self.weight.read(part.clone(), &mut buffers.weight)?;
        let sums = self.column_sums(&self.weight, &buffers.weight, row, Term::Square)?;
        for (task, counts) in &self.by_weight {
            self.add_blocks(&sums, counts, *task, &mut scores);
        }
        let ones = vec![1.0; sums.len()];
        for (task, tensor, term) in &self.own {
            let len = tensor.dtype.bitsize() / 8;
            let element = band.block().element_bytes();
            let part = part.start / element * len..part.end / element * len;
            tensor.read(part, &mut buffers.bytes)?;
            let sums = self.column_sums(tensor, &buffers.bytes, row, *term)?;
            self.add_blocks(&sums, &ones, *task, &mut scores);
        }
        let classes = self.classes(band, part, &sums, buffers)?;
        Ok(Band { scores, classes })
    }

    /// The sum of each column over the band's rows.
    fn column_sums(
        &self,
        tensor: &Tensor<'_>,
        bytes: &[u8],
        row: usize,
        term: Term,
    ) -> Result<Vec<f64>, InputError> {
        let [_, cols] = self.tiling.shape();
        let row_bytes = cols * tensor.dtype.bitsize() / 8;
        let mut sums = vec![0.0; cols];
        let mut good = true;
        for bytes in bytes.chunks(row_bytes) {
            let (sums, good) = (&mut sums, &mut good);
            with_elements(tensor.dtype, bytes, AddRow { sums, term, good });
        }
        // A square that is not finite makes its sum so.
        if good && sums.iter().all(|sum| sum.is_finite()) {
            return Ok(sums);
        }
        let start = row * self.tiling.block().rows() * cols;
        Err(first_fault(tensor, bytes, start, term))
    }

    /// Adds up columns, each times what it counts, to the scores of one row of blocks.
    fn add_blocks(&self, sums: &[f64], counts: &[f64], task: TaskIndex, scores: &mut [f64]) {
        let width = self.tiling.block().cols();
        let columns = sums.chunks(width).zip(counts.chunks(width));
        for (scores, (sums, counts)) in scores.chunks_mut(self.tasks).zip(columns) {
            scores[task.index()] = sums.iter().zip(counts).map(|(sum, count)| sum * count).sum();
        }
    }

    /// Who has the same values at each place of a band, where that is not just all tasks.
    fn classes(
        &self,
        band: Tiling,
        part: Range<usize>,
        sums: &[f64],
        buffers: &mut Buffers,
    ) -> Result<Vec<Option<Classes>>, InputError> {
        buffers.checkpoints.resize(self.checkpoints.len(), Vec::new());
        for ((_, tensor), bytes) in self.checkpoints.iter().zip(&mut buffers.checkpoints) {
            tensor.read(part.clone(), bytes)?;
        }
        let mut blocks = BlockValues::new(band.block().len());
        let widths = sums.chunks(band.block().cols());
        let classes = widths.enumerate().map(|(col, sums)| {
            let zero = sums.iter().all(|&sum| sum == 0.0);
            if self.checkpoints.is_empty() {
                return zero.then(Vec::new);
            }
            if !self.alike.is_empty() {
                blocks.add(band, &buffers.weight, col, self.alike);
            }
            let mut classes = if self.rebuilt { blocks.take_classes() } else { Classes::new() };
            for ((task, _), bytes) in self.checkpoints.iter().zip(&buffers.checkpoints) {
                blocks.add(band, bytes, col, TaskSet::of(*task));
            }
            classes.append(&mut blocks.take_classes());
            Some(classes)
        });
        Ok(classes.collect())
    }
}

/// The different values that tasks have at a place.
struct BlockValues {
    block: Vec<u8>,
    found: Vec<(Vec<u8>, TaskSet)>,
}

impl BlockValues {
    fn new(len: usize) -> Self {
        Self { block: vec![0; len], found: Vec::new() }
    }

    fn add(&mut self, band: Tiling, bytes: &[u8], place: usize, tasks: TaskSet) {
        band.cut(bytes, place, &mut self.block);
        if self.block.iter().all(|&byte| byte == 0) {
            return;
        }
        match self.found.iter_mut().find(|(block, _)| *block == self.block) {
            Some((_, sharing)) => *sharing = sharing.union(tasks),
            None => self.found.push((self.block.clone(), tasks)),
        }
    }

    /// Who has the same values, and no values any more.
    fn take_classes(&mut self) -> Classes {
        self.found.drain(..).map(|(_, tasks)| tasks).collect()
    }
}

/// What an element adds to the sum of its column.
#[derive(Clone, Copy)]
enum Term {
    /// Itself; it must be importance.
    Plain,
    /// Its square; it must be finite.
    Square,
}

impl Term {
    fn allows(self, value: f64) -> bool {
        match self {
            Self::Plain => (0.0..=MAX_IMPORTANCE).contains(&value),
            Self::Square => value.is_finite(),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Plain => "0 to 3.4e38",
            Self::Square => "finite",
        }
    }
}

/// Adds a row to the columns' sums.
struct AddRow<'a> {
    sums: &'a mut [f64],
    term: Term,
    /// Whether all values are importance, where they are to be.
    good: &'a mut bool,
}

impl Consume for AddRow<'_> {
    fn consume(self, values: impl Iterator<Item = f64>) {
        let Self { sums, term, good } = self;
        let pairs = sums.iter_mut().zip(values);
        match term {
            Term::Plain => pairs.for_each(|(sum, value)| {
                *good &= term.allows(value);
                *sum += value;
            }),
            Term::Square => pairs.for_each(|(sum, value)| *sum += value * value),
        }
    }
}

/// Names the first value that the term does not allow; there is one.
fn first_fault(tensor: &Tensor<'_>, bytes: &[u8], start: usize, term: Term) -> InputError {
    let mut values = Vec::new();
    decode(tensor.dtype, bytes, &mut values);
    let position = values.iter().position(|&value| !term.allows(value)).unwrap_or_default();
    let (index, expected) = (start + position, term.expected());
    let value = values.get(position).copied().unwrap_or(f64::NAN);
    tensor.fault(TensorFault::Value { index, value, expected })
}

/// All values of a tensor of importance.
fn importance(tensor: &Tensor<'_>) -> Result<Vec<f64>, InputError> {
    let mut values = Vec::new();
    let bytes = tensor.read_all()?;
    decode(tensor.dtype, &bytes, &mut values);
    if values.iter().all(|&value| Term::Plain.allows(value)) {
        return Ok(values);
    }
    Err(first_fault(tensor, &bytes, 0, Term::Plain))
}

fn squares(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value * value).collect()
}
