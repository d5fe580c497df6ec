//! Taking rows out of a table that are older than its view keeps them: file by file, each in one commit
//! with the instant before which rows are gone. Files that were replaced stay for readers of older versions
//! as after a merge. A crash leaves the table of before or of after.

use crate::history::compaction::{Merge, MergeKind, Pace};
use crate::history::leaving::Leaves;
use crate::history::snapshot::{DataFile, TableSnapshot};
use crate::history::table::{blocking, finished};
use crate::history::{HistoryError, HistoryTable, RunBatch};
use crate::order::Micros;

impl HistoryTable {
    /// Writes the next file that holds rows which happened before an instant without them; `None`: no file
    /// does. What is written is durable and not yet the table's: see [`HistoryTable::commit`]. Landings go
    /// on meanwhile; merges wait. Dropping the future doesn't interrupt it, but for what `pace` says.
    ///
    /// # Errors
    /// Nothing has changed, and nothing is left.
    pub async fn without_older(&self, before: Micros, mut pace: Pace) -> Result<Option<Merge>, HistoryError> {
        let inner = self.inner.clone();
        let writing = async move {
            let alone = inner.compacting().lock_owned().await;
            inner.check_synced()?;
            let snapshot = inner.current();
            let write = move || {
                let leaves = |batch: &RunBatch, row: usize| batch.event_times[row] < before;
                let Some(found) = snapshot.next_with_older(before, &leaves)? else { return Ok(None) };
                let outputs = snapshot.write_without(std::slice::from_ref(&found), &leaves, pace.as_mut())?;
                let kind = MergeKind::Retention { before, rows: found.1 };
                Ok(Some(Merge { runs: 0, inputs: vec![found.0], outputs, kind, _alone: alone }))
            };
            blocking(write).await
        };
        finished(tokio::spawn(writing)).await
    }
}

impl TableSnapshot {
    /// The first file with rows from before an instant, and how many those are.
    fn next_with_older(&self, before: Micros, leaves: Leaves<'_>) -> Result<Option<(DataFile, u64)>, HistoryError> {
        for file in &self.files {
            if self.open_run(file, &[], None)?.first_event_time().is_some_and(|first| first >= before) {
                continue;
            }
            let rows = self.count_leaving(file, None, leaves)?;
            if rows > 0 {
                return Ok(Some((file.clone(), rows)));
            }
        }
        Ok(None)
    }
}
