//! The panes of what is foreseen, and of what is read.

use super::{
    canvas::{Canvas, bar},
    text,
};
use crate::cli::top::{
    state::{ModelView, Rate},
    ui::Pane,
};
use ratatui::{
    style::{Color, Style},
    text::{Line, Span},
};

/// Columns of a probability, and of a time.
const FIGURES: (usize, usize) = (6, 11);
/// Columns that a bar has at least.
const LEAST_BAR: usize = 4;
/// Columns of the name of a rate, and of its figure.
const RATE: (usize, usize) = (7, 12);

/// Which tasks may come next.
pub(super) fn draw_next(canvas: &mut Canvas, model: &ModelView) {
    let room = canvas.height().saturating_sub(1);
    let more = model.likely.len().saturating_sub(room);
    let figures = (more > 0).then(|| format!("{more} more"));
    canvas.title(Pane::Next, "Likely next", figures.as_slice());
    let mut canvas = canvas.inner(1, 1);
    let look = canvas.look;
    if model.likely.is_empty() {
        return canvas.text(0, "nothing is foreseen".into(), look.faint());
    }
    let longest = |names: &mut dyn Iterator<Item = &String>| {
        names.map(|name| text::width(name)).max().unwrap_or_default()
    };
    let sessions = model.likely.iter().any(|one| one.session != model.likely[0].session);
    let left = canvas.width().saturating_sub(FIGURES.0 + FIGURES.1 + 1);
    let most = left.saturating_sub(LEAST_BAR);
    let task = longest(&mut model.likely.iter().map(|one| &one.task)).min(most);
    let session = longest(&mut model.likely.iter().map(|one| &one.session)) + 1;
    // The session's name goes first, as its tasks stand together.
    let session = if sessions { session.min(most - task) } else { 0 };
    let columns = left - session - task;
    for (row, one) in model.likely.iter().enumerate() {
        let percent = format!("{:.0} %", one.probability * 100.0);
        let time = format!("in {}", text::rough_time(one.expected_ms));
        let name = text::left(&one.session, session.saturating_sub(1));
        let name = text::left(&name, session);
        let line = Line::from(vec![
            Span::styled(name, look.faint()),
            Span::raw(text::left(&one.task, task) + " "),
            bar(one.probability, columns, look.of(Color::Magenta)),
            Span::raw(text::right(&percent, FIGURES.0)),
            Span::raw(text::right(&time, FIGURES.1)),
        ]);
        canvas.line(row, line);
    }
}

/// What is read in a second.
pub(super) fn draw_io(canvas: &mut Canvas, model: &ModelView) {
    let failed = model.counters.failed_reads;
    let failed = (failed > 0).then(|| format!("! {} reads failed", text::count(failed)));
    canvas.title(Pane::Io, "Reading", failed.as_slice());
    let mut canvas = canvas.inner(1, 1);
    let look = canvas.look;
    let bytes = |rate: f64| text::size(rate) + "/s";
    let reads = |rate: f64| format!("{rate:.0} /s");
    type Of = fn(&Rate) -> f64;
    type Figure<'a> = &'a dyn Fn(f64) -> String;
    let rows: [(&str, Of, Figure<'_>, Style); 5] = [
        ("read", |rate| rate.read_bytes, &bytes, look.of(Color::Blue)),
        ("reads", |rate| rate.reads, &reads, look.of(Color::Blue)),
        ("ahead", |rate| rate.ahead_bytes, &bytes, look.of(Color::Magenta)),
        ("used", |rate| rate.used_bytes, &bytes, look.of(Color::Green)),
        ("wasted", |rate| rate.wasted_bytes, &bytes, look.of(Color::Red)),
    ];
    // With much room, curves are higher.
    let height = (canvas.height() / rows.len()).clamp(1, 6);
    for (place, (name, of, figure, style)) in rows.into_iter().enumerate() {
        let top = place * height;
        let rate = model.rates.last().map_or_else(|| "-".to_owned(), |rate| figure(of(rate)));
        let label = text::left(name, RATE.0) + &text::right(&rate, RATE.1);
        canvas.text(top + height - 1, label, Style::new());
        curve(&mut canvas, (top, height), &model.rates, of, style);
    }
}

/// The rates as columns, the latest at the right, the largest as high as can be.
fn curve(
    canvas: &mut Canvas,
    rows: (usize, usize),
    rates: &[Rate],
    of: fn(&Rate) -> f64,
    style: Style,
) {
    let before = RATE.0 + RATE.1 + 2;
    let room = canvas.width().saturating_sub(before);
    let shown = &rates[rates.len().saturating_sub(room)..];
    let largest = shown.iter().map(of).fold(0.0, f64::max);
    let first = before + room - shown.len();
    for (column, rate) in (first..).zip(shown).filter(|(_, rate)| of(rate) > 0.0) {
        canvas.column(column, rows, of(rate) / largest, style);
    }
}
