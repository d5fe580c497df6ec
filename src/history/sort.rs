//! Sorts what a join looks for by (slot, key, time, ordinal), the order in which history lies, in a
//! bounded piece of memory: what is more goes to disk as sorted runs, merged when read. It knows
//! keys only as bytes.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, UInt16Array, UInt64Array};
use hydrant_storage::history::{DistinctKeys, SlotSet, SoughtKeys};
use hydrant_storage::keys::SlotRange;
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

/// Into how much a sorted spine is cut, by slots, so that it can be walked on several threads.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// So many parts at most.
    pub most: usize,
    /// A spine in memory that gives parts of fewer rows isn't cut.
    pub least_rows: usize,
}

/// Takes spine rows in the order of their ordinals.
#[derive(Debug)]
pub struct SpineSorter {
    keys: DistinctKeys,
    entries: Vec<Entry>,
    /// Of the keys that are being taken, the numbers.
    numbers: Vec<u32>,
    /// Entries count their ordinals from here.
    first_ordinal: u64,
    slots: SlotSet,
    memory: usize,
    parts: Vec<SlotRange>,
    least_part_rows: usize,
    /// Sorted runs, each cut into the parts.
    runs: Vec<Vec<VecDeque<Chunk>>>,
    spill: SpillFile,
    fan_in: usize,
}

/// Gives those of some slots back in order.
#[derive(Debug)]
pub struct SortedSpine {
    /// Which slots it is about: those of no other part.
    pub range: SlotRange,
    /// Those that its keys fall into.
    pub slots: SlotSet,
    source: Source,
}

/// A sorted run is read in pieces of this many rows.
const CHUNK_ROWS: usize = 4_096;
/// So few entries are sorted sooner by comparing them than by their digits.
const COMPARED: usize = 1_024;
/// How many bits entries are moved by at once.
const DIGIT_BITS: u32 = 8;
const DIGITS: usize = 1 << DIGIT_BITS;
/// How many runs are merged at once; more are merged in several passes.
const FAN_IN: usize = 64;

/// A key's number, a time and an ordinal in one number that orders as they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u128);

#[derive(Debug)]
enum Source {
    Memory { run: Arc<MemoryRun>, rest: Range<usize> },
    Merged(MergedChunks),
}

/// Sorted entries, whose keys are numbered in order.
#[derive(Debug)]
struct MemoryRun {
    keys: DistinctKeys,
    entries: Vec<Entry>,
    first_ordinal: u64,
}

impl SpineSorter {
    /// Holds about `memory` bytes before it spills into `space`.
    pub fn new(memory: usize, parts: Parts, space: &Arc<SpillSpace>) -> Self {
        /// Each part of each run is read by itself.
        const MOST_PARTS: usize = 64;
        Self {
            keys: DistinctKeys::default(),
            entries: Vec::new(),
            numbers: Vec::new(),
            first_ordinal: 0,
            slots: SlotSet::new(),
            memory,
            parts: SlotRange::split_evenly(parts.most.clamp(1, MOST_PARTS) as u16),
            least_part_rows: parts.least_rows,
            runs: Vec::new(),
            spill: SpillFile::new(space),
            fan_in: FAN_IN,
        }
    }

