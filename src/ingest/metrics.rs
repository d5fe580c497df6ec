//! Every counter of ingest: name, unit, help.

use std::sync::Arc;

use crate::counter::Counter;

#[derive(Debug)]
pub struct IngestMetrics {
    pub requests: Arc<Counter>,
    pub rows: Arc<Counter>,
    pub deletes: Arc<Counter>,
    pub null_keys: Arc<Counter>,
    pub duplicates: Arc<Counter>,
    pub refused: Arc<Counter>,
}

impl Default for IngestMetrics {
    fn default() -> Self {
        Self {
            requests: Counter::by_tenant("hydrant.ingest.requests", "write requests acknowledged"),
            rows: Counter::by_tenant("hydrant.ingest.rows", "rows acknowledged, deletions among them"),
            deletes: Counter::by_tenant("hydrant.ingest.deletes", "deletions acknowledged"),
            null_keys: Counter::by_tenant(
                "hydrant.ingest.null_keys",
                "rows left out of a view whose key was null in them",
            ),
            duplicates: Counter::by_tenant(
                "hydrant.ingest.duplicates",
                "requests answered as before, not written again",
            ),
            refused: Counter::by_tenant("hydrant.ingest.refused", "write requests refused"),
        }
    }
}

impl IngestMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [&self.requests, &self.rows, &self.deletes, &self.null_keys, &self.duplicates, &self.refused];
        all.into_iter().cloned().collect()
    }
}
