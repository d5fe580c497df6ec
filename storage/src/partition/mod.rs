//! A partition's store: the online rows of a range of slots, the rows still to come, the rows not
//! yet in history, and how far the log has been applied, in one RocksDB. There is one writer,
//! [`PartitionStore`]; readers have immutable [`ReadView`]s. RocksDB's own log is off: what was not
//! flushed is applied again from ours. Which row counts is never decided here but by
//! [`crate::order`].

mod apply;
mod database;
mod erase;
mod meta;
mod read_view;
mod row_cache;
mod store;
mod tail;

pub use database::SharedResources;
pub use erase::{Erasable, ErasedRows};
pub use read_view::{Lookup, ReadMode, ReadView, Stub};
pub use store::PartitionStore;
pub use tail::{TailRow, TailRowRef, TailRows};

pub use crate::keys::OnlineKey;

use std::fmt;
use std::path::PathBuf;

use crate::keys::SlotRange;
use crate::names::{TenantId, ViewId};
use crate::order::Micros;

/// What RocksDB and the row cache are told. Sizes are in bytes; the first four are shared by all partitions that are
/// opened with the same [`SharedResources`].
#[derive(Clone, Debug)]
pub struct PartitionOptions {
    /// Cache of uncompressed blocks.
    pub block_cache_bytes: usize,
    /// Cache of verified rows; 0: none.
    pub row_cache_bytes: usize,
    /// All rows in memory that were not yet flushed; beyond it a flush begins.
    pub write_buffer_bytes: usize,
    /// Threads that flush and compact.
    pub background_threads: u16,
    /// Rows in memory of one partition and one family, at which a flush begins.
    pub memtable_bytes: usize,
    /// Files kept open by one partition; their indexes and filters stay in memory.
    pub open_files: u16,
    /// Reads go past the operating system's page cache.
    pub direct_reads: bool,
}

impl Default for PartitionOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 << 20,
            row_cache_bytes: 128 << 20,
            write_buffer_bytes: 256 << 20,
            background_threads: 2,
            memtable_bytes: 32 << 20,
            open_files: 512,
            direct_reads: false,
        }
    }
}

/// How far the log has been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Every frame up to this one; 0: none.
    pub frame: u64,
    /// The frame's ingest time.
    pub ingest_time: Micros,
}

/// What a partition must know of a view to apply its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewPolicy {
    /// Rows older than this are kept online as header-only stubs.
    pub longest_ttl: Option<Micros>,
    /// Of rows that happened before, nothing is kept. `None`: of all there is.
    pub gone_before: Option<Micros>,
    /// Whether its rows can be looked up.
    pub online: bool,
    /// Whether its rows go to history.
    pub offline: bool,
    /// Rows of frames up to this one are in history already.
    pub landed: u64,
}

/// Tells the policies of views.
pub trait ViewPolicies {
    /// `None`: there is no such view (any more).
    fn policy(&self, tenant: TenantId, view: ViewId) -> Option<ViewPolicy>;
}

/// What became of the rows of a frame. A row counts once under what became of it online, and apart
/// from that as tailed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// The frame had been applied before, and nothing was done.
    pub already_applied: bool,
    /// Rows that are now the greatest of their key.
    pub current_rows: usize,
    /// Of those: the ones kept as stubs, since they had expired on arrival.
    pub expired_rows: usize,
    /// Rows that came after a greater one of their key.
    pub late_rows: usize,
    /// Rows whose event or known time is still to come.
    pub pending_rows: usize,
    /// Rows of views that there are not; they are dropped.
    pub unknown_view_rows: usize,
    /// Rows whose key has a damaged row online, which stays: whether it was greater can't be told.
    pub shadowed_rows: usize,
    /// Rows kept until they have landed.
    pub tailed_rows: usize,
}

/// How far a frame has been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many of its rows are written, and others are left.
    Begun {
        rows: usize,
    },
    Done(ApplyReport),
}

/// What a step of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub examined_rows: usize,
    /// Rows that became stubs.
    pub expired_rows: usize,
    /// Rows that were removed, stubs of them and deletes too.
    pub removed_rows: usize,
    pub damaged_rows: usize,
    /// Blocks that could not be read, at which the pass has ended.
    pub damaged_blocks: usize,
    /// The end was reached; the next step begins again.
    pub finished: bool,
}

/// What a partition knows of one view as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewState {
    pub tenant: TenantId,
    /// The greatest event time among the rows that have become visible.
    pub newest_event_time: Option<Micros>,
    /// Rows that are not yet dropped as landed.
    pub tail_rows: u64,
    /// Their bytes, keys included.
    pub tail_bytes: u64,
}

/// Why a store can't be opened, written or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open, or a reader of this one still holds a view of it.
    #[error("the store at {} is in use", directory.display())]
    InUse { directory: PathBuf },
    /// It was written by another version, or is no store.
    #[error("the store at {} can't be read by this version: {reason}", directory.display())]
    Format { directory: PathBuf, reason: String },
    #[error("the store at {} is of the slots {stored}, not {wanted}", directory.display())]
    OtherSlots { directory: PathBuf, stored: SlotRange, wanted: SlotRange },
    /// Bytes aren't what was written.
    #[error("damaged {part} of the store: {reason}")]
    Damaged { part: &'static str, reason: String },
    /// A row or a key of another partition was handed to this one.
    #[error("slot {slot} is not of this partition, which has {range}")]
    ForeignSlot { slot: u16, range: SlotRange },
    /// Frames are applied one after the other, each to its end and with the same rows.
    #[error("frame {frame} can't be applied now: frame {unfinished} is half applied")]
    OutOfTurn { frame: u64, unfinished: u64 },
    #[error("{action}: {reason}")]
    Io { action: &'static str, reason: String },
}

impl StoreError {
    /// Whether stored bytes are damaged, so that trying again is of no use.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }

    /// Whether it is of another format or of other slots, so that trying again is of no use.
    pub fn is_format(&self) -> bool {
        matches!(self, Self::Format { .. } | Self::OtherSlots { .. })
    }

    /// Whether there was no room, so that the same may succeed once there is. RocksDB has no code of its
    /// own for all of it.
    pub fn is_out_of_space(&self) -> bool {
        const TOLD: [&str; 3] = ["No space left", "File too large", "Disk quota exceeded"];
        matches!(self, Self::Io { reason, .. } if TOLD.iter().any(|told| reason.contains(told)))
    }

    fn of_rocksdb(action: &'static str) -> impl Fn(rocksdb::Error) -> Self + Copy {
        move |error| match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Damaged { part: "files", reason: error.into_string() },
            _ => Self::Io { action, reason: error.into_string() },
        }
    }

    fn damaged(part: &'static str, reason: impl fmt::Display) -> Self {
        Self::Damaged { part, reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests;
