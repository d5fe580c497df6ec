//! What an erasure has backfills do: whatever is staged of the views in question is removed, since rows of
//! the erased key may be among it, and who is sending such a backfill is told to begin anew.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use hydrant_storage::history::TakeIn;
use hydrant_storage::names::ViewId;
use tokio::sync::OwnedSemaphorePermit;

use super::failure::{disk_error, staging_error};
use super::target::Target;
use super::{Backfills, Inner, blocking, ledger};
use crate::error::{Code, Error, Result};

/// How often it is looked whether the backfill under way has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Backfills {
    /// Removes all that is staged of these views and not taken in, and tells how many backfills that were;
    /// the one under way ends, if it is of one of them, and is waited for otherwise. Until what is returned
    /// is dropped, none begins.
    pub async fn give_up(&self, views: &[ViewId]) -> Result<(OwnedSemaphorePermit, u64)> {
        let inner = self.inner.clone();
        {
            let mut given_up = inner.given_up.lock().unwrap_or_else(PoisonError::into_inner);
            views.iter().for_each(|view| *given_up.entry(*view).or_default() += 1);
        }
        let place = loop {
            match self.enter() {
                Err(error) if error.reason == "BACKFILL_BUSY" => tokio::time::sleep(LOOK_AGAIN).await,
                entered => break entered?,
            }
        };
        let (files, directory) = (inner.parts.files.clone(), inner.options.directory.clone());
        let wanted: Vec<u32> = views.iter().map(|view| view.0).collect();
        let removed = blocking(move || {
            let removed = ledger::remove_of_views(files.as_ref(), &directory, &wanted);
            removed.map_err(|error| disk_error(&directory, &error))
        });
        let removed = removed.await?;
        let records = inner.parts.log.unsettled().into_iter().filter_map(|frame| frame.control.clone());
        let pending = records.filter_map(|record| TakeIn::decode(&record).ok()).map(|take_in| take_in.backfill);
        let pending: HashSet<String> = pending.collect();
        for table in inner.parts.tables.opened() {
            table.remove_staged(pending.clone()).await.map_err(|error| staging_error(&error))?;
        }
        Ok((place, removed))
    }
}

impl Inner {
    /// How often what is staged of a target's views was given up.
    pub(super) fn times_given_up(&self, target: &Target) -> u64 {
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        target.views.iter().filter_map(|view| given_up.get(&view.id)).sum()
    }

    /// Refuses to go on with a backfill whose views were given up since it began.
    pub(super) fn check_not_given_up(&self, target: &Target, at_begin: u64) -> Result<()> {
        if self.times_given_up(target) == at_begin {
            return Ok(());
        }
        let message = "a key of one of its views is being erased, so what was staged of this backfill is removed";
        Err(Error::new(Code::Aborted, "BACKFILL_GIVEN_UP", message)
            .hint("take the key's rows out of the source, and send the backfill again once the key is erased"))
    }
}
