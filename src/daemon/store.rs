//! What systemd keeps for the daemon while there is none: descriptors of pool, table and roster of
//! each model, so that the next daemon can go on from there.
//!
//! Three of a kind share an end of their names: which daemon they are of, later ones being larger, and
//! the model's number. What comes back is not trusted, and never keeps the daemon from starting; what
//! is made of it is `engine::adopt`'s business.

use super::systemd::{self, Notifier, Passed};
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
/// What is kept of a model, in this order.
const PARTS: [&str; 3] = [POOL, "table", "roster"];

/// What earlier daemons have left.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// The latest first, and one of a bundle.
    predecessors: Vec<Predecessor>,
    /// Everything that is kept, by name.
    names: BTreeSet<String>,
    /// Whether old pools were given up, whose memory comes back a little later.
    gave_up: bool,
}

/// When a daemon began to be kept, and a model's number. Their order is that of time.
type Key = (u64, usize);

/// What is kept of models as far as it is found.
type Found = BTreeMap<Key, [Option<OwnedFd>; 3]>;

impl Store {
    /// Sorts what came with the start and is no socket. What is of no use is forgotten at once: where
    /// it stayed, there might be no room for what this daemon leaves.
    pub(super) fn sort(passed: Vec<Passed>, notifier: &Notifier) -> Self {
        let (mut found, mut store) = (Found::new(), Self::default());
        let mut useless = BTreeSet::new();
        for Passed { name, fd } in passed {
            let place = parse(&name).map(|(key, part)| &mut found.entry(key).or_default()[part]);
            match place {
                Some(place @ None) => *place = Some(fd),
                _ => {
                    tracing::warn!(name, "systemd keeps what is of no use here: it is dropped");
                    useless.insert(name.clone());
                }
            }
            store.names.insert(name);
        }
        for (key, parts) in found.into_iter().rev() {
            if !store.take(key, parts) {
                useless.extend(PARTS.map(|part| name(part, key)));
            }
        }
        for name in &useless {
            notifier.tell_now(&[FORGET, NotifyState::Custom(&named(name))]);
        }
        store
    }

    /// Whether what is kept of a model can be gone on from, and nothing later is kept of it.
    fn take(&mut self, (daemon, number): Key, parts: [Option<OwnedFd>; 3]) -> bool {
        match open(parts) {
            Ok(left)
                if self.predecessors.iter().all(|later| later.bundle_id() != left.bundle_id()) =>
            {
                self.predecessors.push(left);
                true
            }
            Ok(_) => false,
            Err(error) => {
                let what = "what a daemon has left cannot be used: it is dropped";
                tracing::warn!(daemon, number, error, "{what}");
                false
            }
        }
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
    /// between it has both, so that a crash takes nothing. Where it cannot keep the new, the old stays;
    /// where it has no room for both, the old goes first.
    pub(super) async fn replace(self, models: Vec<Estate>, notifier: &Notifier) {
        drop(self.predecessors);
        let needed = PARTS.len() * models.len();
        let room = systemd::store_size().unwrap_or(usize::MAX);
        if room < 2 * needed {
            let needed = 2 * needed;
            let what = "systemd has no room for what two daemons leave: raise";
            tracing::warn!(room, needed, "{what} FileDescriptorStoreMax=");
        }
        if models.is_empty() || room < needed {
            return;
        }
        let is_crowded = room - needed < self.names.len();
        if is_crowded {
            forget(&self.names, notifier).await;
        }
        let (kept, is_whole) = keep(models, notifier).await;
        if !is_whole {
            forget(&kept, notifier).await;
        } else if !is_crowded {
            forget(&self.names, notifier).await;
        }
    }
}

async fn forget(names: &BTreeSet<String>, notifier: &Notifier) {
    for name in names {
        notifier.tell(&[FORGET, NotifyState::Custom(&named(name))]).await;
    }
}

/// The names that now are kept, and whether that is all there is to be.
async fn keep(models: Vec<Estate>, notifier: &Notifier) -> (BTreeSet<String>, bool) {
    let (daemon, mut kept) = (now(), BTreeSet::new());
    for (number, Estate { pool, table, roster }) in models.into_iter().enumerate() {
        let fds = [pool, Some(table), Some(roster)];
        for (part, fd) in PARTS.into_iter().zip(fds).filter_map(|(part, fd)| Some((part, fd?))) {
            let name = name(part, (daemon, number));
            let notice = [KEEP, NotifyState::Custom(&named(&name))];
            if !notifier.hand_over(&notice, Some(fd.as_fd())).await {
                return (kept, false);
            }
            kept.insert(name);
        }
    }
    (kept, true)
}

/// What is to be kept of all models, if there is somebody to keep it.
pub(super) fn estates(models: &[Model], notifier: &Notifier) -> Vec<Estate> {
    let estates = models.iter().take_while(|_| notifier.is_heard()).map(Model::estate);
    estates.collect::<io::Result<_>>().unwrap_or_else(|error| {
        let what = "the next daemon has nothing newer to begin with than what is kept already";
        tracing::warn!(%error, "{what}");
        Vec::new()
    })
}

fn named(name: &str) -> String {
    format!("FDNAME={name}")
}

fn name(part: &str, (daemon, number): Key) -> String {
    format!("{part}.{daemon:016x}.{number}")
}

/// Takes a name apart: which daemon, which model, and which of the three.
fn parse(text: &str) -> Option<(Key, usize)> {
    let (part, key) = text.split_once('.')?;
    let (daemon, number) = key.split_once('.')?;
    let key = (u64::from_str_radix(daemon, 16).ok()?, number.parse().ok()?);
    let part = PARTS.iter().position(|known| *known == part)?;
    // What is written otherwise is of somebody else, and could not be told to be forgotten.
    (name(PARTS[part], key) == text).then_some((key, part))
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
    use std::{os::unix::net::UnixDatagram, pin::pin, time::Duration};
    use tempfile::TempDir;
    use tokio::time::timeout;

    /// A manager that hears nothing before it is asked.
    fn manager() -> (TempDir, UnixDatagram, Notifier) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        (folder, socket, Notifier::at(path.as_os_str()))
    }

