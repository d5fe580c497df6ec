//! Every metric of events of lineage: name, unit, help.

use std::sync::{Arc, Weak};

use super::{Inner, OpenLineage};
use crate::counter::Counter;
use crate::telemetry::{Instruments, Metric};

const WAITING: Metric = Metric {
    name: "hydrant.openlineage.waiting",
    unit: Metric::COUNT,
    help: "Events of lineage that are not yet sent.",
};

#[derive(Debug)]
pub struct OpenLineageMetrics {
    pub sent: Arc<Counter>,
    pub failed: Arc<Counter>,
    pub dropped: Arc<Counter>,
}

impl Default for OpenLineageMetrics {
    fn default() -> Self {
        Self {
            sent: Counter::count("hydrant.openlineage.sent", "events of lineage that the receiver has taken"),
            failed: Counter::count("hydrant.openlineage.failed", "attempts to send an event of lineage that failed"),
            dropped: Counter::count(
                "hydrant.openlineage.dropped",
                "events of lineage that were given up: refused by the receiver, or too many",
            ),
        }
    }
}

impl OpenLineageMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        [&self.sent, &self.failed, &self.dropped].into_iter().cloned().collect()
    }
}

impl OpenLineage {
    /// Has the gauge asked for as long as the use case lives.
    pub fn export(&self, instruments: &Instruments) {
        let inner: Weak<Inner> = Arc::downgrade(&self.inner);
        instruments.observed(&WAITING, move |gauge| {
            if let Some(inner) = inner.upgrade() {
                gauge.observe(OpenLineage { inner }.waiting() as f64, &[]);
            }
        });
    }
}
