//! Makes the snapshot that everyone reads out of the state that is persisted. It fails only on a
//! state that no sequence of changes leads to: one that was damaged or written by something else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hydrant_storage::keys;
use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::row::RowLayout;
use hydrant_storage::value::{DataType, Value};

use super::catalog::{
    Consumer, DroppedView, Entity, Feature, JoinKey, Lookup, Refill, Service, ServiceColumn, ServiceVersion, Snapshot,
    Source, SourceColumn, Standing, TenantCatalog, View,
};
use super::definition::{Kind, Spec};
use super::masking::{PII, YES};
use super::state::{DroppedVersion, FrozenColumn, FrozenLookup, FrozenService, State, Stored, TenantState, ViewState};
use super::values;

/// Makes a snapshot; the error says what doesn't fit.
pub(super) fn snapshot(state: &State) -> Result<Snapshot, String> {
    let mut tenants = BTreeMap::new();
    let mut ids = HashMap::new();
    for (name, tenant) in &state.tenants {
        if tenant.id.0 >= state.next_tenant {
            return Err(format!("tenant '{name}' has an id that wasn't given yet"));
        }
        let defined = tenant.views.iter().flat_map(|(name, view)| view.all().map(move |view| (name, view.id)));
        let dropped = tenant.dropped.iter().map(|version| (&version.view, version.id));
        for (view_name, id) in defined.chain(dropped) {
            if id.0 >= state.next_view {
                return Err(format!("view '{view_name}' has an id that wasn't given yet"));
            }
            if let Some(other) = ids.insert(id, view_name) {
                return Err(format!("views '{other}' and '{view_name}' have the same id"));
            }
        }
        tenants.insert(name.clone(), Arc::new(catalog(name, tenant)?));
    }
    Ok(Snapshot::new(state.revision, tenants))
}

/// The catalog of one tenant.
pub(super) fn catalog(name: &Name, tenant: &TenantState) -> Result<TenantCatalog, String> {
    let entities = named(&tenant.entities, |name, stored| entity(name, stored).map(Arc::new))?;
    let longest = longest_ttls(tenant);
    let made = |name: &Name, state: &ViewState, standing: Standing| {
        view(name, state, standing, tenant, &entities, &longest).map(Arc::new)
    };
    let views = named(&tenant.views, |name, state| made(name, state, Standing::Served))?;
    let mut versions = named(&tenant.views, |name, state| {
        let older = state.older.iter().map(|older| made(name, older, Standing::Older));
        let next = state
            .next
            .iter()
            .map(|next| made(name, &next.view, Standing::Building { since: next.since, from: next.from }));
        older.chain(next).collect::<Result<Vec<_>, _>>()
    })?;
    versions.retain(|_, others| !others.is_empty());
    let all: Vec<&Arc<View>> = views.values().chain(versions.values().flatten()).collect();
    let sources = named(&tenant.sources, |name, stored| source(name, stored, &all).map(Arc::new))?;
    for view in views.values() {
        if !sources.contains_key(&view.source) {
            return Err(format!("view '{}' has no source '{}'", view.name, view.source));
        }
    }
    let by_id: HashMap<ViewId, &Arc<View>> = all.iter().map(|view| (view.id, *view)).collect();
    let services = named(&tenant.services, |name, state| {
        check_name(Kind::FeatureService, name, &state.stored)?;
        let ascending = state.versions.is_sorted_by(|a, b| a.number < b.number);
        if state.versions.is_empty() || !ascending {
            return Err(format!("the versions of service '{name}' are not in order"));
        }
        let versions = state.versions.iter().map(|frozen| service_version(name, frozen, &by_id).map(Arc::new));
        let versions = versions.collect::<Result<_, _>>()?;
        Ok(Arc::new(Service { applied: state.stored.applied(), name: name.clone(), versions }))
    })?;
    let applied = tenant.stored.applied();
    let consumers = named(&tenant.consumers, |name, stored| consumer(name, stored, &services, &views).map(Arc::new))?;
    let shares = tenant.shares.iter().map(|(number, share)| (*number, Arc::new(share.clone()))).collect();
    let dropped = tenant.dropped.iter().map(|version| dropped_view(tenant, version)).collect::<Result<_, _>>()?;
    let (id, name) = (tenant.id, name.clone());
    Ok(TenantCatalog { applied, id, name, entities, sources, views, versions, dropped, services, consumers, shares })
}

