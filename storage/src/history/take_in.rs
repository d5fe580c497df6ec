//! What a backfill's control record says: which staged files become part of which tables. The record's
//! frame and ingest time are those of all their rows. A table takes them in once, in one commit.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::remove_if_there;
use crate::history::staging::STAGED_PREFIX;
use crate::history::table::{Inner, blocking, finished};
use crate::history::writer::TakenIn;
use crate::history::{HistoryError, HistoryTable, StagedFile};
use crate::names::{TenantId, ViewId};
use crate::order::Micros;

/// A control record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeIn {
    /// Counts the formats of this record.
    format: u32,
    /// Which backfill it is, as hexadecimal digits.
    pub backfill: String,
    /// Whether the rows are known from their ingest time on, and not from when their columns say.
    pub known_on_arrival: bool,
    pub tables: Vec<TakeInTable>,
}

/// The files of one view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeInTable {
    tenant: u32,
    view: u32,
    pub files: Vec<StagedFile>,
}

/// A control record of the log that gives an earlier one up: its files become part of no table. It holds
/// only where no table has taken any of them in before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abandon {
    format: u32,
    /// The frame of the [`TakeIn`].
    pub abandoned: u64,
}

const FORMAT: u32 = 1;

impl Abandon {
    pub fn new(abandoned: u64) -> Self {
        Self { format: FORMAT, abandoned }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers are JSON")
    }

    /// What [`Abandon::encode`] gave; `None`: it is another record.
    pub fn decode(record: &[u8]) -> Option<Self> {
        serde_json::from_slice(record).ok().filter(|decoded: &Self| decoded.format == FORMAT)
    }
}

impl TakeIn {
    pub fn new(backfill: String, known_on_arrival: bool, tables: Vec<TakeInTable>) -> Self {
        Self { format: FORMAT, backfill, known_on_arrival, tables }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names, numbers and flags are JSON")
    }

    /// What [`TakeIn::encode`] gave; or what is wrong with it.
    pub fn decode(record: &[u8]) -> Result<Self, String> {
        let decoded: Self = serde_json::from_slice(record).map_err(|error| error.to_string())?;
        if decoded.format != FORMAT {
            return Err(format!("its format {} is not known to this version of Hydrant", decoded.format));
        }
        Ok(decoded)
    }

    /// What all rows have in common once the record has a frame.
    pub fn taken_in(&self, frame: u64, ingest_time: Micros) -> TakenIn {
        TakenIn { frame, ingest_time, known_on_arrival: self.known_on_arrival }
    }
}

impl TakeInTable {
    pub fn new(tenant: TenantId, view: ViewId, files: Vec<StagedFile>) -> Self {
        Self { tenant: tenant.0, view: view.0, files }
    }

    pub fn tenant(&self) -> TenantId {
        TenantId(self.tenant)
    }

    pub fn view(&self) -> ViewId {
        ViewId(self.view)
    }
}

impl HistoryTable {
    /// Where the table lies, and what is staged for it.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// The frame with which a backfill was taken in, if it was.
    pub async fn taken_in(&self, backfill: &str) -> Result<Option<u64>, HistoryError> {
        self.inner.log.lock().await.taken_in(backfill).await
    }

    /// Makes the staged files of a backfill the table's, unless they are already: whether they were not.
    /// When it returns, the commit is durable; dropping the future doesn't interrupt it.
    ///
    /// # Errors
    /// Nothing has changed, but for [`HistoryError::SyncFailed`], as with [`HistoryTable::land`].
    pub async fn take_in(
        &self,
        backfill: &str,
        files: Vec<StagedFile>,
        taken: TakenIn,
        now: Micros,
    ) -> Result<bool, HistoryError> {
        let (inner, backfill) = (self.inner.clone(), backfill.to_owned());
        finished(tokio::spawn(async move { inner.take_in(&backfill, &files, taken, now).await })).await
    }

    /// Whether the staged files of a backfill are there, as long as they were written.
    pub async fn check_staged(&self, files: Vec<StagedFile>) -> Result<(), HistoryError> {
        let inner = self.inner.clone();
        finished(tokio::spawn(async move { inner.check_staged(&files).await })).await
    }

    /// Removes the staged files of all backfills but those that are kept, and that are not the table's.
    /// Only where nobody stages any meanwhile.
    pub async fn remove_staged(&self, kept: HashSet<String>) -> Result<(), HistoryError> {
        let inner = self.inner.clone();
        let removing = move || {
            let (files, directory) = (inner.files.as_ref(), &inner.directory);
            let current: HashSet<String> = inner.current().files.iter().map(|file| file.name.clone()).collect();
            let retired = inner.retired.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let retired: HashSet<String> = retired.iter().map(|file| file.name.clone()).collect();
            for entry in files.list(directory).map_err(HistoryError::io(directory))? {
                let Some(name) = entry.name.to_str() else { continue };
                let Some(rest) = name.strip_prefix(STAGED_PREFIX) else { continue };
                let backfill = rest.split('-').next().unwrap_or_default();
                if current.contains(name) || retired.contains(name) || kept.contains(backfill) {
                    continue;
                }
                let path = directory.join(name);
                tracing::info!(file = %path.display(), "removing what an interrupted backfill left");
                remove_if_there(files, &path).map_err(HistoryError::io(&path))?;
            }
            Ok(())
        };
        finished(tokio::spawn(blocking(removing))).await
    }
}

impl Inner {
    async fn check_staged(&self, files: &[StagedFile]) -> Result<(), HistoryError> {
        let (staged, directory, store) = (files.to_vec(), self.directory.clone(), self.files.clone());
        let check = move || {
            for file in &staged {
                let path = directory.join(&file.name);
                let found = store.len(&path).map_err(HistoryError::io(&path))?;
                if found != file.bytes {
                    let reason = format!("it has {found} bytes, and {} were written", file.bytes);
                    return Err(HistoryError::DamagedPage { file: path, offset: found.min(file.bytes), reason });
                }
            }
            Ok(())
        };
        blocking(check).await
    }

    async fn take_in(
        &self,
        backfill: &str,
        files: &[StagedFile],
        taken: TakenIn,
        now: Micros,
    ) -> Result<bool, HistoryError> {
        let mut log = self.log.lock().await;
        self.check_synced()?;
        if log.taken_in(backfill).await?.is_some() {
            return Ok(false);
        }
        self.check_staged(files).await?;
        let listed: Vec<_> = files.iter().map(|file| file.listed(taken)).collect();
        if let Err(error) = log.commit_take_in(backfill, &listed, taken.frame, None, now).await {
            self.check_synced()?;
            // The commit may have been made all the same; only the log can tell.
            log.reload().await?;
            if log.taken_in(backfill).await?.is_none() {
                self.publish(&log, self.current().spec.clone()).await?;
                return Err(error);
            }
        }
        self.publish(&log, self.current().spec.clone()).await?;
        log.checkpoint_if_due().await;
        Ok(true)
    }
}
