//! Takes the spine in: checks it, puts it down in pieces of even size, hashes it, and hands its
//! keys and times to the sorters. Memory is bounded however long the spine is; no history is read
//! here.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType as ArrowType, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::dictionary::garbage_collect_any_dictionary;
use hydrant_storage::history::DistinctKeys;
use hydrant_storage::keys::{KeyReader, slot_of};
use hydrant_storage::order::Micros;
use hydrant_storage::slices::{slice_bytes, without_shared};
use hydrant_storage::value::ScalarType;

use super::columns;
use super::digest::TableDigest;
use super::failure::JoinError;
use super::hits::Ranges;
use super::metrics::HistoryMetrics;
use super::plan::Plan;
use super::reading::SpineFacts;
use super::sort::{Parts, SpineSorter, Wanted};
use super::spill::{Chunk, SpillFile, SpillSpace};
use super::work::{Stop, in_parallel};
use crate::error::Error;

/// Of a sorted spine, about: a number a row, and a short distinct key with its place.
const SORTED_ROW_BYTES: u64 = 16 + 32;

/// How much memory a join's parts may take, and where they spill.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Bytes for the whole join.
    pub memory: usize,
    pub spill: Arc<SpillSpace>,
    /// An answer's batch has at most this many rows.
    pub batch_rows: usize,
    /// Parts of the sorted spine that are walked at the same time.
    pub threads: usize,
    /// A part has at least so many rows, where there are several and the sorted spine is in memory.
    pub part_rows: usize,
}

/// What a spine takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Its rows and its sorted keys.
    pub spine: u64,
    /// What of it, and of the rows found, goes to disk.
    pub spilled: u64,
}

/// A spine that is being taken in.
#[derive(Debug)]
pub struct SpineWriter {
    plan: Arc<Plan>,
    sorters: Vec<SpineSorter>,
    pieces: PieceWriter,
    digest: TableDigest,
    rows: u64,
    first_time: Micros,
    last_time: Micros,
    threads: usize,
    metrics: Arc<HistoryMetrics>,
}

/// What has to be done with a batch of the spine; each by itself.
enum Step<'a> {
    /// Its keys and times are sorted, under one sort of the plan.
    Sort(&'a mut SpineSorter, KeyReader, u64),
    /// Its rows are hashed and put down.
    Keep(&'a mut TableDigest, &'a mut PieceWriter),
}

/// A whole spine.
#[derive(Debug)]
pub struct Spine {
    /// For each sort of the plan.
    pub sorters: Vec<SpineSorter>,
    pub pieces: Pieces,
    pub rows: u64,
    /// The least event time,
    pub first_time: Micros,
    /// and the greatest.
    pub last_time: Micros,
    pub digest: TableDigest,
}

/// The spine's rows as they came, with their times in microseconds in a last column.
#[derive(Debug)]
pub struct Pieces {
    stored: Vec<Piece>,
    /// Bytes of those in memory.
    held_bytes: usize,
    spill: SpillFile,
}

#[derive(Debug)]
struct Piece {
    first: u64,
    rows: usize,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory(RecordBatch),
    Spilled(Chunk),
}

#[derive(Debug)]
struct PieceWriter {
    schema: SchemaRef,
    piece_rows: usize,
    buffered: Vec<RecordBatch>,
    buffered_rows: usize,
    next: u64,
    memory: usize,
    pieces: Pieces,
}

impl Budget {
    /// Bytes for the spine's rows, until the last of them is answered.
    fn for_pieces(&self) -> usize {
        self.memory / 4
    }

    /// Bytes for each sort's keys.
    fn for_sort(&self, sorts: usize) -> usize {
        self.memory / 4 / sorts.max(1)
    }

    /// Bytes for the rows that aren't known yet of each view that is being walked.
    pub fn for_waiting(&self, plan: &Plan) -> usize {
        self.memory / 8 / self.walked_at_once(plan)
    }

    /// Bytes for the open runs of each view that is being walked. The zip takes them when the walks
    /// have ended.
    pub fn for_runs(&self, plan: &Plan) -> usize {
        self.memory / 8 / self.walked_at_once(plan)
    }

    /// Bytes for the hits: those that the spine and its sorted keys have left.
    pub fn for_hits(&self, spine: &Spine) -> usize {
        let taken = spine.pieces.held_bytes + spine.sorters.iter().map(SpineSorter::bytes).sum::<usize>();
        (self.memory / 4 * 3).saturating_sub(taken).max(self.memory / 4)
    }

