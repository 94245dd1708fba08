//! Reads by blocking `preadv` calls on a few threads. Works wherever files can be read; the
//! faster way through io_uring stands behind the same trait.

use super::{Completion, Read, Sink, Storage};
use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

/// A pool of reading threads. Dropped, it finishes what the threads have begun and forgets what
/// is still queued.
pub struct Preadv {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    capacity: usize,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    reads: VecDeque<Read>,
    /// Reads queued or under way.
    taken: usize,
    stopped: bool,
}

impl Preadv {
    /// Starts `threads` threads that share a queue of at most `capacity` reads.
    pub fn start(threads: usize, capacity: usize, sink: Sink) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let sink: Arc<Sink> = Arc::new(sink);
        let mut pool = Self { queue, threads: Vec::new(), capacity };
        for number in 0..threads.max(1) {
            let (queue, sink) = (pool.queue.clone(), sink.clone());
            let thread = thread::Builder::new().name(format!("read-{number}"));
            pool.threads.push(thread.spawn(move || work(&queue, &sink))?);
        }
        Ok(pool)
    }
}

impl Storage for Preadv {
    fn submit(&self, read: Read) -> Result<(), Read> {
        let mut state = self.queue.lock();
        if state.stopped || state.taken >= self.capacity {
            return Err(read);
        }
        state.taken += 1;
        state.reads.push_back(read);
        drop(state);
        self.queue.work.notify_one();
        Ok(())
    }
}

impl Drop for Preadv {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.stopped = true;
        state.reads.clear();
        drop(state);
        self.queue.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Queue {
    /// The state is changed by single assignments, so a panic elsewhere cannot leave it torn.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a read; `None` once the pool has stopped.
    fn next(&self) -> Option<Read> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            match state.reads.pop_front() {
                Some(read) => return Some(read),
                None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn work(queue: &Queue, sink: &Sink) {
    while let Some(mut read) = queue.next() {
        let (file, offset) = (read.file.clone(), read.offset);
        let mut buffers: Vec<_> =
            read.blocks.iter_mut().map(|(_, window)| IoSliceMut::new(window.bytes_mut())).collect();
        let result = file.read_exact_at(&mut buffers, offset);
        drop(buffers);
        queue.lock().taken -= 1;
        sink(Completion { read, result });
    }
}
