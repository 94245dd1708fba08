//! `events`: what happens to a daemon, a line each, as it happens. Outlives the daemon: when the next
//! one is there it goes on, and says so.

use super::{
    DaemonArgs,
    call::{ANSWER_LIMIT, refused},
    failure::Failure,
};
use crate::{
    client,
    observe::{KINDS, Stamp, Words, kind_name},
    proto::{self, Event, EventPosition, WatchEventsResponse, event::Kind},
};
use clap::{Args, builder::PossibleValuesParser};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use std::{
    fmt::Write as _,
    io::{self, ErrorKind, Write as _},
    str::FromStr,
    thread,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
    time::{sleep, timeout},
};
use tonic::{Code, Status, Streaming};

/// How long a daemon that has gone is given before it is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Only what happens to this model and to the daemon as a whole.
    #[arg(long, default_value = "")]
    model: String,
    /// Only what happens to this session and to the daemon as a whole.
    #[arg(long, default_value = "")]
    session: String,
    /// Only this kind of event; may be given more than once. What is missing is told in any case.
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    kind: Vec<String>,
    /// Where to begin: `new`, with what happens from now on; `all`, with the earliest that is kept;
    /// or after an event, as INSTANCE:SEQUENCE, which --json tells of each.
    #[arg(long, value_name = "WHERE", default_value = "new")]
    since: Since,
    /// End after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Print a JSON object a line instead of text.
    #[arg(long)]
    json: bool,
}

/// Where to begin.
#[derive(Clone, Debug, PartialEq)]
enum Since {
    New,
    All,
    After(EventPosition),
}

impl FromStr for Since {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = || {
            let (instance, sequence) = text.split_once(':')?;
            let sequence = sequence.parse().ok()?;
            Some(EventPosition { instance: instance.to_owned(), sequence })
        };
        match text {
            "new" => Ok(Self::New),
            "all" => Ok(Self::All),
            _ => place().map(Self::After).ok_or("use `new`, `all` or INSTANCE:SEQUENCE"),
        }
    }
}

/// Why no more is shown.
enum End {
    /// As many were shown as were asked for, or nobody reads any more.
    Done,
    /// The daemon has gone.
    Gone,
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Shows what happens until that is enough, the user stops it, or nobody reads it any more.
pub(super) fn events(args: &EventsArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::failed)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
        let mut tail = Tail { args, since: args.since.clone(), shown: 0 };
        tokio::select! {
            followed = tail.follow() => followed,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            () = reader_gone() => Ok(()),
        }
    })
}

/// Returns when standard output is a pipe that nobody can read from any more. Without it, nobody
/// would notice before the next event.
async fn reader_gone() {
    let (gone, is_gone) = oneshot::channel::<()>();
    let wait = move || {
        let output = io::stdout();
        let mut output = [PollFd::new(&output, PollFlags::empty())];
        // Asked for nothing, the kernel tells of nothing but the end.
        while matches!(poll(&mut output, None), Err(rustix::io::Errno::INTR)) {}
        drop(gone);
    };
    match thread::Builder::new().name("reader".into()).spawn(wait) {
        Ok(_) => drop(is_gone.await),
        // The next event will tell.
        Err(_) => std::future::pending().await,
    }
}

/// What has been shown, and where to go on.
struct Tail<'a> {
    args: &'a EventsArgs,
    since: Since,
    shown: u64,
}

