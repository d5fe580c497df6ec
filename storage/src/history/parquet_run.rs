//! A data file as a sorted run. Row groups and pages that hold nothing that is looked for are left
//! out, and every byte that is read has been checked; a row that was asked for is delivered as it
//! was written or not at all.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, BinaryArray, RecordBatch};
use arrow_buffer::{BooleanBuffer, ScalarBuffer};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;

use crate::files::Files;
use crate::history::checked_file::{CheckedFile, CheckedReader, READ_AHEAD};
use crate::history::footers::{Footer, Footers};
use crate::history::pages::{BoundColumns, PageBounds, pages_of, wanted_pages};
use crate::history::schema::{self, HistoryViewSpec};
use crate::history::sought::Sought;
use crate::history::writer::{FileFacts, PAGE_ROWS, TakenIn, dictionary_bytes};
use crate::history::{HistoryError, Run, RunBatch};
use crate::order::Micros;
use crate::value::DataType;

/// The rows of a batch at most, and the bytes to aim at where rows are wide.
const BATCH_ROWS: usize = 8 * 1024;
const BATCH_BYTES: usize = 1 << 20;

/// The rows of one data file.
pub struct ParquetRun {
    reader: CheckedReader,
    footer: Arc<Footer>,
    mask: ProjectionMask,
    /// The projected features and their types.
    features: Vec<(String, DataType)>,
    batch_rows: usize,
    /// What is still to be read; the first is being read if `rows` is set.
    groups: VecDeque<Group>,
    rows: Option<ParquetRecordBatchReader>,
    /// The columns that hold one number in all rows of the row group that is being read: its statistics
    /// tell it, or what took the file in, and the column's bytes are left alone.
    constants: HashMap<&'static str, i64>,
    /// Whether each row was known when it happened, so that one column tells both.
    known_at_once: bool,
    /// What holds for all rows, whatever the file's columns say.
    taken_in: Option<TakenIn>,
    stand_ins: Option<StandIns>,
    /// A batch's worth of each of the constants that are as long as a time, for all batches.
    repeated: HashMap<&'static str, ScalarBuffer<i64>>,
}

/// What stands in for columns that tell nothing but where rows came from, so that these needn't be
/// read: positions that order the file's rows among those of all others as their own do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StandIns {
    /// The frame of all rows.
    pub frame: u64,
    /// Their ordinals ascend from here.
    pub first_ordinal: u32,
    /// The ingest time of all rows, if theirs needn't be told apart.
    pub ingest_time: Option<Micros>,
}

/// What is asked of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// The features, by their indices in the view.
    pub projection: &'a [usize],
    pub sought: &'a Sought,
    pub stand_ins: Option<StandIns>,
}

/// What is still wanted of a row group.
struct Group {
    index: usize,
    pages: Vec<SlotPage>,
    /// Ranges of its rows, ascending and apart; the rows already delivered are gone from them.
    wanted: VecDeque<Range<usize>>,
}

/// Where a page begins, and the greatest slot in it.
struct SlotPage {
    first_row: usize,
    last_slot: u16,
}

impl ParquetRun {
    /// No row of the file happened before; `None`: that isn't known without reading them.
    pub(crate) fn first_event_time(&self) -> Option<Micros> {
        let groups = self.footer.metadata.metadata().row_groups();
        groups.iter().map(first_event_time).try_fold(Micros::MAX, |first, of_group| Some(first.min(of_group?)))
    }

    /// About how many rows of the file happened before: in each row group as if they were spread evenly from its
    /// first to its last event time, and all where these aren't known.
    pub(crate) fn rows_before(&self, before: Micros) -> u64 {
        let about = |group: &RowGroupMetaData| {
            let rows = u64::try_from(group.num_rows()).unwrap_or_default();
            let Some((first, last)) = event_times(group) else { return rows };
            if first >= before {
                return 0;
            }
            if last < before {
                return rows;
            }
            let (gone, all) = (i128::from(before) - i128::from(first), i128::from(last) - i128::from(first) + 1);
            u64::try_from(i128::from(rows) * gone / all).unwrap_or(rows)
        };
        self.footer.metadata.metadata().row_groups().iter().map(about).sum()
    }

