//! Sorts what a join looks for by (slot, key, time, ordinal), the order in which history lies, in a
//! bounded piece of memory: what is more goes to disk as sorted runs, merged when read. It knows
//! keys only as bytes.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, UInt16Array, UInt64Array};
use hydrant_storage::order::Micros;

use super::failure::JoinError;
use super::spill::{Chunk, SpillFile, SpillSpace};
use super::work::Stop;

/// One spine row to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted<'a> {
    pub slot: u16,
    pub key: &'a [u8],
    pub time: Micros,
    /// The row's place in the spine.
    pub ordinal: u64,
}

/// Takes spine rows in any order.
#[derive(Debug)]
pub struct SpineSorter {
    keys: Vec<u8>,
    entries: Vec<Entry>,
    memory: usize,
    runs: Vec<VecDeque<Chunk>>,
    spill: SpillFile,
    fan_in: usize,
}

/// Gives them back in order.
#[derive(Debug)]
pub struct SortedSpine(Source);

/// A sorted run is read in pieces of this many rows.
const CHUNK_ROWS: usize = 4_096;
/// How many runs are merged at once; more are merged in several passes.
const FAN_IN: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The key's first bytes: most comparisons end there.
    prefix: u64,
    start: u32,
    length: u32,
    time: Micros,
    ordinal: u64,
    slot: u16,
}

#[derive(Debug)]
enum Source {
    Memory { keys: Vec<u8>, entries: Vec<Entry>, next: usize },
    Merged(MergedChunks),
}

impl SpineSorter {
    /// Holds about `memory` bytes before it spills into `space`.
    pub fn new(memory: usize, space: &Arc<SpillSpace>) -> Self {
        let spill = SpillFile::new(space);
        Self { keys: Vec::new(), entries: Vec::new(), memory, runs: Vec::new(), spill, fan_in: FAN_IN }
    }

    pub fn push(&mut self, row: Wanted<'_>) -> Result<(), JoinError> {
        let bytes = self.keys.len() + row.key.len() + (self.entries.len() + 1) * size_of::<Entry>();
        if (bytes > self.memory && !self.entries.is_empty()) || self.keys.len() + row.key.len() > u32::MAX as usize {
            self.spill_run()?;
        }
        let start = self.keys.len() as u32;
        self.keys.extend_from_slice(row.key);
        let length = row.key.len() as u32;
        let Wanted { slot, key, time, ordinal } = row;
        self.entries.push(Entry { prefix: prefix_of(key), start, length, time, ordinal, slot });
        Ok(())
    }

    /// Merges what was spilled, unless stopped.
    pub fn finish(mut self, stop: &Stop) -> Result<SortedSpine, JoinError> {
        if self.runs.is_empty() {
            sort_entries(&self.keys, &mut self.entries);
            return Ok(SortedSpine(Source::Memory { keys: self.keys, entries: self.entries, next: 0 }));
        }
        if !self.entries.is_empty() {
            self.spill_run()?;
        }
        self.keys = Vec::new();
        self.entries = Vec::new();
        let (mut runs, mut spill) = (self.runs, self.spill);
        while runs.len() > self.fan_in {
            let mut merged_runs = Vec::new();
            let mut remaining = runs.into_iter().peekable();
            while remaining.peek().is_some() {
                let group: Vec<_> = remaining.by_ref().take(self.fan_in).collect();
                let mut merged = MergedChunks::new(group, spill)?;
                let mut writer = RunWriter::default();
                while merged.step()? {
                    if writer.push(merged.row()) {
                        stop.check()?;
                        writer.flush(&mut merged.spill)?;
                    }
                }
                merged_runs.push(writer.finish(&mut merged.spill)?);
                spill = merged.spill;
            }
            runs = merged_runs;
        }
        Ok(SortedSpine(Source::Merged(MergedChunks::new(runs, spill)?)))
    }

    fn spill_run(&mut self) -> Result<(), JoinError> {
        sort_entries(&self.keys, &mut self.entries);
        let mut writer = RunWriter::default();
        for entry in &self.entries {
            if writer.push(entry.wanted(&self.keys)) {
                writer.flush(&mut self.spill)?;
            }
        }
        self.runs.push(writer.finish(&mut self.spill)?);
        self.entries.clear();
        self.keys.clear();
        Ok(())
    }
}

