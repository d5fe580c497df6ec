//! The audit log as it is read: newest records first, held to a filter, some at a time; and the whole of
//! it held to its checksums and its chain. It changes nothing, and takes what it reads for hostile.

use std::sync::Arc;

use hydrant_storage::files::Files;
use hydrant_storage::order::Micros;

use super::chain::{HEADER_BYTES, Head, Header, Segment};
use super::record::{Bad, Hash, Outcome, Record, hex};
use crate::error::{Code, Error, Result};

/// Segments that are read for one page at most: a filter that nothing passes must not read all.
const SEGMENTS_OF_A_PAGE: usize = 16;
/// Problems that are told one by one.
const MAX_PROBLEMS: usize = 100;

/// Which records are wanted. What is empty or absent holds of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub tenant: String,
    /// The first instant, in microseconds of store time.
    pub since: Option<Micros>,
    /// The first instant that is not wanted any more.
    pub until: Option<Micros>,
    pub caller: String,
    /// A part of the action, such as `Apply` or `QuotaService`.
    pub action: String,
    /// A part of one of the resources.
    pub resource: String,
    /// As [`Outcome::as_str`] tells it.
    pub outcome: String,
}

/// Some records, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub records: Vec<Record>,
    /// There may be more before this one.
    pub before: Option<u64>,
}

/// What verifying found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub records: u64,
    /// The oldest record that is kept; 0: there is none.
    pub first: u64,
    pub head: Head,
    pub problems: Vec<Problem>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub offset: u64,
    pub message: String,
}

/// Segments as they were at one moment.
#[derive(Clone, Debug)]
pub struct Reader {
    pub files: Arc<dyn Files>,
    pub segments: Vec<Segment>,
    pub head: Head,
}

impl Filter {
    fn takes(&self, record: &Record) -> bool {
        let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        let holds = |wanted: &str, found: &str| wanted.is_empty() || found.contains(wanted);
        is(&self.tenant, &record.tenant)
            && is(&self.caller, &record.caller)
            && is(&self.outcome, record.outcome.as_str())
            && holds(&self.action, &record.action)
            && (self.resource.is_empty() || record.resources.iter().any(|name| name.contains(&self.resource)))
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
    }
}

impl Reader {
    /// At most `limit` records before a number, the newest first. DATA_LOSS, naming the file, where it comes
    /// upon a bad one.
    pub fn list(&self, filter: &Filter, before: Option<u64>, limit: usize) -> Result<Page> {
        let before = before.unwrap_or(u64::MAX);
        let mut records = Vec::new();
        let mut segments = self.segments.iter().rev().filter(|segment| segment.first < before);
        for segment in segments.by_ref().take(SEGMENTS_OF_A_PAGE) {
            // All that lies further back is older.
            let is_last = filter.since.is_some_and(|since| segment.begun < since);
            for record in self.read(segment)?.into_iter().rev() {
                if record.sequence < before && filter.takes(&record) {
                    if records.len() == limit {
                        return Ok(Page { before: records.last().map(|last: &Record| last.sequence), records });
                    }
                    records.push(record);
                }
            }
            if is_last {
                return Ok(Page { records, before: None });
            }
        }
        // Where the reading stopped.
        let before = segments.next().map(|segment| segment.first).map(|_| self.stopped_before(before));
        Ok(Page { records, before })
    }

    /// The first record of the last segment that one page reads.
    fn stopped_before(&self, before: u64) -> u64 {
        let read = self.segments.iter().rev().filter(|segment| segment.first < before).take(SEGMENTS_OF_A_PAGE);
        read.last().map_or(1, |segment| segment.first)
    }

