//! What a model looks like, for people who look at it: its pool slot by slot, and how its tasks
//! follow one another. A picture is bounded, however large the pool, so that drawing it never keeps a
//! switch waiting for long.

use super::model::Model;
use crate::{
    residency::SlotState,
    units::{SlotId, TaskIndex},
};

/// Most cells of a picture.
const MAX_CELLS: usize = 4_096;
/// What is less likely is not drawn.
const SHOWN_FROM: f64 = 0.005;

/// What a model looks like.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The tasks' names, in the order of the bits of [`Cell::tasks`].
    pub tasks: Vec<String>,
    /// The pool's slots in their order, with the number of cells in a row that look the same.
    pub cells: Vec<(u32, Cell)>,
    /// Slots that a cell stands for; it shows the first of them.
    pub slots_per_cell: usize,
    /// How tasks follow one another, as far as the default session knows.
    pub transitions: Vec<Transition>,
}

/// What a slot looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What it holds. Which block it is does not show.
    pub state: CellState,
    /// The tasks that need the block.
    pub tasks: u64,
    /// Whether somebody pins it.
    pub pinned: bool,
    /// Whether it was loaded ahead and waits to be used.
    pub ahead: bool,
}

/// A slot's state without its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellState {
    /// Empty.
    Free,
    /// Being read into.
    Filling,
    /// Being verified.
    Verifying,
    /// Holding a verified block.
    Resident,
    /// Out of use.
    Lost,
}

/// How often a task follows another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// The task before.
    pub from: usize,
    /// The task after.
    pub to: usize,
    /// Its share of what follows.
    pub probability: f64,
}

impl Model {
    /// What the model looks like now.
    pub(super) fn picture(&self) -> Picture {
        let slots = self.pool.layout().slots() as usize;
        let slots_per_cell = slots.div_ceil(MAX_CELLS).max(1);
        let mut cells: Vec<(u32, Cell)> = Vec::new();
        for slot in (0..slots).step_by(slots_per_cell) {
            let cell = self.cell(self.residency.slots().state(SlotId(slot as u32)));
            match cells.last_mut() {
                Some((count, last)) if *last == cell => *count += 1,
                _ => cells.push((1, cell)),
            }
        }
        let bundle = self.bundle();
        let tasks = bundle.task_indices().map(|task| bundle.task(task).name.clone()).collect();
        Picture { tasks, cells, slots_per_cell, transitions: self.transitions() }
    }

    fn cell(&self, state: SlotState) -> Cell {
        let (state, block) = match state {
            SlotState::Free => (CellState::Free, None),
            SlotState::Lost => (CellState::Lost, None),
            SlotState::Filling(block) => (CellState::Filling, Some(block)),
            SlotState::Verifying(block) => (CellState::Verifying, Some(block)),
            SlotState::Resident(block) => (CellState::Resident, Some(block)),
        };
        Cell {
            state,
            tasks: block.map_or(0, |block| self.residency.tasks_of(block)),
            pinned: block.is_some_and(|block| self.residency.is_pinned(block)),
            ahead: block.is_some_and(|block| self.residency.ahead().contains(block)),
        }
    }

    fn transitions(&self) -> Vec<Transition> {
        let Some(session) = self.open_sessions().next() else { return Vec::new() };
        let predictor = session.outlook.predictor();
        let row = |from: TaskIndex| {
            let after = predictor.after(from).into_iter().enumerate();
            let shown = after.filter(|(_, probability)| *probability >= SHOWN_FROM);
            shown.map(move |(to, probability)| Transition { from: from.index(), to, probability })
        };
        self.bundle().task_indices().flat_map(row).collect()
    }
}
