//! Puts the found rows beside the spine, range by range, in the spine's order: values, and on
//! request their statuses and event times. Which status a cell has, and when a default stands in,
//! is said by `storage::order` alone.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::Schema;
use arrow_select::interleave::interleave;
use hydrant_storage::order::{CellStatus, Micros, RowStatus, missing_cell_status, row_status};
use hydrant_storage::row::ColumnBuilder;
use hydrant_storage::value::Value;

use super::digest::TableDigest;
use super::failure::JoinError;
use super::hits::{HitBatch, Hits, Ranges};
use super::plan::{OutputColumn, Plan, PlannedLookup};
use super::spine::Pieces;

/// Gives the answer batch by batch.
#[derive(Debug)]
pub struct Zip {
    plan: Arc<Plan>,
    pieces: Pieces,
    next_piece: usize,
    range_of: Vec<usize>,
    ranges: Arc<Ranges>,
    hits: Vec<Hits>,
    /// The hits of the range that is being answered, by join.
    range: Option<(usize, Vec<RangeHits>)>,
    /// For each column a default, if it has one, and a null, each an array of one row.
    fillers: Vec<[ArrayRef; 2]>,
    added: Schema,
    digest: TableDigest,
    nulls: Vec<u64>,
}

/// One join's hits in one range.
#[derive(Debug)]
struct RangeHits {
    batches: Vec<HitBatch>,
    /// For each row of the range, where its hit is.
    places: Vec<Option<(u32, u32)>>,
}

/// What one lookup says about one row.
#[derive(Clone, Copy, Debug)]
struct Found {
    status: RowStatus,
    event_time: Micros,
    feature_count: u16,
    place: (u32, u32),
}

impl Zip {
    pub fn new(
        plan: Arc<Plan>,
        pieces: Pieces,
        ranges: Arc<Ranges>,
        range_of: Vec<usize>,
        hits: Vec<Hits>,
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
        let found: Vec<Vec<Found>> =
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
        self.hits.iter_mut().map(|hits| RangeHits::new(hits.take(range)?, start, rows)).collect()
    }

    fn append_column(
        &mut self,
        number: usize,
        column: &OutputColumn,
        found: &[Found],
        hits: &RangeHits,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), JoinError> {
        let [default, null] = &self.fillers[number];
        let mut sources: Vec<&dyn Array> =
            hits.batches.iter().map(|batch| batch.features[column.projected].as_ref()).collect();
        let (default_at, null_at) = ((sources.len(), 0), (sources.len() + 1, 0));
        sources.extend([default.as_ref(), null.as_ref()]);

        let missing = |row: &Found| missing_cell_status(row.status, column.feature, usize::from(row.feature_count));
        let picked: Vec<(usize, usize)> = found
            .iter()
            .map(|row| match missing(row) {
                None => (row.place.0 as usize, row.place.1 as usize),
                Some(status) if status.takes_default() => default_at,
                Some(_) => null_at,
            })
            .collect();
        let values = interleave(&sources, &picked)?;
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
    fn new(batches: Vec<HitBatch>, start: u64, rows: usize) -> Result<Self, JoinError> {
        let mut places = vec![None; rows];
        for (number, batch) in batches.iter().enumerate() {
            for (row, ordinal) in batch.ordinals.values().iter().enumerate() {
                let place = places.get_mut((ordinal - start) as usize).ok_or(JoinError::DamagedSpill)?;
                *place = Some((number as u32, row as u32));
            }
        }
        Ok(Self { batches, places })
    }
}

fn find(lookup: &PlannedLookup, hits: &RangeHits, times: &Int64Array, offset: usize) -> Vec<Found> {
    let places = &hits.places[offset..offset + times.len()];
    let found = |(place, time): (&Option<(u32, u32)>, &Micros)| match place {
        None => Found { status: row_status(None, *time, lookup.ttl), event_time: 0, feature_count: 0, place: (0, 0) },
        Some(place) => {
            let batch = &hits.batches[place.0 as usize];
            let event_time = batch.event_times.value(place.1 as usize);
            Found {
                // Tombstones are no hits.
                status: row_status(Some((event_time, false)), *time, lookup.ttl),
                event_time,
                feature_count: batch.feature_counts.value(place.1 as usize),
                place: *place,
            }
        }
    };
    places.iter().zip(times.values()).map(found).collect()
}

fn one_value(column: &OutputColumn, value: &Value) -> Result<ArrayRef, JoinError> {
    let mut builder = ColumnBuilder::new(column.data_type, 1);
    builder
        .push_value(value)
        .map_err(|error| crate::error::Error::internal(format!("a default of {}: {error}", column.name)))?;
    Ok(builder.finish())
}
