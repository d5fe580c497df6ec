//! The log while a backup is made of what is derived from it: nothing is let go of until that is over,
//! so that what was copied first finds the frames after it in what is copied last. Writes go on.

use std::sync::{MutexGuard, PoisonError};

use hydrant_storage::backup::{BackupError, BackupWriter};

use super::clock_file::{self, ClockFile, ClockRecord};
use super::local::{LocalLog, PRODUCERS_NAME};
use super::segments::segment_path;

/// A log of which no frame is let go of. Who wants to meanwhile waits.
#[derive(Debug)]
pub struct HeldLog<'a> {
    log: &'a LocalLog,
    _no_trim: MutexGuard<'a, ()>,
}

impl LocalLog {
    /// Holds every frame from now on; waits for a trim under way, and blocks for it.
    pub fn hold(&self) -> HeldLog<'_> {
        HeldLog { log: self, _no_trim: self.trimming.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl HeldLog<'_> {
    /// Puts all that is durable into a backup, below `directory`: whole frames, and store time as far
    /// as it may have been given out. Tells the newest frame.
    pub fn back_up(&self, backup: &mut BackupWriter<'_>, directory: &str) -> Result<u64, BackupError> {
        let log = self.log;
        let below = |name: &str| format!("{directory}/{name}");
        backup.link_if_there(&log.directory.join(PRODUCERS_NAME), &below(PRODUCERS_NAME))?;
        // What is closed is linked, so that little has to be copied while writers wait for the same disk.
        if let Err(error) = log.close_segment() {
            tracing::warn!(%error, "the log's newest segment is copied as a whole");
        }
        let extents = log.segments.extents();
        let (mut last_frame, mut active_segment) = (0, 0);
        for (index, (first, last, bytes)) in extents.iter().enumerate() {
            let path = segment_path(&log.directory, *first);
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The last may be written to, and a write that is not acknowledged yet is none of ours.
            if index + 1 < extents.len() {
                backup.link(&path, &below(&name))?;
            } else {
                backup.copy(&path, *bytes, &below(&name))?;
            }
            (last_frame, active_segment) = (*last, *first);
        }
        // Not as the log's own file has it: that may know of frames that came later. Its bound is taken
        // last, so that no instant that anything in the backup has seen lies beyond it.
        let record = ClockRecord { bound: log.time.bound(), durable_frame: last_frame, active_segment };
        backup.write(&below(clock_file::NAME), &ClockFile::bytes_of(&record))?;
        Ok(last_frame)
    }
}
