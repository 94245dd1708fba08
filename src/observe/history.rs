//! The latest events, numbered. Whoever was away goes on at a number; what is not kept any more is
//! told as lost, never passed over. It knows neither watchers nor time.

use crate::proto::{Event, EventsLost, event::Kind};
use prost::{Message as _, bytes::Bytes};
use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// An event that has its number. It is encoded once, however many watch.
#[derive(Debug)]
pub struct Told {
    event: Event,
    /// When it happened, by the daemon's clock.
    at: Duration,
    encoded: OnceLock<Bytes>,
}

impl Told {
    fn new(event: Event, at: Duration) -> Arc<Self> {
        Arc::new(Self { event, at, encoded: OnceLock::new() })
    }

    /// When it happened, by the daemon's clock.
    pub(super) fn at(&self) -> Duration {
        self.at
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The same in the protocol's encoding.
    pub fn encoded(&self) -> Bytes {
        self.encoded.get_or_init(|| self.event.encode_to_vec().into()).clone()
    }

    fn sequence(&self) -> u64 {
        self.event.sequence
    }

    /// The number of the event before.
    fn begins(&self) -> u64 {
        self.sequence() - events_of(&self.event)
    }
}

/// The latest events.
pub(super) struct History {
    kept: VecDeque<Arc<Told>>,
    limit: usize,
    /// The number of the last event.
    last: u64,
}

impl History {
    /// Keeps at most so many events.
    pub(super) fn new(limit: usize) -> Self {
        Self { kept: VecDeque::with_capacity(limit), limit, last: 0 }
    }

    /// The number of the last event; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The number after which the earliest event comes that is kept.
    pub(super) fn begin(&self) -> u64 {
        self.kept.front().map_or(self.last, |first| first.begins())
    }

    /// Takes an event in and numbers it.
    pub(super) fn push(&mut self, event: Event, at: Duration) {
        self.last += events_of(&event);
        if self.kept.len() == self.limit {
            self.kept.pop_front();
        }
        self.kept.push_back(Told::new(Event { sequence: self.last, ..event }, at));
    }

    /// The events after one of this number, at most so many. If the first of them is not kept any
    /// more, the loss comes first.
    pub(super) fn after(&self, sequence: u64, most: usize) -> Vec<Arc<Told>> {
        let from = self.kept.partition_point(|told| told.sequence() <= sequence);
        let Some(first) = self.kept.get(from) else { return Vec::new() };
        let begins = first.begins();
        let lost = (begins > sequence).then(|| {
            let kind = Some(Kind::Lost(EventsLost { count: begins - sequence }));
            let time_us = first.event.time_us;
            Told::new(Event { sequence: begins, time_us, kind, ..Event::default() }, first.at)
        });
        let kept = self.kept.range(from..).cloned();
        lost.into_iter().chain(kept).take(most).collect()
    }
}

/// How many events one stands for.
fn events_of(event: &Event) -> u64 {
    match &event.kind {
        Some(Kind::Lost(lost)) => lost.count,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::SessionOpened;

    fn opened() -> Event {
        Event {
            kind: Some(Kind::SessionOpened(SessionOpened { caller: None })),
            ..Event::default()
        }
    }

    fn lost(count: u64) -> Event {
        Event { kind: Some(Kind::Lost(EventsLost { count })), ..Event::default() }
    }

    /// Numbers and how many events each stands for.
    fn told(history: &History, after: u64) -> Vec<(u64, u64)> {
        let told = history.after(after, usize::MAX);
        told.iter().map(|told| (told.sequence(), events_of(told.event()))).collect()
    }

    #[test]
    fn events_are_numbered_from_one_and_told_from_any_number_on() {
        let mut history = History::new(8);
        assert_eq!(told(&history, 0), []);
        (0..3).for_each(|_| history.push(opened(), Duration::ZERO));
        assert_eq!(told(&history, 0), [(1, 1), (2, 1), (3, 1)]);
        assert_eq!(told(&history, 2), [(3, 1)]);
        assert_eq!(told(&history, 3), []);
        assert_eq!(told(&history, 99), [], "a number that is yet to come");
        assert_eq!(history.after(0, 2).len(), 2);
    }

    #[test]
    fn an_event_is_encoded_once_and_is_the_same() {
        let mut history = History::new(1);
        history.push(opened(), Duration::ZERO);
        let (one, other) = (history.after(0, 1).remove(0), history.after(0, 1).remove(0));
        assert_eq!(Event::decode(one.encoded()).unwrap(), Event { sequence: 1, ..opened() });
        assert_eq!(one.encoded().as_ptr(), other.encoded().as_ptr());
    }

    #[test]
    fn what_is_not_kept_any_more_is_told_as_lost() {
        let mut history = History::new(2);
        (0..5).for_each(|_| history.push(opened(), Duration::ZERO));
        assert_eq!(told(&history, 0), [(3, 3), (4, 1), (5, 1)]);
        assert_eq!(told(&history, 2), [(3, 1), (4, 1), (5, 1)]);
        assert_eq!(told(&history, 3), [(4, 1), (5, 1)]);
        assert_eq!(told(&history, history.begin()), [(4, 1), (5, 1)], "who is new misses nothing");
    }

    #[test]
    fn what_was_lost_on_the_way_has_numbers_too() {
        let mut history = History::new(2);
        history.push(opened(), Duration::ZERO);
        history.push(lost(10), Duration::ZERO);
        assert_eq!(told(&history, 0), [(1, 1), (11, 10)]);
        assert_eq!(told(&history, 5), [(11, 10)], "nobody has seen part of a loss");
        history.push(opened(), Duration::ZERO);
        assert_eq!(told(&history, 0), [(1, 1), (11, 10), (12, 1)]);
        history.push(opened(), Duration::ZERO);
        assert_eq!(told(&history, 0), [(11, 11), (12, 1), (13, 1)]);
    }
}
