//! The distinct keys of rows that are to be sorted, numbered as they come and then in their order. Most
//! rows are of the same keys over and over, so that numbers can be sorted in place of keys. It knows
//! keys only as bytes.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::keys::{SlotRange, hash_key};
use crate::prefetch::prefetch;

#[derive(Debug)]
pub struct DistinctKeys {
    records: Vec<Record>,
    table: Table,
    /// Callers can't know it, and so can't choose keys that collide.
    seed: u64,
    /// The bytes of long keys.
    long: Vec<u8>,
}

/// Which number a hash has, in one vector, so that its place can be fetched before it is looked at:
/// half of the hash, which tells most others apart, and the number plus one; 0 is an empty place.
/// Numbers lie where their hashes say, or after it.
#[derive(Debug, Default)]
struct Table(Vec<u64>);

/// A key: its slot, and its bytes if they are few, or where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    slot: u16,
    /// Of a short key; [`Record::LONG`] of a long one.
    length: u8,
    /// A long key's start and length.
    bytes: [u8; Record::SHORT],
}

impl Default for DistinctKeys {
    fn default() -> Self {
        let seed = RandomState::new().hash_one(0);
        Self { records: Vec::new(), table: Table::default(), seed, long: Vec::new() }
    }
}

impl DistinctKeys {
    /// How many keys are best numbered at once.
    pub const GROUP: usize = 32;

    /// Whether there is room for keys of so many bytes, some of which may be known.
    pub fn takes(&self, keys: usize, bytes: usize) -> bool {
        let most = u32::MAX as usize;
        self.records.len().saturating_add(keys) < most && self.long.len().saturating_add(bytes) <= most
    }

    /// The keys' numbers, in their order: of the first key 0, of a new one the next. Only what it
    /// [`takes`](Self::takes). Most of what it costs are waits for memory, so that those of a group
    /// are waited for at once.
    pub fn numbers_of<'a>(&mut self, keys: impl Iterator<Item = (u16, &'a [u8])> + Clone, numbers: &mut Vec<u32>) {
        let mut keys = keys.peekable();
        let mut hashes = [0; Self::GROUP];
        while keys.peek().is_some() {
            let group = keys.clone().take(Self::GROUP);
            for (hash, (_, key)) in hashes.iter_mut().zip(group.clone()) {
                *hash = hash_key(self.seed, key);
                self.table.prefetch(*hash);
            }
            for (hash, _) in hashes.iter().zip(group.clone()) {
                if let Some(record) = self.table.first(*hash).and_then(|number| self.records.get(number as usize)) {
                    prefetch(record);
                }
            }
            for hash in hashes {
                let Some((slot, key)) = keys.next() else { return };
                numbers.push(self.number_of(slot, key, hash));
            }
        }
    }

    fn number_of(&mut self, slot: u16, key: &[u8], hash: u64) -> u32 {
        let Self { records, table, seed, long } = self;
        let short = Record::short(slot, key);
        let is_same = |number: u32| {
            let record = &records[number as usize];
            match &short {
                Some(short) => record == short,
                None => record.slot == slot && record.key(long) == key,
            }
        };
        if let Some(number) = table.find(hash, is_same) {
            return number;
        }
        let number = records.len() as u32;
        if table.is_full(records.len()) {
            table.grow(records.iter().map(|record| hash_key(*seed, record.key(long))));
        }
        table.insert(hash, number);
        records.push(short.unwrap_or_else(|| Record::long(slot, key, long)));
        number
    }

    /// Numbers the keys anew, by (slot, bytes): for each number of before the one of now. Afterwards
    /// it takes no more keys.
    pub fn sort(&mut self) -> Vec<u32> {
        self.table = Table::default();
        let Self { records, long, .. } = self;
        // Most slots have few keys.
        let mut order: Vec<(u16, u32)> =
            records.iter().zip(0u32..).map(|(record, number)| (record.slot, number)).collect();
        order.sort_unstable();
        for same_slot in order.chunk_by_mut(|a, b| a.0 == b.0) {
            same_slot.sort_unstable_by(|a, b| records[a.1 as usize].key(long).cmp(records[b.1 as usize].key(long)));
        }
        let mut ranks = vec![0; records.len()];
        for ((_, number), rank) in order.iter().zip(0u32..) {
            ranks[*number as usize] = rank;
        }
        *records = order.iter().map(|(_, number)| records[*number as usize]).collect();
        ranks
    }

    /// A key's slot and bytes.
    pub fn get(&self, number: u32) -> (u16, &[u8]) {
        let record = &self.records[number as usize];
        (record.slot, record.key(&self.long))
    }

    /// Of sorted keys, those of some slots.
    pub fn of_slots(&self, range: SlotRange) -> Range<u32> {
        let first = self.records.partition_point(|record| record.slot < range.first);
        let end = self.records.partition_point(|record| record.slot <= range.last);
        first as u32..end as u32
    }

    /// About the memory that it takes.
    pub fn bytes(&self) -> usize {
        self.records.len() * size_of::<Record>() + size_of_val(self.table.0.as_slice()) + self.long.len()
    }
}

