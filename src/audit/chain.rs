//! The files of the audit log: segments of records, each named by its first one, chained by their hashes
//! over all segments. Only the newest is written to; each record is durable before it is said to be
//! there. What is too old goes by whole segments, and a record says so before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrant_storage::files::{self, FileWriter, Files};
use hydrant_storage::order::Micros;

use super::queue::MAX_GROUP;
use super::record::{Bad, HASH_BYTES, HEAD_BYTES, Hash, MAX_PAYLOAD, Outcome, Record};

/// Begins every segment.
const MAGIC: &[u8; 8] = b"HYDRAUD1";
/// Magic, checksum, first sequence, instant of its beginning, hash of the record before.
pub const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + HASH_BYTES;
const EXTENSION: &str = "audit";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainOptions {
    /// A segment takes no more records once it has so many bytes.
    pub segment_bytes: u64,
    /// Microseconds that a record is kept at least.
    pub retention: Micros,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Of the last record; 0 before the first.
    pub sequence: u64,
    pub hash: Hash,
}

/// A segment as it was when it was asked for: bytes that come later are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub path: PathBuf,
    /// The sequence of its first record.
    pub first: u64,
    pub bytes: u64,
    /// Its records are not older.
    pub begun: Micros,
}

#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is damaged at byte {offset}: {detail}", path.display())]
    Damaged { path: PathBuf, offset: u64, detail: String },
    /// Nothing more is written: whether the last record is on disk is not known.
    #[error("whether the last record of the audit log is on disk is not known")]
    Uncertain,
}

/// The log, which has one writer.
pub struct Chain {
    files: Arc<dyn Files>,
    directory: PathBuf,
    options: ChainOptions,
    /// Ascending; the last is written to.
    segments: Vec<Segment>,
    writer: Option<Box<dyn FileWriter>>,
    head: Head,
    /// Of all that was written: records of one step needn't be in the order of their times.
    latest: Micros,
    is_uncertain: bool,
    /// What was cut off of the newest segment may still be on disk.
    is_cut: bool,
}

