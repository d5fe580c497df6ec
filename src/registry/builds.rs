//! How far versions of views are that are being built: told by whoever builds them, shown with their
//! definitions, and forgotten when the process ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hydrant_storage::names::ViewId;

/// What is done of a version: its history first, and then that is brought online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStep {
    History,
    Online,
}

/// Rows that a step has done so far, of so many.
#[derive(Clone, Debug)]
pub struct BuildProgress {
    pub step: BuildStep,
    pub rows: Arc<AtomicU64>,
    pub total_rows: u64,
}

/// The same, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    pub step: BuildStep,
    pub rows: u64,
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

    /// `None`: nobody is at it now.
    pub fn get(&self, version: ViewId) -> Option<Built> {
        let builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = builds.get(&version)?;
        let rows = progress.rows.load(Ordering::Relaxed);
        Some(Built { step: progress.step, rows, total_rows: progress.total_rows })
    }
}