    /// Opens a file for the rows that are looked for; others may come too.
    pub(crate) fn open(
        files: &Arc<dyn Files>,
        path: PathBuf,
        (len, facts): (u64, &FileFacts),
        spec: &HistoryViewSpec,
        asked: Asked<'_>,
        footers: &Footers,
    ) -> Result<Self, HistoryError> {
        let Asked { projection, sought, stand_ins } = asked;
        let (reader, footer) = CheckedFile::open(files, path, len, facts.end, footers)?;
        let metadata = &footer.metadata;
        let features: Vec<(String, DataType)> =
            projection.iter().map(|index| &spec.features[*index]).map(|(name, t)| (name.to_string(), *t)).collect();
        let is_read = |name: &&str| !stand_ins.is_some_and(|stand_ins| stand_ins.replaces(name));
        let row_columns = schema::ROW_COLUMNS.iter().copied().filter(is_read);
        let wanted_columns = row_columns.chain(features.iter().map(|(name, _)| name.as_str()));
        let roots = metadata.parquet_schema().root_schema().get_fields();
        let place = |name: &str| roots.iter().position(|root| root.name() == name);
        let mask = ProjectionMask::roots(metadata.parquet_schema(), wanted_columns.filter_map(place));

        let parquet = metadata.metadata();
        let bounds = BoundColumns::of(parquet).ok_or_else(|| reader.damaged("it has no column of slots".to_owned()))?;
        let pages = pages_of(parquet, &bounds, sought);
        let wanted = wanted_pages(&pages, sought);
        let groups: VecDeque<Group> = pages
            .iter()
            .zip(wanted)
            .enumerate()
            .map(|(index, (pages, wanted))| Group::new(index, pages, &wanted))
            .filter(|group| !group.wanted.is_empty())
            .collect();
        // The parquet crate makes room for a whole batch, however few rows there are.
        let most_wanted = groups.iter().map(Group::wanted_rows).max().unwrap_or_default();
        let batch_rows = batch_rows(parquet, &mask).min(most_wanted.max(1));
        Ok(Self {
            reader,
            footer,
            mask,
            features,
            batch_rows,
            groups,
            rows: None,
            constants: HashMap::new(),
            known_at_once: facts.known_at_once,
            taken_in: facts.taken_in,
            stand_ins,
            repeated: HashMap::new(),
        })
    }

    /// The rows that are still to come at most.
    pub fn remaining_rows(&self) -> usize {
        self.groups.iter().map(Group::wanted_rows).sum()
    }

    /// About the bytes that it takes while it is being read: what is known of the file, and of each
    /// projected column what is read ahead, a page, a dictionary and a batch's values.
    pub fn open_bytes(&self) -> usize {
        let parquet = self.footer.metadata.metadata();
        let of_group = |group: &RowGroupMetaData| -> usize {
            let rows = usize::try_from(group.num_rows()).unwrap_or_default().max(1);
            let leaves = group.columns().iter().enumerate().filter(|(leaf, _)| self.mask.leaf_included(*leaf));
            let of_leaf = |(_, column): (usize, &ColumnChunkMetaData)| {
                let bytes = usize::try_from(column.uncompressed_size()).unwrap_or_default();
                let share = |of_rows: usize| if of_rows < rows { bytes / rows * of_rows } else { bytes };
                let most = dictionary_bytes(column.column_type());
                let dictionary = column.dictionary_page_offset().map_or(0, |_| bytes.min(most));
                let ahead = READ_AHEAD.min(usize::try_from(column.compressed_size()).unwrap_or(READ_AHEAD));
                ahead + share(PAGE_ROWS) + dictionary + share(self.batch_rows)
            };
            leaves.map(of_leaf).sum()
        };
        parquet.memory_size() + parquet.row_groups().iter().map(of_group).max().unwrap_or_default()
    }

    /// The place in the file of the first row that comes next, or of an earlier one after the last that
    /// came.
    fn next_row(&self) -> usize {
        let Some(group) = self.groups.front() else { return 0 };
        let before = self.footer.metadata.metadata().row_groups().iter().take(group.index);
        let rows_before: i64 = before.map(RowGroupMetaData::num_rows).sum();
        usize::try_from(rows_before).unwrap_or_default() + group.wanted.front().map_or(0, |rows| rows.start)
    }

