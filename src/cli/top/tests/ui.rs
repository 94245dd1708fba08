//! What keys do.

use crate::cli::top::ui::{Pane, Ui, Wish};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;

fn ui() -> Ui {
    Ui::new(Duration::from_secs(1))
}

fn press(ui: &mut Ui, keys: &str) -> Wish {
    let press = |key| {
        let code = match key {
            '\t' => KeyCode::Tab,
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\x08' => KeyCode::Backspace,
            other => KeyCode::Char(other),
        };
        ui.press(KeyEvent::new(code, KeyModifiers::NONE))
    };
    keys.chars().map(press).last().unwrap_or(Wish::Nothing)
}

#[test]
fn q_and_control_c_quit_whatever_is_in_front() {
    assert_eq!(press(&mut ui(), "q"), Wish::Quit);
    assert_eq!(press(&mut ui(), "?q"), Wish::Quit);
    assert_eq!(press(&mut ui(), "2pq"), Wish::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    for before in ["", "?", "/ab", "3"] {
        let mut ui = ui();
        press(&mut ui, before);
        assert_eq!(ui.press(interrupt), Wish::Quit, "{before}");
    }
}

#[test]
fn escape_leaves_what_is_in_front_and_then_the_program() {
    let mut ui = ui();
    press(&mut ui, "/ab\n2?");
    assert_eq!((press(&mut ui, "\x1b"), ui.help), (Wish::Nothing, false));
    assert_eq!((press(&mut ui, "\x1b"), ui.focus), (Wish::Nothing, None));
    assert_eq!((press(&mut ui, "\x1b"), &ui.filter[..]), (Wish::Nothing, ""));
    assert_eq!(press(&mut ui, "\x1b"), Wish::Quit);
}

#[test]
fn a_filter_is_typed_and_no_key_means_anything_else_meanwhile() {
    let mut ui = ui();
    assert_eq!(press(&mut ui, "/quiq\x08p"), Wish::Nothing);
    assert_eq!((&ui.filter[..], ui.editing, ui.paused), ("quip", true, false));
    press(&mut ui, "\np");
    assert_eq!((&ui.filter[..], ui.editing, ui.paused), ("quip", false, true));
    press(&mut ui, "/\x1b");
    assert_eq!((&ui.filter[..], ui.editing), ("", false));
    press(&mut ui, "/");
    press(&mut ui, &"x".repeat(1000));
    assert_eq!(ui.filter.len(), 64);
}

#[test]
fn panes_are_enlarged_by_number_and_in_turn() {
    let mut ui = ui();
    press(&mut ui, "3");
    assert_eq!(ui.focus, Some(Pane::Switches));
    press(&mut ui, "3");
    assert_eq!(ui.focus, None);
    let mut seen = Vec::new();
    for _ in 0..=Pane::ALL.len() {
        press(&mut ui, "\t");
        seen.push(ui.focus);
    }
    let mut all: Vec<_> = Pane::ALL.into_iter().map(Some).collect();
    all.push(None);
    assert_eq!(seen, all);
    ui.press(KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT));
    assert_eq!(ui.focus, Some(Pane::Io));
    press(&mut ui, "0");
    assert_eq!(ui.focus, None);
}

#[test]
fn plus_looks_more_often_and_minus_less() {
    let mut ui = Ui::new(Duration::from_millis(700));
    press(&mut ui, "+");
    assert_eq!(ui.interval, Duration::from_millis(500));
    press(&mut ui, "--");
    assert_eq!(ui.interval, Duration::from_secs(2));
    press(&mut ui, &"-".repeat(20));
    assert_eq!(ui.interval, Duration::from_secs(10));
    press(&mut ui, &"+".repeat(20));
    assert_eq!(ui.interval, Duration::from_millis(100));
}

#[test]
fn other_keys_do_nothing() {
    let mut some = ui();
    assert_eq!(press(&mut some, "xyZ9\n"), Wish::Nothing);
    assert_eq!(some, ui());
    assert_eq!(press(&mut some, "m"), Wish::NextModel);
    press(&mut some, "?");
    assert!(some.help);
    press(&mut some, "x");
    assert!(!some.help);
}
