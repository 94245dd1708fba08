//! A rectangle to draw on, line by line. What does not fit is not drawn; nothing is drawn outside.

use super::{look::Look, text};
use crate::cli::top::ui::Pane;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
};

/// Signs for one to eight eighths of a cell.
const EIGHTHS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// A rectangle to draw on.
pub(super) struct Canvas<'a> {
    pub(super) look: Look,
    buffer: &'a mut Buffer,
    area: Rect,
}

impl<'a> Canvas<'a> {
    /// On this part of the buffer.
    pub(super) fn new(buffer: &'a mut Buffer, area: Rect, look: Look) -> Self {
        let area = area.intersection(buffer.area);
        Self { look, buffer, area }
    }

    pub(super) fn width(&self) -> usize {
        usize::from(self.area.width)
    }

    pub(super) fn height(&self) -> usize {
        usize::from(self.area.height)
    }

    /// The same without its first lines and the outermost columns.
    pub(super) fn inner(&mut self, lines: usize, columns: usize) -> Canvas<'_> {
        let lines = lines.min(self.height()) as u16;
        let columns = columns.min(self.width() / 2) as u16;
        let area = Rect {
            x: self.area.x + columns,
            y: self.area.y + lines,
            width: self.area.width - 2 * columns,
            height: self.area.height - lines,
        };
        Canvas { look: self.look, buffer: self.buffer, area }
    }

    /// Draws a line of text.
    pub(super) fn line(&mut self, row: usize, line: Line) {
        self.at(0, row, line);
    }

    /// Draws a line of text in one style.
    pub(super) fn text(&mut self, row: usize, text: String, style: Style) {
        self.line(row, Line::styled(text, style));
    }

    /// Draws a sign.
    pub(super) fn sign(&mut self, column: usize, row: usize, sign: &'static str, style: Style) {
        if column < self.width() && row < self.height() {
            let place = (self.area.x + column as u16, self.area.y + row as u16);
            self.buffer[place].set_symbol(sign).set_style(style);
        }
    }

    /// Draws a pane's title into its first line: name and number at the left, and at the right as
    /// many of the figures as there is room for.
    pub(super) fn title(&mut self, pane: Pane, name: &str, figures: &[String]) {
        let rule = self.look.faint();
        for column in 0..self.width() {
            self.sign(column, 0, "─", rule);
        }
        let name = Span::styled(name.to_owned(), Style::new().add_modifier(Modifier::BOLD));
        let number = Span::styled(format!(" {} ", pane.number()), rule);
        let title = Line::from(vec![number, name, Span::raw(" ")]);
        let taken = title.width() + 2;
        self.at(2, 0, title);
        let room = self.width().saturating_sub(taken + 6);
        let figures = fitting(figures, "  ", room);
        if !figures.is_empty() {
            let column = self.width().saturating_sub(text::width(&figures) + 4);
            self.at(column, 0, Line::raw(format!(" {figures} ")));
        }
    }

    /// Draws a line of text that begins further right.
    pub(super) fn at(&mut self, column: usize, row: usize, mut line: Line) {
        // The blank before a text would take the only column.
        if let (1, Some(first)) = (self.area.width, line.spans.first_mut()) {
            first.content = first.content.trim_start().to_owned().into();
        }
        if column < self.width() && row < self.height() {
            let (x, y) = (self.area.x + column as u16, self.area.y + row as u16);
            self.buffer.set_line(x, y, &line, self.area.width - column as u16);
        }
    }

    /// Draws a column that fills a share of these rows from below.
    pub(super) fn column(&mut self, column: usize, rows: (usize, usize), share: f64, style: Style) {
        let (top, height) = rows;
        let eighths = (share.clamp(0.0, 1.0) * height as f64 * 8.0).round() as usize;
        // The least that there is can be seen.
        let mut left = eighths.max(1);
        for row in (top..top + height).rev() {
            let here = left.min(EIGHTHS.len());
            if here == 0 {
                break;
            }
            self.sign(column, row, EIGHTHS[here - 1], style);
            left -= here;
        }
    }
}

/// As many texts one after another as these columns have room for.
pub(super) fn fitting(texts: &[String], gap: &str, columns: usize) -> String {
    let joined = (0..=texts.len()).rev().map(|count| texts[..count].join(gap));
    joined.into_iter().find(|text| text::width(text) <= columns).unwrap_or_default()
}

/// A bar of so many columns that is filled by a share.
pub(super) fn bar(share: f64, columns: usize, style: Style) -> Span<'static> {
    let filled = (share.clamp(0.0, 1.0) * columns as f64).round() as usize;
    Span::styled("█".repeat(filled) + &" ".repeat(columns - filled), style)
}

/// Columns for parts of a whole, that fill these columns together as evenly as can be.
pub(super) fn stack<const N: usize>(parts: [u64; N], columns: usize) -> [usize; N] {
    let whole = parts.iter().fold(0u64, |sum, part| sum.saturating_add(*part));
    let mut before = 0u64;
    let mut drawn = 0;
    parts.map(|part| {
        before = before.saturating_add(part);
        let share = if whole == 0 { 0.0 } else { before as f64 / whole as f64 };
        let end = ((share * columns as f64).round() as usize).min(columns);
        let own = end - drawn;
        drawn = end;
        own
    })
}