    fn memfd() -> OwnedFd {
        memfd_create("test", MemfdFlags::CLOEXEC).unwrap()
    }

    /// The names that are told to be forgotten in what was told so far.
    fn forgotten(socket: &UnixDatagram) -> BTreeSet<String> {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        let mut names = BTreeSet::new();
        while let Ok(length) = socket.recv(&mut buffer) {
            let notice = std::str::from_utf8(&buffer[..length]).unwrap();
            names.extend(
                notice.strip_prefix("FDSTOREREMOVE=1\nFDNAME=").map(|name| name.trim().into()),
            );
        }
        names
    }

    #[test]
    fn names_are_taken_apart_and_others_are_of_no_use() {
        assert_eq!(parse("table.00000000000000ff.3"), Some(((255, 3), 1)));
        let (start, end) = ("pool.0000000000000001", "0000000000000001.1");
        for name in ["", "pool", start, "pool.x.1", "pool.1.1", "stored"] {
            assert_eq!(parse(name), None, "{name}");
        }
        for name in [format!("{start}.x"), format!("{start}.1.1"), format!("lake.{end}")] {
            assert_eq!(parse(&name), None, "{name}");
        }
    }

    #[test]
    fn p15_what_is_odd_in_the_store_is_dropped_and_forgotten_before_anything_is_kept() {
        let (_folder, socket, notifier) = manager();
        let odd =
            [name(POOL, (1, 0)), name(POOL, (1, 0)), name("table", (1, 0)), name(POOL, (2, 0))];
        let odd = odd.into_iter().chain(["stored".into()]);
        let store = Store::sort(odd.map(|name| Passed { name, fd: memfd() }).collect(), &notifier);
        assert!(store.predecessors().is_empty());
        let forgotten = forgotten(&socket);
        assert_eq!(store.names.len(), 4);
        assert!(store.names.is_subset(&forgotten), "{forgotten:?}");
    }

    #[test]
    fn p15_while_the_new_is_not_kept_the_old_is_not_forgotten() {
        let (_folder, socket, notifier) = manager();
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        filler.connect_addr(&socket.local_addr().unwrap()).unwrap();
        while filler.send(b"STATUS=full").is_ok() {}
        let store = Store { names: ["pool.old".into()].into(), ..Store::default() };
        let estate = Estate { pool: Some(memfd()), table: memfd(), roster: memfd() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut told = BTreeSet::new();
        runtime.block_on(async {
            let mut replacing = pin!(store.replace(vec![estate], &notifier));
            while timeout(Duration::from_millis(5), &mut replacing).await.is_err() {
                // It is listened to again as soon as something was given up.
                if notifier.is_deaf() {
                    told.append(&mut forgotten(&socket));
                }
            }
        });
        assert!(notifier.is_deaf());
        told.append(&mut forgotten(&socket));
        assert_eq!(told, BTreeSet::new());
    }
}
