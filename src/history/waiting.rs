//! The rows of one key that have happened but aren't known yet, in a bounded piece of memory. A row
//! is dropped as soon as a greater one is known no later, for it can never be the one that counts;
//! so what is left ascends in version and in known time at once, and becomes known from the front.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt16Array, UInt32Array, UInt64Array};
use hydrant_storage::order::{Micros, Position, RowVersion};

use super::asof::{Candidate, Seen};
use super::block::{Block, BlockRow, Gather};
use super::failure::JoinError;
use super::spill::{Chunk, SpillFile, SpillSpace};

/// A queue of rows, whose back is dropped by greater rows and whose front becomes known.
#[derive(Debug)]
pub struct WaitingRows {
    segments: VecDeque<Segment>,
    memory: usize,
    held: Held,
    spill: SpillFile,
}

/// A spilled segment has at most this many rows.
const SEGMENT_ROWS: usize = 4_096;

#[derive(Debug)]
enum Segment {
    /// `own`: read back from disk, so that it holds no more memory than its rows need.
    Memory {
        rows: VecDeque<Candidate>,
        own: bool,
    },
    Spilled {
        chunk: Chunk,
        first_due: Micros,
        last_known: Micros,
        first_known: Micros,
    },
}

/// The memory that waiting rows keep alive, each block counted once.
#[derive(Debug, Default)]
struct Held {
    blocks: HashMap<*const Block, usize>,
    bytes: usize,
}

impl WaitingRows {
    /// Spills into `space` what goes beyond about `memory` bytes.
    pub fn new(memory: usize, space: &Arc<SpillSpace>) -> Self {
        Self { segments: VecDeque::new(), memory, held: Held::default(), spill: SpillFile::new(space) }
    }

    /// Adds a row greater than all before it.
    pub fn push(&mut self, row: Candidate) -> Result<(), JoinError> {
        self.drop_overtaken(row.seen.version.known_time)?;
        self.held.add(&row);
        match self.segments.back_mut() {
            Some(Segment::Memory { rows, own: false }) => rows.push_back(row),
            _ => self.segments.push_back(Segment::Memory { rows: VecDeque::from([row]), own: false }),
        }
        if self.held.bytes > self.memory { self.spill_held() } else { Ok(()) }
    }

    /// Takes the least row, if it is visible at `t`.
    pub fn pop_visible(&mut self, t: Micros) -> Result<Option<Candidate>, JoinError> {
        loop {
            match self.segments.front_mut() {
                None => return Ok(None),
                Some(Segment::Spilled { first_due, .. }) if *first_due > t => return Ok(None),
                Some(Segment::Spilled { .. }) => self.load(0)?,
                Some(Segment::Memory { rows, .. }) => match rows.front() {
                    None => {
                        self.segments.pop_front();
                    }
                    Some(row) if !row.seen.version.is_visible_at(t) => return Ok(None),
                    Some(_) => {
                        let row = rows.pop_front();
                        self.held.forget(row.as_ref());
                        return Ok(row);
                    }
                },
            }
        }
    }

    pub fn clear(&mut self) {
        if !self.segments.is_empty() {
            self.segments.clear();
            self.held = Held::default();
        }
        self.spill.clear();
    }

    /// Drops, from the back, the rows that are known no earlier than `known`.
    fn drop_overtaken(&mut self, known: Micros) -> Result<(), JoinError> {
        while let Some(back) = self.segments.back_mut() {
            match back {
                Segment::Spilled { first_known, .. } if *first_known >= known => {
                    self.segments.pop_back();
                }
                Segment::Spilled { last_known, .. } if *last_known < known => return Ok(()),
                Segment::Spilled { .. } => self.load(self.segments.len() - 1)?,
                Segment::Memory { rows, .. } => {
                    while let Some(row) = rows.pop_back_if(|row| row.seen.version.known_time >= known) {
                        self.held.forget(Some(&row));
                    }
                    if !rows.is_empty() {
                        return Ok(());
                    }
                    self.segments.pop_back();
                }
            }
        }
        Ok(())
    }

