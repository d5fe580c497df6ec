//! What a definition is made of and what is made of it: entities and sources lead to views, views
//! to services, services and views to consumers. A service holds on to every view of every version of
//! it that is served. Column by column it is `graph` that tells.

use std::collections::BTreeSet;

use hydrant_storage::names::Name;

use super::catalog::{Consumer, ServiceVersion, TenantCatalog};
use super::definition::{ConsumerSpec, Kind, ServiceReference, Spec};
use super::state::{Stored, TenantState};

/// A definition by kind and name.
pub type Reference = (Kind, Name);

/// One thing is made of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// What is used.
    pub from: Reference,
    /// What uses it.
    pub to: Reference,
}

/// All that leads to a definition and all that leads from it, however far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    pub upstream: Vec<Edge>,
    pub downstream: Vec<Edge>,
    /// Saved training sets, `name@version`, each behind a service that it is made of.
    pub training_sets: Vec<(Name, String)>,
}

/// The lineage of a definition within its tenant.
pub fn of(catalog: &TenantCatalog, kind: Kind, name: &Name) -> Lineage {
    let edges = catalog_edges(catalog);
    let start = (kind, name.clone());
    Lineage {
        upstream: walk(&edges, &start, |edge| (&edge.to, &edge.from)),
        downstream: walk(&edges, &start, |edge| (&edge.from, &edge.to)),
        training_sets: Vec::new(),
    }
}

/// The lineage of one version of a service, which is made of its own views only.
pub fn of_version(catalog: &TenantCatalog, version: &ServiceVersion) -> Lineage {
    let mut edges = catalog_edges(catalog);
    let service = (Kind::FeatureService, version.service.clone());
    edges.retain(|edge| edge.to != service);
    edges.extend(version.lookups.iter().map(|lookup| service_edge(&lookup.view.name, &version.service)));
    let is_current = catalog.services.get(&version.service).and_then(|service| service.versions.last());
    let is_current = is_current.is_some_and(|current| current.number == version.number);
    let uses = |used: &ServiceReference| {
        used.service == version.service && used.version.map_or(is_current, |number| number == version.number)
    };
    let consumers = catalog.consumers.iter().filter(|(_, consumer)| consumer.services.iter().any(uses));
    let downstream =
        consumers.map(|(name, _)| Edge { from: service.clone(), to: (Kind::Consumer, name.clone()) }).collect();
    let upstream = walk(&edges, &service, |edge| (&edge.to, &edge.from));
    Lineage { upstream, downstream, training_sets: Vec::new() }
}

/// The consumers that use all of some versions of services: those that a training set of them may train.
pub fn consumers_of_all(catalog: &TenantCatalog, versions: &BTreeSet<(Name, u32)>) -> Vec<Name> {
    let uses_all = |consumer: &Consumer| {
        let used: BTreeSet<(&Name, u32)> = consumer.versions(catalog).collect();
        !versions.is_empty() && versions.iter().all(|(service, number)| used.contains(&(service, *number)))
    };
    let consumers = catalog.consumers.iter().filter(|(_, consumer)| uses_all(consumer));
    consumers.map(|(name, _)| name.clone()).collect()
}

