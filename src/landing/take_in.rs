//! What backfills have staged becomes history: of each control record that isn't settled, the files it
//! names are taken in by their tables, once, and then it is settled. A crash between any two steps leaves
//! it to be done again, which changes nothing where it was done.

use hydrant_storage::history::TakeIn;
use hydrant_storage::record::Frame;

use super::round::{failed, offline_views};
use super::{LandingOptions, LandingParts, is_fatal};
use crate::error::{Code, Error, Result};

/// Takes in what the log's control records name, the oldest first. One that fails keeps no other from it;
/// the first failure is returned when all have been tried.
pub(super) async fn take_in(parts: &LandingParts, options: &LandingOptions) -> Result<()> {
    let mut first_failure = None;
    for frame in parts.log.unsettled() {
        match of_frame(parts, options, &frame).await {
            Ok(()) => parts.log.settle(frame.number),
            Err(error) => {
                tracing::error!(frame = frame.number, %error, "a backfill was not taken in; it will be tried again");
                first_failure.get_or_insert(error);
            }
        }
    }
    first_failure.map_or(Ok(()), Err)
}

async fn of_frame(parts: &LandingParts, options: &LandingOptions, frame: &Frame) -> Result<()> {
    let Frame { number, ingest_time, control: Some(record), .. } = frame else { return Ok(()) };
    let unreadable = |told: String| {
        let message = format!("the control record of frame {number} can't be read: {told}");
        Error::new(Code::DataLoss, "LANDING_FAILED", message)
    };
    let take_in = TakeIn::decode(record).map_err(unreadable)?;
    let taken = take_in.taken_in(*number, *ingest_time);
    let snapshot = parts.snapshots.load();
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
        let history = |error| {
            if is_fatal(&error) {
                options.on_fatal.call(&error.to_string());
            }
            failed(view, &error)
        };
        let rows: u64 = table.files.iter().map(hydrant_storage::history::StagedFile::rows).sum();
        let opened = parts.tables.table(view.history_spec(tenant)).await.map_err(history)?;
        let now = parts.store_time.read();
        if opened.take_in(&take_in.backfill, table.files, taken, now).await.map_err(history)? {
            tracing::info!(view = %view.name, rows, frame = number, "a backfill was taken in");
        }
    }
    Ok(())
}
