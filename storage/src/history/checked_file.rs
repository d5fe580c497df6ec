//! A data file whose every byte is checked before it is used. While a file is written, each block
//! of its row groups is summed, and the sums go into the file's own metadata; the metadata and page
//! index at its end are summed into the table's log. So a flipped bit in a page, in a page's header
//! or in the footer is an error, which Parquet's own page checksum (not written by the parquet
//! crate as of 59, and silent on headers) can't promise.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use crc32fast::Hasher;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use crate::files::{FileWriter, Files};
use crate::history::HistoryError;
use crate::history::footers::{Footer, Footers};

/// The file's metadata key of the block sums: eight hexadecimal digits each, in order.
pub(crate) const BLOCK_SUMS: &str = "hydrant.block_crc32";
/// The metadata key of how many bytes a block has; files without it have [`OLDER_BLOCK_BYTES`].
pub(crate) const BLOCK_SIZE: &str = "hydrant.block_bytes";
/// A page of few rows is smaller, and all of its block is read for it.
pub(crate) const BLOCK_BYTES: usize = 1 << 14;
const OLDER_BLOCK_BYTES: usize = 1 << 16;
const MOST_BLOCK_BYTES: usize = 1 << 20;
/// Of a column that is read page after page so much is read at once at most.
pub(crate) const READ_AHEAD: usize = 1 << 18;

/// Where the end part of a file starts, and its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileEnd {
    /// The bytes before: the row groups.
    pub data_bytes: u64,
    pub crc32: u32,
}

/// Sums what goes into a file.
pub(crate) struct SummedWriter {
    file: Box<dyn FileWriter>,
    written: u64,
    blocks: Vec<u32>,
    block: Hasher,
    block_bytes: usize,
    end: Option<(u64, Hasher)>,
}

impl SummedWriter {
    pub fn new(file: Box<dyn FileWriter>) -> Self {
        Self { file, written: 0, blocks: Vec::new(), block: Hasher::new(), block_bytes: 0, end: None }
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    /// Ends the row groups; what is written from now on is the end part. The sums of all blocks.
    pub fn start_end(&mut self) -> String {
        if self.block_bytes > 0 {
            self.close_block();
        }
        self.end = Some((self.written, Hasher::new()));
        self.blocks.iter().map(|sum| format!("{sum:08x}")).collect()
    }

    /// Makes the content durable. Only after [`SummedWriter::start_end`].
    pub fn finish(mut self) -> io::Result<FileEnd> {
        self.file.flush()?;
        self.file.sync()?;
        let (data_bytes, end) = self.end.ok_or_else(|| io::Error::other("the end part was never started"))?;
        Ok(FileEnd { data_bytes, crc32: end.finalize() })
    }

    fn close_block(&mut self) {
        self.blocks.push(std::mem::take(&mut self.block).finalize());
        self.block_bytes = 0;
    }
}

impl Write for SummedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        let mut rest = &bytes[..written];
        if let Some((_, end)) = &mut self.end {
            end.update(rest);
            return Ok(written);
        }
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.block_bytes));
            self.block.update(now);
            self.block_bytes += now.len();
            if self.block_bytes == BLOCK_BYTES {
                self.close_block();
            }
            rest = later;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A data file, open for reading. Readers share it.
pub(crate) struct CheckedFile {
    files: Arc<dyn Files>,
    path: PathBuf,
    len: u64,
    data_bytes: u64,
    /// Empty once it has been read.
    end: Bytes,
    footer: Option<Arc<Footer>>,
    /// What was read ahead, by column.
    ahead: Mutex<HashMap<usize, Ahead>>,
    /// Why the last read failed: the parquet crate hands errors on as text.
    failure: Mutex<Option<HistoryError>>,
}

/// What a file's metadata says of its row groups' bytes.
pub(crate) struct Layout {
    block_bytes: usize,
    block_sums: Vec<u32>,
    /// Where each column's part of each row group begins and ends, ascending, and the column's number.
    chunks: Vec<(Range<u64>, usize)>,
}

/// Checked bytes of one column, of which all to a page's end have been asked for.
struct Ahead {
    start: u64,
    bytes: Bytes,
    asked_to: u64,
    /// How many bytes were asked for or read ahead the last time.
    reach: usize,
}

impl Layout {
    /// About the memory that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.block_sums.as_slice()) + size_of_val(self.chunks.as_slice())
    }

    fn of(metadata: &ArrowReaderMetadata, data_bytes: u64) -> Result<Self, String> {
        let block_bytes = block_bytes(metadata).ok_or("the size of its blocks can't be told")?;
        let block_sums =
            read_block_sums(metadata, data_bytes, block_bytes).ok_or("its block checksums are missing or too few")?;
        Ok(Self { block_bytes, block_sums, chunks: chunks(metadata.metadata())? })
    }
}

