//! The pane of sessions: a line for each.

use super::{canvas::Canvas, text};
use crate::cli::top::{
    state::{SessionView, View},
    ui::Pane,
};
use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

/// The figures at the right, and how many columns they take.
const FIGURES: [(&str, usize); 4] = [("gen", 8), ("clients", 7), ("leases", 6), ("kept", 8)];
/// Columns between columns.
const GAP: usize = 2;
/// Below so many columns, what is being loaded is not shown.
const NARROW: usize = 28;
/// Columns that names have at least, before figures have any.
const LEAST_NAMES: usize = 36;

/// Lines that all sessions take, title and heading included.
pub(super) fn lines(view: &View) -> usize {
    2 + view.sessions.len().max(1)
}

pub(super) fn draw(canvas: &mut Canvas, view: &View) {
    let sessions = &view.sessions;
    let room = canvas.height().saturating_sub(2).max(1);
    let figures = match (sessions.len().saturating_sub(room), view.hidden_sessions) {
        (0, 0) => Vec::new(),
        (0, hidden) => vec![format!("{hidden} hidden by the filter")],
        (more, _) => vec![format!("{more} more"), "1 enlarges, / filters".into()],
    };
    canvas.title(Pane::Sessions, "Sessions", &figures);
    let mut canvas = canvas.inner(1, 1);
    let columns = Columns::of(canvas.width(), view);
    let faint = canvas.look.faint();
    // With room for one line only, that is a session.
    let heading = usize::from(canvas.height() > 1);
    if heading > 0 {
        canvas.line(0, columns.heading(faint));
    }
    for (row, session) in sessions.iter().enumerate() {
        let alert = if session.revoked > 0 { canvas.look.bad() } else { Style::new() };
        canvas.line(heading + row, columns.row(session, alert));
    }
    if sessions.is_empty() {
        let nothing = if view.hidden_sessions > 0 { "none matches the filter" } else { "none" };
        canvas.text(heading, nothing.into(), faint);
    }
}

/// How wide columns are. The figures at the right go first where there is little room.
struct Columns {
    /// Model (0 if there is one only), session, task, loading.
    names: [usize; 4],
    /// How many of the figures are shown.
    figures: usize,
}

impl Columns {
    fn of(width: usize, view: &View) -> Self {
        let taken = |figures: usize| -> usize {
            FIGURES[..figures].iter().map(|(_, columns)| columns + GAP).sum()
        };
        let fits = |figures: &usize| taken(*figures) + LEAST_NAMES <= width;
        let figures = (0..=FIGURES.len()).rev().find(fits).unwrap_or_default();
        let longest = |of: fn(&SessionView) -> &str, least: usize| {
            let names = view.sessions.iter().map(|session| text::width(of(session)));
            names.fold(least, usize::max)
        };
        let wanted = [
            if view.models > 1 { longest(|session| &session.model, 5) } else { 0 },
            longest(|session| &session.session, 7),
            longest(|session| &session.task, 10),
            if width < NARROW { 0 } else { longest(|session| &session.loading, 10) },
        ];
        Self { names: share_out(wanted, width.saturating_sub(taken(figures))), figures }
    }

    fn heading(&self, style: Style) -> Line<'static> {
        let figures = FIGURES.map(|(name, _)| Span::styled(name.to_owned(), style));
        let names = ["model", "session", "task", "loading"];
        self.line(names.map(|name| Span::styled(name.to_owned(), style)), figures)
    }

    fn row(&self, session: &SessionView, alert: Style) -> Line<'static> {
        let task = Style::new().add_modifier(Modifier::BOLD);
        let kept = match session.kept_bytes {
            0 => "-".to_owned(),
            bytes => text::size(bytes as f64),
        };
        // A revoked lease is a client that does not let go.
        let mark = if session.revoked > 0 { "!" } else { "" };
        self.line(
            [
                Span::raw(session.model.clone()),
                Span::raw(session.session.clone()),
                Span::styled(text::or_dash(&session.task).to_owned(), task),
                Span::raw(text::or_dash(&session.loading).to_owned()),
            ],
            [
                Span::raw(session.generation.to_string()),
                Span::raw(session.clients.to_string()),
                Span::styled(format!("{mark}{}", session.leases), alert),
                Span::raw(kept),
            ],
        )
    }

    fn line(&self, names: [Span<'static>; 4], figures: [Span<'static>; 4]) -> Line<'static> {
        let mut spans = Vec::new();
        for (name, columns) in names.into_iter().zip(self.names).filter(|(_, columns)| *columns > 0)
        {
            let gap = if spans.is_empty() { "" } else { "  " };
            spans.push(Span::raw(gap));
            spans.push(Span::styled(text::left(&name.content, columns), name.style));
        }
        for (figure, (_, columns)) in figures.into_iter().zip(FIGURES).take(self.figures) {
            spans.push(Span::styled(text::right(&figure.content, columns + GAP), figure.style));
        }
        Line::from(spans)
    }
}

/// Columns for names that want so many, gaps between them counted: what is left goes to the last
/// one, and where there are too few, the widest give.
fn share_out(wanted: [usize; 4], columns: usize) -> [usize; 4] {
    let mut widths = wanted;
    let shown = wanted.iter().filter(|width| **width > 0).count();
    let room = columns.saturating_sub(GAP * shown.saturating_sub(1));
    let mut sum: usize = widths.iter().sum();
    while sum > room {
        let Some(widest) = widths.iter_mut().max() else { break };
        *widest -= 1;
        sum -= 1;
    }
    // A word of loading stands near its task, and figures at the right.
    widths[3] += (room - sum).min(if widths[3] > 0 { room } else { 0 });
    widths
}
