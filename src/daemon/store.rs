//! What systemd keeps for the daemon while there is none: descriptors of pool, table and roster of
//! each model, so that the next daemon can go on from there.
//!
//! Three of a kind share an end of their names: which daemon they are of, later ones being larger, and
//! the model's number. What comes back is not trusted, and never keeps the daemon from starting; what
//! is made of it is `engine::adopt`'s business.

use super::systemd::{Notifier, Passed};
use crate::engine::{Estate, Model, Predecessor};
use rustix::time::{ClockId, clock_gettime};
use sd_notify::NotifyState;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
};

/// What systemd is asked for. The crate's own words come with another way to send them.
const KEEP: NotifyState<'_> = NotifyState::Custom("FDSTORE=1");
const FORGET: NotifyState<'_> = NotifyState::Custom("FDSTOREREMOVE=1");

const POOL: &str = "pool";
const TABLE: &str = "table";
const ROSTER: &str = "roster";

/// What earlier daemons have left.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// The latest first.
    predecessors: Vec<Predecessor>,
    /// Everything that is kept, by name.
    names: BTreeSet<String>,
    /// Whether old pools were given up, whose memory comes back a little later.
    gave_up: bool,
}

/// What is kept of a model as far as it is found. The key's order is that of time.
type Found = BTreeMap<(u64, usize), [Option<OwnedFd>; 3]>;

impl Store {
    /// Sorts what came with the start and is no socket.
    pub(super) fn sort(passed: Vec<Passed>) -> Self {
        let (mut found, mut names) = (Found::new(), BTreeSet::new());
        for Passed { name, fd } in passed {
            let place = parse(&name).map(|(key, part)| &mut found.entry(key).or_default()[part]);
            match place {
                Some(place @ None) => *place = Some(fd),
                _ => tracing::warn!(name, "systemd keeps what is of no use here: it is dropped"),
            }
            names.insert(name);
        }
        let mut predecessors = Vec::new();
        for ((daemon, number), parts) in found.into_iter().rev() {
            match open(parts) {
                Ok(predecessor) => predecessors.push(predecessor),
                Err(error) => {
                    let what = "what a daemon has left cannot be used: it is dropped";
                    tracing::warn!(daemon, number, error, "{what}");
                }
            }
        }
        Self { predecessors, names, gave_up: false }
    }

    pub(super) fn predecessors(&self) -> &[Predecessor] {
        &self.predecessors
    }

    /// Whether there are old pools to be given up.
    pub(super) fn has_memory(&self) -> bool {
        self.predecessors.iter().any(Predecessor::has_memory)
    }

    /// Whether there were.
    pub(super) fn gave_up_memory(&self) -> bool {
        self.gave_up
    }

    /// Lets go of all old pools, so that their memory goes once clients have let go of it, too. The
    /// sessions stay known.
    pub(super) fn give_up_memory(&mut self, notifier: &Notifier) {
        self.gave_up |= self.has_memory();
        self.predecessors.iter_mut().for_each(Predecessor::give_up_memory);
        for name in self.names.iter().filter(|name| name.starts_with(POOL)) {
            notifier.tell_now(&[FORGET, NotifyState::Custom(&named(name))]);
        }
    }

    /// Has systemd keep what the next daemon needs, and then forget what was left by earlier ones: in
    /// between it has both, so that a crash takes nothing.
    pub(super) async fn replace(self, models: Vec<Estate>, notifier: &Notifier) {
        drop(self.predecessors);
        Self::keep(models, notifier).await;
        for name in &self.names {
            notifier.tell(&[FORGET, NotifyState::Custom(&named(name))]).await;
        }
    }

    async fn keep(models: Vec<Estate>, notifier: &Notifier) {
        let daemon = now();
        for (number, Estate { pool, table, roster }) in models.into_iter().enumerate() {
            let parts = [(POOL, pool), (TABLE, Some(table)), (ROSTER, Some(roster))];
            for (part, fd) in parts.into_iter().filter_map(|(part, fd)| Some((part, fd?))) {
                let name = named(&format!("{part}.{daemon:016x}.{number}"));
                let notice = [KEEP, NotifyState::Custom(&name)];
                if !notifier.hand_over(&notice, Some(fd.as_fd())).await {
                    // Two of three are of no use.
                    return;
                }
            }
        }
    }
}

/// What is to be kept of all models, if there is somebody to keep it.
pub(super) fn estates(models: &[Model], notifier: &Notifier) -> Vec<Estate> {
    let estates = models.iter().take_while(|_| notifier.is_heard()).map(Model::estate);
    estates.collect::<io::Result<_>>().unwrap_or_else(|error| {
        tracing::warn!(%error, "the next daemon will have to read everything");
        Vec::new()
    })
}

fn named(name: &str) -> String {
    format!("FDNAME={name}")
}

/// Takes a name apart: which daemon, which model, and which of the three.
fn parse(name: &str) -> Option<((u64, usize), usize)> {
    let mut parts = name.split('.');
    let mut part = || parts.next();
    let kind = part()?;
    let kind = [POOL, TABLE, ROSTER].iter().position(|known| *known == kind)?;
    let daemon = u64::from_str_radix(part()?, 16).ok()?;
    let number = part()?.parse().ok()?;
    parts.next().is_none().then_some(((daemon, number), kind))
}

fn open(parts: [Option<OwnedFd>; 3]) -> Result<Predecessor, String> {
    let [pool, Some(table), Some(roster)] = parts else {
        return Err("not all of it is there".into());
    };
    Predecessor::open(Estate { pool, table, roster }).map_err(|error| error.to_string())
}

/// Time since the machine was started: systemd keeps nothing for longer than that.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    #[test]
    fn names_are_taken_apart_and_others_are_of_no_use() {
        assert_eq!(parse("table.00000000000000ff.3"), Some(((255, 3), 1)));
        for name in
            ["", "pool", "pool.1", "pool.x.1", "pool.1.x", "pool.1.1.1", "stored", "lake.1.1"]
        {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn p15_what_is_odd_in_the_store_is_dropped_and_forgotten() {
        let memfd = |name: &str| Passed {
            name: name.into(),
            fd: memfd_create(name, MemfdFlags::CLOEXEC).unwrap(),
        };
        let odd = ["stored", "pool.1.0", "pool.1.0", "table.1.0", "roster.1.0", "pool.2.0"];
        let store = Store::sort(odd.map(memfd).into());
        assert!(store.predecessors().is_empty());
        assert_eq!(store.names.len(), 5, "all of it is to be forgotten");
    }
}
