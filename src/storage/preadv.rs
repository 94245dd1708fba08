//! Reads by blocking `preadv` calls on a few threads. Works wherever files can be read; `uring` is
//! faster where the kernel allows it.

use super::{
    Backend, Beat, Completion, Counters, Pulse, Read, Sink, Storage, file::Scratch, queue::Queue,
};
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
    threads: Vec<(Arc<Beat>, JoinHandle<()>)>,
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
            let (shared, sink, beat) = (pool.shared.clone(), sink.clone(), Arc::<Beat>::default());
            let (thread, own) = (thread::Builder::new().name(name(number)), beat.clone());
            pool.threads.push((beat, thread.spawn(move || work(&shared, &own, &sink))?));
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

    fn pulses(&self) -> Vec<Pulse> {
        let pulse = |(number, (beat, _)): (usize, &(Arc<Beat>, _))| {
            let shared = self.shared.clone();
            Pulse::new(name(number), beat.clone(), move || shared.wake_all())
        };
        self.threads.iter().enumerate().map(pulse).collect()
    }
}

impl Drop for Preadv {
    fn drop(&mut self) {
        self.shared.lock().stop();
        self.shared.work.notify_all();
        for (_, thread) in self.threads.drain(..) {
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

    /// Makes every thread that waits look again. One that has looked and does not wait yet has the
    /// lock.
    fn wake_all(&self) {
        drop(self.lock());
        self.work.notify_all();
    }

    /// Waits for a read; `None` once the pool has stopped.
    fn next(&self, beat: &Beat) -> Option<Read> {
        let mut queue = self.lock();
        loop {
            beat.answer();
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

fn name(number: usize) -> String {
    format!("read-{number}")
}

fn work(shared: &Shared, beat: &Beat, sink: &Sink) {
    let mut scratch = Scratch::default();
    while let Some(mut read) = shared.next(beat) {
        shared.counters.begun();
        let begun = Instant::now();
        let result = beat.in_kernel(|| read.carry_out(&mut scratch));
        shared.counters.ended(read.len(), begun.elapsed(), &result);
        shared.lock().ended(read.priority);
        // The next read ahead may have waited for this one.
        shared.work.notify_one();
        sink(Completion { read, result });
    }
}