/// Under which ttl, at the longest, a view's rows are to be kept online: `None` is for ever.
fn longest_ttls(tenant: &TenantState) -> HashMap<ViewId, Option<Micros>> {
    let mut longest = ttls_in_effect(tenant);
    for view in tenant.views.values().filter(|view| view.refilling.is_some()) {
        if let Spec::FeatureView(spec) = &view.stored.definition.spec {
            raise(&mut longest, view.id, spec.ttl);
        }
    }
    for next in tenant.views.values().filter_map(|view| view.next.as_ref()) {
        raise(&mut longest, next.view.id, next.view.spec().ttl);
    }
    longest
}

fn raise(longest: &mut HashMap<ViewId, Option<Micros>>, view: ViewId, ttl: Option<Micros>) {
    let known = longest.entry(view).or_insert(ttl);
    *known = known.zip(ttl).map(|(known, ttl)| known.max(ttl));
}

/// Under which ttl, at the longest, a view's rows are read, and have been since they came: what has not
/// expired under it is online with its values.
pub(super) fn ttls_in_effect(tenant: &TenantState) -> HashMap<ViewId, Option<Micros>> {
    let mut longest = HashMap::new();
    for view in tenant.views.values() {
        for version in view.older.iter().chain([view]) {
            raise(&mut longest, version.id, version.ttl_in_effect());
        }
    }
    for version in tenant.services.values().flat_map(|service| &service.versions) {
        for lookup in &version.lookups {
            raise(&mut longest, lookup.view_id, lookup.ttl);
        }
    }
    longest
}

fn entity(name: &Name, stored: &Stored) -> Result<Entity, String> {
    check_name(Kind::Entity, name, stored)?;
    let Spec::Entity(spec) = &stored.definition.spec else { return Err(wrong_kind(Kind::Entity, name)) };
    let join_keys = spec.join_keys.iter().map(|typed| {
        join_key(&typed.name, typed.data_type)
            .ok_or_else(|| format!("entity '{name}' has a join key of type {}", typed.data_type))
    });
    Ok(Entity { applied: stored.applied(), join_keys: join_keys.collect::<Result<_, _>>()? })
}

fn join_key(name: &Name, data_type: DataType) -> Option<JoinKey> {
    match data_type {
        DataType::Scalar(key_type) if key_type.is_key_type() => Some(JoinKey { name: name.clone(), key_type }),
        _ => None,
    }
}

fn dropped_view(tenant: &TenantState, version: &DroppedVersion) -> Result<DroppedView, String> {
    let wrong = |(name, other): &(Name, DataType)| {
        format!("view '{}', which was dropped, has a join key '{name}' of type {other}", version.view)
    };
    let join_keys = version.join_keys.iter().map(|key| join_key(&key.0, key.1).ok_or_else(|| wrong(key)));
    let entities: Vec<&str> = version.entities.iter().map(Name::as_str).collect();
    Ok(DroppedView {
        id: version.id,
        name: version.view.clone(),
        version: version.version,
        join_keys: join_keys.collect::<Result<_, _>>()?,
        slot_seed: keys::slot_seed(tenant.id, &entities),
        entities: version.entities.clone(),
        features: version.features.clone(),
        offline: version.offline,
        retention: version.retention,
    })
}

fn source(name: &Name, stored: &Stored, views: &[&Arc<View>]) -> Result<Source, String> {
    check_name(Kind::Source, name, stored)?;
    let Spec::Source(spec) = &stored.definition.spec else { return Err(wrong_kind(Kind::Source, name)) };
    let columns = spec.columns.iter();
    Ok(Source {
        applied: stored.applied(),
        name: name.clone(),
        event_time: spec.event_time.clone(),
        known_time: spec.known_time.clone(),
        max_future: spec.max_future,
        columns: columns.map(|typed| SourceColumn { name: typed.name.clone(), data_type: typed.data_type }).collect(),
        views: views.iter().filter(|view| view.source == *name).map(|view| Arc::clone(view)).collect(),
    })
}

