//! What the definitions mean together: names resolved, types worked out, services frozen. A
//! [`Snapshot`] is immutable; every request names one and sees nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydrant_storage::history::HistoryViewSpec;
use hydrant_storage::names::{Name, TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::row::RowLayout;
use hydrant_storage::value::{DataType, ScalarType, Value};

use super::definition::{Definition, FeatureReference, KnownTimeRule, ServiceReference, Spec};
use super::known_selections::KnownSelections;
use super::promise::FreshnessSpec;
use super::shares::{EndsBy, Received, Share};
use super::succession::{Taken, origins};
use crate::clock::StoreTime;
use crate::error::{Error, Result};

/// Everything that is defined, at one revision.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub revision: u64,
    pub tenants: BTreeMap<Name, Arc<TenantCatalog>>,
    pub(super) known_selections: KnownSelections,
    /// What tenants may read of one another, and by whose clock that ends: without one there is nothing.
    pub(super) received: Received,
    pub(super) ends_by: EndsBy,
}

impl Snapshot {
    pub fn new(revision: u64, tenants: BTreeMap<Name, Arc<TenantCatalog>>) -> Self {
        let received = Received::of(&tenants);
        Self { revision, tenants, known_selections: KnownSelections::default(), received, ends_by: EndsBy::default() }
    }

    /// By whose clock shares end.
    #[must_use]
    pub(super) fn timed_by(self, time: Arc<StoreTime>) -> Self {
        Self { ends_by: EndsBy(Some(time)), ..self }
    }

    pub(super) fn now(&self) -> Option<Micros> {
        self.ends_by.0.as_ref().map(|time| time.read())
    }
}

/// What one tenant has defined.
#[derive(Debug)]
pub struct TenantCatalog {
    pub applied: Applied,
    pub id: TenantId,
    pub name: Name,
    pub entities: BTreeMap<Name, Arc<Entity>>,
    pub sources: BTreeMap<Name, Arc<Source>>,
    /// The versions that are served under their names.
    pub views: BTreeMap<Name, Arc<View>>,
    /// All other versions: those whose place was taken, ascending, and then the one that is being built.
    pub versions: BTreeMap<Name, Vec<Arc<View>>>,
    /// Versions of views that are defined no more, whose rows may still be on disk.
    pub dropped: Vec<DroppedView>,
    pub services: BTreeMap<Name, Arc<Service>>,
    pub consumers: BTreeMap<Name, Arc<Consumer>>,
    /// What it lets others read, by number; those that ended lately too.
    pub shares: BTreeMap<u32, Arc<Share>>,
}

/// A definition as it was applied, and since when.
#[derive(Clone, Debug)]
pub struct Applied {
    pub definition: Definition,
    /// The registry revision of the last change.
    pub revision: u64,
    pub created: Micros,
    pub updated: Micros,
    pub updated_by: String,
    pub etag: String,
}