/// Every definition downstream of one, in order.
pub(super) fn downstream_of(tenant: &TenantState, kind: Kind, name: &Name) -> Vec<Reference> {
    let edges = walk(&state_edges(tenant), &(kind, name.clone()), |edge| (&edge.from, &edge.to));
    edges.into_iter().map(|edge| edge.to).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Who uses a definition directly, as shown in a refusal: `FeatureService/delay_model@1`.
pub(super) fn users_of(tenant: &TenantState, kind: Kind, name: &Name) -> Vec<String> {
    let mut users = Vec::new();
    for (view_name, view) in &tenant.views {
        let Spec::FeatureView(spec) = &view.stored.definition.spec else { continue };
        let uses = match kind {
            Kind::Entity => spec.entities.contains(name),
            Kind::Source => spec.source == *name,
            _ => false,
        };
        if uses {
            users.push(format!("{}/{view_name}", Kind::FeatureView.as_str()));
        }
    }
    for (service_name, service) in tenant.services.iter().filter(|_| kind == Kind::FeatureView) {
        for version in &service.versions {
            if version.lookups.iter().any(|lookup| lookup.view == *name) {
                users.push(format!("{}/{service_name}@{}", Kind::FeatureService.as_str(), version.number));
            }
        }
    }
    users.extend(consumers_of(tenant, |spec| match kind {
        Kind::FeatureView => spec.features.iter().any(|used| used.view == *name),
        Kind::FeatureService => spec.services.iter().any(|used| used.service == *name),
        _ => false,
    }));
    users
}

/// The consumers that pin one version of a service, as shown in a refusal.
pub(super) fn consumers_of_version(tenant: &TenantState, service: &Name, number: u32) -> Vec<String> {
    let pins = |used: &ServiceReference| used.service == *service && used.version == Some(number);
    consumers_of(tenant, |spec| spec.services.iter().any(pins))
}

/// `Consumer/delay_predictor (ml@example.com)`.
fn consumers_of(tenant: &TenantState, uses: impl Fn(&ConsumerSpec) -> bool) -> Vec<String> {
    let user = |(name, stored): (&Name, &Stored)| {
        let definition = &stored.definition;
        let uses = matches!(&definition.spec, Spec::Consumer(spec) if uses(spec));
        uses.then(|| format!("{}/{name} ({})", Kind::Consumer.as_str(), definition.metadata.owner))
    };
    tenant.consumers.iter().filter_map(user).collect()
}

fn catalog_edges(catalog: &TenantCatalog) -> BTreeSet<Edge> {
    let views = catalog.views.values().flat_map(|view| view_edges(&view.name, &view.applied.definition.spec));
    let services = catalog.services.values().flat_map(|service| {
        let lookups = service.versions.iter().flat_map(|version| &version.lookups);
        lookups.map(|lookup| service_edge(&lookup.view.name, &service.name))
    });
    let consumers = catalog.consumers.iter();
    let consumers = consumers.flat_map(|(name, consumer)| consumer_edges(name, &consumer.applied.definition.spec));
    views.chain(services).chain(consumers).collect()
}

fn state_edges(tenant: &TenantState) -> BTreeSet<Edge> {
    let views = tenant.views.iter().flat_map(|(name, view)| view_edges(name, &view.stored.definition.spec));
    let services = tenant.services.iter().flat_map(|(name, service)| {
        let lookups = service.versions.iter().flat_map(|version| &version.lookups);
        lookups.map(move |lookup| service_edge(&lookup.view, name))
    });
    let consumers = tenant.consumers.iter();
    let consumers = consumers.flat_map(|(name, stored)| consumer_edges(name, &stored.definition.spec));
    views.chain(services).chain(consumers).collect()
}

fn view_edges(view: &Name, spec: &Spec) -> Vec<Edge> {
    let Spec::FeatureView(spec) = spec else { return Vec::new() };
    let to = (Kind::FeatureView, view.clone());
    let entities = spec.entities.iter().map(|entity| (Kind::Entity, entity.clone()));
    let used = entities.chain([(Kind::Source, spec.source.clone())]);
    used.map(|from| Edge { from, to: to.clone() }).collect()
}

fn service_edge(view: &Name, service: &Name) -> Edge {
    Edge { from: (Kind::FeatureView, view.clone()), to: (Kind::FeatureService, service.clone()) }
}

fn consumer_edges(consumer: &Name, spec: &Spec) -> Vec<Edge> {
    let Spec::Consumer(spec) = spec else { return Vec::new() };
    let services = spec.services.iter().map(|used| (Kind::FeatureService, used.service.clone()));
    let views = spec.features.iter().map(|used| (Kind::FeatureView, used.view.clone()));
    services.chain(views).map(|from| Edge { from, to: (Kind::Consumer, consumer.clone()) }).collect()
}

/// Follows edges from `start`; `ends` says which end of an edge is near and which far.
fn walk(edges: &BTreeSet<Edge>, start: &Reference, ends: impl Fn(&Edge) -> (&Reference, &Reference)) -> Vec<Edge> {
    let mut reached = BTreeSet::from([start.clone()]);
    let mut found = BTreeSet::new();
    // Edges lead from kind to kind, so a path has at most three of them.
    loop {
        let before = found.len();
        for edge in edges {
            let (near, far) = ends(edge);
            if reached.contains(near) && found.insert(edge.clone()) {
                reached.insert(far.clone());
            }
        }
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}
