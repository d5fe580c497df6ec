//! A history table, and the one place from which it is committed to. Rows land exactly once, since the
//! file that holds them and the frame through which they have landed become part of the table in
//! one commit; compaction puts files in the place of others in one commit too; a crash at any moment
//! leaves the table of before or of after. Rows that have landed never change; they leave it only by an erasure
//! or for their age.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::files::{Files, remove_if_there};
use crate::history::compaction::{self, CompactReport, Merge, MergeKind, MergeOptions, Pace};
use crate::history::delta::{DeltaLog, ListedFile, Replacement, expected_columns};
use crate::history::footers::Footers;
use crate::history::schema::{Column, HistoryViewSpec};
use crate::history::snapshot::{DataFile, Pin, TableSnapshot};
use crate::history::synced_store::{SyncedStore, TEMPORARY_SUFFIX};
use crate::history::vacuum::Retired;
use crate::history::writer::{FileShape, write_file};
use crate::history::{HistoryError, Run};
use crate::names::Name;
use crate::order::Micros;
use crate::value::DataType;

const LOG_DIRECTORY: &str = "_delta_log";
const DATA_PREFIX: &str = "rows-";
const DATA_SUFFIX: &str = ".parquet";

/// The history of one version of one view; clones are the same table.
#[derive(Clone, Debug)]
pub struct HistoryTable {
    pub(super) inner: Arc<Inner>,
}

/// What a landing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LandReport {
    pub rows: u64,
    pub bytes: u64,
    /// The version of the table that has the rows; `None` if there was nothing to land.
    pub delta_version: Option<u64>,
}

impl HistoryTable {
    /// Opens the table of a view under the root of all history, or creates it; adds the columns of
    /// features that it doesn't have, and removes what an interrupted landing or merge left. There must
    /// be no other committer.
    pub async fn open_or_create(
        files: Arc<dyn Files>,
        root: &Path,
        spec: HistoryViewSpec,
    ) -> Result<Self, HistoryError> {
        Self::open_with(files, root, spec, (Footers::new(0), FileShape::default())).await
    }

