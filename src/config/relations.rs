//! What cannot be said of one key alone: keys that contradict each other, and files that are not
//! what they should be. What `check` found bad is left out, as nothing can be concluded from it.

use super::{
    accounts::{Kind, account_of, number_of},
    error::{Place, Problem},
    raw::{RawConfig, RawModel},
    source::Inspect,
    tree::{Node, Value},
    trust::{untrusted, untrusted_folder},
};
use crate::files::folder;
use rustix::system::sysinfo;
use std::collections::HashSet;

/// What keys must agree with one another in, and what is found when it is compared.
pub(super) struct Relations<'a> {
    raw: &'a RawConfig,
    tree: &'a Node,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Relations<'a> {
    /// Of keys, with where they stand.
    pub(super) fn of(raw: &'a RawConfig, tree: &'a Node, problems: &'a mut Vec<Problem>) -> Self {
        Self { raw, tree, problems }
    }

    /// Compares keys with each other and with the machine's memory.
    pub(super) fn keys(&mut self) {
        let RawConfig { listen, storage, limits, .. } = self.raw;
        let threads = ("storage.read_threads", storage.read_threads.0);
        self.not_above(threads, ("storage.reads_in_flight", storage.reads_in_flight.0));
        let clients = ("limits.clients_per_session", limits.clients_per_session.0);
        let of_process = limits.attachments_per_process.0;
        self.not_above(("limits.attachments_per_process", of_process), clients);
        self.not_above(clients, ("limits.connections", limits.connections.0));
        let metrics = listen.metrics_socket.as_ref();
        for (one, path, other, other_path) in [
            ("listen.attach", Some(&listen.attach), "listen.control", &listen.control),
            ("listen.metrics_socket", metrics, "listen.control", &listen.control),
            ("listen.metrics_socket", metrics, "listen.attach", &listen.attach),
        ] {
            if path == Some(other_path)
                && let Some((at, other)) = self.stated(one, other)
            {
                self.wrong(at, format!("is the same path as {other}: use another"));
            }
        }
        let (one, other) = ("listen.metrics", "listen.tcp");
        let addresses = (listen.metrics.as_ref(), listen.tcp.as_ref());
        if let (Some(metrics), Some(tcp)) = addresses
            && metrics.0 == tcp.0
            && let Some((at, other)) = self.stated(one, other)
        {
            self.wrong(at, format!("is the same address as {other}: use another"));
        }
        self.models();
        self.accounts();
    }

    /// Looks up the users and groups that are named.
    fn accounts(&mut self) {
        let group = &self.raw.listen.group;
        if let Some(Err(what)) = group.as_ref().map(|group| number_of(Kind::Group, group)) {
            self.wrong("listen.group", what);
        }
        let peers: Vec<_> = self.sound_items("peers").zip(&self.raw.peers).collect();
        for (key, peer) in peers {
            // A key that is bad is not in the entry, which may be complete with it.
            let is_sound = |node: &Node| match &node.value {
                Value::Section(keys) => keys.iter().all(|(_, node)| !node.bad),
                _ => false,
            };
            if self.tree.find(&key).is_some_and(is_sound)
                && let Err((name, what)) = account_of(peer)
            {
                let key = if name.is_empty() { key } else { format!("{key}.{name}") };
                self.wrong(&key, what);
            }
        }
    }

    /// Looks at the files and folders that keys name.
    pub(super) fn files(&mut self) {
        for (key, RawModel { bundle, .. }) in self.entries() {
            let path = &bundle.0;
            let unread = |error| Some(format!("cannot read {}: {error}", path.display()));
            if let Some(what) = untrusted(path).unwrap_or_else(unread) {
                self.wrong(&format!("{key}.bundle"), what);
            }
        }
        let RawConfig { state_dir, listen, .. } = self.raw;
        let metrics = listen.metrics_socket.as_ref();
        let metrics = metrics.map(|socket| ("listen.metrics_socket", folder(&socket.0)));
        let folders = [
            ("state_dir", state_dir.0.as_path()),
            ("listen.control", folder(&listen.control.0)),
            ("listen.attach", folder(&listen.attach.0)),
        ];
        for (key, folder) in folders.into_iter().chain(metrics) {
            if !self.is_bad(key)
                && let Some(what) = untrusted_folder(folder)
            {
                self.wrong(key, what);
            }
        }
    }

    /// Looks into bundles that nothing is wrong with so far.
    pub(super) fn bundles(&mut self, inspect: Inspect<'_>) {
        for (key, model) in self.entries() {
            let bundle = format!("{key}.bundle");
            if self.problems.iter().any(|problem| problem.key == bundle) {
                continue;
            }
            for (name, what) in inspect(&model.clone().into()) {
                self.wrong(&format!("{key}.{name}"), what);
            }
        }
    }

    fn models(&mut self) {
        let info = sysinfo();
        let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
        let (mut seen, mut total) = (HashSet::new(), 0u64);
        for (key, RawModel { bundle, pool_bytes, initial_task: _ }) in self.entries() {
            if !seen.insert(bundle) {
                self.wrong(&format!("{key}.bundle"), "is served by another entry already".into());
            }
            total = total.saturating_add(pool_bytes.0);
            if total > memory {
                let what = format!("pools of {total} bytes in all exceed the machine's {memory}");
                self.wrong(&format!("{key}.pool_bytes"), what);
            }
        }
    }

    /// The models with their keys.
    fn entries(&self) -> Vec<(String, &'a RawModel)> {
        self.sound_items("models").zip(&self.raw.models).collect()
    }

    /// The keys of the items of a list. An item that is bad is not among the raw ones.
    fn sound_items(&self, list: &str) -> impl Iterator<Item = String> {
        let items = match self.tree.find(list).map(|list| &list.value) {
            Some(Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        let sound = items.iter().enumerate().filter(|(_, item)| !item.bad);
        sound.map(move |(i, _)| format!("{list}.{i}"))
    }

    fn not_above(&mut self, (low, few): (&str, u64), (high, many): (&str, u64)) {
        if few > many
            && let Some((at, _)) = self.stated(low, high)
        {
            let (value, is, other, limit) =
                if at == low { (few, "above", high, many) } else { (many, "below", low, few) };
            let by = match self.tree.find(other).map(|node| &node.place) {
                Some(Place::Override(name)) => format!(" by {name}"),
                Some(_) => String::new(),
                None => " by default".into(),
            };
            self.wrong(at, format!("is {value}, {is} {other}, which is {limit}{by}"));
        }
    }

    /// Which of two keys is to be told of, and the other one; nothing if either is bad itself.
    fn stated<'k>(&self, one: &'k str, other: &'k str) -> Option<(&'k str, &'k str)> {
        if self.is_bad(one) || self.is_bad(other) {
            return None;
        }
        Some(if self.tree.find(one).is_some() { (one, other) } else { (other, one) })
    }

    /// Whether what is written of a key, or of its section, cannot be used.
    fn is_bad(&self, key: &str) -> bool {
        let section = key.split('.').next().unwrap_or_default();
        [section, key].iter().any(|key| self.tree.find(key).is_some_and(|node| node.bad))
    }

    fn wrong(&mut self, key: &str, what: String) {
        let place = self.tree.find(key).map_or(Place::File, |node| node.place.clone());
        self.problems.push(Problem { place, key: key.to_owned(), what });
    }
}
