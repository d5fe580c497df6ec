//! Definitions as they are shown, one or page by page. A page's token holds the last name shown, so
//! that a listing goes on where it was whatever is changed meanwhile.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use crate::error::{Error, Result};

use super::builds::Built;
use super::catalog::{Applied, Service, ServiceVersion, Standing, TenantCatalog, View};
use super::definition::{FeatureServiceSpec, Kind, ServiceFeature, Spec};
use super::deletion;
use super::keeping::HeldBack;

pub const DEFAULT_PAGE_SIZE: u32 = 100;
/// A larger page size is read as this.
pub const MAX_PAGE_SIZE: u32 = 1_000;
const MAX_TOKEN_BYTES: usize = 256;

/// A definition with what the server knows about it.
#[derive(Clone, Debug)]
pub struct Described {
    pub applied: Applied,
    /// The current version of a view or service; 1 for other kinds.
    pub version: u32,
    /// The version of a service that is described: the current one, or the one asked for.
    pub frozen: Option<Arc<ServiceVersion>>,
    /// All versions of a service that are served, ascending.
    pub versions: Vec<u32>,
    /// Of a view whose raised ttl isn't in effect yet: the one that is.
    pub refilling_from: Option<Micros>,
    /// Of a view of which a new version is being built: the one that is served.
    pub served: Option<u32>,
    /// How far it is, while somebody is at it.
    pub built: Option<Built>,
    /// Of a view with a retention that was asked for by itself: what keeps its rows for longer,
    pub held_back: Vec<HeldBack>,
    /// and before which instant rows are gone.
    pub gone_before: Option<Micros>,
}