impl Chain {
    /// Finds what is there. A record that was not written to its end is cut off; a bad one before the last
    /// is [`ChainError::Damaged`]. Only the newest segment is read: the others when somebody asks for them.
    pub fn open(files: Arc<dyn Files>, directory: &Path, options: ChainOptions) -> Result<Self, ChainError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ChainError::Io { path, source }
        };
        files.create_dir_all(directory).map_err(at(directory))?;
        let mut found = Vec::new();
        for entry in files.list(directory).map_err(at(directory))? {
            let path = directory.join(&entry.name);
            let is_segment = path.extension().is_some_and(|extension| extension == EXTENSION);
            let first = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            if let (true, Some(first)) = (is_segment, first) {
                found.push((first, path, entry.metadata.len));
            }
        }
        found.sort();
        let mut chain = Self {
            files,
            directory: directory.to_owned(),
            options,
            segments: Vec::new(),
            writer: None,
            head: Head { sequence: 0, hash: [0; HASH_BYTES] },
            latest: Micros::MIN,
            is_uncertain: false,
            is_cut: false,
        };
        // A crash may have left the newest without a whole header: nothing was ever written to it.
        if let Some((_, path, bytes)) = found.last()
            && *bytes <= HEADER_BYTES as u64
            && chain.header_of(path, *bytes)?.is_none()
        {
            chain.files.remove(path).map_err(at(path))?;
            found.pop();
        }
        for (first, path, bytes) in found {
            let Some(header) = chain.header_of(&path, bytes)? else {
                return Err(damaged(&path, 0, "its header is not what was written"));
            };
            if header.first != first {
                return Err(damaged(&path, 0, "it has another name than it was given"));
            }
            chain.head = Head { sequence: first - 1, hash: header.before };
            chain.latest = chain.latest.max(header.begun);
            chain.segments.push(Segment { path, first, bytes, begun: header.begun });
        }
        chain.read_newest()?;
        chain.files.sync_dir(directory).map_err(at(directory))?;
        Ok(chain)
    }

    /// Where it ends.
    pub fn head(&self) -> Head {
        self.head
    }

    pub fn segments(&self) -> Vec<Segment> {
        self.segments.clone()
    }

    /// Makes a record durable under the next number, which it tells. After an error nothing is there of
    /// it, or nothing more is written ([`ChainError::Uncertain`]).
    pub fn append(&mut self, record: Record) -> Result<u64, ChainError> {
        self.append_all(vec![record])
    }

    /// As [`Self::append`], several in one step: all of them, or none. Tells the first one's number.
    pub fn append_all(&mut self, records: Vec<Record>) -> Result<u64, ChainError> {
        if self.is_uncertain {
            return Err(ChainError::Uncertain);
        }
        let Some(latest) = records.iter().map(|record| record.time).max() else { return Ok(self.head.sequence + 1) };
        self.latest = self.latest.max(latest);
        self.make_room(self.latest)?;
        let (mut bytes, mut head) = (Vec::new(), self.head);
        for (record, behind) in records.into_iter().zip(0..) {
            let record = Record { sequence: head.sequence + 1, behind, ..record.bounded() };
            let hash = record.encode(&head.hash, &mut bytes);
            head = Head { sequence: record.sequence, hash };
        }
        let (Some(segment), Some(writer)) = (self.segments.last_mut(), self.writer.as_mut()) else {
            return Err(ChainError::Uncertain);
        };
        if let Err(source) = writer.write_all(&bytes) {
            // Half a record must not stay in the middle.
            self.is_uncertain = writer.set_len(segment.bytes).is_err();
            self.is_cut = true;
            return Err(ChainError::Io { path: segment.path.clone(), source });
        }
        if let Err(source) = writer.sync() {
            tracing::error!(error = %source, "records of the audit log may or may not be on disk");
            self.is_uncertain = true;
            return Err(ChainError::Io { path: segment.path.clone(), source });
        }
        self.is_cut = false;
        segment.bytes += bytes.len() as u64;
        let first = self.head.sequence + 1;
        self.head = head;
        Ok(first)
    }

    /// Removes the segments of which every record is older than has to be kept.
    pub fn remove_old(&mut self, now: Micros) -> Result<(), ChainError> {
        let oldest = now.saturating_sub(self.options.retention);
        // A segment's records are not younger than the beginning of the next.
        let old = self.segments.windows(2).take_while(|pair| pair[1].begun < oldest).count();
        let Some(next) = self.segments.get(old).filter(|_| old > 0) else { return Ok(()) };
        let through = next.first - 1;
        self.append(own_record(now, Outcome::Removed { through }))?;
        for segment in self.segments.drain(..old).collect::<Vec<_>>() {
            let removed = files::remove_if_there(self.files.as_ref(), &segment.path);
            removed.map_err(|source| ChainError::Io { path: segment.path.clone(), source })?;
        }
        let synced = self.files.sync_dir(&self.directory);
        synced.map_err(|source| ChainError::Io { path: self.directory.clone(), source })
    }

    /// Whether there is something for [`Self::remove_old`].
    pub fn has_old(&self, now: Micros) -> bool {
        let oldest = now.saturating_sub(self.options.retention);
        self.segments.get(1).is_some_and(|second| second.begun < oldest)
    }

    /// Begins another segment where the newest is full, or holds records that are to go long before those
    /// to come.
    fn make_room(&mut self, now: Micros) -> Result<(), ChainError> {
        let is_full = self.segments.last().is_none_or(|segment| {
            let is_old = now.saturating_sub(segment.begun) > self.options.retention / 8;
            let is_empty = segment.bytes == HEADER_BYTES as u64;
            segment.bytes >= self.options.segment_bytes || (is_old && !is_empty)
        });
        if !is_full && self.writer.is_some() {
            return Ok(());
        }
        if !is_full {
            let Some(segment) = self.segments.last() else { return Err(ChainError::Uncertain) };
            let opened = self.files.open_append(&segment.path);
            self.writer = Some(opened.map_err(|source| ChainError::Io { path: segment.path.clone(), source })?);
            return Ok(());
        }
        if let (true, Some(writer), Some(segment)) = (self.is_cut, self.writer.as_mut(), self.segments.last()) {
            // Nobody looks for a torn end but in the newest.
            writer.sync().map_err(|source| ChainError::Io { path: segment.path.clone(), source })?;
            self.is_cut = false;
        }
        let first = self.head.sequence + 1;
        let path = self.directory.join(format!("{first:020}.{EXTENSION}"));
        let header = Header { first, begun: now, before: self.head.hash };
        let begin = || -> io::Result<Box<dyn FileWriter>> {
            // What a failed beginning has left has no record.
            files::remove_if_there(self.files.as_ref(), &path)?;
            let mut writer = self.files.create_new(&path)?;
            writer.write_all(&header.encode())?;
            writer.sync()?;
            self.files.sync_dir(&self.directory)?;
            Ok(writer)
        };
        let writer = begin().map_err(|source| ChainError::Io { path: path.clone(), source })?;
        self.segments.push(Segment { path, first, bytes: HEADER_BYTES as u64, begun: now });
        self.writer = Some(writer);
        Ok(())
    }

    /// `None`: it has no whole header.
    fn header_of(&self, path: &Path, bytes: u64) -> Result<Option<Header>, ChainError> {
        let length = HEADER_BYTES.min(usize::try_from(bytes).unwrap_or(HEADER_BYTES));
        let read = self.files.read_range(path, 0, length);
        let read = read.map_err(|source| ChainError::Io { path: path.to_owned(), source })?;
        Ok(Header::decode(&read))
    }

    /// Finds the head, and cuts off what was not written to its end.
    fn read_newest(&mut self) -> Result<(), ChainError> {
        let Some(segment) = self.segments.last_mut() else { return Ok(()) };
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| ChainError::Io { path, source }
        };
        let bytes = self.files.read(&segment.path).map_err(io(&segment.path))?;
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            match Record::decode_after(&bytes[at..], self.head.sequence, &self.head.hash) {
                Ok((record, hash, length)) => {
                    self.head = Head { sequence: record.sequence, hash };
                    self.latest = self.latest.max(record.time);
                    at += length;
                }
                Err(bad) if is_torn(&bytes[at..], bad, self.head.sequence + 1) => {
                    tracing::warn!(file = %segment.path.display(), bytes = bytes.len() - at,
                        "the last records of the audit log were not written to their end, and are cut off");
                    let mut writer = self.files.open_append(&segment.path).map_err(io(&segment.path))?;
                    let cut = writer.set_len(at as u64).and_then(|()| writer.sync());
                    cut.map_err(io(&segment.path))?;
                    break;
                }
                Err(bad) => return Err(damaged(&segment.path, at as u64, &bad.to_string())),
            }
        }
        segment.bytes = at as u64;
        Ok(())
    }
}