fn view(
    name: &Name,
    state: &ViewState,
    standing: Standing,
    tenant: &TenantState,
    entities: &BTreeMap<Name, Arc<Entity>>,
    longest: &HashMap<ViewId, Option<Micros>>,
) -> Result<View, String> {
    check_name(Kind::FeatureView, name, &state.stored)?;
    let Spec::FeatureView(spec) = &state.stored.definition.spec else {
        return Err(wrong_kind(Kind::FeatureView, name));
    };
    let mut join_keys = Vec::new();
    for entity_name in &spec.entities {
        let entity = entities.get(entity_name).ok_or_else(|| format!("view '{name}' has no entity '{entity_name}'"))?;
        join_keys.extend(entity.join_keys.iter().cloned());
    }
    if state.row.len() != spec.features.len() {
        return Err(format!("the rows of view '{name}' have other features than its definition"));
    }
    let personal = tenant.views.get(name).map(|view| personal_columns(view, standing)).unwrap_or_default();
    let mut features = Vec::with_capacity(state.row.len());
    for row in &state.row {
        let written = spec.features.iter().find(|feature| feature.name == row.name);
        let written = written.ok_or_else(|| format!("view '{name}' has no feature '{}'", row.name))?;
        let mut tags = written.tags.clone();
        if personal.contains(&row.column) {
            tags.insert(PII.to_owned(), YES.to_owned());
        }
        features.push(Feature {
            name: row.name.clone(),
            description: written.description.clone(),
            data_type: row.data_type,
            column: row.column.clone(),
            default: default(written.default.as_ref(), row.data_type)
                .map_err(|error| format!("the default of '{}' in view '{name}': {error}", row.name))?,
            tags,
        });
    }
    let longest_ttl = longest.get(&state.id).copied().unwrap_or(spec.ttl);
    // Who reads a version under a longer ttl needs its rows for as long.
    let declared = tenant.views.get(name).map_or(spec.retention, |view| view.newest_spec().retention);
    let retention = declared.zip(longest_ttl).map(|(declared, ttl)| declared.max(ttl));
    let types: Vec<DataType> = features.iter().map(|feature| feature.data_type).collect();
    let entity_names: Vec<&str> = spec.entities.iter().map(Name::as_str).collect();
    Ok(View {
        applied: state.stored.applied(),
        id: state.id,
        tenant: tenant.id,
        name: name.clone(),
        version: state.version,
        source: spec.source.clone(),
        join_keys,
        slot_seed: keys::slot_seed(tenant.id, &entity_names),
        ttl: state.ttl_in_effect(),
        refill: state.refilling.as_ref().map(|refilling| Refill { ttl: spec.ttl, since: refilling.since }),
        longest_ttl,
        retention,
        features,
        layout: Arc::new(RowLayout::new(&types)),
        online: spec.online,
        offline: spec.offline,
        freshness: spec.freshness,
        standing,
    })
}

/// The columns that versions which come after one say are personal: so they are in it, whose own definition
/// doesn't change any more. After the one that is served comes the one that is being built.
fn personal_columns(view: &ViewState, standing: Standing) -> BTreeSet<Name> {
    let served = Some(view).filter(|_| standing == Standing::Older);
    let next = view.next.as_ref().map(|next| &next.view).filter(|_| !matches!(standing, Standing::Building { .. }));
    let mut columns = BTreeSet::new();
    for version in served.into_iter().chain(next) {
        let of_view = &version.stored.definition.metadata.tags;
        for feature in &version.spec().features {
            if feature.tags.get(PII).or_else(|| of_view.get(PII)).is_some_and(|value| value == YES) {
                columns.insert(feature.column.clone().unwrap_or_else(|| feature.name.clone()));
            }
        }
    }
    columns
}

