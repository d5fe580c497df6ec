//! Taking rows out of a table that are older than its view keeps them: file by file, each in one commit
//! with the instant before which rows are gone. Files that were replaced stay for readers of older versions
//! as after a merge. A crash leaves the table of before or of after.

use crate::history::compaction::{Merge, MergeKind, Pace};
use crate::history::leaving::Leaves;
use crate::history::outputs::Outputs;
use crate::history::snapshot::{DataFile, TableSnapshot};
use crate::history::table::{blocking, finished};
use crate::history::{HistoryError, HistoryTable, RunBatch};
use crate::names::Name;
use crate::order::Micros;

/// Rows of a version of a view that go since the view doesn't keep them for longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsTooOld {
    pub tenant: Name,
    pub view: Name,
    pub version: u32,
    /// Those that happened before.
    pub before: Micros,
}

impl HistoryTable {
    /// Writes the next file that holds rows which happened before an instant without them; `None`: no file
    /// does. A file that can't be read or written is passed over as long as there are others. What is written
    /// is durable and not yet the table's: see [`HistoryTable::commit`]. Landings go on meanwhile; merges wait.
    /// Dropping the future doesn't interrupt it, but for what `pace` says.
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
                let Some((file, rows, outputs)) = snapshot.next_without_older(before, &mut pace)? else {
                    return Ok(None);
                };
                let kind = MergeKind::Retention { before, rows };
                Ok(Some(Merge { runs: 0, inputs: vec![file], outputs, kind, _alone: alone }))
            };
            blocking(write).await
        };
        finished(tokio::spawn(writing)).await
    }
}

impl TableSnapshot {
    /// About how many of its rows happened before an instant, as the ends of its files tell. Blocks.
    ///
    /// # Errors
    /// A file can't be read.
    pub fn rows_before(&self, before: Micros) -> Result<u64, HistoryError> {
        self.files.iter().map(|file| Ok(self.open_run(file, &[], None)?.rows_before(before))).sum()
    }

    /// The first file with rows from before an instant, how many those are, and what is written without them.
    fn next_without_older(
        &self,
        before: Micros,
        pace: &mut Pace,
    ) -> Result<Option<(DataFile, u64, Outputs)>, HistoryError> {
        let leaves = |batch: &RunBatch, row: usize| batch.event_times[row] < before;
        let mut failure = None;
        for file in &self.files {
            match self.without_leaving(file, before, &leaves, pace) {
                Ok(None) => {}
                Ok(Some((rows, outputs))) => return Ok(Some((file.clone(), rows, outputs))),
                Err(HistoryError::GivenUp) => return Err(HistoryError::GivenUp),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }

    fn without_leaving(
        &self,
        file: &DataFile,
        before: Micros,
        leaves: Leaves<'_>,
        pace: &mut Pace,
    ) -> Result<Option<(u64, Outputs)>, HistoryError> {
        if self.open_run(file, &[], None)?.first_event_time().is_some_and(|first| first >= before) {
            return Ok(None);
        }
        let rows = self.count_leaving(file, None, leaves)?;
        if rows == 0 {
            return Ok(None);
        }
        let found = [(file.clone(), rows)];
        Ok(Some((rows, self.write_without(&found, leaves, pace.as_mut())?)))
    }
}
