//! Erasing rows from the log: each segment that holds some is written anew, with these rows blanked and
//! everything else where it was, and takes the place of the old one. A crash leaves the old segment or the
//! new one. Which rows are meant is the caller's to say.

use std::sync::PoisonError;

use hydrant_storage::files;
use hydrant_storage::keys::OnlineKey;

use super::LogError;
use super::codec;
use super::local::LocalLog;
use super::segments::{RESTORE, segment_path};

/// What was blanked, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedFromLog {
    pub rows: u64,
    pub segments: u64,
}

impl LocalLog {
    /// Blanks the rows of frames up to `through` of which `is_erased` says so, by their names and frames;
    /// they are durably gone when it returns, and whoever reads the log afterwards doesn't get them. With
    /// `only_count` nothing is changed. It blocks; nothing is trimmed, and no backup takes the log, meanwhile.
    ///
    /// # Errors
    /// Segments that were done are done; the same call goes on with the others.
    pub fn erase(
        &self,
        through: u64,
        is_erased: &dyn Fn(&OnlineKey<'_>, u64) -> bool,
        only_count: bool,
    ) -> Result<ErasedFromLog, LogError> {
        let _no_trim = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let is_active = |segments: &[(u64, u64, u64)]| segments.last().is_some_and(|(first, ..)| *first <= through);
        if !only_count && is_active(&self.segments.extents()) {
            // Only what is closed is written anew.
            self.close_segment()?;
        }
        let mut erased = ErasedFromLog::default();
        let extents = self.segments.extents();
        let closed = if only_count { &extents[..] } else { &extents[..extents.len().saturating_sub(1)] };
        for (first, _, len) in closed.iter().filter(|(first, ..)| *first <= through) {
            let rows = self.erase_from(*first, *len, through, is_erased, only_count)?;
            erased.rows += rows;
            erased.segments += u64::from(rows > 0);
        }
        if !only_count {
            self.recent.clear();
        }
        Ok(erased)
    }

    fn erase_from(
        &self,
        first: u64,
        len: u64,
        through: u64,
        is_erased: &dyn Fn(&OnlineKey<'_>, u64) -> bool,
        only_count: bool,
    ) -> Result<u64, LogError> {
        let path = segment_path(&self.directory, first);
        let failed = |action| {
            let path = path.clone();
            move |source| LogError::Io { action, path, source }
        };
        // The newest may be written to behind what is known of it.
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut bytes = self.files.read_range(&path, 0, len).map_err(failed("read"))?;
        let (mut offset, mut frame, mut rows) = (0, first, 0);
        while offset < bytes.len() && frame <= through {
            let damaged = |error: codec::FrameError| LogError::Damaged {
                path: path.clone(),
                offset: offset as u64,
                frame,
                problem: error.to_string(),
                way_out: RESTORE.to_owned(),
            };
            let whole = codec::length(&bytes[offset..]).map_err(damaged)?;
            rows += codec::blank(&mut bytes[offset..offset + whole], is_erased).map_err(damaged)?;
            (offset, frame) = (offset + whole, frame + 1);
        }
        if rows > 0 && !only_count {
            files::replace(&*self.files, &path, &bytes).map_err(failed("replace"))?;
            tracing::info!(path = %path.display(), rows, "rows were erased from a segment of the log");
        }
        Ok(rows)
    }
}
