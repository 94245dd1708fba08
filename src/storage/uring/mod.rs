//! Reads through io_uring: one thread feeds the ring and takes its answers, and sleeps in between.
//!
//! The thread owns the ring. Others leave reads in a queue and ring a bell, which is an eventfd
//! that the ring itself listens to; so the thread waits for both at once, and never spins. The
//! kernel writes straight into slots. Which reads make sense is the planner's business.

mod flight;
mod ring;
#[cfg(test)]
mod tests;

use super::{
    Backend, Beat, BlockFile, Completion, Counters, Pulse, Read, ReadError, Resources, Sink,
    Storage, file::Scratch, queue::Queue,
};
use crate::{
    device::{Pool, Window},
    units::{BLOCK_ALIGN, BlockIndex},
};
use flight::{Answer, Flight, Flights, Key, Segment};
use ring::Ring;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::{Errno, write},
};
use std::{
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use thiserror::Error;

/// The bell's name among the ring's answers; no flight has it, as places are far fewer.
const BELL: Key = Key(u64::MAX);
/// How long a read rests for which the kernel had no room. All together, a read waits for
/// [`flight::MAX_AGAIN`] times as long before it fails.
const REST: Duration = Duration::from_millis(2);

/// Bytes that the kernel works on at once. Enough to keep a device busy, and so few that reads end
/// one after the other: of reads that share the device all end late, and nothing can be verified
/// meanwhile.
const BUSY_BYTES: u64 = 4 << 20;
/// How long a first read may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// Reads through io_uring. Dropped, it finishes what the kernel has begun and forgets what is
/// still queued.
pub struct Uring {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<State>,
    /// Wakes the thread where it waits for the ring.
    bell: Arc<OwnedFd>,
    /// Wakes it where there is no ring any more.
    work: Condvar,
    counters: Arc<Counters>,
    beat: Arc<Beat>,
}

struct State {
    queue: Queue,
    /// Whether the bell has been rung since the thread looked last.
    rung: bool,
}

/// Why io_uring cannot be used here.
#[derive(Debug, Error)]
pub enum Unavailable {
    /// The kernel gives us no ring.
    #[error("{}", reason(.0))]
    SetUp(#[source] io::Error),
    /// It does, but a read through it fails.
    #[error("a first read through io_uring failed: {0}")]
    Probe(#[source] io::Error),
}

/// The ring cannot be used any more.
#[derive(Debug)]
struct Lost(io::Error);

/// What the thread asks of the kernel; tests have one of their own.
trait Kernel {
    /// Memory for what is read and dropped.
    fn discard(&mut self) -> Segment;
    /// Asks for the rest of a read.
    fn read(&mut self, key: Key, flight: &Flight) -> Result<(), Lost>;
    /// Asks to be told, once, when the bell rings.
    fn listen(&mut self, key: Key) -> Result<(), Lost>;
    /// Hands over what was asked for, and waits for an answer.
    fn wait(&mut self, at_most: Option<Duration>) -> Result<(), Lost>;
    /// Adds the answers that have come: names, and bytes or negative error numbers.
    fn answers(&mut self, into: &mut Vec<(Key, i32)>);
}

impl Uring {
    /// Starts the thread, with at most `capacity` reads queued or under way, once a first block of
    /// each file has been read. Why the pools' memory could not be registered, if so, comes beside
    /// it; reads then cost a little more.
    pub fn start(
        capacity: usize,
        resources: Resources,
        sink: Sink,
    ) -> Result<(Self, Option<io::Error>), Unavailable> {
        let flags = EventfdFlags::CLOEXEC;
        let bell = Arc::new(eventfd(0, flags).map_err(|e| Unavailable::SetUp(e.into()))?);
        let (ready, started) = mpsc::channel();
        let own = bell.clone();
        let set_up = move |flights: &mut Flights| {
            let (ring, told) = match open_ring(capacity, resources, own, flights) {
                Ok((ring, note)) => (Some(ring), Ok(note)),
                Err(error) => (None, Err(error)),
            };
            // The starter waits for it.
            let _ = ready.send(told);
            ring
        };
        let (shared, thread) = spawn(capacity, bell, sink, set_up).map_err(Unavailable::SetUp)?;
        let uring = Self { shared, thread: Some(thread) };
        let gone = || Unavailable::SetUp(io::Error::other("its thread ended"));
        let note = started.recv().map_err(|_| gone())??;
        Ok((uring, note))
    }
}

/// A ring that has read the beginning of each file, as blocks will be read.
fn open_ring(
    capacity: usize,
    mut resources: Resources,
    bell: Arc<OwnedFd>,
    flights: &mut Flights,
) -> Result<(Ring, Option<io::Error>), Unavailable> {
    let files = resources.files.clone();
    let pool = Pool::of_slots(BLOCK_ALIGN, files.len() as u32);
    let (pool, windows) = pool.map_err(|e| Unavailable::Probe(io::Error::other(e)))?;
    resources.pools.push(pool);
    let (mut ring, note) = Ring::set_up(capacity, resources, bell)?;
    for (file, window) in files.iter().zip(windows) {
        probe(&mut ring, flights, file, window).map_err(Unavailable::Probe)?;
    }
    Ok((ring, note))
}

/// Starts a thread that serves a queue with the kernel that `make` gives it there, if it does.
fn spawn<K: Kernel>(
    capacity: usize,
    bell: Arc<OwnedFd>,
    sink: Sink,
    make: impl FnOnce(&mut Flights) -> Option<K> + Send + 'static,
) -> io::Result<(Arc<Shared>, JoinHandle<()>)> {
    let queue = Mutex::new(State { queue: Queue::new(capacity), rung: false });
    let (work, counters, beat) = (Condvar::new(), Arc::default(), Arc::default());
    let shared = Arc::new(Shared { queue, bell, work, counters, beat });
    let own = shared.clone();
    let thread = thread::Builder::new().name("io_uring".into()).spawn(move || {
        let mut flights = Flights::default();
        match make(&mut flights) {
            Some(kernel) => {
                let (later, answers) = (Vec::new(), Vec::new());
                Worker { kernel, flights, later, answers, shared: own, sink }.work();
            }
            // What the kernel has not answered, it may still write.
            None => flights.lose().for_each(drop),
        }
    })?;
    Ok((shared, thread))
}

impl Storage for Uring {
    fn submit(&self, read: Read) -> Result<(), Read> {
        let pushed = self.shared.lock().queue.push(read);
        self.shared.counters.submitted(pushed.is_ok());
        pushed?;
        self.shared.ring();
        Ok(())
    }

    fn backend(&self) -> Backend {
        Backend::IoUring
    }

    fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    fn pulses(&self) -> Vec<Pulse> {
        let shared = self.shared.clone();
        vec![Pulse::new("io_uring", self.shared.beat.clone(), move || shared.ring())]
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.shared.lock().queue.stop();
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The queue is changed by steps that do not panic, so a panic elsewhere cannot leave it torn.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread, if nobody has done so since it looked last.
    fn ring(&self) {
        if !std::mem::replace(&mut self.lock().rung, true) {
            // It fails only when the count is full, and then the bell rings anyway.
            let _ = write(&self.bell, &1u64.to_ne_bytes());
        }
        self.work.notify_one();
    }
}

/// The thread's own state.
struct Worker<K> {
    kernel: K,
    flights: Flights,
    /// Reads for which the kernel had no room, and when they are asked for again.
    later: Vec<(Key, Instant)>,
    answers: Vec<(Key, i32)>,
    shared: Arc<Shared>,
    sink: Sink,
}

impl<K: Kernel> Worker<K> {
    fn work(mut self) {
        match self.serve() {
            Ok(()) => {}
            Err(Lost(error)) => {
                tracing::error!(
                    %error,
                    under_way = self.flights.len(),
                    "io_uring is lost: blocks are read by blocking calls from now on; slots under \
                     way stay taken until a restart"
                );
                // What it has answered already is not lost.
                self.kernel.answers(&mut self.answers);
                for (key, result) in std::mem::take(&mut self.answers) {
                    if let Answer::Ended(completion, begun) = self.flights.answer(key, result) {
                        self.end(completion, begun);
                    }
                }
                // It may write to what it was told of for as long as the machine runs.
                std::mem::forget(self.kernel);
                for (read, begun) in self.flights.lose() {
                    let lost = Completion { read, result: Err(ReadError::Lost) };
                    end(&self.shared, &self.sink, lost, begun);
                }
                block(&self.shared, &self.sink);
            }
        }
    }

    /// Serves the queue until it has stopped and nothing is under way.
    fn serve(&mut self) -> Result<(), Lost> {
        self.kernel.listen(BELL)?;
        loop {
            self.take_up()?;
            // After it, which takes note of the bell: who rings later is heard in the next round.
            self.shared.beat.answer();
            if self.flights.len() == 0 && self.shared.lock().queue.has_stopped() {
                return Ok(());
            }
            let due = self.later.iter().map(|(_, due)| *due).min();
            self.kernel.wait(due.map(|due| due.saturating_duration_since(Instant::now())))?;
            self.ask_again()?;
            self.take_answers()?;
        }
    }

    /// Asks for the reads again that have rested long enough.
    fn ask_again(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        let due: Vec<_> = self.later.extract_if(.., |(_, due)| *due <= now).collect();
        due.into_iter().try_for_each(|(key, _)| self.ask(key))
    }

    /// Hands queued reads to the kernel, as many as keep it busy. The queue takes no more than the
    /// ring has room for.
    fn take_up(&mut self) -> Result<(), Lost> {
        loop {
            let read = {
                let mut state = self.shared.lock();
                state.rung = false;
                if self.flights.bytes() < BUSY_BYTES { state.queue.pop() } else { None }
            };
            let Some(read) = read else { return Ok(()) };
            self.shared.counters.begun();
            if read.is_empty() {
                self.end(Completion { read, result: Ok(()) }, Instant::now());
                continue;
            }
            let key = self.flights.begin(read, self.kernel.discard());
            self.ask(key)?;
        }
    }

    fn ask(&mut self, key: Key) -> Result<(), Lost> {
        match self.flights.get(key) {
            Some(flight) => self.kernel.read(key, flight),
            None => Ok(()),
        }
    }

    fn take_answers(&mut self) -> Result<(), Lost> {
        self.kernel.answers(&mut self.answers);
        for (key, result) in std::mem::take(&mut self.answers) {
            if key == BELL {
                self.kernel.listen(BELL)?;
                continue;
            }
            let counters = &self.shared.counters;
            match self.flights.answer(key, result) {
                Answer::Ended(completion, begun) => self.end(completion, begun),
                Answer::Short(key) => {
                    counters.short();
                    self.ask(key)?;
                }
                Answer::Later(key) => {
                    counters.again();
                    self.later.push((key, Instant::now() + REST));
                }
                Answer::Stray => {
                    counters.stray();
                    tracing::warn!(key = key.0, result, "the kernel answered what nobody asked");
                }
            }
        }
        Ok(())
    }

    fn end(&self, completion: Completion, begun: Instant) {
        end(&self.shared, &self.sink, completion, begun);
    }
}

fn end(shared: &Shared, sink: &Sink, completion: Completion, begun: Instant) {
    let Completion { read, result } = &completion;
    shared.counters.ended(read.len(), begun.elapsed(), result);
    shared.lock().queue.ended(read.priority);
    sink(completion);
}

/// Goes on without a ring, one read at a time.
fn block(shared: &Shared, sink: &Sink) {
    let mut scratch = Scratch::default();
    let mut state = shared.lock();
    while !state.queue.has_stopped() {
        shared.beat.answer();
        let Some(mut read) = state.queue.pop() else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        shared.counters.begun();
        let begun = Instant::now();
        let result = shared.beat.in_kernel(|| read.carry_out(&mut scratch));
        end(shared, sink, Completion { read, result }, begun);
        state = shared.lock();
    }
}

/// Reads the beginning of a file.
fn probe(
    ring: &mut Ring,
    flights: &mut Flights,
    file: &Arc<BlockFile>,
    window: Window,
) -> io::Result<()> {
    let read = Read::new(file.clone(), 0, vec![(BlockIndex(0), window)]);
    let until = Instant::now() + PROBE_PATIENCE;
    let (mut ask, mut answers) = (Some(flights.begin(read, ring.discard())), Vec::new());
    while Instant::now() < until {
        if let Some(flight) = ask.take().and_then(|key| Some((key, flights.get(key)?))) {
            ring.read(flight.0, flight.1).map_err(|Lost(error)| error)?;
        }
        let left = until.saturating_duration_since(Instant::now());
        ring.wait(Some(left)).map_err(|Lost(error)| error)?;
        ring.answers(&mut answers);
        for (key, result) in answers.drain(..) {
            match flights.answer(key, result) {
                Answer::Short(key) => ask = Some(key),
                Answer::Later(key) => {
                    thread::sleep(REST);
                    ask = Some(key);
                }
                Answer::Ended(Completion { result: Err(ReadError::Io { source, .. }), .. }, _) => {
                    return Err(source);
                }
                // A file may be empty.
                Answer::Ended(..) => return Ok(()),
                Answer::Stray => {}
            }
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// What an error of the kernel most likely comes from.
fn reason(error: &io::Error) -> String {
    let cause = match Errno::from_io_error(error) {
        Some(Errno::PERM) => "the sysctl kernel.io_uring_disabled or a seccomp filter forbids it",
        Some(Errno::NOSYS) => "the kernel or a seccomp filter does not have it",
        Some(Errno::NOMEM) => "the limit on locked memory is too low: raise LimitMEMLOCK=",
        Some(Errno::INVAL) => "the kernel is older than 5.11",
        Some(Errno::MFILE | Errno::NFILE) => "the limit on open files is reached",
        _ => "no ring",
    };
    format!("{cause} ({error})")
}
