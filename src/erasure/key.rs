//! What an entity's key is in each of its views, and in spines: worked out of the definitions when it is asked
//! for, and again when it is done, since definitions may have changed meanwhile.

use std::collections::BTreeSet;

use arrow_array::ArrayRef;
use hydrant_storage::cast::to_exact;
use hydrant_storage::keys::{KeyReader, decode_key, encode_values, slot_of};
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::state::{GivenValue, Key, KeyInSpines, KeyOfView, types_of};
use crate::error::{Error, Result, Violation};
use crate::registry::catalog::{JoinKey, TenantCatalog};

/// The views that have the entity, those that were deleted too, and what the key is in each and in spines.
pub(super) fn resolve(
    tenant: &TenantCatalog,
    entity: &Name,
    columns: &[(String, ArrayRef)],
) -> Result<(Vec<Name>, Key)> {
    let found = tenant.entities.get(entity).ok_or_else(|| {
        Error::not_found("ENTITY_NOT_FOUND", format!("there is no entity '{entity}'"))
            .with("entity", entity)
            .hint("`hydrant get entities` lists them")
    })?;
    let exact = exact_values(&found.join_keys, columns)?;
    let given = found.join_keys.iter().zip(&exact).map(|(key, value)| {
        let encoded = encode_array(value, key.key_type)?;
        Ok(GivenValue { name: key.name.clone(), kind: key.key_type.as_str().to_owned(), value: encoded })
    });
    let key = of_given(tenant, entity, given.collect::<Result<_>>()?)?;
    let mut names: Vec<Name> = Vec::new();
    for (name, _) in versions(tenant, entity) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    Ok((names, key))
}

/// The same key by the definitions of now, beside what it was by those before: views and services may have come
/// since.
pub(super) fn resolved_again(tenant: &TenantCatalog, entity: &Name, mut key: Key) -> Result<Key> {
    let now = of_given(tenant, entity, key.given.clone())?;
    let new_views = now.views.into_iter().filter(|view| !key.views.iter().any(|known| known.view == view.view));
    let new_spines = now.spines.into_iter().filter(|spine| !key.spines.contains(spine));
    let (new_views, new_spines): (Vec<KeyOfView>, Vec<KeyInSpines>) = (new_views.collect(), new_spines.collect());
    key.views.extend(new_views);
    key.spines.extend(new_spines);
    Ok(key)
}

/// A version of a view, whether it is still defined or was dropped.
struct Version<'a> {
    id: ViewId,
    slot_seed: u64,
    join_keys: &'a [JoinKey],
}

/// Every version of every view that has the entity, with the view's name.
fn versions<'a>(tenant: &'a TenantCatalog, entity: &Name) -> impl Iterator<Item = (&'a Name, Version<'a>)> {
    let defined = tenant
        .all_views()
        .filter(|view| view.entities().contains(entity))
        .map(|view| (&view.name, Version { id: view.id, slot_seed: view.slot_seed, join_keys: &view.join_keys }));
    let dropped = tenant
        .dropped
        .iter()
        .filter(|view| view.entities.contains(entity))
        .map(|view| (&view.name, Version { id: view.id, slot_seed: view.slot_seed, join_keys: &view.join_keys }));
    defined.chain(dropped)
}

fn of_given(tenant: &TenantCatalog, entity: &Name, given: Vec<GivenValue>) -> Result<Key> {
    let mut read = Vec::with_capacity(given.len());
    for one in &given {
        read.push(one.read()?);
    }
    // A join key of the name that has another type by now is another one.
    let value_of = |key: &JoinKey| {
        let place = given.iter().position(|one| one.name == key.name)?;
        let (kind, value) = &read[place];
        (*kind == key.key_type).then(|| value.clone())
    };
    let mut views = Vec::new();
    for (_, version) in versions(tenant, entity) {
        let values: Vec<Option<Value>> = version.join_keys.iter().map(value_of).collect();
        if values.iter().flatten().count() != given.len() {
            continue;
        }
        let types: Vec<ScalarType> = version.join_keys.iter().map(|key| key.key_type).collect();
        let whole: Option<Vec<Value>> = values.iter().cloned().collect();
        let whole = whole.map(|whole| encode(&whole, &types)).transpose()?;
        let of_part = |(value, kind): (&Option<Value>, &ScalarType)| {
            value.as_ref().map(|value| encode(std::slice::from_ref(value), &[*kind])).transpose()
        };
        views.push(KeyOfView {
            tenant: tenant.id,
            view: version.id,
            values: values.iter().zip(&types).map(of_part).collect::<Result<_>>()?,
            whole: whole.map(|whole| (slot_of(version.slot_seed, &whole), whole)),
            types: names_of(&types),
        });
    }
    let (types, values): (Vec<ScalarType>, Vec<Value>) = read.into_iter().unzip();
    let (key, types) = (encode(&values, &types)?, names_of(&types));
    let of_columns = |columns| KeyInSpines { columns, types: types.clone(), key: key.clone() };
    let spines = columns_in_spines(tenant, entity, &given).into_iter().map(of_columns).collect();
    Ok(Key { given, views, spines })
}