    /// Of these, bytes for those of each view that is being walked that aren't gathered yet.
    pub fn for_pending_hits(&self, plan: &Plan, for_hits: usize) -> usize {
        for_hits / 4 / self.walked_at_once(plan)
    }

    fn walked_at_once(&self, plan: &Plan) -> usize {
        let views_of = |sort: usize| plan.joins.iter().filter(|join| join.sort == sort).count();
        let most_views = (0..plan.sorts.len()).map(views_of).max().unwrap_or_default();
        (most_views * self.threads).max(1)
    }

    /// Whether the sorted keys of a spine of so many rows go to disk, about.
    pub fn spills_sort(&self, plan: &Plan, rows: u64) -> bool {
        rows.saturating_mul(SORTED_ROW_BYTES) > self.for_sort(plan.sorts.len()) as u64
    }

    /// What a spine of so many rows will take, about.
    pub fn needs(&self, plan: &Plan, rows: u64) -> Needs {
        let taken = |row_bytes: usize| rows.saturating_mul(row_bytes as u64);
        let (pieces, hits) = (taken(plan.spine_row_bytes()), taken(plan.hit_row_bytes()));
        let sort = taken(SORTED_ROW_BYTES as usize);
        let over = |bytes: u64, room: usize| if bytes > room as u64 { bytes } else { 0 };
        let sorts = plan.sorts.len() as u64;
        let spine = pieces.saturating_add(sort.saturating_mul(sorts));
        let for_hits = (self.memory as u64 / 4 * 3).saturating_sub(spine).max(self.memory as u64 / 4);
        let spilled = over(pieces, self.for_pieces())
            .saturating_add(over(sort, self.for_sort(plan.sorts.len())).saturating_mul(sorts))
            .saturating_add(hits.saturating_sub(for_hits / 4 * 3));
        Needs { spine, spilled }
    }

    /// Rows of a piece of the spine, and of the answer.
    fn piece_rows(&self, plan: &Plan) -> usize {
        const ANSWER_BYTES: usize = 4 << 20;
        let bytes = ANSWER_BYTES.min(self.memory / 32);
        (bytes / plan.output_row_bytes()).clamp(1, self.batch_rows.max(1))
    }

    /// Rows of an endpoint where its client doesn't say: as many whole ranges as make no more than
    /// `most` endpoints of a spine's rows.
    pub fn endpoint_rows(&self, plan: &Plan, rows: u64, most: u64) -> u64 {
        let piece = self.piece_rows(plan);
        let range = (self.range_rows(plan) / piece).max(1) * piece;
        let range = u64::try_from(range).unwrap_or(u64::MAX);
        range.saturating_mul(rows.div_ceil(range).div_ceil(most).max(1))
    }

    /// Rows of a range: its hits are in memory at once, as they were put down and in the spine's order,
    /// and the range of before as long as its last batches wait to be sent.
    fn range_rows(&self, plan: &Plan) -> usize {
        const RANGE_ROWS: usize = 131_072;
        (self.memory / 16 / plan.hit_row_bytes()).clamp(1, RANGE_ROWS)
    }
}

impl SpineWriter {
    pub fn new(plan: Arc<Plan>, budget: &Budget) -> Self {
        let parts = Parts { most: budget.threads, least_rows: budget.part_rows };
        let sorter = |_| SpineSorter::new(budget.for_sort(plan.sorts.len()), parts, &budget.spill);
        Self {
            sorters: plan.sorts.iter().map(sorter).collect(),
            pieces: PieceWriter::new(&plan, budget),
            digest: TableDigest::new(&plan.spine),
            plan,
            rows: 0,
            first_time: Micros::MAX,
            last_time: Micros::MIN,
            threads: budget.threads,
            metrics: budget.spill.metrics().clone(),
        }
    }

    /// Takes the next rows, unless stopped. After an error the spine is of no use.
    pub fn push(&mut self, batch: &RecordBatch, stop: &Stop) -> Result<(), JoinError> {
        let metrics = self.metrics.clone();
        metrics.timed(|metrics| &metrics.intake_time, || self.take(batch, stop))
    }

