//! Every counter of backups: name, help.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hydrant_storage::order::Micros;

use crate::counter::Counter;

#[derive(Debug)]
pub struct BackupMetrics {
    pub made: Arc<Counter>,
    pub failures: Arc<Counter>,
    /// When the newest was made; `Micros::MIN` before the first.
    newest: AtomicI64,
}

impl BackupMetrics {
    pub(super) fn new(newest: Option<Micros>) -> Self {
        Self {
            made: Counter::count("hydrant.backup.made", "backups made"),
            failures: Counter::count(
                "hydrant.backup.failures",
                "backups that failed or were stopped, but for those refused",
            ),
            newest: AtomicI64::new(newest.unwrap_or(Micros::MIN)),
        }
    }

    /// After one was deleted.
    pub(super) fn note_newest(&self, newest: Option<Micros>) {
        self.newest.store(newest.unwrap_or(Micros::MIN), Ordering::Relaxed);
    }

    pub fn counters(&self) -> Vec<Arc<Counter>> {
        vec![self.made.clone(), self.failures.clone()]
    }

    /// When the newest backup was made.
    pub fn newest(&self) -> Option<Micros> {
        Some(self.newest.load(Ordering::Relaxed)).filter(|made| *made != Micros::MIN)
    }

    pub(super) fn note_made(&self, at: Micros) {
        self.made.add(1);
        self.newest.fetch_max(at, Ordering::Relaxed);
    }
}