#[derive(Debug)]
pub struct Entity {
    pub applied: Applied,
    pub join_keys: Vec<JoinKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinKey {
    pub name: Name,
    pub key_type: ScalarType,
}

#[derive(Debug)]
pub struct Source {
    pub applied: Applied,
    pub name: Name,
    pub event_time: Name,
    pub known_time: KnownTimeRule,
    /// Microseconds.
    pub max_future: Micros,
    pub columns: Vec<SourceColumn>,
    /// All versions of the views over it.
    pub views: Vec<Arc<View>>,
}

#[derive(Clone, Debug)]
pub struct SourceColumn {
    pub name: Name,
    pub data_type: DataType,
}

/// One version of a view.
#[derive(Debug)]
pub struct View {
    pub applied: Applied,
    pub id: ViewId,
    pub tenant: TenantId,
    pub name: Name,
    pub version: u32,
    pub source: Name,
    /// The join keys of all its entities together, in order: the entity key.
    pub join_keys: Vec<JoinKey>,
    /// Leads the hash of a key to its slot, so that views over the same entities share slots.
    pub slot_seed: u64,
    /// The ttl that reads go by.
    pub ttl: Option<Micros>,
    /// A raised ttl that is to take its place once all rows that count under it are online again.
    pub refill: Option<Refill>,
    /// The longest ttl among the view and its live service versions; a row older than it is kept
    /// online as a stub. A raised one is among them before it takes effect.
    pub longest_ttl: Option<Micros>,
    /// When rows go for good: as the view's name is defined now, but not before the longest ttl. `None`: never.
    pub retention: Option<Micros>,
    /// In the order of the packed row: features added later come last.
    pub features: Vec<Feature>,
    pub layout: Arc<RowLayout>,
    pub online: bool,
    pub offline: bool,
    pub freshness: Option<FreshnessSpec>,
    pub standing: Standing,
}

/// A view's retention is kept in steps of this length: so much later than that rows go at the latest.
pub fn retention_step(retention: Micros) -> Micros {
    (retention / 20).max(1)
}

/// Rows that happened before are to go now.
pub fn retention_horizon(now: Micros, retention: Micros) -> Micros {
    let step = retention_step(retention);
    now.saturating_sub(retention).div_euclid(step).saturating_mul(step)
}

/// A version of a view that is defined no more, and how its rows are stored.
#[derive(Debug)]
pub struct DroppedView {
    pub id: ViewId,
    pub name: Name,
    pub version: u32,
    pub entities: Vec<Name>,
    pub join_keys: Vec<JoinKey>,
    pub slot_seed: u64,
    /// In the order of the packed row.
    pub features: Vec<(Name, DataType)>,
    /// It has a table of history.
    pub offline: bool,
    /// How long its rows are kept there; `None`: for ever.
    pub retention: Option<Micros>,
}

/// Which version of its view a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The one that the view's name stands for.
    Served,
    /// One whose place was taken: services that froze it read it.
    Older,
    /// One that is built from the history of another since a revision; nobody reads it.
    Building { since: u64, from: ViewId },
}

/// A ttl that was raised and is not in effect yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refill {
    pub ttl: Option<Micros>,
    /// The revision that asked for it.
    pub since: u64,
}

#[derive(Clone, Debug)]
pub struct Feature {
    pub name: Name,
    pub description: String,
    pub data_type: DataType,
    /// The source's column.
    pub column: Name,
    pub default: Option<Value>,
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Service {
    pub applied: Applied,
    pub name: Name,
    /// Ascending and never empty; the last is current.
    pub versions: Vec<Arc<ServiceVersion>>,
}

/// A model or job, and what it uses.
#[derive(Debug)]
pub struct Consumer {
    pub applied: Applied,
    pub name: Name,
    pub version: String,
    pub services: Vec<ServiceReference>,
    pub features: Vec<FeatureReference>,
}

/// What a model sees, frozen when the service was applied.
#[derive(Debug)]
pub struct ServiceVersion {
    pub service: Name,
    pub number: u32,
    /// Microseconds.
    pub latency_budget: Option<Micros>,
    /// The rows to look up: one for each distinct (view, key mapping, ttl).
    pub lookups: Vec<Lookup>,
    /// In the frozen order.
    pub columns: Vec<ServiceColumn>,
    /// Hex; over column names, types, view versions, ttl and defaults.
    pub shape_hash: String,
}

/// One row to find: a view under request columns.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub view: Arc<View>,
    /// The request column for each join key of the view, in the view's order.
    pub keys: Vec<Name>,
    /// Frozen with the service.
    pub ttl: Option<Micros>,
}

#[derive(Clone, Debug)]
pub struct ServiceColumn {
    /// `view__feature`, or `alias__feature`.
    pub name: String,
    /// Index into the lookups.
    pub lookup: usize,
    /// Index into the view's features.
    pub feature: usize,
    pub data_type: DataType,
    /// Frozen with the service.
    pub default: Option<Value>,
    /// The caller may not see it. Of a request; what is defined is never masked.
    pub is_masked: bool,
    /// Whatever the caller may see: its owner shares it without what is personal. Of a request.
    pub withholds_pii: bool,
}

impl Snapshot {
    /// The name of the tenant that a view belongs to, who need not be the one that reads it.
    pub fn owner_of(&self, view: &View) -> Result<&Name> {
        let owner = self.tenants.iter().find(|(_, tenant)| tenant.id == view.tenant);
        let gone = || Error::internal(format!("the tenant that view '{}' belongs to is gone", view.name));
        owner.map(|(name, _)| name).ok_or_else(gone)
    }
}

