//! The pane of the pool: its slots as a map, and what the signs mean.

use super::{canvas::Canvas, text};
use crate::cli::top::{
    state::{Cells, ModelView, Slot},
    ui::Pane,
};
use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

/// The widest that a cell is drawn.
const WIDEST: usize = 2;

pub(super) fn draw(canvas: &mut Canvas, model: &ModelView) {
    let cells: usize = model.cells.iter().map(|run| run.count as usize).sum();
    let legend = legend(canvas, model);
    let height = canvas.height().saturating_sub(1 + legend.len());
    let map = Map::of(cells, canvas.width().saturating_sub(2), height);
    let slot = text::size(model.slot_bytes as f64);
    let mut figures = vec![format!("{} slots of {slot}", text::count(model.slots))];
    let per_sign = (map.cells_per_sign as u64).saturating_mul(model.slots_per_cell);
    if per_sign > 1 {
        figures.push(format!("{} to a sign", text::count(per_sign)));
    }
    canvas.title(Pane::Pool, "Pool", &figures);
    let mut canvas = canvas.inner(1, 1);
    if model.cells.is_empty() {
        let faint = canvas.look.faint();
        canvas.text(0, "no picture yet".into(), faint);
    }
    map.draw(&mut canvas, &model.cells);
    // The map leaves lines free that a small pool does not need.
    let below = map.rows.max(usize::from(cells == 0));
    for (row, line) in legend.into_iter().enumerate() {
        canvas.line(below + row, line);
    }
}

fn name(slot: Slot) -> &'static str {
    match slot {
        Slot::Pinned => "pinned",
        Slot::Cached => "cached",
        Slot::Ahead => "ahead",
        Slot::Filling => "filling",
        Slot::Verifying => "verify",
        Slot::Free => "free",
        Slot::Lost => "lost",
    }
}

/// Signs, names and counts, in as many lines as they need, but no more than half of all.
fn legend(canvas: &Canvas, model: &ModelView) -> Vec<Line<'static>> {
    let mut lines = vec![Line::default()];
    let width = canvas.width().saturating_sub(2);
    for (slot, count) in Slot::ALL.into_iter().zip(model.slots_by_state) {
        // What should not be is not told until it is.
        if slot == Slot::Lost && count == 0 {
            continue;
        }
        let (sign, style) = canvas.look.slot(slot);
        let gap = if lines.last().is_some_and(|line| line.width() > 0) { "  " } else { "" };
        let what = format!(" {} {}", name(slot), text::count(count));
        let taken = lines.last().map_or(0, Line::width);
        if taken > 0 && taken + gap.len() + 1 + text::width(&what) > width {
            lines.push(Line::from(vec![Span::styled(sign, style), Span::raw(what)]));
        } else if let Some(line) = lines.last_mut() {
            line.spans.extend([Span::raw(gap), Span::styled(sign, style), Span::raw(what)]);
        }
    }
    lines.truncate(canvas.height().saturating_sub(1).div_ceil(2));
    lines
}

/// How cells are laid out on the screen.
#[derive(Debug, PartialEq)]
pub(super) struct Map {
    pub(super) cells_per_sign: usize,
    /// Columns of a sign.
    pub(super) columns: usize,
    /// Signs in a row.
    pub(super) per_row: usize,
    pub(super) rows: usize,
}

impl Map {
    pub(super) fn of(cells: usize, width: usize, height: usize) -> Self {
        let room = width * height;
        if cells == 0 || room == 0 {
            return Self { cells_per_sign: 1, columns: 1, per_row: 0, rows: 0 };
        }
        let cells_per_sign = cells.div_ceil(room);
        let signs = cells.div_ceil(cells_per_sign);
        let fits = |columns: &usize| (width / columns) * height >= signs;
        let columns = (1..=WIDEST).rev().find(fits).unwrap_or(1);
        let per_row = width / columns;
        Self { cells_per_sign, columns, per_row, rows: signs.div_ceil(per_row) }
    }

    fn draw(&self, canvas: &mut Canvas, cells: &[Cells]) {
        if self.per_row == 0 {
            return;
        }
        for (place, (slot, faint)) in Signs::of(cells, self.cells_per_sign).enumerate() {
            let (sign, mut style) = canvas.look.slot(slot);
            if faint {
                style = Style::new().add_modifier(Modifier::DIM);
            }
            let (row, column) = (place / self.per_row, place % self.per_row * self.columns);
            for more in 0..self.columns {
                canvas.sign(column + more, row, sign, style);
            }
        }
    }
}

/// What each sign of the map stands for.
pub(super) struct Signs<'a> {
    runs: std::slice::Iter<'a, Cells>,
    /// What is left of the run that is being drawn.
    left: Option<Cells>,
    per_sign: usize,
}

impl<'a> Signs<'a> {
    pub(super) fn of(cells: &'a [Cells], per_sign: usize) -> Self {
        Self { runs: cells.iter(), left: None, per_sign: per_sign.max(1) }
    }
}

impl Iterator for Signs<'_> {
    type Item = (Slot, bool);

    fn next(&mut self) -> Option<Self::Item> {
        let mut counts = [0usize; Slot::ALL.len()];
        let (mut faint, mut taken) = (0, 0);
        while taken < self.per_sign {
            let Some(run) = self.left.take().or_else(|| self.runs.next().copied()) else { break };
            let here = (run.count as usize).min(self.per_sign - taken);
            counts[place(run.slot)] += here;
            faint += if run.faint { here } else { 0 };
            taken += here;
            let rest = run.count - here as u32;
            if rest > 0 {
                self.left = Some(Cells { count: rest, ..run });
            }
        }
        (taken > 0).then(|| (chosen(&counts), faint == taken))
    }
}

fn place(slot: Slot) -> usize {
    Slot::ALL.iter().position(|other| *other == slot).unwrap_or_default()
}

/// What stands for many: what is rare and passes, if there is any of it; else what most are.
fn chosen(counts: &[usize; Slot::ALL.len()]) -> Slot {
    let rare = [Slot::Lost, Slot::Filling, Slot::Verifying];
    let rare = rare.into_iter().find(|slot| counts[place(*slot)] > 0);
    let most = || Slot::ALL.into_iter().rev().max_by_key(|slot| counts[place(*slot)]);
    rare.or_else(most).unwrap_or(Slot::Free)
}
