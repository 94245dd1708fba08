//! What stands around the panes: who is watched and how it is, what keys there are, and what they do.

use super::{
    canvas::{Canvas, fitting},
    look::Look,
    text,
};
use crate::cli::top::{
    state::{Daemon, Link, ModelView, View},
    ui::Ui,
};
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
};

/// From so many columns on, it is told what this is.
const NARROW: usize = 40;
/// What keys do.
const HELP: [(&str, &str); 9] = [
    ("q  Ctrl-C", "quit"),
    ("Esc", "back, or quit"),
    ("p", "pause: the display stands still"),
    ("/", "show what has this in its task or session"),
    ("m", "next model"),
    ("1 to 5", "enlarge a pane; again, or 0: all of them"),
    ("Tab", "next pane"),
    ("+  -", "look more often, less often"),
    ("?", "this help"),
];

/// Draws who is watched and how it is, and gives the lines that it took.
pub(super) fn draw_head(
    buffer: &mut Buffer,
    view: &View,
    ui: &Ui,
    control: &str,
    look: Look,
) -> u16 {
    let area = buffer.area;
    let mut canvas = Canvas::new(buffer, area, look);
    draw_who(&mut canvas, view, ui, look);
    if let Some(away_s) = view.link.away_s {
        let told = away(&view.link, away_s, control, canvas.width());
        canvas.line(1, Line::styled(told, look.bad()));
        return 2.min(area.height);
    }
    if area.height < 12 {
        return 1;
    }
    if let Some(model) = &view.model {
        let told = health(model, &view.link, look, canvas.width());
        canvas.line(1, told);
    }
    2
}

fn draw_who(canvas: &mut Canvas, view: &View, ui: &Ui, look: Look) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut who = Line::default();
    if canvas.width() >= NARROW {
        who.push_span(Span::styled(" synchromesh", bold));
    }
    match (&view.daemon, view.link.away_s) {
        (_, Some(_)) => who.push_span(Span::styled(" ● away", look.bad())),
        (None, None) => who.push_span(Span::raw(" connecting")),
        (Some(Daemon { version, state, uptime_s }), None) => {
            if canvas.width() >= NARROW {
                who.push_span(Span::raw(format!(" {version} ")));
            }
            let style = if *state == "serving" { look.good() } else { look.bad() };
            who.push_span(Span::styled(format!(" ● {state}"), style));
            who.push_span(Span::raw(format!("  up {}", text::long_time(*uptime_s))));
        }
    }
    let mut right = Line::default();
    if ui.paused {
        right.push_span(Span::styled(" PAUSED ", Style::new().add_modifier(Modifier::REVERSED)));
        right.push_span(Span::raw("  "));
    }
    if let Some(model) = &view.model {
        right.push_span(Span::styled(model.name.clone(), bold));
        if view.models > 1 {
            right.push_span(Span::raw(format!(" ({} of {})", model.place, view.models)));
        }
        right.push_span(Span::raw("  "));
    }
    right.push_span(Span::raw(format!("every {} s ", ui.interval.as_secs_f64())));
    canvas.line(0, who.clone());
    // Where both do not fit, that the display stands still is what must be seen.
    if who.width() + right.width() < canvas.width() || ui.paused {
        let column = canvas.width().saturating_sub(right.width());
        canvas.at(column, 0, right);
    }
}

/// That there is no daemon, and why, if there is room for that.
fn away(link: &Link, away_s: u64, control: &str, columns: usize) -> String {
    let told = [
        format!(" no daemon at {control} for {}, trying again", text::long_time(away_s)),
        link.why.clone(),
    ];
    let told = if link.why.is_empty() { &told[..1] } else { &told[..] };
    match fitting(told, ": ", columns) {
        fitting if fitting.is_empty() => " no daemon, trying again".into(),
        fitting => fitting,
    }
}

