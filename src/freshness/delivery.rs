//! Sending what waits: each receiver by itself, one notification at a time, tried again with growing
//! delays until it is taken, refused for good or too old. At least once: a crash between the receiver's
//! answer and the note of it sends it again. How something is sent is not known here.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use hydrant_storage::order::Micros;

use super::alerts::Delivery;
use super::{Freshness, micros};
use crate::error::Result;
use crate::sending::{SendError, delay, host_of};

/// News of so long ago is given up: what still holds is told again anyway.
const TOO_OLD: Duration = Duration::from_hours(24);

/// Sends notifications.
#[async_trait]
pub trait Sends: Send + Sync + Debug {
    /// Returns once the receiver has taken it. `now` is wall time.
    async fn send(&self, delivery: &Delivery, now: Micros) -> Result<(), SendError>;
}

impl Freshness {
    /// Tries the next notification to `url` that is due; whether there was one.
    pub async fn deliver_one(&self, url: &str) -> Result<bool> {
        let inner = &self.inner;
        let Some(sending) = inner.sending.get(url) else { return Ok(false) };
        let _one_at_a_time = sending.lock().await;
        // Wall time may lie before store time, by which things fall due; receivers compare with theirs.
        let (now, wall) = (inner.parts.store_time.read(), inner.parts.store_time.wall());
        let Some(delivery) = inner.lock().book.due(url, now) else { return Ok(false) };
        let sent = inner.parts.sender.send(&delivery, wall).await;
        let now = inner.parts.store_time.read();
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
                Some(now.saturating_add(delay(delivery.id, delivery.attempts)))
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
