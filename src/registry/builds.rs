//! How far versions of views are that are being built: told by whoever builds them, shown with their
//! definitions, and forgotten when the process ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hydrant_storage::names::ViewId;

/// Rows of history that are built so far, of so many.
#[derive(Clone, Debug)]
pub struct BuildProgress {
    pub rows: Arc<AtomicU64>,
    pub total_rows: u64,
}

#[derive(Debug, Default)]
pub(super) struct Builds(Mutex<HashMap<ViewId, BuildProgress>>);

impl Builds {
    pub fn set(&self, version: ViewId, progress: Option<BuildProgress>) {
        let mut builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Some(progress) => drop(builds.insert(version, progress)),
            None => drop(builds.remove(&version)),
        }
    }

    /// Rows so far and in all; `None`: nobody is at it now.
    pub fn get(&self, version: ViewId) -> Option<(u64, u64)> {
        let builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        builds.get(&version).map(|progress| (progress.rows.load(Ordering::Relaxed), progress.total_rows))
    }
}