/// The columns of spines under which a training set would look for the key: those named as the join keys,
/// and what services call them that look it up in views of the entity. In a spine whose saved sets look up
/// other entities by these columns they are not the key: that is told where sets are kept.
fn columns_in_spines(tenant: &TenantCatalog, entity: &Name, given: &[GivenValue]) -> BTreeSet<Vec<String>> {
    let mut columns = BTreeSet::from([given.iter().map(|one| one.name.to_string()).collect::<Vec<String>>()]);
    let versions = tenant.services.values().flat_map(|service| &service.versions);
    let lookups = versions.flat_map(|version| &version.lookups);
    // A view that another tenant shares has entities of its own.
    for lookup in lookups.filter(|lookup| lookup.view.tenant == tenant.id && lookup.view.entities().contains(entity)) {
        let column = |one: &GivenValue| {
            let place = lookup.view.join_keys.iter().position(|key| key.name == one.name)?;
            Some(lookup.keys.get(place)?.to_string())
        };
        columns.extend(given.iter().map(column).collect::<Option<Vec<String>>>());
    }
    columns
}

impl GivenValue {
    fn read(&self) -> Result<(ScalarType, Value)> {
        let unreadable = || Error::internal("an erasure holds a value that this version of Hydrant can't read");
        let types = types_of(std::slice::from_ref(&self.kind)).ok_or_else(unreadable)?;
        let mut values = decode_key(&self.value, &types).map_err(|_| unreadable())?;
        let value = values.pop().ok_or_else(unreadable)?;
        Ok((types[0], value))
    }
}

/// One value for each join key, of its exact type and not null.
fn exact_values(join_keys: &[JoinKey], columns: &[(String, ArrayRef)]) -> Result<Vec<ArrayRef>> {
    let mut wrong = Vec::new();
    let mut note = |name: &str, message: String| {
        wrong.push(Violation { path: format!("keys.{}", name.chars().take(80).collect::<String>()), message });
    };
    for (name, _) in columns.iter().filter(|(name, _)| !join_keys.iter().any(|key| key.name.as_str() == name)) {
        note(name, "it is no join key of the entity".to_owned());
    }
    let mut values = Vec::new();
    for key in join_keys {
        let mut named = columns.iter().filter(|(name, _)| name == key.name.as_str());
        match (named.next(), named.next()) {
            (None, _) => note(key.name.as_str(), format!("it is missing; its type is {}", key.key_type.as_str())),
            (Some(_), Some(_)) => note(key.name.as_str(), "it is given twice".to_owned()),
            (Some((_, array)), None) if array.len() != 1 || array.is_null(0) => {
                note(key.name.as_str(), "one value is wanted, and not null".to_owned());
            }
            (Some((_, array)), None) => match to_exact(array, DataType::Scalar(key.key_type)) {
                Ok(exact) if exact.misfits.is_empty() => values.push(exact.array),
                // The value itself is not repeated.
                _ => note(key.name.as_str(), format!("the value is no {}", key.key_type.as_str())),
            },
        }
    }
    if wrong.is_empty() {
        return Ok(values);
    }
    Err(Error::wrong_places("BAD_ENTITY_COLUMNS", "the key doesn't fit the entity", wrong))
}

fn encode(values: &[Value], types: &[ScalarType]) -> Result<Vec<u8>> {
    let mut encoded = Vec::new();
    match encode_values(values, types, &mut encoded) {
        Ok(true) => Ok(encoded),
        _ => Err(Error::internal("a key of exact types could not be encoded")),
    }
}

/// A key of one value, as [`decode_key`] reads it.
fn encode_array(value: &ArrayRef, kind: ScalarType) -> Result<Vec<u8>> {
    let unreadable = |error| Error::internal(format!("a key of exact types could not be read: {error}"));
    let mut encoded = Vec::new();
    KeyReader::new(std::slice::from_ref(value), &[kind]).map_err(unreadable)?.encode(0, &mut encoded);
    Ok(encoded)
}

fn names_of(types: &[ScalarType]) -> Vec<String> {
    types.iter().map(|kind| kind.as_str().to_owned()).collect()
}