    /// The same; the ends of its files are kept where those of other tables are, and new files are cut
    /// as is said.
    pub(super) async fn open_with(
        files: Arc<dyn Files>,
        root: &Path,
        spec: HistoryViewSpec,
        (footers, shape): (Arc<Footers>, FileShape),
    ) -> Result<Self, HistoryError> {
        let directory = root.join(spec.directory());
        let store = SyncedStore::new(files.clone(), root);
        let (made, made_files) = (directory.join(LOG_DIRECTORY), files.clone());
        blocking(move || make_durable(made_files.as_ref(), &made)).await?;

        let mut log = DeltaLog::open_or_create(&store, root, &spec).await?;
        grow(&mut log, &directory, &spec).await?;
        let (landed_through, removed) = (log.landed_through().await?, log.removed_files().await?);
        let retained_from = log.retained_from().await?;
        let empty = TableSnapshot {
            delta_version: log.version()?,
            landed_through,
            retained_from,
            files: Vec::new(),
            spec: Arc::new(spec),
            directory: directory.clone(),
            store: files.clone(),
            footers,
            shape,
        };
        let snapshot = TableSnapshot { files: with_pins(log.files()?, &empty), ..empty };
        let current: HashSet<String> = snapshot.files.iter().map(|file| file.name.clone()).collect();
        let (swept, swept_files) = (directory.clone(), files.clone());
        let sweep = move || remove_leftovers(swept_files.as_ref(), &swept, &current, &removed);
        let retired = Mutex::new(blocking(sweep).await?);

        let current = RwLock::new(Arc::new(snapshot));
        let (log, landing, compacting) = (tokio::sync::Mutex::new(log), Default::default(), Default::default());
        Ok(Self { inner: Arc::new(Inner { files, directory, store, current, retired, landing, compacting, log }) })
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

    /// Merges the runs that are to be merged next; `None` if none are. The files are durable and not
    /// yet the table's: see [`HistoryTable::commit`]. Landings go on meanwhile; a second merge waits
    /// until the first has ended. Dropping the future doesn't interrupt it, but for what `pace` says.
    ///
    /// # Errors
    /// Nothing has changed, and nothing is left.
    pub async fn merge(&self, options: MergeOptions, mut pace: Pace) -> Result<Option<Merge>, HistoryError> {
        let inner = self.inner.clone();
        let merging = async move {
            let alone = inner.compacting.clone().lock_owned().await;
            inner.check_synced()?;
            let before = inner.current();
            blocking(move || compaction::merge(&before, &options, &mut pace, alone)).await
        };
        finished(tokio::spawn(merging)).await
    }

    /// Puts what was merged into the place of what it was made of, in one commit. Readers have all rows
    /// once, before and after. When it returns, the commit is durable; dropping the future doesn't
    /// interrupt it.
    ///
    /// # Errors
    /// Nothing has changed, but for [`HistoryError::SyncFailed`], as with [`HistoryTable::land`].
    pub async fn commit(&self, merge: Merge, now: Micros) -> Result<CompactReport, HistoryError> {
        let inner = self.inner.clone();
        finished(tokio::spawn(async move { inner.commit(merge, now).await })).await
    }

    /// Waits for the commit under way, and lets nothing be committed until what is returned is dropped.
    pub async fn hold(&self) -> Result<HeldTable<'_>, HistoryError> {
        let mut log = self.inner.log.lock().await;
        self.inner.check_synced()?;
        // A commit whose answer got lost is in the log, and perhaps not yet known here.
        log.reload().await?;
        self.inner.publish(&log, self.inner.current().spec.clone()).await?;
        Ok(HeldTable { inner: &self.inner, snapshot: self.inner.current(), _log: log })
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
    snapshot: Arc<TableSnapshot>,
    _log: tokio::sync::MutexGuard<'a, DeltaLog>,
}

/// The data files of a table that was held: they stay as they are, and are not deleted, until this is
/// dropped.
pub struct KeptFiles {
    snapshot: Arc<TableSnapshot>,
}

/// Where a file lies, and its path below the root of all history.
pub type FilePath = (PathBuf, PathBuf);

impl HeldTable<'_> {
    /// The files of the table's log, all of which say the same as long as the table is held. Blocks.
    pub fn log_files(&self) -> Result<Vec<FilePath>, HistoryError> {
        let log = self.inner.directory.join(LOG_DIRECTORY);
        let below = self.snapshot.spec.directory().join(LOG_DIRECTORY);
        let listed = self.inner.files.list(&log).map_err(HistoryError::io(&log))?;
        let is_whole = |name: &str| !name.ends_with(TEMPORARY_SUFFIX);
        let names = listed.into_iter().filter(|entry| !entry.metadata.is_dir).map(|entry| entry.name);
        let whole = names.filter(|name| name.to_str().is_some_and(is_whole));
        Ok(whole.map(|name| (log.join(&name), below.join(&name))).collect())
    }

    /// Lets commits go on, and keeps the data files that the log names.
    pub fn release(self) -> KeptFiles {
        KeptFiles { snapshot: self.snapshot }
    }
}

impl KeptFiles {
    /// All of them; their bytes never change.
    pub fn paths(&self) -> impl Iterator<Item = FilePath> {
        let (directory, below) = (&self.snapshot.directory, self.snapshot.spec.directory());
        self.snapshot.files.iter().map(move |file| (directory.join(&file.name), below.join(&file.name)))
    }
}

