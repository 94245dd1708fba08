//! Lines as entries of the systemd journal, with fields, in its native protocol.
//!
//! The `tracing-journald` crate would send each entry on the thread that logs, through a socket that
//! blocks: a journal that hangs would stop the engine. Here an entry is only put together there; it
//! is sent by the thread that writes all lines, one datagram each, and whatever becomes of that is
//! what becomes of any line. Values are cut so that an entry always fits into a datagram; passing
//! larger ones in a sealed file, as the protocol allows, is not needed.

use super::{queue::Queue, text::Parts};
use rustix::fs::fstat;
use std::{
    env,
    fmt::{self, Debug},
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest value; more of it is cut.
const MAX_VALUE_BYTES: usize = 4096;
/// Most fields of a line, by tracing's own limit, and those that are added.
const MAX_FIELDS: usize = 32 + 8;
const _: () = assert!(
    MAX_FIELDS * (MAX_VALUE_BYTES + 128) < 212_992,
    "an entry fits into a socket's buffer of the usual size"
);

/// What entries of events are found by: `journalctl MESSAGE_ID=…`. What happens to the daemon as a
/// whole has lines of its own, and is not among them.
const MESSAGE_IDS: [(&str, &str); 15] = [
    ("lost", "c256a0c02dbb44b499480deab081ba7a"),
    ("switched", "7a7bed0446db404981b3f4e95753b885"),
    ("switch_failed", "6a7708c4b7ed4e57983790a52f8e9c2b"),
    ("given_up", "0588598079d84af8a41fd9959ef60b81"),
    ("prepared", "5c876d854097497daefaed3470c6a419"),
    ("not_prepared", "9da1bfc08aa5495f879aade6e8c18e00"),
    ("session_opened", "eae050d588a34385aff6dfce67a06e2d"),
    ("session_closed", "545c2b79506f47f284e5b5cc6185f057"),
    ("client_attached", "eca71875375e414082c405afb17f7490"),
    ("client_detached", "4c8582b40de941c59c028bd26c0a02b1"),
    ("attachment_ended", "d24e445656ca4cd0a0c2832d85ce01f0"),
    ("lease_revoked", "8d470949930e40f591ea2939ec392c7b"),
    ("block_quarantined", "66bf924ba7704e7db74a33cd748d9ec1"),
    ("storage_stalled", "5ce9a703e6a04b0791b55ef53088b53e"),
    ("storage_recovered", "15e36911a0ad4ca083a76c5fcf76d170"),
];

/// Whether standard error leads to the journal.
pub(super) fn is_standard_error() -> bool {
    let stream = env::var("JOURNAL_STREAM").unwrap_or_default();
    fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The journal's socket. Each write is an entry.
pub(super) struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Journal {
    pub(super) fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let socket = UnixDatagram::unbound()?;
        socket.connect(&path)?;
        Ok(Self { path, socket })
    }
}

impl io::Write for Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        if self.socket.send(entry).is_err() {
            // The journal may have been started anew.
            self.socket.connect(&self.path)?;
            self.socket.send(entry)?;
        }
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes entries of lines.
pub(super) struct Entries(Queue);

impl Entries {
    pub(super) fn new(queue: Queue) -> Self {
        Self(queue)
    }
}

impl<S: Subscriber> Layer<S> for Entries {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.put(entry(event));
    }
}

fn entry(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let mut entry = Entry(Vec::with_capacity(1024));
    let Parts { is_told, message, fields, .. } = Parts::of(event);
    entry.put("MESSAGE", &if is_told { message } else { message + &fields });
    event.record(&mut entry);
    let priority = match *metadata.level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    };
    entry.put("PRIORITY", priority);
    entry.put("SYSLOG_IDENTIFIER", "synchromesh");
    entry.put("TARGET", metadata.target());
    if let Some(file) = metadata.file() {
        entry.put("CODE_FILE", file);
    }
    if let Some(line) = metadata.line() {
        entry.put("CODE_LINE", &line.to_string());
    }
    if let Some((_, id)) = MESSAGE_IDS.iter().find(|(kind, _)| *kind == metadata.name()) {
        entry.put("MESSAGE_ID", id);
    }
    entry.0
}

