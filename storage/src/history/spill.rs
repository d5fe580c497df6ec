//! Spill files: what a join puts outside memory, as Arrow IPC (lz4) in the spill directory. A file
//! is gone when its last handle is dropped, whatever the directory holds is gone at the next start,
//! and nothing here is ever synced or read by another process.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as AtomicOrdering};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{BinaryArray, RecordBatch, UInt32Array};
use arrow_buffer::ScalarBuffer;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType as ArrowType, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;

use crate::history::HistoryError;

/// The directory for spill files, with a bound on what lies in it.
#[derive(Debug)]
pub struct SpillDirectory {
    path: PathBuf,
    limit: u64,
    used: AtomicU64,
    next_file: AtomicU64,
}

impl SpillDirectory {
    /// Takes the directory over: makes it if need be, and removes whatever an earlier process left.
    pub fn open(path: impl Into<PathBuf>, limit_bytes: u64) -> Result<Arc<Self>, HistoryError> {
        let path = path.into();
        match fs::remove_dir_all(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(HistoryError::Io { path, source: error }),
        }
        fs::create_dir_all(&path).map_err(HistoryError::io(&path))?;
        Ok(Arc::new(Self { path, limit: limit_bytes, used: AtomicU64::new(0), next_file: AtomicU64::new(0) }))
    }

    /// The bytes that lie in spill files now.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(AtomicOrdering::Relaxed)
    }

    /// A new spill file for batches of one schema.
    pub fn create(self: &Arc<Self>, schema: &SchemaRef) -> Result<SpillWriter, HistoryError> {
        let number = self.next_file.fetch_add(1, AtomicOrdering::Relaxed);
        let path = self.path.join(format!("{number:012}.arrow"));
        let file = File::create_new(&path).map_err(HistoryError::io(&path))?;
        let handle = SpillHandle { directory: self.clone(), path: path.clone(), charged: AtomicU64::new(0) };
        let counted = CountedFile { file: BufWriter::with_capacity(1 << 16, file), written: 0 };
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let writer = StreamWriter::try_new_with_options(counted, schema, options)?;
        Ok(SpillWriter { writer, handle, schema: schema.clone(), rows: 0 })
    }

    fn charge(&self, bytes: u64) -> Result<(), HistoryError> {
        let within = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(AtomicOrdering::Relaxed, AtomicOrdering::Relaxed, within) {
            Ok(_) => Ok(()),
            Err(_) => Err(HistoryError::SpillFull { wanted: bytes, limit: self.limit }),
        }
    }
}

/// A spill file that is being written. Dropped before [`SpillWriter::finish`], it is gone.
pub struct SpillWriter {
    writer: StreamWriter<CountedFile>,
    handle: SpillHandle,
    schema: SchemaRef,
    rows: u64,
}

impl SpillWriter {
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), HistoryError> {
        self.writer.write(batch).map_err(|error| self.handle.error(error))?;
        self.rows += batch.num_rows() as u64;
        self.handle.charge_up_to(self.writer.get_ref().written)
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn finish(mut self) -> Result<SpillFile, HistoryError> {
        self.writer.finish().map_err(|error| self.handle.error(error))?;
        self.writer.get_mut().flush().map_err(HistoryError::io(&self.handle.path))?;
        self.handle.charge_up_to(self.writer.get_ref().written)?;
        Ok(SpillFile { handle: Arc::new(self.handle), schema: self.schema, rows: self.rows })
    }
}

/// A written spill file; clones share it, and it is deleted with the last of them and of its readers.
#[derive(Clone, Debug)]
pub struct SpillFile {
    handle: Arc<SpillHandle>,
    schema: SchemaRef,
    rows: u64,
}

