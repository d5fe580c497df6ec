//! The entity keys of a request: its columns checked and cast, each row's key encoded once for all
//! lookups that have it, and each distinct key of a view read once, whoever needs it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use arrow_array::{Array, ArrayRef, UInt32Array};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use hydrant_storage::cast::to_exact;
use hydrant_storage::keys::{KeyReader, OnlineKey, hash_key, slot_of};
use hydrant_storage::value::{DataType, ScalarType};

use super::ServingSettings;
use crate::error::{Error, Result, Violation};
use crate::registry::catalog::View;
use crate::registry::key_sets::KeySet;
use crate::registry::selection::Selection;

/// All keys of a request.
#[derive(Debug)]
pub(super) struct RequestKeys {
    /// N.
    pub rows: usize,
    /// For each request column of the selection its values, of N rows or of one.
    pub columns: Vec<ArrayRef>,
    /// Of the selection's [key sets](crate::registry::key_sets).
    sets: Vec<DistinctKeys>,
    hash_seed: u64,
}

/// The distinct keys of some views, one behind the other.
#[derive(Debug, Default)]
pub(super) struct DistinctKeys {
    bytes: Vec<u8>,
    keys: Vec<EntityKey>,
    /// The keys by their hash; none where there is but one key.
    known: HashTable<KnownKey>,
    /// Of each list: for each row (N, or 1 where all key columns have one value) the index of its key; `None` where a
    /// part of the key is null, or nothing is read.
    rows: Vec<Vec<Option<u32>>>,
}

#[derive(Debug)]
struct EntityKey {
    slot: u16,
    /// Where its bytes lie.
    begin: usize,
    end: usize,
}

/// One of the keys, with its hash, so that none is hashed again while they become more.
#[derive(Clone, Copy, Debug)]
struct KnownKey {
    hash: u64,
    key: u32,
}

impl DistinctKeys {
    fn read(set: &KeySet, columns: &[ArrayRef], rows: usize, hash_seed: u64) -> Result<Self> {
        let mut keys = Self { rows: Vec::with_capacity(set.lists.len()), ..Self::default() };
        for list in &set.lists {
            let arrays: Vec<ArrayRef> = list.columns.iter().map(|&column| columns[column].clone()).collect();
            let length = if arrays.iter().all(|array| array.len() == 1) { 1 } else { rows };
            let of_rows = match list.is_read {
                true => keys.encode(arrays, &list.types, length, set.slot_seed, hash_seed)?,
                false => vec![None; length],
            };
            keys.rows.push(of_rows);
        }
        Ok(keys)
    }

    /// Takes the keys of so many rows; for each the index of its key.
    fn encode(
        &mut self,
        mut arrays: Vec<ArrayRef>,
        types: &[ScalarType],
        length: usize,
        slot_seed: u64,
        hash_seed: u64,
    ) -> Result<Vec<Option<u32>>> {
        for array in &mut arrays {
            if array.len() != length {
                let repeated = arrow_select::take::take(array, &UInt32Array::from(vec![0; length]), None);
                *array = repeated.map_err(|error| Error::internal(format!("repeating an entity column: {error}")))?;
            }
        }
        let reader = KeyReader::new(&arrays, types)
            .map_err(|error| Error::internal(format!("entity columns of exact types could not be read: {error}")))?;
        let mut encoded = Vec::with_capacity(length);
        self.keys.reserve(length);
        // Later lists mostly have the keys of the first.
        if length > 1 && self.known.is_empty() {
            self.known.reserve(length, |known| known.hash);
        }
        for row in 0..length {
            let begin = self.bytes.len();
            let has_key = reader.encode(row, &mut self.bytes);
            encoded.push(has_key.then(|| self.take(begin, slot_seed, hash_seed)));
        }
        Ok(encoded)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn slot(&self, key: usize) -> u16 {
        self.keys[key].slot
    }

    pub fn bytes(&self, key: usize) -> &[u8] {
        self.keys[key].of(&self.bytes)
    }

    pub fn online_key(&self, view: &View, key: usize) -> OnlineKey<'_> {
        OnlineKey { slot: self.slot(key), tenant: view.tenant, view: view.id, key: self.bytes(key) }
    }

