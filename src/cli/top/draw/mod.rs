//! Draws what is to be shown, in the room that there is. Depends on nothing else: the same view and
//! size give the same picture.

mod ahead;
mod canvas;
mod frame;
mod look;
mod pool;
mod sessions;
mod switches;
mod text;

pub(super) use look::Look;

use super::{
    state::{ModelView, View},
    ui::{Pane, Ui},
};
use canvas::Canvas;
use ratatui::{buffer::Buffer, layout::Rect};

/// From so many columns and lines on, panes stand in two columns.
const WIDE: (u16, u16) = (120, 16);
/// From so many columns on, the last two panes stand side by side.
const BESIDE: u16 = 60;

/// Draws all.
pub(super) fn draw(buffer: &mut Buffer, view: &View, ui: &Ui, control: &str, look: Look) {
    let area = buffer.area;
    if area.is_empty() {
        return;
    }
    let head = frame::draw_head(buffer, view, ui, control, look);
    // With a handful of lines, keys are less needed than what is shown.
    let foot = u16::from(area.height >= 8 || ui.editing);
    let body = Rect { y: area.y + head, height: area.height.saturating_sub(head + foot), ..area };
    draw_body(buffer, body, view, ui, look);
    if foot > 0 {
        frame::draw_foot(buffer, ui, look);
    }
    if ui.help {
        frame::draw_help(buffer, look);
    }
    look.adapt(buffer);
}

fn draw_body(buffer: &mut Buffer, body: Rect, view: &View, ui: &Ui, look: Look) {
    if view.daemon.is_none() {
        let mut canvas = Canvas::new(buffer, body, look);
        return canvas.text(0, " nothing was told yet".into(), look.faint());
    }
    if let Some(pane) = ui.focus {
        return draw_pane(&mut Canvas::new(buffer, body, look), pane, view, true);
    }
    for (pane, area) in places(body, view) {
        draw_pane(&mut Canvas::new(buffer, area, look), pane, view, false);
    }
}

fn draw_pane(canvas: &mut Canvas, pane: Pane, view: &View, large: bool) {
    let nothing = ModelView::default();
    let model = view.model.as_ref().unwrap_or(&nothing);
    match pane {
        Pane::Sessions => sessions::draw(canvas, view),
        Pane::Pool => pool::draw(canvas, model),
        Pane::Switches if large => switches::draw_large(canvas, model, view.time_us),
        Pane::Switches => switches::draw(canvas, model, view.time_us),
        Pane::Next => ahead::draw_next(canvas, model),
        Pane::Io => ahead::draw_io(canvas, model),
    }
}

/// Where each pane stands.
fn places(body: Rect, view: &View) -> Vec<(Pane, Rect)> {
    if body.width >= WIDE.0 && body.height >= WIDE.1 {
        let half = body.width / 2;
        let left = Rect { width: half, ..body };
        let right = Rect { x: body.x + half, width: body.width - half, ..body };
        let mut places = stacked(left, &[Pane::Sessions, Pane::Switches, Pane::Next], view);
        places.extend(stacked(right, &[Pane::Pool, Pane::Io], view));
        return places;
    }
    if body.width < BESIDE {
        return stacked(body, &[Pane::Sessions, Pane::Pool, Pane::Switches, Pane::Next], view);
    }
    let mut places = stacked(body, &[Pane::Sessions, Pane::Pool, Pane::Switches, Pane::Next], view);
    if let Some((Pane::Next, next)) = places.last_mut() {
        let half = next.width / 2;
        let io = Rect { x: next.x + half, width: next.width - half, ..*next };
        next.width = half;
        places.push((Pane::Io, io));
    }
    places
}

/// The fewest lines that a pane can do with, and the most that it needs.
fn wants(pane: Pane, view: &View) -> (u16, u16) {
    let lines = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
    let likely = view.model.as_ref().map_or(0, |model| model.likely.len());
    match pane {
        Pane::Sessions => (2, lines(sessions::lines(view))),
        Pane::Pool => (3, u16::MAX),
        Pane::Switches => (3, 9),
        Pane::Next => (3, lines(likely.max(5) + 1)),
        Pane::Io => (4, 11),
    }
}

/// Panes one above the other. Where there is too little room, the pool goes first, then the last.
fn stacked(area: Rect, panes: &[Pane], view: &View) -> Vec<(Pane, Rect)> {
    let mut panes = panes.to_vec();
    let least = |panes: &[Pane]| -> u16 { panes.iter().map(|pane| wants(*pane, view).0).sum() };
    while panes.len() > 1 && least(&panes) > area.height {
        match panes.iter().position(|pane| *pane == Pane::Pool) {
            Some(pool) => drop(panes.remove(pool)),
            None => drop(panes.pop()),
        }
    }
    let mut heights: Vec<_> = panes.iter().map(|pane| wants(*pane, view).0).collect();
    let mut left = area.height.saturating_sub(heights.iter().sum());
    // A line each in turn, until there are none left. Only the pool, which always wants more, has
    // one every other time.
    let mut turn = 0;
    while left > 0 && turn < area.height.saturating_mul(2) {
        for (height, pane) in heights.iter_mut().zip(&panes) {
            let has_turn = *pane != Pane::Pool || turn % 2 == 0;
            if left > 0 && has_turn && *height < wants(*pane, view).1 {
                *height += 1;
                left -= 1;
            }
        }
        turn += 1;
    }
    let mut y = area.y;
    let place = |(pane, height): (Pane, u16)| {
        let height = height.min(area.bottom().saturating_sub(y));
        let place = Rect { y, height, ..area };
        y += height;
        (pane, place)
    };
    panes.into_iter().zip(heights).map(place).collect()
}
