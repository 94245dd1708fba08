//! Switching in place, for pools that hold one task only: the session gives up its task, and with it
//! the guarantee that a failure changes nothing, to make room for the next.
//!
//! ```text
//! serving A ──► serving none ──► there is room: A's blocks go, B's come ──► serving B
//!                    │                                └── failed: A again, if all of it is
//!                    │                                    still there, else none
//!                    └── failed: A again
//! ```
//!
//! While it waits for room, by leases on A or others, the session holds the pin of A: nobody else
//! gets its room. It is done only where it has to be: where both tasks fit, or will, the switch is
//! like any other.

use super::{EventKind, model::Model, pending::Pending};
use crate::{device::SessionEntry, units::TaskIndex};
use std::time::Duration;

impl Model {
    /// Lets a session give up its task, if that is wanted and nothing else makes room for the one
    /// that it switches to; what others gave up does not. Tells whether it did.
    pub(super) fn give_up(
        &mut self,
        now: Duration,
        entry: SessionEntry,
        task: TaskIndex,
        absent: usize,
    ) -> bool {
        let Some(session) = self.session(entry) else { return false };
        let Some(old) = session.active.task else { return false };
        let is_wanted = session.pending.as_ref().is_some_and(|pending| pending.in_place);
        // Only then are the sets worth looking at: who waits is tried again at every action.
        let helps = is_wanted
            && self.eventual_room(entry, task, false) < absent
            && absent <= self.eventual_room(entry, task, true);
        if !helps {
            return false;
        }
        if let Some(pending) = self.session(entry).and_then(|session| session.pending.as_mut()) {
            pending.given_up = Some(old);
        }
        // The pin that it has as the active task goes, or passes to its readers.
        self.residency.pin(old);
        let generation = self.serve(now, entry, None);
        if let Some(session) = self.session(entry).map(|session| session.name.clone()) {
            self.events.push(EventKind::GivenUp { session, task: old, generation });
        }
        true
    }

    /// Serves what was given up again, if anything was, as the switch for which that was done has
    /// failed. `false` if some of it has gone, which it may have once that was loading.
    pub(super) fn take_back(&mut self, entry: SessionEntry, failed: &Pending) -> bool {
        let Some(old) = failed.given_up else { return true };
        if self.residency.missing(old) > 0 {
            return false;
        }
        if failed.held().is_none() {
            self.residency.pin(old);
        }
        // No task is superseded, so it does not matter when.
        self.serve(Duration::ZERO, entry, Some(old));
        true
    }

    /// Forgets what a session gave up; nobody will want it back.
    pub(super) fn forget_given_up(&mut self, entry: SessionEntry) {
        let Some(session) = self.session(entry) else { return };
        let Some(pending) = session.pending.as_mut() else { return };
        let held = pending.held();
        pending.given_up = None;
        held.into_iter().for_each(|old| self.residency.unpin(old));
    }
}