    /// Takes the key that begins at `begin` and ends where the bytes end; its index, be it new or
    /// known. A lone key needs no hash, and most requests have but one.
    fn take(&mut self, begin: usize, slot_seed: u64, hash_seed: u64) -> u32 {
        let Self { bytes, keys, known, .. } = self;
        let taken = EntityKey { slot: slot_of(slot_seed, &bytes[begin..]), begin, end: bytes.len() };
        if keys.is_empty() {
            keys.push(taken);
            return 0;
        }
        if known.is_empty() {
            let hash = hash_key(hash_seed, keys[0].of(bytes));
            known.insert_unique(hash, KnownKey { hash, key: 0 }, |known| known.hash);
        }
        let hash = hash_key(hash_seed, taken.of(bytes));
        let same = |known: &KnownKey| keys[known.key as usize].of(bytes) == taken.of(bytes);
        match known.entry(hash, same, |known| known.hash) {
            Entry::Occupied(entry) => {
                bytes.truncate(begin);
                entry.get().key
            }
            Entry::Vacant(entry) => {
                let key = as_u32(keys.len());
                entry.insert(KnownKey { hash, key });
                keys.push(taken);
                key
            }
        }
    }
}

impl EntityKey {
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.begin..self.end]
    }
}

impl RequestKeys {
    pub fn read(selection: &Selection, entities: &[(String, ArrayRef)], settings: &ServingSettings) -> Result<Self> {
        let rows = row_count(entities)?;
        check_bounds(rows, selection.columns.len(), settings)?;
        let columns = cast_columns(selection, entities)?;
        // Anew for each request, so that nobody knows it who chooses keys.
        let hash_seed = RandomState::new().build_hasher().finish();
        let read = |set| DistinctKeys::read(set, &columns, rows, hash_seed);
        let sets = selection.key_sets.sets.iter().map(read).collect::<Result<_>>()?;
        Ok(Self { rows, columns, sets, hash_seed })
    }

    /// Of a view, by its index in the selection.
    pub fn of_view(&self, selection: &Selection, view: usize) -> &DistinctKeys {
        &self.sets[selection.key_sets.of_view(view)]
    }

    /// For each row of a lookup the index of its key among its view's; one for all rows where all its key columns have
    /// one value. `None` where a part of the key is null, or nothing is read.
    pub fn of_lookup(&self, selection: &Selection, lookup: usize) -> &[Option<u32>] {
        let keys = self.of_view(selection, selection.view_of[lookup]);
        &keys.rows[selection.key_sets.of_lookup(lookup)]
    }

    /// How many distinct entity keys there are: views over the same entities have them in common.
    pub fn distinct(&self, selection: &Selection) -> u64 {
        distinct(&selection.key_sets.sets, &self.sets, self.hash_seed)
    }

    /// The keys of a test's answer: each lookup has a column of its own, which holds the indices.
    #[cfg(test)]
    pub fn made_up(selection: &Selection, rows: usize, lookups: Vec<Vec<Option<u32>>>) -> Self {
        let column = |rows: &Vec<Option<u32>>| -> ArrayRef {
            std::sync::Arc::new(rows.iter().map(|key| key.map(i64::from)).collect::<arrow_array::Int64Array>())
        };
        let columns = lookups.iter().map(column).collect();
        let key_sets = &selection.key_sets;
        let empty = |set: &KeySet| DistinctKeys { rows: vec![Vec::new(); set.lists.len()], ..Default::default() };
        let mut sets: Vec<DistinctKeys> = key_sets.sets.iter().map(empty).collect();
        for (lookup, rows) in lookups.into_iter().enumerate() {
            let set = key_sets.of_view(selection.view_of[lookup]);
            let list = &mut sets[set].rows[key_sets.of_lookup(lookup)];
            assert!(list.is_empty() || *list == rows, "lookups by one column have the same keys");
            *list = rows;
        }
        Self { rows, columns, sets, hash_seed: 0 }
    }
}

/// Sets that have a seed in common are over the same entities.
fn distinct(sets: &[KeySet], keys_of: &[DistinctKeys], hash_seed: u64) -> u64 {
    let seed_of = |index: usize| sets[index].slot_seed;
    let mut distinct = 0;
    for index in 0..sets.len() {
        if (0..index).any(|earlier| seed_of(earlier) == seed_of(index)) {
            continue;
        }
        let over_the_same = (index..sets.len()).filter(|other| seed_of(*other) == seed_of(index));
        distinct += match over_the_same.clone().count() {
            // As a rule.
            1 => keys_of[index].len(),
            _ => distinct_of_all(over_the_same.map(|other| &keys_of[other]), hash_seed),
        } as u64;
    }
    distinct
}