impl SortedSpine {
    /// The next row, in ascending order.
    #[allow(clippy::should_implement_trait)] // the row borrows from here
    pub fn next(&mut self) -> Result<Option<Wanted<'_>>, JoinError> {
        match &mut self.0 {
            Source::Memory { keys, entries, next } => {
                let entry = entries.get(*next);
                *next += 1;
                Ok(entry.map(|entry| entry.wanted(keys)))
            }
            Source::Merged(merged) => {
                if merged.step()? {
                    Ok(Some(merged.row()))
                } else {
                    Ok(None)
                }
            }
        }
    }
}

impl Entry {
    fn wanted<'a>(&self, keys: &'a [u8]) -> Wanted<'a> {
        let key = &keys[self.start as usize..][..self.length as usize];
        Wanted { slot: self.slot, key, time: self.time, ordinal: self.ordinal }
    }
}

/// The first eight bytes as a number that orders as they do; what a shorter key lacks counts as 0.
fn prefix_of(key: &[u8]) -> u64 {
    (0..8).fold(0, |prefix, place| (prefix << 8) | u64::from(key.get(place).copied().unwrap_or(0)))
}

fn sort_entries(keys: &[u8], entries: &mut [Entry]) {
    entries.sort_unstable_by(|a, b| {
        let quick = (a.slot, a.prefix).cmp(&(b.slot, b.prefix));
        quick.then_with(|| a.wanted(keys).cmp(&b.wanted(keys)))
    });
}

/// Collects rows of a run into batches.
#[derive(Default)]
struct RunWriter {
    slots: Vec<u16>,
    key_ends: Vec<usize>,
    keys: Vec<u8>,
    times: Vec<i64>,
    ordinals: Vec<u64>,
    chunks: VecDeque<Chunk>,
}

impl RunWriter {
    /// Batches also end here, so that long keys don't overflow their offsets.
    const CHUNK_BYTES: usize = 1 << 20;

    /// Whether it wants to be flushed.
    fn push(&mut self, row: Wanted<'_>) -> bool {
        self.slots.push(row.slot);
        self.keys.extend_from_slice(row.key);
        self.key_ends.push(self.keys.len());
        self.times.push(row.time);
        self.ordinals.push(row.ordinal);
        self.slots.len() >= CHUNK_ROWS || self.keys.len() >= Self::CHUNK_BYTES
    }

    fn flush(&mut self, spill: &mut SpillFile) -> Result<(), JoinError> {
        if self.slots.is_empty() {
            return Ok(());
        }
        let starts = std::iter::once(0).chain(self.key_ends.iter().copied());
        let ranges = starts.zip(&self.key_ends).map(|(from, to)| &self.keys[from..*to]);
        let keys = BinaryArray::from_iter_values(ranges);
        let columns: [(&str, ArrayRef); 4] = [
            ("slot", Arc::new(UInt16Array::from(std::mem::take(&mut self.slots)))),
            ("key", Arc::new(keys)),
            ("time", Arc::new(Int64Array::from(std::mem::take(&mut self.times)))),
            ("ordinal", Arc::new(UInt64Array::from(std::mem::take(&mut self.ordinals)))),
        ];
        self.chunks.push_back(spill.append(&RecordBatch::try_from_iter(columns)?)?);
        self.keys.clear();
        self.key_ends.clear();
        Ok(())
    }

    fn finish(mut self, spill: &mut SpillFile) -> Result<VecDeque<Chunk>, JoinError> {
        self.flush(spill)?;
        Ok(self.chunks)
    }
}

/// A k-way merge: a binary heap of the runs, the least first.
#[derive(Debug)]
struct MergedChunks {
    heap: Vec<RunReader>,
    spill: SpillFile,
    /// Whether the first run's row was handed out, and has to be passed before the next.
    handed_out: bool,
}

#[derive(Debug)]
struct RunReader {
    chunks: VecDeque<Chunk>,
    slots: UInt16Array,
    keys: BinaryArray,
    times: Int64Array,
    ordinals: UInt64Array,
    index: usize,
}