impl Table {
    const LEAST: usize = 64;

    /// Where a hash's numbers begin: its lower bits say so.
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.0.len().wrapping_sub(1)
    }

    fn prefetch(&self, hash: u64) {
        if let Some(place) = self.0.get(self.home(hash)) {
            prefetch(place);
        }
    }

    /// The number that lies where the hash says, whosever it is.
    fn first(&self, hash: u64) -> Option<u32> {
        (*self.0.get(self.home(hash))? as u32).checked_sub(1)
    }

    /// Of the numbers of this hash, and of others that look like it, the one that is the same.
    fn find(&self, hash: u64, is_same: impl Fn(u32) -> bool) -> Option<u32> {
        if self.0.is_empty() {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let place = self.0[at];
            if place == 0 {
                return None;
            }
            let number = place as u32 - 1;
            if place >> 32 == hash >> 32 && is_same(number) {
                return Some(number);
            }
            at = (at + 1) & (self.0.len() - 1);
        }
    }

    /// Whether it has to grow before one more is put beside so many. A quarter stays empty, so that what
    /// isn't there is soon found not to be.
    fn is_full(&self, numbers: usize) -> bool {
        numbers >= self.0.len() / 4 * 3
    }

    /// Doubles; the hashes are those of its numbers, from 0.
    fn grow(&mut self, hashes: impl Iterator<Item = u64>) {
        // What was there isn't needed, so it needn't be copied, nor held beside the new.
        let places = (self.0.len() * 2).max(Self::LEAST);
        self.0 = Vec::new();
        self.0 = vec![0; places];
        for (hash, number) in hashes.zip(0..) {
            self.insert(hash, number);
        }
    }

    fn insert(&mut self, hash: u64, number: u32) {
        let mut at = self.home(hash);
        while self.0[at] != 0 {
            at = (at + 1) & (self.0.len() - 1);
        }
        self.0[at] = hash >> 32 << 32 | (u64::from(number) + 1);
    }
}

impl Record {
    const SHORT: usize = 12;
    const LONG: u8 = u8::MAX;

    fn short(slot: u16, key: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::SHORT];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self { slot, length: key.len() as u8, bytes })
    }

    /// The key's bytes are put behind those of the others.
    fn long(slot: u16, key: &[u8], others: &mut Vec<u8>) -> Self {
        let mut bytes = [0; Self::SHORT];
        bytes[..4].copy_from_slice(&(others.len() as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(key.len() as u32).to_le_bytes());
        others.extend_from_slice(key);
        Self { slot, length: Self::LONG, bytes }
    }

    fn key<'a>(&'a self, long: &'a [u8]) -> &'a [u8] {
        if self.length != Self::LONG {
            return &self.bytes[..usize::from(self.length)];
        }
        let [s0, s1, s2, s3, l0, l1, l2, l3, ..] = self.bytes;
        let (start, length) = (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([l0, l1, l2, l3]));
        &long[start as usize..][..length as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_those_of_a_map_and_then_in_the_order_of_slot_and_key(
            keys in prop::collection::vec(
                (0u16..3, prop_oneof![prop::collection::vec(0u8..3, 0..7), prop::collection::vec(0u8..2, 10..16)]),
                0..2_000,
            ),
            at_once in 1usize..100,
        ) {
            let mut numbered = DistinctKeys::default();
            let mut numbers = Vec::new();
            for some in keys.chunks(at_once) {
                numbered.numbers_of(some.iter().map(|(slot, key)| (*slot, key.as_slice())), &mut numbers);
            }
            let mut expected = HashMap::new();
            for (key, number) in keys.iter().zip(&numbers) {
                let next = expected.len() as u32;
                prop_assert_eq!(number, expected.entry(key.clone()).or_insert(next));
            }
            let ranks = numbered.sort();
            let mut in_order: Vec<_> = expected.into_iter().collect();
            in_order.sort();
            for (rank, ((slot, key), number)) in (0..).zip(&in_order) {
                prop_assert_eq!(ranks[*number as usize], rank);
                prop_assert_eq!(numbered.get(rank), (*slot, key.as_slice()));
            }
        }
    }

    #[test]
    fn hashes_that_look_alike_are_told_apart() {
        let mut table = Table::default();
        let hashes = [5u64 << 32 | 7, 5 << 32 | 7, 6 << 32 | 7, 5 << 32 | 8];
        for (number, hash) in (0..).zip(hashes) {
            if table.is_full(number as usize) {
                table.grow(hashes[..number as usize].iter().copied());
            }
            table.insert(hash, number);
        }
        for (number, hash) in (0..).zip(hashes) {
            assert_eq!(table.find(hash, |found| found == number), Some(number));
        }
        assert_eq!(table.find(6 << 32 | 7, |_| true), Some(2));
        assert_eq!(table.find(9 << 32 | 7, |_| true), None);
    }
}
