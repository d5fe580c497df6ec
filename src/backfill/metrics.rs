//! Every counter of backfills: name, unit, help.

use std::sync::Arc;

use super::{BackfillReport, Outcome};
use crate::counter::Counter;
use crate::error::Result;

#[derive(Debug)]
pub struct BackfillMetrics {
    pub taken_in: Arc<Counter>,
    pub failures: Arc<Counter>,
    pub checked: Arc<Counter>,
    pub staged: Arc<Counter>,
    pub rows: Arc<Counter>,
}

impl Default for BackfillMetrics {
    fn default() -> Self {
        Self {
            taken_in: Counter::count("hydrant.backfill.taken_in", "backfills that were taken in"),
            failures: Counter::count("hydrant.backfill.failures", "backfills that failed once all rows were there"),
            checked: Counter::count("hydrant.backfill.checked", "rows of backfills that were checked"),
            staged: Counter::count("hydrant.backfill.staged", "rows of backfills that were sorted and staged"),
            rows: Counter::count("hydrant.backfill.rows", "rows of views that backfills brought into history"),
        }
    }
}

impl BackfillMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [&self.taken_in, &self.failures, &self.checked, &self.staged, &self.rows];
        all.into_iter().cloned().collect()
    }

    pub(super) fn note(&self, outcome: &Result<BackfillReport>) {
        match outcome {
            Ok(report) if report.outcome == Outcome::Applied => {
                self.taken_in.add(1);
                self.rows.add(report.views.iter().map(|view| view.rows).sum());
            }
            Ok(_) => {}
            Err(_) => self.failures.add(1),
        }
    }
}
