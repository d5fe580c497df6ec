//! Writes data files: sorted Parquet with statistics, page index and checksums, durable before anybody
//! learns of it. It refuses rows that are out of order, also from one file of a run to the next, and
//! never keeps more than one row group in memory.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Float64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, BooleanArray, Int32Array, Int64Array, PrimitiveArray, RecordBatch, new_null_array};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{DataType as ArrowType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, Type as PhysicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::files::{Files, remove_if_there};
use crate::history::checked_file::{BLOCK_BYTES, BLOCK_SIZE, BLOCK_SUMS, FileEnd, SummedWriter};
use crate::history::schema::{self, HistoryViewSpec};
use crate::history::{HistoryError, Run, RunBatch};
use crate::keys::KeyColumnsBuilder;
use crate::order::Micros;
use crate::value::{DataType, ScalarType};

/// Bounds the writer's memory, and what a reader has to skip, where rows are wide.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// Rows of a page. A row that is sought costs a page of each column, and each page its place in the
/// page index.
pub const PAGE_ROWS: usize = 2048;

/// Into how much the rows of a data file are cut, at most. Readers don't depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileShape {
    pub group_rows: usize,
    pub page_rows: usize,
}

impl Default for FileShape {
    fn default() -> Self {
        Self { group_rows: 128 * 1024, page_rows: PAGE_ROWS }
    }
}

/// A reader keeps the dictionary of each column in memory, so that only small ones pay.
const DICTIONARY_BYTES: usize = 64 << 10;
/// Of a float's column that has one: floats that repeat are read from it in a fraction of the time.
const FLOAT_DICTIONARY_BYTES: usize = 128 << 10;

/// What the dictionary of a column takes at most, if it has one.
pub(crate) fn dictionary_bytes(physical: PhysicalType) -> usize {
    match physical {
        PhysicalType::FLOAT | PhysicalType::DOUBLE => FLOAT_DICTIONARY_BYTES,
        _ => DICTIONARY_BYTES,
    }
}

/// What a reader has to know of a data file before it opens it; lies in the table's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileFacts {
    pub rows: u64,
    pub first_slot: u16,
    pub last_slot: u16,
    pub first_frame: u64,
    pub last_frame: u64,
    pub first_ingest_time: Micros,
    pub last_ingest_time: Micros,
    pub end: FileEnd,
    /// Where compaction has put it; a file that landed is a run by itself, of level 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<RunPlace>,
    /// Of a file that a backfill has taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_in: Option<TakenIn>,
    /// Whether each row was known when it happened, so that one column tells both times. Not said of files
    /// that were written before this was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub known_at_once: bool,
}

/// What all rows of a file have in common that a backfill has taken in, in the place of what its columns
/// say: they were written before it was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenIn {
    pub frame: u64,
    pub ingest_time: Micros,
    /// Whether the ingest time is their known time too.
    pub known_on_arrival: bool,
}

/// Where a file stands among those that one merge has written, which are one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunPlace {
    /// No two runs of a table have the same number: merges count from 1, and what a backfill has taken in
    /// is numbered by its frame, from [`RunPlace::TAKEN_IN`].
    pub run: u64,
    /// How often its rows have been merged at most.
    pub level: u32,
    /// In history order, all of its rows come after those of the files with a lower one.
    pub file: u32,
}

impl RunPlace {
    pub const TAKEN_IN: u64 = 1 << 63;
}

/// What a file is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be part of a table.
    Table(FileShape),
    /// To be read once, and soon: it is quick to write and to read.
    Passing,
}

/// A data file, durable and not yet part of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WrittenFile {
    pub bytes: u64,
    pub facts: FileFacts,
}

/// Writes all rows of a run, of frames after `landed` through `through`; `None`, and no file, if
/// there are none. On an error nothing is left.
pub(crate) fn write_file(
    files: &dyn Files,
    path: &Path,
    spec: &HistoryViewSpec,
    shape: FileShape,
    run: &mut dyn Run,
    (landed, through): (u64, u64),
) -> Result<Option<WrittenFile>, HistoryError> {
    let Some(first) = run.next()? else { return Ok(None) };
    let purpose = Purpose::Table(shape);
    let checks = RowChecks::new(landed, through);
    let mut file = OpenFile::create(files, path.to_owned(), spec, checks, purpose, Some(&first))?;
    let mut next = Some(first);
    while let Some(batch) = next {
        file.write(batch)?;
        next = run.next()?;
    }
    file.finish(None).map(|(written, _)| Some(written))
}