    /// Takes rows, which are sorted together: best as many as [`DistinctKeys::GROUP`].
    pub fn push(&mut self, rows: &[Wanted<'_>], stop: &Stop) -> Result<(), JoinError> {
        let Some((first, last)) = rows.first().zip(rows.last()) else { return Ok(()) };
        if !self.entries.is_empty() && !self.has_room_for(rows, last.ordinal) {
            self.spill_run(stop)?;
        }
        if self.entries.is_empty() {
            self.first_ordinal = first.ordinal;
        }
        if self.entries.capacity() - self.entries.len() < rows.len() {
            // Doubles, but not beyond what it may take.
            let left = self.memory.saturating_sub(self.bytes()) / size_of::<Entry>();
            self.entries.reserve_exact(self.entries.len().min(left).max(rows.len()).max(64));
        }
        self.numbers.clear();
        self.keys.numbers_of(rows.iter().map(|row| (row.slot, row.key)), &mut self.numbers);
        for (row, number) in rows.iter().zip(&self.numbers) {
            self.slots.insert(row.slot);
            self.entries.push(Entry::new(*number, row.time, (row.ordinal - self.first_ordinal) as u32));
        }
        Ok(())
    }

    fn has_room_for(&self, rows: &[Wanted<'_>], last_ordinal: u64) -> bool {
        let is_numbered = (last_ordinal - self.first_ordinal) <= u64::from(u32::MAX);
        let keys: usize = rows.iter().map(|row| row.key.len()).sum();
        is_numbered && self.keys.takes(rows.len(), keys) && self.bytes() + keys + size_of_val(rows) <= self.memory
    }

    /// About the memory that it takes.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.entries.len() * size_of::<Entry>()
    }

    /// Whether all of it is in memory.
    pub fn is_in_memory(&self) -> bool {
        self.runs.is_empty()
    }

    /// Sorts, merging what was spilled, unless stopped. The parts' slots ascend.
    pub fn finish(mut self, stop: &Stop) -> Result<Vec<SortedSpine>, JoinError> {
        if self.runs.is_empty() {
            let is_whole = self.entries.len() / self.parts.len() < self.least_part_rows;
            let parts = if is_whole { vec![SlotRange::ALL] } else { self.parts };
            let run = Arc::new(MemoryRun::sort(self.keys, self.entries, self.first_ordinal, stop)?);
            let part = |range: &SlotRange| SortedSpine {
                range: *range,
                slots: self.slots.within(*range),
                source: Source::Memory { rest: run.rows_of(*range), run: run.clone() },
            };
            return Ok(parts.iter().map(part).collect());
        }
        if !self.entries.is_empty() {
            self.spill_run(stop)?;
        }
        let Self { slots, parts, runs, spill, fan_in, .. } = self;
        let spill = Arc::new(spill);
        let mut sorted = Vec::with_capacity(parts.len());
        let mut runs = runs;
        for (number, range) in parts.into_iter().enumerate() {
            let of_part = runs.iter_mut().map(|run| std::mem::take(&mut run[number])).collect();
            let merged = merge_down(of_part, spill.clone(), fan_in, stop)?;
            sorted.push(SortedSpine { range, slots: slots.within(range), source: Source::Merged(merged) });
        }
        Ok(sorted)
    }

    fn spill_run(&mut self, stop: &Stop) -> Result<(), JoinError> {
        let (keys, entries) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.entries));
        let run = MemoryRun::sort(keys, entries, self.first_ordinal, stop)?;
        let mut parts = Vec::with_capacity(self.parts.len());
        for range in &self.parts {
            let mut writer = RunWriter::default();
            for row in run.rows_of(*range) {
                if writer.push(run.row(row)) {
                    stop.check()?;
                    writer.flush(&mut self.spill)?;
                }
            }
            parts.push(writer.finish(&mut self.spill)?);
        }
        self.runs.push(parts);
        self.entries = run.entries;
        self.entries.clear();
        Ok(())
    }
}

impl SortedSpine {
    /// Which keys are still to come, and at which instants; `None` where they lie on disk.
    pub fn sought(&self) -> Option<SoughtKeys> {
        let Source::Memory { run, rest } = &self.source else { return None };
        let mut sought = SoughtKeys::default();
        for row in rest.clone() {
            let Wanted { slot, key, time, .. } = run.row(row);
            sought.push(slot, key, time);
        }
        Some(sought)
    }

    /// The next row, in ascending order.
    #[allow(clippy::should_implement_trait)] // the row borrows from here
    pub fn next(&mut self) -> Result<Option<Wanted<'_>>, JoinError> {
        match &mut self.source {
            Source::Memory { run, rest } => Ok(rest.next().map(|row| run.row(row))),
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
    const SIGN: u64 = 1 << 63;

    fn new(key: u32, time: Micros, ordinal: u32) -> Self {
        let time = time.cast_unsigned() ^ Self::SIGN;
        Self(u128::from(key) << 96 | u128::from(time) << 32 | u128::from(ordinal))
    }

    fn key(self) -> u32 {
        (self.0 >> 96) as u32
    }

    fn time(self) -> Micros {
        ((self.0 >> 32) as u64 ^ Self::SIGN).cast_signed()
    }

    fn ordinal(self) -> u32 {
        self.0 as u32
    }

    fn with_key(self, key: u32) -> Self {
        Self(self.0 & (u128::MAX >> 32) | u128::from(key) << 96)
    }
}

impl MemoryRun {
    fn sort(
        mut keys: DistinctKeys,
        mut entries: Vec<Entry>,
        first_ordinal: u64,
        stop: &Stop,
    ) -> Result<Self, JoinError> {
        stop.check()?;
        let ranks = keys.sort();
        stop.check()?;
        for entry in &mut entries {
            *entry = entry.with_key(ranks[entry.key() as usize]);
        }
        sort_unless_stopped(&mut entries, COMPARED, stop)?;
        Ok(Self { keys, entries, first_ordinal })
    }

