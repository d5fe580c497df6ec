//! Puts the found rows beside the spine, range by range, in the spine's order: values, and on
//! request their statuses and event times. Which status a cell has, and when a default stands in,
//! is said by `storage::order` alone.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow_schema::Schema;
use arrow_select::interleave::interleave;
use hydrant_storage::order::{CellStatus, Micros, RowStatus, missing_cell_status, row_status};
use hydrant_storage::row::ColumnBuilder;
use hydrant_storage::value::Value;
use serde::{Deserialize, Serialize};

use super::digest::TableDigest;
use super::failure::JoinError;
use super::hits::{HitBatch, Hits, Ranges};
use super::plan::{Join, OutputColumn, Plan, PlannedLookup};
use super::range_hits::RangeHits;
use super::spine::Pieces;
use super::work::Stop;

/// A spine, and the rows that were found for it: what an answer is put together of, as often as need
/// be.
#[derive(Debug)]
pub struct Found {
    pub plan: Arc<Plan>,
    pub pieces: Pieces,
    pub ranges: Arc<Ranges>,
    /// For each piece the range that it is in.
    pub range_of: Vec<usize>,
    /// Of each join, those of its walked parts.
    pub hits: Vec<Vec<Hits>>,
}

/// Gives the answer, or that to some rows of the spine, batch by batch.
#[derive(Debug)]
pub struct Zip {
    plan: Arc<Plan>,
    found: Arc<Found>,
    /// Ordinals of the spine.
    rows: Range<u64>,
    next_piece: usize,
    /// The hits of the range that is being answered, by join.
    range: Option<(usize, Vec<RangeHits>)>,
    /// For each column a default, if it has one, and a null, each an array of one row.
    fillers: Vec<[ArrayRef; 2]>,
    added: Schema,
    digest: TableDigest,
    nulls: Vec<u64>,
    /// Of each column, if they are counted.
    statuses: Option<Vec<StatusCounts>>,
}

/// How many cells of a column have each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCounts {
    pub present: u64,
    /// Written as null.
    pub null: u64,
    pub not_found: u64,
    pub expired: u64,
    #[serde(default)]
    pub masked: u64,
}

/// What one lookup says about the rows of a piece.
#[derive(Debug)]
struct FoundPiece<'a> {
    lookup: &'a PlannedLookup,
    hits: &'a RangeHits,
    times: &'a Int64Array,
    /// Where its rows begin in the range.
    offset: usize,
    /// Whether some have no hit.
    has_missing: bool,
    /// Whether some have a hit that is not live.
    has_expired: bool,
    /// How many features each hit was written with at least.
    least_features: usize,
    /// Row by row, once somebody asks.
    rows: OnceCell<Vec<FoundRow>>,
}

/// What one lookup says about one row.
#[derive(Clone, Copy, Debug)]
struct FoundRow {
    status: RowStatus,
    event_time: Micros,
    feature_count: u16,
}

impl Zip {
    /// Of these rows of the spine, by their ordinals.
    pub fn new(found: Arc<Found>, rows: Range<u64>) -> Result<Self, JoinError> {
        let plan = found.plan.clone();
        let added = Schema::new(plan.output.fields()[plan.spine.fields().len()..].to_vec());
        let fillers = plan.columns.iter().map(|column| {
            let default = column.default.as_ref().unwrap_or(&Value::Null);
            Ok([one_value(column, default)?, one_value(column, &Value::Null)?])
        });
        Ok(Self {
            fillers: fillers.collect::<Result<_, JoinError>>()?,
            digest: TableDigest::new(&added),
            nulls: vec![0; plan.columns.len()],
            added,
            next_piece: found.first_piece(rows.start),
            plan,
            found,
            rows,
            range: None,
            statuses: None,
        })
    }

    /// Counts statuses from now on, whether or not the answer has them.
    pub fn count_statuses(&mut self) {
        self.statuses = Some(vec![StatusCounts::default(); self.plan.columns.len()]);
    }

    /// What was counted so far.
    pub fn statuses(&self) -> &[StatusCounts] {
        self.statuses.as_deref().unwrap_or_default()
    }

