//! Whether the parts of a data directory belong together, as far as that shows before anything is
//! served. What doesn't is refused with the way out: serving it could answer wrong values, or give
//! new rows the places of old ones. Partitions that are ahead of their log are parked by themselves.

use std::path::Path;

use super::data_dir::DataDir;
use crate::error::{Code, Error, Result};

/// Without definitions nothing can be written, so data without them have lost theirs: new ones would
/// give their ids to other views.
pub(super) fn no_data_without_definitions(directory: &DataDir, log_end: u64) -> Result<()> {
    let found = if log_end > 0 {
        format!("the log holds {log_end} requests")
    } else if has_entries(&directory.partitions())? {
        format!("'{}' holds partitions", directory.partitions().display())
    } else if has_entries(&directory.history())? {
        format!("'{}' holds tables", directory.history().display())
    } else {
        return Ok(());
    };
    let registry = directory.registry();
    let message = format!("there are no definitions in '{}', and {found}: they were lost", registry.display());
    let hint = format!(
        "put back '{}' from a copy of this data directory; or begin with an empty data directory, apply the definitions \
         and send the rows again",
        registry.display()
    );
    Err(Error::new(Code::FailedPrecondition, "DEFINITIONS_LOST", message).hint(hint))
}

/// Frames of a log that was lost are numbered anew, and history would take them for landed.
pub(super) fn history_within_log(landed: u64, log_end: u64) -> Result<()> {
    if landed <= log_end {
        return Ok(());
    }
    let message = format!("history holds rows of frame {landed}, and the log ends at frame {log_end}");
    Err(Error::new(Code::FailedPrecondition, "LOG_BEHIND_HISTORY", message).hint(
        "the log was lost or is an older copy: put back the `log` that belongs to this `history`, or begin with an empty \
         data directory, apply the definitions and send the rows again",
    ))
}

fn has_entries(directory: &Path) -> Result<bool> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::internal(format!("'{}' can't be read: {error}", directory.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_ahead_of_the_log_is_refused_with_the_way_out() {
        assert!(history_within_log(7, 7).is_ok());
        let refused = history_within_log(8, 7).expect_err("frame 8 is lost");
        assert_eq!(refused.reason, "LOG_BEHIND_HISTORY");
        assert!(refused.hint.expect("a way out").contains("put back the `log`"));
    }

    #[test]
    fn data_without_definitions_are_refused_and_an_empty_directory_is_not() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let directory = DataDir::open(place.path()).expect("free");
        assert!(no_data_without_definitions(&directory, 0).is_ok());
        let reason = |log_end| no_data_without_definitions(&directory, log_end).expect_err("data").message;
        assert!(reason(3).contains("3 requests"));
        for lost in [directory.history(), directory.partitions()] {
            std::fs::create_dir_all(lost.join("0")).expect("made");
            assert!(reason(0).contains(&*lost.to_string_lossy()));
        }
    }
}
