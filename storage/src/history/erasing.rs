//! Erasing rows from a table: the files that hold some are written anew without them, and take their
//! places in one commit; then every file that was taken out of the table, for this or by compaction, is
//! deleted at once, whatever the time that older versions have otherwise. A crash leaves the table of
//! before or of after; what it leaves of files is found by doing the same again.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use crate::erased::ErasedKey;
use crate::files::remove_if_there;
use crate::history::compaction::{Merge, MergeKind};
use crate::history::snapshot::{DataFile, TableSnapshot};
use crate::history::table::{blocking, finished};
use crate::history::{HistoryError, HistoryTable, RunBatch, SlotSet};
use crate::order::Micros;

/// How often it is looked whether readers have let go of a file.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What was erased from a table, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedFromTable {
    pub rows: u64,
    /// Files that were written anew, or had no other rows.
    pub files: u64,
    /// Files of older versions that were deleted before their time.
    pub older_files: u64,
}

impl HistoryTable {
    /// How many rows an erasure would take, and from how many files; nothing is changed.
    pub async fn count_erasable(&self, erased: Vec<ErasedKey>) -> Result<ErasedFromTable, HistoryError> {
        let snapshot = self.snapshot();
        let counting = move || {
            let found = snapshot.files_to_erase(&erased)?;
            Ok(ErasedFromTable {
                rows: found.iter().map(|(_, rows)| rows).sum(),
                files: found.len() as u64,
                older_files: 0,
            })
        };
        blocking(counting).await
    }

    /// Erases rows for good: when it returns, no file of the table's directory holds them. Readers of files
    /// that are replaced have `patience` to come to their end. Merges wait meanwhile, landings don't: no row
    /// of the frames in question may land any more. Dropping the future doesn't interrupt it.
    ///
    /// # Errors
    /// The same call goes on where this one ended.
    pub async fn erase(
        &self,
        erased: Vec<ErasedKey>,
        now: Micros,
        patience: Duration,
    ) -> Result<ErasedFromTable, HistoryError> {
        let table = self.clone();
        finished(tokio::spawn(async move { table.erase_alone(erased, now, patience).await })).await
    }

    async fn erase_alone(
        &self,
        erased: Vec<ErasedKey>,
        now: Micros,
        patience: Duration,
    ) -> Result<ErasedFromTable, HistoryError> {
        let alone = self.inner.compacting.clone().lock_owned().await;
        self.inner.check_synced()?;
        let before = self.inner.current();
        let (merge, mut done) = blocking(move || rewrite(&before, &erased, alone)).await?;
        if !merge.inputs.is_empty() {
            self.inner.commit(merge, now).await?;
        }
        let replaced = done.files;
        done.older_files = self.delete_retired(patience).await?.saturating_sub(replaced);
        Ok(done)
    }

    /// Deletes all files that are the table's no more, once nobody reads them or `patience` has passed.
    async fn delete_retired(&self, patience: Duration) -> Result<u64, HistoryError> {
        let (until, mut deleted) = (Instant::now() + patience, 0);
        loop {
            let inner = self.inner.clone();
            let is_over = Instant::now() >= until;
            let deleting = move || {
                let mut retired = inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
                let mut gone = 0;
                let mut failure = None;
                retired.retain(|file| {
                    if failure.is_some() || (file.pin.is_shared() && !is_over) {
                        return true;
                    }
                    file.pin.tell_erased();
                    let path = inner.directory.join(&file.name);
                    match remove_if_there(inner.files.as_ref(), &path) {
                        Ok(()) => gone += 1,
                        Err(error) => failure = Some(HistoryError::Io { path, source: error }),
                    }
                    failure.is_some()
                });
                if let Some(failure) = failure {
                    return Err(failure);
                }
                inner.files.sync_dir(&inner.directory).map_err(HistoryError::io(&inner.directory))?;
                Ok((gone, retired.is_empty()))
            };
            let (gone, is_done) = blocking(deleting).await?;
            deleted += gone;
            if is_done {
                return Ok(deleted);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl TableSnapshot {
    /// The files that hold rows to be erased, with how many.
    fn files_to_erase(&self, erased: &[ErasedKey]) -> Result<Vec<(DataFile, u64)>, HistoryError> {
        let slots = slots_of(erased);
        let mut found = Vec::new();
        for file in self.files_with(slots.as_ref(), None) {
            let rows = self.count_leaving(file, slots.as_ref(), &|batch, row| is_erased(erased, batch, row))?;
            if rows > 0 {
                found.push((file.clone(), rows));
            }
        }
        Ok(found)
    }
}

/// Writes the files that hold erased rows anew, of which nobody knows yet. Blocks.
fn rewrite(
    snapshot: &TableSnapshot,
    erased: &[ErasedKey],
    alone: OwnedMutexGuard<()>,
) -> Result<(Merge, ErasedFromTable), HistoryError> {
    let found = snapshot.files_to_erase(erased)?;
    let outputs = snapshot.write_without(&found, &|batch, row| is_erased(erased, batch, row), &mut |_| true)?;
    let done =
        ErasedFromTable { rows: found.iter().map(|(_, rows)| rows).sum(), files: found.len() as u64, older_files: 0 };
    let inputs = found.into_iter().map(|(file, _)| file).collect();
    Ok((Merge { runs: 0, inputs, outputs, kind: MergeKind::Erasure, _alone: alone }, done))
}

/// The slots in which rows to be erased may lie; `None`: in any.
fn slots_of(erased: &[ErasedKey]) -> Option<SlotSet> {
    let slots: Option<HashSet<u16>> = erased.iter().map(|key| key.whole.as_ref().map(|(slot, _)| *slot)).collect();
    let mut set = SlotSet::new();
    slots?.into_iter().for_each(|slot| set.insert(slot));
    Some(set)
}

fn is_erased(erased: &[ErasedKey], batch: &RunBatch, row: usize) -> bool {
    let frame = batch.frames[row];
    erased.iter().any(|key| frame <= key.through && key.is_key(batch.slots[row], batch.keys.value(row)))
}
