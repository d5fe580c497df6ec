//! Every counter of historical reads: name, unit, help.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hydrant_storage::names::Name;

use super::failure::JoinError;
use super::report::Report;
use crate::counter::Counter;

#[derive(Debug)]
pub struct HistoryMetrics {
    pub joins: Arc<Counter>,
    pub rows: Arc<Counter>,
    pub failures: Arc<Counter>,
    pub given_up: Arc<Counter>,
    pub lookups: Arc<Counter>,
    pub lookup_keys: Arc<Counter>,
    pub spilled: Arc<Counter>,
    pub damaged: Arc<Counter>,
    pub intake_time: Arc<Counter>,
    pub walk_time: Arc<Counter>,
    pub zip_time: Arc<Counter>,
    pub walks: Arc<Counter>,
    pub pulls: Arc<Counter>,
    pub pulled_rows: Arc<Counter>,
    /// What lies in spill files now.
    spilled_now: AtomicU64,
}

impl Default for HistoryMetrics {
    fn default() -> Self {
        Self {
            joins: Counter::by_tenant("hydrant.history.joins", "training sets made"),
            rows: Counter::by_tenant("hydrant.history.rows", "rows of the training sets made"),
            failures: Counter::by_tenant("hydrant.history.failures", "training sets that failed"),
            given_up: Counter::by_tenant("hydrant.history.given_up", "training sets that their caller gave up"),
            lookups: Counter::by_tenant("hydrant.history.lookups", "pinned online reads that asked history"),
            lookup_keys: Counter::by_tenant("hydrant.history.lookup.keys", "entity keys that pinned reads asked for"),
            spilled: Counter::new("hydrant.history.spilled", "By", "bytes that joins wrote to spill files"),
            damaged: Counter::count(
                "hydrant.history.damaged",
                "reads that met a damaged page, row of a tail or spilled piece",
            ),
            intake_time: Counter::new(
                "hydrant.history.intake.time",
                "us",
                "time that training sets took to take their spines in",
            ),
            walk_time: Counter::new(
                "hydrant.history.walk.time",
                "us",
                "time that training sets took to sort their spines and to walk history",
            ),
            zip_time: Counter::new(
                "hydrant.history.zip.time",
                "us",
                "time that training sets took to put their answers together, waits for clients left out",
            ),
            walks: Counter::by_tenant("hydrant.history.walks", "walks for endpoints and saved training sets"),
            pulls: Counter::by_tenant("hydrant.history.pulls", "endpoints pulled to their end"),
            pulled_rows: Counter::by_tenant("hydrant.history.pulled_rows", "rows of the endpoints pulled"),
            spilled_now: AtomicU64::new(0),
        }
    }
}

impl HistoryMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [
            &self.joins,
            &self.rows,
            &self.failures,
            &self.given_up,
            &self.lookups,
            &self.lookup_keys,
            &self.spilled,
            &self.damaged,
            &self.intake_time,
            &self.walk_time,
            &self.zip_time,
            &self.walks,
            &self.pulls,
            &self.pulled_rows,
        ];
        all.into_iter().cloned().collect()
    }

    /// Bytes that lie in spill files now.
    pub fn spilled_now(&self) -> u64 {
        self.spilled_now.load(Ordering::Relaxed)
    }

    pub(super) fn spill(&self, bytes: u64) {
        self.spilled.add(bytes);
        self.spilled_now.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release_spilled(&self, bytes: u64) {
        self.spilled_now.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Does a part of a join's own work, and adds the time that it takes to one of the counters of time.
    pub(super) fn timed<T>(&self, time: impl Fn(&Self) -> &Counter, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        time(self).add(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        done
    }

    pub(super) fn note(&self, tenant: &Name, outcome: &Result<Report, JoinError>) {
        match outcome {
            Ok(report) => {
                self.joins.add_for(tenant, 1);
                self.rows.add_for(tenant, report.rows);
            }
            Err(error) => self.note_failure(tenant, error),
        }
    }

    /// A walk whose findings are kept.
    pub(super) fn note_walk<T>(&self, tenant: &Name, outcome: &Result<T, JoinError>) {
        match outcome {
            Ok(_) => self.walks.add_for(tenant, 1),
            Err(error) => self.note_failure(tenant, error),
        }
    }

    pub(super) fn note_pull(&self, tenant: &Name, rows: u64, outcome: &Result<(), JoinError>) {
        match outcome {
            Ok(()) => {
                self.pulls.add_for(tenant, 1);
                self.pulled_rows.add_for(tenant, rows);
            }
            Err(error) => self.note_failure(tenant, error),
        }
    }

    fn note_failure(&self, tenant: &Name, error: &JoinError) {
        if matches!(error, JoinError::Stopped) {
            return self.given_up.add_for(tenant, 1);
        }
        self.failures.add_for(tenant, 1);
        self.note_damage(error);
    }

    pub(super) fn note_damage(&self, error: &JoinError) {
        let is_damage = match error {
            JoinError::History(error) => error.is_damage(),
            JoinError::DamagedSpill => true,
            _ => false,
        };
        if is_damage {
            self.damaged.add(1);
        }
    }
}
