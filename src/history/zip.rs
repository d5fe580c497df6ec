//! Puts the found rows beside the spine, range by range, in the spine's order: values, and on
//! request their statuses and event times. Which status a cell has, and when a default stands in,
//! is said by `storage::order` alone.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow_schema::Schema;
use arrow_select::interleave::interleave;
use hydrant_storage::order::{CellStatus, Micros, RowStatus, missing_cell_status, row_status};
use hydrant_storage::row::ColumnBuilder;
use hydrant_storage::slices::slice_bytes;
use hydrant_storage::value::Value;

use super::digest::TableDigest;
use super::failure::JoinError;
use super::hits::{HitBatch, Hits, Ranges};
use super::plan::{Join, OutputColumn, Plan, PlannedLookup};
use super::spine::Pieces;

/// Gives the answer batch by batch.
#[derive(Debug)]
pub struct Zip {
    plan: Arc<Plan>,
    pieces: Pieces,
    next_piece: usize,
    range_of: Vec<usize>,
    ranges: Arc<Ranges>,
    /// Of each join, those of its walked parts.
    hits: Vec<Vec<Hits>>,
    /// The hits of the range that is being answered, by join.
    range: Option<(usize, Vec<RangeHits>)>,
    /// For each column a default, if it has one, and a null, each an array of one row.
    fillers: Vec<[ArrayRef; 2]>,
    added: Schema,
    digest: TableDigest,
    nulls: Vec<u64>,
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
    rows: Vec<Found>,
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
struct Found {
    status: RowStatus,
    event_time: Micros,
    feature_count: u16,
}

impl Zip {
    pub fn new(
        plan: Arc<Plan>,
        pieces: Pieces,
        ranges: Arc<Ranges>,
        range_of: Vec<usize>,
        hits: Vec<Vec<Hits>>,
    ) -> Result<Self, JoinError> {
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
            plan,
            pieces,
            next_piece: 0,
            range_of,
            ranges,
            hits,
            range: None,
        })
    }

    /// The next rows, in the spine's order; `None` after the last.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, JoinError> {
        let piece = self.next_piece;
        if piece >= self.pieces.count() {
            return Ok(None);
        }
        self.next_piece += 1;
        let range = self.range_of[piece];
        let next_range = range + 1;
        let range_end = if next_range < self.ranges.count() { self.ranges.start(next_range) } else { u64::MAX };
        let in_range = match self.range.take() {
            Some((current, in_range)) if current == range => in_range,
            _ => self.load_range(range, range_end)?,
        };
        let (mut columns, times) = self.pieces.take(piece)?;
        let offset = (self.pieces.first_ordinal(piece) - self.ranges.start(range)) as usize;
        let found: Vec<FoundPiece> =
            self.plan.lookups.iter().map(|lookup| find(lookup, &in_range[lookup.join], &times, offset)).collect();
        let spine_columns = columns.len();
        for number in 0..self.plan.columns.len() {
            let plan = self.plan.clone();
            let column = &plan.columns[number];
            let join = &in_range[plan.lookups[column.lookup].join];
            self.append_column(number, column, &found[column.lookup], join, &mut columns)?;
        }
        let added = RecordBatch::try_new(Arc::new(self.added.clone()), columns[spine_columns..].to_vec())?;
        self.digest.update(&added)?;
        self.range = Some((range, in_range));
        Ok(Some(RecordBatch::try_new(self.plan.output.clone(), columns)?))
    }

    /// How many nulls each column held so far.
    pub fn nulls(&self) -> &[u64] {
        &self.nulls
    }

    /// The hash of the added columns so far.
    pub fn digest(&self) -> String {
        self.digest.finish(&self.added)
    }

    fn load_range(&mut self, range: usize, end: u64) -> Result<Vec<RangeHits>, JoinError> {
        let start = self.ranges.start(range);
        let last = self.range_of.partition_point(|of| *of <= range) - 1;
        let end = end.min(self.pieces.first_ordinal(last) + self.pieces.rows_of(last) as u64);
        let rows = (end - start) as usize;
        let of_join = |(join, parts): (&Join, &mut Vec<Hits>)| {
            let batches: Result<Vec<Vec<HitBatch>>, _> = parts.iter_mut().map(|hits| hits.take(range)).collect();
            RangeHits::new(join, batches?.into_iter().flatten().collect(), start, rows)
        };
        self.plan.joins.iter().zip(&mut self.hits).map(of_join).collect()
    }

    fn append_column(
        &mut self,
        number: usize,
        column: &OutputColumn,
        found_piece: &FoundPiece,
        hits: &RangeHits,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), JoinError> {
        let [default, null] = &self.fillers[number];
        let FoundPiece { rows: found, offset, .. } = found_piece;
        let held = hits.values(column.projected, *offset, found.len())?;
        let missing = |row: &Found| missing_cell_status(row.status, column.feature, usize::from(row.feature_count));
        let values = if found_piece.is_held(column) {
            held
        } else {
            const DEFAULT: (usize, usize) = (1, 0);
            const NULL: (usize, usize) = (2, 0);
            let pick = |(place, row): (usize, &Found)| match missing(row) {
                None => (0, place),
                Some(status) if status.takes_default() => DEFAULT,
                Some(_) => NULL,
            };
            let picked: Vec<(usize, usize)> = found.iter().enumerate().map(pick).collect();
            interleave(&[held.as_ref(), default.as_ref(), null.as_ref()], &picked)?
        };
        self.nulls[number] += values.null_count() as u64;

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
        piece.rows.push(Found { status, event_time, feature_count });
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
