//! A batch of a source's rows, checked as ingest checks it, and put into columns for each view that keeps
//! history. Pure: definitions and time are given, and nothing is written.

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, BinaryArray, BooleanArray, RecordBatch};
use arrow_buffer::{BooleanBuffer, Buffer, OffsetBuffer, ScalarBuffer};
use arrow_select::filter::filter_record_batch;
use arrow_select::nullif::nullif;
use hydrant_storage::cast::to_exact;
use hydrant_storage::history::{RunBatch, absent};
use hydrant_storage::keys::{KeyReader, slot_of};
use hydrant_storage::order::Micros;
use hydrant_storage::row::{MAX_BODY_LENGTH, RowPacker};
use hydrant_storage::slices::slice_bytes;
use hydrant_storage::value::{DataType, ScalarType};

use super::target::Target;
use crate::error::{Error, Result};
use crate::registry::catalog::View;
use crate::registry::definition::KnownTimeRule;
use crate::rows::{BadRow, BadRows, Latest, RowTimes, SourceColumns, resolve};

/// What rows stand for that is known only once they are taken in.
pub(super) const LATER: i64 = 0;

/// What came of a batch.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// For each view of the target, in its order.
    pub views: Vec<CheckedView>,
    /// Rows within the range of event times.
    pub selected: u64,
    pub bad_rows: u64,
    /// The first of them, by their place in the whole backfill.
    pub named: Vec<(u64, BadRow)>,
}

#[derive(Debug)]
pub(super) struct CheckedView {
    pub rows: RunBatch,
    pub null_keys: u64,
    /// Of the rows those that are older than the view's retention.
    pub too_old: u64,
}

/// Checks a batch whose first row has the number `first_row` in the whole backfill.
pub(super) fn check(
    target: &Target,
    batch: RecordBatch,
    first_row: u64,
    now: Micros,
    max_key_bytes: usize,
) -> Result<Checked> {
    let source = target.source()?;
    let (batch, numbers) = select(target, batch, first_row)?;
    let rows = batch.num_rows();
    if rows == 0 {
        return Ok(Checked::default());
    }
    let mut bad_rows = BadRows::new(rows);
    let columns = SourceColumns::read(source, &target.known_time, &batch, target.ignore_extra, &mut bad_rows)?;
    let latest = Latest { store_time: now, max_future: source.max_future };
    let known_column = match &target.known_time {
        KnownTimeRule::Column(name) => Some(columns.times(name)?),
        _ => None,
    };
    let times = resolve(columns.times(&source.event_time)?, &target.known_time, known_column, latest, &mut bad_rows);
    let deleted = columns.deleted.clone().filter(|deleted| deleted.true_count() > 0);
    let of_batch = OfBatch { rows, now, numbers: &numbers, columns: &columns, times: &times, deleted, max_key_bytes };
    let mut is_part_of_a_view = vec![false; rows];
    let mut views = Vec::with_capacity(target.views.len());
    for view in &target.views {
        views.push(of_batch.view(view, &mut is_part_of_a_view, &mut bad_rows)?);
    }
    for row in (0..rows).filter(|row| !is_part_of_a_view[*row]) {
        let views: Vec<&str> = target.views.iter().map(|view| view.name.as_str()).collect();
        bad_rows.add(row, "key", || format!("its key is null for every view with history ({})", views.join(", ")));
    }
    let (bad, named) = bad_rows.into_named();
    let named = named.into_iter().map(|bad| (numbers.of(bad.row), bad)).collect();
    Ok(Checked { views, selected: rows as u64, bad_rows: bad as u64, named })
}

/// Which rows of the backfill a batch's are.
#[derive(Debug)]
enum Numbers {
    From(u64),
    Selected(Vec<u64>),
}

impl Numbers {
    fn of(&self, row: usize) -> u64 {
        match self {
            Self::From(first) => first + row as u64,
            Self::Selected(numbers) => numbers[row],
        }
    }
}

/// The rows within the wanted range of event times. Those whose time can't be read stay, to be refused.
fn select(target: &Target, batch: RecordBatch, first_row: u64) -> Result<(RecordBatch, Numbers)> {
    if target.from.is_none() && target.to.is_none() {
        return Ok((batch, Numbers::From(first_row)));
    }
    let name = &target.source()?.event_time;
    let times = batch.column_by_name(name.as_str());
    let times = times.and_then(|array| to_exact(array, DataType::Scalar(ScalarType::Timestamp)).ok());
    let Some(times) = times else { return Ok((batch, Numbers::From(first_row))) };
    let odd: std::collections::HashSet<usize> = times.misfits.iter().map(|misfit| misfit.row).collect();
    let times = times.array.as_primitive::<TimestampMicrosecondType>();
    let is_wanted = |row: usize| {
        let time = times.value(row);
        let within = target.from.is_none_or(|from| time >= from) && target.to.is_none_or(|to| time < to);
        within || times.is_null(row) || odd.contains(&row)
    };
    let wanted = BooleanArray::new(BooleanBuffer::collect_bool(batch.num_rows(), is_wanted), None);
    let numbers = wanted.values().set_indices().map(|row| first_row + row as u64).collect();
    let selected = filter_record_batch(&batch, &wanted);
    let selected = selected.map_err(|error| Error::internal(format!("rows could not be selected: {error}")))?;
    Ok((selected, Numbers::Selected(numbers)))
}

/// What all views of a batch have in common.
struct OfBatch<'a> {
    rows: usize,
    now: Micros,
    numbers: &'a Numbers,
    columns: &'a SourceColumns,
    times: &'a RowTimes,
    deleted: Option<BooleanArray>,
    max_key_bytes: usize,
}