    /// Moves the rows that keep foreign blocks alive to disk, and, if that isn't enough, those
    /// between the first and the last segment.
    fn spill_held(&mut self) -> Result<(), JoinError> {
        self.spill_segments(|own, _| !own)?;
        if self.held.bytes > self.memory {
            self.spill_segments(|_, at_an_end| !at_an_end)?;
        }
        Ok(())
    }

    fn spill_segments(&mut self, chosen: impl Fn(bool, bool) -> bool) -> Result<(), JoinError> {
        let last = self.segments.len().saturating_sub(1);
        let segments = std::mem::take(&mut self.segments);
        for (index, segment) in segments.into_iter().enumerate() {
            match segment {
                Segment::Memory { rows, own } if chosen(own, index == 0 || index == last) => {
                    let mut rows = rows;
                    while !rows.is_empty() {
                        let piece: Vec<Candidate> = rows.drain(..rows.len().min(SEGMENT_ROWS)).collect();
                        let spilled = self.spill_piece(&piece)?;
                        self.segments.push_back(spilled);
                        piece.iter().for_each(|row| self.held.forget(Some(row)));
                    }
                }
                kept => self.segments.push_back(kept),
            }
        }
        Ok(())
    }

    fn spill_piece(&mut self, rows: &[Candidate]) -> Result<Segment, JoinError> {
        let (first, last) = (&rows[0].seen.version, &rows[rows.len() - 1].seen.version);
        // Due: the first row has happened, so it becomes visible when it is known.
        let (first_due, first_known, last_known) = (first.due_time(), first.known_time, last.known_time);
        let chunk = self.spill.append(&to_batch(rows)?)?;
        Ok(Segment::Spilled { chunk, first_due, last_known, first_known })
    }

    fn load(&mut self, index: usize) -> Result<(), JoinError> {
        if let Segment::Spilled { chunk, .. } = &self.segments[index] {
            let rows = from_batch(&self.spill.read(chunk)?)?;
            rows.iter().for_each(|row| self.held.add(row));
            self.segments[index] = Segment::Memory { rows, own: true };
        }
        Ok(())
    }
}

impl Held {
    fn add(&mut self, row: &Candidate) {
        self.bytes += size_of::<Candidate>();
        let users = self.blocks.entry(Arc::as_ptr(&row.row.block)).or_insert(0);
        if *users == 0 {
            self.bytes += row.row.block.bytes();
        }
        *users += 1;
    }

    fn forget(&mut self, row: Option<&Candidate>) {
        let Some(row) = row else { return };
        self.bytes = self.bytes.saturating_sub(size_of::<Candidate>());
        let pointer = Arc::as_ptr(&row.row.block);
        if let Some(users) = self.blocks.get_mut(&pointer) {
            *users -= 1;
            if *users == 0 {
                self.blocks.remove(&pointer);
                self.bytes = self.bytes.saturating_sub(row.row.block.bytes());
            }
        }
    }
}

fn to_batch(rows: &[Candidate]) -> Result<RecordBatch, JoinError> {
    let mut gather = Gather::default();
    let picked: Vec<_> = rows.iter().map(|row| (gather.number_of(&row.row.block), row.row.index as usize)).collect();
    let times = |of: fn(&RowVersion) -> i64| Int64Array::from_iter_values(rows.iter().map(|row| of(&row.seen.version)));
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("event".into(), Arc::new(times(|version| version.event_time))),
        ("known".into(), Arc::new(times(|version| version.known_time))),
        (
            "frame".into(),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.seen.version.position.frame))),
        ),
        (
            "ordinal".into(),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.seen.version.position.ordinal))),
        ),
        ("deleted".into(), Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.seen.deleted))))),
        ("count".into(), Arc::new(UInt16Array::from_iter_values(rows.iter().map(|row| row.row.feature_count())))),
    ];
    columns.extend(gather.features(&picked)?.into_iter().enumerate().map(|(n, array)| (format!("f{n}"), array)));
    Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))?)
}

