//! Vacuum: deletes the files that compaction has taken out of a table, once readers of older versions
//! have had their time, which the table's log says, and nobody here reads them any more. A bounded
//! number at a time. A crash in between leaves some for the next start, which finds them again.

use std::sync::PoisonError;

use crate::files::remove_if_there;
use crate::history::snapshot::{DataFile, Pin};
use crate::history::table::{blocking, finished};
use crate::history::{HistoryError, HistoryTable};
use crate::order::Micros;

/// Files that one step deletes at most.
const MOST_FILES: usize = 64;

/// A file that is the table's no more.
#[derive(Debug)]
pub(super) struct Retired {
    pub name: String,
    pub bytes: u64,
    pub removed_at: Micros,
    pub pin: Pin,
}

/// What a step of deleting did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacuumReport {
    pub files: usize,
    pub bytes: u64,
}

impl Retired {
    pub fn new(file: &DataFile, removed_at: Micros) -> Self {
        Self { name: file.name.clone(), bytes: file.bytes, removed_at, pin: file.pin.clone() }
    }
}

impl HistoryTable {
    /// Deletes some of the files that were taken out of the table `retention` (microseconds) ago or
    /// earlier and that no snapshot holds. To be asked again until there was nothing to delete.
    pub async fn vacuum(&self, now: Micros, retention: Micros) -> Result<VacuumReport, HistoryError> {
        let inner = self.inner.clone();
        let deleting = move || {
            inner.check_synced()?;
            let due = {
                let mut retired = inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
                let is_due =
                    |file: &mut Retired| file.removed_at.saturating_add(retention) <= now && !file.pin.is_shared();
                retired.extract_if(.., is_due).take(MOST_FILES).collect::<Vec<_>>()
            };
            let mut report = VacuumReport::default();
            let mut due = due.into_iter();
            while let Some(file) = due.next() {
                let path = inner.directory.join(&file.name);
                if let Err(error) = remove_if_there(inner.files.as_ref(), &path) {
                    let mut retired = inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
                    retired.push(file);
                    retired.extend(due);
                    return Err(HistoryError::Io { path, source: error });
                }
                tracing::debug!(file = %path.display(), "a file that was merged with others is deleted");
                report.files += 1;
                report.bytes += file.bytes;
            }
            Ok(report)
        };
        finished(tokio::spawn(blocking(deleting))).await
    }

    /// The bytes of the files that are the table's no more, and are not deleted yet.
    pub fn retired_bytes(&self) -> u64 {
        let retired = self.inner.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.iter().map(|file| file.bytes).sum()
    }
}
