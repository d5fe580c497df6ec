//! Every counter of historical reads: name, unit, help.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hydrant_storage::names::Name;

use super::execute::Busy;
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
                "time that training sets made took to take their spines in",
            ),
            walk_time: Counter::new(
                "hydrant.history.walk.time",
                "us",
                "time that training sets made took to sort their spines and to walk history",
            ),
            zip_time: Counter::new(
                "hydrant.history.zip.time",
                "us",
                "time that training sets made took to put their answers together, waits for clients left out",
            ),
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

    pub(super) fn note_busy(&self, busy: &Busy) {
        let Busy { intake, walk, zip } = *busy;
        for (counter, time) in [(&self.intake_time, intake), (&self.walk_time, walk), (&self.zip_time, zip)] {
            counter.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn note(&self, tenant: &Name, outcome: &Result<Report, JoinError>) {
        match outcome {
            Ok(report) => {
                self.joins.add_for(tenant, 1);
                self.rows.add_for(tenant, report.rows);
            }
            Err(JoinError::Stopped) => self.given_up.add_for(tenant, 1),
            Err(error) => {
                self.failures.add_for(tenant, 1);
                self.note_damage(error);
            }
        }
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
