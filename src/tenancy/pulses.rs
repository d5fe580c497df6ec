//! When what has arrived is let in before the next request begins: by time alone, and more often where tenants
//! compete. It knows nothing of the queue but whether somebody waits.

use std::time::{Duration, Instant};

use super::admission::TenantIndex;

/// When what has arrived is let in.
#[derive(Debug)]
pub(super) struct Pulses {
    every: Duration,
    every_shared: Duration,
    ended: Option<Instant>,
    under_way: bool,
    /// Who asked last.
    latest: Option<TenantIndex>,
    /// When that was another than before.
    alternated: Option<Instant>,
}

impl Pulses {
    /// So long after requests of several tenants came in they are taken to come again.
    const SHARED: Duration = Duration::from_millis(100);

    pub fn new(every: Duration, every_shared: Duration) -> Self {
        Self { every, every_shared, ended: None, under_way: false, latest: None, alternated: None }
    }

    pub fn note_asker(&mut self, now: Instant, tenant: TenantIndex) {
        if self.latest.replace(tenant).is_some_and(|latest| latest != tenant) {
            self.alternated = Some(now);
        }
    }

    /// Whether one begins, where there is none and it is time.
    pub fn begin(&mut self, now: Instant, others_wait: bool) -> bool {
        let since = |then: Instant| now.saturating_duration_since(then);
        let every = if others_wait && self.is_shared(now) { self.every_shared } else { self.every };
        let begins = !self.under_way && self.ended.is_none_or(|ended| since(ended) >= every);
        self.under_way |= begins;
        begins
    }

    /// Whether several tenants have asked lately.
    pub fn is_shared(&self, now: Instant) -> bool {
        self.alternated.is_some_and(|then| now.saturating_duration_since(then) < Self::SHARED)
    }

    pub fn end(&mut self, now: Instant) {
        self.under_way = false;
        self.ended = Some(now);
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way
    }
}