/// Whether the bytes at the end may be of a step that was not written to its end: no more than one has,
/// with no whole record behind where they begin but of a step that began no later. `sequence` is that of the
/// record that they begin with.
fn is_torn(bytes: &[u8], bad: Bad, sequence: u64) -> bool {
    if bytes.len() > MAX_GROUP * (HEAD_BYTES + MAX_PAYLOAD) || matches!(bad, Bad::Chain | Bad::Sequence | Bad::Content)
    {
        return false;
    }
    let is_of_step = |record: &Record| {
        record.sequence > sequence && record.sequence - record.behind.min(record.sequence) <= sequence
    };
    (1..bytes.len()).all(|at| Record::decode(&bytes[at..]).map_or(true, |(record, ..)| is_of_step(&record)))
}

/// A record of the log about itself.
pub fn own_record(now: Micros, outcome: Outcome) -> Record {
    Record {
        sequence: 0,
        time: now,
        tenant: String::new(),
        caller: "hydrant".to_owned(),
        peer: String::new(),
        action: "audit".to_owned(),
        resources: Vec::new(),
        trace: String::new(),
        behind: 0,
        outcome,
    }
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub first: u64,
    pub begun: Micros,
    /// The hash of the record before its first.
    pub before: Hash,
}

impl Header {
    fn encode(self) -> Vec<u8> {
        let mut content = Vec::with_capacity(HEADER_BYTES);
        content.extend_from_slice(&self.first.to_le_bytes());
        content.extend_from_slice(&self.begun.to_le_bytes());
        content.extend_from_slice(&self.before);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
        bytes.extend_from_slice(&content);
        bytes
    }

    /// `None`: the bytes are no header, or not what was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let content = bytes.get(..HEADER_BYTES)?.strip_prefix(MAGIC)?;
        let (sum, content) = content.split_first_chunk::<4>()?;
        if crc32fast::hash(content) != u32::from_le_bytes(*sum) {
            return None;
        }
        let (first, rest) = content.split_first_chunk::<8>()?;
        let (begun, rest) = rest.split_first_chunk::<8>()?;
        let header = Self {
            first: u64::from_le_bytes(*first),
            begun: Micros::from_le_bytes(*begun),
            before: *rest.first_chunk::<HASH_BYTES>()?,
        };
        (header.first > 0).then_some(header)
    }
}

fn damaged(path: &Path, offset: u64, detail: &str) -> ChainError {
    ChainError::Damaged { path: path.to_owned(), offset, detail: detail.to_owned() }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Chain").field("head", &self.head.sequence).finish_non_exhaustive()
    }
}