/// A data file that is being written. Dropped before it is finished, it is removed.
pub(crate) struct OpenFile<'a> {
    unfinished: Unfinished<'a>,
    spec: &'a HistoryViewSpec,
    schema: SchemaRef,
    writer: ArrowWriter<SummedWriter>,
    checks: RowChecks,
}

/// Removes a file that won't be finished.
struct Unfinished<'a> {
    files: &'a dyn Files,
    path: PathBuf,
    finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // What is left only takes room, and goes when the table is opened again.
            let _ = remove_if_there(self.files, &self.path);
        }
    }
}

impl<'a> OpenFile<'a> {
    /// What its first rows will be tells how floats are best written.
    pub fn create(
        files: &'a dyn Files,
        path: PathBuf,
        spec: &'a HistoryViewSpec,
        checks: RowChecks,
        purpose: Purpose,
        first: Option<&RunBatch>,
    ) -> Result<Self, HistoryError> {
        let sink = SummedWriter::new(files.create_new(&path).map_err(HistoryError::io(&path))?);
        // From here on it is this one's to remove, and not before: a file that was there is somebody's.
        let unfinished = Unfinished { files, path, finished: false };
        let path = &unfinished.path;
        let schema = spec.file_schema();
        let options =
            ArrowWriterOptions::new().with_properties(properties(spec, purpose, first)).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, schema.clone(), options);
        let writer = writer.map_err(|error| to_error(path, error))?;
        Ok(Self { unfinished, spec, schema, writer, checks })
    }

    pub fn write(&mut self, batch: Arc<RunBatch>) -> Result<(), HistoryError> {
        self.checks.check(&batch)?;
        let columns = to_record_batch(self.spec, &self.schema, &batch)?;
        self.writer.write(&columns).map_err(|error| to_error(&self.unfinished.path, error))?;
        self.checks.previous = Some(batch);
        Ok(())
    }

    /// About the bytes of what was written so far.
    pub fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Makes the file durable, content and name; also gives the checks for the next file of the run.
    pub fn finish(self, place: Option<RunPlace>) -> Result<(WrittenFile, RowChecks), HistoryError> {
        let Self { mut unfinished, mut writer, checks, .. } = self;
        let path = &unfinished.path;
        writer.flush().map_err(|error| to_error(path, error))?;
        writer.sync().map_err(HistoryError::io(path))?;
        let sums = writer.inner_mut().start_end();
        writer.append_key_value_metadata(KeyValue::new(BLOCK_SUMS.to_owned(), sums));
        writer.append_key_value_metadata(KeyValue::new(BLOCK_SIZE.to_owned(), BLOCK_BYTES.to_string()));
        let sink = writer.into_inner().map_err(|error| to_error(path, error))?;
        let bytes = sink.written();
        let end = sink.finish().map_err(HistoryError::io(path))?;
        if let Some(directory) = path.parent() {
            unfinished.files.sync_dir(directory).map_err(HistoryError::io(directory))?;
        }
        unfinished.finished = true;
        Ok((WrittenFile { bytes, facts: checks.facts(end, place) }, checks.for_next()))
    }
}

/// What must hold of all rows, and what is gathered about them.
pub(crate) struct RowChecks {
    /// Without the first. `None`: the rows have no frame yet.
    frames: Option<RangeInclusive<u64>>,
    previous: Option<Arc<RunBatch>>,
    rows: u64,
    slots: Option<(u16, u16)>,
    seen_frames: (u64, u64),
    ingest_times: (Micros, Micros),
    known_at_once: bool,
}

impl RowChecks {
    /// For rows of frames after `landed` through `through`.
    pub fn new(landed: u64, through: u64) -> Self {
        Self::after(Some(landed..=through), None)
    }

    /// For rows that are not taken in yet.
    pub fn staged() -> Self {
        Self::after(None, None)
    }

    /// For the rows of the run's next file.
    fn for_next(self) -> Self {
        Self::after(self.frames, self.previous)
    }

