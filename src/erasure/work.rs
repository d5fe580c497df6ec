//! How an erasure is done: place after place, each of which may be done again. Before it begins, nothing is
//! on its way that could bring rows back: no backfill that was staged, none that is being taken in, no copy
//! of history into the online store, no landing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrant_storage::erased::ErasedKey;
use hydrant_storage::history::{Abandon, HistoryError, HistoryTable, TakeIn};
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::partition::{OnlineKey, ReadView, StoreError};
use hydrant_storage::record::Frame;
use hydrant_storage::threads::{Work, standing_back};

use super::key::resolved_again;
use super::state::{Erasure, Key, Places, types_of};
use super::{Inner, KeyColumns, SpineRows};
use crate::error::{Code, Error, Result};
use crate::log::WriteLog as _;
use crate::partition::PartitionHandle;

/// How long one step waits for a partition, and readers of what is erased have to come to their end.
const PATIENCE: Duration = Duration::from_mins(1);
/// Rows that a partition deletes at a time.
const ROWS_AT_A_TIME: usize = 512;
/// Rows whose keys are held at a time: for more, all rows are gone through once more.
const ROWS_PER_SCAN: usize = 1 << 14;
/// Rows that are counted in one partition.
const MOST_COUNTED: usize = 1 << 20;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// While it lives, no row that the log or history had before is on its way anywhere.
struct Quiet {
    _no_backfill: Box<dyn Send>,
    _nothing_taken_in: tokio::sync::OwnedMutexGuard<()>,
    _nothing_brought_online: tokio::sync::OwnedRwLockWriteGuard<()>,
}

