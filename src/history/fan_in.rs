//! Brings many sorted runs down to few: as many as fit in memory while they are open are merged into
//! one on disk, before the walk begins. So a history of thousands of landings that compaction has not
//! come to takes no more memory than one of a few. Rows that no spine row can ask for are left out; none is reordered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, PrimitiveArray, RecordBatch};
use arrow_buffer::ScalarBuffer;
use arrow_schema::{ArrowError, DataType as ArrowType, Field, Schema};
use arrow_select::interleave::interleave_record_batch;
use hydrant_storage::history::{HistoryError, MergedRuns, RowAt, Run, RunBatch, SlotSet};
use hydrant_storage::order::Micros;

use super::failure::JoinError;
use super::spill::{Chunk, SpillFile, SpillSpace};

/// How many runs on disk are merged at once; more are merged in several passes.
const FAN_IN: usize = 64;
/// A run on disk is read in pieces of about so much, or so many rows.
const CHUNK_BYTES: usize = 256 << 10;
const CHUNK_ROWS: usize = 8 * 1024;
/// Rows of a piece come from so many batches at most, which stay in memory until it is written.
const CHUNK_SOURCES: usize = 1_024;

/// Which rows are wanted, and what bringing their runs down may take.
#[derive(Debug)]
pub struct FanIn<'a> {
    pub slots: &'a SlotSet,
    pub cutoff: Option<Micros>,
    /// Bytes of the runs that are open at once.
    pub memory: usize,
    pub spill: &'a Arc<SpillSpace>,
}

/// A run, and the bytes that it takes while it is open.
pub struct OpenRun {
    pub run: Box<dyn Run>,
    pub bytes: usize,
}

impl FanIn<'_> {
    /// The same wanted rows in few runs. `runs` opens one after the other. Blocks.
    pub fn reduce(
        &self,
        runs: impl Iterator<Item = Result<OpenRun, JoinError>>,
    ) -> Result<Vec<Box<dyn Run>>, JoinError> {
        let mut spilled: Vec<Box<dyn Run>> = Vec::new();
        let (mut open, mut bytes) = (Vec::new(), 0);
        for run in runs {
            let OpenRun { run, bytes: more } = run?;
            if open.len() > 1 && bytes + more > self.memory {
                spilled.extend(self.spill(std::mem::take(&mut open))?);
                bytes = 0;
            }
            bytes += more;
            open.push(run);
        }
        while spilled.len() > FAN_IN {
            let mut fewer: Vec<Box<dyn Run>> = Vec::new();
            let mut remaining = spilled.into_iter().peekable();
            while remaining.peek().is_some() {
                fewer.extend(self.spill(remaining.by_ref().take(FAN_IN).collect())?);
            }
            spilled = fewer;
        }
        spilled.extend(open);
        Ok(spilled)
    }

    /// Several runs as one on disk; `None` if nothing of them is wanted.
    fn spill(&self, runs: Vec<Box<dyn Run>>) -> Result<Option<Box<dyn Run>>, JoinError> {
        let mut merged = MergedRuns::new(runs, self.cutoff)?;
        let mut writer = RunWriter::new(self.spill);
        while let Some(row) = merged.peek() {
            if self.slots.contains(row.slot()) {
                writer.push(row)?;
            }
            merged.advance()?;
        }
        writer.finish()
    }
}

/// Puts rows of several batches down as one run.
struct RunWriter {
    spill: SpillFile,
    chunks: VecDeque<(Chunk, u16)>,
    sources: Vec<Arc<RunBatch>>,
    /// Each source's place and the bytes of one of its rows.
    known: HashMap<*const RunBatch, (usize, usize)>,
    rows: Vec<(usize, usize)>,
    bytes: usize,
    last_slot: u16,
}

impl RunWriter {
    fn new(space: &Arc<SpillSpace>) -> Self {
        Self {
            spill: SpillFile::new(space),
            chunks: VecDeque::new(),
            sources: Vec::new(),
            known: HashMap::new(),
            rows: Vec::new(),
            bytes: 0,
            last_slot: 0,
        }
    }

