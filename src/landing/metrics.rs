//! Every counter of landing: name, unit, help.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Landed, LandingFailed};
use crate::counter::Counter;
use crate::error::Code;

#[derive(Debug)]
pub struct LandingMetrics {
    pub runs: Arc<Counter>,
    pub failures: Arc<Counter>,
    pub rows: Arc<Counter>,
    pub bytes: Arc<Counter>,
    pub damaged: Arc<Counter>,
    started: Instant,
    /// Since `started`.
    last_landed_millis: AtomicU64,
}

impl Default for LandingMetrics {
    fn default() -> Self {
        Self {
            runs: Counter::count("hydrant.landing.runs", "landings, each of all views"),
            failures: Counter::count("hydrant.landing.failures", "landings that failed for a view or as a whole"),
            rows: Counter::by_tenant("hydrant.landing.rows", "rows landed in history"),
            bytes: Counter::new_by_tenant("hydrant.landing.written", "By", "bytes of the files landed in history"),
            damaged: Counter::count(
                "hydrant.landing.damaged",
                "landings that met a damaged row of a tail or a damaged page of a table",
            ),
            started: Instant::now(),
            last_landed_millis: AtomicU64::new(0),
        }
    }
}

impl LandingMetrics {
    pub fn counters(&self) -> Vec<Arc<Counter>> {
        let all = [&self.runs, &self.failures, &self.rows, &self.bytes, &self.damaged];
        all.into_iter().cloned().collect()
    }

    /// Since the last landing that succeeded, or since the start.
    pub fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last_landed_millis.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    pub(super) fn note(&self, outcome: &Result<Landed, LandingFailed>) {
        self.runs.add(1);
        let (Ok(landed) | Err(LandingFailed { landed, .. })) = outcome;
        for view in &landed.views {
            self.rows.add_for(&view.tenant, view.rows);
            self.bytes.add_for(&view.tenant, view.bytes);
        }
        match outcome {
            Ok(_) => {
                let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.last_landed_millis.store(millis, Ordering::Relaxed);
            }
            Err(LandingFailed { error, .. }) => {
                self.failures.add(1);
                if error.code == Code::DataLoss {
                    self.damaged.add(1);
                }
            }
        }
    }
}
