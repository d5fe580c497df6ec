//! The rows that a walk found, put down by range of spine ordinals, so that spine order comes back
//! without a sort: a walk finds them in history order, and the zip reads range after range. What
//! goes beyond the memory it may take is spilled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, UInt16Array, UInt32Array};
use hydrant_storage::order::Micros;
use hydrant_storage::slices::slice_bytes;

use super::asof::Candidate;
use super::block::{Gather, put_at};
use super::failure::JoinError;
use super::spill::{Chunk, SpillFile, SpillSpace};
use super::work::Stop;

/// Ranges of consecutive spine ordinals: range `n` ends where range `n + 1` begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    starts: Vec<u64>,
    /// Rows of the first, and of most others.
    rows: u64,
}

/// Takes the rows found by one walk, in any order of ordinals.
#[derive(Debug)]
pub struct HitWriter {
    ranges: Arc<Ranges>,
    gather: Gather,
    /// In the order in which they were found.
    pending: Vec<PendingHit>,
    /// How many of them are of each range.
    pending_of: Vec<u32>,
    /// What the pending rows' features will take once they are gathered, about: many may be of one row.
    pending_features: usize,
    hits: Hits,
    limits: HitLimits,
    stop: Stop,
}

/// What the hits of one walk may take.
#[derive(Clone, Debug)]
pub struct HitLimits {
    /// They are gathered into columns when their blocks take so many bytes.
    pub pending_bytes: usize,
    /// A walk's own columns are spilled where those of all walks take more.
    pub memory: Arc<HitMemory>,
}

/// What the hits of a join may take, over all of its walks.
#[derive(Debug)]
pub struct HitMemory {
    bytes: usize,
    held: AtomicUsize,
}

/// The rows found by one walk, by range.
#[derive(Debug)]
pub struct Hits {
    stored: Vec<Vec<Stored>>,
    has_times: bool,
    held_bytes: usize,
    spill: SpillFile,
}

/// Some hits of one range: for each the spine ordinal, from the range's start, how many features the row
/// was written with, its event time if anybody wants it, and the projected features.
#[derive(Debug)]
pub struct HitBatch {
    pub ordinals: UInt32Array,
    pub feature_counts: UInt16Array,
    pub event_times: Option<Int64Array>,
    pub features: Vec<ArrayRef>,
}

/// Hits are gathered into columns this many at a time.
const PENDING_ROWS: usize = 65_536;

#[derive(Debug)]
struct PendingHit {
    event_time: Micros,
    range: u32,
    /// From the range's start.
    ordinal: u32,
    block: u32,
    index: u32,
    feature_count: u16,
}

#[derive(Debug)]
enum Stored {
    Memory(RecordBatch),
    Spilled(Chunk),
}

impl Ranges {
    /// `starts` ascend from 0.
    pub fn new(starts: Vec<u64>) -> Self {
        let rows = starts.get(1).copied().unwrap_or(u64::MAX);
        Self { starts, rows }
    }

    pub fn count(&self) -> usize {
        self.starts.len()
    }

    pub fn start(&self, range: usize) -> u64 {
        self.starts[range]
    }

    fn place_in(&self, range: usize, ordinal: u64) -> u32 {
        u32::try_from(ordinal - self.starts[range]).expect("a range fits into memory as a whole")
    }

    fn of(&self, ordinal: u64) -> usize {
        let likely = (ordinal / self.rows) as usize;
        let is_in_it =
            |start: &u64| *start <= ordinal && self.starts.get(likely + 1).is_none_or(|next| ordinal < *next);
        match self.starts.get(likely).filter(|start| is_in_it(start)) {
            Some(_) => likely,
            None => self.starts.partition_point(|start| *start <= ordinal) - 1,
        }
    }
}

