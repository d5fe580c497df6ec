//! The entity keys of a request: its columns checked and cast, each row's key encoded once for all
//! lookups that have it, and each distinct key of a view read once, whoever needs it.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use arrow_array::{Array, ArrayRef, UInt32Array};
use hashbrown::HashTable;
use hydrant_storage::cast::to_exact;
use hydrant_storage::keys::{KeyReader, OnlineKey, slot_of};
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
}

/// The distinct keys of some views, one behind the other.
#[derive(Debug, Default)]
pub(super) struct DistinctKeys {
    bytes: Vec<u8>,
    keys: Vec<EntityKey>,
    /// The keys by their hash; only where there is more than one.
    known: HashTable<u32>,
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

impl DistinctKeys {
    fn read(set: &KeySet, columns: &[ArrayRef], rows: usize, hashing: &RandomState) -> Result<Self> {
        let mut keys = Self { rows: Vec::with_capacity(set.lists.len()), ..Self::default() };
        for list in &set.lists {
            let arrays: Vec<ArrayRef> = list.columns.iter().map(|&column| columns[column].clone()).collect();
            let length = if arrays.iter().all(|array| array.len() == 1) { 1 } else { rows };
            let of_rows = match list.is_read {
                true => keys.encode(arrays, &list.types, length, set.slot_seed, hashing)?,
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
        hashing: &RandomState,
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
        for row in 0..length {
            let begin = self.bytes.len();
            let has_key = reader.encode(row, &mut self.bytes);
            encoded.push(has_key.then(|| self.take(begin, slot_seed, hashing)));
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
    fn take(&mut self, begin: usize, slot_seed: u64, hashing: &RandomState) -> u32 {
        if self.keys.len() == 1 && self.known.is_empty() {
            self.remember(0, hashing);
        }
        let Self { bytes, keys, known, .. } = self;
        let taken = EntityKey { slot: slot_of(slot_seed, &bytes[begin..]), begin, end: bytes.len() };
        if !keys.is_empty() {
            let same = |known: &u32| keys[*known as usize].of(bytes) == taken.of(bytes);
            if let Some(known) = known.find(hashing.hash_one(taken.of(bytes)), same) {
                let known = *known;
                bytes.truncate(begin);
                return known;
            }
        }
        let index = keys.len();
        keys.push(taken);
        if index > 0 {
            self.remember(index, hashing);
        }
        as_u32(index)
    }

    fn remember(&mut self, key: usize, hashing: &RandomState) {
        let Self { bytes, keys, known, .. } = self;
        let hash_of = |key: &u32| hashing.hash_one(keys[*key as usize].of(bytes));
        let key = as_u32(key);
        known.insert_unique(hash_of(&key), key, hash_of);
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
        // Seeded anew for each request: nobody can choose keys that collide.
        let hashing = RandomState::new();
        let read = |set| DistinctKeys::read(set, &columns, rows, &hashing);
        let sets = selection.key_sets.sets.iter().map(read).collect::<Result<_>>()?;
        Ok(Self { rows, columns, sets })
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
        let mut distinct = HashSet::new();
        for (set, keys) in selection.key_sets.sets.iter().zip(&self.sets) {
            distinct.extend(keys.keys.iter().map(|key| (set.slot_seed, key.of(&keys.bytes))));
        }
        distinct.len() as u64
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
        Self { rows, columns, sets }
    }
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
