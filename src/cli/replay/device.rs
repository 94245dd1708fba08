//! A device that takes time but reads nothing.
//!
//! It serves one read after another, what is asked for now before what is fetched ahead, and never
//! breaks off what it has begun. The first read after a pause costs the latency; each costs what a
//! request costs and its bytes, gaps included. So it overlaps requests as a deep queue does, and
//! is never faster than the bandwidth.

use crate::storage::{Completion, Priority, Read};
use std::{collections::VecDeque, time::Duration};

/// What each request costs beyond its bytes.
const REQUEST: Duration = Duration::from_micros(8);

/// How fast a device is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Speed {
    pub(super) bytes_per_s: f64,
    pub(super) latency: Duration,
}

impl Speed {
    /// What one more request costs, in bytes that could be read meanwhile.
    pub(super) fn request_bytes(&self) -> u64 {
        (REQUEST.as_secs_f64() * self.bytes_per_s) as u64
    }

    /// How long the device works on a read of so many bytes.
    pub(super) fn service(&self, bytes: u64) -> Duration {
        REQUEST + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s)
    }
}

/// The device, with what it has to do.
pub(super) struct Device {
    speed: Speed,
    demand: VecDeque<Read>,
    ahead: VecDeque<Read>,
    /// What is being read, and when it ends.
    current: Option<(Read, Duration)>,
    demand_bytes: u64,
}

impl Device {
    pub(super) fn new(speed: Speed) -> Self {
        let (demand, ahead) = (VecDeque::new(), VecDeque::new());
        Self { speed, demand, ahead, current: None, demand_bytes: 0 }
    }

    /// Takes a read.
    pub(super) fn submit(&mut self, read: Read, now: Duration) {
        match read.priority {
            Priority::Demand => {
                self.demand_bytes += read.len();
                self.demand.push_back(read);
            }
            Priority::Ahead => self.ahead.push_back(read),
        }
        if self.current.is_none() {
            self.begin(now + self.speed.latency);
        }
    }

    /// When the next read ends.
    pub(super) fn ends(&self) -> Option<Duration> {
        self.current.as_ref().map(|(_, ends)| *ends)
    }

    /// Ends the read that is under way, and begins the next one.
    pub(super) fn finish(&mut self) -> Option<Completion> {
        let (read, ends) = self.current.take()?;
        self.begin(ends);
        Some(Completion { read, result: Ok(()) })
    }

    /// Bytes asked for by switches, gaps included.
    pub(super) fn demand_bytes(&self) -> u64 {
        self.demand_bytes
    }

    fn begin(&mut self, at: Duration) {
        let next = self.demand.pop_front().or_else(|| self.ahead.pop_front());
        self.current = next.map(|read| {
            let ends = at + self.speed.service(read.len());
            (read, ends)
        });
    }
}