    fn after(frames: Option<RangeInclusive<u64>>, previous: Option<Arc<RunBatch>>) -> Self {
        let (seen_frames, ingest_times) = ((u64::MAX, 0), (Micros::MAX, Micros::MIN));
        Self { frames, previous, rows: 0, slots: None, seen_frames, ingest_times, known_at_once: true }
    }

    fn check(&mut self, batch: &RunBatch) -> Result<(), HistoryError> {
        let refused = |reason: String| Err(HistoryError::BadRows { reason });
        for row in 0..batch.rows() {
            let version = batch.version(row);
            let before = match (row, &self.previous) {
                (0, None) => None,
                (0, Some(previous)) => Some((previous.as_ref(), previous.rows() - 1)),
                _ => Some((batch, row - 1)),
            };
            if let Some((earlier, index)) = before {
                let order = earlier.compare_key(index, batch.slots[row], batch.keys.value(row));
                if order.then_with(|| earlier.version(index).cmp(&version)).is_ge() {
                    return refused(format!("the row at {} is not after the one before it", version.position));
                }
            }
            let frame = version.position.frame;
            if let Some(frames) = &self.frames
                && (frame <= *frames.start() || frame > *frames.end())
            {
                let (landed, through) = (frames.start(), frames.end());
                return refused(format!("frame {frame} is not after {landed} and through {through}"));
            }
            let (count, features) = (usize::from(batch.feature_counts[row]), batch.features.len());
            if count > features {
                return refused(format!("the row at {} has {count} features, not {features}", version.position));
            }
            self.seen_frames = (self.seen_frames.0.min(frame), self.seen_frames.1.max(frame));
            let ingest = batch.ingest_times[row];
            self.ingest_times = (self.ingest_times.0.min(ingest), self.ingest_times.1.max(ingest));
        }
        if let (Some(first), Some(last)) = (batch.slots.first(), batch.slots.last()) {
            self.slots = Some((self.slots.map_or(*first, |(first, _)| first), *last));
        }
        self.known_at_once &= batch.known_times == batch.event_times;
        self.rows += batch.rows() as u64;
        Ok(())
    }

    fn facts(&self, end: FileEnd, place: Option<RunPlace>) -> FileFacts {
        let (first_slot, last_slot) = self.slots.unwrap_or((0, u16::MAX));
        FileFacts {
            rows: self.rows,
            first_slot,
            last_slot,
            first_frame: self.seen_frames.0,
            last_frame: self.seen_frames.1,
            first_ingest_time: self.ingest_times.0,
            last_ingest_time: self.ingest_times.1,
            end,
            place,
            taken_in: None,
            known_at_once: self.known_at_once,
        }
    }
}