impl CheckedFile {
    /// Opens a file, checks its end part and reads what that says, unless that is known.
    pub fn open(
        files: &Arc<dyn Files>,
        path: PathBuf,
        len: u64,
        end: FileEnd,
        footers: &Footers,
    ) -> Result<(CheckedReader, Arc<Footer>), HistoryError> {
        let damaged = |offset, reason: String| HistoryError::DamagedPage { file: path.clone(), offset, reason };
        let end_bytes = len.checked_sub(end.data_bytes).and_then(|bytes| usize::try_from(bytes).ok());
        let end_bytes = end_bytes.ok_or_else(|| damaged(0, format!("it can't be {len} bytes long")))?;
        let found = files.len(&path).map_err(HistoryError::io(&path))?;
        if found != len {
            return Err(damaged(found.min(len), format!("it is {found} bytes long, not {len}")));
        }
        let file = |end_bytes: Bytes, footer: Option<Arc<Footer>>| {
            CheckedReader(Arc::new(Self {
                files: files.clone(),
                path: path.clone(),
                len,
                data_bytes: end.data_bytes,
                end: end_bytes,
                footer,
                ahead: Mutex::default(),
                failure: Mutex::new(None),
            }))
        };
        if let Some(known) = footers.get(&path) {
            return Ok((file(Bytes::new(), Some(known.clone())), known));
        }
        let read = files.read_range(&path, end.data_bytes, end_bytes).map_err(HistoryError::io(&path))?;
        if crc32fast::hash(&read) != end.crc32 {
            return Err(damaged(end.data_bytes, "the checksum of its footer doesn't match".to_owned()));
        }
        let reader = file(read.into(), None);
        let options =
            ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Required);
        let metadata = ArrowReaderMetadata::load(&reader, options).map_err(|error| reader.error(&error))?;
        let layout = Layout::of(&metadata, end.data_bytes).map_err(|reason| damaged(end.data_bytes, reason))?;
        let footer = Arc::new(Footer { metadata, layout });
        footers.keep(&path, &footer);
        Ok((file(Bytes::new(), Some(footer.clone())), footer))
    }

    /// Bytes of the row groups, checked. Pages of one column are mostly read one after the other, and
    /// are smaller than what is checked at once; so more of such a column is read than is asked for.
    fn read_checked(&self, start: u64, length: usize) -> Result<Bytes, HistoryError> {
        let stop = start + length as u64;
        let chunks = self.footer.as_ref().map(|footer| footer.layout.chunks.as_slice()).unwrap_or_default();
        let chunk = chunks.partition_point(|(chunk, _)| chunk.start <= start).checked_sub(1);
        let Some((chunk, column)) = chunk.map(|index| &chunks[index]).filter(|(chunk, _)| stop <= chunk.end) else {
            return self.read_blocks(start, length, stop);
        };
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let before = ahead.remove(column);
        let (mut now, reach) = match before {
            Some(before) if before.start <= start && stop <= before.start + before.bytes.len() as u64 => {
                let bytes = before.bytes.slice((start - before.start) as usize..);
                (bytes, before.reach)
            }
            Some(before) if before.asked_to == start => {
                let reach = (2 * before.reach).clamp(length, READ_AHEAD.max(length));
                let to_end = usize::try_from(chunk.end - start).unwrap_or(usize::MAX);
                (self.read_blocks(start, reach.min(to_end), chunk.end)?, reach)
            }
            _ => (self.read_blocks(start, length, chunk.end)?, length),
        };
        let asked = now.split_to(length);
        ahead.insert(*column, Ahead { start: stop, bytes: now, asked_to: stop, reach });
        Ok(asked)
    }

    /// At least `length` bytes, and what else of their blocks lies before `end`: it is read all the same.
    fn read_blocks(&self, start: u64, length: usize, end: u64) -> Result<Bytes, HistoryError> {
        let layout = self.footer.as_ref().map(|footer| &footer.layout);
        let layout = layout.ok_or_else(|| HistoryError::DamagedPage {
            file: self.path.clone(),
            offset: start,
            reason: "a part of it was asked for before its footer".to_owned(),
        })?;
        let block = layout.block_bytes as u64;
        let stop = start + length as u64;
        let (first, last) = (start / block, stop.div_ceil(block));
        let from = first * block;
        let to = (last * block).min(self.data_bytes);
        let read = usize::try_from(to - from)
            .map_err(io::Error::other)
            .and_then(|length| self.files.read_range(&self.path, from, length))
            .map_err(HistoryError::io(&self.path))?;
        for (index, bytes) in (first..).zip(read.chunks(layout.block_bytes)) {
            let expected = usize::try_from(index).ok().and_then(|index| layout.block_sums.get(index));
            if expected != Some(&crc32fast::hash(bytes)) {
                let reason = format!("the checksum of its block of {} bytes doesn't match", bytes.len());
                return Err(HistoryError::DamagedPage { file: self.path.clone(), offset: index * block, reason });
            }
        }
        let kept = (start - from) as usize..(to.min(end.max(stop)) - from) as usize;
        Ok(Bytes::from(read).slice(kept))
    }
}