/// An entry as it is put together.
struct Entry(Vec<u8>);

impl Entry {
    /// Adds a field: `NAME=value`, or, if there is an end of a line in the value, its length first.
    fn put(&mut self, name: &str, value: &str) {
        let fits = |at: &usize| value.is_char_boundary(*at);
        let end = (0..=MAX_VALUE_BYTES.min(value.len())).rev().find(fits).unwrap_or_default();
        let value = &value[..end];
        let entry = &mut self.0;
        entry.extend(name.bytes().map(|b| match b.to_ascii_uppercase() {
            b @ (b'A'..=b'Z' | b'0'..=b'9') => b,
            _ => b'_',
        }));
        if value.contains('\n') {
            entry.push(b'\n');
            entry.extend((value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend(value.as_bytes());
        entry.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "message" {
            self.put(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &fmt::format(format_args!("{value:?}")));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::gate::Gate, super::queue::Writer, *};
    use crate::{
        observe::{KINDS, lines, log::gate::Admission},
        proto::{self, event::Kind},
    };
    use std::{collections::HashMap, sync::Arc};
    use tracing_subscriber::layer::SubscriberExt as _;

    /// The fields of an entry, read as the journal does.
    fn fields(mut entry: &[u8]) -> HashMap<String, String> {
        let mut fields = HashMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|b| matches!(b, b'=' | b'\n')).unwrap();
            let name = String::from_utf8(entry[..end].to_vec()).unwrap();
            let (value, rest) = if entry[end] == b'=' {
                let rest = &entry[end + 1..];
                rest.split_at(rest.iter().position(|b| *b == b'\n').unwrap())
            } else {
                let (length, rest) = entry[end + 1..].split_at(8);
                rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize)
            };
            assert_eq!(rest[0], b'\n');
            fields.insert(name, String::from_utf8(value.to_vec()).unwrap());
            entry = &rest[1..];
        }
        fields
    }

    /// What reaches a journal of what is logged, entry by entry.
    fn logged(log: impl FnOnce()) -> Vec<HashMap<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (queue, lines) = Queue::new();
        let gate = Arc::new(Gate::new("info".parse().unwrap(), queue.clone()));
        let layer = Entries::new(queue).with_filter(Admission(gate.clone()));
        let subscriber = tracing_subscriber::registry().with(layer);
        let writer = Writer::start(Journal::connect(&path).unwrap(), lines, gate);
        tracing::subscriber::with_default(subscriber, log);
        // All that was put into the queue is written then.
        drop(writer);
        socket.set_nonblocking(true).unwrap();
        let mut entries = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length) = socket.recv(&mut buffer) {
            entries.push(fields(&buffer[..length]));
        }
        entries
    }

    #[test]
    fn a_switch_is_an_entry_with_what_it_can_be_found_by() {
        let result = proto::SwitchTaskResponse { generation: 7, ..Default::default() };
        let switched = proto::TaskSwitched {
            from: "city".into(),
            task: "parking".into(),
            result: Some(result),
            request_id: "two\nlines".into(),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            caller: None,
        };
        let kind = Some(Kind::Switched(switched));
        let (model, session) = ("small".to_owned(), "rear".to_owned());
        let event = proto::Event { model, session, kind, ..Default::default() };
        let entries = logged(|| lines::log(&event));
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        let expected = [
            ("MESSAGE", "switched city → parking in 0 µs, all of it was there"),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "synchromesh"),
            ("TARGET", "synchromesh::event"),
            ("CODE_FILE", "src/observe/lines.rs"),
            ("MESSAGE_ID", "7a7bed0446db404981b3f4e95753b885"),
            ("TASK", "parking"),
            ("FROM", "city"),
            ("SESSION", "rear"),
            ("MODEL", "small"),
            ("GENERATION", "7"),
            ("REQUEST_ID", "two\nlines"),
            ("TRACE_ID", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ];
        for (name, value) in expected {
            assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name}: {entry:?}");
        }
        assert!(entry["CODE_LINE"].parse::<u32>().is_ok());
    }

    #[test]
    fn each_kind_that_has_a_line_has_an_id_and_is_documented_with_it() {
        let elsewhere = ["daemon_changed", "config_reloaded"];
        let mut kinds: Vec<_> =
            KINDS.into_iter().filter(|kind| !elsewhere.contains(kind)).collect();
        // A preparation that was not done.
        kinds.push("not_prepared");
        kinds.sort_unstable();
        let mut named = MESSAGE_IDS.map(|(kind, _)| kind);
        named.sort_unstable();
        assert_eq!(named[..], kinds);
        let document = include_str!("../../../docs/events.md");
        let rows =
            document.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix("` |"));
        let told: Vec<_> = rows.filter_map(|row| row.split_once("` | `")).collect();
        assert_eq!(told, MESSAGE_IDS);
        for kind in elsewhere {
            assert!(document.contains(&format!("`{kind}`")), "{kind}");
        }
    }

    #[test]
    fn what_the_daemon_says_itself_is_no_line_of_an_event() {
        let kinds = [
            Kind::DaemonChanged(proto::DaemonChanged::default()),
            Kind::ConfigReloaded(proto::ConfigReloaded::default()),
        ];
        for kind in kinds {
            let event = proto::Event { kind: Some(kind), ..Default::default() };
            assert!(logged(|| lines::log(&event)).is_empty(), "{event:?}");
        }
        let kind = Some(Kind::Lost(proto::EventsLost { count: 3 }));
        let entries = logged(|| lines::log(&proto::Event { kind, ..Default::default() }));
        assert_eq!(entries[0]["MESSAGE_ID"], "c256a0c02dbb44b499480deab081ba7a");
    }

    #[test]
    fn what_belongs_to_no_call_has_no_ids() {
        let switched = proto::TaskSwitched {
            task: "parking".into(),
            result: Some(proto::SwitchTaskResponse::default()),
            ..Default::default()
        };
        let event = proto::Event { kind: Some(Kind::Switched(switched)), ..Default::default() };
        let entries = logged(|| lines::log(&event));
        for name in ["REQUEST_ID", "TRACE_ID", "FROM", "SESSION", "RANK"] {
            assert!(!entries[0].contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_line_that_is_no_event_says_all_in_its_message() {
        let entries = logged(|| tracing::error!(refused = 3, error = "no `key`", "reload refused"));
        assert_eq!(entries[0]["MESSAGE"], "reload refused refused=3 error=\"no `key`\"");
        assert_eq!(entries[0]["ERROR"], "no `key`");
    }

    #[test]
    fn values_are_cut_and_levels_are_priorities() {
        let long = "é".repeat(1 << 20);
        let entries = logged(|| {
            tracing::error!(long, "{long}");
            tracing::warn!("second");
            tracing::debug!("not wanted");
        });
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0]["LONG"].len(), MAX_VALUE_BYTES);
        assert_eq!(entries[0]["MESSAGE"].len(), MAX_VALUE_BYTES);
        let priorities = entries.iter().map(|entry| &entry["PRIORITY"][..]);
        assert_eq!(priorities.collect::<Vec<_>>(), ["3", "4"]);
    }

    #[test]
    fn a_journal_that_is_started_anew_gets_what_comes_then() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::connect(&path).unwrap();
        journal.write_all(b"MESSAGE=first\n").unwrap();
        drop(first);
        std::fs::remove_file(&path).unwrap();
        assert!(journal.write_all(b"MESSAGE=lost\n").is_err());
        let second = UnixDatagram::bind(&path).unwrap();
        journal.write_all(b"MESSAGE=second\n").unwrap();
        let mut buffer = [0; 64];
        let length = second.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"MESSAGE=second\n");
    }
}
