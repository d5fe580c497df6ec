//! A history table: the one committer of a view's landed rows. Rows land exactly once, since the
//! file that holds them and the frame through which they have landed become part of the table in
//! one commit; a crash at any moment leaves the table of before or of after. It never changes rows
//! that have landed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::files::{Files, remove_if_there};
use crate::history::delta::{DeltaLog, expected_columns};
use crate::history::parquet_run::ParquetRun;
use crate::history::schema::{Column, HistoryViewSpec};
use crate::history::synced_store::{SyncedStore, TEMPORARY_SUFFIX};
use crate::history::writer::{FileFacts, write_file};
use crate::history::{HistoryError, Run, SlotSet};
use crate::names::Name;
use crate::order::Micros;
use crate::value::DataType;

const LOG_DIRECTORY: &str = "_delta_log";
const DATA_PREFIX: &str = "rows-";
const DATA_SUFFIX: &str = ".parquet";

/// The history of one version of one view; clones are the same table.
#[derive(Clone, Debug)]
pub struct HistoryTable {
    inner: Arc<Inner>,
}

/// What a landing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LandReport {
    pub rows: u64,
    pub bytes: u64,
    /// The version of the table that has the rows; `None` if there was nothing to land.
    pub delta_version: Option<u64>,
}

/// The table at one version. What it says and reads doesn't change with later landings.
#[derive(Clone, Debug)]
pub struct TableSnapshot {
    pub delta_version: u64,
    /// Rows of frames up to this one are in the files; later ones are in the tails.
    pub landed_through: u64,
    /// The one that landed first in front.
    pub files: Vec<DataFile>,
    spec: Arc<HistoryViewSpec>,
    directory: PathBuf,
    store: Arc<dyn Files>,
}

/// A data file: rows in history order.
#[derive(Clone, Debug)]
pub struct DataFile {
    pub name: String,
    pub bytes: u64,
    facts: FileFacts,
}

impl DataFile {
    pub fn rows(&self) -> u64 {
        self.facts.rows
    }

    /// The least and the greatest slot of its rows.
    pub fn slots(&self) -> (u16, u16) {
        (self.facts.first_slot, self.facts.last_slot)
    }

    /// The least and the greatest ingest time of its rows.
    pub fn ingest_times(&self) -> (Micros, Micros) {
        (self.facts.first_ingest_time, self.facts.last_ingest_time)
    }
}

impl TableSnapshot {
    pub fn spec(&self) -> &Arc<HistoryViewSpec> {
        &self.spec
    }

    /// A file as a run of the features with the given indices in the view's list. With slots, row
    /// groups and pages without any of them are left out; rows of other slots may come all the same.
    /// Blocks.
    pub fn open_run(
        &self,
        file: &DataFile,
        projection: &[usize],
        slots: Option<&SlotSet>,
    ) -> Result<ParquetRun, HistoryError> {
        let path = self.directory.join(&file.name);
        ParquetRun::open(&self.store, path, file.bytes, &file.facts, &self.spec, projection, slots)
    }

    /// All files that may hold rows of the slots ingested at or before the cut-off.
    pub fn files_with<'a>(
        &'a self,
        slots: Option<&'a SlotSet>,
        cutoff: Option<Micros>,
    ) -> impl Iterator<Item = &'a DataFile> {
        let in_time = move |file: &&DataFile| cutoff.is_none_or(|cutoff| file.ingest_times().0 <= cutoff);
        let in_slots = move |file: &&DataFile| {
            let (first, last) = file.slots();
            slots.is_none_or(|slots| slots.intersects(first, last))
        };
        self.files.iter().filter(in_time).filter(in_slots)
    }
}

impl HistoryTable {
    /// Opens the table of a view under the root of all history, or creates it; adds the columns of
    /// features that it doesn't have, and removes what an interrupted landing left. There must be no
    /// other committer.
    pub async fn open_or_create(
        files: Arc<dyn Files>,
        root: &Path,
        spec: HistoryViewSpec,
    ) -> Result<Self, HistoryError> {
        let directory = root.join(spec.directory());
        let store = SyncedStore::new(files.clone(), root);
        let (made, made_files) = (directory.join(LOG_DIRECTORY), files.clone());
        blocking(move || make_durable(made_files.as_ref(), &made)).await?;

        let mut log = DeltaLog::open_or_create(&store, root, &spec).await?;
        grow(&mut log, &directory, &spec).await?;
        let snapshot = snapshot(&files, &directory, &Arc::new(spec), &log).await?;
        let mut kept = log.removed_files().await?;
        kept.extend(snapshot.files.iter().map(|file| file.name.clone()));
        let (swept, swept_files) = (directory.clone(), files.clone());
        blocking(move || remove_leftovers(swept_files.as_ref(), &swept, &kept)).await?;

        let current = RwLock::new(Arc::new(snapshot));
        Ok(Self { inner: Arc::new(Inner { files, directory, store, current, log: tokio::sync::Mutex::new(log) }) })
    }