    fn start_group(&mut self) -> Result<(), HistoryError> {
        let Some(group) = self.groups.front() else { return Ok(()) };
        let footer = self.footer.clone();
        let row_group = footer.metadata.metadata().row_group(group.index);
        let total = usize::try_from(row_group.num_rows()).map_err(|error| self.reader.error(&error))?;
        let selection = RowSelection::from_consecutive_ranges(group.wanted.iter().cloned(), total);
        self.constants = constants(row_group);
        if let Some(TakenIn { frame, ingest_time, known_on_arrival }) = self.taken_in {
            self.constants.extend([(schema::FRAME, frame.cast_signed()), (schema::INGEST_TIME, ingest_time)]);
            if known_on_arrival {
                self.constants.insert(schema::KNOWN_TIME, ingest_time);
            }
        }
        if let Some(stand_ins) = &self.stand_ins {
            self.constants.extend(stand_ins.constants());
        }
        self.repeated = repeated(&self.constants, self.batch_rows);
        let parquet = footer.metadata.parquet_schema();
        let is_spared =
            |name: &str| self.constants.contains_key(name) || (self.known_at_once && name == schema::KNOWN_TIME);
        let is_read = |leaf: &usize| {
            let path = parquet.column(*leaf).path().parts().to_vec();
            self.mask.leaf_included(*leaf) && !matches!(path.as_slice(), [name] if is_spared(name))
        };
        let mask = ProjectionMask::leaves(parquet, (0..parquet.num_columns()).filter(is_read));
        let rows = ParquetRecordBatchReaderBuilder::new_with_metadata(self.reader.clone(), footer.metadata.clone())
            .with_projection(mask)
            .with_row_groups(vec![group.index])
            .with_row_selection(selection)
            .with_batch_size(self.batch_rows)
            .build()
            .map_err(|error| self.reader.error(&error))?;
        self.rows = Some(rows);
        Ok(())
    }

    fn to_run_batch(&self, batch: &RecordBatch) -> Result<RunBatch, HistoryError> {
        let damaged = |reason: String| self.reader.damaged(reason);
        let column = |name: &str| {
            let column = batch.column_by_name(name).ok_or_else(|| damaged(format!("it has no column {name}")))?;
            if column.null_count() > 0 {
                return Err(damaged(format!("a null in {name}")));
            }
            Ok(column.clone())
        };
        let rows = batch.num_rows();
        let constant = |name: &str| self.constants.get(name).copied();
        let int32 = |name: &str| match column(name)?.as_primitive_opt::<Int32Type>() {
            Some(values) => Ok(values.values().clone()),
            None => Err(damaged(format!("{name} is of another type"))),
        };
        let times = |name: &str| -> Result<ScalarBuffer<Micros>, HistoryError> {
            match self.repeated.get(name) {
                Some(times) => Ok(times.slice(0, rows)),
                None => match column(name)?.as_primitive_opt::<TimestampMicrosecondType>() {
                    Some(values) => Ok(values.values().clone()),
                    None => Err(damaged(format!("{name} is of another type"))),
                },
            }
        };
        let narrow = |name: &str| -> Result<ScalarBuffer<u16>, HistoryError> {
            let out_of_range = || damaged(format!("{name} is out of range"));
            match constant(name) {
                Some(value) => Ok(vec![u16::try_from(value).map_err(|_| out_of_range())?; rows].into()),
                None => {
                    let values = int32(name)?;
                    let all = values.iter().fold(0, |all, value| all | value);
                    u16::try_from(all).map_err(|_| out_of_range())?;
                    Ok(values.iter().map(|value| *value as u16).collect())
                }
            }
        };
        let counter = |name: &str| -> Result<ScalarBuffer<u64>, HistoryError> {
            // The same bits are read as another type.
            match self.repeated.get(name) {
                Some(numbers) => Ok(ScalarBuffer::from(numbers.inner().slice_with_length(0, rows * size_of::<u64>()))),
                None => match column(name)?.as_primitive_opt::<Int64Type>() {
                    Some(values) => Ok(ScalarBuffer::from(values.values().inner().clone())),
                    None => Err(damaged(format!("{name} is of another type"))),
                },
            }
        };
        let ordinals = match (self.stand_ins, constant(schema::ORDINAL)) {
            (Some(stand_ins), _) => {
                let first = stand_ins.first_ordinal + self.next_row() as u32;
                (first..first + rows as u32).collect()
            }
            (None, Some(value)) => vec![value as u32; rows].into(),
            (None, None) => ScalarBuffer::from(int32(schema::ORDINAL)?.inner().clone()),
        };
        let keys = column(schema::KEY)?;
        let keys: &BinaryArray =
            keys.as_binary_opt().ok_or_else(|| damaged(format!("{} is of another type", schema::KEY)))?;
        let deleted = match constant(schema::DELETED) {
            Some(0) => BooleanBuffer::new_unset(rows),
            Some(_) => BooleanBuffer::new_set(rows),
            None => match column(schema::DELETED)?.as_boolean_opt() {
                Some(deleted) => deleted.values().clone(),
                None => return Err(damaged(format!("{} is of another type", schema::DELETED))),
            },
        };
        let feature = |(name, data_type): &(String, DataType)| -> Result<ArrayRef, HistoryError> {
            match batch.column_by_name(name) {
                Some(column) => {
                    schema::from_file(*data_type, column).map_err(|reason| damaged(format!("feature {name}: {reason}")))
                }
                None => Ok(schema::absent(*data_type, batch.num_rows())),
            }
        };
        let event_times = times(schema::EVENT_TIME)?;
        let known_times = if self.known_at_once { event_times.clone() } else { times(schema::KNOWN_TIME)? };
        Ok(RunBatch {
            slots: narrow(schema::SLOT)?,
            keys: keys.clone(),
            event_times,
            known_times,
            ingest_times: times(schema::INGEST_TIME)?,
            frames: counter(schema::FRAME)?,
            ordinals,
            revisions: counter(schema::REVISION)?,
            feature_counts: narrow(schema::FEATURE_COUNT)?,
            deleted,
            features: self.features.iter().map(feature).collect::<Result<_, _>>()?,
        })
    }
}