    fn row(&self, row: usize) -> Wanted<'_> {
        let entry = self.entries[row];
        let (slot, key) = self.keys.get(entry.key());
        Wanted { slot, key, time: entry.time(), ordinal: self.first_ordinal + u64::from(entry.ordinal()) }
    }

    fn rows_of(&self, range: SlotRange) -> Range<usize> {
        let keys = self.keys.of_slots(range);
        let first_of = |key: u32| self.entries.partition_point(|entry| entry.key() < key);
        first_of(keys.start)..first_of(keys.end)
    }
}

/// Sorts by eight bits at a time, from the highest in which any two differ, and no more than so many by
/// comparing them; in place, and so that a stop is seen soon.
fn sort_unless_stopped(entries: &mut [Entry], compared: usize, stop: &Stop) -> Result<(), JoinError> {
    stop.check()?;
    let Some((first, _)) = entries.split_first().filter(|(_, others)| others.len() >= compared) else {
        entries.sort_unstable();
        return Ok(());
    };
    let differing = entries.iter().fold(0, |differing, entry| differing | (entry.0 ^ first.0));
    let Some(highest) = differing.checked_ilog2() else { return Ok(()) };
    let mut rest = entries;
    for count in move_by_digit(rest, (highest + 1).saturating_sub(DIGIT_BITS)) {
        let (of_digit, others) = rest.split_at_mut(count);
        sort_unless_stopped(of_digit, compared, stop)?;
        rest = others;
    }
    Ok(())
}

/// Moves entries behind those whose digit from bit `shift` on is less (American flag sort; `McIlroy`, Bostic
/// and `McIlroy` 1993): how many have each digit.
fn move_by_digit(entries: &mut [Entry], shift: u32) -> [usize; DIGITS] {
    let digit = |entry: &Entry| (entry.0 >> shift) as usize % DIGITS;
    let mut counts = [0; DIGITS];
    for entry in entries.iter() {
        counts[digit(entry)] += 1;
    }
    let (mut next, mut ends, mut end) = ([0; DIGITS], [0; DIGITS], 0);
    for of in 0..DIGITS {
        next[of] = end;
        end += counts[of];
        ends[of] = end;
    }
    for of in 0..DIGITS {
        while next[of] < ends[of] {
            let mut entry = entries[next[of]];
            loop {
                let belongs = digit(&entry);
                std::mem::swap(&mut entry, &mut entries[next[belongs]]);
                next[belongs] += 1;
                if belongs == of {
                    break;
                }
            }
        }
    }
    counts
}

