//! Sorted runs: what a history file and a partition's tail have in common. A run hands out batches
//! of rows in history order and may skip ahead; it never reorders, never drops a row that was asked
//! for, and never repeats one.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, PrimitiveArray};
use arrow_buffer::{BooleanBuffer, ScalarBuffer};
use arrow_select::filter::{FilterBuilder, FilterPredicate};

use crate::history::HistoryError;
use crate::keys::SlotRange;
use crate::order::{Micros, Position, RowVersion};
use crate::row::{OwnedRow, RowHeader, RowKind, RowLayout, RowPacker};
use crate::slices::slice_bytes;

/// A source of rows in history order. Reading blocks: use it inside a blocking task.
pub trait Run: Send {
    /// The next batch, not empty; `None` at the end.
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError>;

    /// Leave out what can cheaply be left out of the rows before `(slot, key)`. Rows before it may
    /// still come; rows at or after it all do.
    fn skip_to(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        let _ = (slot, key);
        Ok(())
    }
}

impl<R: Run + ?Sized> Run for Box<R> {
    fn next(&mut self) -> Result<Option<Arc<RunBatch>>, HistoryError> {
        (**self).next()
    }

    fn skip_to(&mut self, slot: u16, key: &[u8]) -> Result<(), HistoryError> {
        (**self).skip_to(slot, key)
    }
}

/// Rows of one view in history order, column by column. All columns are of one length.
#[derive(Clone, Debug)]
pub struct RunBatch {
    pub slots: ScalarBuffer<u16>,
    pub keys: BinaryArray,
    pub event_times: ScalarBuffer<Micros>,
    pub known_times: ScalarBuffer<Micros>,
    pub ingest_times: ScalarBuffer<Micros>,
    pub frames: ScalarBuffer<u64>,
    pub ordinals: ScalarBuffer<u32>,
    /// The definition revision each row was written under.
    pub revisions: ScalarBuffer<u64>,
    /// How many of the view's features each row knew; a later one is NOT_FOUND in it.
    pub feature_counts: ScalarBuffer<u16>,
    pub deleted: BooleanBuffer,
    /// The projected features in the projection's order, of the types `DataType::to_arrow()`.
    pub features: Vec<ArrayRef>,
}

impl RunBatch {
    pub fn rows(&self) -> usize {
        self.slots.len()
    }

    pub fn version(&self, row: usize) -> RowVersion {
        RowVersion {
            event_time: self.event_times[row],
            known_time: self.known_times[row],
            position: Position { frame: self.frames[row], ordinal: self.ordinals[row] },
        }
    }

    /// The bytes of one row, on average.
    pub fn row_bytes(&self) -> usize {
        const FIXED: usize = 2 + 3 * 8 + 8 + 4 + 8 + 2 + 1;
        let variable = slice_bytes(&self.keys) + self.features.iter().map(|column| slice_bytes(column)).sum::<usize>();
        FIXED + variable / self.rows().max(1)
    }

    /// How the row's key stands to another, in history order.
    pub fn compare_key(&self, row: usize, slot: u16, key: &[u8]) -> Ordering {
        self.slots[row].cmp(&slot).then_with(|| self.keys.value(row).cmp(key))
    }

    /// How one of its rows stands to any row, in history order: (slot, key, event time, known time,
    /// position).
    pub fn compare_row(&self, row: usize, other: &RowAt) -> Ordering {
        self.compare_key(row, other.slot(), other.key()).then_with(|| self.version(row).cmp(&other.version()))
    }

    /// The first row at or after `from` whose (slot, key) is not before the given one.
    pub fn first_at_or_after(&self, from: usize, slot: u16, key: &[u8]) -> usize {
        first_past(from, self.rows(), |row| self.compare_key(row, slot, key) == Ordering::Less)
    }

    /// Of `rows` the first whose (slot, key) is after the given one, or their end.
    pub fn first_after(&self, rows: Range<usize>, slot: u16, key: &[u8]) -> usize {
        first_past(rows.start, rows.end, |row| self.compare_key(row, slot, key) != Ordering::Greater)
    }

    /// Of `rows`, which are of one key, the first that has not happened by `until`, or their end.
    pub fn first_later(&self, rows: Range<usize>, until: Micros) -> usize {
        first_past(rows.start, rows.end, |row| self.event_times[row] <= until)
    }

    /// So many of its rows, from one on. They share its memory.
    pub fn slice(&self, from: usize, rows: usize) -> Self {
        Self {
            slots: self.slots.slice(from, rows),
            keys: self.keys.slice(from, rows),
            event_times: self.event_times.slice(from, rows),
            known_times: self.known_times.slice(from, rows),
            ingest_times: self.ingest_times.slice(from, rows),
            frames: self.frames.slice(from, rows),
            ordinals: self.ordinals.slice(from, rows),
            revisions: self.revisions.slice(from, rows),
            feature_counts: self.feature_counts.slice(from, rows),
            deleted: self.deleted.slice(from, rows),
            features: self.features.iter().map(|column| column.slice(from, rows)).collect(),
        }
    }

