//! Frames as people see them, and what must hold of frames of every size.

use super::sample::{NOW, failed, model, status, told, watched};
use crate::cli::top::{
    draw::{Look, draw},
    once::text,
    state::{Ask, News, State},
    ui::{Pane, Ui},
};
use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer, style::Color};
use std::{env, fs, path::Path, time::Duration};

const PLAIN: Look = Look { color: false, unicode: true };
const COLORFUL: Look = Look { color: true, unicode: true };
const SOCKET: &str = "/run/synchromesh/control.sock";

fn ui() -> Ui {
    Ui::new(Duration::from_secs(1))
}

/// The frame as a terminal of this size would have it.
fn frame(state: &State, ui: &Ui, look: Look, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let view = state.view(Ask { model: "", filter: &ui.filter }, NOW);
    terminal.draw(|frame| draw(frame.buffer_mut(), &view, ui, SOCKET, look)).unwrap();
    terminal.backend().buffer().clone()
}

/// Compares a frame with the one that is kept. With SYNCHROMESH_BLESS=1 it is kept instead.
fn assert_frame(name: &str, state: &State, ui: &Ui, size: (u16, u16)) {
    let drawn = text(&frame(state, ui, PLAIN, size));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/top");
    let path = folder.join(format!("{name}.txt"));
    if env::var_os("SYNCHROMESH_BLESS").is_some() {
        fs::write(&path, &drawn).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(drawn == kept, "{name} is not as it is kept, but\n{drawn}");
}

const USUAL: (u16, u16) = (80, 24);

#[test]
fn the_overview_is_as_it_is_kept_and_as_the_document_shows() {
    assert_frame("overview", &watched(), &ui(), USUAL);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/top.md")).unwrap();
    let frame = fs::read_to_string(root.join("tests/data/top/overview.txt")).unwrap();
    assert!(document.contains(&frame), "docs/top.md shows tests/data/top/overview.txt");
}

#[test]
fn every_pane_is_as_it_is_kept() {
    for pane in Pane::ALL {
        let ui = Ui { focus: Some(pane), ..ui() };
        assert_frame(&format!("pane-{}", pane.number()), &watched(), &ui, USUAL);
    }
}

#[test]
fn other_sizes_are_as_they_are_kept() {
    assert_frame("wide", &watched(), &ui(), (140, 40));
    assert_frame("narrow", &watched(), &ui(), (44, 30));
    assert_frame("tiny", &watched(), &ui(), (20, 5));
}

#[test]
fn what_is_in_front_is_as_it_is_kept() {
    assert_frame("help", &watched(), &Ui { help: true, ..ui() }, USUAL);
    let typing = Ui { editing: true, paused: true, filter: "park".into(), ..ui() };
    assert_frame("filter", &watched(), &typing, USUAL);
}

#[test]
fn trouble_is_as_it_is_kept() {
    let mut state = watched();
    let mut status = status(273_700);
    let mut other = model(5);
    other.name = "other".into();
    let one = &mut status.models[0];
    one.quarantined_blocks = 2;
    one.direct_io = false;
    one.sessions[1].leases[0].revoked = true;
    if let Some(storage) = &mut one.storage {
        storage.backend = "preadv".into();
        storage.fallback_reason = "the kernel refuses it".into();
        storage.failed_reads = 3;
    }
    if let Some(pool) = &mut one.pool {
        (pool.lost, pool.free) = (8, 450);
    }
    status.models.push(other);
    state.take(News::Status(Box::new(status)), NOW);
    state.take(told("one", vec![failed(92)]), NOW);
    assert_frame("trouble", &state, &ui(), USUAL);
    state.take(News::Away("the daemon stopped".into()), NOW);
    assert_frame("away", &state, &ui(), USUAL);
    assert_frame("nothing", &State::default(), &ui(), USUAL);
}

#[test]
fn states_have_signs_of_their_own_and_colours_if_they_may() {
    let state = watched();
    let colorful = frame(&state, &ui(), COLORFUL, USUAL);
    let plain = frame(&state, &ui(), PLAIN, USUAL);
    assert_eq!(text(&colorful), text(&plain), "colours say nothing that signs do not");
    let signs: std::collections::HashSet<_> =
        crate::cli::top::state::Slot::ALL.map(|slot| COLORFUL.slot(slot).0).into();
    assert_eq!(signs.len(), 7);
    let colours = |buffer: &Buffer| {
        let inked = buffer.content.iter().filter(|cell| cell.fg != Color::Reset);
        inked.map(|cell| cell.fg).collect::<std::collections::HashSet<_>>().len()
    };
    assert_eq!(colours(&plain), 0, "none without");
    assert!(colours(&colorful) >= 5);
}

#[test]
fn without_unicode_everything_is_ascii() {
    let look = Look { color: false, unicode: false };
    for focus in [None].into_iter().chain(Pane::ALL.map(Some)) {
        for help in [false, true] {
            let ui = Ui { focus, help, ..ui() };
            let drawn = text(&frame(&watched(), &ui, look, USUAL));
            assert!(drawn.is_ascii(), "{drawn}");
        }
    }
}

#[test]
fn strings_of_the_daemon_carry_nothing_to_the_terminal() {
    let evil = "a\x1b[31m\u{202e}b\u{9b}2J\r\n\0c\u{200b}";
    let mut status = status(1);
    status.version = evil.into();
    let model = &mut status.models[0];
    model.name = evil.into();
    for session in &mut model.sessions {
        session.session = evil.into();
        session.task = evil.into();
        session.pending_task = evil.into();
        session.likely.iter_mut().for_each(|likely| likely.task = evil.into());
    }
    if let Some(storage) = &mut model.storage {
        storage.backend = evil.into();
        storage.fallback_reason = evil.into();
    }
    let mut state = State::default();
    state.take(News::Status(Box::new(status)), NOW);
    let mut event = failed(1);
    event.model = evil.into();
    event.session = evil.into();
    if let Some(crate::proto::event::Kind::SwitchFailed(failed)) = &mut event.kind {
        failed.reason = evil.into();
        failed.task = evil.into();
    }
    state.take(told("one", vec![event]), NOW);
    let mut drawn = String::new();
    for focus in [None].into_iter().chain(Pane::ALL.map(Some)) {
        let buffer = frame(&state, &Ui { focus, ..ui() }, PLAIN, (120, 24));
        drawn.extend(buffer.content.iter().map(|cell| cell.symbol()));
    }
    state.take(News::Away(evil.into()), NOW);
    let buffer = frame(&state, &ui(), PLAIN, (120, 24));
    drawn.extend(buffer.content.iter().map(|cell| cell.symbol()));
    assert!(drawn.contains("a?[31m?b?2J"), "the rest is shown: {drawn}");
    let bad = |c: char| c.is_control() || ['\u{200b}', '\u{202e}'].contains(&c);
    assert!(!drawn.contains(bad), "{drawn:?}");
}

/// The drawing must show at least one sign, however small the terminal is.
fn shows_something(state: &State, ui: &Ui, size: (u16, u16)) -> bool {
    let buffer = frame(state, ui, COLORFUL, size);
    buffer.content.iter().any(|cell| cell.symbol() != " ")
}

#[test]
fn every_small_terminal_shows_something() {
    let mut away = watched();
    away.take(News::Away("the daemon stopped".into()), NOW);
    let states = [watched(), away, State::default()];
    let sizes = (1..=24).flat_map(|width| (1..=10).map(move |height| (width, height)));
    for size in sizes {
        for (case, state) in states.iter().enumerate() {
            for flags in 0..8 {
                let (editing, help, paused) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                let ui = Ui { editing, help, paused, ..ui() };
                assert!(shows_something(state, &ui, size), "{size:?}, state {case}, {flags:03b}");
            }
        }
    }
}

proptest! {
    #[test]
    fn nothing_overflows_at_any_size(
        width in 1u16..200,
        height in 1u16..70,
        focus in 0usize..6,
        flags in 0u8..16,
        sessions in 0usize..40,
        slots in 0u32..40_000,
        likely in 0usize..12,
        name in "[a-z]{0,40}|[道a]{0,30}",
    ) {
        let mut state = watched();
        let mut status = status(273_700);
        let model = &mut status.models[0];
        let mut session = model.sessions[0].clone();
        session.session = name.clone();
        session.likely = (0..likely).flat_map(|_| session.likely.clone()).collect();
        model.sessions = vec![session; sessions];
        if let Some(picture) = &mut model.picture {
            picture.cells.iter_mut().for_each(|run| run.count = slots);
        }
        if flags & 1 != 0 {
            model.picture = None;
            model.pool = None;
            model.storage = None;
            model.prefetch = None;
        }
        model.name = name.clone();
        state.take(News::Status(Box::new(status)), NOW);
        if flags & 2 != 0 {
            state.take(News::Away(name.clone()), NOW);
        }
        let focus = focus.checked_sub(1).map(|place| Pane::ALL[place]);
        let (editing, help) = (flags & 4 != 0, flags & 8 != 0);
        let ui = Ui { focus, editing, help, paused: editing, filter: name, ..ui() };
        let buffer = frame(&state, &ui, COLORFUL, (width, height));
        prop_assert_eq!(buffer.area.as_size(), (width, height).into());
        let drawn = buffer.content.iter().any(|cell| cell.symbol() != " ");
        prop_assert!(drawn, "something is shown");
        state = State::default();
        frame(&state, &ui, PLAIN, (width, height));
    }
}
