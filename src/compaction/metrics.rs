//! Every counter of compaction: name, unit, help.

use std::sync::Arc;

use hydrant_storage::history::{CompactReport, VacuumReport};
use hydrant_storage::names::Name;

use crate::counter::Counter;

#[derive(Debug)]
pub struct CompactionMetrics {
    pub merges: Arc<Counter>,
    pub rows: Arc<Counter>,
    pub read: Arc<Counter>,
    pub written: Arc<Counter>,
    pub failures: Arc<Counter>,
    pub damaged: Arc<Counter>,
    pub deleted: Arc<Counter>,
    pub freed: Arc<Counter>,
    pub rows_too_old: Arc<Counter>,
}

impl Default for CompactionMetrics {
    fn default() -> Self {
        Self {
            merges: Counter::by_tenant("hydrant.compaction.merges", "merges of runs of a history table"),
            rows: Counter::by_tenant("hydrant.compaction.rows", "rows of the runs that were merged"),
            read: Counter::new_by_tenant("hydrant.compaction.read", "By", "bytes of the files that were merged"),
            written: Counter::new_by_tenant("hydrant.compaction.written", "By", "bytes of the files that merges made"),
            failures: Counter::by_tenant("hydrant.compaction.failures", "merges and deletions that failed"),
            damaged: Counter::by_tenant("hydrant.compaction.damaged", "merges that met a damaged page of a table"),
            deleted: Counter::by_tenant("hydrant.compaction.deleted", "files deleted that had been merged"),
            freed: Counter::new_by_tenant("hydrant.compaction.freed", "By", "bytes of the files deleted"),
            rows_too_old: Counter::by_tenant(
                "hydrant.compaction.rows_too_old",
                "rows taken out of history for their age, as views say",
            ),
        }
    }
}

impl CompactionMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let Self { merges, rows, read, written, failures, damaged, deleted, freed, rows_too_old } = self;
        [merges, rows, read, written, failures, damaged, deleted, freed, rows_too_old].into_iter().cloned().collect()
    }

    pub(super) fn note_merge(&self, tenant: &Name, report: &CompactReport) {
        self.merges.add_for(tenant, 1);
        self.rows.add_for(tenant, report.rows);
        self.read.add_for(tenant, report.removed_bytes);
        self.written.add_for(tenant, report.bytes);
    }

    pub(super) fn note_deleted(&self, tenant: &Name, report: &VacuumReport) {
        self.deleted.add_for(tenant, report.files as u64);
        self.freed.add_for(tenant, report.bytes);
    }
}