impl MergedChunks {
    fn new(runs: Vec<VecDeque<Chunk>>, spill: SpillFile) -> Result<Self, JoinError> {
        let mut heap = Vec::with_capacity(runs.len());
        for chunks in runs {
            heap.extend(RunReader::open(chunks, &spill)?);
        }
        let mut merged = Self { heap, spill, handed_out: false };
        for index in (0..merged.heap.len() / 2).rev() {
            merged.sift_down(index);
        }
        Ok(merged)
    }

    /// Goes to the next row; `false` after the last.
    fn step(&mut self) -> Result<bool, JoinError> {
        if self.handed_out {
            self.handed_out = false;
            let first = &mut self.heap[0];
            if !first.advance(&self.spill)? {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
        self.handed_out = !self.heap.is_empty();
        Ok(self.handed_out)
    }

    fn row(&self) -> Wanted<'_> {
        self.heap[0].row()
    }

    fn sift_down(&mut self, mut index: usize) {
        loop {
            let (left, right) = (2 * index + 1, 2 * index + 2);
            let mut least = index;
            for child in [left, right] {
                if child < self.heap.len() && self.heap[child].row().cmp(&self.heap[least].row()) == Ordering::Less {
                    least = child;
                }
            }
            if least == index {
                return;
            }
            self.heap.swap(index, least);
            index = least;
        }
    }
}

impl RunReader {
    fn open(mut chunks: VecDeque<Chunk>, spill: &SpillFile) -> Result<Option<Self>, JoinError> {
        let Some(first) = chunks.pop_front() else { return Ok(None) };
        let [slots, keys, times, ordinals] = read_chunk(spill, &first)?;
        let slots = column::<UInt16Array>(&slots)?;
        let keys = column::<BinaryArray>(&keys)?;
        let times = column::<Int64Array>(&times)?;
        let ordinals = column::<UInt64Array>(&ordinals)?;
        Ok(Some(Self { chunks, slots, keys, times, ordinals, index: 0 }))
    }

    fn row(&self) -> Wanted<'_> {
        Wanted {
            slot: self.slots.value(self.index),
            key: self.keys.value(self.index),
            time: self.times.value(self.index),
            ordinal: self.ordinals.value(self.index),
        }
    }

    fn advance(&mut self, spill: &SpillFile) -> Result<bool, JoinError> {
        self.index += 1;
        if self.index < self.slots.len() {
            return Ok(true);
        }
        match Self::open(std::mem::take(&mut self.chunks), spill)? {
            Some(next) => {
                *self = next;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

fn read_chunk(spill: &SpillFile, chunk: &Chunk) -> Result<[ArrayRef; 4], JoinError> {
    let batch = spill.read(chunk)?;
    <[ArrayRef; 4]>::try_from(batch.columns().to_vec()).map_err(|_| JoinError::DamagedSpill)
}

fn column<A: Clone + 'static>(array: &ArrayRef) -> Result<A, JoinError> {
    array.as_any().downcast_ref::<A>().cloned().ok_or(JoinError::DamagedSpill)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(rows: &[(u16, Vec<u8>, i64, u64)], memory: usize, fan_in: usize) -> Vec<(u16, Vec<u8>, i64, u64)> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut sorter = SpineSorter::new(memory, &SpillSpace::new(directory.path(), 1 << 30, Arc::default()));
        sorter.fan_in = fan_in;
        for (slot, key, time, ordinal) in rows {
            sorter.push(Wanted { slot: *slot, key, time: *time, ordinal: *ordinal }).expect("taken");
        }
        let mut sorted = sorter.finish(&Stop::default()).expect("sorted");
        let mut out = Vec::new();
        while let Some(row) = sorted.next().expect("read") {
            out.push((row.slot, row.key.to_vec(), row.time, row.ordinal));
        }
        out
    }

    proptest! {
        #[test]
        fn spine_rows_come_out_in_history_order_whatever_fits_in_memory(
            rows in prop::collection::vec((0u16..4, prop::collection::vec(0u8..3, 0..12), -3i64..3, 0u64..1000), 0..200),
            memory in prop::sample::select(vec![1usize, 200, 2_000, 1 << 20]),
            fan_in in 2usize..5,
        ) {
            let mut expected = rows.clone();
            expected.sort();
            prop_assert_eq!(sorted(&rows, memory, fan_in), expected);
        }
    }
}
