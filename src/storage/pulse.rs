//! How a thread proves that it still comes round: somebody asks and wakes it, and it answers in its
//! loop.
//!
//! A thread that is within a call of the kernel cannot be woken. It says so before, and counts as
//! being there: a device that hangs is no reason to begin anew. What is done about a thread that is
//! not there is not decided here.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// The thread's side.
#[derive(Debug, Default)]
pub struct Beat {
    asked: AtomicU64,
    answered: AtomicU64,
    in_kernel: AtomicBool,
}

impl Beat {
    /// Answers whoever has asked by now. To be called whenever the thread comes round.
    pub fn answer(&self) {
        self.answered.store(self.asked.load(Ordering::Acquire), Ordering::Release);
    }

    /// Makes a call that may take as long as a device does.
    pub(super) fn in_kernel<T>(&self, call: impl FnOnce() -> T) -> T {
        self.in_kernel.store(true, Ordering::Release);
        let result = call();
        self.in_kernel.store(false, Ordering::Release);
        result
    }
}

/// The side of whoever wants to know.
#[derive(Clone)]
pub struct Pulse {
    name: Arc<str>,
    beat: Arc<Beat>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Pulse {
    /// The pulse of a thread that `wake` makes come round.
    pub fn new(
        name: impl Into<Arc<str>>,
        beat: Arc<Beat>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), beat, wake: Arc::new(wake) }
    }

    /// What the thread is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks, without waiting for the answer.
    pub fn ask(&self) {
        self.beat.asked.fetch_add(1, Ordering::AcqRel);
        (self.wake)();
    }

    /// Whether the thread has answered all that was asked, or is within a call of the kernel. One
    /// that has ended never answers.
    pub fn is_there(&self) -> bool {
        let answered = self.beat.answered.load(Ordering::Acquire);
        answered == self.beat.asked.load(Ordering::Acquire)
            || self.beat.in_kernel.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulse {{ {}, {:?} }}", self.name, self.beat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc, thread};

    #[test]
    fn a_thread_is_there_while_it_comes_round_or_waits_for_the_kernel_and_not_once_it_has_ended() {
        let (wakes, woken) = mpsc::channel::<()>();
        let (done, is_done) = mpsc::channel();
        let (leave, left) = mpsc::channel::<()>();
        let beat = Arc::new(Beat::default());
        let own = beat.clone();
        let thread = thread::spawn(move || {
            woken.recv().unwrap();
            own.answer();
            done.send(()).unwrap();
            own.in_kernel(|| {
                done.send(()).unwrap();
                left.recv().unwrap();
            });
        });
        let pulse = Pulse::new("thread", beat, move || {
            // A thread that has ended does not hear it.
            let _ = wakes.send(());
        });
        assert!(pulse.is_there(), "nobody has asked");
        pulse.ask();
        is_done.recv().unwrap();
        assert!(pulse.is_there(), "it has answered");
        is_done.recv().unwrap();
        pulse.ask();
        assert!(pulse.is_there(), "it waits for the kernel");
        leave.send(()).unwrap();
        thread.join().unwrap();
        assert!(!pulse.is_there(), "it has ended");
    }
}
