//! What a reader of a run looks for, so that a file's pages without any of it can be left out. Leaving
//! out is all that it is for: rows that nobody looks for may come too.

use std::ops::Range;
use std::sync::Arc;

use crate::history::SlotSet;
use crate::keys::SlotRange;
use crate::order::Micros;

/// Which rows of a view are of use to somebody who asks which row counts.
#[derive(Clone, Debug, Default)]
pub struct Sought {
    /// `None`: rows of all slots.
    pub slots: Option<SlotSet>,
    /// No instant that is asked for is later: rows that happen after it are of no use.
    pub until: Option<Micros>,
    /// By ingest time: later rows are of no use.
    pub cutoff: Option<Micros>,
    /// `None`: all keys of the slots, at any instant.
    pub keys: Option<Arc<SoughtKeys>>,
}

/// Keys in history order, each with the instants, ascending, at which it is asked which of its rows
/// counts: as known at the instant, or among all that had happened by then.
#[derive(Clone, Debug, Default)]
pub struct SoughtKeys {
    slots: Vec<u16>,
    key_ends: Vec<usize>,
    keys: Vec<u8>,
    time_ends: Vec<usize>,
    times: Vec<Micros>,
}

impl Sought {
    pub fn of_slots(slots: Option<&SlotSet>) -> Self {
        Self { slots: slots.cloned(), ..Self::default() }
    }
}

impl SoughtKeys {
    /// Calls come in the order (slot, key, time).
    pub fn push(&mut self, slot: u16, key: &[u8], time: Micros) {
        let last = self.len().checked_sub(1);
        if last.is_none_or(|last| (self.slots[last], self.key(last)) != (slot, key)) {
            self.slots.push(slot);
            self.keys.extend_from_slice(key);
            self.key_ends.push(self.keys.len());
            self.time_ends.push(self.times.len());
        }
        self.times.push(time);
        if let Some(end) = self.time_ends.last_mut() {
            *end = self.times.len();
        }
    }

    /// Of keys.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A key's slot and bytes.
    pub fn get(&self, number: usize) -> (u16, &[u8]) {
        (self.slots[number], self.key(number))
    }

    /// The keys of some slots, by their numbers.
    pub fn of_slots(&self, range: SlotRange) -> Range<usize> {
        let from = self.slots.partition_point(|slot| *slot < range.first);
        from..self.slots.partition_point(|slot| *slot <= range.last)
    }

    /// The keys of a page by their numbers. The bounds of keys are known where the page has one slot.
    pub(crate) fn within(&self, (first, last): (u16, u16), keys: Option<(&[u8], &[u8])>) -> Range<usize> {
        let Range { start: from, end: to } = self.of_slots(SlotRange { first, last });
        match keys.filter(|_| first == last) {
            None => from..to,
            Some((least, greatest)) => {
                let (mut start, mut end) = (from, to);
                while start < end && self.key(start) < least {
                    start += 1;
                }
                while start < end && self.key(end - 1) > greatest {
                    end -= 1;
                }
                start..end
            }
        }
    }

    /// The instants of a key, ascending.
    pub(crate) fn times(&self, number: usize) -> &[Micros] {
        let start = number.checked_sub(1).map_or(0, |before| self.time_ends[before]);
        &self.times[start..self.time_ends[number]]
    }

    fn key(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.key_ends[before]);
        &self.keys[start..self.key_ends[number]]
    }
}