fn to_record_batch(spec: &HistoryViewSpec, schema: &SchemaRef, batch: &RunBatch) -> Result<RecordBatch, HistoryError> {
    let refused = |reason: String| HistoryError::BadRows { reason };
    // Fewer there may be: the table may have been given more since the rows were asked for.
    if batch.features.len() > spec.features.len() {
        let (given, known) = (batch.features.len(), spec.features.len());
        return Err(refused(format!("they have {given} features, and the table {known}")));
    }
    let rows = batch.rows();
    let mut keys = KeyColumnsBuilder::new(&spec.key_types(), rows);
    // A passing file has no columns of join keys.
    let with_keys = if spec.join_keys.is_empty() { 0 } else { rows };
    for row in 0..with_keys {
        keys.append(batch.keys.value(row))
            .map_err(|error| refused(format!("the key of the row at {}: {error}", batch.version(row).position)))?;
    }
    let ordinals = batch.ordinals.iter().map(|ordinal| i32::try_from(*ordinal));
    let ordinals: Vec<i32> =
        ordinals.collect::<Result<_, _>>().map_err(|_| refused("an ordinal is over 2^31".to_owned()))?;

    let mut columns: Vec<ArrayRef> = keys.finish();
    columns.extend([
        int32(batch.slots.iter().map(|slot| i32::from(*slot))),
        Arc::new(batch.keys.clone()),
        timestamps(&batch.event_times),
        timestamps(&batch.known_times),
        timestamps(&batch.ingest_times),
        int64(&batch.frames),
        int32(ordinals.into_iter()),
        int64(&batch.revisions),
        int32(batch.feature_counts.iter().map(|count| i32::from(*count))),
        Arc::new(BooleanArray::new(batch.deleted.clone(), None)),
    ]);
    for ((_, data_type), column) in spec.features.iter().zip(&batch.features) {
        if *column.data_type() != data_type.to_arrow() {
            return Err(refused(format!("a feature of type {data_type} came as {}", column.data_type())));
        }
        columns.push(schema::to_file(*data_type, column));
    }
    for (_, data_type) in &spec.features[batch.features.len()..] {
        columns.push(new_null_array(&schema::file_type(*data_type), rows));
    }
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

fn int32(values: impl Iterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

fn int64(values: &ScalarBuffer<u64>) -> ArrayRef {
    // Counters from 1: none comes near 2^63.
    Arc::new(Int64Array::from_iter_values(values.iter().map(|value| value.cast_signed())))
}

fn timestamps(values: &ScalarBuffer<Micros>) -> ArrayRef {
    let array = PrimitiveArray::<TimestampMicrosecondType>::new(values.clone(), None);
    Arc::new(array.with_timezone("UTC"))
}

fn properties(spec: &HistoryViewSpec, purpose: Purpose, first: Option<&RunBatch>) -> WriterProperties {
    match purpose {
        Purpose::Table(shape) => table_properties(spec, shape, first),
        Purpose::Passing => passing_properties(),
    }
}

/// A dictionary only where one value is in all rows or nearly: its column then takes next to nothing.
fn passing_properties() -> WriterProperties {
    let alike = [schema::INGEST_TIME, schema::FRAME, schema::REVISION, schema::FEATURE_COUNT, schema::DELETED];
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::LZ4_RAW)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(FileShape::default().group_rows))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_statistics_enabled(ColumnPath::from(schema::SLOT), EnabledStatistics::Page);
    for name in alike {
        properties = properties
            .set_column_dictionary_enabled(ColumnPath::from(name), true)
            .set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Chunk);
    }
    properties.build()
}

fn table_properties(spec: &HistoryViewSpec, shape: FileShape, first: Option<&RunBatch>) -> WriterProperties {
    let columns = spec.columns();
    let place = |name: &&str| columns.iter().position(|column| column.name == *name);
    let sorting = schema::SORT_COLUMNS.iter().filter_map(place);
    let sorting = sorting
        .map(|column| SortingColumn { column_idx: column as i32, descending: false, nulls_first: false })
        .collect();
    let zstd = ZstdLevel::try_new(1).expect("1 is a level of zstd");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(zstd))
        .set_max_row_group_row_count(Some(shape.group_rows))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        // A page ends only where so many rows have been handed over, however long they are.
        .set_write_batch_size(shape.page_rows.min(1024))
        .set_data_page_row_count_limit(shape.page_rows)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_sorting_columns(Some(sorting));
    for name in schema::BOUND_COLUMNS {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Page);
    }
    for column in &columns {
        properties = column_properties(properties, &column.name, column.data_type);
    }
    for ((name, _), values) in spec.features.iter().zip(first.map_or(&[][..], |first| &first.features)) {
        if repeats(values, shape.group_rows) {
            // It finds numbers by their bytes, so floats keep theirs.
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(name.as_str()), true);
        }
    }
    // Within a key they ascend, so that differences are shorter than times, and read in a quarter of the time.
    // What other engines may not know, no column of a view's own has.
    let event_time = || ColumnPath::from(schema::EVENT_TIME);
    properties
        .set_column_dictionary_enabled(event_time(), false)
        .set_column_encoding(event_time(), Encoding::DELTA_BINARY_PACKED)
        .set_column_compression(event_time(), Compression::LZ4_RAW)
        .build()
}

