//! Every counter of history that is brought online: name, unit, help.

use std::sync::Arc;

use super::Progress;
use crate::counter::Counter;
use crate::error::Result;

#[derive(Debug)]
pub struct MaterializeMetrics {
    pub runs: Arc<Counter>,
    pub failures: Arc<Counter>,
    pub rows: Arc<Counter>,
}

impl Default for MaterializeMetrics {
    fn default() -> Self {
        Self {
            runs: Counter::count("hydrant.materialize.runs", "views whose history was brought online"),
            failures: Counter::count(
                "hydrant.materialize.failures",
                "views whose history was not brought online to its end",
            ),
            rows: Counter::count("hydrant.materialize.rows", "rows of history brought online"),
        }
    }
}

impl MaterializeMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        [&self.runs, &self.failures, &self.rows].into_iter().cloned().collect()
    }

    pub(super) fn note(&self, outcome: &Result<Progress>) {
        match outcome {
            Ok(progress) => {
                self.runs.add(1);
                self.rows.add(progress.written);
            }
            Err(_) => self.failures.add(1),
        }
    }
}
