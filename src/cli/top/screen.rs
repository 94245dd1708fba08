//! The terminal: taken over while `top` runs, and given back however it ends; and what is typed.

use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event},
};
use std::{
    env,
    io::{self, IsTerminal as _},
    thread,
    time::Duration,
};
use tokio::sync::mpsc;

/// How often the reader of keys looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(200);
/// Keys that wait to be taken in.
const QUEUE: usize = 32;

/// Whether there is a terminal to draw on and to read from.
pub(super) fn is_there() -> bool {
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && io::stdin().is_terminal() && !dumb
}

/// A terminal that has been taken over. Dropped, it is as it was before; so it is after a panic.
pub(super) struct Screen {
    pub(super) terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn take() -> io::Result<Self> {
        // It gives the terminal back when something panics, before that is reported.
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                // Half of it may be done.
                let _ = ratatui::try_restore();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal has gone, there is nothing to give back.
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }
}

/// What is typed, and changes of size. Ends when the terminal does.
pub(super) fn events() -> io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let read = move || {
        while !sender.is_closed() {
            let event = match event::poll(LOOK) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            // A terminal that cannot be read has gone.
            let Ok(event) = event else { return };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".into()).spawn(read)?;
    Ok(receiver)
}