impl TenantCatalog {
    /// All versions of all views, the ones that are served first.
    pub fn all_views(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values().chain(self.versions.values().flatten())
    }

    /// All versions of a view, the one that is served first; none if there is no such view.
    pub fn versions_of(&self, view: &str) -> impl Iterator<Item = &Arc<View>> {
        self.views.get(view).into_iter().chain(self.versions.get(view).into_iter().flatten())
    }

    /// The version of a view that is served, and older ones, which services may still read.
    pub fn read_versions_of(&self, view: &str) -> impl Iterator<Item = &Arc<View>> {
        self.versions_of(view).filter(|version| !matches!(version.standing, Standing::Building { .. }))
    }

    /// The tables of history of all versions of all views, of those that are defined no more too.
    pub fn history_tables(&self) -> impl Iterator<Item = (ViewId, HistoryViewSpec)> {
        let defined = self.all_views().filter(|view| view.offline);
        let defined = defined.map(|view| (view.id, view.history_spec(&self.name)));
        let dropped = self.dropped.iter().filter(|view| view.offline);
        defined.chain(dropped.map(|view| (view.id, view.history_spec(&self.name))))
    }

    /// Of these the tables of versions that are defined no more and whose rows go some day all the same.
    pub fn dropped_tables_with_retention(&self) -> impl Iterator<Item = HistoryViewSpec> {
        let dropped = self.dropped.iter().filter(|view| view.offline && view.retention.is_some());
        dropped.map(|view| view.history_spec(&self.name))
    }

    /// How long rows of a version of a view are kept, be it defined or not; `None`: for ever.
    pub fn retention_of(&self, view: &Name, version: u32) -> Option<Micros> {
        let mut defined = self.versions_of(view.as_str());
        if let Some(defined) = defined.find(|defined| defined.version == version) {
            return defined.retention;
        }
        self.dropped.iter().find(|dropped| (&dropped.name, dropped.version) == (view, version))?.retention
    }
}

impl View {
    /// Rows that happened before are older than its retention, and go soon after they have come; `None`: none.
    pub fn kept_since(&self, now: Micros) -> Option<Micros> {
        self.retention.map(|kept| now.saturating_sub(kept))
    }

    /// Whether it is the version that the view's name stands for.
    pub fn is_served(&self) -> bool {
        self.standing == Standing::Served
    }

    pub fn entities(&self) -> &[Name] {
        match &self.applied.definition.spec {
            Spec::FeatureView(spec) => &spec.entities,
            _ => &[],
        }
    }

    /// For each of its features the one, by its place, of another version that is of the same column and
    /// loses nothing in its type.
    pub fn origins_in(&self, other: &Self) -> Vec<Option<usize>> {
        origins(&other.taken(), &self.taken())
    }

    fn taken(&self) -> Vec<Taken<'_>> {
        self.features.iter().map(|feature| (&feature.name, &feature.column, feature.data_type)).collect()
    }

    /// What history must know of the view, of the tenant with the given name.
    pub fn history_spec(&self, tenant: &Name) -> HistoryViewSpec {
        HistoryViewSpec {
            tenant: tenant.clone(),
            view: self.name.clone(),
            version: self.version,
            join_keys: self.join_keys.iter().map(|key| (key.name.clone(), key.key_type)).collect(),
            features: self.features.iter().map(|feature| (feature.name.clone(), feature.data_type)).collect(),
        }
    }
}

impl Consumer {
    /// The versions of services that it uses: those that it names, and of the others the current ones.
    pub fn versions<'a>(&'a self, catalog: &'a TenantCatalog) -> impl Iterator<Item = (&'a Name, u32)> {
        let current = |service| catalog.services.get(service)?.versions.last().map(|version| version.number);
        self.services
            .iter()
            .filter_map(move |used| Some((&used.service, used.version.or_else(|| current(&used.service))?)))
    }
}

impl DroppedView {
    fn history_spec(&self, tenant: &Name) -> HistoryViewSpec {
        HistoryViewSpec {
            tenant: tenant.clone(),
            view: self.name.clone(),
            version: self.version,
            join_keys: self.join_keys.iter().map(|key| (key.name.clone(), key.key_type)).collect(),
            features: self.features.clone(),
        }
    }
}
