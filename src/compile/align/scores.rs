//! What every block is worth to every task, and which tasks have the same values there.
//!
//! With 64 tasks a block's scores take 512 bytes, too many to hold in memory for all blocks, and
//! choosing masks goes through them again and again, from front to back. So they are in a file
//! without a name, which the system caches as it sees fit. Chooses nothing.

use crate::{
    compile::{error::ScratchError, taskset::TaskSet},
    units::TaskIndex,
};
use std::{collections::HashMap, fs::File, ops::Range, os::unix::fs::FileExt as _};
use zerocopy::IntoBytes as _;

/// Which tasks have the same values at a place. Tasks that are in no class have zeros there.
pub(in crate::compile) type Classes = Vec<TaskSet>;

/// The scores of a model: places are numbered through all tensors.
#[derive(Debug)]
pub(in crate::compile) struct Scores {
    tasks: usize,
    /// For each place one `f64` a task, finite and not negative.
    file: File,
    /// By tensor: its places.
    tensors: Vec<Range<usize>>,
    /// By place: the tasks that keep it in any case. Empty if there are none at all.
    required: Vec<TaskSet>,
    /// By place: which of `partitions`. Empty if all tasks have the same values everywhere.
    classes: Vec<u32>,
    partitions: Vec<Classes>,
    known: HashMap<Classes, u32>,
}

/// The scores of some places in a row.
#[derive(Debug, Default)]
pub(in crate::compile) struct Records {
    tasks: usize,
    scores: Vec<f64>,
}

impl Records {
    /// The scores of the places, one after another, by task.
    pub(in crate::compile) fn iter(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.scores.chunks_exact(self.tasks)
    }
}

impl Scores {
    /// No places yet.
    pub(in crate::compile) fn new(tasks: usize) -> Result<Self, ScratchError> {
        let all = (0..).map(TaskIndex).take(tasks).collect();
        Ok(Self {
            tasks,
            file: tempfile::tempfile()?,
            tensors: Vec::new(),
            required: Vec::new(),
            classes: Vec::new(),
            partitions: vec![vec![all]],
            known: HashMap::from([(vec![all], 0)]),
        })
    }

    /// Adds a tensor, given the scores of each of its places, by task.
    pub(in crate::compile) fn add_tensor(
        &mut self,
        scores: &[f64],
    ) -> Result<Range<usize>, ScratchError> {
        let start = self.places();
        let places = start..start + scores.len() / self.tasks;
        self.file.write_all_at(scores.as_bytes(), self.offset(start))?;
        self.tensors.push(places.clone());
        Ok(places)
    }

    /// Lets a task keep a place in any case.
    pub(in crate::compile) fn require(&mut self, place: usize, task: TaskIndex) {
        if self.required.len() <= place {
            self.required.resize(place + 1, TaskSet::EMPTY);
        }
        self.required[place].insert(task);
    }

    /// Says which tasks have the same values at a place.
    pub(in crate::compile) fn classify(&mut self, place: usize, classes: Classes) {
        let next = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        let number = *self.known.entry(classes).or_insert_with_key(|classes| {
            self.partitions.push(classes.clone());
            next
        });
        if number == 0 {
            return;
        }
        if self.classes.len() <= place {
            self.classes.resize(place + 1, 0);
        }
        self.classes[place] = number;
    }

    /// Number of places.
    pub(in crate::compile) fn places(&self) -> usize {
        self.tensors.last().map_or(0, |places| places.end)
    }

    /// Bytes that going through all scores once reads.
    pub(super) fn bytes(&self) -> u64 {
        self.offset(self.places())
    }

    /// By tensor: its places.
    pub(in crate::compile) fn tensors(&self) -> &[Range<usize>] {
        &self.tensors
    }

    /// The tasks that keep the place in any case.
    pub(super) fn required(&self, place: usize) -> TaskSet {
        self.required.get(place).copied().unwrap_or_default()
    }

    /// The tasks that have the same values at the place.
    pub(super) fn classes(&self, place: usize) -> &[TaskSet] {
        &self.partitions[self.classes.get(place).copied().unwrap_or_default() as usize]
    }

    /// Reads the scores of some places.
    pub(super) fn read(
        &self,
        places: Range<usize>,
        records: &mut Records,
    ) -> Result<(), ScratchError> {
        records.tasks = self.tasks;
        records.scores.resize(places.len() * self.tasks, 0.0);
        self.file.read_exact_at(records.scores.as_mut_bytes(), self.offset(places.start))?;
        Ok(())
    }

    fn offset(&self, place: usize) -> u64 {
        (place * self.tasks * size_of::<f64>()) as u64
    }
}
