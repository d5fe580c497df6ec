//! Time, injected. A [`Clock`] tells wall time and may jump; [`StoreTime`] is what the store lives
//! by: it never runs backwards, whatever the wall clock or a restart does. A [`Ticker`] measures how
//! long something takes.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};
use hydrant_storage::order::Micros;

/// Wall time.
pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Micros;
}

#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Micros {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Micros::try_from(since_epoch.as_micros()).unwrap_or(Micros::MAX)
    }
}

/// A clock that a test moves by hand, in either direction.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn new(now: Micros) -> Self {
        Self(AtomicI64::new(now))
    }

    pub fn set(&self, now: Micros) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub fn advance(&self, by: Duration) {
        let by = Micros::try_from(by.as_micros()).unwrap_or(Micros::MAX);
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::SeqCst)
    }
}

/// What passes between two instants: deadlines, rates and waits are measured by it.
pub trait Ticker: Send + Sync + fmt::Debug {
    fn now(&self) -> Instant;
}

#[derive(Debug, Default)]
pub struct SystemTicker;

impl Ticker for SystemTicker {
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// A ticker that a test moves by hand.
#[derive(Debug)]
pub struct ManualTicker(Mutex<Instant>);

impl Default for ManualTicker {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl ManualTicker {
    pub fn advance(&self, by: Duration) {
        *self.0.lock().expect("no test panicked here") += by;
    }
}

impl Ticker for ManualTicker {
    fn now(&self) -> Instant {
        *self.0.lock().expect("no test panicked here")
    }
}

/// Store time: wall time made monotone. Reads take it with [`StoreTime::read`], the log's appender
/// stamps requests with [`StoreTime::stamp`], and a stamp lies strictly after every instant given
/// out before, so that nothing accepted later can slip under an answer already given.
///
/// What was given out must also hold across a crash, and can't be synced at each read. So a bound
/// is made durable ahead of time: no instant beyond it is given out, and a restart begins at it.
/// Keeping the bound ahead is the log's task ([`StoreTime::promise`]).
#[derive(Debug)]
pub struct StoreTime {
    clock: Arc<dyn Clock>,
    last: AtomicI64,
    bound: AtomicI64,
}

impl StoreTime {
    /// Begins at `floor`: the bound made durable by the last run, or the newest ingest time in the
    /// log if that is later.
    pub fn new(clock: Arc<dyn Clock>, floor: Micros) -> Self {
        Self { clock, last: AtomicI64::new(floor), bound: AtomicI64::new(floor) }
    }

    /// An instant for a read, at or after every instant given out before.
    pub fn read(&self) -> Micros {
        let capped = self.clock.now().min(self.bound.load(Ordering::SeqCst));
        self.last.fetch_max(capped, Ordering::SeqCst).max(capped)
    }

    /// The instant at which a request is accepted: strictly after every instant given out before.
    /// `None` where it would lie beyond the durable bound, which then has to be raised first.
    pub fn stamp(&self) -> Option<Micros> {
        let bound = self.bound.load(Ordering::SeqCst);
        let wall = self.clock.now().min(bound);
        let stamped = self.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| {
            let next = wall.max(last.saturating_add(1));
            (next <= bound).then_some(next)
        });
        stamped.ok().map(|last| wall.max(last.saturating_add(1)))
    }

    /// The bound that should be durable now for store time to run freely for `ahead` more.
    pub fn wanted_bound(&self, ahead: Duration) -> Micros {
        let ahead = Micros::try_from(ahead.as_micros()).unwrap_or(Micros::MAX);
        self.clock.now().max(self.last.load(Ordering::SeqCst)).saturating_add(ahead)
    }

    /// The bound that is durable.
    pub fn bound(&self) -> Micros {
        self.bound.load(Ordering::SeqCst)
    }

    /// States that `bound` is durable: instants up to it may be given out.
    pub fn promise(&self, bound: Micros) {
        self.bound.fetch_max(bound, Ordering::SeqCst);
    }

    /// Wall time, for what isn't store time: timers, logs.
    pub fn wall(&self) -> Micros {
        self.clock.now()
    }
}

/// An instant as RFC 3339 in UTC, with as many digits as it needs; beyond the calendar, its number
/// of microseconds.
pub fn rfc3339(at: Micros) -> String {
    let time = DateTime::from_timestamp_micros(at);
    time.map_or_else(|| at.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// Reads RFC 3339 with any offset. Finer than a microsecond is floored.
pub fn parse_rfc3339(text: &str) -> Result<Micros, String> {
    let wrong = |error| format!("{error}; write it like 2013-12-30T22:30:00Z (RFC 3339)");
    // `timestamp_micros` floors, before 1970 too.
    DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_micros()).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_utc_and_finer_than_a_microsecond_is_floored() {
        let read_and_written = |text| parse_rfc3339(text).map(rfc3339);
        assert_eq!(read_and_written("2013-12-30T22:30:00Z").as_deref(), Ok("2013-12-30T22:30:00Z"));
        assert_eq!(read_and_written("2013-12-30T17:30:00-05:00").as_deref(), Ok("2013-12-30T22:30:00Z"));
        assert_eq!(read_and_written("2013-12-30T22:30:00.1234569Z").as_deref(), Ok("2013-12-30T22:30:00.123456Z"));
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59.9999999Z"), Ok(-1));
        assert!(parse_rfc3339("2013-12-30").is_err());
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
    }

    fn store_time(now: Micros, bound: Micros) -> (Arc<ManualClock>, StoreTime) {
        let clock = Arc::new(ManualClock::new(now));
        let time = StoreTime::new(clock.clone(), 0);
        time.promise(bound);
        (clock, time)
    }

    #[test]
    fn store_time_never_runs_backwards() {
        let (clock, time) = store_time(1_000, 10_000);
        assert_eq!(time.read(), 1_000);
        clock.set(10);
        assert_eq!(time.read(), 1_000);
        assert_eq!(time.stamp(), Some(1_001));
        assert_eq!(time.read(), 1_001);
    }

    #[test]
    fn a_stamp_lies_strictly_after_every_instant_given_out() {
        let (_clock, time) = store_time(1_000, 10_000);
        let read = time.read();
        let first = time.stamp().expect("within the bound");
        let second = time.stamp().expect("within the bound");
        assert!(read < first && first < second);
    }

    #[test]
    fn no_instant_beyond_the_durable_bound_is_given_out() {
        let (clock, time) = store_time(1_000, 1_001);
        assert_eq!(time.stamp(), Some(1_000));
        assert_eq!(time.stamp(), Some(1_001));
        assert_eq!(time.stamp(), None);
        clock.set(5_000);
        assert_eq!(time.read(), 1_001);
        time.promise(6_000);
        assert_eq!(time.stamp(), Some(5_000));
    }
}