impl Run for ParquetRun {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        if self.rows.is_none() {
            self.start_group()?;
        }
        let Some(group) = self.groups.front() else { return Ok(None) };
        let batch = match self.rows.as_mut().and_then(Iterator::next).transpose() {
            Ok(Some(batch)) => batch,
            Ok(None) => return Err(self.reader.damaged(format!("row group {} is short of rows", group.index))),
            Err(error) => return Err(self.reader.error(&error)),
        };
        let converted = self.to_run_batch(&batch)?;
        if let Some(group) = self.groups.front_mut() {
            group.take(batch.num_rows());
            if group.wanted.is_empty() {
                // What decoded it takes more memory than a small file's rows.
                self.groups.pop_front();
                self.rows = None;
            }
        }
        Ok(Some(Arc::new(converted)))
    }

    fn skip_to(&mut self, slot: u16, _key: &[u8]) -> Result<(), HistoryError> {
        while let Some(group) = self.groups.front_mut() {
            let skipped = group.skip_to(slot);
            if group.wanted.is_empty() {
                self.groups.pop_front();
                self.rows = None;
                continue;
            }
            if skipped {
                self.rows = None;
            }
            break;
        }
        Ok(())
    }
}

impl Group {
    fn new(index: usize, pages: &[PageBounds<'_>], is_wanted: &[bool]) -> Self {
        let mut wanted: VecDeque<Range<usize>> = VecDeque::new();
        for (page, _) in pages.iter().zip(is_wanted).filter(|(_, is_wanted)| **is_wanted) {
            match wanted.back_mut() {
                Some(last) if last.end == page.rows.start => last.end = page.rows.end,
                _ => wanted.push_back(page.rows.clone()),
            }
        }
        let pages = pages.iter().map(|page| SlotPage { first_row: page.rows.start, last_slot: page.slots.1 }).collect();
        Self { index, pages, wanted }
    }

    fn wanted_rows(&self) -> usize {
        self.wanted.iter().map(Range::len).sum()
    }

    /// Drops the first wanted rows.
    fn take(&mut self, mut rows: usize) {
        while rows > 0
            && let Some(first) = self.wanted.front_mut()
        {
            let taken = rows.min(first.len());
            first.start += taken;
            rows -= taken;
            if first.start >= first.end {
                self.wanted.pop_front();
            }
        }
    }

    /// Drops the wanted rows of pages that end before a slot; whether there were any.
    fn skip_to(&mut self, slot: u16) -> bool {
        let page = self.pages.partition_point(|page| page.last_slot < slot);
        let first_row = self.pages.get(page).map_or(usize::MAX, |page| page.first_row);
        let mut skipped = false;
        while let Some(first) = self.wanted.front_mut()
            && first.start < first_row
        {
            skipped = true;
            if first.end > first_row {
                first.start = first_row;
            } else {
                self.wanted.pop_front();
            }
        }
        skipped
    }
}

impl StandIns {
    fn replaces(&self, column: &str) -> bool {
        matches!(column, schema::FRAME | schema::ORDINAL | schema::REVISION)
            || column == schema::INGEST_TIME && self.ingest_time.is_some()
    }

