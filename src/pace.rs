//! How fast background work may write: bytes a second, over some seconds, and no further once it is to
//! end. It counts what it is told and knows nothing of what is written.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shorter waits are put together, since waking up costs something too.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// Ends work that waits for its turn.
#[derive(Debug, Default)]
pub struct Ending {
    ending: Mutex<bool>,
    changed: Condvar,
}

/// The pace of one piece of work, on however many threads.
#[derive(Debug)]
pub struct Pace {
    rate: Mutex<Rate>,
    ending: Arc<Ending>,
}

#[derive(Debug)]
struct Rate {
    bytes_per_second: u64,
    /// When what was written so far will be paid for.
    paid: Instant,
}

impl Ending {
    pub fn set(&self) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub fn is_set(&self) -> bool {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for so long, or until it is set; says whether it is.
    fn wait(&self, at_most: Duration) -> bool {
        let ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(ending, at_most, |ending| !*ending);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Pace {
    pub fn new(bytes_per_second: u64, ending: Arc<Ending>) -> Self {
        Self { rate: Mutex::new(Rate::new(bytes_per_second, Instant::now())), ending }
    }

    /// Takes note of bytes that were written, waits for its turn, and says whether to go on. Blocks.
    pub fn may_go_on_after(&self, bytes: u64) -> bool {
        let wait = self.rate.lock().unwrap_or_else(PoisonError::into_inner).spend(bytes, Instant::now());
        if wait.is_zero() { !self.ending.is_set() } else { !self.ending.wait(wait) }
    }
}

impl Rate {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), paid: now }
    }

    /// Takes note of bytes that were written; how long to wait for that.
    fn spend(&mut self, bytes: u64, now: Instant) -> Duration {
        // Time in which nothing was written isn't saved up.
        self.paid = self.paid.max(now) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let wait = self.paid.duration_since(now);
        if wait < SHORTEST_WAIT { Duration::ZERO } else { wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_any_time_no_more_is_written_than_the_rate_allows_and_rest_is_not_saved_up() {
        let start = Instant::now();
        let mut rate = Rate::new(1_000, start);
        let mut now = start;
        for _ in 0..100 {
            now += rate.spend(30, now);
        }
        let took = now - start;
        assert!((Duration::from_millis(2_970)..=Duration::from_millis(3_000)).contains(&took), "{took:?}");
        now += Duration::from_mins(1);
        assert_eq!(rate.spend(2_000, now), Duration::from_secs(2));
    }

    #[test]
    fn small_pieces_wait_together() {
        let start = Instant::now();
        let mut rate = Rate::new(1_000, start);
        assert_eq!(rate.spend(19, start), Duration::ZERO);
        assert_eq!(rate.spend(19, start), Duration::from_millis(38));
    }

    #[test]
    fn threads_that_share_a_pace_keep_to_it_together() {
        let pace = Pace::new(1_000, Arc::default());
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(pace.may_go_on_after(50)));
            }
        });
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(199), "{took:?}");
    }

    #[test]
    fn who_waits_for_a_slow_rate_stops_when_it_is_to_end() {
        let ending = Arc::new(Ending::default());
        let pace = Pace::new(1, ending.clone());
        let waiting = std::thread::spawn(move || pace.may_go_on_after(1 << 40));
        ending.set();
        assert!(!waiting.join().expect("no panic"));
    }
}
