//! Every counter of the partitions: name, unit, help. All partitions share them; what belongs to one
//! partition (its state, position, lag and tail) is read from its handle.

use std::sync::Arc;

use crate::counter::Counter;

#[derive(Debug)]
pub struct PartitionMetrics {
    pub frames_applied: Arc<Counter>,
    pub rows_applied: Arc<Counter>,
    pub apply_chunks: Arc<Counter>,
    pub rows_late: Arc<Counter>,
    pub rows_pending: Arc<Counter>,
    pub rows_dropped: Arc<Counter>,
    pub rows_damaged: Arc<Counter>,
    pub flushes: Arc<Counter>,
    pub tail_drops: Arc<Counter>,
    pub panics: Arc<Counter>,
    pub reopened: Arc<Counter>,
    pub parked: Arc<Counter>,
    pub writes_refused: Arc<Counter>,
    pub trim_failures: Arc<Counter>,
    pub blocks_damaged: Arc<Counter>,
}

impl Default for PartitionMetrics {
    fn default() -> Self {
        Self {
            frames_applied: Counter::count("hydrant.partition.frames.applied", "frames that partitions passed over"),
            rows_applied: Counter::count("hydrant.partition.rows.applied", "rows applied to partitions"),
            apply_chunks: Counter::count(
                "hydrant.partition.apply.chunks",
                "bounded steps in which rows were applied; other partitions of the thread run between them",
            ),
            rows_late: Counter::count(
                "hydrant.partition.rows.late",
                "rows that came after a newer one of their key; they are in history only",
            ),
            rows_pending: Counter::count("hydrant.partition.rows.pending", "rows that were not yet due on arrival"),
            rows_damaged: Counter::count(
                "hydrant.partition.rows.damaged",
                "damaged rows met by applying or by the sweep, by the sweep again each time round",
            ),
            rows_dropped: Counter::count("hydrant.partition.rows.dropped", "rows whose view no longer exists"),
            flushes: Counter::count("hydrant.partition.flushes", "flushes asked for by timer or by a caller"),
            tail_drops: Counter::count("hydrant.partition.tail.drops", "bounded steps of dropping landed rows"),
            panics: Counter::count("hydrant.partition.panics", "partition actors that ended by a panic"),
            reopened: Counter::count("hydrant.partition.reopened", "partitions reopened after a failure"),
            parked: Counter::count("hydrant.partition.parked", "partitions parked until an operator acts"),
            writes_refused: Counter::count(
                "hydrant.partition.writes.refused",
                "writes refused because tails are full or partitions lag too far",
            ),
            trim_failures: Counter::count("hydrant.partition.trim.failures", "trims of the log that failed"),
            blocks_damaged: Counter::count(
                "hydrant.partition.blocks.damaged",
                "blocks that the sweep could not read, again each time round",
            ),
        }
    }
}

impl PartitionMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [
            &self.frames_applied,
            &self.rows_applied,
            &self.apply_chunks,
            &self.rows_late,
            &self.rows_pending,
            &self.rows_dropped,
            &self.rows_damaged,
            &self.flushes,
            &self.tail_drops,
            &self.panics,
            &self.reopened,
            &self.parked,
            &self.writes_refused,
            &self.trim_failures,
            &self.blocks_damaged,
        ];
        all.into_iter().cloned().collect()
    }
}
