//! Puts the found rows beside the spine, range by range, in the spine's order: values, and on
//! request their statuses and event times. Which status a cell has, and when a default stands in,
//! is said by `storage::order` alone.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow_schema::Schema;
use arrow_select::interleave::interleave;
use hydrant_storage::order::{CellStatus, Micros, RowStatus, missing_cell_status, row_status};
use hydrant_storage::row::ColumnBuilder;
use hydrant_storage::slices::slice_bytes;
use hydrant_storage::value::Value;
use serde::{Deserialize, Serialize};

use super::digest::TableDigest;
use super::failure::JoinError;
use super::hits::{HitBatch, Hits, Ranges};
use super::plan::{Join, OutputColumn, Plan, PlannedLookup};
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

/// One join's hits in one range, in the spine's order.
#[derive(Debug)]
struct RangeHits {
    rows: Vec<Option<Hit>>,
    /// For each row of the range its batch and its place there; without a hit, that of a null.
    places: Vec<(usize, usize)>,
    /// The projected features.
    features: Vec<RangeFeature>,
}

/// One feature of a range's hits.
#[derive(Debug)]
enum RangeFeature {
    /// A value for each row of the range.
    Whole(ArrayRef),
    /// As the batches have it, and a null behind them: too large to be put together at once.
    Apart(Vec<ArrayRef>),
}

/// Of a feature's values in one range; what takes more is put together piece by piece.
const WHOLE_BYTES: usize = 16 << 20;

/// A row that counts.
#[derive(Clone, Copy, Debug)]
struct Hit {
    event_time: Micros,
    feature_count: u16,
}