impl Tail<'_> {
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut events = self.watch().await.map_err(|error| error.failure)?;
        loop {
            match self.show_all(&mut events).await {
                End::Done => return Ok(()),
                End::Failed(failure) => return Err(failure),
                End::Gone => notice("the daemon has gone; waiting for the next"),
            }
            // Of the next daemon, everything is new.
            if self.since == Since::New {
                self.since = Since::All;
            }
            events = loop {
                sleep(LOOK_AGAIN).await;
                match self.watch().await {
                    Ok(events) => break events,
                    Err(Unwatched { failure, is_final: true }) => return Err(failure),
                    Err(_) => {}
                }
            };
        }
    }

    /// Begins to watch where this left off.
    async fn watch(&self) -> Result<Streaming<WatchEventsResponse>, Unwatched> {
        let (after, only_new) = match &self.since {
            Since::New => (None, true),
            Since::All => (None, false),
            Since::After(place) => (Some(place.clone()), false),
        };
        let request = proto::WatchEventsRequest { model: self.args.model.clone(), after, only_new };
        let unreachable = |error| Unwatched { failure: Failure::failed(error), is_final: false };
        let control = client::connect(&self.args.daemon.control).await;
        let mut control = control.map_err(unreachable)?;
        let begun = timeout(ANSWER_LIMIT, control.watch_events(request)).await;
        match begun.unwrap_or_else(|_| Err(Status::cancelled(""))) {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Unwatched {
                is_final: !comes_and_goes(&status),
                failure: Failure::failed(refused(&status)),
            }),
        }
    }

    async fn show_all(&mut self, events: &mut Streaming<WatchEventsResponse>) -> End {
        loop {
            match events.message().await {
                Ok(Some(batch)) => {
                    if let Err(end) = self.show_batch(batch) {
                        return end;
                    }
                }
                Ok(None) => return End::Gone,
                Err(status) if comes_and_goes(&status) => return End::Gone,
                Err(status) => return End::Failed(Failure::failed(refused(&status))),
            }
        }
    }

    fn show_batch(&mut self, batch: WatchEventsResponse) -> Result<(), End> {
        let WatchEventsResponse { instance, events } = batch;
        if let Since::After(place) = &self.since
            && place.instance != instance
        {
            notice("this is another run of the daemon: its events are counted anew");
        }
        let mut text = String::new();
        let left = self.args.count.map_or(u64::MAX, |count| count - self.shown);
        let wanted = events.iter().filter(|event| self.is_wanted(event));
        let mut shown = 0;
        for event in wanted.take(left as usize) {
            text += &self.line(&instance, event)?;
            shown += 1;
        }
        self.shown += shown;
        print(&text)?;
        if self.args.count.is_some_and(|count| self.shown == count) {
            return Err(End::Done);
        }
        if let Some(last) = events.last() {
            self.since = Since::After(EventPosition { instance, sequence: last.sequence });
        }
        Ok(())
    }

    /// The daemon knows only of models.
    fn is_wanted(&self, event: &Event) -> bool {
        let Some(kind) = &event.kind else { return self.args.kind.is_empty() };
        let EventsArgs { session, kind: kinds, .. } = self.args;
        let concerns = session.is_empty() || event.model.is_empty() || event.session == *session;
        let is_asked_for = kinds.is_empty() || kinds.iter().any(|name| name == kind_name(kind));
        matches!(kind, Kind::Lost(_)) || concerns && is_asked_for
    }

    fn line(&self, instance: &str, event: &Event) -> Result<String, Failure> {
        #[derive(Serialize)]
        struct Line<'a> {
            instance: &'a str,
            #[serde(flatten)]
            event: &'a Event,
        }
        if self.args.json {
            let line = serde_json::to_string(&Line { instance, event });
            return Ok(line.map_err(Failure::failed)? + "\n");
        }
        let mut line = format!("{} ", Stamp(event.time_us).seen_from(Stamp::now()));
        let whose = [&event.model, &event.session].map(|name| &name[..]);
        // Writing to a string cannot fail.
        let _ = match whose {
            ["", _] => write!(line, "{}", Words(event)),
            [model, ""] => write!(line, "{model}: {}", Words(event)),
            [model, session] => write!(line, "{model}/{session}: {}", Words(event)),
        };
        Ok(line + "\n")
    }
}

/// Why a daemon cannot be watched.
struct Unwatched {
    failure: Failure,
    /// Whether waiting would not help.
    is_final: bool,
}

/// Whether a refusal is one that passes: a daemon that starts, ends or has gone, or too many others
/// who watch.
fn comes_and_goes(status: &Status) -> bool {
    // The transport's own failures come as the last two.
    matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::Cancelled | Code::Unknown
    )
}

/// Says something besides the events.
fn notice(what: &str) {
    // If nobody reads that, the events still come.
    let _ = writeln!(io::stderr(), "{what}");
}

/// Prints at once, as whoever reads may act on it.
fn print(text: &str) -> Result<(), End> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(End::Done),
        Err(error) => Err(End::Failed(Failure::failed(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_new_all_or_a_place() {
        assert_eq!("new".parse(), Ok(Since::New));
        assert_eq!("all".parse(), Ok(Since::All));
        let place = EventPosition { instance: "0123abcd".into(), sequence: 42 };
        assert_eq!("0123abcd:42".parse(), Ok(Since::After(place)));
        for wrong in ["", "42", "old", "0123abcd:", "0123abcd:-1", ":x"] {
            assert!(wrong.parse::<Since>().is_err(), "{wrong}");
        }
    }
}
