//! Landing: brings rows from the partitions' tails into history, exactly once, and then lets the
//! tails go; and takes in what backfills have staged for it. One actor commits for all views, so that one cut of the tails serves them all; it
//! never reads online state, and nobody waits for it but who asks to.

mod actor;
mod metrics;
mod round;
mod take_in;

use std::sync::Arc;
use std::time::Duration;

use hydrant_storage::history::{HistoryError, HistoryTables};
use hydrant_storage::names::Name;

pub use actor::Landing;
pub use metrics::LandingMetrics;
pub use round::landed_frames;

use crate::clock::StoreTime;
use crate::error::{Error, FatalHook};
use crate::log::WriteLog;
use crate::partition::{LandedFrames, Partitions};
use crate::registry::SnapshotReader;

/// When rows land, and how long a landing may wait.
#[derive(Clone, Debug)]
pub struct LandingOptions {
    /// Rows land once the tails of all views and partitions together hold as many bytes,
    pub tail_bytes: u64,
    /// and after so long in any case.
    pub interval: Duration,
    /// How often that is looked at; twice in an interval that is shorter.
    pub check_every: Duration,
    /// How long a landing waits for partitions to apply what it is to land, or to drop a tail.
    pub patience: Duration,
    pub on_fatal: FatalHook,
}

impl Default for LandingOptions {
    fn default() -> Self {
        Self {
            tail_bytes: 64 << 20,
            interval: Duration::from_secs(15 * 60),
            check_every: Duration::from_secs(1),
            patience: Duration::from_secs(60),
            on_fatal: FatalHook::default(),
        }
    }
}

impl LandingOptions {
    fn check_every(&self) -> Duration {
        self.check_every.min(self.interval / 2)
    }
}

/// What landing works on.
#[derive(Clone, Debug)]
pub struct LandingParts {
    pub snapshots: SnapshotReader,
    pub log: Arc<dyn WriteLog>,
    pub partitions: Partitions,
    pub tables: Arc<HistoryTables>,
    /// The same that the partitions were started with.
    pub landed: Arc<LandedFrames>,
    pub store_time: Arc<StoreTime>,
}

/// What one landing did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landed {
    /// Rows of frames up to this one were to land.
    pub through: u64,
    /// The views of which rows landed.
    pub views: Vec<LandedView>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LandedView {
    pub tenant: Name,
    pub view: Name,
    pub rows: u64,
    pub bytes: u64,
    pub delta_version: u64,
}

/// A landing that failed for a view or as a whole. What landed all the same stands.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct LandingFailed {
    pub landed: Landed,
    /// The first that failed.
    pub error: Error,
}

impl From<Error> for LandingFailed {
    fn from(error: Error) -> Self {
        Self { landed: Landed::default(), error }
    }
}

impl Landed {
    pub fn rows(&self) -> u64 {
        self.views.iter().map(|view| view.rows).sum()
    }
}

/// Whether the process must end.
fn is_fatal(error: &HistoryError) -> bool {
    matches!(error, HistoryError::SyncFailed { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_shorter_than_that_of_looking_is_kept() {
        let every = |interval| LandingOptions { interval, ..Default::default() }.check_every();
        assert_eq!(every(Duration::from_mins(15)), Duration::from_secs(1));
        assert_eq!(every(Duration::from_millis(100)), Duration::from_millis(50));
    }
}