    /// The table as of its last commit.
    pub fn snapshot(&self) -> Arc<TableSnapshot> {
        self.inner.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lands the rows of a run that holds all features of the view, or all but those added last
    /// (which are then missing in its rows, not null), each row of a frame after
    /// [`TableSnapshot::landed_through`] and not after `through`. Does nothing if `through` has
    /// landed. When it returns, file and commit are durable; dropping the future doesn't interrupt it.
    ///
    /// # Errors
    /// Nothing of the run has landed, but for [`HistoryError::SyncFailed`], after which that can't
    /// be known and the process has to end.
    pub async fn land(&self, run: impl Run + 'static, through: u64, now: Micros) -> Result<LandReport, HistoryError> {
        let inner = self.inner.clone();
        finished(tokio::spawn(async move { inner.land(Box::new(run), through, now).await })).await
    }

    /// Waits for the commit under way, and lets nothing be committed until what is returned is dropped.
    pub async fn hold(&self) -> HeldTable<'_> {
        HeldTable { inner: &self.inner, _log: self.inner.log.lock().await }
    }

    /// Adds features to the view's table: in older rows they are missing, not null.
    pub async fn add_features(&self, features: Vec<(Name, DataType)>) -> Result<(), HistoryError> {
        let inner = self.inner.clone();
        finished(tokio::spawn(async move { inner.add_features(features).await })).await
    }
}

/// A table that stays as it is.
pub struct HeldTable<'a> {
    inner: &'a Inner,
    _log: tokio::sync::MutexGuard<'a, DeltaLog>,
}

impl HeldTable<'_> {
    /// The files that make the table, whose bytes never change: data first, then the log. With each
    /// comes its path below the root of all history. Blocks.
    pub fn files(&self) -> Result<Vec<(PathBuf, PathBuf)>, HistoryError> {
        let snapshot = self.inner.current();
        let directory = &self.inner.directory;
        let mut names: Vec<PathBuf> = snapshot.files.iter().map(|file| PathBuf::from(&file.name)).collect();
        let log = directory.join(LOG_DIRECTORY);
        for entry in self.inner.files.list(&log).map_err(HistoryError::io(&log))? {
            let is_whole = entry.name.to_str().is_some_and(|name| !name.ends_with(TEMPORARY_SUFFIX));
            if is_whole && !entry.metadata.is_dir {
                names.push(Path::new(LOG_DIRECTORY).join(&entry.name));
            }
        }
        let below = snapshot.spec.directory();
        Ok(names.into_iter().map(|name| (directory.join(&name), below.join(&name))).collect())
    }
}

struct Inner {
    files: Arc<dyn Files>,
    directory: PathBuf,
    store: SyncedStore,
    current: RwLock<Arc<TableSnapshot>>,
    /// Held while landing: there is one landing at a time.
    log: tokio::sync::Mutex<DeltaLog>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inner").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Inner {
    async fn land(&self, mut run: Box<dyn Run>, through: u64, now: Micros) -> Result<LandReport, HistoryError> {
        let mut log = self.log.lock().await;
        self.check_synced()?;
        let before = self.current();
        if through <= before.landed_through {
            return Ok(LandReport::default());
        }
        let name = format!("{DATA_PREFIX}{through:020}-{}{DATA_SUFFIX}", uuid::Uuid::new_v4().simple());
        let (files, path, spec) = (self.files.clone(), self.directory.join(&name), before.spec.clone());
        let landed = before.landed_through;
        let write = move || write_file(files.as_ref(), &path, &spec, run.as_mut(), landed, through);
        let Some(written) = blocking(write).await? else { return Ok(LandReport::default()) };

        let committed = log.commit_landing(&name, &written, through, now).await;
        if let Err(error) = committed {
            self.check_synced()?;
            // The commit may have been made all the same; only the log can tell.
            log.reload().await?;
            if log.landed_through().await? < through {
                let (files, path) = (self.files.clone(), self.directory.join(&name));
                let removed = blocking(move || remove_if_there(files.as_ref(), &path).map_err(HistoryError::io(&path)));
                if let Err(error) = removed.await {
                    tracing::warn!(file = name, %error, "a file that did not land is left until the next start");
                }
                return Err(error);
            }
        }
        self.publish(&log, before.spec.clone()).await?;
        log.checkpoint_if_due().await;
        Ok(LandReport { rows: written.facts.rows, bytes: written.bytes, delta_version: Some(log.version()?) })
    }

