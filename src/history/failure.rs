//! What can go wrong inside a join, as its parts tell each other. Callers of the use case see
//! [`crate::error::Error`]; the mapping is here and nowhere else.

use std::io;

use arrow_schema::ArrowError;
use hydrant_storage::history::HistoryError;

use crate::error::{Code, Error};

/// The reason of work that ended since nobody waited for it.
pub const STOPPED: &str = "JOIN_STOPPED";

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("the spill directory can't be written or read: {0}")]
    Spill(#[from] io::Error),
    #[error("the training set takes more than the {limit} bytes of disk that one may")]
    SpillFull { limit: u64 },
    #[error("a spilled piece of the join doesn't read back as it was written")]
    DamagedSpill,
    #[error("history can't be read: {0}")]
    History(#[source] HistoryError),
    #[error("the columns don't fit together: {0}")]
    Arrow(#[from] ArrowError),
    #[error("nobody waits for the answer any more")]
    Stopped,
    /// The request is at fault.
    #[error("{0}")]
    Refused(Box<Error>),
}

impl From<HistoryError> for JoinError {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Run(source) => match source.downcast::<Self>() {
                Ok(error) => *error,
                Err(source) => Self::History(HistoryError::Run(source)),
            },
            other => Self::History(other),
        }
    }
}

impl JoinError {
    /// As a run of the join's own tells it; the conversion back gives the error as it was.
    pub fn in_run(self) -> HistoryError {
        HistoryError::Run(Box::new(self))
    }
}

impl From<Error> for JoinError {
    fn from(error: Error) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Self {
        let message = error.to_string();
        match error {
            JoinError::Refused(error) => *error,
            JoinError::Spill(source) if source.kind() == io::ErrorKind::StorageFull => {
                Self::new(Code::ResourceExhausted, "SPILL_DISK_FULL", message)
                    .hint("free space under the data directory's `spill`, or give the join more memory")
            }
            JoinError::SpillFull { limit } => Self::new(Code::ResourceExhausted, "SPILL_FULL", message)
                .with("limit", limit)
                .hint("ask with a shorter spine, or raise `history.max_spill`"),
            JoinError::DamagedSpill => Self::new(Code::DataLoss, "SPILL_DAMAGED", message)
                .hint("ask again; if it comes back, the disk of the spill directory is failing"),
            JoinError::History(source) => history_error(source),
            JoinError::Spill(_) => Self::new(Code::Unavailable, "SPILL_FAILED", message),
            JoinError::Stopped => Self::new(Code::Unavailable, STOPPED, message),
            JoinError::Arrow(_) => Self::internal(message),
        }
    }
}

/// What a caller is told when history can't be read.
pub fn history_error(error: HistoryError) -> Error {
    let message = format!("history can't be read: {error}");
    if error.is_damage() {
        return Error::new(Code::DataLoss, "HISTORY_DAMAGED", message);
    }
    if matches!(error, HistoryError::Erased { .. }) {
        return Error::new(Code::Aborted, "HISTORY_ERASED", message)
            .hint("a key was erased from history while it was read for longer than a minute; ask again");
    }
    Error::new(Code::Unavailable, "HISTORY_UNAVAILABLE", message)
}
