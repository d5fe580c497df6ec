//! The way out of a backfill that the log has taken in and history can't: a control record gives it up.
//! Nobody has seen any of it, since training sets with a cut-off at or after it were refused meanwhile.

use hydrant_storage::history::{Abandon, TakeIn};

use super::{Backfills, Inner};
use crate::error::{Code, Error, Result};
use crate::log::{AppendError, AppendRequest};
use crate::tenancy::{Action, Permit};

/// How often the control record is sent where definitions keep changing.
const MAX_ATTEMPTS: usize = 8;

impl Backfills {
    /// Gives up the backfill that the log has taken in with a frame and that is not history: none of it is
    /// from then on, and cut-offs after it are true again. The frame of the record that says so.
    ///
    /// # Errors
    /// NOT_FOUND: no backfill of that frame waits. FAILED_PRECONDITION: it has become history after all, or a
    /// part of it is. RESOURCE_EXHAUSTED: another backfill is being made.
    pub async fn abandon(&self, permit: &Permit, frame: u64) -> Result<u64> {
        permit.require(Action::Write)?;
        let _place = self.enter()?;
        self.inner.abandon(permit, frame).await
    }
}

impl Inner {
    async fn abandon(&self, permit: &Permit, frame: u64) -> Result<u64> {
        let take_in = self.waiting(permit, frame)?;
        let _alone = self.parts.taking_in.clone().lock_owned().await;
        // It may only have been late.
        let failure = self.parts.takes_in.take_in_now().await.err();
        if !self.is_waiting(frame) {
            let message = format!("the backfill of frame {frame} is history now: nothing is in the way any more");
            return Err(Error::new(Code::FailedPrecondition, "BACKFILL_TAKEN_IN", message).with("frame", frame));
        }
        for table in self.parts.tables.opened() {
            let taken = table.taken_in(&take_in.backfill).await;
            if taken.map_err(|error| super::failure::staging_error(&error))? == Some(frame) {
                let message =
                    format!("a part of the backfill of frame {frame} is history already, so it can't be given up");
                return Err(Error::new(Code::FailedPrecondition, "BACKFILL_HALF_TAKEN_IN", message)
                    .with("frame", frame)
                    .hint("the server's log names the file that is in the way: put it back from a backup, or delete its view"));
            }
        }
        let record = bytes::Bytes::from(Abandon::new(frame).encode());
        let said = self.say(record).await?;
        // Of other backfills that can't be taken in, this tells again.
        let _ = self.parts.takes_in.take_in_now().await;
        if self.is_waiting(frame) {
            let message = format!("the backfill of frame {frame} is given up, and history was not told yet");
            return Err(Error::new(Code::Unavailable, "BACKFILL_PENDING", message)
                .hint("the server goes on with it; its log tells what is in the way"));
        }
        let reason = failure.map(|error| error.to_string()).unwrap_or_default();
        tracing::warn!(frame, said, reason, "a backfill was given up");
        Ok(said)
    }

    /// The record of a frame, if it waits and is of the caller's tenant.
    fn waiting(&self, permit: &Permit, frame: u64) -> Result<TakeIn> {
        let snapshot = self.parts.snapshots.load();
        let tenant = snapshot.tenant(permit.tenant())?.id;
        let record = self.parts.log.unsettled().into_iter().find(|record| record.number == frame);
        let take_in = record.and_then(|record| TakeIn::decode(record.control.as_ref()?).ok());
        let take_in = take_in.filter(|take_in| take_in.tables.iter().all(|table| table.tenant() == tenant));
        take_in.ok_or_else(|| {
            let message = format!("no backfill of frame {frame} waits to become history");
            Error::not_found("BACKFILL_NOT_FOUND", message)
                .with("frame", frame)
                .hint("the refusal BACKFILL_PENDING of a training set names the frame of one that does")
        })
    }

    fn is_waiting(&self, frame: u64) -> bool {
        self.parts.log.unsettled().iter().any(|record| record.number == frame)
    }

    async fn say(&self, record: bytes::Bytes) -> Result<u64> {
        for _ in 0..MAX_ATTEMPTS {
            let prepared = self.parts.snapshots.load().revision;
            match self.parts.log.append(AppendRequest::of_control(record.clone(), None, prepared)).await {
                Ok(appended) => return Ok(appended.frame),
                Err(AppendError::Outdated { .. }) => {}
                Err(AppendError::Overloaded { retry_after }) => tokio::time::sleep(retry_after).await,
                Err(error) => {
                    let message = format!("the log did not take it: {error}");
                    return Err(Error::new(Code::Unavailable, "BACKFILL_FAILED", message).hint("ask again"));
                }
            }
        }
        let message = "the log took no more requests, or definitions kept changing";
        Err(Error::new(Code::Unavailable, "BACKFILL_FAILED", message).hint("ask again"))
    }
}