impl HitMemory {
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, held: AtomicUsize::new(0) })
    }

    /// Whether all hits together now take more than they may.
    fn hold(&self, bytes: usize) -> bool {
        self.held.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl HitWriter {
    /// Spills into `space` what is over the limits, unless stopped. Event times are kept if `has_times`.
    pub fn new(ranges: Arc<Ranges>, has_times: bool, limits: HitLimits, space: &Arc<SpillSpace>, stop: &Stop) -> Self {
        let pending_of = vec![0; ranges.count()];
        let stored = (0..ranges.count()).map(|_| Vec::new()).collect();
        let hits = Hits { stored, has_times, held_bytes: 0, spill: SpillFile::new(space) };
        Self {
            ranges,
            gather: Gather::default(),
            pending: Vec::new(),
            pending_of,
            pending_features: 0,
            hits,
            limits,
            stop: stop.clone(),
        }
    }

    pub fn push(&mut self, ordinal: u64, row: &Candidate) -> Result<(), JoinError> {
        let block = self.gather.number_of(&row.row.block) as u32;
        let (event_time, feature_count) = (row.seen.version.event_time, row.row.feature_count());
        let range = self.ranges.of(ordinal);
        self.pending_of[range] += 1;
        let (range, ordinal) = (range as u32, self.ranges.place_in(range, ordinal));
        self.pending.push(PendingHit { ordinal, event_time, range, block, index: row.row.index, feature_count });
        self.pending_features += row.row.block.row_bytes();
        let taken = self.gather.bytes() + self.pending_features;
        let pending_bytes = taken + size_of_val(self.pending.as_slice());
        if self.pending.len() >= PENDING_ROWS || pending_bytes > self.limits.pending_bytes {
            self.flush()
        } else {
            Ok(())
        }
    }

    pub fn finish(mut self) -> Result<Hits, JoinError> {
        self.flush()?;
        Ok(self.hits)
    }

    fn flush(&mut self) -> Result<(), JoinError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let batch = self.to_batch()?;
        let gathered = batch.columns().iter().map(|column| slice_bytes(column)).sum::<usize>();
        let mut from = 0;
        for (stored, rows) in self.hits.stored.iter_mut().zip(&mut self.pending_of) {
            let rows = std::mem::take(rows) as usize;
            if rows > 0 {
                stored.push(Stored::Memory(batch.slice(from, rows)));
                from += rows;
            }
        }
        self.gather.clear();
        self.pending.clear();
        self.pending_features = 0;
        self.hits.held_bytes += gathered;
        if self.limits.memory.hold(gathered) {
            self.limits.memory.release(self.hits.held_bytes);
            self.hits.put_down(&self.stop)?;
        }
        Ok(())
    }

    /// The pending hits, those of each range side by side.
    fn to_batch(&self) -> Result<RecordBatch, JoinError> {
        let first_of = self.pending_of.iter().scan(0, |end, rows| {
            *end += rows;
            Some(*end - rows)
        });
        let mut next_of: Vec<u32> = first_of.collect();
        let place = |hit: &PendingHit| {
            let next = &mut next_of[hit.range as usize];
            *next += 1;
            *next - 1
        };
        let places: Vec<u32> = self.pending.iter().map(place).collect();
        let rows: Vec<(usize, usize)> =
            self.pending.iter().map(|hit| (hit.block as usize, hit.index as usize)).collect();
        let ordinals = put_at(self.pending.iter().map(|hit| hit.ordinal), &places);
        let counts = put_at(self.pending.iter().map(|hit| hit.feature_count), &places);
        let mut columns: Vec<(String, ArrayRef)> = vec![
            ("ordinal".into(), Arc::new(UInt32Array::from(ordinals))),
            ("count".into(), Arc::new(UInt16Array::from(counts))),
        ];
        if self.hits.has_times {
            let times = put_at(self.pending.iter().map(|hit| hit.event_time), &places);
            columns.push(("event".into(), Arc::new(Int64Array::from(times))));
        }
        let features = self.gather.features_at(&rows, &places)?;
        columns.extend(features.into_iter().enumerate().map(|(n, array)| (format!("f{n}"), array)));
        Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))?)
    }
}

impl Hits {
    /// A range's hits, in no order.
    pub fn read(&self, range: usize) -> Result<Vec<HitBatch>, JoinError> {
        let read = |stored: &Stored| match stored {
            Stored::Memory(batch) => from_batch(batch, self.has_times),
            Stored::Spilled(chunk) => from_batch(&self.spill.read(chunk)?, self.has_times),
        };
        self.stored[range].iter().map(read).collect()
    }

    /// Puts what is in memory on disk.
    pub fn put_down(&mut self, stop: &Stop) -> Result<(), JoinError> {
        for stored in self.stored.iter_mut().flatten() {
            if let Stored::Memory(batch) = stored {
                stop.check()?;
                *stored = Stored::Spilled(self.spill.append(batch)?);
            }
        }
        self.held_bytes = 0;
        Ok(())
    }
}

fn from_batch(batch: &RecordBatch, has_times: bool) -> Result<HitBatch, JoinError> {
    fn typed<A: Clone + 'static>(batch: &RecordBatch, index: usize) -> Result<A, JoinError> {
        let column = batch.columns().get(index).and_then(|column| column.as_any().downcast_ref::<A>());
        column.cloned().ok_or(JoinError::DamagedSpill)
    }
    Ok(HitBatch {
        ordinals: typed(batch, 0)?,
        feature_counts: typed(batch, 1)?,
        event_times: has_times.then(|| typed(batch, 2)).transpose()?,
        features: batch.columns()[2 + usize::from(has_times)..].to_vec(),
    })
}
