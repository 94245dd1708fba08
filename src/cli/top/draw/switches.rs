//! The pane of switches: how long the last ones took, and where the time of the last one went.

use super::{
    canvas::{Canvas, stack},
    look::Look,
    text,
};
use crate::cli::top::{
    state::{Done, End, ModelView, PHASES, Switch},
    ui::Pane,
};
use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

/// What a column of no height stands for.
const FLOOR_US: f64 = 10.0;
/// Columns of the scale beside the columns.
const SCALE: usize = 9;
/// Lines of what is told of the last switch.
const LAST: usize = 3;

/// In the overview: the columns, and the last switch.
pub(super) fn draw(canvas: &mut Canvas, model: &ModelView, time_us: u64) {
    title(canvas, model);
    let mut canvas = canvas.inner(1, 1);
    let Some(last) = model.switches.last() else {
        let faint = canvas.look.faint();
        return canvas.text(0, "none yet".into(), faint);
    };
    // With little room, the last switch comes first.
    let height = canvas.height().saturating_sub(lines(last));
    columns(&mut canvas, model, height);
    tell(&mut canvas.inner(height, 0), last, time_us);
}

/// Lines of what is told of a switch.
fn lines(switch: &Switch) -> usize {
    if switch.result().is_some() { LAST } else { 1 }
}

/// With the screen for itself: a table of the last switches, too.
pub(super) fn draw_large(canvas: &mut Canvas, model: &ModelView, time_us: u64) {
    let above = (canvas.height() / 2).clamp(5, 12);
    let Some(last) = model.switches.last().filter(|_| canvas.height() >= above + 4) else {
        return draw(canvas, model, time_us);
    };
    title(canvas, model);
    let height = above - 1 - lines(last);
    let mut canvas = canvas.inner(1, 1);
    columns(&mut canvas, model, height);
    tell(&mut canvas.inner(height, 0), last, time_us);
    table(&mut canvas.inner(above, 0), model, time_us);
}

fn title(canvas: &mut Canvas, model: &ModelView) {
    let times = &model.times;
    let mut figures = Vec::new();
    if times.done > 0 {
        let [p50, p99, max] = [times.p50_us, times.p99_us, times.max_us].map(text::time);
        figures.extend([format!("p50 {p50}"), format!("p99 {p99}"), format!("max {max}")]);
    }
    if times.failed > 0 {
        figures.push(format!("× {} failed", times.failed));
    }
    if times.done > 0 {
        figures.push(format!("of the last {}", times.done + times.failed));
    }
    canvas.title(Pane::Switches, "Switches", &figures);
}

/// A column for each of the last switches, the latest at the right; the height is the logarithm of
/// its time.
fn columns(canvas: &mut Canvas, model: &ModelView, height: usize) {
    if height == 0 || canvas.width() <= SCALE {
        return;
    }
    let look = canvas.look;
    let room = canvas.width() - SCALE;
    let shown = &model.switches[model.switches.len().saturating_sub(room)..];
    let longest = shown.iter().filter_map(Switch::result).map(|done| done.total_us).max();
    let longest = longest.unwrap_or_default() as f64;
    let span = (longest / FLOOR_US).max(10.0).ln();
    scale(canvas, longest.max(FLOOR_US * 10.0), height);
    let first = SCALE + room - shown.len();
    for (column, switch) in (first..).zip(shown) {
        match &switch.end {
            End::Done(done) => {
                let share = (done.total_us as f64 / FLOOR_US).max(1.0).ln() / span;
                canvas.column(column, (0, height), share, outcome_style(look, done));
            }
            End::Failed(_) => canvas.sign(column, height - 1, "×", look.bad()),
        }
    }
}

fn scale(canvas: &mut Canvas, longest: f64, height: usize) {
    let faint = canvas.look.faint();
    for row in 0..height {
        let label = match row {
            0 => text::time(longest as u64),
            _ if row == height - 1 => text::time(FLOOR_US as u64),
            _ => String::new(),
        };
        canvas.text(row, text::right(&label, SCALE - 2) + "┤", faint);
    }
}

fn outcome_style(look: Look, done: &Done) -> Style {
    match done.outcome {
        "resident" | "already active" => look.of(Color::Green),
        "partly ahead" => look.of(Color::Magenta),
        _ => look.of(Color::Blue),
    }
}

