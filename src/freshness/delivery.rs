//! Sending what waits: each receiver by itself, one notification at a time, tried again with growing
//! delays until it is taken, refused for good or too old. At least once: a crash between the receiver's
//! answer and the note of it sends it again. How something is sent is not known here.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use hydrant_storage::order::Micros;
use xxhash_rust::xxh3::xxh3_64;

use super::alerts::Delivery;
use super::{Freshness, micros};
use crate::error::Result;

/// Delays before the second, third, ... attempt double from the first to the longest.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// News of so long ago is given up: what still holds is told again anyway.
const TOO_OLD: Duration = Duration::from_hours(24);

/// Sends notifications.
#[async_trait]
pub trait Sends: Send + Sync + Debug {
    /// Returns once the receiver has taken it. `now` is wall time.
    async fn send(&self, delivery: &Delivery, now: Micros) -> Result<(), SendError>;
}

/// Why a notification was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It may be taken later.
    #[error("{0}")]
    TryAgain(String),
    /// It will never be.
    #[error("{0}")]
    Refused(String),
}

impl Freshness {
    /// Tries the next notification to `url` that is due; whether there was one.
    pub async fn deliver_one(&self, url: &str) -> Result<bool> {
        let inner = &self.inner;
        let Some(sending) = inner.sending.get(url) else { return Ok(false) };
        let _one_at_a_time = sending.lock().await;
        let now = inner.parts.store_time.wall();
        let Some(delivery) = inner.lock().book.due(url, now) else { return Ok(false) };
        let sent = inner.parts.sender.send(&delivery, now).await;
        let now = inner.parts.store_time.wall();
        let (view, to, attempts) = (&delivery.view, host_of(url), delivery.attempts + 1);
        let is_too_old = now.saturating_sub(delivery.made) >= micros(TOO_OLD);
        let again = match &sent {
            Ok(()) => {
                inner.metrics.sent.add(1);
                tracing::debug!(%view, to, "a notification was taken");
                None
            }
            Err(SendError::TryAgain(problem)) if !is_too_old => {
                inner.metrics.send_failed.add(1);
                tracing::warn!(%view, to, attempts, problem, "a notification was not taken; it is tried again");
                Some(now.saturating_add(delay(&delivery)))
            }
            Err(problem) => {
                inner.metrics.send_failed.add(1);
                inner.metrics.dropped.add(1);
                tracing::error!(%view, to, attempts, %problem, "a notification is given up");
                None
            }
        };
        {
            // It may have made room for a newer one meanwhile.
            let outbox = &mut inner.lock().book.outbox;
            match again {
                None => outbox.retain(|waiting| waiting.id != delivery.id),
                Some(due) => {
                    if let Some(waiting) = outbox.iter_mut().find(|waiting| waiting.id == delivery.id) {
                        (waiting.attempts, waiting.due) = (attempts, due);
                    }
                }
            }
        }
        inner.save_book().await?;
        Ok(true)
    }
}

/// Scheme, host and port: what follows may be what only the receiver is to know.
fn host_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find(['/', '?', '#']).map_or(url, |at| &url[..host + at])
}

/// Between three quarters of its length and all of it, so that what failed together is not tried again
/// together.
fn delay(delivery: &Delivery) -> Micros {
    let doubled = micros(FIRST_DELAY).saturating_mul(1_i64 << delivery.attempts.min(20));
    let whole = doubled.min(micros(LONGEST_DELAY));
    let chance = xxh3_64(&[delivery.id.to_le_bytes(), u64::from(delivery.attempts).to_le_bytes()].concat());
    let quarter = whole / 4;
    whole - i64::try_from(chance % quarter.max(1).unsigned_abs()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_are_not_all_the_same() {
        let of = |id, attempts| {
            let name = || "a".parse().expect("a name");
            let (url, body) = (String::new(), String::new());
            delay(&Delivery { id, url, tenant: name(), view: name(), body, made: 0, attempts, due: 0 })
        };
        for (attempts, seconds) in [(0, 1), (1, 2), (4, 16), (9, 300), (60, 300)] {
            let whole = seconds * 1_000_000;
            assert!((1..9).all(|id| (whole * 3 / 4..=whole).contains(&of(id, attempts))), "{attempts}");
        }
        assert_ne!(of(1, 5), of(2, 5));
    }
}
