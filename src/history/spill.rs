//! What doesn't fit in memory: record batches appended to a file without a name, each read back by
//! itself. The file goes when it is dropped, and with the process at the latest. Nothing here
//! decides what to spill.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::RecordBatch;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{Schema, SchemaRef};

use super::failure::JoinError;
use super::metrics::HistoryMetrics;

/// Where one join spills, with a bound on what it may spill.
#[derive(Debug)]
pub struct SpillSpace {
    directory: PathBuf,
    limit: u64,
    used: AtomicU64,
    /// Of all joins.
    metrics: Arc<HistoryMetrics>,
}

/// An append-only file of record batches of any schema, made at its first use.
#[derive(Debug)]
pub struct SpillFile {
    space: Arc<SpillSpace>,
    file: Option<File>,
    length: u64,
}

/// Where a batch lies in its file.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    offset: u64,
    length: u32,
    crc: u32,
}

impl SpillSpace {
    /// At most `limit` bytes in `directory`, which must be there; they are counted in `metrics` too.
    pub fn new(directory: &Path, limit: u64, metrics: Arc<HistoryMetrics>) -> Arc<Self> {
        Arc::new(Self { directory: directory.to_owned(), limit, used: AtomicU64::new(0), metrics })
    }

    /// Of all joins.
    pub fn metrics(&self) -> &Arc<HistoryMetrics> {
        &self.metrics
    }

    /// Bytes that lie in its files now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.metrics.release_spilled(bytes);
    }

    fn charge(&self, bytes: u64) -> Result<(), JoinError> {
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(_) => {
                self.metrics.spill(bytes);
                Ok(())
            }
            Err(_) => Err(JoinError::SpillFull { limit: self.limit }),
        }
    }
}

impl SpillFile {
    pub fn new(space: &Arc<SpillSpace>) -> Self {
        Self { space: space.clone(), file: None, length: 0 }
    }

    /// An empty file in the same space.
    pub fn another(&self) -> Self {
        Self::new(&self.space)
    }

    pub fn append(&mut self, batch: &RecordBatch) -> Result<Chunk, JoinError> {
        let bytes = encode_batches(&batch.schema(), Some(batch))?;
        let length = u32::try_from(bytes.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a spilled batch is longer than 4 GiB"))?;
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.space.directory)?),
        };
        self.space.charge(u64::from(length))?;
        let chunk = Chunk { offset: self.length, length, crc: crc32fast::hash(&bytes) };
        self.length += u64::from(length);
        file.write_all(&bytes)?;
        Ok(chunk)
    }

    pub fn read(&self, chunk: &Chunk) -> Result<RecordBatch, JoinError> {
        let mut bytes = vec![0; chunk.length as usize];
        self.file.as_ref().ok_or(JoinError::DamagedSpill)?.read_exact_at(&mut bytes, chunk.offset)?;
        if crc32fast::hash(&bytes) != chunk.crc {
            return Err(JoinError::DamagedSpill);
        }
        decode_batch(&bytes)
    }

    /// Gives the disk space back; chunks of before can't be read any more.
    pub fn clear(&mut self) {
        if self.file.take().is_some() {
            self.space.release(self.length);
            self.length = 0;
        }
    }
}

/// A batch as bytes that stand for themselves, compressed; without one, the schema alone.
pub fn encode_batches(schema: &Schema, batch: Option<&RecordBatch>) -> Result<Vec<u8>, JoinError> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new_with_options(&mut bytes, schema, options)?;
    batch.map_or(Ok(()), |batch| writer.write(batch))?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// The batch that was encoded.
pub fn decode_batch(bytes: &[u8]) -> Result<RecordBatch, JoinError> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    reader.next().ok_or(JoinError::DamagedSpill)?.map_err(JoinError::from)
}

/// The schema of what was encoded.
pub fn decode_schema(bytes: &[u8]) -> Result<SchemaRef, JoinError> {
    Ok(StreamReader::try_new(bytes, None)?.schema())
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn spilled_batches_are_read_back_in_any_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let total = Arc::new(HistoryMetrics::default());
        let space = SpillSpace::new(directory.path(), 1 << 20, total.clone());
        let mut file = SpillFile::new(&space);
        let batch = |from: i64| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 10));
            RecordBatch::try_from_iter([("x", column)]).expect("a batch")
        };
        let chunks: Vec<Chunk> = (0..5).map(|n| file.append(&batch(n)).expect("written")).collect();
        for (n, chunk) in chunks.iter().enumerate().rev() {
            assert_eq!(file.read(chunk).expect("read"), batch(n as i64));
        }
        let wrong = Chunk { crc: chunks[0].crc ^ 1, ..chunks[0] };
        assert!(matches!(file.read(&wrong), Err(JoinError::DamagedSpill)));
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 0, "the file has no name");
        assert!(total.spilled_now() > 0);
        drop(file);
        assert_eq!(total.spilled_now(), 0);
        assert!(total.spilled.get() > 0);
    }

    #[test]
    fn spill_files_take_no_more_than_they_may() {
        let directory = tempfile::tempdir().expect("a directory");
        let space = SpillSpace::new(directory.path(), 2_000, Arc::default());
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
        let batch = RecordBatch::try_from_iter([("x", column)]).expect("a batch");
        let mut file = SpillFile::new(&space);
        let refused = (0..100).map(|_| file.append(&batch)).find_map(Result::err);
        assert!(matches!(refused, Some(JoinError::SpillFull { limit: 2_000 })), "{refused:?}");
    }
}
