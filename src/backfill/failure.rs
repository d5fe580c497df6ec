//! What can go wrong with the files of a backfill, as its caller is told.

use std::io;
use std::path::Path;

use hydrant_storage::files::is_out_of_space;
use hydrant_storage::history::HistoryError;

use crate::error::{Code, Error};

pub(super) fn disk_error(path: &Path, error: &io::Error) -> Error {
    told(format!("{}: {error}", path.display()), is_out_of_space(error))
}

pub(super) fn staging_error(error: &HistoryError) -> Error {
    let message = error.to_string();
    match error {
        HistoryError::GivenUp => stopped(),
        HistoryError::Io { source, .. } => told(message, is_out_of_space(source)),
        error if error.is_damage() => Error::new(Code::DataLoss, "BACKFILL_FAILED", message)
            .hint("run the same command again: what was staged is not used any more"),
        _ => told(message, false),
    }
}

pub(super) fn stopped() -> Error {
    Error::new(Code::Unavailable, STOPPED, "the backfill was stopped before it was taken in").hint(GO_ON)
}

/// The reason.
pub(super) const STOPPED: &str = "BACKFILL_STOPPED";

const GO_ON: &str = "run the same command again: it goes on where it was, and takes no row twice";

fn told(message: String, is_full: bool) -> Error {
    if is_full {
        let hint =
            "free space on the disk of the data directory, and run the same command again: it goes on where it was";
        return Error::new(Code::ResourceExhausted, "BACKFILL_DISK_FULL", message).hint(hint);
    }
    Error::new(Code::Unavailable, "BACKFILL_FAILED", message).hint(GO_ON)
}