impl OfBatch<'_> {
    /// The rows that have a key of the view.
    fn view(&self, view: &View, is_part_of_a_view: &mut [bool], bad_rows: &mut BadRows) -> Result<CheckedView> {
        let rows = self.rows;
        let keys = Keys::encode(self, view, is_part_of_a_view, bad_rows)?;
        let deleted = match &self.deleted {
            Some(deleted) => deleted.values().clone(),
            None => BooleanBuffer::new_unset(rows),
        };
        let features = self.features(view, bad_rows)?;
        let count = view.features.len() as u16;
        let feature_counts = (0..rows).map(|row| if deleted.value(row) { 0 } else { count }).collect();
        let known = match &self.times.known {
            Some(known) => ScalarBuffer::from(known.clone()),
            None => vec![LATER; rows].into(),
        };
        let batch = RunBatch {
            slots: keys.slots.into(),
            keys: keys.bytes,
            event_times: self.times.event.clone().into(),
            known_times: known,
            ingest_times: vec![LATER; rows].into(),
            frames: vec![LATER.cast_unsigned(); rows].into(),
            // A backfill has fewer rows than an int32 counts.
            ordinals: (0..rows).map(|row| self.numbers.of(row) as u32).collect(),
            revisions: vec![view.applied.revision; rows].into(),
            feature_counts,
            deleted,
            features,
        };
        let batch = match keys.null {
            0 => batch,
            _ => batch.filtered(keys.kept).map_err(|error| Error::internal(error.to_string()))?,
        };
        let is_too_old = |since: Micros| batch.event_times.iter().filter(|time| **time < since).count() as u64;
        let too_old = view.kept_since(self.now).map_or(0, is_too_old);
        Ok(CheckedView { rows: batch, null_keys: keys.null, too_old })
    }

    /// The view's features in its order, null where a row deletes.
    fn features(&self, view: &View, bad_rows: &mut BadRows) -> Result<Vec<ArrayRef>> {
        let mut features = Vec::with_capacity(view.features.len());
        let mut bytes = 0;
        for feature in &view.features {
            let column = self.columns.get_as(&feature.column, feature.data_type, bad_rows)?;
            let column = column.unwrap_or_else(|| absent(feature.data_type, self.rows));
            bytes += slice_bytes(&column);
            features.push(match &self.deleted {
                None => column,
                Some(deleted) => {
                    let gone = BooleanArray::new(deleted.values().clone(), None);
                    nullif(&column, &gone).map_err(|error| Error::internal(error.to_string()))?
                }
            });
        }
        if bytes > MAX_BODY_LENGTH {
            self.check_lengths(view, &features, bad_rows)?;
        }
        Ok(features)
    }

    /// A row that no packed row could hold could never be read online.
    fn check_lengths(&self, view: &View, features: &[ArrayRef], bad_rows: &mut BadRows) -> Result<()> {
        let columns = features.iter().cloned().map(Some).collect();
        let packer = RowPacker::new(&view.layout, columns)
            .map_err(|error| Error::internal(format!("columns of exact types could not be packed: {error}")))?;
        let mut packed = Vec::new();
        for row in 0..self.rows {
            packed.clear();
            if let Err(error) = packer.pack(row, &mut packed) {
                bad_rows.add(row, view.name.as_str(), || error.to_string());
            }
        }
        Ok(())
    }
}

/// The entity keys of a view.
struct Keys {
    slots: Vec<u16>,
    bytes: BinaryArray,
    kept: BooleanBuffer,
    null: u64,
}

impl Keys {
    fn encode(of: &OfBatch<'_>, view: &View, is_part_of_a_view: &mut [bool], bad_rows: &mut BadRows) -> Result<Self> {
        let mut arrays = Vec::with_capacity(view.join_keys.len());
        for key in &view.join_keys {
            let column = of.columns.get_as(&key.name, DataType::Scalar(key.key_type), bad_rows)?;
            arrays.push(column.ok_or_else(|| Error::internal(format!("key '{}' was checked and is gone", key.name)))?);
        }
        let types: Vec<ScalarType> = view.join_keys.iter().map(|key| key.key_type).collect();
        let reader = KeyReader::new(&arrays, &types)
            .map_err(|error| Error::internal(format!("key columns of exact types could not be read: {error}")))?;
        let rows = of.rows;
        let (mut buffer, mut ends) = (Vec::new(), Vec::with_capacity(rows + 1));
        let (mut slots, mut kept) = (Vec::with_capacity(rows), BooleanBufferBuilder::new(rows));
        ends.push(0);
        let mut null = 0;
        for (row, is_part) in is_part_of_a_view.iter_mut().enumerate() {
            let begin = buffer.len();
            let has_key = reader.encode(row, &mut buffer);
            kept.append(has_key);
            if has_key {
                *is_part = true;
                slots.push(slot_of(view.slot_seed, &buffer[begin..]));
            } else {
                null += 1;
                slots.push(0);
            }
            let (key_bytes, limit) = (buffer.len() - begin, of.max_key_bytes);
            if key_bytes > limit {
                let column = view.join_keys.first().map_or("", |key| key.name.as_str());
                bad_rows.add(row, column, || format!("the key has {key_bytes} bytes; 'ingest.max_key' allows {limit}"));
                buffer.truncate(begin);
            }
            let end = i32::try_from(buffer.len());
            ends.push(end.map_err(|_| Error::invalid("REQUEST_TOO_LARGE", "the keys of a batch take over 2 GiB"))?);
        }
        let bytes = BinaryArray::new(OffsetBuffer::new(ends.into()), Buffer::from_vec(buffer), None);
        Ok(Self { slots, bytes, kept: kept.finish(), null })
    }
}