/// What should be looked at, and what tells that all is well.
fn health(model: &ModelView, link: &Link, look: Look, columns: usize) -> Line<'static> {
    let way = if model.direct_io { "direct" } else { "through the page cache" };
    let pool = text::size(model.slots.saturating_mul(model.slot_bytes) as f64);
    let locked = if model.locked { "locked" } else { "not locked" };
    let (quarantined, lost) = (model.quarantined_blocks, link.events_lost);
    let mut told = vec![
        (format!("{}, {way}", model.backend), model.direct_io),
        (format!("pool {pool}, {locked}"), true),
        (format!("{} quarantined", text::count(quarantined)), quarantined == 0),
        (format!("{} events lost", text::count(lost)), lost == 0),
    ];
    if link.restarts > 0 {
        told.push((format!("{} restarts seen", link.restarts), false));
    }
    if !model.fallback_reason.is_empty() {
        told.push((format!("not io_uring: {}", model.fallback_reason), false));
    }
    // What is not well comes first; what there is no room for is left out.
    told.sort_by_key(|(_, good)| *good);
    let mut line = Line::default();
    for (what, good) in told {
        let (mark, style) = if good { ("", Style::new()) } else { ("! ", look.bad()) };
        let gap = if line.spans.is_empty() { " " } else { "  " };
        let what = Span::styled(format!("{gap}{mark}{what}"), style);
        if line.spans.is_empty() || line.width() + what.width() <= columns {
            line.push_span(what);
        }
    }
    line
}

/// Draws what keys there are, or what is typed.
pub(super) fn draw_foot(buffer: &mut Buffer, ui: &Ui, look: Look) {
    let area = Rect { y: buffer.area.bottom() - 1, height: 1, ..buffer.area };
    let mut canvas = Canvas::new(buffer, area, look);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    if ui.editing {
        let typed = Span::styled(format!(" /{}", ui.filter), bold);
        let hint = Span::styled("█  Enter keeps it, Esc forgets it", look.faint());
        return canvas.line(0, Line::from(vec![typed, hint]));
    }
    let mut line = Line::from(Span::raw(" "));
    if !ui.filter.is_empty() {
        let filter = Style::new().add_modifier(Modifier::REVERSED);
        line.push_span(Span::styled(format!(" only {} ", ui.filter), filter));
        line.push_span(Span::raw("  "));
    }
    let keys = [
        ("q", "quit"),
        ("p", if ui.paused { "go on" } else { "pause" }),
        ("/", "filter"),
        ("m", "model"),
        ("1-5", "pane"),
        ("+-", "rate"),
        ("?", "help"),
    ];
    for (key, what) in keys {
        line.push_span(Span::styled(key, bold));
        line.push_span(Span::styled(format!(" {what}   "), look.faint()));
    }
    canvas.line(0, line);
}

/// Draws what keys do, over everything else.
pub(super) fn draw_help(buffer: &mut Buffer, look: Look) {
    let area = buffer.area;
    let width = area.width.min(58);
    let height = area.height.min(HELP.len() as u16 + 2);
    let (x, y) = (area.x + (area.width - width) / 2, area.y + (area.height - height) / 2);
    let area = Rect { x, y, width, height };
    for place in area.positions() {
        buffer[place].reset();
    }
    let mut canvas = Canvas::new(buffer, area, look);
    let (right, bottom) = (canvas.width() - 1, canvas.height() - 1);
    for column in 0..=right {
        canvas.sign(column, 0, "─", look.faint());
        canvas.sign(column, bottom, "─", look.faint());
    }
    for row in 0..=bottom {
        canvas.sign(0, row, "│", look.faint());
        canvas.sign(right, row, "│", look.faint());
    }
    for (column, row, sign) in
        [(0, 0, "┌"), (right, 0, "┐"), (0, bottom, "└"), (right, bottom, "┘")]
    {
        canvas.sign(column, row, sign, look.faint());
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    canvas.at(2, 0, Line::styled(" Keys ", bold));
    let mut inner = canvas.inner(1, 2);
    let rows = inner.height().saturating_sub(1);
    for (row, (keys, what)) in HELP.into_iter().enumerate().take(rows) {
        let line = vec![Span::styled(text::left(keys, 11), bold), Span::raw(what)];
        inner.line(row, Line::from(line));
    }
}