impl SpillFile {
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn bytes(&self) -> u64 {
        self.handle.charged.load(AtomicOrdering::Relaxed)
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The batches as they were written, from the first.
    pub fn read(&self) -> Result<SpillReader, HistoryError> {
        let file = File::open(&self.handle.path).map_err(HistoryError::io(&self.handle.path))?;
        let reader = StreamReader::try_new(BufReader::with_capacity(1 << 16, file), None)
            .map_err(|error| self.handle.error(error))?;
        Ok(SpillReader { reader, handle: self.handle.clone() })
    }
}

/// Reads a spill file, one batch in memory at a time.
pub struct SpillReader {
    reader: StreamReader<BufReader<File>>,
    handle: Arc<SpillHandle>,
}

impl Iterator for SpillReader {
    type Item = Result<RecordBatch, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.next().map(|batch| batch.map_err(|error| self.handle.error(error)))
    }
}

/// Sorts more rows than memory holds: ascending by the first columns of the schema, which must be
/// uint16, uint32, uint64, int64 or binary (compared bytewise) without nulls. Rows that are equal in
/// all of these may come in any order.
pub struct ExternalSorter {
    directory: Arc<SpillDirectory>,
    schema: SchemaRef,
    sort_columns: usize,
    memory_bytes: usize,
    buffered: Vec<RecordBatch>,
    buffered_bytes: usize,
    runs: Vec<SpillFile>,
}

impl ExternalSorter {
    /// How many spill files are merged at once; more are merged in several passes.
    const FAN_IN: usize = 32;
    /// The rows of a batch that is handed out or spilled, at most.
    const BATCH_ROWS: usize = 8_192;

    /// A sorter that keeps about `memory_bytes` in memory at most, batches handed to it included.
    pub fn new(
        directory: Arc<SpillDirectory>,
        schema: SchemaRef,
        sort_columns: usize,
        memory_bytes: usize,
    ) -> Result<Self, HistoryError> {
        for field in &schema.fields()[..sort_columns] {
            let sortable = matches!(
                field.data_type(),
                ArrowType::UInt16 | ArrowType::UInt32 | ArrowType::UInt64 | ArrowType::Int64 | ArrowType::Binary
            );
            if !sortable {
                return Err(HistoryError::Encoding(format!("can't sort by {} {}", field.data_type(), field.name())));
            }
        }
        let (buffered, runs) = (Vec::new(), Vec::new());
        Ok(Self { directory, schema, sort_columns, memory_bytes, buffered, buffered_bytes: 0, runs })
    }

    pub fn push(&mut self, batch: RecordBatch) -> Result<(), HistoryError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.buffered_bytes += batch.get_array_memory_size();
        self.buffered.push(batch);
        // Sorting takes the rows twice more: joined, and in their new order.
        if self.buffered_bytes >= self.memory_bytes / 3 { self.spill_buffered() } else { Ok(()) }
    }

    /// All rows pushed, in order, in batches.
    pub fn finish(mut self) -> Result<SortedBatches, HistoryError> {
        if self.runs.is_empty() {
            let sorted = self.sort_buffered()?;
            return Ok(SortedBatches::InMemory { sorted, next_row: 0 });
        }
        self.spill_buffered()?;
        while self.runs.len() > Self::FAN_IN {
            let merged: Vec<SpillFile> = self.runs.drain(..Self::FAN_IN).collect();
            let mut writer = self.directory.create(&self.schema)?;
            for batch in MergedSpills::new(merged, self.sort_columns)? {
                writer.write(&batch?)?;
            }
            self.runs.push(writer.finish()?);
        }
        Ok(SortedBatches::Spilled(MergedSpills::new(self.runs, self.sort_columns)?))
    }

    fn spill_buffered(&mut self) -> Result<(), HistoryError> {
        if self.buffered.is_empty() {
            return Ok(());
        }
        let bytes_per_row = self.buffered_bytes / self.buffered.iter().map(RecordBatch::num_rows).sum::<usize>().max(1);
        let sorted = self.sort_buffered()?;
        // One batch of each file is in memory while files are merged.
        let batch_bytes = self.memory_bytes / (2 * Self::FAN_IN);
        let batch_rows = (batch_bytes / bytes_per_row.max(1)).clamp(64, Self::BATCH_ROWS);
        let mut writer = self.directory.create(&self.schema)?;
        for from in (0..sorted.num_rows()).step_by(batch_rows) {
            writer.write(&sorted.slice(from, batch_rows.min(sorted.num_rows() - from)))?;
        }
        self.runs.push(writer.finish()?);
        Ok(())
    }

    fn sort_buffered(&mut self) -> Result<RecordBatch, HistoryError> {
        let joined = concat_batches(&self.schema, &self.buffered)?;
        self.buffered.clear();
        self.buffered_bytes = 0;
        let keys = SortKeys::new(&joined, self.sort_columns)?;
        let rows = u32::try_from(joined.num_rows())
            .map_err(|_| HistoryError::Encoding("more than 2^32 rows in one sort buffer".to_owned()))?;
        let mut order: Vec<u32> = (0..rows).collect();
        order.sort_unstable_by(|left, right| keys.compare(*left as usize, &keys, *right as usize));
        Ok(take_record_batch(&joined, &UInt32Array::from(order))?)
    }
}

