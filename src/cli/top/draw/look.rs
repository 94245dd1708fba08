//! Colours and signs. Everything that a colour says, a sign says too.

use crate::cli::top::state::Slot;
use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
};
use std::env;

/// How the terminal wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli::top) struct Look {
    /// Colours may be used.
    pub(in crate::cli::top) color: bool,
    /// Signs beyond ASCII may be used.
    pub(in crate::cli::top) unicode: bool,
}

impl Look {
    /// As the environment says: `NO_COLOR`, and the locale's character set.
    pub(in crate::cli::top) fn of_environment() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let locale = locale.unwrap_or_default().to_uppercase();
        let unicode = locale.contains("UTF-8") || locale.contains("UTF8");
        Self { color: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()), unicode }
    }

    /// A style in a colour, if there are any.
    pub(super) fn of(self, color: Color) -> Style {
        if self.color { Style::new().fg(color) } else { Style::new() }
    }

    /// What is good.
    pub(super) fn good(self) -> Style {
        self.of(Color::Green)
    }

    /// What needs a look.
    pub(super) fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What stands back: rules, headings, units.
    pub(super) fn faint(self) -> Style {
        if self.color { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    /// A slot's sign and style.
    pub(in crate::cli::top) fn slot(self, slot: Slot) -> (&'static str, Style) {
        match slot {
            Slot::Pinned => ("█", self.of(Color::Green)),
            Slot::Cached => ("▓", self.of(Color::Blue)),
            Slot::Ahead => ("▒", self.of(Color::Magenta)),
            Slot::Filling => ("↓", self.of(Color::Yellow)),
            Slot::Verifying => ("?", self.of(Color::LightYellow)),
            Slot::Free => ("·", self.faint()),
            Slot::Lost => ("×", self.bad()),
        }
    }

    /// The sign and style of a switch's phase, by its place.
    pub(super) fn phase(self, place: usize) -> (&'static str, Style) {
        match place {
            0 => ("░", self.of(Color::DarkGray)),
            1 => ("▒", self.of(Color::Yellow)),
            2 => ("█", self.of(Color::Blue)),
            3 => ("▓", self.of(Color::Magenta)),
            _ => ("■", self.of(Color::Green)),
        }
    }

    /// Changes what is drawn to what the terminal can show.
    pub(super) fn adapt(self, buffer: &mut Buffer) {
        if self.unicode {
            return;
        }
        for cell in &mut buffer.content {
            if !cell.symbol().is_ascii() {
                let plain = ascii(cell.symbol());
                cell.set_symbol(plain);
            }
        }
    }
}

/// An ASCII sign that stands for another.
fn ascii(sign: &str) -> &'static str {
    match sign {
        "█" | "▇" | "▆" => "#",
        "▓" | "▅" => "=",
        "▒" | "▄" => "+",
        "░" | "▃" => ":",
        "■" => "%",
        "▂" => "-",
        "▁" => "_",
        "↓" => "v",
        "×" => "x",
        "·" | "…" => ".",
        "─" => "-",
        "│" | "▏" | "┤" => "|",
        "┌" | "┐" | "└" | "┘" => "+",
        "→" => ">",
        "●" => "*",
        "µ" => "u",
        _ => "?",
    }
}