/// Merges runs until they can be merged at once, unless stopped.
fn merge_down(
    mut runs: Vec<VecDeque<Chunk>>,
    mut spill: Arc<SpillFile>,
    fan_in: usize,
    stop: &Stop,
) -> Result<MergedChunks, JoinError> {
    while runs.len() > fan_in {
        let mut merged_file = spill.another();
        let mut merged_runs = Vec::new();
        let mut remaining = runs.into_iter().peekable();
        while remaining.peek().is_some() {
            let group: Vec<_> = remaining.by_ref().take(fan_in).collect();
            let mut merged = MergedChunks::new(group, spill.clone());
            let mut writer = RunWriter::default();
            while merged.step()? {
                if writer.push(merged.row()) {
                    stop.check()?;
                    writer.flush(&mut merged_file)?;
                }
            }
            merged_runs.push(writer.finish(&mut merged_file)?);
        }
        runs = merged_runs;
        spill = Arc::new(merged_file);
    }
    Ok(MergedChunks::new(runs, spill))
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
    /// Runs whose first rows are read with the first row of all: until then they take no memory.
    unopened: Vec<VecDeque<Chunk>>,
    heap: Vec<RunReader>,
    spill: Arc<SpillFile>,
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
    fn new(runs: Vec<VecDeque<Chunk>>, spill: Arc<SpillFile>) -> Self {
        Self { heap: Vec::with_capacity(runs.len()), unopened: runs, spill, handed_out: false }
    }

    fn open(&mut self) -> Result<(), JoinError> {
        for chunks in std::mem::take(&mut self.unopened) {
            self.heap.extend(RunReader::open(chunks, &self.spill)?);
        }
        for index in (0..self.heap.len() / 2).rev() {
            self.sift_down(index);
        }
        Ok(())
    }

    /// Goes to the next row; `false` after the last.
    fn step(&mut self) -> Result<bool, JoinError> {
        if !self.unopened.is_empty() {
            self.open()?;
        }
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

    type Row = (u16, Vec<u8>, i64, u64);

    fn sorted(rows: &[Row], at_once: usize, memory: usize, parts: Parts, fan_in: usize) -> Vec<Vec<Row>> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut sorter = SpineSorter::new(memory, parts, &SpillSpace::new(directory.path(), 1 << 30, Arc::default()));
        sorter.fan_in = fan_in;
        let wanted: Vec<_> = rows
            .iter()
            .map(|(slot, key, time, ordinal)| Wanted { slot: *slot, key, time: *time, ordinal: *ordinal })
            .collect();
        for group in wanted.chunks(at_once) {
            sorter.push(group, &Stop::default()).expect("taken");
        }
        let parts = sorter.finish(&Stop::default()).expect("sorted");
        let read = |mut part: SortedSpine| {
            let (mut out, slots) = (Vec::new(), part.slots.clone());
            while let Some(row) = part.next().expect("read") {
                assert!(slots.contains(row.slot));
                out.push((row.slot, row.key.to_vec(), row.time, row.ordinal));
            }
            out
        };
        parts.into_iter().map(read).collect()
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![prop::collection::vec(0u8..3, 0..4), prop::collection::vec(0u8..2, 11..15)]
    }

    proptest! {
        #[test]
        fn spine_rows_come_out_in_history_order_whatever_fits_in_memory(
            rows in prop::collection::vec(
                (prop::sample::select(vec![0u16, 1, 30_000, 40_000, u16::MAX]), key(), prop_oneof![-3i64..3, any::<i64>()]),
                0..200,
            ),
            first in prop::sample::select(vec![0u64, 1 << 40]),
            memory in prop::sample::select(vec![1usize, 500, 4_000, 1 << 20]),
            most in 1usize..4,
            fan_in in 2usize..5,
            at_once in 1usize..50,
        ) {
            let rows: Vec<Row> =
                rows.into_iter().zip(first..).map(|((slot, key, time), ordinal)| (slot, key, time, ordinal)).collect();
            let mut expected = rows.clone();
            expected.sort();
            prop_assert_eq!(sorted(&rows, at_once, memory, Parts { most, least_rows: 20 }, fan_in).concat(), expected);
        }
    }

    proptest! {
        #[test]
        fn entries_sorted_by_their_digits_are_sorted(
            entries in prop::collection::vec(
                (prop_oneof![0u32..5, any::<u32>()], prop_oneof![-3i64..3, any::<i64>()], prop_oneof![0u32..3, any::<u32>()]),
                0..300,
            ),
            compared in 1usize..40,
        ) {
            let mut entries: Vec<Entry> =
                entries.into_iter().map(|(key, time, ordinal)| Entry::new(key, time, ordinal)).collect();
            let mut expected = entries.clone();
            expected.sort();
            sort_unless_stopped(&mut entries, compared, &Stop::default()).expect("nobody stops it");
            prop_assert_eq!(entries, expected);
        }
    }

    #[test]
    fn sorting_ends_where_nobody_waits_any_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let space = SpillSpace::new(directory.path(), 1 << 30, Arc::default());
        let stop = Stop::default();
        let row = |ordinal| Wanted { slot: 1, key: b"k", time: 0, ordinal };
        // One that has to be put down before the next row.
        let mut full = SpineSorter::new(1, Parts { most: 1, least_rows: 1 }, &space);
        full.push(&[row(0)], &stop).expect("taken");
        let mut held = SpineSorter::new(1 << 20, Parts { most: 1, least_rows: 1 }, &space);
        held.push(&[row(0)], &stop).expect("taken");
        stop.set();
        assert!(matches!(full.push(&[row(1)], &stop), Err(JoinError::Stopped)));
        assert!(matches!(held.finish(&stop), Err(JoinError::Stopped)));
    }

    #[test]
    fn many_rows_are_cut_into_parts_of_ascending_slots() {
        let rows: Vec<Row> =
            (0..40_000u64).map(|n| ((n * 40_503 % 65_536) as u16, n.to_be_bytes().to_vec(), -(n as i64), n)).collect();
        let mut expected = rows.clone();
        expected.sort();
        for memory in [100_000, 1 << 24] {
            let parts = sorted(&rows, 32, memory, Parts { most: 3, least_rows: 10_000 }, 64);
            assert_eq!(parts.len(), 3);
            assert!(parts.iter().all(|part| part.len() > 10_000));
            assert_eq!(parts.concat(), expected);
        }
        let whole = sorted(&rows, 32, 1 << 24, Parts { most: 3, least_rows: 20_000 }, 64);
        assert_eq!(whole, [expected]);
    }
}