impl Inner {
    /// Goes through all places; the erasure is done if that succeeds.
    pub(super) async fn attempt(&self, id: u64) -> Result<()> {
        let Some(erasure) = self.state.load().erasures.iter().find(|erasure| erasure.id == id).cloned() else {
            return Ok(());
        };
        let Some(key) = erasure.key.clone() else { return Ok(()) };
        let mut stopped = self.stop.subscribe();
        let (_quiet, key, sealed, staged_backfills) = tokio::select! {
            begun = self.begun(&erasure, key) => begun?,
            // What others do may take its time; the next start goes on.
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        // Rows that came after the first attempt are new ones. A log that ends before it is an older copy.
        let through = erasure.through.filter(|through| *through <= sealed).unwrap_or(sealed);
        self.note(id, |erasure| {
            erasure.through = Some(through);
            erasure.erased.staged_backfills += staged_backfills;
        })
        .await?;

        for handle in self.parts.partitions.handles() {
            if self.is_stopping() {
                return Ok(());
            }
            let found = self.erase_from_partition(handle, &key, through, sealed).await?;
            self.note(id, |erasure| erasure.erased.add(&found)).await?;
        }
        // A landing that began before may have read rows of a tail that are gone from there.
        if let Err(error) = self.parts.lands.land_now().await {
            // Some view's rows, perhaps another tenant's, wait for its table; none of this key are among them.
            tracing::warn!(erasure = id, %error, "not all views have landed");
        }
        if self.parts.log.unsettled().iter().any(|frame| brings_rows_to(frame, &key)) {
            let message = "a backfill was taken in by the log, and history does not have its rows yet";
            return Err(Error::new(Code::Unavailable, "ERASURE_WAITS", message));
        }
        let found = self.erase_from_log(&key, through, sealed).await?;
        self.note(id, |erasure| erasure.erased.add(&found)).await?;
        for (table, erased) in self.tables(&erasure, &key, through).await? {
            if self.is_stopping() {
                return Ok(());
            }
            let done = table.erase(erased, self.now(), PATIENCE).await.map_err(|error| history_error(&error))?;
            let found = Places {
                history_rows: done.rows,
                history_files: done.files,
                older_files: done.older_files,
                ..Places::default()
            };
            self.note(id, |erasure| erasure.erased.add(&found)).await?;
        }
        let SpineRows { rows, spines, training_sets } =
            self.parts.spines.erase(&erasure.tenant, columns_of(&erasure.entity, &key)?, id).await?;
        let found = Places { spine_rows: rows, spines, training_sets, ..Places::default() };
        self.note(id, |erasure| erasure.erased.add(&found)).await?;

        let left = self.count(&erasure.tenant, &erasure.entity, &key, through).await?;
        if left.spine_rows > 0 {
            let message = "a spine that names the key was stored meanwhile";
            return Err(Error::new(Code::Unavailable, "ERASURE_WAITS", message));
        }
        if left.has_rows() {
            return Err(Error::internal(format!("rows are left after erasure {id}: {left:?}")));
        }
        let backups = self.parts.backups.names().await?;
        let now = self.now();
        let done = self.note(id, |erasure| {
            erasure.finished = Some(now);
            erasure.left = Some(left);
            erasure.backups = backups;
            erasure.problem = None;
            erasure.key = None;
        });
        let Erasure { tenant, entity, erased, .. } = done.await?;
        tracing::info!(erasure = id, %tenant, %entity, ?erased, "a key was erased");
        Ok(())
    }

    /// Makes it quiet, seals the log, and works out the key by what is defined then: all views that rows of the
    /// sealed log are of. Also tells of the last frame and of how many backfills what was staged is removed.
    async fn begun(&self, erasure: &Erasure, key: Key) -> Result<(Quiet, Key, u64, u64)> {
        let mut key = self.by_definitions_of_now(erasure, key)?;
        let mut removed = 0;
        loop {
            let views: Vec<ViewId> = key.views.iter().map(|view| view.view).collect();
            // What was staged after it had begun is of later requests.
            let is_first = erasure.through.is_none();
            let (quiet, staged_backfills) = self.quiet(if is_first { &views } else { &[] }).await?;
            removed += staged_backfills;
            let sealed = self.parts.log.seal().await.map_err(|error| unavailable(&error))?.frame;
            key = self.by_definitions_of_now(erasure, key)?;
            // Of a view that came meanwhile a backfill may have been staged.
            if !is_first || key.views.len() == views.len() {
                return Ok((quiet, key, sealed, removed));
            }
        }
    }

    fn by_definitions_of_now(&self, erasure: &Erasure, key: Key) -> Result<Key> {
        match self.parts.snapshots.load().tenant(&erasure.tenant) {
            Ok(tenant) => resolved_again(tenant, &erasure.entity, key),
            // A tenant that was deleted never had a row.
            Err(_) => Ok(key),
        }
    }

    /// Waits until nothing is on its way that could bring rows back, and keeps it so; also tells of how many
    /// backfills what was staged is removed.
    async fn quiet(&self, views: &[ViewId]) -> Result<(Quiet, u64)> {
        let (_no_backfill, staged_backfills) = self.parts.staged.give_up(views).await?;
        let _nothing_taken_in = self.parts.taking_in.clone().lock_owned().await;
        let _nothing_brought_online = self.parts.bringing_online.clone().write_owned().await;
        Ok((Quiet { _no_backfill, _nothing_taken_in, _nothing_brought_online }, staged_backfills))
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// What is there of a key, of rows of frames up to `through`. Nothing is changed.
    pub(super) async fn count(&self, tenant: &Name, entity: &Name, key: &Key, through: u64) -> Result<Places> {
        let mut found = Places::default();
        for handle in self.parts.partitions.handles() {
            let Some(erased) = of_partition(handle, key, through)? else { continue };
            let view = handle.view()?;
            let rows = blocking(move || view.erasable(&erased, MOST_COUNTED).map_err(|error| store_error(&error)));
            let rows = rows.await?.rows();
            found.online_rows += rows.online;
            found.tail_rows += rows.tail;
        }
        let (log, durable) = (self.parts.log.clone(), *self.parts.log.durable().borrow());
        let erased = all_of(key, through)?;
        let in_log = blocking(move || {
            let is_erased = |name: &OnlineKey<'_>, frame: u64| erased.iter().any(|key| key.is_row(name, frame));
            log.erase(durable, &is_erased, true).map_err(|error| unavailable(&error))
        });
        let in_log = in_log.await?;
        (found.log_rows, found.log_segments) = (in_log.rows, in_log.segments);
        let views: Vec<ViewId> = key.views.iter().map(|view| view.view).collect();
        for (table, erased) in self.tables_of(tenant, &views, key, through).await? {
            let in_table = table.count_erasable(erased).await.map_err(|error| history_error(&error))?;
            found.history_rows += in_table.rows;
            found.history_files += in_table.files;
        }
        let SpineRows { rows, spines, training_sets } =
            self.parts.spines.count(tenant, columns_of(entity, key)?).await?;
        (found.spine_rows, found.spines, found.training_sets) = (rows, spines, training_sets);
        Ok(found)
    }

    async fn erase_from_partition(
        &self,
        handle: &PartitionHandle,
        key: &Key,
        through: u64,
        sealed: u64,
    ) -> Result<Places> {
        let mut found = Places::default();
        let Some(erased) = of_partition(handle, key, through)? else { return Ok(found) };
        let deadline = Instant::now() + PATIENCE;
        handle.wait_applied(sealed, deadline).await?;
        // Of the view that shows none any more everybody reads from then on.
        let clean = loop {
            let view = handle.view()?;
            let (looked_at, wanted) = (view.clone(), erased.clone());
            let rows =
                blocking(move || looked_at.erasable(&wanted, ROWS_PER_SCAN).map_err(|error| store_error(&error)));
            let mut rows = rows.await?;
            if rows.is_empty() {
                break view;
            }
            found.online_rows += rows.rows().online;
            found.tail_rows += rows.rows().tail;
            while !rows.is_empty() {
                let some = rows.take(ROWS_AT_A_TIME);
                handle.erase(some, through, Instant::now() + PATIENCE).await?;
            }
            wait_for_newer(handle, &view).await?;
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (view, wanted) = (clean.clone(), erased.clone());
            let scrubbed = blocking(move || {
                let scrubbed = standing_back(Work::Upkeep, || view.scrub(&wanted));
                let not_started = |error| Error::internal(format!("no thread for an erasure: {error}"));
                scrubbed.map_err(not_started)?.map_err(|error| store_error(&error))
            });
            if scrubbed.await? {
                break;
            }
            wait_or_give_up(deadline, "readers still read what it held before").await?;
        }
        loop {
            let view = clean.clone();
            if !blocking(move || view.has_leftover_files().map_err(|error| store_error(&error))).await? {
                return Ok(found);
            }
            wait_or_give_up(deadline, "files that it does not need any more are still there").await?;
        }
    }

    async fn erase_from_log(&self, key: &Key, through: u64, sealed: u64) -> Result<Places> {
        let (log, erased) = (self.parts.log.clone(), all_of(key, through)?);
        let done = blocking(move || {
            let is_erased = |name: &OnlineKey<'_>, frame: u64| erased.iter().any(|key| key.is_row(name, frame));
            let done = standing_back(Work::Upkeep, || log.erase(sealed, &is_erased, false));
            let not_started = |error| Error::internal(format!("no thread for an erasure: {error}"));
            done.map_err(not_started)?.map_err(|error| unavailable(&error))
        });
        let done = done.await?;
        Ok(Places { log_rows: done.rows, log_segments: done.segments, ..Places::default() })
    }

    async fn tables(&self, erasure: &Erasure, key: &Key, through: u64) -> Result<Vec<(HistoryTable, Vec<ErasedKey>)>> {
        let views: Vec<ViewId> = key.views.iter().map(|view| view.view).collect();
        self.tables_of(&erasure.tenant, &views, key, through).await
    }

    /// The tables of views that keep history, or kept it until they were dropped, each with what is to be erased
    /// from it.
    async fn tables_of(
        &self,
        tenant: &Name,
        views: &[ViewId],
        key: &Key,
        through: u64,
    ) -> Result<Vec<(HistoryTable, Vec<ErasedKey>)>> {
        let snapshot = self.parts.snapshots.load();
        let Ok(catalog) = snapshot.tenant(tenant) else { return Ok(Vec::new()) };
        let mut tables: BTreeMap<PathBuf, (HistoryTable, Vec<ErasedKey>)> = BTreeMap::new();
        for (id, spec) in catalog.history_tables().filter(|(id, _)| views.contains(id)) {
            let directory = spec.directory();
            let table = self.parts.tables.table(spec).await.map_err(|error| history_error(&error))?;
            let erased = all_of(key, through)?.into_iter().filter(|erased| erased.view == id);
            tables.insert(directory, (table, erased.collect()));
        }
        Ok(tables.into_values().collect())
    }
}

/// Whether a control record takes rows into one of the views, or can't be read.
fn brings_rows_to(frame: &Frame, key: &Key) -> bool {
    let Some(record) = &frame.control else { return false };
    if Abandon::decode(record).is_some() {
        return false;
    }
    let is_of_key = |tenant, view| key.views.iter().any(|known| (known.tenant, known.view) == (tenant, view));
    TakeIn::decode(record)
        .map_or(true, |take_in| take_in.tables.iter().any(|table| is_of_key(table.tenant(), table.view())))
}

/// Waits until what a partition lends is newer than a view of it.
async fn wait_for_newer(handle: &PartitionHandle, view: &Arc<ReadView>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while handle.view().is_ok_and(|newer| Arc::ptr_eq(&newer, view)) {
        wait_or_give_up(deadline, "it lends no newer view").await?;
    }
    Ok(())
}

async fn wait_or_give_up(deadline: Instant, why: &str) -> Result<()> {
    if Instant::now() >= deadline {
        return Err(Error::new(Code::Unavailable, "ERASURE_WAITS", format!("a partition is in the way: {why}")));
    }
    tokio::time::sleep(LOOK_AGAIN).await;
    Ok(())
}

/// What is to be erased from a partition; `None`: nothing of it lies there.
fn of_partition(handle: &PartitionHandle, key: &Key, through: u64) -> Result<Option<Vec<ErasedKey>>> {
    let here = |erased: &ErasedKey| erased.whole.as_ref().is_none_or(|(slot, _)| handle.range().contains(*slot));
    let erased: Vec<ErasedKey> = all_of(key, through)?.into_iter().filter(here).collect();
    Ok((!erased.is_empty()).then_some(erased))
}

fn all_of(key: &Key, through: u64) -> Result<Vec<ErasedKey>> {
    key.views.iter().map(|view| view.to_erased(through).ok_or_else(unknown_types)).collect()
}

fn columns_of(entity: &Name, key: &Key) -> Result<Vec<KeyColumns>> {
    let columns = |spine: &super::state::KeyInSpines| {
        let types = types_of(&spine.types).ok_or_else(unknown_types)?;
        Ok(KeyColumns { entity: entity.clone(), columns: spine.columns.clone(), types, key: spine.key.clone() })
    };
    key.spines.iter().map(columns).collect()
}

fn unknown_types() -> Error {
    Error::internal("an erasure names types that this version of Hydrant doesn't know")
}

fn unavailable(error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::Unavailable, "ERASURE_FAILED", format!("the log can't be erased from: {error}"))
}

fn store_error(error: &StoreError) -> Error {
    let code = if error.is_damage() { Code::DataLoss } else { Code::Unavailable };
    Error::new(code, "ERASURE_FAILED", format!("a partition can't be erased from: {error}"))
}

fn history_error(error: &HistoryError) -> Error {
    let code = if error.is_damage() { Code::DataLoss } else { Code::Unavailable };
    Error::new(code, "ERASURE_FAILED", format!("history can't be erased from: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal(format!("work on an erasure ended early: {error}"))))
}
