//! Sorted runs: what a history file and a partition's tail have in common. A run hands out batches
//! of rows in history order and may skip ahead; it never reorders, never drops a row that was asked
//! for, and never repeats one.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray};
use arrow_buffer::{BooleanBuffer, ScalarBuffer};

use crate::history::HistoryError;
use crate::order::{Micros, Position, RowVersion};

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

    /// How the row's key stands to another, in history order.
    pub fn compare_key(&self, row: usize, slot: u16, key: &[u8]) -> Ordering {
        self.slots[row].cmp(&slot).then_with(|| self.keys.value(row).cmp(key))
    }

    /// The first row at or after `from` whose (slot, key) is not before the given one.
    pub fn first_at_or_after(&self, from: usize, slot: u16, key: &[u8]) -> usize {
        // Most targets are near: double the step until it is passed, then bisect.
        let rows = self.rows();
        let (mut low, mut step) = (from, 1);
        while low < rows && self.compare_key(low, slot, key) == Ordering::Less {
            let probe = low.saturating_add(step).min(rows);
            if probe < rows && self.compare_key(probe, slot, key) == Ordering::Less {
                low = probe;
                step *= 2;
                continue;
            }
            let (mut first, mut last) = (low + 1, probe);
            while first < last {
                let middle = first.midpoint(last);
                if self.compare_key(middle, slot, key) == Ordering::Less { first = middle + 1 } else { last = middle }
            }
            return first;
        }
        low
    }
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

    /// History order: (slot, key, event time, known time, position).
    pub fn compare(&self, other: &Self) -> Ordering {
        self.slot()
            .cmp(&other.slot())
            .then_with(|| self.key().cmp(other.key()))
            .then_with(|| self.version().cmp(&other.version()))
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
