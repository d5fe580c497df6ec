//! One object of a store as Parquet's reader wants it: bytes at offsets, fetched in ranges some megabytes
//! long, and kept while they are needed. Every answer has to be of the object that was looked at first.

use std::collections::VecDeque;
use std::io;
use std::iter::once;
use std::ops::Range;
use std::sync::Arc;
use std::sync::{Mutex, PoisonError, mpsc};

use bytes::{Buf as _, Bytes};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt as _};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use tokio::runtime::Handle;

use super::SourceError;

/// A row group of at most so many bytes is fetched as a whole, several ranges at a time.
const WHOLE_GROUP: u64 = 64 << 20;
/// Of larger ones, what all columns' ranges take together.
const AHEAD: u64 = 64 << 20;
const LONGEST_RANGE: u64 = 8 << 20;
const SHORTEST_RANGE: u64 = 256 << 10;
/// Of the end of a file, at first: most footers are shorter.
const TAIL: u64 = 256 << 10;
/// Ranges that are fetched at a time.
const FETCHES: usize = 8;
/// What is kept of a file's bytes; a row group, and a column's next range beside it.
const KEPT: usize = 96 << 20;

/// An object, as it was when it was looked at first.
#[derive(Clone, Debug)]
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
    location: String,
    size: u64,
    /// As the store gave it.
    e_tag: Option<String>,
    modified: i64,
}

impl Object {
    /// Looks at it; `None`: there is none.
    pub async fn look(
        store: Arc<dyn ObjectStore>,
        path: ObjectPath,
        location: String,
    ) -> Result<Option<Self>, SourceError> {
        match store.head(&path).await {
            Ok(meta) => {
                let (size, e_tag, modified) = (meta.size, meta.e_tag, meta.last_modified.timestamp_micros());
                Ok(Some(Self { store, path, location, size, e_tag, modified }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(SourceError::unreadable(&location, &error)),
        }
    }

    /// What tells it from any other object, and from what may be under its name later.
    pub fn identity(&self) -> String {
        let version = self.e_tag.as_ref().map(|e_tag| unquoted(e_tag));
        let version = version.unwrap_or_else(|| format!("modified {}", self.modified));
        format!("{}\0{}\0{version}", self.location, self.size)
    }

    async fn fetch(self, range: Range<u64>) -> Result<Bytes, SourceError> {
        // A weak tag matches nothing under If-Match; it is compared below all the same.
        let if_match = self.e_tag.clone().filter(|e_tag| !e_tag.starts_with("W/"));
        let options = GetOptions { range: Some(range.clone().into()), if_match, ..GetOptions::default() };
        let changed = || SourceError::Changed { location: self.location.clone() };
        let got = match self.store.get_opts(&self.path, options).await {
            Ok(got) => got,
            Err(object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }) => {
                return Err(changed());
            }
            Err(error) => return Err(SourceError::unreadable(&self.location, &error)),
        };
        let is_same = match (&self.e_tag, &got.meta.e_tag) {
            (Some(before), Some(now)) => unquoted(before) == unquoted(now),
            _ => self.modified == got.meta.last_modified.timestamp_micros(),
        };
        if !is_same || got.meta.size != self.size {
            return Err(changed());
        }
        let bytes = got.bytes().await.map_err(|error| SourceError::unreadable(&self.location, &error))?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(SourceError::unreadable(&self.location, &"a range of it came back shorter than it is"));
        }
        Ok(bytes)
    }
}

/// Some stores leave the quotation marks out here and there.
fn unquoted(e_tag: &str) -> String {
    e_tag.replace('"', "")
}

/// Reads an object from threads that may wait, while the runtime's threads fetch.
#[derive(Clone, Debug)]
pub(super) struct ObjectReader {
    object: Object,
    runtime: Handle,
    /// Row groups, each with its columns' ranges, ascending. None: only the end is read.
    groups: Arc<Vec<Vec<Range<u64>>>>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The oldest first; each with its offset in the file.
    pieces: VecDeque<(u64, Bytes)>,
    bytes: usize,
    /// Parquet's reader passes errors on as text, so the first one is told from here.
    failed: Option<SourceError>,
}

impl Kept {
    fn from(&self, start: u64) -> Option<Bytes> {
        self.pieces.iter().rev().find_map(|(offset, bytes)| {
            let within = usize::try_from(start.checked_sub(*offset)?).ok()?;
            (within < bytes.len()).then(|| bytes.slice(within..))
        })
    }

    fn keep(&mut self, offset: u64, bytes: Bytes) {
        self.bytes += bytes.len();
        self.pieces.push_back((offset, bytes));
        while self.bytes > KEPT && self.pieces.len() > 1 {
            let gone = self.pieces.pop_front().map_or(0, |(_, bytes)| bytes.len());
            self.bytes -= gone;
        }
    }
}

impl ObjectReader {
    pub fn new(object: Object, runtime: Handle) -> Self {
        Self { object, runtime, groups: Arc::default(), kept: Arc::default() }
    }

