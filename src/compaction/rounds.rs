//! What the worker does each time that it looks: of each table the files that are due are deleted, a file
//! is freed from rows that are too old, and one merge is made, round after round, until nothing is left to
//! do. A table that fails is left alone for a while, longer each time, so that damage is met again and again
//! but not at once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hydrant_storage::history::{HistoryError, HistoryTable, HistoryViewSpec, Pace as HowFast};
use hydrant_storage::order::Micros;

use super::retention::Retained;
use super::{Compacted, CompactionMetrics, CompactionOptions, CompactionParts, RowsTooOld};
use crate::clock::rfc3339;
use crate::pace::{Ending, Pace};
use crate::registry::catalog::retention_horizon;

/// How long a table is left alone after its first failure, and at most.
const FIRST_REST: Duration = Duration::from_mins(1);
const LONGEST_REST: Duration = Duration::from_hours(1);

/// The tables that failed.
#[derive(Debug, Default)]
struct Resting {
    tables: HashMap<PathBuf, (Instant, Duration)>,
}

impl Resting {
    fn rests(&self, table: &PathBuf, now: Instant) -> bool {
        self.tables.get(table).is_some_and(|(until, _)| now < *until)
    }

    fn failed(&mut self, table: PathBuf, now: Instant) -> Duration {
        let rest = self.tables.get(&table).map_or(FIRST_REST, |(_, last)| (*last * 2).min(LONGEST_REST));
        self.tables.insert(table, (now + rest, rest));
        rest
    }

    fn succeeded(&mut self, table: &PathBuf) {
        self.tables.remove(table);
    }
}

/// What each step needs.
#[derive(Debug)]
pub(super) struct Worksite {
    pub parts: CompactionParts,
    pub options: CompactionOptions,
    pub metrics: Arc<CompactionMetrics>,
    pub ending: Arc<Ending>,
    pub retained: Mutex<Retained>,
}

#[derive(Debug)]
pub(super) struct Rounds {
    site: Arc<Worksite>,
    resting: Resting,
}

impl Rounds {
    pub fn new(site: Arc<Worksite>) -> Self {
        Self { site, resting: Resting::default() }
    }

    /// Forgets which tables have failed.
    pub fn try_all(&mut self) {
        self.resting = Resting::default();
    }

    /// Until nothing is left to do, or the process ends.
    pub async fn work(&mut self) -> Compacted {
        let mut done = Compacted::default();
        self.open_dropped(&mut done).await;
        let mut goes_on = true;
        while goes_on {
            goes_on = false;
            for table in self.site.parts.tables.opened() {
                if self.site.ending.is_set() {
                    return done;
                }
                let directory = table.snapshot().spec().directory();
                if self.resting.rests(&directory, Instant::now()) {
                    continue;
                }
                let (site, of_step) = (self.site.clone(), table.clone());
                // A panic is this table's failure, and not the end of compaction.
                let step = tokio::spawn(async move { site.step(&of_step).await });
                match step.await.unwrap_or_else(|panic| Err(HistoryError::Run(Box::new(panic)))) {
                    Ok(step) => {
                        done.merges += step.merges;
                        done.deleted_files += step.deleted_files;
                        done.rows_too_old += step.rows_too_old;
                        goes_on |= step != Compacted::default();
                        self.resting.succeeded(&directory);
                    }
                    Err(HistoryError::GivenUp) => return done,
                    Err(error) => {
                        done.failures += 1;
                        self.tell(table.snapshot().spec(), directory, &error);
                    }
                }
            }
        }
        done
    }

    /// Opens the tables of dropped versions whose rows go some day: nobody else does.
    async fn open_dropped(&mut self, done: &mut Compacted) {
        let site = self.site.clone();
        let snapshot = site.parts.snapshots.load();
        for spec in snapshot.tenants.values().flat_map(|tenant| tenant.dropped_tables_with_retention()) {
            let directory = spec.directory();
            if self.resting.rests(&directory, Instant::now()) {
                continue;
            }
            let (of_opening, wanted) = (site.clone(), spec.clone());
            let opening = tokio::spawn(async move {
                let tables = &of_opening.parts.tables;
                if tables.is_there(&wanted).await? { tables.table(wanted).await.map(drop) } else { Ok(()) }
            });
            if let Err(error) = opening.await.unwrap_or_else(|panic| Err(HistoryError::Run(Box::new(panic)))) {
                done.failures += 1;
                self.tell(&spec, directory, &error);
            }
        }
    }

    fn tell(&mut self, spec: &HistoryViewSpec, directory: PathBuf, error: &HistoryError) {
        let Worksite { options, metrics, .. } = &*self.site;
        let HistoryViewSpec { tenant, view, .. } = spec;
        metrics.failures.add_for(tenant, 1);
        if error.is_damage() {
            metrics.damaged.add_for(tenant, 1);
        }
        if matches!(error, HistoryError::SyncFailed { .. }) {
            options.on_fatal.call(&error.to_string());
        }
        let rest = self.resting.failed(directory, Instant::now());
        tracing::error!(%view, %error, again_after = ?rest, "history was not compacted; its table is as it was");
    }
}

