//! The files of the log. A segment is named by its first frame and holds whole frames in order;
//! only the newest is written to. This module knows where frames are and reads them; it never
//! writes a frame.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hydrant_storage::files::{self, Files};
use hydrant_storage::record::SharedFrame;

use super::LogError;
use super::codec::{self, FrameError};

/// The way out of a damaged segment.
pub const RESTORE: &str = "restore the file from a copy, and start again";

/// The segments with the frames that are durable in them.
#[derive(Debug)]
pub struct Segments {
    files: Arc<dyn Files>,
    directory: PathBuf,
    /// Ascending, without gaps, never empty; the last is written to.
    known: Mutex<Vec<Segment>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first frame, or of the next one if it is empty.
    pub first: u64,
    /// The number of its last frame; `first - 1` if it is empty.
    pub last: u64,
    /// The bytes of its frames.
    pub len: u64,
    /// Frames and where they begin, one each [`MARK_DISTANCE`] bytes; the first is at 0.
    marks: Vec<(u64, u64)>,
}

impl Segment {
    pub fn empty(first: u64) -> Self {
        Self { first, last: first - 1, len: 0, marks: vec![(first, 0)] }
    }

    /// Adds the frame after the last one.
    pub fn push(&mut self, len: usize) {
        let number = self.last + 1;
        let far = self.marks.last().is_none_or(|(_, offset)| self.len - offset >= MARK_DISTANCE);
        if far {
            self.marks.push((number, self.len));
        }
        self.last = number;
        self.len += len as u64;
    }

    /// The last mark at or before a frame.
    fn mark(&self, number: u64) -> (u64, u64) {
        let behind = self.marks.partition_point(|(marked, _)| *marked <= number);
        self.marks.get(behind.saturating_sub(1)).copied().unwrap_or((self.first, 0))
    }
}

impl Segments {
    pub fn new(files: Arc<dyn Files>, directory: PathBuf, known: Vec<Segment>) -> Self {
        Self { files, directory, known: Mutex::new(known) }
    }

    /// The number of the oldest frame that is still here.
    pub fn oldest(&self) -> u64 {
        self.lock().first().map_or(1, |segment| segment.first)
    }

    /// The frames of these lengths were appended to the newest segment and are durable.
    pub fn extend(&self, lens: impl Iterator<Item = usize>) {
        let mut known = self.lock();
        if let Some(active) = known.last_mut() {
            lens.for_each(|len| active.push(len));
        }
    }

    /// A segment that begins with frame `first` is written to from now on.
    pub fn add(&self, first: u64) {
        self.lock().push(Segment::empty(first));
    }