    /// What was wrong, where reading has failed.
    pub fn failed(&self) -> Option<SourceError> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).failed.clone()
    }

    /// For reading these row groups, of which the metadata tells where they are.
    pub fn of_groups(&self, metadata: &ParquetMetaData, groups: &[usize]) -> Result<Self, SourceError> {
        let mut ranges = Vec::with_capacity(groups.len());
        for group in groups {
            let mut columns = Vec::new();
            for column in metadata.row_group(*group).columns() {
                let (start, length) = column.byte_range();
                let end = start.checked_add(length).filter(|end| *end <= self.object.size);
                let end = end.ok_or_else(|| SourceError::NotParquet {
                    location: self.object.location.clone(),
                    told: "its footer names bytes beyond its end".to_owned(),
                })?;
                columns.push(start..end);
            }
            columns.sort_by_key(|range| range.start);
            ranges.push(columns);
        }
        Ok(Self { groups: Arc::new(ranges), ..self.clone() })
    }

    /// Bytes from an offset on, one at least, fetched where they are not kept; empty at the end.
    fn bytes_from(&self, start: u64, length: u64) -> Result<Bytes, SourceError> {
        if start >= self.object.size {
            return Ok(Bytes::new());
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = &kept.failed {
            return Err(failed.clone());
        }
        if let Some(bytes) = kept.from(start) {
            return Ok(bytes);
        }
        let ranges = self.worth_fetching(start, length);
        match self.fetch_all(ranges) {
            Ok(pieces) => {
                for (offset, bytes) in pieces {
                    kept.keep(offset, bytes);
                }
                kept.from(start).ok_or_else(|| SourceError::unreadable(&self.object.location, &"it ended early"))
            }
            Err(error) => {
                kept.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Ranges of which one has the bytes at `start`, that one last: it is what is wanted first.
    fn worth_fetching(&self, start: u64, length: u64) -> Vec<Range<u64>> {
        let group = self.groups.iter().find(|columns| columns.iter().any(|range| range.contains(&start)));
        let Some(columns) = group else {
            // The end of the file, or what lies between columns.
            let tail = self.object.size.saturating_sub(TAIL);
            if start >= tail {
                return once(tail..self.object.size).collect();
            }
            let end = start.saturating_add(length.max(SHORTEST_RANGE)).min(self.object.size);
            return once(start..end).collect();
        };
        let total: u64 = columns.iter().map(|range| range.end - range.start).sum();
        if total <= WHOLE_GROUP {
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for column in columns {
                match ranges.last_mut() {
                    // Columns lie side by side.
                    Some(last) if column.start <= last.end && last.end - last.start < LONGEST_RANGE => {
                        last.end = column.end.max(last.end);
                    }
                    _ => ranges.push(column.clone()),
                }
            }
            ranges.sort_by_key(|range| range.contains(&start));
            return ranges;
        }
        let of_one = (AHEAD / columns.len().max(1) as u64).clamp(SHORTEST_RANGE, LONGEST_RANGE).max(length);
        let column_end =
            columns.iter().find(|range| range.contains(&start)).map_or(self.object.size, |range| range.end);
        let end = start.saturating_add(of_one).min(column_end.max(start.saturating_add(length))).min(self.object.size);
        once(start..end).collect()
    }

    fn fetch_all(&self, ranges: Vec<Range<u64>>) -> Result<Vec<(u64, Bytes)>, SourceError> {
        let (done, fetched) = mpsc::sync_channel(1);
        let object = self.object.clone();
        self.runtime.spawn(async move {
            let fetches = futures::stream::iter(ranges).map(|range| {
                let (object, start) = (object.clone(), range.start);
                async move { object.fetch(range).await.map(|bytes| (start, bytes)) }
            });
            let fetched: Result<Vec<_>, _> = fetches.buffered(FETCHES).try_collect().await;
            // Whoever waited may have gone.
            let _ = done.send(fetched);
        });
        fetched.recv().unwrap_or_else(|_| Err(SourceError::unreadable(&self.object.location, &"reading it was ended")))
    }
}

fn to_parquet(error: SourceError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Length for ObjectReader {
    fn len(&self) -> u64 {
        self.object.size
    }
}

impl ChunkReader for ObjectReader {
    type T = Reading;

    fn get_read(&self, start: u64) -> Result<Reading, ParquetError> {
        Ok(Reading { reader: self.clone(), at: start, here: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let first = self.bytes_from(start, length as u64).map_err(to_parquet)?;
        if first.len() >= length {
            return Ok(first.slice(..length));
        }
        if start.saturating_add(length as u64) > self.object.size {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} lie beyond its end")));
        }
        let mut all = Vec::with_capacity(length);
        let mut next = first;
        while all.len() < length {
            let wanted = (length - all.len()).min(next.len());
            all.extend_from_slice(&next[..wanted]);
            if all.len() < length {
                let missing = (length - all.len()) as u64;
                next = self.bytes_from(start + all.len() as u64, missing).map_err(to_parquet)?;
                if next.is_empty() {
                    return Err(ParquetError::EOF("it ended early".to_owned()));
                }
            }
        }
        Ok(all.into())
    }
}

/// The bytes from an offset on.
#[derive(Debug)]
pub(super) struct Reading {
    reader: ObjectReader,
    at: u64,
    here: Bytes,
}

impl io::Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.here.is_empty() {
            let fetched = self.reader.bytes_from(self.at, buffer.len() as u64);
            self.here = fetched.map_err(|error| io::Error::other(error.to_string()))?;
        }
        let length = self.here.len().min(buffer.len());
        self.here.copy_to_slice(&mut buffer[..length]);
        self.at += length as u64;
        Ok(length)
    }
}