fn column_properties(properties: WriterPropertiesBuilder, name: &str, data_type: DataType) -> WriterPropertiesBuilder {
    let parts = |parts: &[&str]| ColumnPath::new(parts.iter().map(|part| (*part).to_owned()).collect());
    let (path, element) = match data_type {
        DataType::Scalar(scalar) => (parts(&[name]), scalar),
        DataType::List(element) => (parts(&[name, "list", "element"]), element),
        DataType::Vector(_) => (parts(&[name, "list", "element"]), ScalarType::Float32),
    };
    let is_float = matches!(element, ScalarType::Float32 | ScalarType::Float64);
    let mut properties = properties;
    if is_float {
        // Most of what is read, and what gains least from the slower of the two.
        properties = properties
            .set_column_compression(path.clone(), Compression::LZ4_RAW)
            .set_column_dictionary_page_size_limit(path.clone(), FLOAT_DICTIONARY_BYTES);
    }
    if !matches!(data_type, DataType::Scalar(_)) {
        properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
    }
    // A float's only where it pays.
    properties.set_column_dictionary_enabled(path, !is_float)
}

/// Whether floats, of which these come first, seem to be of so few values that the dictionary of a row group of so
/// many rows holds them. One that doesn't would be in the way of whoever seeks few rows.
fn repeats(values: &ArrayRef, group_rows: usize) -> bool {
    /// Fewer tell nothing.
    const LEAST: usize = 1_024;
    let bits: Vec<u64> = match values.data_type() {
        ArrowType::Float64 => values.as_primitive::<Float64Type>().iter().flatten().map(f64::to_bits).collect(),
        ArrowType::Float32 => {
            values.as_primitive::<Float32Type>().iter().flatten().map(|value| value.to_bits().into()).collect()
        }
        _ => return false,
    };
    if bits.len() < LEAST {
        return false;
    }
    // Rows lie by key: what is the same in all rows of a key says nothing of how often others have it.
    let mut times: HashMap<u64, usize> = HashMap::new();
    for alike in bits.chunk_by(|one, next| one == next) {
        *times.entry(alike[0]).or_default() += 1;
    }
    let seen = |count: usize| times.values().filter(|times| **times == count).count();
    let (once, twice) = (seen(1), seen(2));
    // How many there are, by how many were seen once and twice (Chao 1984); or as many in all rows as in these.
    let by_chance = times.len() + once * once / (2 * twice.max(1));
    let by_rows = times.len() * group_rows / bits.len();
    by_chance.min(by_rows) <= FLOAT_DICTIONARY_BYTES / values.data_type().primitive_width().unwrap_or(1)
}

fn to_error(path: &Path, error: ParquetError) -> HistoryError {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => HistoryError::Io { path: path.to_path_buf(), source: *source },
            Err(source) => HistoryError::Encoding(source.to_string()),
        },
        other => HistoryError::Encoding(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Float32Array, Float64Array};

    use super::*;

    #[test]
    fn floats_have_a_dictionary_where_a_row_group_s_values_seem_to_fit_into_it() {
        // As random as is needed.
        let numbers = |of: u64| (0..8_192_u64).map(move |n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % of);
        let doubles = |of: u64| Arc::new(Float64Array::from_iter_values(numbers(of).map(|n| n as f64))) as ArrayRef;
        let singles = |of: u64| Arc::new(Float32Array::from_iter_values(numbers(of).map(|n| n as f32))) as ArrayRef;
        let rows = FileShape::default().group_rows;
        for few in [1, 100, 5_000] {
            assert!(repeats(&doubles(few), rows) && repeats(&singles(few), rows), "{few}");
        }
        assert!(!repeats(&doubles(1 << 40), rows) && !repeats(&singles(1 << 40), rows));
        // Half of them are one value, and the others all differ.
        let half = (0..8_192).map(|n| if n % 2 == 0 { 0.0 } else { f64::from(n) });
        assert!(!repeats(&(Arc::new(Float64Array::from_iter_values(half)) as ArrayRef), rows));
        // Each key has a value of its own, and so many rows.
        for (of_key, fits) in [(5, false), (250, true)] {
            let values = Float64Array::from_iter_values((0..8_192).map(|n| f64::from(n / of_key)));
            assert_eq!(repeats(&(Arc::new(values) as ArrayRef), rows), fits, "{of_key} rows of a key");
        }
        assert!(!repeats(&(Arc::new(Float64Array::from(vec![1.0; 10])) as ArrayRef), rows), "too few");
        assert!(!repeats(&(Arc::new(Int64Array::from(vec![1; 2_000])) as ArrayRef), rows), "is a matter of its own");
    }
}