    /// The frames after `after` and up to `through`, as many as fit in `max_bytes`, and at least one
    /// if there is one; each verified.
    pub fn read(&self, after: u64, through: u64, max_bytes: usize) -> Result<Vec<SharedFrame>, LogError> {
        let mut frames = Vec::new();
        let mut left = max_bytes;
        let mut next = after + 1;
        while next <= through {
            let Some((segment, mark)) = self.locate(next) else {
                return Err(LogError::Trimmed { oldest: self.oldest() });
            };
            let path = segment_path(&self.directory, segment.first);
            let mut reader = SegmentReader::new(&*self.files, path, mark, segment.len);
            while next <= segment.last.min(through) {
                let (frame, len) = match reader.next(left) {
                    Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                        return Err(LogError::Trimmed { oldest: self.oldest().max(segment.last + 1) });
                    }
                    result => result?,
                };
                if frame.number < next {
                    continue;
                }
                if !frames.is_empty() && len > left {
                    return Ok(frames);
                }
                left = left.saturating_sub(len);
                next = frame.number + 1;
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    /// The first and the last frame of each segment, and the bytes of its frames, in order; the last is
    /// written to.
    pub fn extents(&self) -> Vec<(u64, u64, u64)> {
        self.lock().iter().map(|segment| (segment.first, segment.last, segment.len)).collect()
    }

    /// Whether a segment can go if frames up to `through` are let go of.
    pub fn can_trim(&self, through: u64) -> bool {
        self.trimmable(through).is_some()
    }

    /// Removes the segments without frames after `through`, oldest first, except the one that is
    /// written to. Each removal is durable before the next, so that no crash leaves a gap.
    pub fn trim(&self, through: u64) -> Result<(), LogError> {
        while let Some(first) = self.trimmable(through) {
            let path = segment_path(&self.directory, first);
            let io = |action, path: &Path| {
                let path = path.to_owned();
                move |source| LogError::Io { action, path, source }
            };
            files::remove_if_there(&*self.files, &path).map_err(io("remove", &path))?;
            self.files.sync_dir(&self.directory).map_err(io("sync", &self.directory))?;
            self.lock().retain(|segment| segment.first != first);
        }
        Ok(())
    }

    fn trimmable(&self, through: u64) -> Option<u64> {
        match self.lock().as_slice() {
            [oldest, _, ..] if oldest.last <= through => Some(oldest.first),
            _ => None,
        }
    }

    /// The segment of a frame (without its marks), and the mark to read from.
    fn locate(&self, number: u64) -> Option<(Segment, (u64, u64))> {
        let known = self.lock();
        let behind = known.partition_point(|segment| segment.first <= number);
        let segment = known.get(behind.checked_sub(1)?).filter(|segment| number <= segment.last)?;
        let Segment { first, last, len, .. } = *segment;
        Some((Segment { first, last, len, marks: Vec::new() }, segment.mark(number)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The path of the segment that begins with frame `first`.
pub fn segment_path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:020}.seg"))
}

/// The first frame of a segment, by its file's name; `None` for another file.
pub fn segment_first(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".seg")?;
    let valid = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|first| valid && *first > 0)
}

const MARK_DISTANCE: u64 = 64 * 1024;
const SMALLEST_READ: usize = MARK_DISTANCE as usize;
const LARGEST_READ: usize = 4 * 1024 * 1024;

/// Reads a segment's frames one after the other, in pieces.
struct SegmentReader<'a> {
    files: &'a dyn Files,
    path: PathBuf,
    /// The number of the next frame, and where it begins.
    number: u64,
    offset: u64,
    end: u64,
    /// What was read from `offset` on.
    buffer: Bytes,
}

impl<'a> SegmentReader<'a> {
    fn new(files: &'a dyn Files, path: PathBuf, (number, offset): (u64, u64), end: u64) -> Self {
        Self { files, path, number, offset, end, buffer: Bytes::new() }
    }

    fn next(&mut self, wanted: usize) -> Result<(SharedFrame, usize), LogError> {
        let mut needed = wanted.clamp(SMALLEST_READ, LARGEST_READ);
        loop {
            let error = match codec::decode(&self.buffer) {
                Ok(decoded) if decoded.frame.number == self.number => {
                    self.number += 1;
                    self.offset += decoded.len as u64;
                    let _ = self.buffer.split_to(decoded.len);
                    return Ok((Arc::new(decoded.frame), decoded.len));
                }
                Ok(decoded) => return Err(self.damaged(format!("it has the number {}", decoded.frame.number))),
                Err(error) => error,
            };
            let FrameError::Incomplete { needed: whole, .. } = error else {
                return Err(self.damaged(error.to_string()));
            };
            let available = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
            needed = needed.max(whole).min(available);
            if needed <= self.buffer.len() || whole > available {
                return Err(self.damaged(error.to_string()));
            }
            let read = self.files.read_range(&self.path, self.offset, needed);
            self.buffer = match read {
                Ok(bytes) => bytes.into(),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.damaged("the file has become shorter".to_owned()));
                }
                Err(source) => return Err(LogError::Io { action: "read", path: self.path.clone(), source }),
            };
        }
    }

    fn damaged(&self, problem: String) -> LogError {
        LogError::Damaged {
            path: self.path.clone(),
            offset: self.offset,
            frame: self.number,
            problem,
            way_out: RESTORE.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_by_their_first_frame() {
        let path = segment_path(Path::new("/log"), 42);
        assert_eq!(path, Path::new("/log/00000000000000000042.seg"));
        assert_eq!(segment_first(path.file_name().expect("a name")), Some(42));
        for other in ["clock", "42.seg", "00000000000000000000.seg", "+0000000000000000042.seg", "producers.tmp"] {
            assert_eq!(segment_first(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_frame_is_searched_from_the_last_mark_before_it() {
        let mut segment = Segment::empty(10);
        (0..100).for_each(|_| segment.push(10_000));
        assert_eq!((segment.last, segment.len), (109, 1_000_000));
        assert_eq!(segment.mark(10), (10, 0));
        assert_eq!(segment.mark(16), (10, 0));
        assert_eq!(segment.mark(17), (17, 70_000));
        assert_eq!(segment.mark(109), (108, 980_000));
    }
}
