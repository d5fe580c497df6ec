//! Every counter of online reads: name, unit, help.

use std::sync::Arc;

use crate::counter::Counter;

#[derive(Debug)]
pub struct ServingMetrics {
    pub requests: Arc<Counter>,
    pub cells: Arc<Counter>,
    pub keys_read: Arc<Counter>,
    pub keys_not_cached: Arc<Counter>,
    pub keys_from_history: Arc<Counter>,
    pub damaged_rows: Arc<Counter>,
    pub not_ready_keys: Arc<Counter>,
    pub promotions_awaited: Arc<Counter>,
    pub refused: Arc<Counter>,
}

impl Default for ServingMetrics {
    fn default() -> Self {
        Self {
            requests: Counter::by_tenant("hydrant.serving.requests", "online reads answered"),
            cells: Counter::by_tenant("hydrant.serving.cells", "cells answered"),
            keys_read: Counter::count("hydrant.serving.keys.read", "entity keys looked up, each once a request"),
            keys_not_cached: Counter::count(
                "hydrant.serving.keys.not_cached",
                "keys that were not in memory and moved to the read threads",
            ),
            keys_from_history: Counter::by_tenant("hydrant.serving.keys.from_history", "keys that history answered"),
            damaged_rows: Counter::count("hydrant.serving.rows.damaged", "rows that failed their checksum"),
            not_ready_keys: Counter::by_tenant("hydrant.serving.keys.not_ready", "keys answered NOT_READY"),
            promotions_awaited: Counter::count(
                "hydrant.serving.promotions.awaited",
                "times a read waited until due rows could be read",
            ),
            refused: Counter::by_tenant("hydrant.serving.refused", "online reads refused or failed"),
        }
    }
}

impl ServingMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [
            &self.requests,
            &self.cells,
            &self.keys_read,
            &self.keys_not_cached,
            &self.keys_from_history,
            &self.damaged_rows,
            &self.not_ready_keys,
            &self.promotions_awaited,
            &self.refused,
        ];
        all.into_iter().cloned().collect()
    }
}