impl Described {
    /// Of whatever has one version.
    fn simple(applied: Applied) -> Self {
        Self {
            applied,
            version: 1,
            frozen: None,
            versions: Vec::new(),
            refilling_from: None,
            served: None,
            built: None,
            held_back: Vec::new(),
            gone_before: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Page {
    /// By name.
    pub items: Vec<Described>,
    /// Empty: there are no more.
    pub next_page_token: String,
    /// The revision that the page was read at.
    pub revision: u64,
}

pub(super) fn get(catalog: &TenantCatalog, kind: Kind, name: &Name) -> Option<Described> {
    let simple = |applied: &Applied| Described::simple(applied.clone());
    match kind {
        Kind::Tenant => (catalog.name == *name).then(|| simple(&catalog.applied)),
        Kind::Entity => catalog.entities.get(name).map(|entity| simple(&entity.applied)),
        Kind::Source => catalog.sources.get(name).map(|source| simple(&source.applied)),
        Kind::FeatureView => catalog.views.get(name).map(|view| {
            let refilling_from = view.refill.and(view.ttl);
            let is_next = |version: &&Arc<View>| matches!(version.standing, Standing::Building { .. });
            let next = catalog.versions_of(name.as_str()).find(is_next);
            let (newest, served) = (next.unwrap_or(view), next.map(|_| view.version));
            let read = catalog.versions_of(name.as_str()).filter(|version| !is_next(version));
            let mut versions: Vec<u32> = read.map(|version| version.version).collect();
            versions.sort_unstable();
            Described { version: newest.version, versions, refilling_from, served, ..simple(&newest.applied) }
        }),
        Kind::FeatureService => catalog.services.get(name).map(|service| {
            let frozen = service.versions.last().cloned();
            let version = frozen.as_ref().map_or(1, |frozen| frozen.number);
            Described { version, frozen, versions: numbers(service), ..simple(&service.applied) }
        }),
        Kind::Consumer => catalog.consumers.get(name).map(|consumer| simple(&consumer.applied)),
    }
}

/// One version of a service: the definition as it would be written for this very version.
pub(super) fn get_version(catalog: &TenantCatalog, name: &Name, number: u32) -> Result<Described> {
    let service = catalog.services.get(name).ok_or_else(|| deletion::not_found(Kind::FeatureService, name))?;
    let found = service.versions.iter().find(|version| version.number == number);
    let frozen = found.ok_or_else(|| deletion::version_not_found(name, number, &numbers(service)))?;
    let mut applied = service.applied.clone();
    if service.versions.last().is_some_and(|current| current.number != number) {
        applied.definition.spec = Spec::FeatureService(as_written(frozen));
    }
    let (frozen, versions) = (Some(Arc::clone(frozen)), numbers(service));
    Ok(Described { version: number, frozen, versions, ..Described::simple(applied) })
}

/// One version of a view, as its definition was applied last while it was served.
pub(super) fn get_view_version(catalog: &TenantCatalog, name: &Name, number: u32) -> Result<Described> {
    let described =
        get(catalog, Kind::FeatureView, name).ok_or_else(|| deletion::not_found(Kind::FeatureView, name))?;
    let found = catalog.versions_of(name.as_str()).find(|version| version.version == number);
    let found = found.ok_or_else(|| deletion::view_version_not_found(name, number, &described.versions))?;
    Ok(Described { applied: found.applied.clone(), version: number, ..described })
}

fn numbers(service: &Service) -> Vec<u32> {
    service.versions.iter().map(|version| version.number).collect()
}

/// The features of a version one by one: what was written for it is not kept.
fn as_written(frozen: &ServiceVersion) -> FeatureServiceSpec {
    let mut features: Vec<(usize, ServiceFeature)> = Vec::new();
    for column in &frozen.columns {
        let lookup = &frozen.lookups[column.lookup];
        let view = &lookup.view.name;
        let prefix = column.name.split("__").next().unwrap_or_default();
        let alias = prefix.parse::<Name>().ok().filter(|alias| alias != view);
        let feature = lookup.view.features[column.feature].name.clone();
        match features.last_mut() {
            Some((known, entry)) if *known == column.lookup && entry.alias == alias => entry.features.push(feature),
            _ => {
                let pairs = lookup.view.join_keys.iter().zip(&lookup.keys);
                let mapped = pairs.filter(|(join_key, column)| join_key.name != **column);
                let keys = mapped.map(|(join_key, column)| (join_key.name.clone(), column.clone())).collect();
                let entry = ServiceFeature { view: view.clone(), features: vec![feature], alias, keys };
                features.push((column.lookup, entry));
            }
        }
    }
    let features = features.into_iter().map(|(_, feature)| feature).collect();
    FeatureServiceSpec { latency_budget: frozen.latency_budget, features }
}

/// A page of a kind: at most `page_size` (0: the default), after the one that gave `page_token`
/// (empty: from the start).
pub(super) fn list(
    catalog: &TenantCatalog,
    revision: u64,
    kind: Kind,
    page_size: u32,
    page_token: &str,
) -> Result<Page> {
    let after = if page_token.is_empty() { None } else { Some(decode(kind, page_token)?) };
    let size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size.min(MAX_PAGE_SIZE) } as usize;
    // One more than fits tells whether there is another page.
    let mut names = names_after(catalog, kind, after.as_ref(), size + 1);
    let more = names.len() > size;
    names.truncate(size);
    let next_page_token = match names.last() {
        Some(last) if more => encode(kind, last),
        _ => String::new(),
    };
    let items = names.iter().filter_map(|name| get(catalog, kind, name)).collect();
    Ok(Page { items, next_page_token, revision })
}

fn names_after(catalog: &TenantCatalog, kind: Kind, after: Option<&Name>, count: usize) -> Vec<Name> {
    let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    match kind {
        Kind::Tenant => {
            [&catalog.name].into_iter().filter(|name| after.is_none_or(|after| *name > after)).cloned().collect()
        }
        Kind::Entity => catalog.entities.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect(),
        Kind::Source => catalog.sources.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect(),
        Kind::FeatureView => catalog.views.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect(),
        Kind::FeatureService => {
            catalog.services.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect()
        }
        Kind::Consumer => catalog.consumers.range::<Name, _>(range).map(|(name, _)| name.clone()).take(count).collect(),
    }
}

pub(super) fn encode(kind: Kind, last: &Name) -> String {
    URL_SAFE_NO_PAD.encode(format!("1/{}/{last}", kind.as_str()))
}

pub(super) fn decode(kind: Kind, token: &str) -> Result<Name> {
    let decoded = if token.len() > MAX_TOKEN_BYTES { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let name = text.and_then(|text| {
        let mut parts = text.splitn(3, '/');
        let known = parts.next() == Some("1") && parts.next() == Some(kind.as_str());
        parts.next().filter(|_| known)?.parse().ok()
    });
    name.ok_or_else(|| {
        Error::invalid("BAD_PAGE_TOKEN", format!("the page token is none of a listing of {}", kind.as_str()))
            .hint("give back a token as it was answered, for the same kind; or none, to start anew")
    })
}
