//! What a bundle says of itself, as JSON in `__metadata__["synchromesh"]`.
//!
//! These types are as untrusted as the file they come from; `parse` checks them, also against
//! the tensors, and hands them out inside a [`Bundle`](super::Bundle).

use super::{BlockShape, Fault, MAX_TASKS, is_name};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{collections::HashSet, fmt, str::FromStr};

/// Identity of a bundle's inputs and settings: the first 16 bytes of a BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BundleId(pub [u8; 16]);

/// The metadata of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The format version.
    pub format: u32,
    /// The model's name.
    pub model: String,
    /// The identity of inputs and settings.
    pub bundle_id: BundleId,
    /// The shape of every block.
    pub block: BlockShape,
    /// The tasks; their order gives their indices.
    pub tasks: Vec<TaskMeta>,
    /// The tensors that are cut into blocks.
    pub tensors: Vec<TensorMeta>,
    /// Of all switches, the expected share of each: by the task before, then by the task after. The
    /// diagonal is zero.
    pub transitions: Vec<Vec<f64>>,
    /// Figures of the layout.
    pub layout: LayoutMeta,
    /// Where the content comes from.
    pub provenance: Provenance,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskMeta {
    /// The task's name.
    pub name: String,
    /// The share of blocks that the recipe allowed; none where a mask or checkpoint decides.
    pub keep: Option<f64>,
    /// Number of blocks in the task's set.
    pub blocks: u64,
    /// Share of the task's importance that its blocks retain, 0 to 1.
    pub retained: f64,
    /// The same for the best mask of this size, chosen for this task alone.
    pub best: f64,
}

/// A tensor that is cut into blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorMeta {
    /// The tensor's name in the model.
    pub name: String,
    /// Rows and columns.
    pub shape: [u64; 2],
}

/// Figures of the layout on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayoutMeta {
    /// Number of distinct task sets; blocks with equal sets lie together.
    pub groups: u64,
    /// Places of the grids that some task keeps; more than blocks where content is shared.
    pub places: u64,
    /// What a request costs beyond its bytes, as bytes that could be read in that time: the order
    /// of the blocks was chosen for it, and a gap of at most this many is read through.
    pub request_bytes: u64,
}

/// Where a bundle's content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Name and version of the program that wrote the file.
    pub tool: String,
    /// The recipe's settings without its paths, as JSON.
    pub settings: String,
    /// Digests of what was read, by role.
    pub inputs: Vec<InputDigest>,
}

/// The digest of one input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputDigest {
    /// What the input was for, such as `weights` or `tasks/highway/norms`.
    pub role: String,
    /// BLAKE3 over names, types, shapes and bytes of the tensors used, in hexadecimal.
    pub blake3: String,
}

impl Meta {
    /// Checks what can be checked without the tensors.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let Self {
            format: _,
            model,
            bundle_id: _,
            block,
            tasks,
            tensors,
            transitions,
            layout: _,
            provenance: _,
        } = self;
        block.check()?;
        if !is_name(model) {
            return Err(Fault::Name { what: "model", name: model.clone() });
        }
        if !(1..=MAX_TASKS).contains(&tasks.len()) {
            return Err(Fault::tasks(tasks.len()));
        }
        let mut seen = HashSet::new();
        for task in tasks {
            task.check()?;
            if !seen.insert(&task.name) {
                return Err(Fault::Duplicate(format!("tasks/{}", task.name)));
            }
        }
        check_transitions(transitions, tasks.len())?;
        let mut seen = HashSet::new();
        match tensors.iter().find(|tensor| !seen.insert(&tensor.name)) {
            Some(twice) => Err(Fault::Duplicate(format!("grid/{}", twice.name))),
            None => Ok(()),
        }
    }
}

/// One row a task with one share a task: none beyond 0 to 1, none of a task to itself.
fn check_transitions(rows: &[Vec<f64>], tasks: usize) -> Result<(), Fault> {
    let good_row = |(from, row): (usize, &Vec<f64>)| {
        row.len() == tasks && row[from] == 0.0 && row.iter().all(|p| (0.0..=1.0).contains(p))
    };
    if rows.len() == tasks && rows.iter().enumerate().all(good_row) {
        return Ok(());
    }
    Err(Fault::Transitions { tasks })
}

impl TaskMeta {
    fn check(&self) -> Result<(), Fault> {
        if !is_name(&self.name) {
            return Err(Fault::Name { what: "task", name: self.name.clone() });
        }
        let shares = [Some(self.retained), Some(self.best), self.keep];
        if !shares.into_iter().flatten().all(|share| (0.0..=1.0).contains(&share)) {
            return Err(Fault::Task {
                task: self.name.clone(),
                problem: "has a share beyond 0 to 1",
            });
        }
        Ok(())
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BundleId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "a bundle id is 32 lower-case hexadecimal digits";
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(WRONG);
        }
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = str::from_utf8(digits).map_err(|_| WRONG)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| WRONG)?;
        }
        Ok(Self(id))
    }
}

impl Serialize for BundleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BundleId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