pub(super) struct Inner {
    pub(super) files: Arc<dyn Files>,
    pub(super) directory: PathBuf,
    store: SyncedStore,
    current: RwLock<Arc<TableSnapshot>>,
    /// Files that are the table's no more, and are not deleted yet.
    pub(super) retired: Mutex<Vec<Retired>>,
    /// Held while landing: there is one landing at a time,
    landing: tokio::sync::Mutex<()>,
    /// and one merge, which nobody who lands waits for.
    pub(super) compacting: Arc<tokio::sync::Mutex<()>>,
    /// Held for a commit, and until what it made of the table is published.
    pub(super) log: tokio::sync::Mutex<DeltaLog>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inner").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Inner {
    async fn land(&self, mut run: Box<dyn Run>, through: u64, now: Micros) -> Result<LandReport, HistoryError> {
        let _alone = self.landing.lock().await;
        self.check_synced()?;
        let before = self.current();
        if through <= before.landed_through {
            return Ok(LandReport::default());
        }
        let name = before.new_name(through);
        let (files, path, spec) = (self.files.clone(), self.directory.join(&name), before.spec.clone());
        let (landed, shape) = (before.landed_through, before.shape);
        let write = move || write_file(files.as_ref(), &path, &spec, shape, run.as_mut(), (landed, through));
        let Some(written) = blocking(write).await? else { return Ok(LandReport::default()) };

        let mut log = self.log.lock().await;
        let committed = log.commit_landing(&name, &written, through, now).await;
        if let Err(error) = committed {
            self.check_synced()?;
            // The commit may have been made all the same; only the log can tell.
            log.reload().await?;
            if log.landed_through().await? < through {
                self.publish(&log, self.current().spec.clone()).await?;
                let (files, path) = (self.files.clone(), self.directory.join(&name));
                let removed = blocking(move || remove_if_there(files.as_ref(), &path).map_err(HistoryError::io(&path)));
                if let Err(error) = removed.await {
                    tracing::warn!(file = name, %error, "a file that did not land is left until the next start");
                }
                return Err(error);
            }
        }
        self.publish(&log, self.current().spec.clone()).await?;
        log.checkpoint_if_due().await;
        Ok(LandReport { rows: written.facts.rows, bytes: written.bytes, delta_version: Some(log.version()?) })
    }

    pub(super) async fn commit(&self, mut merge: Merge, now: Micros) -> Result<CompactReport, HistoryError> {
        let mut log = self.log.lock().await;
        self.check_synced()?;
        // Rows that landed meanwhile are in files of their own; only a merge takes files away, and
        // there is one at a time.
        let current: HashSet<String> = log.files()?.into_iter().map(|file| file.name).collect();
        if let Some(gone) = merge.inputs.iter().find(|file| !current.contains(&file.name)) {
            let source = format!("{} was taken out of the table while it was merged", gone.name).into();
            self.publish(&log, self.current().spec.clone()).await?;
            return Err(HistoryError::Log { table: self.directory.clone(), source });
        }
        let removed: Vec<ListedFile> = merge.inputs.iter().map(DataFile::listed).collect();
        let file_bytes = merge.outputs.written.iter().map(|(_, file)| file.bytes).max().unwrap_or_default();
        let replacement = match merge.kind {
            MergeKind::Compaction => Replacement::Compaction { file_bytes },
            MergeKind::Erasure => Replacement::Erasure,
            MergeKind::Retention { before, .. } => Replacement::Retention { before },
        };
        let committed = log.commit_replacement(&removed, &merge.outputs.written, replacement, now).await;
        // From here on they may be the table's: what isn't after all goes at the next start, at the latest.
        let outputs = merge.outputs.keep();
        if let Err(error) = committed {
            self.check_synced()?;
            log.reload().await?;
            let made = |listed: &ListedFile| outputs.iter().any(|(name, _)| *name == listed.name);
            // Without outputs, what was to go tells.
            let gone = |listed: &ListedFile| merge.inputs.iter().any(|input| input.name == listed.name);
            let files = log.files()?;
            let is_made = if outputs.is_empty() { !files.iter().any(gone) } else { files.iter().any(made) };
            if !is_made {
                merge.outputs.written = outputs;
                // Removes the files.
                blocking(move || {
                    drop(merge);
                    Ok(())
                })
                .await?;
                return Err(error);
            }
        }
        let retired = merge.inputs.iter().map(|file| Retired::new(file, now));
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).extend(retired);
        self.publish(&log, self.current().spec.clone()).await?;
        let removed_bytes = merge.inputs.iter().map(|file| file.bytes).sum();
        let report = CompactReport {
            runs: merge.runs,
            removed_files: merge.inputs.len(),
            removed_bytes,
            rows: outputs.iter().map(|(_, file)| file.facts.rows).sum(),
            files: outputs.len(),
            bytes: outputs.iter().map(|(_, file)| file.bytes).sum(),
            delta_version: log.version()?,
        };
        log.checkpoint_if_due().await;
        Ok(report)
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