fn from_batch(batch: &RecordBatch) -> Result<VecDeque<Candidate>, JoinError> {
    fn typed<A: 'static>(batch: &RecordBatch, index: usize) -> Result<&A, JoinError> {
        batch.column(index).as_any().downcast_ref::<A>().ok_or(JoinError::DamagedSpill)
    }
    if batch.num_columns() < 6 {
        return Err(JoinError::DamagedSpill);
    }
    let (event, known) = (typed::<Int64Array>(batch, 0)?, typed::<Int64Array>(batch, 1)?);
    let (frame, ordinal) = (typed::<UInt64Array>(batch, 2)?, typed::<UInt32Array>(batch, 3)?);
    let (deleted, counts) = (typed::<BooleanArray>(batch, 4)?, typed::<UInt16Array>(batch, 5)?);
    let block = Arc::new(Block::new(counts.clone(), batch.columns()[6..].to_vec()));
    let candidate = |index: usize| {
        let position = Position { frame: frame.value(index), ordinal: ordinal.value(index) };
        let version = RowVersion { event_time: event.value(index), known_time: known.value(index), position };
        let row = BlockRow { block: block.clone(), index: index as u32 };
        Candidate { seen: Seen { version, deleted: deleted.value(index) }, row }
    };
    Ok((0..batch.num_rows()).map(candidate).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::spill::SpillSpace;
    use super::*;

    fn candidate(ordinal: usize, event_time: Micros, known_time: Micros, block: &Arc<Block>) -> Candidate {
        let position = Position { frame: 1, ordinal: ordinal as u32 };
        let row = BlockRow { block: block.clone(), index: (ordinal % block.feature_counts.len()) as u32 };
        Candidate { seen: Seen { version: RowVersion { event_time, known_time, position }, deleted: false }, row }
    }

    proptest! {
        /// Against looking at every row, with rows that stay unknown for long, in any memory.
        #[test]
        fn the_greatest_known_row_is_found_however_many_rows_wait(
            mut rows in prop::collection::vec((0i64..50, 0i64..120), 1..120),
            memory in prop::sample::select(vec![0usize, 600, 2_000, 1 << 20]),
        ) {
            rows.sort();
            let directory = tempfile::tempdir().expect("a directory");
            let total = Arc::new(super::super::metrics::HistoryMetrics::default());
            let space = SpillSpace::new(directory.path(), 1 << 30, total.clone());
            let mut waiting = WaitingRows::new(memory, &space);
            let blocks: Vec<Arc<Block>> = (0..6)
                .map(|n| {
                    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(n * 20..(n + 1) * 20));
                    Arc::new(Block::new(UInt16Array::from(vec![1; 20]), vec![values]))
                })
                .collect();
            let all: Vec<Candidate> = rows
                .iter()
                .enumerate()
                .map(|(n, (event, known))| candidate(n, *event, event + known, &blocks[n / 20]))
                .collect();
            let mut next = 0;
            let mut known: Option<Candidate> = None;
            for t in 0..200 {
                while next < all.len() && all[next].seen.version.event_time <= t {
                    waiting.push(all[next].clone()).expect("taken");
                    next += 1;
                }
                while let Some(row) = waiting.pop_visible(t).expect("read") {
                    known = Some(row);
                }
                let expected = all.iter().filter(|row| row.seen.version.is_visible_at(t)).max_by_key(|row| row.seen.version);
                prop_assert_eq!(known.as_ref().map(|row| row.seen.version), expected.map(|row| row.seen.version), "at {}", t);
                if let Some(row) = &known {
                    let values = row.row.block.features[0].as_any().downcast_ref::<Int64Array>().expect("numbers");
                    prop_assert_eq!(values.value(row.row.index as usize), i64::from(row.seen.version.position.ordinal));
                }
            }
            waiting.clear();
            prop_assert_eq!(total.spilled_now(), 0);
        }
    }
}
