//! How many control frames a connection may send: two token buckets, one for resets of streams and one
//! for all other frames that carry neither a call nor its data.
//!
//! A connection that exceeds a budget is not read for a while, so the kernel's buffer fills and its client
//! has to wait. The daemon's work for it stays bounded, and nothing of a client that catches up is lost.

use super::frame::{DATA, END_STREAM, HEADERS, Head, RST_STREAM};
use std::time::Duration;
use tokio::time::Instant;

/// Frames without a call or its data. Clients send one to acknowledge each of the daemon's pings and
/// some kilobytes of events.
const CONTROL: Rate = Rate { burst: 512.0, per_second: 500.0 };
/// Each call that a client begins pays for so many control frames, such as updates of its window.
const PER_CALL: f64 = 2.0;
/// Resets of streams. The rate exceeds what a client with 64 calls at once and deadlines of 20 ms can
/// send (3,200/s), or it would never catch up after the daemon stalled.
const RESETS: Rate = Rate { burst: BURST_OF_RESETS as f64, per_second: 4000.0 };
/// Resets that a connection may send at once.
pub(in crate::control) const BURST_OF_RESETS: usize = 4096;
/// Time of a rate that a pause waits for.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection that exceeds its budget of control frames without interruption for so long is closed.
const LONGEST: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// What a connection may send.
pub(super) struct Budget {
    control: Bucket,
    resets: Bucket,
    /// Since when the bucket of control frames has not been full, once it was empty.
    exceeded: Option<Instant>,
}

/// What happens to a connection.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is read on.
    Within,
    /// It is not read until then.
    Pause(Instant),
    /// It is closed.
    End,
}

struct Bucket {
    rate: Rate,
    /// Negative after frames that came together.
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst, filled: now }
    }

    fn refill(&mut self, now: Instant) {
        let new = (now - self.filled).as_secs_f64() * self.rate.per_second;
        self.tokens = (self.tokens + new).min(self.rate.burst);
        self.filled = now;
    }

    /// How long to wait for the tokens of a pause, if there is none left.
    fn wait(&self) -> Option<Duration> {
        let debt = Duration::from_secs_f64((-self.tokens).max(0.0) / self.rate.per_second);
        (self.tokens <= 0.0).then_some(debt + PAUSE)
    }
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            control: Bucket::new(CONTROL, now),
            resets: Bucket::new(RESETS, now),
            exceeded: None,
        }
    }

    /// Charges a frame, and tells whether it is one of the control frames.
    pub(super) fn charge(&mut self, head: Head) -> bool {
        match head.kind {
            RST_STREAM => self.resets.tokens -= 1.0,
            HEADERS => self.control.tokens += PER_CALL,
            DATA if head.len > 0 || head.has(END_STREAM) => {}
            _ => {
                self.control.tokens -= 1.0;
                return true;
            }
        }
        false
    }

    /// What the frames charged so far lead to.
    pub(super) fn verdict(&mut self, now: Instant) -> Verdict {
        self.control.refill(now);
        self.resets.refill(now);
        if self.control.tokens >= CONTROL.burst {
            self.exceeded = None;
        } else if self.control.tokens <= 0.0 {
            let since = *self.exceeded.get_or_insert(now);
            if now - since >= LONGEST {
                return Verdict::End;
            }
        }
        match self.control.wait().max(self.resets.wait()) {
            None => Verdict::Within,
            Some(wait) => Verdict::Pause(now + wait),
        }
    }

    /// Whether the budget of control frames may soon be exceeded: then reads are small.
    pub(super) fn is_low(&self) -> bool {
        self.control.tokens < CONTROL.burst / 2.0
    }

    /// The frames that there are too many of.
    pub(super) fn scarce(&self) -> &'static str {
        if self.resets.tokens <= 0.0 { "RST_STREAM" } else { "control" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Head = Head { len: 8, kind: 6, flags: 0, stream: 0 };
    const RESET: Head = Head { len: 4, kind: RST_STREAM, flags: 0, stream: 1 };
    const CALL: Head = Head { len: 99, kind: HEADERS, flags: 4, stream: 1 };

    fn charge(budget: &mut Budget, head: Head, times: usize) {
        (0..times).for_each(|_| {
            budget.charge(head);
        });
    }

    #[test]
    fn flood_is_slowed_to_the_rate_and_closed_when_it_does_not_end() {
        let start = Instant::now();
        let (mut now, mut budget) = (start, Budget::new(start));
        let mut frames = 0_u32;
        while now - start < LONGEST * 2 {
            charge(&mut budget, PING, 60);
            frames += 60;
            match budget.verdict(now) {
                Verdict::Within => {}
                Verdict::Pause(until) => now = until,
                Verdict::End => break,
            }
        }
        let elapsed = now - start;
        assert!(elapsed >= LONGEST && elapsed < LONGEST * 2, "{elapsed:?}");
        assert!(f64::from(frames) < CONTROL.burst + 60.0 + 500.0 * elapsed.as_secs_f64());
    }

    #[test]
    fn flood_that_ends_is_forgotten() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        charge(&mut budget, PING, 600);
        assert!(matches!(budget.verdict(start), Verdict::Pause(_)) && budget.is_low());
        assert_eq!(budget.verdict(start + LONGEST), Verdict::Within);
        charge(&mut budget, PING, 600);
        let again = budget.verdict(start + LONGEST * 2);
        assert_eq!((again, budget.is_low()), (Verdict::Within, false));
    }

    #[test]
    fn calls_pay_for_the_frames_that_come_with_them() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..10_000 {
            charge(&mut budget, CALL, 1);
            charge(&mut budget, PING, 2);
        }
        assert_eq!(budget.verdict(start), Verdict::Within);
    }

    #[test]
    fn r8_resets_after_a_stall_pass_and_rapid_reset_is_slowed() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        charge(&mut budget, RESET, 4000);
        assert_eq!(budget.verdict(start), Verdict::Within);
        charge(&mut budget, RESET, 100);
        assert!(matches!(budget.verdict(start), Verdict::Pause(_)));
        assert_eq!(budget.scarce(), "RST_STREAM");
        let catching_up = (1..200).all(|tick| {
            charge(&mut budget, RESET, 64);
            budget.verdict(start + Duration::from_millis(100 + 20 * tick)) == Verdict::Within
        });
        assert!(catching_up, "64 calls at once with deadlines of 20 ms");
    }
}