fn distinct_of_all<'a>(several: impl Iterator<Item = &'a DistinctKeys>, hash_seed: u64) -> usize {
    let mut known: HashTable<(u64, &[u8])> = HashTable::new();
    for keys in several {
        for key in &keys.keys {
            let key = key.of(&keys.bytes);
            let hash = hash_key(hash_seed, key);
            if let Entry::Vacant(entry) = known.entry(hash, |(_, known)| *known == key, |(hash, _)| *hash) {
                entry.insert((hash, key));
            }
        }
    }
    known.len()
}

/// N: the length of every column that has another length than 1.
pub(super) fn row_count(entities: &[(String, ArrayRef)]) -> Result<usize> {
    let first_many = entities.iter().find(|(_, column)| column.len() != 1);
    let Some((first, rows)) = first_many.map(|(name, column)| (name, column.len())) else { return Ok(1) };
    for (name, column) in entities {
        if column.len() != 1 && column.len() != rows {
            let length = column.len();
            let message = format!(
                "entity column '{name}' has {length} values and '{first}' has {rows}: give each the same, or 1"
            );
            return Err(Error::invalid("UNEVEN_COLUMNS", message).with("column", name));
        }
    }
    Ok(rows)
}

pub(super) fn check_bounds(rows: usize, columns: usize, settings: &ServingSettings) -> Result<()> {
    let too_large = |told: String, option: &'static str, limit: usize| {
        Err(Error::invalid("REQUEST_TOO_LARGE", format!("the request reads {told}; '{option}' allows {limit}"))
            .with("option", option)
            .with("limit", limit)
            .hint(format!("split the request, or raise '{option}' in the server's configuration")))
    };
    let ServingSettings { max_rows, max_cells, .. } = *settings;
    if rows > max_rows {
        return too_large(format!("{rows} rows"), "serving.max_rows", max_rows);
    }
    let cells = rows.saturating_mul(columns);
    if cells > max_cells {
        return too_large(format!("{rows} rows of {columns} columns"), "serving.max_cells", max_cells);
    }
    Ok(())
}

/// For each request column of the selection its values, of the exact type of their join key.
pub(super) fn cast_columns(selection: &Selection, entities: &[(String, ArrayRef)]) -> Result<Vec<ArrayRef>> {
    let wanted = &selection.request_columns;
    let mut wrong = Vec::new();
    let mut note = |name: &str, message: String| {
        wrong.push(Violation { path: format!("entities.{name}"), message });
    };
    let mut columns: Vec<Option<ArrayRef>> = vec![None; wanted.len()];
    for (name, column) in entities {
        let Some(index) = wanted.iter().position(|wanted| wanted.name.as_str() == name) else {
            note(name, "no view of the request is keyed by this column".to_owned());
            continue;
        };
        match to_exact(column, DataType::Scalar(wanted[index].key_type)) {
            Ok(exact) if !exact.misfits.is_empty() => {
                let misfit = &exact.misfits[0];
                note(name, format!("row {}: {}", misfit.row, misfit.reason));
            }
            Ok(exact) => {
                if columns[index].replace(exact.array).is_some() {
                    note(name, "the column is given twice".to_owned());
                }
            }
            Err(lossy) => note(name, lossy.to_string()),
        }
    }
    for missing in wanted.iter().filter(|wanted| !entities.iter().any(|(name, _)| name == wanted.name.as_str())) {
        note(missing.name.as_str(), format!("the column is missing; its type is {}", missing.key_type.as_str()));
    }
    if wrong.is_empty() {
        let given = columns.into_iter().collect::<Option<Vec<_>>>();
        return given.ok_or_else(|| Error::internal("an entity column that was checked is gone"));
    }
    let keyed_by: Vec<String> =
        wanted.iter().map(|wanted| format!("{} ({})", wanted.name, wanted.key_type.as_str())).collect();
    Err(Error::wrong_places("BAD_ENTITY_COLUMNS", "the entity columns don't fit the request", wrong)
        .hint(format!("what it asks for is keyed by {}", keyed_by.join(", "))))
}

