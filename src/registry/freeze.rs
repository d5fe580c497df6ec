//! Freezes feature services: what a model sees, column by column, worked out once when the service
//! is applied. A frozen version never changes; a service that would come out otherwise gets the
//! next one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::value::{DataType, ScalarType};
use xxhash_rust::xxh3::xxh3_128;

use super::catalog::JoinKey;
use super::definition::{FeatureServiceSpec, ServiceFeature};
use super::selection::MAX_COLUMNS;
use super::state::{FrozenColumn, FrozenLookup, FrozenService, ViewState};
use super::validation::{ResolvedFeature, ResolvedView, Violations};
use super::values;

/// What freezing needs to know of a view.
#[derive(Clone, Debug)]
pub(super) struct FreezableView {
    pub id: ViewId,
    pub version: u32,
    pub ttl: Option<Micros>,
    /// Another version is being built, and it is the one that is served until then.
    pub is_followed: bool,
    pub resolved: ResolvedView,
    /// Where each feature stands.
    index: HashMap<Name, usize>,
}

impl FreezableView {
    pub fn new(view: &ViewState, resolved: ResolvedView) -> Self {
        let features = resolved.features.iter().enumerate();
        let index = features.map(|(index, feature)| (feature.name.clone(), index)).collect();
        // Under a ttl that isn't in effect yet a service would read what isn't online yet.
        let (ttl, is_followed) = (view.ttl_in_effect(), view.next.is_some());
        Self { id: view.id, version: view.version, ttl, is_followed, resolved, index }
    }
}

/// Works out a service over `views`. `None` where something is wrong, which is among the violations
/// then, or was reported of the view itself.
pub(super) fn freeze(
    number: u32,
    spec: &FeatureServiceSpec,
    views: &BTreeMap<Name, FreezableView>,
    path: &str,
    violations: &mut Violations,
) -> Option<FrozenService> {
    let before = violations.len();
    let mut is_whole = true;
    let mut frozen = FrozenService {
        number,
        latency_budget: spec.latency_budget,
        lookups: Vec::new(),
        columns: Vec::new(),
        shape_hash: String::new(),
    };
    let mut request_columns: BTreeMap<Name, (ScalarType, Name)> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for (index, item) in spec.features.iter().enumerate() {
        let path = format!("{path}.features[{index}]");
        let Some(view) = views.get(&item.view) else {
            is_whole = false;
            continue;
        };
        check_request_columns(item, &view.resolved.join_keys, &mut request_columns, &path, violations);
        // What is in no version is told by its name alone.
        let missing = item.features.iter().filter(|feature| view.is_followed && !view.index.contains_key(*feature));
        for feature in missing {
            let (name, version) = (&item.view, view.version);
            let message = format!(
                "version {version} of feature view '{name}', which is served until the next one is built, has no feature \
                 '{feature}'; apply the rest without this service, and the service once the next one is served \
                 (`hydrant get view {name} -o json` tells no servedVersion then)"
            );
            violations.add(format!("{path}.features"), message);
        }
        let lookup = add_lookup(&mut frozen.lookups, item, view);
        let prefix = item.alias.as_ref().unwrap_or(&item.view);
        for feature in selected(item, view) {
            let name = format!("{prefix}__{}", feature.name);
            if !names.insert(name.clone()) {
                violations.add(&path, format!("the service would have two columns '{name}'; give one an alias (`as`)"));
                continue;
            }
            frozen.columns.push(FrozenColumn {
                name,
                lookup,
                feature: feature.name.clone(),
                data_type: feature.data_type,
                default: feature.default.as_ref().map(values::to_json),
            });
        }
        if frozen.columns.len() > MAX_COLUMNS {
            violations.add(&path, format!("a service has at most {MAX_COLUMNS} columns"));
            break;
        }
    }
    frozen.shape_hash = shape_hash(&frozen);
    (is_whole && violations.len() == before).then_some(frozen)
}

/// Whether a service that comes out as `fresh` needs no version after `current`.
pub(super) fn is_same(current: &FrozenService, fresh: &FrozenService) -> bool {
    current.latency_budget == fresh.latency_budget && current.shape_hash == fresh.shape_hash
}

/// Over columns in order (name, type, feature, default) and where each is looked up (view and
/// version, keys, ttl). It is compared across versions, so its text form must never change.
pub(super) fn shape_hash(service: &FrozenService) -> String {
    let mut text = String::from("hydrant service shape 1\n");
    for column in &service.columns {
        let lookup = &service.lookups[column.lookup];
        let keys: Vec<String> = lookup.keys.iter().map(|(key, column)| format!("{key}={column}")).collect();
        let ttl = lookup.ttl.map_or_else(|| "-".to_owned(), |ttl| ttl.to_string());
        let default =
            column.default.as_ref().map_or_else(|| "-".to_owned(), |json| default_text(json, column.data_type));
        text.push_str(&format!(
            "{} {} {}@{} {} {} {} {}\n",
            column.name,
            column.data_type,
            lookup.view,
            lookup.view_version,
            column.feature,
            keys.join(","),
            ttl,
            default,
        ));
    }
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

/// One text for one value, whichever way its JSON was written.
fn default_text(json: &serde_json::Value, data_type: DataType) -> String {
    values::from_json(json, data_type).map_or_else(|_| json.to_string(), |value| values::to_json(&value).to_string())
}

fn add_lookup(lookups: &mut Vec<FrozenLookup>, item: &ServiceFeature, view: &FreezableView) -> usize {
    let request_column = |key: &Name| item.keys.get(key).unwrap_or(key).clone();
    let join_keys = view.resolved.join_keys.iter();
    let lookup = FrozenLookup {
        view: item.view.clone(),
        view_id: view.id,
        view_version: view.version,
        keys: join_keys.map(|join_key| (join_key.name.clone(), request_column(&join_key.name))).collect(),
        ttl: view.ttl,
    };
    let known = lookups.iter().position(|known| *known == lookup);
    known.unwrap_or_else(|| {
        lookups.push(lookup);
        lookups.len() - 1
    })
}

/// The features that a service takes of a view, in the order in which it names them; all of them in
/// the view's order if it names none.
fn selected<'a>(
    item: &'a ServiceFeature,
    view: &'a FreezableView,
) -> Box<dyn Iterator<Item = &'a ResolvedFeature> + 'a> {
    let features = &view.resolved.features;
    if item.features.is_empty() {
        return Box::new(features.iter());
    }
    Box::new(item.features.iter().filter_map(|name| view.index.get(name).map(|index| &features[*index])))
}

fn check_request_columns(
    item: &ServiceFeature,
    join_keys: &[JoinKey],
    request_columns: &mut BTreeMap<Name, (ScalarType, Name)>,
    path: &str,
    violations: &mut Violations,
) {
    for join_key in join_keys {
        let column = item.keys.get(&join_key.name).unwrap_or(&join_key.name);
        let known = request_columns.entry(column.clone()).or_insert_with(|| (join_key.key_type, item.view.clone()));
        if known.0 != join_key.key_type {
            let message = format!(
                "request column '{column}' would be {} for view '{}' and {} for view '{}'; map one to another column (`keys`)",
                known.0.as_str(),
                known.1,
                join_key.key_type.as_str(),
                item.view
            );
            violations.add(format!("{path}.keys"), message);
        }
    }
}
