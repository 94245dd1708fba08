//! The display as it lives: keys, news and time come in, and what changed is drawn.

use super::{
    super::{failure::Failure, interrupt::Interrupt},
    Clock, TopArgs,
    draw::{self, Look},
    feed::{Feed, QUEUE, Wanted},
    screen::{self, Screen},
    state::{Ask, Now, State},
    ui::{Ui, Wish},
};
use ratatui::crossterm::event::{Event, KeyEventKind};
use std::{io, time::Duration};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// News are drawn this often at most; keys at once.
const CALM: Duration = Duration::from_millis(50);
/// Times that have passed are drawn this often.
const AGING: Duration = Duration::from_secs(1);

/// Shows a daemon until a key or a signal ends it.
pub(super) fn live(args: &TopArgs) -> Result<(), Failure> {
    // A second signal ends it where the first is not heard: while the terminal takes nothing.
    Interrupt::listen().map_err(Failure::failed)?;
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    let ended = runtime.block_on(show(args));
    ended.map_err(|error| Failure::failed(format!("cannot use the terminal: {error}")))
}

async fn show(args: &TopArgs) -> io::Result<()> {
    let mut signals = Signals::listen()?;
    let mut screen = Screen::take()?;
    let mut typed = screen::events()?;
    let (wanted, asked) = watch::channel(args.wanted());
    let (news, mut told) = mpsc::channel(QUEUE);
    tokio::spawn(Feed::new(args.control().clone(), asked, news).run());
    let mut shown = Shown::new(args);
    let mut drawn = shown.draw(&mut screen)?;
    // When to draw next.
    let mut due = drawn + AGING;
    loop {
        tokio::select! {
            // Signals and keys are not kept waiting by a daemon that has much to tell.
            biased;
            () = signals.any() => return Ok(()),
            event = typed.recv() => {
                // Without an event the terminal has gone, as with a key that says so.
                let Some(event) = event else { return Ok(()) };
                if shown.react(&event) == Wish::Quit {
                    return Ok(());
                }
                wanted.send_if_modified(|wanted| shown.want(wanted));
                due = Instant::now();
            }
            Some(news) = told.recv() => {
                shown.state.take(news, shown.clock.now());
                due = due.min(drawn + CALM);
                if Instant::now() < due {
                    continue;
                }
            }
            () = sleep_until(due) => {}
        }
        if Instant::now() >= due {
            drawn = shown.draw(&mut screen)?;
            due = drawn + AGING;
        }
    }
}

/// What is shown.
struct Shown {
    clock: Clock,
    control: String,
    look: Look,
    model: String,
    ui: Ui,
    state: State,
    /// What was known, and when, when the display was stopped.
    stopped: Option<Box<(State, Now)>>,
}

impl Shown {
    fn new(args: &TopArgs) -> Self {
        Self {
            clock: Clock::start(),
            control: args.control().display().to_string(),
            look: Look::of_environment(),
            model: args.model.clone(),
            ui: Ui::new(args.interval),
            state: State::default(),
            stopped: None,
        }
    }

    /// Does what an event of the terminal says.
    fn react(&mut self, event: &Event) -> Wish {
        let Event::Key(key) = event else { return Wish::Nothing };
        if key.kind == KeyEventKind::Release {
            return Wish::Nothing;
        }
        let wish = self.ui.press(*key);
        if wish == Wish::NextModel {
            self.model = self.state.model_after(&self.model);
        }
        match (self.ui.paused, &self.stopped) {
            (true, None) => self.stopped = Some(Box::new((self.state.clone(), self.clock.now()))),
            (false, Some(_)) => self.stopped = None,
            _ => {}
        }
        wish
    }

    /// Asks for what is to be shown, and says whether that is something else than before.
    fn want(&self, wanted: &mut Wanted) -> bool {
        let want = Wanted { model: self.model.clone(), interval: self.ui.interval };
        let other = want != *wanted;
        *wanted = want;
        other
    }

    fn draw(&self, screen: &mut Screen) -> io::Result<Instant> {
        let ask = Ask { model: &self.model, filter: &self.ui.filter };
        let view = match self.stopped.as_deref() {
            Some((state, now)) => state.view(ask, *now),
            None => self.state.view(ask, self.clock.now()),
        };
        screen.terminal.draw(|frame| {
            let buffer = frame.buffer_mut();
            draw::draw(buffer, &view, &self.ui, &self.control, self.look);
        })?;
        Ok(Instant::now())
    }
}

/// The signals that end a program in a terminal.
struct Signals([Signal; 4]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
        ];
        let [terminate, hangup, interrupt, quit] = kinds.map(signal);
        Ok(Self([terminate?, hangup?, interrupt?, quit?]))
    }

    async fn any(&mut self) {
        let [terminate, hangup, interrupt, quit] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    }
}