    async fn add_features(&self, features: Vec<(Name, DataType)>) -> Result<(), HistoryError> {
        let mut log = self.log.lock().await;
        self.check_synced()?;
        let mut spec = self.current().spec.as_ref().clone();
        let known: HashSet<Name> = spec.features.iter().map(|(name, _)| name.clone()).collect();
        spec.features.extend(features.into_iter().filter(|(name, _)| !known.contains(name)));
        let grown = grow(&mut log, &self.directory, &spec).await;
        if grown.is_err() {
            self.check_synced()?;
            log.reload().await?;
        }
        grown?;
        self.publish(&log, Arc::new(spec)).await
    }

    async fn publish(&self, log: &DeltaLog, spec: Arc<HistoryViewSpec>) -> Result<(), HistoryError> {
        let snapshot = snapshot(&self.files, &self.directory, &spec, log).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        Ok(())
    }

    fn current(&self) -> Arc<TableSnapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_synced(&self) -> Result<(), HistoryError> {
        if self.store.has_failed_to_sync() {
            return Err(HistoryError::SyncFailed { path: self.directory.clone() });
        }
        Ok(())
    }
}

async fn snapshot(
    files: &Arc<dyn Files>,
    directory: &Path,
    spec: &Arc<HistoryViewSpec>,
    log: &DeltaLog,
) -> Result<TableSnapshot, HistoryError> {
    let listed = log.files()?;
    Ok(TableSnapshot {
        delta_version: log.version()?,
        landed_through: log.landed_through().await?,
        files: listed.into_iter().map(|f| DataFile { name: f.name, bytes: f.bytes, facts: f.facts }).collect(),
        spec: spec.clone(),
        directory: directory.to_path_buf(),
        store: files.clone(),
    })
}

/// Adds the columns that a view has and its table hasn't, which must be the last ones.
async fn grow(log: &mut DeltaLog, directory: &Path, spec: &HistoryViewSpec) -> Result<(), HistoryError> {
    let (found, expected) = (log.columns()?, expected_columns(spec));
    if let Some((found, expected)) = found.iter().zip(&expected).find(|(found, expected)| found != expected) {
        let reason = format!("it has {} of type {}, not {} of type {}", found.0, found.1, expected.0, expected.1);
        return Err(HistoryError::SchemaMismatch { table: directory.to_path_buf(), reason });
    }
    if found.len() > expected.len() {
        let reason = format!("it has {} columns more", found.len() - expected.len());
        return Err(HistoryError::SchemaMismatch { table: directory.to_path_buf(), reason });
    }
    let missing: Vec<Column> = spec.columns().split_off(found.len());
    if missing.is_empty() { Ok(()) } else { log.add_columns(&missing).await }
}

/// Makes the directories, and makes durable what a process that ended may have left visible only.
fn make_durable(files: &dyn Files, log_directory: &Path) -> Result<(), HistoryError> {
    files.create_dir_all(log_directory).map_err(HistoryError::io(log_directory))?;
    for directory in [Some(log_directory), log_directory.parent()].into_iter().flatten() {
        files.sync_dir(directory).map_err(HistoryError::io(directory))?;
    }
    Ok(())
}

/// Removes data files that no commit names, and files of the log that were never finished.
fn remove_leftovers(files: &dyn Files, directory: &Path, kept: &HashSet<String>) -> Result<(), HistoryError> {
    let is_orphan = |name: &str| name.starts_with(DATA_PREFIX) && name.ends_with(DATA_SUFFIX) && !kept.contains(name);
    remove_where(files, directory, is_orphan)?;
    remove_where(files, &directory.join(LOG_DIRECTORY), |name| name.ends_with(TEMPORARY_SUFFIX))
}

fn remove_where(files: &dyn Files, directory: &Path, is_leftover: impl Fn(&str) -> bool) -> Result<(), HistoryError> {
    for entry in files.list(directory).map_err(HistoryError::io(directory))? {
        let leftover = !entry.metadata.is_dir && entry.name.to_str().is_some_and(&is_leftover);
        if leftover {
            let path = directory.join(&entry.name);
            tracing::info!(file = %path.display(), "removing what an interrupted landing left");
            remove_if_there(files, &path).map_err(HistoryError::io(&path))?;
        }
    }
    Ok(())
}

/// Runs what may block where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, HistoryError> {
    finished(tokio::task::spawn_blocking(work)).await
}

/// The outcome of a task that nobody aborts; a panic in it goes on here.
pub(crate) async fn finished<T>(task: tokio::task::JoinHandle<Result<T, HistoryError>>) -> Result<T, HistoryError> {
    match task.await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(HistoryError::Io { path: PathBuf::new(), source: std::io::Error::other(cancelled) }),
        },
    }
}