/// What the last switch did, its phases as a bar, and the same in figures.
fn tell(canvas: &mut Canvas, last: &Switch, time_us: u64) {
    let look = canvas.look;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let from = if last.from.is_empty() { "none" } else { &last.from };
    let mut line = Line::from(vec![
        Span::raw(format!("{from} → ")),
        Span::styled(last.task.clone(), bold),
        Span::styled(format!("  {}, {}  ", last.session, age(last, time_us)), look.faint()),
    ]);
    match &last.end {
        End::Failed(reason) => {
            line.push_span(Span::styled(format!("× failed: {reason}"), look.bad()));
            canvas.line(0, line);
        }
        End::Done(done) => {
            line.push_span(Span::styled(done.outcome, outcome_style(look, done)));
            let size = |bytes: u64| text::size(bytes as f64);
            let read = format!(", read {} of {}", size(done.read_bytes), size(done.needed_bytes));
            line.push_span(Span::raw(read));
            // Where the total would hide what was done, that line is the next one's.
            let total = text::time(done.total_us);
            let room = canvas.width().saturating_sub(text::width(&total));
            if line.width() < room {
                canvas.at(room, 0, Line::styled(total, bold));
            }
            canvas.line(0, line);
            phases(canvas, done);
        }
    }
}

fn phases(canvas: &mut Canvas, done: &Done) {
    let look = canvas.look;
    let widths = stack(done.phases_us, canvas.width());
    let mut bar = Line::default();
    for (place, columns) in widths.into_iter().enumerate() {
        let (sign, style) = look.phase(place);
        bar.push_span(Span::styled(sign.repeat(columns), style));
    }
    // Where there is no room for all figures, the least go.
    let mut shown: Vec<_> = (0..PHASES.len()).collect();
    let mut figures = phase_figures(look, done, &shown);
    while figures.width() > canvas.width() && shown.len() > 1 {
        let least = shown.iter().copied().min_by_key(|place| done.phases_us[*place]);
        shown.retain(|place| Some(*place) != least);
        figures = phase_figures(look, done, &shown);
    }
    if canvas.height() >= LAST {
        canvas.line(1, bar);
        canvas.line(2, figures);
    } else {
        canvas.line(1, figures);
    }
}

fn phase_figures(look: Look, done: &Done, shown: &[usize]) -> Line<'static> {
    let mut figures = Line::default();
    for &place in shown {
        let (sign, style) = look.phase(place);
        let gap = if figures.spans.is_empty() { "" } else { "  " };
        let time = text::time(done.phases_us[place]);
        figures.push_span(Span::styled(format!("{gap}{sign}"), style));
        figures.push_span(Span::raw(format!(" {} {time}", PHASES[place])));
    }
    figures
}

/// How long ago it was.
fn age(switch: &Switch, time_us: u64) -> String {
    let s = time_us.saturating_sub(switch.time_us) / 1_000_000;
    if s == 0 { "just now".into() } else { format!("{} ago", text::long_time(s)) }
}

/// Columns of the table: age, outcome, a time.
const TABLE: (usize, usize, usize) = (7, 12, 7);
/// The fewest columns of a task's name.
const NAME: usize = 10;

/// The last switches, the latest first.
fn table(canvas: &mut Canvas, model: &ModelView, time_us: u64) {
    let (ago, what, time) = TABLE;
    let left = canvas.width().saturating_sub(ago + 2 + what + 6 * (time + 1));
    // With little room, the task before goes.
    let both = left >= 2 * (NAME + 1);
    let name = (if both { left / 2 } else { left }).saturating_sub(1).max(1);
    let cells = |cells: [&str; 4]| {
        let from = if both { text::left(cells[1], name) + " " } else { String::new() };
        let (age, to, outcome) = (text::right(cells[0], ago), cells[2], text::left(cells[3], what));
        format!("{age}  {from}{} {outcome}", text::left(to, name))
    };
    let times = |times: [String; 6]| times.map(|us| " ".to_owned() + &text::right(&us, time));
    let mut heading = cells(["ago", "from", if both { "to" } else { "task" }, "outcome"]);
    let [queue, plan, read, verify, publish] = PHASES;
    let names = ["total", queue, plan, read, verify, publish];
    heading.extend(times(names.map(str::to_owned)));
    let faint = canvas.look.faint();
    canvas.text(0, heading, faint);
    for (row, switch) in model.switches.iter().rev().enumerate() {
        let age = text::rough_time(time_us.saturating_sub(switch.time_us) / 1000);
        let (from, to) = (text::or_dash(&switch.from), &switch.task);
        match &switch.end {
            End::Failed(reason) => {
                let line = cells([&age, from, to, "× failed"]) + "  " + reason;
                let bad = canvas.look.bad();
                canvas.text(row + 1, line, bad);
            }
            End::Done(done) => {
                let mut line = cells([&age, from, to, done.outcome]);
                let [queue, plan, read, verify, publish] = done.phases_us;
                let all = [done.total_us, queue, plan, read, verify, publish];
                line.extend(times(all.map(text::time)));
                canvas.text(row + 1, line, Style::new());
            }
        }
    }
}
