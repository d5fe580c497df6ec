//! The entity keys of a request: its columns checked and cast, each row's key encoded once for every
//! lookup, and each distinct key of a view read once, whoever needs it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, UInt32Array};
use hydrant_storage::cast::to_exact;
use hydrant_storage::keys::{KeyReader, slot_of};
use hydrant_storage::names::ViewId;
use hydrant_storage::order::Micros;
use hydrant_storage::value::{DataType, ScalarType};

use super::ServingSettings;
use crate::error::{Error, Result, Violation};
use crate::registry::catalog::{Lookup, View};
use crate::registry::selection::Selection;

/// All keys of a request.
#[derive(Debug)]
pub(super) struct RequestKeys {
    /// N.
    pub rows: usize,
    /// One per lookup of the selection.
    pub lookups: Vec<LookupKeys>,
    /// One per distinct view.
    pub views: Vec<ViewKeys>,
}

#[derive(Debug)]
pub(super) struct LookupKeys {
    /// Index into the views.
    pub view: usize,
    /// For each row (N, or 1 where all key columns have one value) the index of its key among the
    /// view's; `None` where a part of the key is null.
    pub rows: Vec<Option<usize>>,
}

/// The distinct keys of one view.
#[derive(Debug)]
pub(super) struct ViewKeys {
    pub view: Arc<View>,
    pub keys: Vec<EntityKey>,
    /// The longest ttl among the request's lookups of the view.
    pub longest_ttl: Option<Micros>,
}

#[derive(Debug)]
pub(super) struct EntityKey {
    pub slot: u16,
    pub bytes: Vec<u8>,
}

impl RequestKeys {
    pub fn read(selection: &Selection, entities: &[(String, ArrayRef)], settings: &ServingSettings) -> Result<Self> {
        let rows = row_count(entities)?;
        check_bounds(rows, selection.columns.len(), settings)?;
        let columns = cast_columns(selection, entities)?;
        let mut views: Vec<ViewKeys> = Vec::new();
        let mut view_of: HashMap<ViewId, usize> = HashMap::new();
        let mut known: Vec<HashMap<Vec<u8>, usize>> = Vec::new();
        let mut lookups = Vec::with_capacity(selection.lookups.len());
        for lookup in &selection.lookups {
            let view = *view_of.entry(lookup.view.id).or_insert_with(|| {
                let longest_ttl = lookup.ttl;
                views.push(ViewKeys { view: lookup.view.clone(), keys: Vec::new(), longest_ttl });
                known.push(HashMap::new());
                views.len() - 1
            });
            let of_view = &mut views[view];
            of_view.longest_ttl = of_view.longest_ttl.zip(lookup.ttl).map(|(a, b)| a.max(b));
            let keys = LookupKeys { view, rows: encode(lookup, &columns, rows, of_view, &mut known[view])? };
            lookups.push(keys);
        }
        Ok(Self { rows, lookups, views })
    }
}

/// N: the length of every column that has another length than 1.
fn row_count(entities: &[(String, ArrayRef)]) -> Result<usize> {
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

fn check_bounds(rows: usize, columns: usize, settings: &ServingSettings) -> Result<()> {
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

/// The request's columns by name, of the exact type of their join key.
fn cast_columns<'a>(selection: &Selection, entities: &'a [(String, ArrayRef)]) -> Result<HashMap<&'a str, ArrayRef>> {
    let wanted = selection.request_columns();
    let mut wrong = Vec::new();
    let mut note = |name: &str, message: String| {
        wrong.push(Violation { path: format!("entities.{name}"), message });
    };
    let mut columns = HashMap::new();
    for (name, column) in entities {
        let Some(request_column) = wanted.iter().find(|wanted| wanted.name.as_str() == name) else {
            note(name, "no view of the request is keyed by this column".to_owned());
            continue;
        };
        match to_exact(column, DataType::Scalar(request_column.key_type)) {
            Ok(exact) if !exact.misfits.is_empty() => {
                let misfit = &exact.misfits[0];
                note(name, format!("row {}: {}", misfit.row, misfit.reason));
            }
            Ok(exact) => {
                if columns.insert(name.as_str(), exact.array).is_some() {
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
        return Ok(columns);
    }
    let keyed_by: Vec<String> =
        wanted.iter().map(|wanted| format!("{} ({})", wanted.name, wanted.key_type.as_str())).collect();
    Err(Error::wrong_places("BAD_ENTITY_COLUMNS", "the entity columns don't fit the request", wrong)
        .hint(format!("what it asks for is keyed by {}", keyed_by.join(", "))))
}

fn encode(
    lookup: &Lookup,
    columns: &HashMap<&str, ArrayRef>,
    rows: usize,
    view: &mut ViewKeys,
    known: &mut HashMap<Vec<u8>, usize>,
) -> Result<Vec<Option<usize>>> {
    let given = |name: &str| {
        columns.get(name).cloned().ok_or_else(|| Error::internal(format!("entity column '{name}' is gone")))
    };
    let mut arrays = Vec::with_capacity(lookup.keys.len());
    for name in &lookup.keys {
        arrays.push(given(name.as_str())?);
    }
    let length = if arrays.iter().all(|array| array.len() == 1) { 1 } else { rows };
    for array in &mut arrays {
        if array.len() != length {
            let repeated = arrow_select::take::take(array, &UInt32Array::from(vec![0; length]), None);
            *array = repeated.map_err(|error| Error::internal(format!("repeating an entity column: {error}")))?;
        }
    }
    let types: Vec<ScalarType> = lookup.view.join_keys.iter().map(|key| key.key_type).collect();
    let reader = KeyReader::new(&arrays, &types)
        .map_err(|error| Error::internal(format!("entity columns of exact types could not be read: {error}")))?;
    let mut bytes = Vec::new();
    let mut encoded = Vec::with_capacity(length);
    for row in 0..length {
        bytes.clear();
        if !reader.encode(row, &mut bytes) {
            encoded.push(None);
            continue;
        }
        let index = match known.get(&bytes) {
            Some(index) => *index,
            None => {
                let index = view.keys.len();
                view.keys.push(EntityKey { slot: slot_of(view.view.slot_seed, &bytes), bytes: bytes.clone() });
                known.insert(bytes.clone(), index);
                index
            }
        };
        encoded.push(Some(index));
    }
    Ok(encoded)
}
