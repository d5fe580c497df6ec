//! The write-ahead log: every request that was accepted, in the one order that everything else is
//! derived from. A request is one frame, and is durable before it is acknowledged. The log knows
//! nothing of views, partitions or tenants, and never looks into a row.

mod appender;
mod clock_file;
pub mod codec;
pub mod conformance;
mod controls;
mod erase;
mod held;
pub mod local;
mod metrics;
mod producers;
mod recent;
mod recovery;
mod segments;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use hydrant_storage::order::Micros;
use hydrant_storage::record::{ProducerStamp, RowRecord, SharedFrame};
use tokio::sync::watch;

pub use erase::ErasedFromLog;
pub use held::HeldLog;
pub use local::{LocalLog, LogOptions};
pub use metrics::LogMetrics;

/// The log, as the rest of Hydrant sees it. What every implementation keeps to is in
/// [`conformance`].
#[async_trait]
pub trait WriteLog: Send + Sync + Debug {
    /// Takes a request, once: it is durable when this returns. Dropping the future gives up the
    /// answer, not the request.
    async fn append(&self, request: AppendRequest) -> Result<Appended, AppendError>;

    /// The durable frames after frame `after`, in order: as many as fit into `max_bytes`, at least
    /// one if there is one. May read from disk: not for a thread that must not block.
    fn read_from(&self, after: u64, max_bytes: usize) -> Result<Vec<SharedFrame>, LogError>;

    /// From now on takes only requests that were prepared under `preparation` or later. When this
    /// returns, every older one that was taken has been answered, and no other ever will be. Not kept
    /// over a restart, which no request outlives.
    async fn require(&self, preparation: u64);

    /// The number of the newest durable frame; 0 before the first.
    fn durable(&self) -> watch::Receiver<u64>;

    /// Writes what waits, and takes nothing more. When this returns, the next start knows that all of it was
    /// durable, however long others hold on to the log.
    async fn close(&self);

    /// Draws a line: see [`Sealed`]. Store time has caught up with the wall clock afterwards.
    async fn seal(&self) -> Result<Sealed, LogError>;

    /// The durable control records that are not settled, the oldest first. After a restart all that the log
    /// still has are among them.
    fn unsettled(&self) -> Vec<SharedFrame>;

    /// What the control record of this frame asks for is done, durably. Until then the log keeps it.
    fn settle(&self, frame: u64);

    /// Every control record through this frame is settled; no frame is newer where there is none.
    fn settled(&self) -> watch::Receiver<u64>;

    /// Lets go of frames up to `through`, but of none from the first control record on that isn't settled,
    /// as far as whole segments allow. What is needed to take later duplicates of them once is made durable
    /// first. Writes to disk and blocks; for longer where
    /// a backup holds the log meanwhile.
    fn trim(&self, through: u64) -> Result<(), LogError>;
}

/// What becomes one frame.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// In ascending order of (slot, ordinal).
    pub rows: Vec<RowRecord>,
    /// A control record, in the place of rows.
    pub control: Option<Bytes>,
    /// Who sent it; without one, a request sent twice is taken twice.
    pub stamp: Option<ProducerStamp>,
    /// Which state of the caller's the rows were made by: a number that only rises, and that means
    /// nothing to the log but what [`WriteLog::require`] compares it with.
    pub prepared: u64,
}

impl AppendRequest {
    pub fn of_rows(rows: Vec<RowRecord>, stamp: Option<ProducerStamp>, prepared: u64) -> Self {
        Self { rows, control: None, stamp, prepared }
    }

    pub fn of_control(record: Bytes, stamp: Option<ProducerStamp>, prepared: u64) -> Self {
        Self { rows: Vec::new(), control: Some(record), stamp, prepared }
    }
}

/// Waits until every control record through frame `through` is settled; false: it was not by `deadline`.
pub async fn wait_settled(log: &dyn WriteLog, through: u64, deadline: Instant) -> bool {
    let mut settled = log.settled();
    let waited = settled.wait_for(|settled| *settled >= through);
    matches!(tokio::time::timeout_at(deadline.into(), waited).await, Ok(Ok(_)))
}

/// Where a request is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub frame: u64,
    pub ingest_time: Micros,
    /// The request had been taken before, and this is where. Where that is so long ago that the
    /// answer was not kept, this names the oldest frame of the producer that is known still: what
    /// waits for it waits for the request too.
    pub already: bool,
}

/// Every frame with an ingest time at or before `time` has a number of at most `frame`, and every
/// later frame is stamped after `time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub frame: u64,
    pub time: Micros,
}

/// Why a request was not acknowledged. Except for [`AppendError::Closed`], nothing of it is or
/// ever will be in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the request takes {bytes} bytes in the log, {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the rows of a request must ascend by slot and ordinal, and a control record has none beside it")]
    Unordered,
    /// To be prepared again, and sent then.
    #[error("the request was prepared under {prepared}, and {required} is required by now")]
    Outdated { prepared: u64, required: u64 },
    #[error("sequence {sequence} of this producer was taken before with another payload")]
    SequenceReused { sequence: u64 },
    #[error("sequence {sequence} of this producer was never taken, and is lower than its last, {last}")]
    SequenceTooOld { sequence: u64, last: u64 },
    #[error("what producers have sent within the horizon takes {limit} bytes, and no more can be remembered")]
    TooManyProducers { limit: usize },
    #[error("too many requests wait for the log")]
    Overloaded { retry_after: Duration },
    #[error("no room is left on the disk of the log")]
    Full,
    #[error("the log can't be written: {0}")]
    Storage(Arc<io::Error>),
    /// The one case in which the request may have been taken or not.
    #[error("the log stopped before the request was acknowledged; it may have been taken")]
    Closed,
}

/// Why the log could not be opened, read or trimmed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("can't {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged at offset {offset}, in frame {frame}: {problem}; {way_out}", path.display())]
    Damaged { path: PathBuf, offset: u64, frame: u64, problem: String, way_out: String },
    #[error(
        "frames {first} to {last} are missing from the log in {}: restore the segment named {first:020}.seg and those \
         after it from a copy",
        directory.display()
    )]
    Missing { directory: PathBuf, first: u64, last: u64 },
    #[error(
        "{} {problem}, so it is not known how far store time had come; restore the file from a copy, or, if the clock \
         of this machine is right, put an empty file in its place",
        path.display()
    )]
    ClockLost { path: PathBuf, problem: &'static str },
    #[error(
        "{} {problem}, so it is not known which requests were taken before frame {oldest}; restore the file from a \
         copy, or put an empty file in its place and accept that such requests, if sent again, are taken again",
        path.display()
    )]
    ProducersLost { path: PathBuf, problem: String, oldest: u64 },
    #[error("the log begins at frame {oldest}; what came before was trimmed")]
    Trimmed { oldest: u64 },
    #[error("too many commands wait for the log")]
    Overloaded,
    #[error("the log has stopped")]
    Closed,
}