/// Reads a checked file for the parquet crate; clones share the file.
#[derive(Clone)]
pub(crate) struct CheckedReader(Arc<CheckedFile>);

impl CheckedReader {
    /// Why reading failed: what this file saw first, or else what the parquet crate says of bytes
    /// whose checksums match, which can only be a bug or another writer's work.
    pub fn error(&self, error: &dyn std::fmt::Display) -> HistoryError {
        let seen = self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        seen.unwrap_or_else(|| self.damaged(error.to_string()))
    }

    pub fn damaged(&self, reason: String) -> HistoryError {
        HistoryError::DamagedPage { file: self.0.path.clone(), offset: 0, reason }
    }
}

impl Length for CheckedReader {
    fn len(&self) -> u64 {
        self.0.len
    }
}

impl ChunkReader for CheckedReader {
    type T = ChunkRead;

    fn get_read(&self, start: u64) -> Result<ChunkRead, ParquetError> {
        Ok(ChunkRead { reader: self.clone(), position: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let file = &self.0;
        let stop = start.checked_add(length as u64).filter(|stop| *stop <= file.len);
        let stop = stop.ok_or_else(|| ParquetError::EOF(format!("{length} bytes at {start} of {}", file.len)))?;
        if start >= file.data_bytes {
            let from = (start - file.data_bytes) as usize;
            let is_there = from.checked_add(length).is_some_and(|to| to <= file.end.len());
            let read_before = || ParquetError::General(format!("{length} bytes at {start} were read before"));
            return if is_there { Ok(file.end.slice(from..from + length)) } else { Err(read_before()) };
        }
        if stop > file.data_bytes {
            return Err(ParquetError::General(format!("{length} bytes at {start} are of two parts of the file")));
        }
        file.read_checked(start, length).map_err(|error| {
            let told = ParquetError::General(error.to_string());
            file.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            told
        })
    }
}

/// A stream of a file's bytes from a position, one block at a time.
pub(crate) struct ChunkRead {
    reader: CheckedReader,
    position: u64,
}

impl Read for ChunkRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = &self.reader.0;
        let part_end = if self.position < file.data_bytes { file.data_bytes } else { file.len };
        let available = usize::try_from(part_end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let length = buffer.len().min(available).min(READ_AHEAD);
        let bytes = self.reader.get_bytes(self.position, length).map_err(io::Error::other)?;
        buffer[..length].copy_from_slice(&bytes);
        self.position += length as u64;
        Ok(length)
    }
}

/// Where the columns' parts of the row groups lie, ascending.
fn chunks(metadata: &ParquetMetaData) -> Result<Vec<(Range<u64>, usize)>, String> {
    let mut chunks = Vec::new();
    for group in metadata.row_groups() {
        for (column, chunk) in group.columns().iter().enumerate() {
            let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            let bounds = u64::try_from(start).ok().zip(u64::try_from(chunk.compressed_size()).ok());
            let end = bounds.and_then(|(start, length)| Some(start..start.checked_add(length)?));
            chunks.push((end.ok_or_else(|| "a column lies outside of it".to_owned())?, column));
        }
    }
    chunks.sort_unstable_by_key(|(chunk, _)| chunk.start);
    Ok(chunks)
}

fn metadata_value<'a>(metadata: &'a ArrowReaderMetadata, key: &str) -> Option<&'a str> {
    let pairs = metadata.metadata().file_metadata().key_value_metadata()?;
    pairs.iter().find(|pair| pair.key == key)?.value.as_deref()
}

fn block_bytes(metadata: &ArrowReaderMetadata) -> Option<usize> {
    match metadata_value(metadata, BLOCK_SIZE) {
        None => Some(OLDER_BLOCK_BYTES),
        Some(text) => text.parse().ok().filter(|bytes| (1..=MOST_BLOCK_BYTES).contains(bytes)),
    }
}

fn read_block_sums(metadata: &ArrowReaderMetadata, data_bytes: u64, block_bytes: usize) -> Option<Vec<u32>> {
    let text = metadata_value(metadata, BLOCK_SUMS)?;
    if !text.is_ascii() || text.len() as u64 != data_bytes.div_ceil(block_bytes as u64) * 8 {
        return None;
    }
    (0..text.len()).step_by(8).map(|at| u32::from_str_radix(&text[at..at + 8], 16).ok()).collect()
}
