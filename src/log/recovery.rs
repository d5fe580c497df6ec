//! The start of the log: every frame on disk is verified. What a write left that was cut short is
//! cut off; whatever else is wrong stops the start, because it can't be told apart from a loss of
//! what was acknowledged. Nothing is changed here but that one tail.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use hydrant_storage::files::Files;
use hydrant_storage::order::Micros;
use hydrant_storage::record::Frame;

use super::LogError;
use super::clock_file::ClockRecord;
use super::codec::{self, FrameError};
use super::segments::{RESTORE, Segment, segment_first, segment_path};

/// What was found.
#[derive(Debug, Default)]
pub struct Recovered {
    pub segments: Vec<Segment>,
    /// 0 if there is none.
    pub last_frame: u64,
    pub newest_ingest_time: Option<Micros>,
}

/// Verifies every frame in `directory` and hands it to `visit`, with its length. `known` is what
/// the clock file tells of the last run.
pub fn recover(
    files: &dyn Files,
    directory: &Path,
    known: ClockRecord,
    visit: &mut dyn FnMut(Frame, usize),
) -> Result<Recovered, LogError> {
    let firsts = list_segments(files, directory)?;
    let missing = |first, last| LogError::Missing { directory: directory.to_owned(), first, last };
    let newest = firsts.last().copied().unwrap_or(0);
    if newest < known.active_segment {
        return Err(missing(known.active_segment, known.durable_frame.max(known.active_segment)));
    }
    let mut recovered = Recovered::default();
    for first in firsts {
        let expected = recovered.last_frame + 1;
        if !recovered.segments.is_empty() && first > expected {
            return Err(missing(expected, first - 1));
        }
        let scan = SegmentScan { files, path: segment_path(directory, first), newest: first == newest, known };
        if !recovered.segments.is_empty() && first < expected {
            return Err(scan.damaged(0, first, "frames of that number are in the segment before too".to_owned()));
        }
        recovered.last_frame = first - 1;
        scan.run(first, &mut recovered, visit)?;
    }
    if recovered.last_frame < known.durable_frame {
        return Err(missing(recovered.last_frame + 1, known.durable_frame));
    }
    Ok(recovered)
}

struct SegmentScan<'a> {
    files: &'a dyn Files,
    path: PathBuf,
    newest: bool,
    known: ClockRecord,
}

impl SegmentScan<'_> {
    fn run(&self, first: u64, recovered: &mut Recovered, visit: &mut dyn FnMut(Frame, usize)) -> Result<(), LogError> {
        let bytes = Bytes::from(self.files.read(&self.path).map_err(|source| self.io("read", source))?);
        let mut rest = bytes.clone();
        let mut proven_len = 0;
        let mut segment = Segment::empty(first);
        while !rest.is_empty() {
            let number = segment.last + 1;
            let decoded = match codec::decode(&rest) {
                Ok(decoded) => decoded,
                Err(error) => {
                    self.judge_tail(&rest, segment.len, number, &error)?;
                    tracing::warn!(
                        path = %self.path.display(), offset = segment.len, bytes = rest.len(), frame = number,
                        problem = %error, "what a torn write left at the end of the log is cut off"
                    );
                    break;
                }
            };
            let Frame { number: found, ingest_time, .. } = decoded.frame;
            if found != number {
                return Err(self.damaged(segment.len, number, format!("it has the number {found}")));
            }
            if recovered.newest_ingest_time.is_some_and(|newest| ingest_time <= newest) {
                return Err(self.damaged(segment.len, number, "its ingest time is not after the last one".to_owned()));
            }
            recovered.newest_ingest_time = Some(ingest_time);
            recovered.last_frame = number;
            segment.push(decoded.len);
            rest = rest.slice(decoded.len..);
            if number <= self.known.durable_frame {
                proven_len = segment.len;
            }
            visit(decoded.frame, decoded.len);
        }
        if self.newest {
            self.make_durable(&bytes, proven_len, segment.len)?;
        }
        recovered.segments.push(segment);
        Ok(())
    }

    /// Whether what begins at `offset` can be what a write left that was cut short. Sectors of one
    /// write may reach the disk in any order, so frames behind a bad one prove nothing, unless they
    /// were written after the bad one had been synced.
    fn judge_tail(&self, tail: &[u8], offset: u64, number: u64, error: &FrameError) -> Result<(), LogError> {
        if let FrameError::Unknown { .. } = error {
            let way_out = "start the version of Hydrant that wrote it".to_owned();
            return Err(self.damaged_with(offset, number, error.to_string(), way_out));
        }
        // What is known to have been synced was not torn.
        if !self.newest || !error.may_be_torn() || number <= self.known.durable_frame {
            return Err(self.damaged(offset, number, error.to_string()));
        }
        let mut from = 0;
        while let Some(found) = codec::find_frame(&tail[from..], number) {
            if found.group_first > number {
                let problem = format!("{error}, and frame {} behind it is whole", found.number);
                return Err(self.damaged(offset, number, problem));
            }
            from += found.offset + found.len;
        }
        Ok(())
    }

    /// Cuts the segment off at `to`. The last run may have ended between a write, or a failed sync,
    /// and the next one: then its last frames, and a cut, are in the memory of this machine and
    /// perhaps nowhere else. They are about to be shown as durable, so they are written again.
    fn make_durable(&self, bytes: &[u8], from: u64, to: u64) -> Result<(), LogError> {
        let mut writer = self.files.open_append(&self.path).map_err(|source| self.io("open", source))?;
        writer.set_len(to).map_err(|source| self.io("cut off", source))?;
        // Both lie within the bytes that were read.
        let unproven = &bytes[from as usize..to as usize];
        if !unproven.is_empty() {
            writer.write_all_at(unproven, from).map_err(|source| self.io("write", source))?;
        }
        writer.sync().map_err(|source| self.io("sync", source))
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> LogError {
        LogError::Io { action, path: self.path.clone(), source }
    }

    fn damaged(&self, offset: u64, frame: u64, problem: String) -> LogError {
        self.damaged_with(offset, frame, problem, RESTORE.to_owned())
    }

    fn damaged_with(&self, offset: u64, frame: u64, problem: String, way_out: String) -> LogError {
        LogError::Damaged { path: self.path.clone(), offset, frame, problem, way_out }
    }
}

fn list_segments(files: &dyn Files, directory: &Path) -> Result<Vec<u64>, LogError> {
    let listed = files.list(directory);
    let entries = listed.map_err(|source| LogError::Io { action: "list", path: directory.to_owned(), source })?;
    let mut firsts: Vec<u64> = entries.iter().filter_map(|entry| segment_first(&entry.name)).collect();
    firsts.sort_unstable();
    Ok(firsts)
}
