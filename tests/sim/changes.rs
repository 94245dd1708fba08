//! What sessions serve, as the table shows it: published, given up, taken back; and the leases on
//! what they served before.

use super::{
    sequence::Sequence,
    world::{DrainingWorld, Expect, PendingWorld},
};
use std::time::Duration;
use synchromesh::{
    device::Active,
    engine::LeaseStatus,
    units::{Generation, TaskIndex},
};

/// How often leases on old generations are looked at: as often as the latest has lasted, in 32
/// steps, but within these bounds.
const FIRST_LOOKS: Duration = Duration::from_millis(2);
const LAST_LOOKS: Duration = Duration::from_millis(100);

/// Model and place of a session.
pub(crate) type Place = (usize, u32);

impl Sequence<'_> {
    /// What the pools hold before the engine gets an action.
    pub(crate) fn note_residents(&mut self) {
        for (model, observer) in self.world.models.iter_mut().zip(&self.observers) {
            model.resident = observer.resident();
        }
    }

    /// I2: what a session serves changes because of its pending switch, and for no other reason.
    /// What the world foresaw is noted already.
    pub(crate) fn note_changes(&mut self) {
        let mut published = 0;
        for place in self.world.places() {
            let session = self.world.session(place);
            let shown = self.observers[place.0].table.active(session.entry);
            let changes = shown.generation.0 - session.active.generation.0;
            if changes == 2 || changes == 1 && shown.task.is_none() {
                self.note_gift(place);
            }
            let session = self.world.session(place);
            if shown == session.active {
                continue;
            }
            let next = session.active.generation.next();
            assert_eq!(shown.generation, next, "a generation follows the last");
            let pending = session.pending.as_ref().expect("a switch to publish");
            if shown.task == pending.given_up {
                self.note_return(place, shown);
            } else {
                self.note_publication(place, shown);
                published += 1;
            }
        }
        self.seen.count_if(published > 1, "several sessions switched");
        let notes = std::mem::take(&mut self.world.notes);
        notes.into_iter().for_each(|note| self.seen.count(note));
    }

    fn note_publication(&mut self, place: Place, shown: Active) {
        let pending = self.world.session(place).pending.as_ref().expect("a switch to publish");
        let PendingWorld { task, joined, in_place, given_up, .. } = *pending;
        let calls = pending.calls.clone();
        assert_eq!(shown.task, Some(task), "the task of the switch");
        let gone = calls.iter().all(|call| self.world.calls[call].answer.is_none());
        self.serves(place, shown);
        let (generation, gave_up) = (shown.generation, given_up.is_some());
        self.world.resolve(place, Expect::Published { generation, in_place: gave_up });
        self.seen.count_if(joined, "joined reads under way");
        self.seen.count_if(gone, "caller gone, switched");
        self.seen.count_if(gave_up, "switched in place");
        self.seen.count_if(in_place && !gave_up, "no need to be in place");
    }

    /// A session may be left without a task only for its own switch, if that is in place, and only
    /// if there is no room for both tasks.
    fn note_gift(&mut self, place: Place) {
        let session = self.world.session(place);
        let (active, pending) = (session.active, session.pending.as_ref());
        let pending = pending.expect("a switch to give the task up for");
        let task = pending.task;
        assert!(pending.in_place && pending.given_up.is_none(), "it may be given up, once");
        assert!(active.task.is_some(), "there is a task to give up");
        assert!(!self.could_fit(place, task, false), "both tasks fit");
        assert!(self.may_help(place, task), "there would be no room all the same");
        self.serves(place, Active { generation: active.generation.next(), task: None });
        let pending = self.world.session(place).pending.as_mut().expect("as before");
        pending.given_up = active.task;
        self.seen.count("gave up its task");
    }

    /// A switch has failed, and the session has the task again that it gave up.
    fn note_return(&mut self, place: Place, shown: Active) {
        let pending = self.world.session(place).pending.as_mut().expect("as before");
        pending.taken_back = true;
        self.serves(place, shown);
        self.seen.count("taken back");
    }

    fn serves(&mut self, place: Place, active: Active) {
        let since = self.rig.now();
        let old = self.world.session(place).active.task();
        let old = old.filter(|old| self.leased(place, old.generation));
        let session = self.world.session(place);
        session.draining.extend(old.map(|old| DrainingWorld { old, since, revoked: false }));
        session.now_serves(active);
        self.seen.count_if(old.is_some(), "draining");
    }

    /// After a switch has failed, the session has the task that it gave up if all of that is there,
    /// and else none.
    pub(crate) fn check_emptied(&mut self, place: Place, emptied: bool) {
        let resident = self.observers[place.0].resident();
        let content = self.rig.contents[place.0].clone();
        let session = self.world.session(place);
        let pending = session.pending.as_ref().expect("the switch that failed");
        let is_there = |task| content.task_blocks(task).is_subset(&resident);
        let taken_back = pending.given_up.is_some_and(is_there);
        assert_eq!(pending.taken_back, taken_back, "taken back if all of it is there");
        assert_eq!(emptied, pending.given_up.is_some() && !taken_back, "and the caller is told");
        assert!(!emptied || session.active.task.is_none(), "it has no task");
    }

    /// Whether a task would fit beside all that was, is or may become active, what other sessions
    /// gave up, and what stuck clients hold.
    pub(crate) fn could_fit(&self, (model, own): Place, task: TaskIndex, in_place: bool) -> bool {
        let others = self.before.iter().copied().chain(self.world.snapshot());
        let held = others.filter(|holding| holding.place.0 == model).flat_map(|holding| {
            let is_own = holding.place.1 == own;
            let others = holding.pending.into_iter().chain(holding.given_up);
            let others = others.filter(move |_| !is_own);
            holding.active.filter(|_| !(is_own && in_place)).into_iter().chain(others)
        });
        let world = &self.world.models[model];
        world.holds(held.chain(world.stuck()).chain([task]))
    }

    /// Whether it may have helped a session to give up its task: whether the other fits beside what
    /// the others had before and after.
    fn may_help(&self, (model, own): Place, task: TaskIndex) -> bool {
        let others = self.before.iter().filter(|holding| holding.place != (model, own));
        let others = others.filter(|holding| holding.place.0 == model);
        let sessions = &self.world.models[model].sessions;
        let kept = others.filter_map(|before| {
            let now = sessions.get(&before.place.1)?.active.task;
            before.active.filter(|active| now == Some(*active))
        });
        let world = &self.world.models[model];
        world.holds(kept.chain(world.stuck()).chain([task]))
    }

    /// Notes why a switch was refused.
    pub(crate) fn note_refusal(&mut self, place: Place, task: TaskIndex) {
        let world = &self.world.models[place.0];
        let active = world.sessions.values().filter_map(|session| session.active.task);
        let without = world.holds(active.chain([task]));
        self.seen.count_if(without && !world.fits(task), "refused after a revocation");
    }

    /// Whether a client of the session announces this generation, rightly or not.
    fn leased(&self, place: Place, generation: Generation) -> bool {
        let mut clients = self.clients.iter().filter(|client| client.place() == place);
        clients.any(|client| client.announced() == generation)
    }

    /// Forgets old generations that nobody announces any more, and tells clients that take too long,
    /// as the engine does with every action.
    pub(crate) fn settle_leases(&mut self) {
        let (now, patience) = (self.rig.now(), self.rig.limits.lease_patience);
        for place in self.world.places() {
            let mut draining = std::mem::take(&mut self.world.session(place).draining);
            draining.retain(|draining| self.leased(place, draining.old.generation));
            for late in &mut draining {
                if !late.revoked && now.saturating_sub(late.since) >= patience {
                    late.revoked = true;
                    self.tell(place, late.old.generation);
                }
            }
            self.world.session(place).draining = draining;
        }
    }

    fn tell(&mut self, place: Place, generation: Generation) {
        let clients = self.clients.iter_mut().filter(|client| client.place() == place);
        for client in clients.filter(|client| client.announced() == generation) {
            client.told = Some(generation);
            client.due += 1;
            self.seen.count("lease revoked");
        }
    }

    /// The doorbell rings once for each change and each revocation, and a revoked word is set only
    /// for a lease that was revoked.
    pub(crate) fn check_bells(&mut self) {
        for client in &mut self.clients {
            let changes = self.world.session(client.place()).changes;
            client.due += changes - std::mem::replace(&mut client.heard, changes);
            if client.due > 0 {
                assert_eq!(client.rings(), std::mem::take(&mut client.due), "rings");
            }
            assert_eq!(client.revoked(), client.told, "leases that were revoked");
        }
    }

    /// What the state tells of leases on old generations.
    pub(crate) fn check_leases(&self, place: Place, told: &[LeaseStatus]) {
        let now = self.rig.now();
        let world = &self.world.models[place.0];
        let clients = || self.clients.iter().filter(|client| client.place() == place);
        let mut expected = Vec::new();
        for draining in &world.sessions[&place.1].draining {
            let readers = clients().filter(|c| c.announced() == draining.old.generation);
            expected
                .extend(readers.map(|_| (draining.old, now - draining.since, draining.revoked)));
        }
        let lease = |lease: &LeaseStatus| {
            let task = world.content.task(&lease.task).expect("a task");
            let old = synchromesh::device::ActiveTask { generation: lease.generation, task };
            (old, lease.superseded_for, lease.revoked)
        };
        assert_eq!(told.iter().map(lease).collect::<Vec<_>>(), expected, "leases");
        for (lease, (old, ..)) in told.iter().zip(&expected) {
            self.check_kept(place.0, old.task, lease.kept);
        }
    }

    /// What leases on a task keep in the pool, beside what others need.
    fn check_kept(&self, model: usize, task: TaskIndex, kept: usize) {
        let world = &self.world.models[model];
        let sessions = || world.sessions.values();
        let active: Vec<_> = sessions().filter_map(|session| session.active.task).collect();
        let leased = sessions().flat_map(|session| &session.draining).map(|d| d.old.task);
        let pending = sessions().filter_map(|session| session.pending.as_ref());
        let pending = pending.flat_map(|p| [p.task].into_iter().chain(p.given_up));
        let pending = pending.filter(|other| *other != task);
        let beside = |others: Vec<TaskIndex>| match others.contains(&task) {
            true => 0,
            false => world.content.task_blocks(task).difference_count(&world.content.union(others)),
        };
        let others: Vec<_> = leased.filter(|other| *other != task).chain(active).collect();
        let least = beside(others.iter().copied().chain(pending).collect());
        // A switch that has not begun needs nothing yet, and one that has holds nothing any more.
        assert!((least..=beside(others)).contains(&kept), "{task:?} is kept: {kept}");
    }

    /// I4: the engine asks to be woken in time, and not when there is nothing to do.
    pub(crate) fn check_tick(&self) {
        let (now, patience) = (self.rig.now(), self.rig.limits.lease_patience);
        let sessions = || self.world.models.iter().flat_map(|model| model.sessions.values());
        let deadlines = sessions().filter_map(|session| Some(session.pending.as_ref()?.deadline()));
        let looks = sessions().filter_map(|session| {
            let latest = session.draining.iter().map(|draining| draining.since).max()?;
            Some(now + ((now - latest) / 32).clamp(FIRST_LOOKS, LAST_LOOKS))
        });
        let draining = sessions().flat_map(|session| &session.draining);
        let late = draining.filter(|d| !d.revoked).map(|d| d.since + patience);
        let due = deadlines.chain(looks).chain(late).min();
        assert_eq!(self.rig.engine.next_tick(), due, "the next tick");
    }
}
