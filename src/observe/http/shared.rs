//! A value that callers share for a while, so that many of them cost no more than one.

use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A value, and when it was asked for.
pub(super) struct Shared<T> {
    lasts: Duration,
    latest: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Shared<T> {
    /// Shares each value for so long.
    pub(super) fn new(lasts: Duration) -> Self {
        Self { lasts, latest: Mutex::new(None) }
    }

    /// The latest value; `ask` gives a new one if that is too old. Callers who come meanwhile wait for
    /// the new one.
    pub(super) async fn get(&self, ask: impl Future<Output = T>) -> T {
        let mut latest = self.latest.lock().await;
        if let Some((asked, value)) = &*latest
            && asked.elapsed() < self.lasts
        {
            return value.clone();
        }
        let asked = Instant::now();
        let value = ask.await;
        *latest = Some((asked, value.clone()));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn many_callers_ask_once_while_the_value_lasts() {
        let asked = AtomicU32::new(0);
        let ask = async || {
            tokio::task::yield_now().await;
            asked.fetch_add(1, Ordering::Relaxed)
        };
        let lasting = Shared::new(Duration::from_secs(3600));
        let (one, other) = tokio::join!(lasting.get(ask()), lasting.get(ask()));
        assert_eq!((one, other), (0, 0));
        for _ in 0..100 {
            assert_eq!(lasting.get(ask()).await, 0);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let brief = Shared::new(Duration::ZERO);
        assert_eq!((brief.get(ask()).await, brief.get(ask()).await), (1, 2));
    }
}
