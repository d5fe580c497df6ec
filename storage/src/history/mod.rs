//! History: one Delta table per view and version, made of sorted Parquet files, which compaction merges
//! into larger ones, and the sorted runs by which the point-in-time join reads files and tails alike.
//! Everything here is ordered by
//! (slot, key, event time, known time, position). It never decides which row counts (that is
//! [`crate::order`]) and never reads the online rows.

mod checked_file;
pub mod compaction;
mod delta;
mod distinct_keys;
pub mod erasing;
mod footers;
mod gather;
mod leaving;
pub mod merge;
mod outputs;
mod pages;
pub mod parquet_run;
mod retaining;
pub mod run;
pub mod schema;
mod since;
pub mod snapshot;
mod sought;
pub mod staging;
mod succession;
mod synced_store;
pub mod table;
mod tables;
pub mod tail_run;
mod tails;
mod take_in;
pub mod vacuum;
mod writer;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use compaction::{CompactReport, Merge, MergeOptions, Pace};
pub use delta::LANDING_APPLICATION;
pub use distinct_keys::DistinctKeys;
pub use erasing::ErasedFromTable;
pub use merge::MergedRuns;
pub use parquet_run::ParquetRun;
pub use retaining::RowsTooOld;
pub use run::{RowAt, Run, RunBatch, SlotSet};
pub use schema::HistoryViewSpec;
pub use schema::absent;
pub use since::Since;
pub use snapshot::{Chain, ChainRun, DataFile, TableSnapshot};
pub use sought::{Sought, SoughtKeys};
pub use staging::{StagedFile, StagedRows, Staging, StagingOptions, StagingWatch};
pub use succession::Succession;
pub use table::{FilePath, HeldTable, HistoryTable, KeptFiles, LandReport};
pub use tables::HistoryTables;
pub use tail_run::TailRun;
pub use tails::{tail_rows, tail_rows_of};
pub use take_in::{Abandon, TakeIn, TakeInTable};
pub use vacuum::VacuumReport;
pub use writer::{FileShape, PAGE_ROWS, TakenIn};

/// Why history could not be written or read. Nothing that is damaged is ever answered as a value.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Bytes of a data file don't match their checksum, or what they say can't be true.
    #[error("{} is damaged at byte {offset}: {reason}", file.display())]
    DamagedPage { file: PathBuf, offset: u64, reason: String },
    /// A row that hasn't landed yet can't be read.
    #[error("a row of the tail can't be read: {0}")]
    Tail(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The table lists a file that Hydrant did not write, so its order and checksums are unknown.
    #[error("{} was not written by this store; remove it from the table, and send its rows through ingest", file.display())]
    ForeignFile { file: PathBuf },
    /// The table's columns aren't those of the view.
    #[error("the history table {} doesn't fit its view: {reason}", table.display())]
    SchemaMismatch { table: PathBuf, reason: String },
    /// Rows handed over to be landed, or made of others, break a promise; the table hasn't them.
    #[error("rows can't become part of history: {reason}")]
    BadRows { reason: String },
    /// The file was replaced by an erasure while it was read, and the reader took too long.
    #[error("{} was replaced by an erasure while it was read", file.display())]
    Erased { file: PathBuf },
    /// A merge was given up, since it was to be. Nothing of it is left.
    #[error("a merge was given up, since the process is ending")]
    GivenUp,
    /// The table's log could not be read or written.
    #[error("the log of the history table {}: {source}", table.display())]
    Log { table: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// A sync failed: what was written may be lost at a power cut although it can be read now, so
    /// the process has to end.
    #[error("a sync failed under {}; what was written since may be lost", path.display())]
    SyncFailed { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A run that isn't one of this crate's can't be read, for reasons of its own.
    #[error("{0}")]
    Run(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Arrow or Parquet refused what it was given: a bug, since all input was checked before.
    #[error("encoding history rows: {0}")]
    Encoding(String),
}

impl HistoryError {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// Whether stored bytes are damaged, as opposed to unreachable or misused.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::DamagedPage { .. } | Self::Tail(_))
    }
}

impl From<arrow_schema::ArrowError> for HistoryError {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::Encoding(error.to_string())
    }
}
