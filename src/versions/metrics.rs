//! Every counter of versions of views that are built: name, unit, help.

use std::sync::Arc;

use crate::counter::Counter;

#[derive(Debug)]
pub struct VersionMetrics {
    pub built: Arc<Counter>,
    pub failures: Arc<Counter>,
    pub rows: Arc<Counter>,
}

impl Default for VersionMetrics {
    fn default() -> Self {
        Self {
            built: Counter::count("hydrant.versions.built", "versions of views that were built and are served"),
            failures: Counter::count(
                "hydrant.versions.failures",
                "builds of a version that failed and are tried again",
            ),
            rows: Counter::count("hydrant.versions.rows", "rows of history that versions were built from"),
        }
    }
}

impl VersionMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        [&self.built, &self.failures, &self.rows].into_iter().cloned().collect()
    }
}
