//! One look at a daemon, as text or as JSON, for scripts.

use super::{
    super::{
        failure::Failure,
        output::{print, print_json},
    },
    Clock, TopArgs,
    draw::{self, Look},
    feed::{Feed, QUEUE},
    state::{Ask, News, State},
    ui::Ui,
};
use ratatui::{buffer::Buffer, crossterm::terminal, layout::Rect};
use std::{env, io};
use tokio::{
    runtime::Builder,
    sync::{mpsc, watch},
};

/// How large the frame is where there is no terminal, and nothing else is asked for.
const SIZE: (u16, u16) = (80, 24);
/// The largest that can be asked for.
const LARGEST: u16 = 500;

/// Looks twice, an interval apart: rates are differences.
pub(super) fn once(args: &TopArgs) -> Result<(), Failure> {
    let clock = Clock::start();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    let state = runtime.block_on(look(args, clock))?;
    if !args.model.is_empty() && !state.models().any(|model| model == args.model) {
        let known = state.models().collect::<Vec<_>>().join(", ");
        let model = &args.model;
        return Err(Failure::failed(format!("there is no model `{model}`; there is {known}")));
    }
    let view = state.view(Ask { model: &args.model, filter: "" }, clock.now());
    if args.json {
        return print_json(&view);
    }
    let (width, height) = size();
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    let look = Look::of_environment();
    let control = args.control().display().to_string();
    draw::draw(&mut buffer, &view, &Ui::new(args.interval), &control, look);
    print(&text(&buffer))
}

async fn look(args: &TopArgs, clock: Clock) -> Result<State, Failure> {
    let (_wanted, wanted) = watch::channel(args.wanted());
    let (news, mut told) = mpsc::channel(QUEUE);
    tokio::spawn(Feed::new(args.control().clone(), wanted, news).run());
    let mut state = State::default();
    let (mut looks, mut events) = (0, 0);
    // Everything that happened before is told before the second look: there is at least that the
    // daemon serves.
    while looks < 2 || events == 0 {
        let Some(news) = told.recv().await else { break };
        match &news {
            News::Status(_) => looks += 1,
            News::Events(_) => events += 1,
            News::Away(why) if why.is_empty() => {
                let socket = args.control().display().to_string();
                return Err(Failure::failed(format!(
                    "cannot reach a daemon at {socket}; is it running?"
                )));
            }
            News::Away(why) => return Err(Failure::failed(why.clone())),
        }
        state.take(news, clock.now());
    }
    Ok(state)
}

/// The terminal's size, or what `COLUMNS` and `LINES` say where there is none.
fn size() -> (u16, u16) {
    let set = |name: &str| env::var(name).ok()?.parse::<u16>().ok();
    let found =
        if io::IsTerminal::is_terminal(&io::stdout()) { terminal::size().ok() } else { None };
    let (width, height) = found.unwrap_or(SIZE);
    let width = set("COLUMNS").unwrap_or(width).clamp(1, LARGEST);
    (width, set("LINES").unwrap_or(height).clamp(1, LARGEST))
}

/// The signs of a frame, line by line, without what is blank at the end.
pub(super) fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for row in buffer.area.rows() {
        let mut line = String::new();
        let mut covered = 0;
        for place in row.positions() {
            let symbol = buffer[place].symbol();
            // A wide sign covers the cell after it.
            if covered == 0 {
                line.push_str(symbol);
            }
            let width = ratatui::text::Span::raw(symbol).width();
            covered = width.max(covered).saturating_sub(1);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}
