//! Rows of a source as they come in, held to its definition: columns are found and cast, times resolved,
//! bad rows named. The same for what goes into the log and for what goes straight into history; nothing
//! here knows where rows go, and nothing is written.

mod bad_rows;
mod columns;
mod times;

pub use bad_rows::{BadRow, BadRows, MAX_NAMED};
pub use columns::{SourceColumns, source_of};
pub use times::{Latest, RowTimes, TimeColumn, resolve};

/// A batch column with this name deletes where it is true.
pub const DELETED_COLUMN: &str = "_deleted";