    fn read(&self, segment: &Segment) -> Result<Vec<Record>> {
        let bytes = self.bytes_of(segment)?;
        let mut records = Vec::new();
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            let (record, _, length) = Record::decode(&bytes[at..]).map_err(|bad| damaged(segment, at as u64, bad))?;
            records.push(record);
            at += length;
        }
        Ok(records)
    }

    fn bytes_of(&self, segment: &Segment) -> Result<Vec<u8>> {
        let length = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        self.files.read_range(&segment.path, 0, length).map_err(|error| {
            let message = format!("the audit log can't be read: {}: {error}", segment.path.display());
            Error::new(Code::Unavailable, "AUDIT_UNAVAILABLE", message)
        })
    }

    /// Holds every record to its checksum and to the one before. With a record that was noted elsewhere,
    /// holds that to its hash too.
    pub fn verify(&self, noted: Option<(u64, Hash)>) -> Verified {
        let first = self.segments.first().map_or(0, |segment| segment.first);
        let mut found = Verified { records: 0, first, head: self.head, problems: Vec::new() };
        // Unknown before the first segment, which says it.
        let (mut end, mut removed_through) = (None, 0);
        for segment in &self.segments {
            self.verify_segment(segment, &mut end, &mut removed_through, noted, &mut found);
        }
        if first > removed_through + 1 {
            let message = format!(
                "records {} to {} are not there, and no record says that they were removed",
                removed_through + 1,
                first - 1
            );
            found.tell(self.segments.first(), 0, message);
        }
        if let Some((sequence, _)) = noted.filter(|(sequence, _)| *sequence > self.head.sequence) {
            let message = format!("record {sequence} was noted elsewhere, and the log ends at {}", self.head.sequence);
            found.tell(self.segments.last(), 0, message);
        }
        found
    }

    fn verify_segment(
        &self,
        segment: &Segment,
        end: &mut Option<Head>,
        removed_through: &mut u64,
        noted: Option<(u64, Hash)>,
        found: &mut Verified,
    ) {
        let bytes = match self.bytes_of(segment) {
            Ok(bytes) => bytes,
            Err(error) => return found.tell(Some(segment), 0, error.message),
        };
        let Some(header) = Header::decode(&bytes) else {
            *end = None;
            return found.tell(Some(segment), 0, "its header is not what was written".to_owned());
        };
        let begins = Head { sequence: header.first - 1, hash: header.before };
        if end.is_some_and(|end| end != begins) {
            found.tell(Some(segment), 0, "it does not go on where the segment before ends".to_owned());
        }
        let mut head = begins;
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            match Record::decode_after(&bytes[at..], head.sequence, &head.hash) {
                Ok((record, hash, length)) => {
                    if let Outcome::Removed { through } = record.outcome {
                        *removed_through = (*removed_through).max(through);
                    }
                    if noted.is_some_and(|(sequence, noted)| sequence == record.sequence && noted != hash) {
                        let told = format!("record {} is not the one that was noted elsewhere", record.sequence);
                        found.tell(Some(segment), at as u64, told);
                    }
                    found.records += 1;
                    head = Head { sequence: record.sequence, hash };
                    at += length;
                }
                Err(bad) => {
                    // Where the next one begins can't be told.
                    *end = None;
                    return found.tell(Some(segment), at as u64, format!("after record {}: {bad}", head.sequence));
                }
            }
        }
        *end = Some(head);
    }
}

impl Verified {
    fn tell(&mut self, segment: Option<&Segment>, offset: u64, message: String) {
        let file = segment.map(|segment| segment.path.display().to_string()).unwrap_or_default();
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { file, offset, message });
        }
    }

    /// What is to be noted elsewhere, so that a log that is cut off is found out too.
    pub fn note(&self) -> String {
        format!("{}:{}", self.head.sequence, hex(&self.head.hash))
    }
}

fn damaged(segment: &Segment, offset: u64, bad: Bad) -> Error {
    let message = format!("the audit log is damaged: {} at byte {offset}: {bad}", segment.path.display());
    Error::new(Code::DataLoss, "AUDIT_DAMAGED", message)
        .hint("`hydrant audit verify` tells all that is wrong; what lies before and after can be read by its time (--since, --until)")
}
