//! What the audit log counts.

use std::sync::Arc;

use crate::counter::Counter;

#[derive(Debug)]
pub struct AuditMetrics {
    pub records: Arc<Counter>,
    pub failures: Arc<Counter>,
}

impl Default for AuditMetrics {
    fn default() -> Self {
        Self {
            records: Counter::count("hydrant.audit.records", "Records written to the audit log."),
            failures: Counter::count(
                "hydrant.audit.failures",
                "Records that could not be written to the audit log; their changes were not made, or had been made before.",
            ),
        }
    }
}

impl AuditMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        vec![self.records.clone(), self.failures.clone()]
    }
}