    fn push(&mut self, row: &RowAt) -> Result<(), JoinError> {
        // A pointer names its batch for as long as `sources` holds it.
        let (source, row_bytes) = *self.known.entry(Arc::as_ptr(&row.batch)).or_insert_with(|| {
            self.sources.push(row.batch.clone());
            (self.sources.len() - 1, row.batch.row_bytes())
        });
        self.rows.push((source, row.index));
        self.bytes += row_bytes;
        self.last_slot = row.slot();
        let full = self.rows.len() >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES || self.sources.len() >= CHUNK_SOURCES;
        if full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), JoinError> {
        let batches: Result<Vec<RecordBatch>, _> = self.sources.iter().map(|source| to_record_batch(source)).collect();
        let batches = batches?;
        let gathered = interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &self.rows)?;
        self.chunks.push_back((self.spill.append(&gathered)?, self.last_slot));
        self.sources.clear();
        self.known.clear();
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<Option<Box<dyn Run>>, JoinError> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        if self.chunks.is_empty() {
            return Ok(None);
        }
        Ok(Some(Box::new(SpilledRun { spill: self.spill, chunks: self.chunks })))
    }
}

/// A run on disk: its pieces, each with its last slot.
struct SpilledRun {
    spill: SpillFile,
    chunks: VecDeque<(Chunk, u16)>,
}

impl Run for SpilledRun {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        let Some((chunk, _)) = self.chunks.pop_front() else { return Ok(None) };
        let read = self.spill.read(&chunk).and_then(|batch| to_run_batch(&batch).ok_or(JoinError::DamagedSpill));
        Ok(Some(Arc::new(read.map_err(JoinError::in_run)?)))
    }

    fn skip_to(&mut self, slot: u16, _key: &[u8]) -> Result<(), HistoryError> {
        while self.chunks.front().is_some_and(|(_, last_slot)| *last_slot < slot) {
            self.chunks.pop_front();
        }
        Ok(())
    }
}

/// The columns before the features.
const ROW_COLUMNS: [(&str, ArrowType); 10] = [
    ("slot", ArrowType::UInt16),
    ("key", ArrowType::Binary),
    ("event_time", ArrowType::Int64),
    ("known_time", ArrowType::Int64),
    ("ingest_time", ArrowType::Int64),
    ("frame", ArrowType::UInt64),
    ("ordinal", ArrowType::UInt32),
    ("revision", ArrowType::UInt64),
    ("feature_count", ArrowType::UInt16),
    ("deleted", ArrowType::Boolean),
];