    fn take(&mut self, batch: &RecordBatch, stop: &Stop) -> Result<(), JoinError> {
        /// Fewer rows are taken in before another thread has begun.
        const ROWS_FOR_THREADS: usize = 8_192;
        if batch.schema().fields() != self.plan.spine.fields() {
            return Err(Error::invalid(
                "SPINE_SCHEMA_CHANGED",
                "a batch of the spine has other columns than the first",
            )
            .into());
        }
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let plan = self.plan.clone();
        let time_name = plan.spine.field(plan.event_time).name();
        let times = columns::event_times(batch.column(plan.event_time), time_name, self.rows)?;
        let mut columns_of_sorts = Vec::with_capacity(plan.sorts.len());
        for sort in &plan.sorts {
            let mut parts = Vec::with_capacity(sort.keys.len());
            for (column, key_type) in &sort.keys {
                let name = plan.spine.field(*column).name();
                parts.push(columns::key_column(batch.column(*column), *key_type, name, self.rows)?);
            }
            let types: Vec<ScalarType> = sort.keys.iter().map(|(_, key_type)| *key_type).collect();
            columns_of_sorts.push((parts, types, sort.slot_seed));
        }
        let mut steps = vec![Step::Keep(&mut self.digest, &mut self.pieces)];
        for (sorter, (parts, types, slot_seed)) in self.sorters.iter_mut().zip(&columns_of_sorts) {
            let reader = KeyReader::new(parts, types)
                .map_err(|error| Error::internal(format!("keys of the checked types can't be read: {error}")))?;
            steps.push(Step::Sort(sorter, reader, *slot_seed));
        }
        let threads = if batch.num_rows() < ROWS_FOR_THREADS { 1 } else { self.threads };
        let first_ordinal = self.rows;
        let step = |step: Step<'_>| match step {
            Step::Sort(sorter, keys, slot_seed) => sort_rows(sorter, &keys, slot_seed, &times, first_ordinal, stop),
            Step::Keep(digest, pieces) => {
                digest.update(batch)?;
                pieces.push(batch, times.clone(), stop)
            }
        };
        in_parallel(steps, threads, step, stop)?;
        self.first_time = times.values().iter().copied().fold(self.first_time, Micros::min);
        self.last_time = times.values().iter().copied().fold(self.last_time, Micros::max);
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn finish(self, stop: &Stop) -> Result<Spine, JoinError> {
        let Self { sorters, pieces, digest, rows, first_time, last_time, .. } = self;
        Ok(Spine { sorters, pieces: pieces.finish(stop)?, rows, first_time, last_time, digest })
    }
}

/// Hands the keys and times of a batch, whose first row has this ordinal, to a sorter.
fn sort_rows(
    sorter: &mut SpineSorter,
    keys: &KeyReader,
    slot_seed: u64,
    times: &Int64Array,
    first_ordinal: u64,
    stop: &Stop,
) -> Result<(), JoinError> {
    /// Long keys are handed over a few at a time.
    const GROUP_BYTES: usize = 16 << 10;
    let rows = times.len();
    let (mut encoded, mut group) = (Vec::new(), Vec::with_capacity(DistinctKeys::GROUP));
    let mut next = 0;
    while next < rows {
        encoded.clear();
        group.clear();
        while next < rows && group.len() < DistinctKeys::GROUP && encoded.len() < GROUP_BYTES {
            let start = encoded.len();
            // A key with a null part finds nothing.
            if keys.encode(next, &mut encoded) {
                group.push((start..encoded.len(), next));
            }
            next += 1;
        }
        let wanted = |(key, row): &(Range<usize>, usize)| {
            let key = &encoded[key.clone()];
            let slot = slot_of(slot_seed, key);
            Wanted { slot, key, time: times.value(*row), ordinal: first_ordinal + *row as u64 }
        };
        let wanted: Vec<_> = group.iter().map(wanted).collect();
        sorter.push(&wanted, stop)?;
    }
    Ok(())
}

impl Spine {
    pub fn facts(&self) -> SpineFacts {
        let times = (self.rows > 0).then_some((self.first_time, self.last_time));
        let is_spilled = !self.sorters.iter().all(SpineSorter::is_in_memory);
        SpineFacts { rows: self.rows, times, is_spilled }
    }
}

impl Pieces {
    pub fn count(&self) -> usize {
        self.stored.len()
    }

    /// The ordinal of a piece's first row.
    pub fn first_ordinal(&self, piece: usize) -> u64 {
        self.stored[piece].first
    }

    pub fn rows_of(&self, piece: usize) -> usize {
        self.stored[piece].rows
    }

