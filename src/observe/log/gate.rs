//! Which lines are written: those of a level that is wanted, and of each place in the source no more
//! than a reader could follow. What is left out is counted and told; metrics and events are not
//! touched by it.

use super::queue::Queue;
use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tracing::{Metadata, Subscriber, callsite::Identifier, subscriber::Interest};
use tracing_subscriber::{
    filter::Targets,
    layer::{Context, Filter},
};

/// Lines of one place that may come at once, before they are limited.
const BURST: u32 = 200;
/// One more may come in each such time.
const INTERVAL: Duration = Duration::from_millis(50);
/// Places that are named when lines were left out.
const NAMED: usize = 4;

/// Decides which lines are written.
pub(super) struct Gate {
    levels: RwLock<Targets>,
    places: Mutex<HashMap<Identifier, Place>>,
    /// The time that places go by begins here.
    begun: Instant,
    left_out: AtomicU64,
    /// Whether it will be told that lines were left out.
    will_tell: AtomicBool,
    queue: Queue,
}

/// A place in the source that lines come from.
#[derive(Default)]
struct Place {
    /// When it has been quiet for long enough for a whole burst.
    calm_at: Duration,
    left_out: u64,
    /// What its lines are called, once some were left out.
    name: String,
}

impl Place {
    /// Whether a line may come now.
    fn admits(&mut self, now: Duration) -> bool {
        if self.calm_at > now + INTERVAL * (BURST - 1) {
            return false;
        }
        self.calm_at = self.calm_at.max(now) + INTERVAL;
        true
    }
}

impl Gate {
    pub(super) fn new(levels: Targets, queue: Queue) -> Self {
        Self {
            levels: RwLock::new(levels),
            places: Mutex::default(),
            begun: Instant::now(),
            left_out: AtomicU64::new(0),
            will_tell: AtomicBool::new(false),
            queue,
        }
    }

    /// Wants other levels from now on.
    pub(super) fn set_levels(&self, levels: Targets) {
        *self.levels.write().unwrap_or_else(PoisonError::into_inner) = levels;
        tracing::callsite::rebuild_interest_cache();
    }

    /// Where lines go that come through.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Lines that were left out since the beginning.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// How many lines were left out since this was asked last, and what they are called.
    pub(super) fn take_left_out(&self) -> (u64, String) {
        self.will_tell.store(false, Ordering::Relaxed);
        let mut places = self.places();
        let mut found: Vec<_> = places.values_mut().filter(|place| place.left_out > 0).collect();
        found.sort_by(|a, b| b.left_out.cmp(&a.left_out).then_with(|| a.name.cmp(&b.name)));
        let count = found.iter().map(|place| place.left_out).sum();
        let mut which = String::new();
        for place in found.iter().take(NAMED) {
            let between = if which.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            let _ = write!(which, "{between}`{}` ({})", place.name, place.left_out);
        }
        found.into_iter().for_each(|place| place.left_out = 0);
        (count, which)
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let levels = self.levels.read().unwrap_or_else(PoisonError::into_inner);
        levels.would_enable(metadata.target(), metadata.level())
    }

    fn admits(&self, metadata: &Metadata<'_>, now: Duration) -> bool {
        let mut places = self.places();
        let place = places.entry(metadata.callsite()).or_default();
        if place.admits(now) {
            return true;
        }
        place.left_out += 1;
        if place.name.is_empty() {
            // Who gives no name of its own has one of this kind.
            let name = metadata.name();
            place.name = name.strip_prefix("event ").unwrap_or(name).to_owned();
        }
        drop(places);
        self.left_out.fetch_add(1, Ordering::Relaxed);
        if !self.will_tell.swap(true, Ordering::Relaxed) && !self.queue.look() {
            // Another one will try again.
            self.will_tell.store(false, Ordering::Relaxed);
        }
        false
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        // Nothing that is done under the lock can be left half done.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gate where tracing asks for it: before fields and words of a line are made.
#[derive(Clone)]
pub(super) struct Admission(pub(super) Arc<Gate>);

impl<S: Subscriber> Filter<S> for Admission {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        let gate = &*self.0;
        gate.wants(metadata)
            && (!metadata.is_event() || gate.admits(metadata, gate.begun.elapsed()))
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.0.wants(metadata) { Interest::sometimes() } else { Interest::never() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_may_tell_a_burst_and_then_so_many_a_second() {
        let mut place = Place::default();
        let mut admitted = |at: Duration| (0..1000).filter(|_| place.admits(at)).count();
        assert_eq!(admitted(Duration::ZERO), BURST as usize);
        assert_eq!(admitted(INTERVAL / 2), 0);
        assert_eq!(admitted(INTERVAL), 1);
        assert_eq!(admitted(INTERVAL * 11), 10);
        assert_eq!(admitted(INTERVAL * 1000), BURST as usize, "it has been quiet");
    }

    #[test]
    fn at_the_limits_pace_nothing_is_left_out() {
        let mut place = Place::default();
        assert!((0..10_000).all(|turn| place.admits(INTERVAL * turn)));
    }
}
