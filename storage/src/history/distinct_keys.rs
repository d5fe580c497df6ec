//! The distinct keys of rows that are to be sorted, numbered as they come and then in their order. Most
//! rows are of the same keys over and over, so that numbers can be sorted in place of keys. It knows
//! keys only as bytes.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use crate::keys::{SlotRange, hash_key};
use hashbrown::HashTable;

#[derive(Debug)]
pub struct DistinctKeys {
    records: Vec<Record>,
    /// The numbers, by hash.
    table: HashTable<u32>,
    /// Callers can't know it, and so can't choose keys that collide.
    seed: u64,
    /// The bytes of long keys.
    long: Vec<u8>,
}

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
        Self { records: Vec::new(), table: HashTable::new(), seed, long: Vec::new() }
    }
}

impl DistinctKeys {
    /// Whether there is room for one more key, which may be this one.
    pub fn takes(&self, key: &[u8]) -> bool {
        let most = u32::MAX as usize;
        self.records.len() < most && self.long.len().saturating_add(key.len()) <= most
    }

    /// The key's number: of the first key 0, of a new one the next. Only what it [`takes`](Self::takes).
    pub fn number_of(&mut self, slot: u16, key: &[u8]) -> u32 {
        let Self { records, table, seed, long } = self;
        let hash = hash_key(*seed, key);
        let short = Record::short(slot, key);
        let is_same = |number: &u32| {
            let record = &records[*number as usize];
            match &short {
                Some(short) => record == short,
                None => record.slot == slot && record.key(long) == key,
            }
        };
        if let Some(number) = table.find(hash, is_same) {
            return *number;
        }
        let number = records.len() as u32;
        records.push(short.unwrap_or_else(|| Record::long(slot, key, long)));
        table.insert_unique(hash, number, |number| hash_key(*seed, records[*number as usize].key(long)));
        number
    }

    /// Numbers the keys anew, by (slot, bytes): for each number of before the one of now. Afterwards
    /// it takes no more keys.
    pub fn sort(&mut self) -> Vec<u32> {
        self.table = HashTable::new();
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
        // A number and a byte of the table, which is never quite full.
        self.records.len() * size_of::<Record>() + self.table.capacity() * 6 + self.long.len()
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