fn service_version(
    name: &Name,
    frozen: &FrozenService,
    views: &HashMap<ViewId, &Arc<View>>,
) -> Result<ServiceVersion, String> {
    let lookup = |lookup: &FrozenLookup| {
        let view = views.get(&lookup.view_id).copied();
        let view = view.ok_or_else(|| format!("service '{name}' has no view '{}'", lookup.view))?;
        let same_keys = view.join_keys.len() == lookup.keys.len()
            && view.join_keys.iter().zip(&lookup.keys).all(|(join_key, (key, _))| join_key.name == *key);
        if !same_keys {
            return Err(format!("service '{name}' has other join keys than view '{}'", lookup.view));
        }
        let keys = lookup.keys.iter().map(|(_, column)| column.clone()).collect();
        Ok(Lookup { view: Arc::clone(view), keys, ttl: lookup.ttl })
    };
    let lookups: Vec<Lookup> = frozen.lookups.iter().map(lookup).collect::<Result<_, _>>()?;
    let column = |column: &FrozenColumn| {
        let problem = |what: &str| format!("column '{}' of service '{name}' {what}", column.name);
        let view = &lookups.get(column.lookup).ok_or_else(|| problem("has no lookup"))?.view;
        let feature = view.features.iter().position(|feature| feature.name == column.feature);
        let feature = feature.ok_or_else(|| problem("has no feature"))?;
        if view.features[feature].data_type != column.data_type {
            return Err(problem("has another type than its feature"));
        }
        Ok(ServiceColumn {
            name: column.name.clone(),
            lookup: column.lookup,
            feature,
            data_type: column.data_type,
            default: default(column.default.as_ref(), column.data_type).map_err(|error| problem(&error))?,
            is_masked: false,
            withholds_pii: false,
        })
    };
    let columns = frozen.columns.iter().map(column).collect::<Result<_, _>>()?;
    Ok(ServiceVersion {
        service: name.clone(),
        number: frozen.number,
        latency_budget: frozen.latency_budget,
        lookups,
        columns,
        shape_hash: frozen.shape_hash.clone(),
    })
}

fn consumer(
    name: &Name,
    stored: &Stored,
    services: &BTreeMap<Name, Arc<Service>>,
    views: &BTreeMap<Name, Arc<View>>,
) -> Result<Consumer, String> {
    check_name(Kind::Consumer, name, stored)?;
    let Spec::Consumer(spec) = &stored.definition.spec else { return Err(wrong_kind(Kind::Consumer, name)) };
    for used in &spec.services {
        let service = services.get(&used.service);
        let has = |service: &&Arc<Service>| {
            used.version.is_none_or(|number| service.versions.iter().any(|version| version.number == number))
        };
        if service.filter(has).is_none() {
            return Err(format!("consumer '{name}' uses service '{used}', which isn't there"));
        }
    }
    for used in &spec.features {
        let view = views.get(&used.view);
        if !view.is_some_and(|view| view.features.iter().any(|feature| feature.name == used.feature)) {
            return Err(format!("consumer '{name}' uses feature '{used}', which isn't there"));
        }
    }
    Ok(Consumer {
        applied: stored.applied(),
        name: name.clone(),
        version: spec.version.clone(),
        services: spec.services.clone(),
        features: spec.features.clone(),
    })
}

fn default(json: Option<&serde_json::Value>, data_type: DataType) -> Result<Option<Value>, String> {
    json.map(|json| values::from_json(json, data_type)).transpose()
}

fn named<S, T>(
    states: &BTreeMap<Name, S>,
    make: impl Fn(&Name, &S) -> Result<T, String>,
) -> Result<BTreeMap<Name, T>, String> {
    states.iter().map(|(name, state)| Ok((name.clone(), make(name, state)?))).collect()
}

fn check_name(kind: Kind, name: &Name, stored: &Stored) -> Result<(), String> {
    let right = stored.definition.name() == name && stored.definition.kind() == kind;
    if right { Ok(()) } else { Err(wrong_kind(kind, name)) }
}

fn wrong_kind(kind: Kind, name: &Name) -> String {
    format!("what stands under {} '{name}' is something else", kind.as_str())
}
