//! What the user has chosen, and what keys change of it. Knows neither the daemon nor how it looks.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;

/// How often the daemon can be asked.
const INTERVALS_MS: [u64; 7] = [100, 250, 500, 1000, 2000, 5000, 10_000];
/// Characters that a filter may have.
const MAX_FILTER: usize = 64;

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Sessions,
    Pool,
    Switches,
    Next,
    Io,
}

impl Pane {
    /// By their numbers.
    pub(super) const ALL: [Self; 5] =
        [Self::Sessions, Self::Pool, Self::Switches, Self::Next, Self::Io];

    /// The key that enlarges it.
    pub(super) fn number(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).unwrap_or_default() + 1
    }
}

/// What the user has chosen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ui {
    /// How often the daemon is asked.
    pub(super) interval: Duration,
    /// The display stands still.
    pub(super) paused: bool,
    pub(super) filter: String,
    /// The filter is being typed.
    pub(super) editing: bool,
    /// The pane that has the screen for itself.
    pub(super) focus: Option<Pane>,
    pub(super) help: bool,
}

/// What a key asks for, besides a change of what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    NextModel,
    Quit,
}

impl Ui {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            paused: false,
            filter: String::new(),
            editing: false,
            focus: None,
            help: false,
        }
    }

    /// Does what a key says.
    pub(super) fn press(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Wish::Quit } else { Wish::Nothing };
        }
        if self.editing {
            self.type_filter(key.code);
            return Wish::Nothing;
        }
        if self.help && key.code != KeyCode::Char('q') {
            self.help = false;
            return Wish::Nothing;
        }
        match key.code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc => return self.back(),
            KeyCode::Char('m') => return Wish::NextModel,
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Char('/') => self.editing = true,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('+' | '=') => self.change_interval(true),
            KeyCode::Char('-') => self.change_interval(false),
            KeyCode::Char('0') => self.focus = None,
            KeyCode::Char(digit @ '1'..='5') => self.toggle(digit as usize - '1' as usize),
            KeyCode::Tab => self.step(1),
            KeyCode::BackTab => self.step(Pane::ALL.len()),
            _ => {}
        }
        Wish::Nothing
    }

    /// Leaves what is in front; with nothing in front, the program.
    fn back(&mut self) -> Wish {
        if self.focus.take().is_some() {
            return Wish::Nothing;
        }
        if !self.filter.is_empty() {
            self.filter.clear();
            return Wish::Nothing;
        }
        Wish::Quit
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter | KeyCode::Tab => self.editing = false,
            KeyCode::Esc => {
                self.editing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if !c.is_control() && self.filter.chars().count() < MAX_FILTER => {
                self.filter.push(c);
            }
            _ => {}
        }
    }

    fn toggle(&mut self, place: usize) {
        let pane = Pane::ALL.get(place).copied();
        self.focus = if self.focus == pane { None } else { pane };
    }

    /// Goes on by so many of: all panes, the first, the second, and so on.
    fn step(&mut self, by: usize) {
        let place = self.focus.map_or(0, Pane::number);
        let next = (place + by) % (Pane::ALL.len() + 1);
        self.focus = next.checked_sub(1).and_then(|place| Pane::ALL.get(place).copied());
    }

    fn change_interval(&mut self, faster: bool) {
        let all = INTERVALS_MS.map(Duration::from_millis);
        let next = if faster {
            all.iter().rev().find(|interval| **interval < self.interval)
        } else {
            all.iter().find(|interval| **interval > self.interval)
        };
        self.interval = next.copied().unwrap_or(self.interval);
    }
}