    /// The next rows, in the spine's order; `None` after the last.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, JoinError> {
        let (found, piece) = (self.found.clone(), self.next_piece);
        let Found { pieces, ranges, range_of, .. } = found.as_ref();
        if piece >= pieces.count() || pieces.first_ordinal(piece) >= self.rows.end {
            return Ok(None);
        }
        self.next_piece += 1;
        let range = range_of[piece];
        let in_range = match self.range.take() {
            Some((current, in_range)) if current == range => in_range,
            _ => found.load_range(range)?,
        };
        let (mut columns, times) = pieces.read(piece)?;
        let offset = (pieces.first_ordinal(piece) - ranges.start(range)) as usize;
        let found_pieces: Vec<FoundPiece> = self
            .plan
            .lookups
            .iter()
            .map(|lookup| FoundPiece::new(lookup, &in_range[lookup.join], &times, offset))
            .collect();
        let spine_columns = columns.len();
        for number in 0..self.plan.columns.len() {
            let plan = self.plan.clone();
            let column = &plan.columns[number];
            match column.lookup {
                None => self.append_masked(number, times.len(), &mut columns),
                Some(lookup) => {
                    self.append_column(number, column, &found_pieces[lookup], &mut columns)?;
                }
            }
        }
        if let Some(counts) = &mut self.statuses {
            let beside = columns[spine_columns..].len() / self.plan.columns.len().max(1);
            let values = columns[spine_columns..].iter().step_by(beside.max(1));
            for ((counts, column), values) in counts.iter_mut().zip(&self.plan.columns).zip(values) {
                match column.lookup {
                    None => counts.masked += values.len() as u64,
                    Some(lookup) => counts.add(column, &found_pieces[lookup], values),
                }
            }
        }
        self.range = Some((range, in_range));
        let whole = RecordBatch::try_new(self.plan.output.clone(), columns)?;
        let wanted = self.wanted_of(piece);
        let batch = if wanted.len() == whole.num_rows() { whole } else { whole.slice(wanted.start, wanted.len()) };
        let added = RecordBatch::try_new(Arc::new(self.added.clone()), batch.columns()[spine_columns..].to_vec())?;
        self.digest.update(&added)?;
        let beside = 1 + usize::from(self.plan.with_status) + usize::from(self.plan.with_event_time);
        for (nulls, values) in self.nulls.iter_mut().zip(added.columns().iter().step_by(beside)) {
            *nulls += values.null_count() as u64;
        }
        Ok(Some(batch))
    }

    /// Which rows of a piece are asked for.
    fn wanted_of(&self, piece: usize) -> Range<usize> {
        let first = self.found.pieces.first_ordinal(piece);
        let rows = self.found.pieces.rows_of(piece);
        let within = |ordinal: u64| usize::try_from(ordinal.saturating_sub(first)).map_or(rows, |row| row.min(rows));
        within(self.rows.start)..within(self.rows.end)
    }

    /// How many nulls each column held so far.
    pub fn nulls(&self) -> &[u64] {
        &self.nulls
    }

    /// The hash of the added columns so far.
    pub fn digest(&self) -> String {
        self.digest.finish(&self.added)
    }

    /// A column that the caller may not see: nulls, and no times.
    fn append_masked(&self, column: usize, rows: usize, columns: &mut Vec<ArrayRef>) {
        let data_type = self.plan.columns[column].data_type.to_arrow();
        columns.push(new_null_array(&data_type, rows));
        let texts = || StringArray::from_iter_values(std::iter::repeat_n(CellStatus::Masked.as_str(), rows));
        columns.extend(self.plan.with_status.then(|| Arc::new(texts()) as ArrayRef));
        let times = || TimestampMicrosecondArray::new_null(rows).with_timezone("UTC");
        columns.extend(self.plan.with_event_time.then(|| Arc::new(times()) as ArrayRef));
    }

    fn append_column(
        &self,
        number: usize,
        column: &OutputColumn,
        found_piece: &FoundPiece<'_>,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), JoinError> {
        let [default, null] = &self.fillers[number];
        let held = found_piece.hits.values(column.projected, found_piece.offset, found_piece.times.len())?;
        let missing = |row: &FoundRow| missing_cell_status(row.status, column.feature, usize::from(row.feature_count));
        let values = if found_piece.is_held(column) {
            held
        } else {
            const DEFAULT: (usize, usize) = (1, 0);
            const NULL: (usize, usize) = (2, 0);
            let pick = |(place, row): (usize, &FoundRow)| match missing(row) {
                None => (0, place),
                Some(status) if status.takes_default() => DEFAULT,
                Some(_) => NULL,
            };
            let picked: Vec<(usize, usize)> = found_piece.rows().iter().enumerate().map(pick).collect();
            interleave(&[held.as_ref(), default.as_ref(), null.as_ref()], &picked)?
        };
        let statuses = self.plan.with_status.then(|| {
            let found = found_piece.rows();
            let mut statuses = StringBuilder::with_capacity(found.len(), found.len() * 8);
            for (row, found) in found.iter().enumerate() {
                let held = if values.is_null(row) { CellStatus::Null } else { CellStatus::Present };
                statuses.append_value(missing(found).unwrap_or(held).as_str());
            }
            Arc::new(statuses.finish()) as ArrayRef
        });
        let event_times = self.plan.with_event_time.then(|| {
            let times = found_piece.rows().iter().map(|row| {
                let counts = missing(row).is_none_or(|status| status != CellStatus::NotFound);
                counts.then_some(row.event_time)
            });
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC")) as ArrayRef
        });
        columns.push(values);
        columns.extend(statuses);
        columns.extend(event_times);
        Ok(())
    }
}

