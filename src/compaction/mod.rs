//! Compaction in the background: merges the files of history tables into fewer, deletes those that
//! nobody needs any more, and takes rows out that are older than their view keeps them. One thread does
//! one merge at a time, at a bounded rate, behind everything that somebody waits for. But for rows that are
//! too old, what it changes is which files hold the rows, never what a reader finds.

mod metrics;
mod retention;
mod rounds;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hydrant_storage::history::HistoryTables;

pub use hydrant_storage::history::{MergeOptions, RowsTooOld};
pub use metrics::CompactionMetrics;
pub use worker::Compaction;

use crate::clock::StoreTime;
use crate::error::{FatalHook, Result};
use crate::registry::SnapshotReader;

/// When and how fast tables are compacted.
#[derive(Clone, Debug)]
pub struct CompactionOptions {
    /// Whether it goes on by itself; else only when it is asked for.
    pub enabled: bool,
    /// How often it is looked whether there is something to do.
    pub interval: Duration,
    /// Bytes that are written a second at most, over some seconds.
    pub bytes_per_second: u64,
    /// How long files that were taken out of a table stay for readers of older versions.
    pub retention: Duration,
    pub merging: MergeOptions,
    pub on_fatal: FatalHook,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(10),
            bytes_per_second: 32 << 20,
            retention: Duration::from_hours(24),
            merging: MergeOptions {
                runs_per_level: 4,
                file_bytes: 256 << 20,
                memory: 128 << 20,
                merge_bytes: 64 << 30,
            },
            on_fatal: FatalHook::default(),
        }
    }
}

/// What compaction works on.
#[derive(Clone, Debug)]
pub struct CompactionParts {
    pub tables: Arc<HistoryTables>,
    pub store_time: Arc<StoreTime>,
    /// Says how long views keep their rows.
    pub snapshots: SnapshotReader,
    pub losses: Arc<dyn NotesLosses>,
}

/// Who has to say afterwards that rows are gone: saved training sets.
#[async_trait]
pub trait NotesLosses: Send + Sync + Debug {
    /// They are about to go, and are only taken out of history once this has succeeded.
    async fn note(&self, rows: &RowsTooOld) -> Result<()>;
}

/// What was done until nothing was left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    pub merges: u64,
    pub deleted_files: u64,
    /// Rows that were taken out for their age.
    pub rows_too_old: u64,
    /// Tables whose compaction failed; each has been told of in the log.
    pub failures: u64,
}
