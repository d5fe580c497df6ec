//! The time that a load goes by. Instants are told from the timer's own beginning, so that a test can
//! move them by hand. It never tells what time of day it is.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Below this, waiting is done by looking at the clock: the timers' grain is a millisecond.
const TIMER_GRAIN: Duration = Duration::from_millis(3);

/// A turn of the thread shorter than this has done nothing but look for work.
const EMPTY_TURN: Duration = Duration::from_micros(5);

/// Monotone time, and how to wait in it.
pub trait Timer: Clone + Send + Sync + 'static {
    fn now(&self) -> Duration;

    /// Lets the other tasks of the thread run, and comes back at `until` or any time before.
    fn pause(&self, until: Duration) -> impl Future<Output = ()> + Send;

    /// CPU time that went into looking at the clock. It is the generator's way of being in time, and
    /// no part of what a request costs.
    fn spent_waiting(&self) -> Duration {
        Duration::ZERO
    }
}

/// The machine's monotone clock. Clones share their beginning.
#[derive(Clone, Debug)]
pub struct Monotonic {
    begun: Instant,
    waited_nanos: Arc<AtomicU64>,
}

impl Monotonic {
    /// Begins now.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), waited_nanos: Arc::default() }
    }
}

impl Timer for Monotonic {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn pause(&self, until: Duration) {
        let before = self.now();
        let left = until.saturating_sub(before);
        if left > TIMER_GRAIN {
            return tokio::time::sleep(left - TIMER_GRAIN).await;
        }
        tokio::task::yield_now().await;
        let turn = self.now() - before;
        if turn < EMPTY_TURN {
            self.waited_nanos.fetch_add(nanos(turn), Ordering::Relaxed);
        }
    }

    fn spent_waiting(&self) -> Duration {
        Duration::from_nanos(self.waited_nanos.load(Ordering::Relaxed))
    }
}

/// Nanoseconds, as histograms take them.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