fn to_record_batch(batch: &RunBatch) -> Result<RecordBatch, ArrowError> {
    fn column<T: ArrowPrimitiveType>(values: &ScalarBuffer<T::Native>) -> ArrayRef {
        Arc::new(PrimitiveArray::<T>::new(values.clone(), None))
    }
    let mut fields: Vec<Field> =
        ROW_COLUMNS.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), false)).collect();
    let mut columns: Vec<ArrayRef> = vec![
        column::<UInt16Type>(&batch.slots),
        Arc::new(batch.keys.clone()),
        column::<Int64Type>(&batch.event_times),
        column::<Int64Type>(&batch.known_times),
        column::<Int64Type>(&batch.ingest_times),
        column::<UInt64Type>(&batch.frames),
        column::<UInt32Type>(&batch.ordinals),
        column::<UInt64Type>(&batch.revisions),
        column::<UInt16Type>(&batch.feature_counts),
        Arc::new(BooleanArray::new(batch.deleted.clone(), None)),
    ];
    for (number, feature) in batch.features.iter().enumerate() {
        fields.push(Field::new(number.to_string(), feature.data_type().clone(), true));
        columns.push(feature.clone());
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// `None` if it isn't what [`to_record_batch`] made.
fn to_run_batch(batch: &RecordBatch) -> Option<RunBatch> {
    fn values<T: ArrowPrimitiveType>(column: &ArrayRef) -> Option<ScalarBuffer<T::Native>> {
        Some(column.as_primitive_opt::<T>()?.values().clone())
    }
    let (columns, features) = batch.columns().split_first_chunk::<{ ROW_COLUMNS.len() }>()?;
    let [slot, key, event_time, known_time, ingest_time, frame, ordinal, revision, feature_count, deleted] = columns;
    Some(RunBatch {
        slots: values::<UInt16Type>(slot)?,
        keys: key.as_binary_opt::<i32>()?.clone(),
        event_times: values::<Int64Type>(event_time)?,
        known_times: values::<Int64Type>(known_time)?,
        ingest_times: values::<Int64Type>(ingest_time)?,
        frames: values::<UInt64Type>(frame)?,
        ordinals: values::<UInt32Type>(ordinal)?,
        revisions: values::<UInt64Type>(revision)?,
        feature_counts: values::<UInt16Type>(feature_count)?,
        deleted: deleted.as_boolean_opt()?.values().clone(),
        features: features.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arrow_array::{BinaryArray, Int64Array, StringArray};

    use super::*;
    use crate::history::HistoryMetrics;

    /// One batch; counts how many of its kind there are.
    struct CountedRun {
        batch: Option<Arc<RunBatch>>,
        open: Arc<AtomicUsize>,
    }

    impl Run for CountedRun {
        fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
            Ok(self.batch.take())
        }
    }

    impl Drop for CountedRun {
        fn drop(&mut self) {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Rows of one frame: one for each slot, of a key that says the slot.
    fn batch(frame: u64, slots: &[u16]) -> RunBatch {
        let rows = slots.len();
        let numbers: ArrayRef = Arc::new(slots.iter().map(|slot| (slot % 3 != 0).then_some(1)).collect::<Int64Array>());
        let words: ArrayRef =
            Arc::new(StringArray::from_iter_values(slots.iter().map(|slot| format!("{frame} {slot}"))));
        RunBatch {
            slots: slots.to_vec().into(),
            keys: BinaryArray::from_iter_values(slots.iter().map(|slot| slot.to_be_bytes())),
            event_times: vec![7; rows].into(),
            known_times: vec![frame as i64; rows].into(),
            ingest_times: vec![frame as i64; rows].into(),
            frames: vec![frame; rows].into(),
            ordinals: (0..rows as u32).collect(),
            revisions: vec![3; rows].into(),
            feature_counts: vec![2; rows].into(),
            deleted: slots.iter().map(|slot| slot % 5 == 0).collect(),
            features: vec![numbers, words],
        }
    }

    #[test]
    fn of_any_number_of_runs_few_are_open_at_once_and_every_wanted_row_comes_in_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let metrics = Arc::new(HistoryMetrics::default());
        let space = SpillSpace::new(directory.path(), 1 << 30, metrics.clone());
        let all: Vec<u16> = (0..40).collect();
        let slots: SlotSet = all.iter().copied().filter(|slot| slot % 2 == 0).collect();
        let open = Arc::new(AtomicUsize::new(0));
        let mut most = 0;
        let runs = (1..=500).map(|frame| {
            most = most.max(open.fetch_add(1, Ordering::Relaxed) + 1);
            let run = CountedRun { batch: Some(Arc::new(batch(frame, &all))), open: open.clone() };
            Ok(OpenRun { run: Box::new(run), bytes: 100 })
        });
        let fan_in = FanIn { slots: &slots, cutoff: Some(450), memory: 500, spill: &space };
        let few = fan_in.reduce(runs).expect("merged");
        assert!(most <= 6, "{most} runs were open at once");
        assert!(few.len() <= FAN_IN + 5, "{} runs are left", few.len());
        assert!(metrics.spilled_now() > 0);

        let mut merged = MergedRuns::new(few, fan_in.cutoff).expect("read");
        for slot in &all {
            for frame in 1..=450 {
                let wanted = slots.contains(*slot);
                // The runs that stayed open have what nobody wants too.
                if !wanted
                    && merged.peek().is_none_or(|row| (row.slot(), row.batch.frames[row.index]) != (*slot, frame))
                {
                    continue;
                }
                let row = merged.peek().expect("a row");
                let expected = to_record_batch(&batch(frame, &all)).expect("columns").slice(usize::from(*slot), 1);
                assert_eq!(to_record_batch(&row.batch).expect("columns").slice(row.index, 1), expected);
                merged.advance().expect("read");
            }
        }
        assert!(merged.peek().is_none());
        drop(merged);
        assert_eq!((metrics.spilled_now(), open.load(Ordering::Relaxed)), (0, 0));
    }
}