/// The rows of a sorter, in order.
pub enum SortedBatches {
    InMemory { sorted: RecordBatch, next_row: usize },
    Spilled(MergedSpills),
}

impl Iterator for SortedBatches {
    type Item = Result<RecordBatch, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::InMemory { sorted, next_row } => {
                let rows = ExternalSorter::BATCH_ROWS.min(sorted.num_rows() - *next_row);
                let batch = (rows > 0).then(|| sorted.slice(*next_row, rows));
                *next_row += rows;
                batch.map(Ok)
            }
            Self::Spilled(merged) => merged.next(),
        }
    }
}

/// The merge of sorted spill files.
pub struct MergedSpills {
    /// The runs that aren't at their end; their number is small, so the least is found by looking.
    heads: Vec<SpillHead>,
    sort_columns: usize,
}

struct SpillHead {
    reader: SpillReader,
    batch: RecordBatch,
    keys: SortKeys,
    row: usize,
}

impl MergedSpills {
    fn new(files: Vec<SpillFile>, sort_columns: usize) -> Result<Self, HistoryError> {
        let mut heads = Vec::with_capacity(files.len());
        for file in files {
            let mut reader = file.read()?;
            if let Some(batch) = reader.next().transpose()? {
                let keys = SortKeys::new(&batch, sort_columns)?;
                heads.push(SpillHead { reader, batch, keys, row: 0 });
            }
        }
        Ok(Self { heads, sort_columns })
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, HistoryError> {
        if self.heads.is_empty() {
            return Ok(None);
        }
        // The batches that rows are taken from, by the head they came from; a head that goes on to
        // its next batch leaves the old one here until the rows are put together.
        let mut sources: Vec<RecordBatch> = self.heads.iter().map(|head| head.batch.clone()).collect();
        let mut source_of: Vec<usize> = (0..self.heads.len()).collect();
        let mut picked = Vec::with_capacity(ExternalSorter::BATCH_ROWS);
        while picked.len() < ExternalSorter::BATCH_ROWS {
            let Some(least) = self.least() else { break };
            let head = &mut self.heads[least];
            picked.push((source_of[least], head.row));
            head.row += 1;
            if head.row < head.batch.num_rows() {
                continue;
            }
            match head.reader.next().transpose()? {
                Some(batch) => {
                    head.keys = SortKeys::new(&batch, self.sort_columns)?;
                    head.row = 0;
                    source_of[least] = sources.len();
                    sources.push(batch.clone());
                    head.batch = batch;
                }
                None => {
                    self.heads.swap_remove(least);
                    source_of.swap_remove(least);
                }
            }
        }
        let sources: Vec<&RecordBatch> = sources.iter().collect();
        Ok(Some(interleave_record_batch(&sources, &picked)?))
    }

    fn least(&self) -> Option<usize> {
        let compare = |left: &usize, right: &usize| {
            let (left, right) = (&self.heads[*left], &self.heads[*right]);
            left.keys.compare(left.row, &right.keys, right.row)
        };
        (0..self.heads.len()).min_by(compare)
    }
}

impl Iterator for MergedSpills {
    type Item = Result<RecordBatch, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

/// The sort columns of a batch, ready to be compared.
struct SortKeys(Vec<SortKey>);

enum SortKey {
    U16(ScalarBuffer<u16>),
    U32(ScalarBuffer<u32>),
    U64(ScalarBuffer<u64>),
    I64(ScalarBuffer<i64>),
    Bytes(BinaryArray),
}

impl SortKeys {
    fn new(batch: &RecordBatch, columns: usize) -> Result<Self, HistoryError> {
        let keys = batch.columns()[..columns].iter().map(|column| {
            if column.null_count() > 0 {
                return Err(HistoryError::Encoding("a sort column holds a null".to_owned()));
            }
            Ok(match column.data_type() {
                ArrowType::UInt16 => SortKey::U16(column.as_primitive::<UInt16Type>().values().clone()),
                ArrowType::UInt32 => SortKey::U32(column.as_primitive::<UInt32Type>().values().clone()),
                ArrowType::UInt64 => SortKey::U64(column.as_primitive::<UInt64Type>().values().clone()),
                ArrowType::Int64 => SortKey::I64(column.as_primitive::<Int64Type>().values().clone()),
                ArrowType::Binary => SortKey::Bytes(column.as_binary::<i32>().clone()),
                other => return Err(HistoryError::Encoding(format!("can't sort by {other}"))),
            })
        });
        keys.collect::<Result<_, _>>().map(Self)
    }

