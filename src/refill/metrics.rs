//! Every counter of refills after a raised ttl: name, unit, help.

use std::sync::Arc;

use crate::counter::Counter;

#[derive(Debug)]
pub struct RefillMetrics {
    pub runs: Arc<Counter>,
    pub failures: Arc<Counter>,
    pub rows: Arc<Counter>,
}

impl Default for RefillMetrics {
    fn default() -> Self {
        Self {
            runs: Counter::count("hydrant.refill.runs", "views whose raised ttl took effect after a refill"),
            failures: Counter::count("hydrant.refill.failures", "refills that failed and are tried again"),
            rows: Counter::count("hydrant.refill.rows", "rows that were brought online again by refills"),
        }
    }
}

impl RefillMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        [&self.runs, &self.failures, &self.rows].into_iter().cloned().collect()
    }
}
