//! Switching in place, for pools that hold one task only: the session gives up its task, and with it
//! the guarantee that a failure changes nothing, to make room for the next.
//!
//! ```text
//! serving A ──► serving none ──► leases on A end, A's blocks go, B's come ──► serving B
//!                    └── failed: A again, if all of it is still there, else none
//! ```
//!
//! It is done only where it has to be: where both tasks fit, or will, the switch is like any other.

use super::model::Model;
use crate::{device::SessionEntry, units::TaskIndex};
use std::time::Duration;

impl Model {
    /// Lets a session give up its task, if that is wanted and nothing else makes room for the one
    /// that it switches to. Tells whether it did.
    pub(super) fn give_up(
        &mut self,
        now: Duration,
        entry: SessionEntry,
        task: TaskIndex,
        absent: usize,
    ) -> bool {
        let room = self.eventual_room(task, None);
        let room_in_place = self.eventual_room(task, Some(entry));
        let Some(session) = self.session(entry) else { return false };
        let old = session.active.task;
        let Some(pending) = session.pending.as_mut().filter(|pending| pending.in_place) else {
            return false;
        };
        let helps = room < absent && absent <= room_in_place;
        if old.is_none() || !helps {
            return false;
        }
        pending.given_up = old;
        self.serve(now, entry, None);
        true
    }

    /// Serves a task again that was given up for a switch that failed. `false` if some of it has
    /// gone meanwhile.
    pub(super) fn take_back(&mut self, entry: SessionEntry, old: TaskIndex) -> bool {
        if self.residency.missing(old) > 0 {
            return false;
        }
        self.residency.pin(old);
        // No task is superseded, so it does not matter when.
        self.serve(Duration::ZERO, entry, Some(old));
        true
    }
}
