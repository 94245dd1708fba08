//! The way of lines out of the daemon: a queue that never makes anybody wait, and a thread that
//! writes. What does not fit into the queue is dropped and counted, so a reader that has stopped
//! reading, a full disk or a journal that hangs costs lines, never a switch.
//!
//! Knows neither what lines look like nor which of them are wanted.

use super::gate::Gate;
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const QUEUED_LINES: usize = 4096;
/// How often at most it is told what is missing.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where lines are put. Putting one never waits.
#[derive(Clone)]
pub(super) struct Queue {
    sender: SyncSender<Message>,
    counts: Arc<Counts>,
}

/// What the thread is told.
enum Message {
    Line(Vec<u8>),
    /// There is something to tell, or it is the end.
    Look,
}

#[derive(Default)]
struct Counts {
    dropped: AtomicU64,
    is_over: AtomicBool,
}

/// Where lines come out.
pub(super) struct Lines(Receiver<Message>);

impl Queue {
    pub(super) fn new() -> (Self, Lines) {
        let (sender, receiver) = sync_channel(QUEUED_LINES);
        (Self { sender, counts: Arc::default() }, Lines(receiver))
    }

    /// Takes a line in, or drops it.
    pub(super) fn put(&self, line: Vec<u8>) {
        if self.sender.try_send(Message::Line(line)).is_err() {
            self.drop_one();
        }
    }

    /// Wakes the thread. False if it is too busy to be told.
    pub(super) fn look(&self) -> bool {
        self.sender.try_send(Message::Look).is_ok()
    }

    /// Lines that were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    fn drop_one(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Each write is a line.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The thread. Dropped, it writes what is queued, as far as that can be done within a second.
pub(super) struct Writer {
    queue: Queue,
    /// Nothing comes here; it closes when the thread has ended.
    ended: Receiver<()>,
}

impl Writer {
    /// Writes lines from now on, each by one write. If there can be no thread, lines are dropped.
    pub(super) fn start(to: impl Write + Send + 'static, lines: Lines, gate: Arc<Gate>) -> Self {
        let (alive, ended) = sync_channel(0);
        let queue = gate.queue().clone();
        let mut work = Work { to, gate, told: 0, due: None };
        let run = move || {
            work.run(&lines.0);
            drop::<SyncSender<()>>(alive);
        };
        // Who cannot have a thread has other worries, and is told of them by other means.
        let _ = thread::Builder::new().name("log".into()).spawn(run);
        Self { queue, ended }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.counts.is_over.store(true, Ordering::Relaxed);
        // If there is no room for it, the thread does not sleep.
        self.queue.look();
        let _ = self.ended.recv_timeout(LAST_LINES);
    }
}

/// What the thread does.
struct Work<W> {
    to: W,
    gate: Arc<Gate>,
    /// Of the dropped lines, those that were told of.
    told: u64,
    /// When it is to be told what is missing.
    due: Option<Instant>,
}

impl<W: Write> Work<W> {
    fn run(&mut self, lines: &Receiver<Message>) {
        while !self.gate.queue().counts.is_over.load(Ordering::Relaxed) {
            let message = match self.due {
                None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => lines.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.due.is_some_and(|at| at <= Instant::now()) {
                self.tell();
            }
        }
        self.finish(lines);
        self.tell();
        self.finish(lines);
    }

    fn finish(&mut self, lines: &Receiver<Message>) {
        lines.try_iter().for_each(|message| self.take(message));
        let _ = self.to.flush();
    }

    fn take(&mut self, message: Message) {
        let written = match message {
            Message::Line(line) => self.to.write_all(&line),
            Message::Look => {
                self.due.get_or_insert_with(|| Instant::now() + TELL_EVERY);
                return;
            }
        };
        match written {
            // Where nothing can be written, there is nobody to be told.
            Err(_) => self.gate.queue().drop_one(),
            Ok(()) if self.gate.queue().dropped() > self.told => {
                self.due.get_or_insert_with(|| Instant::now() + TELL_EVERY);
            }
            Ok(()) => {}
        }
    }

    /// Says what is missing, by lines that go the way of all lines.
    fn tell(&mut self) {
        self.due = None;
        let dropped = self.gate.queue().dropped();
        let count = dropped - self.told;
        self.told = dropped;
        if count > 0 {
            tracing::warn!(count, "lines are lost: they could not be written in time");
        }
        let (count, which) = self.gate.take_left_out();
        if count > 0 {
            tracing::warn!(count, "lines were left out: there were too many like {which}");
        }
    }
}