    pub(super) async fn publish(&self, log: &DeltaLog, spec: Arc<HistoryViewSpec>) -> Result<(), HistoryError> {
        let before = self.current();
        let (delta_version, landed_through) = (log.version()?, log.landed_through().await?);
        let retained_from = log.retained_from().await?;
        let files = with_pins(log.files()?, &before);
        let (directory, store, footers) = (before.directory.clone(), before.store.clone(), before.footers.clone());
        let snapshot = TableSnapshot {
            delta_version,
            landed_through,
            retained_from,
            files,
            spec,
            directory,
            store,
            footers,
            shape: before.shape,
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<TableSnapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lock of merges.
    pub(super) fn compacting(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.compacting.clone()
    }

    pub(super) fn check_synced(&self) -> Result<(), HistoryError> {
        if self.store.has_failed_to_sync() {
            return Err(HistoryError::SyncFailed { path: self.directory.clone() });
        }
        Ok(())
    }
}

impl TableSnapshot {
    /// A name that no file has, for one with rows through a frame.
    pub(super) fn new_name(&self, through: u64) -> String {
        format!("{DATA_PREFIX}{through:020}-{}{DATA_SUFFIX}", uuid::Uuid::new_v4().simple())
    }
}

/// The files as a snapshot has them; those that were there before keep their pins.
fn with_pins(listed: Vec<ListedFile>, before: &TableSnapshot) -> Vec<DataFile> {
    let pins: HashMap<&str, &Pin> = before.files.iter().map(|file| (file.name.as_str(), &file.pin)).collect();
    let pinned = |file: ListedFile| {
        let pin = pins.get(file.name.as_str()).map_or_else(Pin::default, |pin| (*pin).clone());
        DataFile { name: file.name, bytes: file.bytes, facts: file.facts, pin }
    };
    listed.into_iter().map(pinned).collect()
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

/// Removes data files that no commit names, and files of the log that were never finished; gives the
/// files that were the table's once, `removed` with when.
fn remove_leftovers(
    files: &dyn Files,
    directory: &Path,
    current: &HashSet<String>,
    removed: &HashMap<String, i64>,
) -> Result<Vec<Retired>, HistoryError> {
    let is_data = |name: &str| name.ends_with(DATA_SUFFIX) && !current.contains(name);
    // What is staged is its backfill's, who knows whether it is still to be taken in.
    remove_where(files, directory, |name| {
        name.starts_with(DATA_PREFIX) && is_data(name) && !removed.contains_key(name)
    })?;
    remove_where(files, &directory.join(LOG_DIRECTORY), |name| name.ends_with(TEMPORARY_SUFFIX))?;
    let entries = files.list(directory).map_err(HistoryError::io(directory))?;
    let retired = entries.into_iter().filter_map(|entry| {
        let name = entry.name.into_string().ok().filter(|name| is_data(name))?;
        let removed_at = removed.get(&name)?.saturating_mul(1_000);
        Some(Retired { name, bytes: entry.metadata.len, removed_at, pin: Pin::default() })
    });
    Ok(retired.collect())
}

fn remove_where(files: &dyn Files, directory: &Path, is_leftover: impl Fn(&str) -> bool) -> Result<(), HistoryError> {
    for entry in files.list(directory).map_err(HistoryError::io(directory))? {
        let leftover = !entry.metadata.is_dir && entry.name.to_str().is_some_and(&is_leftover);
        if leftover {
            let path = directory.join(&entry.name);
            tracing::info!(file = %path.display(), "removing what an interrupted landing or merge left");
            remove_if_there(files, &path).map_err(HistoryError::io(&path))?;
        }
    }
    Ok(())
}

/// Runs what may block where it may.
pub(super) async fn blocking<T: Send + 'static>(
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