    /// The spine's columns of a piece, and its times.
    pub fn read(&self, piece: usize) -> Result<(Vec<ArrayRef>, Int64Array), JoinError> {
        let batch = match &self.stored[piece].place {
            Place::Memory(batch) => batch.clone(),
            Place::Spilled(chunk) => self.spill.read(chunk)?,
        };
        let mut columns = batch.columns().to_vec();
        let times = columns.pop().ok_or(JoinError::DamagedSpill)?;
        let times = times.as_any().downcast_ref::<Int64Array>().cloned().ok_or(JoinError::DamagedSpill)?;
        Ok((columns, times))
    }

    /// Puts what is in memory on disk.
    pub fn put_down(&mut self, stop: &Stop) -> Result<(), JoinError> {
        // What is in memory was stored since the last time.
        for piece in self.stored.iter_mut().rev() {
            let Place::Memory(batch) = &piece.place else { break };
            stop.check()?;
            piece.place = Place::Spilled(self.spill.append(batch)?);
        }
        self.held_bytes = 0;
        Ok(())
    }

    /// Consecutive pieces put together into ranges that a zip holds in memory at once, and for each
    /// piece the range that it is in.
    pub fn ranges(&self, plan: &Plan, budget: &Budget) -> (Ranges, Vec<usize>) {
        let (mut starts, mut range_of, mut rows) = (Vec::new(), Vec::new(), 0);
        for piece in &self.stored {
            if starts.is_empty() || rows + piece.rows > budget.range_rows(plan) {
                starts.push(piece.first);
                rows = 0;
            }
            rows += piece.rows;
            range_of.push(starts.len() - 1);
        }
        (Ranges::new(starts), range_of)
    }
}

impl PieceWriter {
    fn new(plan: &Plan, budget: &Budget) -> Self {
        let times = Arc::new(Field::new("__micros", ArrowType::Int64, false));
        let fields: Vec<Arc<Field>> = plan.spine.fields().iter().cloned().chain([times]).collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            piece_rows: budget.piece_rows(plan),
            buffered: Vec::new(),
            buffered_rows: 0,
            next: 0,
            memory: budget.for_pieces(),
            pieces: Pieces { stored: Vec::new(), held_bytes: 0, spill: SpillFile::new(&budget.spill) },
        }
    }

    fn push(&mut self, batch: &RecordBatch, times: Int64Array, stop: &Stop) -> Result<(), JoinError> {
        let mut columns: Vec<ArrayRef> = batch.columns().iter().map(without_idle_values).collect();
        columns.push(Arc::new(times));
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = (self.piece_rows - self.buffered_rows).min(batch.num_rows() - from);
            self.buffered.push(batch.slice(from, rows));
            self.buffered_rows += rows;
            from += rows;
            if self.buffered_rows == self.piece_rows {
                self.store_buffered(stop)?;
            }
        }
        Ok(())
    }

    fn store_buffered(&mut self, stop: &Stop) -> Result<(), JoinError> {
        let buffered = std::mem::take(&mut self.buffered);
        self.buffered_rows = 0;
        if buffered.len() <= 1 {
            return buffered.into_iter().try_for_each(|piece| self.store(piece, stop));
        }
        match concat_batches(&self.schema, &buffered) {
            Ok(joined) => self.store(joined, stop),
            // Dictionaries whose keys are too narrow for all their values together.
            Err(_) => buffered.into_iter().try_for_each(|piece| self.store(piece, stop)),
        }
    }

    fn store(&mut self, batch: RecordBatch, stop: &Stop) -> Result<(), JoinError> {
        let (first, rows) = (self.next, batch.num_rows());
        let batch = without_shared(&batch)?;
        self.next += rows as u64;
        self.pieces.held_bytes += batch.columns().iter().map(|column| slice_bytes(column)).sum::<usize>();
        self.pieces.stored.push(Piece { first, rows, place: Place::Memory(batch) });
        if self.pieces.held_bytes > self.memory { self.pieces.put_down(stop) } else { Ok(()) }
    }

    fn finish(mut self, stop: &Stop) -> Result<Pieces, JoinError> {
        self.store_buffered(stop)?;
        Ok(self.pieces)
    }
}

/// A dictionary with more values than rows, as slices of great tables have, without those that no
/// row uses: every piece would be put down with all of them.
fn without_idle_values(column: &ArrayRef) -> ArrayRef {
    let idle = column.as_any_dictionary_opt().filter(|dictionary| dictionary.values().len() > dictionary.len());
    idle.and_then(|dictionary| garbage_collect_any_dictionary(dictionary).ok()).unwrap_or_else(|| column.clone())
}
