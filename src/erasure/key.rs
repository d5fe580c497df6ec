//! What an entity's key is in each of its views, and in spines: worked out of the definitions, once.

use std::collections::BTreeSet;

use arrow_array::ArrayRef;
use hydrant_storage::cast::to_exact;
use hydrant_storage::keys::{KeyReader, slot_of};
use hydrant_storage::names::Name;
use hydrant_storage::value::{DataType, ScalarType};

use super::state::{Key, KeyInSpines, KeyOfView};
use crate::error::{Error, Result, Violation};
use crate::registry::catalog::{JoinKey, TenantCatalog, View};
use crate::registry::definition::Spec;

/// The views that have the entity, and what the key is in each and in spines.
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
    let given = exact_values(&found.join_keys, columns)?;
    let value_of = |name: &Name| {
        let place = found.join_keys.iter().position(|key| key.name == *name)?;
        Some(given[place].clone())
    };
    let views = tenant.all_views().filter(|view| has_entity(view, entity));
    let mut names = Vec::new();
    let mut key = Key { views: Vec::new(), spines: Vec::new() };
    for view in views {
        let values: Vec<Option<ArrayRef>> = view.join_keys.iter().map(|key| value_of(&key.name)).collect();
        let whole: Option<Vec<ArrayRef>> = values.iter().cloned().collect();
        let types: Vec<ScalarType> = view.join_keys.iter().map(|key| key.key_type).collect();
        let whole = whole.map(|whole| encode(&whole, &types)).transpose()?;
        let of_part = |(value, kind): (&Option<ArrayRef>, &ScalarType)| {
            value.as_ref().map(|value| encode(std::slice::from_ref(value), &[*kind])).transpose()
        };
        if !names.contains(&view.name) {
            names.push(view.name.clone());
        }
        key.views.push(KeyOfView {
            tenant: view.tenant,
            view: view.id,
            types: names_of(&types),
            values: values.iter().zip(&types).map(of_part).collect::<Result<_>>()?,
            whole: whole.map(|whole| (slot_of(view.slot_seed, &whole), whole)),
        });
    }
    key.spines = in_spines(tenant, &found.join_keys, &given)?;
    Ok((names, key))
}

/// The same key in versions of its views that were applied since it was worked out; versions of a view have
/// the same keys.
pub(super) fn with_newer_versions(tenant: &TenantCatalog, mut key: Key) -> Key {
    for view in tenant.all_views() {
        if key.views.iter().any(|known| known.view == view.id) {
            continue;
        }
        let of_view = |known: &&KeyOfView| tenant.versions_of(view.name.as_str()).any(|other| other.id == known.view);
        let Some(known) = key.views.iter().find(of_view).cloned() else { continue };
        let whole = known.whole.map(|(_, whole)| (slot_of(view.slot_seed, &whole), whole));
        key.views.push(KeyOfView { view: view.id, whole, ..known });
    }
    key
}

/// The columns of spines under which a training set would look for the key: those named as the join keys,
/// and what services call them.
fn in_spines(tenant: &TenantCatalog, join_keys: &[JoinKey], given: &[ArrayRef]) -> Result<Vec<KeyInSpines>> {
    let types: Vec<ScalarType> = join_keys.iter().map(|key| key.key_type).collect();
    let (key, types) = (encode(given, &types)?, names_of(&types));
    let named_alike: Vec<String> = join_keys.iter().map(|key| key.name.to_string()).collect();
    let mut columns = BTreeSet::from([named_alike]);
    let versions = tenant.services.values().flat_map(|service| &service.versions);
    for lookup in versions.flat_map(|version| &version.lookups) {
        let column = |join_key: &JoinKey| {
            let place = lookup.view.join_keys.iter().position(|key| key.name == join_key.name)?;
            Some(lookup.keys.get(place)?.to_string())
        };
        columns.extend(join_keys.iter().map(column).collect::<Option<Vec<String>>>());
    }
    let of_columns = |columns| KeyInSpines { columns, types: types.clone(), key: key.clone() };
    Ok(columns.into_iter().map(of_columns).collect())
}

fn has_entity(view: &View, entity: &Name) -> bool {
    matches!(&view.applied.definition.spec, Spec::FeatureView(spec) if spec.entities.contains(entity))
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

fn encode(values: &[ArrayRef], types: &[ScalarType]) -> Result<Vec<u8>> {
    let unreadable = |error| Error::internal(format!("a key of exact types could not be read: {error}"));
    let mut encoded = Vec::new();
    KeyReader::new(values, types).map_err(unreadable)?.encode(0, &mut encoded);
    Ok(encoded)
}

fn names_of(types: &[ScalarType]) -> Vec<String> {
    types.iter().map(|kind| kind.as_str().to_owned()).collect()
}
