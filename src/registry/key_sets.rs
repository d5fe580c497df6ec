//! Which views of a selection have the same entity keys in every request: keys are encoded, and told apart, once
//! for all of them. Views of one entity mostly are so. Nothing here sees a key.

use std::collections::HashMap;

use hydrant_storage::names::Name;
use hydrant_storage::value::ScalarType;

use super::catalog::Lookup;
use super::selection::RequestColumn;

/// Of one selection.
#[derive(Clone, Debug)]
pub struct KeySets {
    pub sets: Vec<KeySet>,
    of_view: Vec<usize>,
    /// For each lookup its list in the set of its view.
    of_lookup: Vec<usize>,
}

/// The keys of some views, all of which spread over slots alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeySet {
    pub slot_seed: u64,
    /// Those of the views' lookups, each once, in the order of the lookups.
    pub lists: Vec<KeyList>,
}

/// The keys of a lookup, one a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyList {
    /// The request column of each part of the key, by its index.
    pub columns: Vec<usize>,
    /// Of the parts.
    pub types: Vec<ScalarType>,
    /// Some column of the lookup may be seen.
    pub is_read: bool,
}

impl KeySets {
    /// `view_of` tells for each lookup the number of its view; views are numbered as lookups first need them.
    pub(super) fn new(
        lookups: &[Lookup],
        view_of: &[usize],
        columns: &[RequestColumn],
        is_read: impl Fn(usize) -> bool,
    ) -> Self {
        let mut of_each: Vec<KeySet> = Vec::new();
        let mut of_lookup = Vec::with_capacity(lookups.len());
        for (number, (lookup, view)) in lookups.iter().zip(view_of).enumerate() {
            let index_of = |name: &Name| {
                let index = columns.iter().position(|column| column.name == *name);
                index.expect("the request columns are those of the lookups' keys")
            };
            let columns = lookup.keys.iter().map(index_of).collect();
            let types = lookup.view.join_keys.iter().map(|key| key.key_type).collect();
            let list = KeyList { columns, types, is_read: is_read(number) };
            if *view == of_each.len() {
                of_each.push(KeySet { slot_seed: lookup.view.slot_seed, lists: Vec::new() });
            }
            let set = &mut of_each[*view];
            of_lookup.push(set.lists.iter().position(|known| *known == list).unwrap_or_else(|| {
                set.lists.push(list);
                set.lists.len() - 1
            }));
        }
        let (mut sets, mut known) = (Vec::new(), HashMap::new());
        let number_of = |set: KeySet| {
            *known.entry(set).or_insert_with_key(|set| {
                sets.push(set.clone());
                sets.len() - 1
            })
        };
        let of_view = of_each.into_iter().map(number_of).collect();
        Self { sets, of_view, of_lookup }
    }

    /// The set of a view, by the view's index in the selection.
    pub fn of_view(&self, view: usize) -> usize {
        self.of_view[view]
    }

    /// The list of a lookup in the set of its view.
    pub fn of_lookup(&self, lookup: usize) -> usize {
        self.of_lookup[lookup]
    }
}

#[cfg(test)]
mod tests {
    use hydrant_storage::value::DataType;

    use super::*;
    use crate::registry::catalog::ServiceColumn;
    use crate::registry::selection::Selection;
    use crate::testing::{made_up_view, name};

    /// Of lookups, each a view, its entity and the request column of its key. Each has a column, which is masked
    /// where it is said.
    fn sets_of(lookups: &[(u32, &str, &str)], masked: &[usize]) -> KeySets {
        const INT64: DataType = DataType::Scalar(ScalarType::Int64);
        let lookup = |&(view, entity, column): &(u32, &str, &str)| {
            let view = made_up_view(view, &[(entity, ScalarType::Int64)], &[("f", INT64, None)]);
            Lookup { view, keys: vec![name(column)], ttl: None }
        };
        let column = |lookup: usize| ServiceColumn {
            name: format!("f{lookup}"),
            lookup,
            feature: 0,
            data_type: INT64,
            default: None,
            is_masked: masked.contains(&lookup),
            withholds_pii: false,
        };
        let columns = (0..lookups.len()).map(column).collect();
        let lookups = lookups.iter().map(lookup).collect();
        let mut selection = Selection::new(Vec::new(), Vec::new(), lookups, columns, 1).expect("one type of key");
        selection.note_unread();
        selection.key_sets
    }

    #[test]
    fn views_of_one_entity_by_the_same_columns_have_their_keys_in_common() {
        let sets = sets_of(&[(1, "user", "user"), (2, "user", "user"), (3, "item", "item"), (4, "user", "user")], &[]);
        assert_eq!(sets.of_view, [0, 0, 1, 0]);
        assert_eq!(sets.of_lookup, [0; 4]);
        let columns: Vec<_> = sets.sets.iter().map(|set| set.lists[0].columns.clone()).collect();
        assert_eq!(columns, [[0], [1]]);
    }

    #[test]
    fn views_of_which_one_has_other_keys_too_do_not() {
        let sets = sets_of(&[(1, "user", "buyer"), (1, "user", "seller"), (2, "user", "buyer")], &[]);
        assert_eq!(sets.of_view, [0, 1]);
        assert_eq!(sets.of_lookup, [0, 1, 0]);
    }

    /// A row lies in the slot of its entity's key.
    #[test]
    fn entities_that_one_column_names_have_keys_of_their_own() {
        let sets = sets_of(&[(1, "user", "id"), (2, "item", "id")], &[]);
        assert_eq!(sets.of_view, [0, 1]);
        assert_ne!(sets.sets[0].slot_seed, sets.sets[1].slot_seed);
    }

    #[test]
    fn what_is_masked_is_not_read_with_what_is_not() {
        let lookups = [(1, "user", "user"), (2, "user", "user"), (3, "user", "user")];
        let sets = sets_of(&lookups, &[1]);
        assert_eq!(sets.of_view, [0, 1, 0]);
        let is_read: Vec<bool> = sets.sets.iter().map(|set| set.lists[0].is_read).collect();
        assert_eq!(is_read, [true, false]);
    }
}