    /// The rows for which `keep` is set, one bit a row.
    pub fn filtered(&self, keep: BooleanBuffer) -> Result<Self, HistoryError> {
        fn values<T: ArrowPrimitiveType>(
            values: &ScalarBuffer<T::Native>,
            keep: &FilterPredicate,
        ) -> Result<ScalarBuffer<T::Native>, HistoryError> {
            let kept = keep.filter(&PrimitiveArray::<T>::new(values.clone(), None))?;
            Ok(kept.as_primitive::<T>().values().clone())
        }
        let keep = FilterBuilder::new(&BooleanArray::new(keep, None)).optimize().build();
        let features: Result<Vec<ArrayRef>, _> = self.features.iter().map(|column| keep.filter(column)).collect();
        Ok(Self {
            slots: values::<UInt16Type>(&self.slots, &keep)?,
            keys: keep.filter(&self.keys)?.as_binary::<i32>().clone(),
            event_times: values::<Int64Type>(&self.event_times, &keep)?,
            known_times: values::<Int64Type>(&self.known_times, &keep)?,
            ingest_times: values::<Int64Type>(&self.ingest_times, &keep)?,
            frames: values::<UInt64Type>(&self.frames, &keep)?,
            ordinals: values::<UInt32Type>(&self.ordinals, &keep)?,
            revisions: values::<UInt64Type>(&self.revisions, &keep)?,
            feature_counts: values::<UInt16Type>(&self.feature_counts, &keep)?,
            deleted: keep.filter(&BooleanArray::new(self.deleted.clone(), None))?.as_boolean().values().clone(),
            features: features?,
        })
    }
}

/// The first row of `from..end` for which `is_before` no longer holds; it holds for a first part of
/// them only.
pub(crate) fn first_past(from: usize, end: usize, is_before: impl Fn(usize) -> bool) -> usize {
    // Most targets are near: double the step until it is passed, then bisect.
    let (mut low, mut step) = (from, 1);
    while low < end && is_before(low) {
        let probe = low.saturating_add(step).min(end);
        if probe < end && is_before(probe) {
            low = probe;
            step *= 2;
            continue;
        }
        let (mut first, mut last) = (low + 1, probe);
        while first < last {
            let middle = first.midpoint(last);
            if is_before(middle) { first = middle + 1 } else { last = middle }
        }
        return first;
    }
    low
}

/// One row of a batch.
#[derive(Clone, Debug)]
pub struct RowAt {
    pub batch: Arc<RunBatch>,
    pub index: usize,
}

impl RowAt {
    pub fn slot(&self) -> u16 {
        self.batch.slots[self.index]
    }

    pub fn key(&self) -> &[u8] {
        self.batch.keys.value(self.index)
    }

    pub fn version(&self) -> RowVersion {
        self.batch.version(self.index)
    }

    pub fn ingest_time(&self) -> Micros {
        self.batch.ingest_times[self.index]
    }

    pub fn revision(&self) -> u64 {
        self.batch.revisions[self.index]
    }

    pub fn feature_count(&self) -> u16 {
        self.batch.feature_counts[self.index]
    }

    pub fn deleted(&self) -> bool {
        self.batch.deleted.value(self.index)
    }

    /// The row as the online store has it; its batch has all features of the view, in their order.
    pub fn pack(&self, layout: &RowLayout) -> Result<OwnedRow, HistoryError> {
        // A later definition may have added features that this one doesn't know.
        let known = layout.len().min(usize::from(self.feature_count()));
        let kind = if self.deleted() { RowKind::Tombstone } else { RowKind::Full };
        let header = RowHeader {
            kind,
            version: self.version(),
            ingest_time: self.ingest_time(),
            revision: self.revision(),
            feature_count: known as u16,
        };
        let mut body = Vec::new();
        if kind == RowKind::Full {
            // A row is packed with the features that it was written with.
            let written_with = RowLayout::new(&layout.types()[..known]);
            let cells = self.batch.features[..known].iter().map(|column| Some(column.slice(self.index, 1)));
            let packed = RowPacker::new(&written_with, cells.collect()).and_then(|packer| packer.pack(0, &mut body));
            packed.map_err(|error| HistoryError::Encoding(format!("a row doesn't fit its view: {error}")))?;
        }
        Ok(OwnedRow::new(header, body.into()))
    }

    /// History order: (slot, key, event time, known time, position).
    pub fn compare(&self, other: &Self) -> Ordering {
        self.batch.compare_row(self.index, other)
    }
}

/// A set of slots, by which runs leave out what no spine row asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet {
    words: Box<[u64]>,
}

impl SlotSet {
    const WORDS: usize = (u16::MAX as usize + 1) / 64;

    pub fn new() -> Self {
        Self { words: vec![0; Self::WORDS].into_boxed_slice() }
    }

    pub fn insert(&mut self, slot: u16) {
        self.words[usize::from(slot) / 64] |= 1 << (slot % 64);
    }

    pub fn contains(&self, slot: u16) -> bool {
        self.words[usize::from(slot) / 64] & (1 << (slot % 64)) != 0
    }

    /// Whether any slot of `first..=last` is in the set.
    pub fn intersects(&self, first: u16, last: u16) -> bool {
        if first > last {
            return false;
        }
        let (from, to) = (usize::from(first) / 64, usize::from(last) / 64);
        (from..=to).any(|word| {
            let mut bits = self.words[word];
            if word == from {
                bits &= u64::MAX << (first % 64);
            }
            if word == to {
                bits &= u64::MAX >> (63 - last % 64);
            }
            bits != 0
        })
    }

    /// Its members of a range of slots.
    pub fn within(&self, range: SlotRange) -> Self {
        (range.first..=range.last).filter(|slot| self.contains(*slot)).collect()
    }

    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut set = Self::new();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SlotSet({} slots)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_set_intersects_a_range_when_a_member_lies_in_it() {
        let set: SlotSet = [0, 63, 64, 1_000, u16::MAX].into_iter().collect();
        for (first, last, expected) in [
            (0, 0, true),
            (1, 62, false),
            (1, 63, true),
            (64, 64, true),
            (65, 999, false),
            (65, 1_000, true),
            (1_001, u16::MAX - 1, false),
            (1_001, u16::MAX, true),
            (5, 4, false),
        ] {
            assert_eq!(set.intersects(first, last), expected, "{first}..={last}");
        }
        assert_eq!(set.len(), 5);
        assert!(set.contains(1_000) && !set.contains(999));
    }
}