    fn compare(&self, row: usize, other: &Self, other_row: usize) -> Ordering {
        let pairs = self.0.iter().zip(&other.0);
        let compared = pairs.map(|(left, right)| match (left, right) {
            (SortKey::U16(left), SortKey::U16(right)) => left[row].cmp(&right[other_row]),
            (SortKey::U32(left), SortKey::U32(right)) => left[row].cmp(&right[other_row]),
            (SortKey::U64(left), SortKey::U64(right)) => left[row].cmp(&right[other_row]),
            (SortKey::I64(left), SortKey::I64(right)) => left[row].cmp(&right[other_row]),
            (SortKey::Bytes(left), SortKey::Bytes(right)) => left.value(row).cmp(right.value(other_row)),
            _ => unreachable!("all batches of a sorter have its schema"),
        });
        compared.into_iter().find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal)
    }
}

/// Owns a spill file on disk and its share of the directory's bound.
#[derive(Debug)]
struct SpillHandle {
    directory: Arc<SpillDirectory>,
    path: PathBuf,
    charged: AtomicU64,
}

impl SpillHandle {
    fn charge_up_to(&self, written: u64) -> Result<(), HistoryError> {
        let more = written.saturating_sub(self.charged.load(AtomicOrdering::Relaxed));
        self.directory.charge(more)?;
        self.charged.fetch_add(more, AtomicOrdering::Relaxed);
        Ok(())
    }

    fn error(&self, error: arrow_schema::ArrowError) -> HistoryError {
        match error {
            arrow_schema::ArrowError::IoError(_, source) => HistoryError::Io { path: self.path.clone(), source },
            other => HistoryError::Encoding(format!("spill file {}: {other}", Path::display(&self.path))),
        }
    }
}

impl Drop for SpillHandle {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a spill file could not be removed");
        }
        self.directory.used.fetch_sub(*self.charged.get_mut(), AtomicOrdering::Relaxed);
    }
}

struct CountedFile {
    file: BufWriter<File>,
    written: u64,
}