/// Rows are bounded far below.
fn as_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a request has fewer keys than a u32 counts")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use arrow_array::{Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;
    use crate::registry::key_sets::KeyList;

    const HASH_SEED: u64 = 7;

    #[test]
    fn keys_of_several_parts_are_told_apart_and_what_is_not_read_has_none() {
        let origins: ArrayRef =
            std::sync::Arc::new(StringArray::from(vec![Some("EWR"), Some("JFK"), None, Some("EWR")]));
        let one_day: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![7]));
        let days: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![7, 7, 7, 8]));
        let list = |columns: Vec<usize>, is_read| KeyList {
            types: vec![ScalarType::String, ScalarType::Int64],
            columns,
            is_read,
        };
        let lists = vec![list(vec![0, 1], true), list(vec![0, 2], true), list(vec![0, 2], false)];
        let set = KeySet { slot_seed: 1, lists };
        let keys = DistinctKeys::read(&set, &[origins, one_day, days], 4, HASH_SEED).expect("they are of their types");
        assert_eq!(keys.rows[0], [Some(0), Some(1), None, Some(0)]);
        assert_eq!(keys.rows[1], [Some(0), Some(1), None, Some(2)], "one of them differs in its day");
        assert_eq!(keys.rows[2], [None; 4]);
        assert_eq!(distinct(&[set], &[keys], HASH_SEED), 3);
    }

    /// Of each set its seed, and of each of its lists the key of every row.
    type Made = Vec<(u64, Vec<Vec<Option<i64>>>)>;

    fn sets() -> impl Strategy<Value = Made> {
        // Few values, so that keys repeat, and columns of one value among those of many.
        let list = prop_oneof![
            prop::collection::vec(prop::option::weighted(0.9, 0..40_i64), 1..=1),
            prop::collection::vec(prop::option::weighted(0.9, 0..40_i64), 60..=60),
            prop::collection::vec(Just(Some(3)), 60..=60),
        ];
        prop::collection::vec((0..2_u64, prop::collection::vec(list, 0..3)), 0..4)
    }

    fn read(made: &Made) -> (Vec<KeySet>, Vec<DistinctKeys>) {
        let types = vec![ScalarType::Int64];
        let of_each = made.iter().map(|(slot_seed, lists)| {
            let columns: Vec<ArrayRef> =
                lists.iter().map(|list| -> ArrayRef { std::sync::Arc::new(Int64Array::from(list.clone())) }).collect();
            let list_of = |column| KeyList { columns: vec![column], types: types.clone(), is_read: true };
            let set = KeySet { slot_seed: *slot_seed, lists: (0..lists.len()).map(list_of).collect() };
            let keys = DistinctKeys::read(&set, &columns, 60, HASH_SEED).expect("they are of their types");
            (set, keys)
        });
        of_each.unzip()
    }

    proptest! {
        #[test]
        fn each_distinct_key_is_there_once_and_each_row_finds_its_own(made in sets()) {
            let (sets, keys_of) = read(&made);
            let mut of_seed: HashMap<u64, BTreeSet<i64>> = HashMap::new();
            for ((seed, lists), keys) in made.iter().zip(&keys_of) {
                let wanted: BTreeSet<i64> = lists.iter().flatten().flatten().copied().collect();
                prop_assert_eq!(keys.len(), wanted.len());
                // A key has one index, whichever list it stands in.
                let mut index_of = HashMap::new();
                for (list, rows) in lists.iter().zip(&keys.rows) {
                    prop_assert_eq!(list.len(), rows.len());
                    for (value, row) in list.iter().zip(rows) {
                        prop_assert_eq!(value.is_some(), row.is_some());
                        if let (Some(value), Some(row)) = (value, row) {
                            prop_assert_eq!(*index_of.entry(*value).or_insert(*row), *row);
                        }
                    }
                }
                let indices: BTreeSet<u32> = index_of.values().copied().collect();
                prop_assert_eq!(indices.len(), wanted.len());
                for (value, index) in index_of {
                    let alone = read(&vec![(*seed, vec![vec![Some(value)]])]).1;
                    prop_assert_eq!(keys.bytes(index as usize), alone[0].bytes(0));
                    prop_assert_eq!(keys.slot(index as usize), alone[0].slot(0));
                }
                of_seed.entry(*seed).or_default().extend(wanted);
            }
            let wanted: usize = of_seed.values().map(BTreeSet::len).sum();
            prop_assert_eq!(distinct(&sets, &keys_of, HASH_SEED), wanted as u64);
        }
    }
}