impl Worksite {
    /// One step of a table: deletes some files, frees one from rows that are too old, and makes a merge, also
    /// where freeing has failed.
    async fn step(&self, table: &HistoryTable) -> Result<Compacted, HistoryError> {
        let mut done = Compacted::default();
        let snapshot = table.snapshot();
        let (tenant, view) = (&snapshot.spec().tenant, &snapshot.spec().view);
        let retention = i64::try_from(self.options.retention.as_micros()).unwrap_or(i64::MAX);
        let deleted = table.vacuum(self.parts.store_time.read(), retention).await?;
        if deleted.files > 0 {
            tracing::info!(%view, files = deleted.files, bytes = deleted.bytes, "files that had been merged are deleted");
            self.metrics.note_deleted(tenant, &deleted);
            done.deleted_files += deleted.files as u64;
        }
        let taken_out = self.take_out_older(table).await;
        if let Some(merge) = table.merge(self.options.merging, self.pace()).await? {
            let report = table.commit(merge, self.parts.store_time.read()).await?;
            self.metrics.note_merge(tenant, &report);
            done.merges += 1;
            let (runs, removed, files, bytes) = (report.runs, report.removed_files, report.files, report.bytes);
            tracing::info!(%view, runs, removed_files = removed, rows = report.rows, files, bytes, "history was compacted");
        }
        done.rows_too_old = taken_out?;
        Ok(done)
    }

    /// Takes rows out of a table's next file that has any which are too old; how many those are.
    async fn take_out_older(&self, table: &HistoryTable) -> Result<u64, HistoryError> {
        let snapshot = table.snapshot();
        let (spec, directory) = (snapshot.spec(), snapshot.spec().directory());
        let Some(before) = self.horizon_of(spec) else { return Ok(0) };
        if self.retained().is_done(&directory, before, snapshot.delta_version) {
            return Ok(0);
        }
        let Some(merge) = table.without_older(before, self.pace()).await? else {
            self.retained().done(directory, before, snapshot.delta_version);
            return Ok(0);
        };
        let HistoryViewSpec { tenant, view, version, .. } = spec.as_ref();
        if !self.retained().is_noted(&directory, before) {
            // Where a power cut comes between the two, more is said to be gone than is.
            let told = RowsTooOld { tenant: tenant.clone(), view: view.clone(), version: *version, before };
            self.parts.losses.note(&told).await.map_err(|error| HistoryError::Run(Box::new(error)))?;
            self.retained().noted(directory, before);
        }
        // Somebody may have found meanwhile that the view is to keep them for longer.
        if self.horizon_of(spec).is_none_or(|now| now < before) {
            return Ok(0);
        }
        let rows = merge.rows_too_old();
        self.note_gone(spec, before);
        table.commit(merge, self.parts.store_time.read()).await?;
        self.metrics.rows_too_old.add_for(tenant, rows);
        tracing::info!(%tenant, %view, version, rows, before = rfc3339(before), "rows that were too old are out of history");
        Ok(rows)
    }

    /// Rows of a table that happened before are to go, as views are defined now.
    fn horizon_of(&self, spec: &HistoryViewSpec) -> Option<Micros> {
        let snapshot = self.parts.snapshots.load();
        let retention = snapshot.tenant(&spec.tenant).ok()?.retention_of(&spec.view, spec.version)?;
        Some(retention_horizon(self.parts.store_time.read(), retention))
    }

    /// Of a version that is defined no more nobody reads.
    fn note_gone(&self, spec: &HistoryViewSpec, before: Micros) {
        let snapshot = self.parts.snapshots.load();
        let Ok(tenant) = snapshot.tenant(&spec.tenant) else { return };
        let mut versions = tenant.versions_of(spec.view.as_str());
        if let Some(version) = versions.find(|version| version.version == spec.version) {
            self.parts.snapshots.gone().note(version.id, before);
        }
    }

    fn retained(&self) -> MutexGuard<'_, Retained> {
        self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> HowFast {
        let pace = Pace::new(self.options.bytes_per_second, self.ending.clone());
        Box::new(move |bytes| pace.may_go_on_after(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_failed_rests_for_longer_each_time_and_not_for_ever() {
        let mut resting = Resting::default();
        let (mut now, table, other) = (Instant::now(), PathBuf::from("a"), PathBuf::from("b"));
        let mut rests = Vec::new();
        for _ in 0..8 {
            assert!(!resting.rests(&table, now));
            let rest = resting.failed(table.clone(), now);
            assert!(resting.rests(&table, now + rest / 2) && !resting.rests(&other, now));
            now += rest;
            rests.push(rest.as_secs() / 60);
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60]);
        resting.succeeded(&table);
        assert_eq!(resting.failed(table, now), FIRST_REST);
    }
}