/// What one lookup says about the rows of a piece.
#[derive(Debug)]
struct FoundPiece {
    rows: Vec<FoundRow>,
    /// Where its rows begin in the range.
    offset: usize,
    /// Whether some have no hit.
    has_missing: bool,
    /// Whether some have a hit that is not live.
    has_expired: bool,
    /// How many features each hit was written with at least.
    least_features: usize,
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
        let found_pieces: Vec<FoundPiece> =
            self.plan.lookups.iter().map(|lookup| find(lookup, &in_range[lookup.join], &times, offset)).collect();
        let spine_columns = columns.len();
        for number in 0..self.plan.columns.len() {
            let plan = self.plan.clone();
            let column = &plan.columns[number];
            match column.lookup {
                None => self.append_masked(number, times.len(), &mut columns),
                Some(lookup) => {
                    let join = &in_range[plan.lookups[lookup].join];
                    self.append_column(number, column, &found_pieces[lookup], join, &mut columns)?;
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
        found_piece: &FoundPiece,
        hits: &RangeHits,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), JoinError> {
        let [default, null] = &self.fillers[number];
        let FoundPiece { rows: found, offset, .. } = found_piece;
        let held = hits.values(column.projected, *offset, found.len())?;
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
            let picked: Vec<(usize, usize)> = found.iter().enumerate().map(pick).collect();
            interleave(&[held.as_ref(), default.as_ref(), null.as_ref()], &picked)?
        };
        let statuses = self.plan.with_status.then(|| {
            let mut statuses = StringBuilder::with_capacity(found.len(), found.len() * 8);
            for (row, found) in found.iter().enumerate() {
                let held = if values.is_null(row) { CellStatus::Null } else { CellStatus::Present };
                statuses.append_value(missing(found).unwrap_or(held).as_str());
            }
            Arc::new(statuses.finish()) as ArrayRef
        });
        let event_times = self.plan.with_event_time.then(|| {
            let times = found.iter().map(|row| {
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
            RangeHits::new(join, batches?.into_iter().flatten().collect(), start, rows)
        };
        plan.joins.iter().zip(hits).map(of_join).collect()
    }
}

impl RangeHits {
    fn new(join: &Join, batches: Vec<HitBatch>, start: u64, rows: usize) -> Result<Self, JoinError> {
        // Behind the batches lies a null for the rows without a hit.
        let null_at = (batches.len(), 0);
        let mut places = vec![null_at; rows];
        let mut hits = vec![None; rows];
        for (number, batch) in batches.iter().enumerate() {
            let versions = batch.event_times.values().iter().zip(batch.feature_counts.values());
            for (row, (ordinal, (event_time, feature_count))) in
                batch.ordinals.values().iter().zip(versions).enumerate()
            {
                let at = ordinal.checked_sub(start).map_or(rows, |at| at as usize);
                let (place, hit) = places.get_mut(at).zip(hits.get_mut(at)).ok_or(JoinError::DamagedSpill)?;
                *place = (number, row);
                *hit = Some(Hit { event_time: *event_time, feature_count: *feature_count });
            }
        }
        let feature = |(projected, feature): (usize, &usize)| {
            let null = new_null_array(&join.view.features[*feature].data_type.to_arrow(), 1);
            let batches = batches.iter().map(|batch| batch.features[projected].clone());
            let sources: Vec<ArrayRef> = batches.chain([null]).collect();
            let bytes: usize = sources.iter().map(|source| slice_bytes(source)).sum();
            if bytes > WHOLE_BYTES {
                return Ok(RangeFeature::Apart(sources));
            }
            put_together(&sources, &places).map(RangeFeature::Whole)
        };
        let features = join.features.iter().enumerate().map(feature).collect::<Result<_, JoinError>>()?;
        Ok(Self { rows: hits, places, features })
    }

    /// A feature's values of some rows: null where there is no hit.
    fn values(&self, projected: usize, offset: usize, rows: usize) -> Result<ArrayRef, JoinError> {
        match &self.features[projected] {
            RangeFeature::Whole(values) => Ok(values.slice(offset, rows)),
            RangeFeature::Apart(sources) => put_together(sources, &self.places[offset..offset + rows]),
        }
    }
}

fn put_together(sources: &[ArrayRef], places: &[(usize, usize)]) -> Result<ArrayRef, JoinError> {
    let sources: Vec<&dyn Array> = sources.iter().map(AsRef::as_ref).collect();
    Ok(interleave(&sources, places)?)
}

impl StatusCounts {
    fn add(&mut self, column: &OutputColumn, piece: &FoundPiece, values: &ArrayRef) {
        for (row, found) in piece.rows.iter().enumerate() {
            match missing_cell_status(found.status, column.feature, usize::from(found.feature_count)) {
                None if values.is_null(row) => self.null += 1,
                None => self.present += 1,
                Some(CellStatus::Expired) => self.expired += 1,
                Some(_) => self.not_found += 1,
            }
        }
    }
}

impl FoundPiece {
    /// Whether the column is what the range's hits hold, nulls where there is none.
    fn is_held(&self, column: &OutputColumn) -> bool {
        let takes_default = self.has_missing && column.default.is_some();
        !takes_default && !self.has_expired && column.feature < self.least_features
    }
}

fn find(lookup: &PlannedLookup, hits: &RangeHits, times: &Int64Array, offset: usize) -> FoundPiece {
    let mut piece = FoundPiece {
        rows: Vec::with_capacity(times.len()),
        offset,
        has_missing: false,
        has_expired: false,
        least_features: usize::MAX,
    };
    for (hit, time) in hits.rows[offset..].iter().zip(times.values()) {
        // Tombstones are no hits.
        let status = row_status(hit.map(|hit| (hit.event_time, false)), *time, lookup.ttl);
        piece.has_missing |= hit.is_none();
        piece.has_expired |= hit.is_some() && status != RowStatus::Live;
        piece.least_features =
            hit.map_or(piece.least_features, |hit| piece.least_features.min(hit.feature_count.into()));
        let Hit { event_time, feature_count } = hit.unwrap_or(Hit { event_time: 0, feature_count: 0 });
        piece.rows.push(FoundRow { status, event_time, feature_count });
    }
    piece
}

fn one_value(column: &OutputColumn, value: &Value) -> Result<ArrayRef, JoinError> {
    let mut builder = ColumnBuilder::new(column.data_type, 1);
    builder
        .push_value(value)
        .map_err(|error| crate::error::Error::internal(format!("a default of {}: {error}", column.name)))?;
    Ok(builder.finish())
}
