//! What backfills have staged becomes history: of each control record that isn't settled, the files it
//! names are taken in by their tables, once, and then it is settled. A crash between any two steps leaves
//! it to be done again, which changes nothing where it was done. A record may give an earlier one up.

use std::collections::HashSet;

use hydrant_storage::history::{Abandon, HistoryError, StagedFile, TakeIn};
use hydrant_storage::record::Frame;

use super::round::{failed, offline_views};
use super::{LandingOptions, LandingParts, is_fatal};
use crate::error::{Code, Error, Result};
use crate::registry::catalog::View;

/// Takes in what the log's control records name, the oldest first. One that fails keeps no other from it;
/// the first failure is returned when all have been tried.
pub(super) async fn take_in(parts: &LandingParts, options: &LandingOptions) -> Result<()> {
    let records = parts.log.unsettled();
    let given_up = |frame: &Frame| frame.control.as_ref().and_then(|record| Abandon::decode(record));
    let abandoned: HashSet<u64> = records.iter().filter_map(|frame| given_up(frame)).map(|it| it.abandoned).collect();
    let mut first_failure = None;
    for frame in &records {
        // It comes after the record that it gives up, of which all is done then that will be.
        if given_up(frame).is_some() {
            parts.log.settle(frame.number);
            continue;
        }
        match of_frame(parts, options, frame, abandoned.contains(&frame.number)).await {
            Ok(()) => parts.log.settle(frame.number),
            Err(error) => {
                tracing::error!(frame = frame.number, %error, "a backfill was not taken in; it will be tried again");
                first_failure.get_or_insert(error);
            }
        }
    }
    first_failure.map_or(Ok(()), Err)
}

async fn of_frame(parts: &LandingParts, options: &LandingOptions, frame: &Frame, is_abandoned: bool) -> Result<()> {
    let Frame { number, ingest_time, control: Some(record), .. } = frame else { return Ok(()) };
    let unreadable = |told: String| {
        let message = format!("the control record of frame {number} can't be read: {told}");
        Error::new(Code::DataLoss, "LANDING_FAILED", message)
    };
    let take_in = TakeIn::decode(record).map_err(unreadable)?;
    let taken = take_in.taken_in(*number, *ingest_time);
    let snapshot = parts.snapshots.load();
    let history = |view: &View, error: HistoryError| {
        if is_fatal(&error) {
            options.on_fatal.call(&error.to_string());
        }
        failed(view, &error)
    };
    let (mut waiting, mut is_begun) = (Vec::new(), false);
    for table in take_in.tables {
        let found = offline_views(&snapshot).find(|(_, view)| (view.tenant, view.id) == (table.tenant(), table.view()));
        let Some((tenant, view)) = found else {
            tracing::info!(
                view = table.view().0,
                backfill = take_in.backfill,
                "a view was deleted before its backfill"
            );
            continue;
        };
        let opened = parts.tables.table(view.history_spec(tenant)).await.map_err(|error| history(view, error))?;
        match opened.taken_in(&take_in.backfill).await.map_err(|error| history(view, error))? {
            Some(frame) => is_begun |= frame == *number,
            None => waiting.push((view, opened, table.files)),
        }
    }
    if is_abandoned && !is_begun {
        tracing::warn!(frame = number, backfill = take_in.backfill, "a backfill was abandoned: it is part of no table");
        return Ok(());
    }
    // What can't be taken in as a whole is not begun.
    for (view, opened, files) in &waiting {
        opened.check_staged(files.clone()).await.map_err(|error| history(view, error))?;
    }
    for (view, opened, files) in waiting {
        let rows: u64 = files.iter().map(StagedFile::rows).sum();
        let now = parts.store_time.read();
        if opened.take_in(&take_in.backfill, files, taken, now).await.map_err(|error| history(view, error))? {
            tracing::info!(view = %view.name, rows, frame = number, "a backfill was taken in");
        }
    }
    Ok(())
}
