//! What is known of a daemon: takes in what it tells, and gives what is to be shown. Knows neither
//! terminal nor socket, and no clock but the one that it is told.

mod past;
mod view;

pub(super) use past::{Done, End, PHASES, Rate, Switch};
#[cfg(test)]
pub(super) use past::{KEPT_RATES, KEPT_SWITCHES};
pub(super) use view::{Ask, Cells, Daemon, Link, ModelView, SessionView, Slot, View};

use crate::proto::{self, event::Kind};
use past::{Counters, Past};
use std::{collections::BTreeMap, time::Duration};

/// Models whose past is kept. More would be told, but not remembered.
const MAX_MODELS: usize = 256;
/// Characters of a name that are kept.
const MAX_NAME: usize = 256;

/// What comes from the daemon, or instead of it.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// What is.
    Status(Box<proto::GetStatusResponse>),
    /// What happened.
    Events(proto::WatchEventsResponse),
    /// There is no daemon to speak to, and why.
    Away(String),
}

/// The time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Now {
    /// Since the program began.
    pub(super) running: Duration,
    /// Microseconds since 1970.
    pub(super) wall_us: u64,
}

/// What is known of a daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Since when there has been no daemon, and why.
    away: Option<(Duration, String)>,
    /// What it told last.
    status: Option<proto::GetStatusResponse>,
    past: BTreeMap<String, Past>,
    /// The run of the daemon that counts the events.
    instance: String,
    /// The last event's number.
    seen: u64,
    lost: u64,
    restarts: u64,
}

impl State {
    /// Takes in what came.
    pub(super) fn take(&mut self, news: News, now: Now) {
        match news {
            News::Status(status) => self.take_status(*status),
            News::Events(events) => self.take_events(&events),
            News::Away(why) => {
                let since = self.away.take().map_or(now.running, |(since, _)| since);
                self.away = Some((since, clean(&why)));
            }
        }
    }

    /// The names of the models.
    pub(super) fn models(&self) -> impl Iterator<Item = &str> {
        self.status.iter().flat_map(|status| &status.models).map(|model| model.name.as_str())
    }

    /// The model after this one, the first after the last.
    pub(super) fn model_after(&self, model: &str) -> String {
        let place = self.models().position(|name| name == model).unwrap_or_default();
        let next = self.models().nth(place + 1).or_else(|| self.models().next());
        next.unwrap_or_default().to_owned()
    }

    /// Models of which something is remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.past.len()
    }

    fn take_status(&mut self, status: proto::GetStatusResponse) {
        self.away = None;
        let uptime = status.uptime_ms;
        let names: Vec<_> = status.models.iter().map(|model| &model.name).collect();
        // A model that is gone for good leaves nothing behind; one that never told its state has
        // no place among those that do.
        self.past.retain(|name, _| names.contains(&name));
        for model in status.models.iter().take(MAX_MODELS) {
            let past = self.past.entry(model.name.clone()).or_default();
            past.count(Counters::of(uptime, model));
        }
        self.status = Some(status);
    }

    fn take_events(&mut self, events: &proto::WatchEventsResponse) {
        if events.instance != self.instance {
            if !self.instance.is_empty() {
                self.restarts += 1;
                self.past.values_mut().for_each(Past::begin_anew);
            }
            self.instance = events.instance.clone();
            self.seen = 0;
        }
        for event in &events.events {
            // Told twice, perhaps by a call before.
            if event.sequence > self.seen {
                self.seen = event.sequence;
                self.take_event(event);
            }
        }
    }

    fn take_event(&mut self, event: &proto::Event) {
        match &event.kind {
            Some(Kind::Lost(lost)) => self.lost += lost.count,
            Some(Kind::Switched(switched)) => {
                self.note_switch(event, switched);
                self.remember(event, Switch::done(event, switched));
            }
            Some(Kind::SwitchFailed(failed)) => {
                self.remember(event, Switch::failed(event, failed));
            }
            _ => {}
        }
    }

    fn remember(&mut self, event: &proto::Event, switch: Switch) {
        if self.past.len() < MAX_MODELS || self.past.contains_key(&event.model) {
            self.past.entry(event.model.clone()).or_default().switched(switch);
        }
    }

    /// A session's task shows at once, not with the next status only.
    fn note_switch(&mut self, event: &proto::Event, switched: &proto::TaskSwitched) {
        let models = self.status.iter_mut().flat_map(|status| &mut status.models);
        let sessions = models.flat_map(|model| &mut model.sessions);
        let generation = switched.result.as_ref().map_or(0, |result| result.generation);
        for session in sessions {
            let same = session.model == event.model && session.session == event.session;
            if same && generation > session.generation {
                session.generation = generation;
                session.task.clone_from(&switched.task);
                if session.pending_task == switched.task {
                    session.pending_task.clear();
                }
            }
        }
    }
}

/// A text of somebody else as it can be shown: no control characters, nothing that changes the
/// direction of writing, and not too long.
fn clean(text: &str) -> String {
    let harmless = |c: char| if c.is_ascii_graphic() || c.is_alphanumeric() { c } else { '?' };
    let shown = text.chars().map(|c| if c == ' ' { ' ' } else { harmless(c) });
    shown.take(MAX_NAME).collect()
}
