//! Reads by blocking `preadv` calls on a few threads. Works wherever files can be read; `uring` is
//! faster where the kernel allows it.

use super::{Backend, Completion, Counters, Read, Sink, Storage, file::Scratch, queue::Queue};
use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

/// A pool of reading threads. Dropped, it finishes what the threads have begun and forgets what
/// is still queued.
pub struct Preadv {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    counters: Arc<Counters>,
}

impl Preadv {
    /// Starts `threads` threads that share a queue of at most `capacity` reads.
    pub fn start(threads: usize, capacity: usize, sink: Sink) -> io::Result<Self> {
        let queue = Mutex::new(Queue::new(capacity));
        let shared = Arc::new(Shared { queue, work: Condvar::new(), counters: Arc::default() });
        let mut pool = Self { shared, threads: Vec::new() };
        for number in 0..threads.max(1) {
            let (shared, sink) = (pool.shared.clone(), sink.clone());
            let thread = thread::Builder::new().name(format!("read-{number}"));
            pool.threads.push(thread.spawn(move || work(&shared, &sink))?);
        }
        Ok(pool)
    }
}

impl Storage for Preadv {
    fn submit(&self, read: Read) -> Result<(), Read> {
        let pushed = self.shared.lock().push(read);
        self.shared.counters.submitted(pushed.is_ok());
        pushed?;
        self.shared.work.notify_one();
        Ok(())
    }

    fn backend(&self) -> Backend {
        Backend::Preadv
    }

    fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }
}

impl Drop for Preadv {
    fn drop(&mut self) {
        self.shared.lock().stop();
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The queue is changed by steps that do not panic, so a panic elsewhere cannot leave it torn.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a read; `None` once the pool has stopped.
    fn next(&self) -> Option<Read> {
        let mut queue = self.lock();
        loop {
            if queue.has_stopped() {
                return None;
            }
            match queue.pop() {
                Some(read) => return Some(read),
                None => queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn work(shared: &Shared, sink: &Sink) {
    let mut scratch = Scratch::default();
    while let Some(mut read) = shared.next() {
        shared.counters.begun();
        let begun = Instant::now();
        let result = read.carry_out(&mut scratch);
        shared.counters.ended(read.len(), begun.elapsed(), &result);
        shared.lock().ended(read.priority);
        // The next read ahead may have waited for this one.
        shared.work.notify_one();
        sink(Completion { read, result });
    }
}