    /// What all rows hold in the columns that are replaced, but for the ordinals.
    fn constants(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let ingest_time = self.ingest_time.map(|time| (schema::INGEST_TIME, time));
        [(schema::FRAME, self.frame.cast_signed()), (schema::REVISION, 0)].into_iter().chain(ingest_time)
    }
}

/// The least event time of a row group, where its statistics tell it.
fn first_event_time(group: &RowGroupMetaData) -> Option<Micros> {
    event_times(group).map(|(first, _)| first)
}

/// The least and the greatest.
fn event_times(group: &RowGroupMetaData) -> Option<(Micros, Micros)> {
    let column = group.columns().iter().find(|column| column.column_path().parts() == [schema::EVENT_TIME])?;
    match column.statistics()? {
        Statistics::Int64(values) => Some((*values.min_opt()?, *values.max_opt()?)),
        _ => None,
    }
}

/// Of the constants those of columns of 8 bytes, so many times.
fn repeated(constants: &HashMap<&'static str, i64>, rows: usize) -> HashMap<&'static str, ScalarBuffer<i64>> {
    let wide =
        [schema::EVENT_TIME, schema::KNOWN_TIME, schema::INGEST_TIME, schema::FRAME, schema::REVISION].into_iter();
    wide.filter_map(|name| constants.get(name).map(|value| (name, vec![*value; rows].into()))).collect()
}

/// The columns of rows that hold one number in a whole row group, and none of them null.
fn constants(group: &RowGroupMetaData) -> HashMap<&'static str, i64> {
    fn only<T: PartialEq + Copy>(least: Option<&T>, greatest: Option<&T>) -> Option<T> {
        least.zip(greatest).filter(|(least, greatest)| least == greatest).map(|(value, _)| *value)
    }
    let of_column = |column: &ColumnChunkMetaData| {
        let name = *schema::ROW_COLUMNS.iter().find(|name| column.column_path().parts() == [**name])?;
        let statistics = column.statistics().filter(|statistics| statistics.null_count_opt() == Some(0))?;
        let value = match statistics {
            Statistics::Boolean(values) => i64::from(only(values.min_opt(), values.max_opt())?),
            Statistics::Int32(values) => i64::from(only(values.min_opt(), values.max_opt())?),
            Statistics::Int64(values) => only(values.min_opt(), values.max_opt())?,
            _ => return None,
        };
        Some((name, value))
    };
    group.columns().iter().filter_map(of_column).collect()
}

/// So many rows that a batch of the projected columns takes about [`BATCH_BYTES`].
fn batch_rows(parquet: &ParquetMetaData, mask: &ProjectionMask) -> usize {
    let (mut bytes, mut rows) = (0, 0);
    for group in parquet.row_groups() {
        rows += usize::try_from(group.num_rows()).unwrap_or_default();
        for (leaf, column) in group.columns().iter().enumerate() {
            if mask.leaf_included(leaf) {
                bytes += usize::try_from(column.uncompressed_size()).unwrap_or_default();
            }
        }
    }
    let bytes_per_row = (bytes / rows.max(1)).max(1);
    (BATCH_BYTES / bytes_per_row).clamp(64, BATCH_ROWS)
}