impl Write for CountedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Array, ArrayRef, Int64Array, UInt16Array, UInt64Array};
    use arrow_schema::{Field, Schema};
    use proptest::prelude::*;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("slot", ArrowType::UInt16, false),
            Field::new("key", ArrowType::Binary, false),
            Field::new("time", ArrowType::Int64, false),
            Field::new("ordinal", ArrowType::UInt64, false),
        ]))
    }

    type Row = (u16, Vec<u8>, i64, u64);

    fn batch(rows: &[Row]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt16Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| &row.1))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.3))),
        ];
        RecordBatch::try_new(schema(), columns).expect("the columns fit the schema")
    }

    fn rows_of(batch: &RecordBatch) -> Vec<Row> {
        let (slots, keys) = (batch.column(0).as_primitive::<UInt16Type>(), batch.column(1).as_binary::<i32>());
        let (times, ordinals) =
            (batch.column(2).as_primitive::<Int64Type>(), batch.column(3).as_primitive::<UInt64Type>());
        (0..batch.num_rows())
            .map(|row| (slots.value(row), keys.value(row).to_vec(), times.value(row), ordinals.value(row)))
            .collect()
    }

    fn sorted_outside_memory(rows: &[Row], memory_bytes: usize, chunk: usize) -> (Vec<Row>, u64) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let directory = SpillDirectory::open(root.path().join("spill"), 1 << 30).expect("open");
        let mut sorter = ExternalSorter::new(directory.clone(), schema(), 4, memory_bytes).expect("sorter");
        for chunk in rows.chunks(chunk) {
            sorter.push(batch(chunk)).expect("push");
        }
        let mut sorted = Vec::new();
        let batches = sorter.finish().expect("finish");
        let spilled = directory.used_bytes();
        for batch in batches {
            sorted.extend(rows_of(&batch.expect("batch")));
        }
        assert_eq!(directory.used_bytes(), 0, "spill files are gone once they are read");
        assert_eq!(fs::read_dir(root.path().join("spill")).expect("list").count(), 0);
        (sorted, spilled)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn rows_sorted_outside_memory_come_out_as_if_sorted_in_it(
            rows in prop::collection::vec(
                (0u16..4, prop::collection::vec(0u8..3, 0..4), -3i64..3, any::<u64>()), 0..400),
            chunk in 1usize..50,
        ) {
            let mut expected = rows.clone();
            expected.sort();
            // So little memory that every push spills, and more files than are merged at once.
            let (sorted, spilled) = sorted_outside_memory(&rows, 3, chunk);
            prop_assert_eq!(&sorted, &expected);
            prop_assert_eq!(spilled > 0, !rows.is_empty());
            prop_assert_eq!(&sorted_outside_memory(&rows, 1 << 20, chunk).0, &expected);
        }
    }

    #[test]
    fn the_spill_directory_starts_empty_and_is_bounded() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(root.path().join("spill/left")).expect("left over");
        let directory = SpillDirectory::open(root.path().join("spill"), 2_000).expect("open");
        assert_eq!(fs::read_dir(root.path().join("spill")).expect("list").count(), 0);

        let rows: Vec<Row> = (0..1_000).map(|row: u64| (0, row.to_be_bytes().to_vec(), 0, row * 7_919)).collect();
        let mut writer = directory.create(&schema()).expect("create");
        let refused = writer.write(&batch(&rows)).expect_err("more than the limit");
        assert!(matches!(refused, HistoryError::SpillFull { limit: 2_000, .. }), "{refused}");
        drop(writer);
        assert_eq!(directory.used_bytes(), 0);
        assert_eq!(fs::read_dir(root.path().join("spill")).expect("list").count(), 0);
    }

    #[test]
    fn a_spill_file_reads_back_as_it_was_written_as_often_as_wanted() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let directory = SpillDirectory::open(root.path().join("spill"), 1 << 20).expect("open");
        let written = batch(&[(1, vec![1], 2, 3), (0, vec![], -5, 9)]);
        let mut writer = directory.create(&schema()).expect("create");
        writer.write(&written).expect("write");
        let file = writer.finish().expect("finish");
        for _ in 0..2 {
            let read: Vec<RecordBatch> = file.read().expect("read").collect::<Result<_, _>>().expect("batches");
            assert_eq!(read, vec![written.clone()]);
        }
        assert_eq!(file.rows(), 2);
        assert!(file.bytes() > 0 && written.column(0).len() == 2);
    }
}