impl Found {
    /// Puts what is in memory on disk.
    pub fn put_down(&mut self, stop: &Stop) -> Result<(), JoinError> {
        self.pieces.put_down(stop)?;
        self.hits.iter_mut().flatten().try_for_each(|hits| hits.put_down(stop))
    }

    /// The piece that a row is in.
    fn first_piece(&self, ordinal: u64) -> usize {
        let (mut first, mut end) = (0, self.pieces.count());
        while first < end {
            let middle = first + (end - first) / 2;
            if self.pieces.first_ordinal(middle) + self.pieces.rows_of(middle) as u64 <= ordinal {
                first = middle + 1;
            } else {
                end = middle;
            }
        }
        first
    }

    fn load_range(&self, range: usize) -> Result<Vec<RangeHits>, JoinError> {
        let Self { plan, pieces, ranges, range_of, hits } = self;
        let start = ranges.start(range);
        let last = range_of.partition_point(|of| *of <= range) - 1;
        let rows = (pieces.first_ordinal(last) + pieces.rows_of(last) as u64 - start) as usize;
        let of_join = |(join, parts): (&Join, &Vec<Hits>)| {
            let batches: Result<Vec<Vec<HitBatch>>, _> = parts.iter().map(|hits| hits.read(range)).collect();
            let batches: Vec<HitBatch> = batches?.into_iter().flatten().collect();
            RangeHits::new(join, &batches, rows)
        };
        plan.joins.iter().zip(hits).map(of_join).collect()
    }
}

impl StatusCounts {
    fn add(&mut self, column: &OutputColumn, piece: &FoundPiece<'_>, values: &ArrayRef) {
        for (row, found) in piece.rows().iter().enumerate() {
            match missing_cell_status(found.status, column.feature, usize::from(found.feature_count)) {
                None if values.is_null(row) => self.null += 1,
                None => self.present += 1,
                Some(CellStatus::Expired) => self.expired += 1,
                Some(_) => self.not_found += 1,
            }
        }
    }
}

impl<'a> FoundPiece<'a> {
    fn new(lookup: &'a PlannedLookup, hits: &'a RangeHits, times: &'a Int64Array, offset: usize) -> Self {
        let counts = &hits.feature_counts[offset..offset + times.len()];
        let least_features = counts.iter().flatten().min().map_or(usize::MAX, |least| usize::from(*least));
        let has_missing = counts.iter().any(Option::is_none);
        let mut piece = Self {
            lookup,
            hits,
            times,
            offset,
            has_missing,
            has_expired: false,
            least_features,
            rows: OnceCell::new(),
        };
        // Without times, all hits are live.
        if hits.has_times() {
            let mut with_hit = piece.rows().iter().zip(counts).filter(|(_, count)| count.is_some());
            piece.has_expired = with_hit.any(|(row, _)| row.status != RowStatus::Live);
        }
        piece
    }

    fn rows(&self) -> &[FoundRow] {
        self.rows.get_or_init(|| (0..self.times.len()).map(|row| self.row(row)).collect())
    }

    fn row(&self, row: usize) -> FoundRow {
        let (count, event_time) =
            (self.hits.feature_counts[self.offset + row], self.hits.event_time(self.offset + row));
        let status = match (count, event_time) {
            // The walk has put down none that isn't.
            (Some(_), None) => RowStatus::Live,
            // Tombstones are no hits.
            _ => row_status(count.and(event_time).map(|at| (at, false)), self.times.value(row), self.lookup.ttl),
        };
        FoundRow { status, event_time: event_time.unwrap_or_default(), feature_count: count.unwrap_or_default() }
    }

    /// Whether the column is what the range's hits hold, nulls where there is none.
    fn is_held(&self, column: &OutputColumn) -> bool {
        let takes_default = self.has_missing && column.default.is_some();
        !takes_default && !self.has_expired && column.feature < self.least_features
    }
}

fn one_value(column: &OutputColumn, value: &Value) -> Result<ArrayRef, JoinError> {
    let mut builder = ColumnBuilder::new(column.data_type, 1);
    builder
        .push_value(value)
        .map_err(|error| crate::error::Error::internal(format!("a default of {}: {error}", column.name)))?;
    Ok(builder.finish())
}
