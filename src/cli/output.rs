//! Text tables and JSON on standard output.

use super::failure::Failure;
use indicatif::HumanBytes;
use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
};

/// Prints text. A reader that has gone, such as `head`, is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(()),
    }
}

/// Prints one JSON object.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    text.push('\n');
    print(&text)
}

/// Bytes with a unit.
pub(super) fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// Microseconds with a unit.
pub(super) fn time(us: f64) -> String {
    match us {
        ..1e3 => format!("{us:.0} µs"),
        1e3..1e6 => format!("{:.2} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// Rows of cells under a heading; the first column stands left, the others right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// A cell for each ordered pair of names, by row and column.
    pub(super) fn matrix(
        heading: &str,
        names: &[&str],
        cell: impl Fn(usize, usize) -> String,
    ) -> Self {
        let heading: Vec<_> = [heading].into_iter().chain(names.iter().copied()).collect();
        let mut table = Self::new(&heading);
        for (row, name) in names.iter().enumerate() {
            let cells = (0..names.len()).map(|column| cell(row, column));
            table.row(std::iter::once((*name).to_owned()).chain(cells).collect());
        }
        table
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn render(&self) -> String {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                // Writing to a string cannot fail.
                let _ = match column {
                    0 => write!(text, "{cell:<width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["task", "bytes"]);
        table.row(vec!["parking".into(), "5".into()]);
        table.row(vec!["é".into(), "1234567".into()]);
        let expected = "task       bytes\nparking        5\né        1234567\n";
        assert_eq!(table.render(), expected);
    }
}
