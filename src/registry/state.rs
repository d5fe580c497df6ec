//! Everything the registry has to remember: definitions as written, all versions of views and
//! services, and the counters of ids, which never go back. A state is a value: changes make a new
//! one, which is persisted whole. What can be worked out from it is not in it.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_storage::names::{Name, TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::value::DataType;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::catalog::Applied;
use super::definition::{Definition, FeatureViewSpec, Kind, Metadata, Spec, TenantSpec};
use super::exact;
use super::shares::Share;

/// The version of the persisted form.
pub const FORMAT: u32 = 3;
/// Forms that are read too: 1 knows no consumers, 2 no shares and one version of each view.
const OLDER_FORMATS: [u32; 2] = [1, 2];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub format: u32,
    pub revision: u64,
    /// The next ids to be given. They only rise, whatever is deleted.
    pub next_tenant: u32,
    pub next_view: u32,
    pub tenants: BTreeMap<Name, TenantState>,
    /// Those that were deleted. What they left (spines, quotas, records) lies under their names, so these are
    /// never given again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub deleted_tenants: BTreeSet<Name>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantState {
    pub id: TenantId,
    /// The revision of the last change of anything of this tenant's.
    #[serde(default)]
    pub revision: u64,
    pub stored: Stored,
    pub entities: BTreeMap<Name, Stored>,
    pub sources: BTreeMap<Name, Stored>,
    pub views: BTreeMap<Name, ViewState>,
    pub services: BTreeMap<Name, ServiceState>,
    #[serde(default)]
    pub consumers: BTreeMap<Name, Stored>,
    /// The last version of each view name that was deleted, so that its next one goes on counting.
    pub deleted_views: BTreeMap<Name, u32>,
    /// Versions of views that are defined no more, deleted or given up: what their rows were stored under, so that
    /// an erasure finds them. Nothing else deletes those.
    #[serde(default)]
    pub dropped: Vec<DroppedVersion>,
    /// The last version of each service name that was deleted.
    pub deleted_services: BTreeMap<Name, u32>,
    /// What others may read, by number.
    #[serde(default)]
    pub shares: BTreeMap<u32, Share>,
    /// The last number of a share, which is never given again.
    #[serde(default)]
    pub last_share: u32,
}

/// A definition as it was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    pub definition: Definition,
    pub revision: u64,
    pub created: Micros,
    pub updated: Micros,
    pub updated_by: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewState {
    pub stored: Stored,
    pub id: ViewId,
    pub version: u32,
    /// The features in the order of the packed row. Only ever appended to.
    pub row: Vec<RowFeature>,
    /// Its ttl was raised, and rows that count under it again are not all online yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refilling: Option<Refilling>,
    /// The version that is built beside it and takes its place then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Box<Next>>,
    /// Versions whose place it has taken, ascending; they have none of their own. Rows go on coming to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<ViewState>,
    /// The highest version that was given under the name, whatever became of it.
    #[serde(default)]
    pub highest: u32,
}

/// A version of a view that is defined no more, and how its rows are stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DroppedVersion {
    pub id: ViewId,
    pub view: Name,
    pub version: u32,
    pub entities: Vec<Name>,
    /// The join keys of all its entities, in order.
    pub join_keys: Vec<(Name, DataType)>,
    /// In the order of the packed row.
    pub features: Vec<(Name, DataType)>,
    /// It has a table of history.
    pub offline: bool,
    /// How long its rows are kept there.
    #[serde(default)]
    pub retention: Option<Micros>,
}

/// A version of a view that is being built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Next {
    pub view: ViewState,
    /// The revision that asked for it.
    pub since: u64,
    /// The version whose history it is built from.
    pub from: ViewId,
}

/// What holds until a raised ttl takes effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refilling {
    /// The ttl that reads go by meanwhile.
    pub serves: Option<Micros>,
    /// The revision that asked for the refill: from it on no row is let go that counts under the raised ttl.
    pub since: u64,
}

impl ViewState {
    /// A version without any other.
    pub fn new(stored: Stored, id: ViewId, version: u32, row: Vec<RowFeature>) -> Self {
        Self { stored, id, version, row, refilling: None, next: None, older: Vec::new(), highest: version }
    }

    /// The version of the definition as it was applied last: the one that is being built, if one is.
    pub fn newest(&self) -> &Self {
        self.next.as_ref().map_or(self, |next| &next.view)
    }

    /// The one that is served, those before it, and the one that is being built.
    pub fn all(&self) -> impl Iterator<Item = &Self> {
        [self].into_iter().chain(&self.older).chain(self.next.iter().map(|next| &next.view))
    }

    /// No version under the name had a higher number.
    pub fn highest(&self) -> u32 {
        self.all().map(|view| view.version).max().unwrap_or_default().max(self.highest)
    }

    pub fn spec(&self) -> &FeatureViewSpec {
        match &self.stored.definition.spec {
            Spec::FeatureView(spec) => spec,
            _ => unreachable!("a view's state holds a view's definition, which is checked when a state is read"),
        }
    }

    /// As it was applied last: of the version that is being built, where there is one.
    pub fn newest_spec(&self) -> &FeatureViewSpec {
        self.next.as_ref().map_or(self, |next| &next.view).spec()
    }

    /// The ttl that reads go by.
    pub fn ttl_in_effect(&self) -> Option<Micros> {
        match (&self.refilling, &self.stored.definition.spec) {
            (Some(refilling), _) => refilling.serves,
            (None, Spec::FeatureView(spec)) => spec.ttl,
            (None, _) => None,
        }
    }
}

/// What of a feature the packed rows depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowFeature {
    pub name: Name,
    pub data_type: DataType,
    pub column: Name,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceState {
    pub stored: Stored,
    /// Ascending and never empty; the last is current.
    pub versions: Vec<FrozenService>,
}

/// A version of a service, frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrozenService {
    pub number: u32,
    pub latency_budget: Option<Micros>,
    pub lookups: Vec<FrozenLookup>,
    pub columns: Vec<FrozenColumn>,
    pub shape_hash: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrozenLookup {
    pub view: Name,
    pub view_id: ViewId,
    pub view_version: u32,
    /// Join key → request column, in the view's order.
    pub keys: Vec<(Name, Name)>,
    pub ttl: Option<Micros>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrozenColumn {
    pub name: String,
    /// Index into the lookups.
    pub lookup: usize,
    pub feature: Name,
    pub data_type: DataType,
    #[serde(with = "exact")]
    pub default: Option<serde_json::Value>,
}

impl State {
    /// The state of the first start: one tenant, which has defined nothing.
    pub fn first(tenant: Name, now: Micros, by: &str) -> Self {
        let definition = Definition {
            metadata: Metadata {
                name: tenant.clone(),
                description: String::new(),
                owner: String::new(),
                tags: BTreeMap::new(),
            },
            spec: Spec::Tenant(TenantSpec {}),
        };
        let tenant_state = TenantState {
            id: TenantId(1),
            revision: 1,
            stored: Stored { definition, revision: 1, created: now, updated: now, updated_by: by.to_owned() },
            entities: BTreeMap::new(),
            sources: BTreeMap::new(),
            views: BTreeMap::new(),
            services: BTreeMap::new(),
            consumers: BTreeMap::new(),
            deleted_views: BTreeMap::new(),
            dropped: Vec::new(),
            deleted_services: BTreeMap::new(),
            shares: BTreeMap::new(),
            last_share: 0,
        };
        Self {
            format: FORMAT,
            revision: 1,
            next_tenant: 2,
            next_view: 1,
            tenants: BTreeMap::from([(tenant, tenant_state)]),
            deleted_tenants: BTreeSet::new(),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a state has text keys and no way to fail")
    }

    /// Reads what [`Self::encode`] wrote; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if version.format != FORMAT && !OLDER_FORMATS.contains(&version.format) {
            return Err(format!("it has format {}, and this version reads up to format {FORMAT}", version.format));
        }
        let mut read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let revision = read.revision;
        let untold = read.tenants.values_mut().filter(|tenant| tenant.revision == 0);
        untold.for_each(|tenant| tenant.revision = revision);
        Ok(Self { format: FORMAT, ..read })
    }
}

impl TenantState {
    pub fn stored(&self, kind: Kind, name: &Name) -> Option<&Stored> {
        match kind {
            Kind::Tenant => Some(&self.stored).filter(|stored| stored.definition.metadata.name == *name),
            Kind::Entity => self.entities.get(name),
            Kind::Source => self.sources.get(name),
            Kind::FeatureView => self.views.get(name).map(|view| &view.newest().stored),
            Kind::FeatureService => self.services.get(name).map(|service| &service.stored),
            Kind::Consumer => self.consumers.get(name),
        }
    }

    /// Every definition but the tenant's own.
    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        let views = self.views.values().map(|view| &view.newest().stored);
        let services = self.services.values().map(|service| &service.stored);
        let stored = self.entities.values().chain(self.sources.values()).chain(views).chain(services);
        let stored = stored.chain(self.consumers.values());
        stored.map(|stored| &stored.definition)
    }
}

impl Stored {
    pub fn applied(&self) -> Applied {
        Applied {
            definition: self.definition.clone(),
            revision: self.revision,
            created: self.created,
            updated: self.updated,
            updated_by: self.updated_by.clone(),
            etag: self.etag(),
        }
    }

    /// Differs for every change of every definition, and says nothing else.
    pub fn etag(&self) -> String {
        let kind = self.definition.spec.kind().as_str();
        let identity = format!("{kind}/{}/{}", self.definition.metadata.name, self.revision);
        format!("{:016x}", xxh3_64(identity.as_bytes()))
    }
}

impl ServiceState {
    pub fn current(&self) -> Option<&FrozenService> {
        self.versions.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_format_is_refused_by_name() {
        let mut state = State::first("default".parse().expect("a name"), 5, "start");
        assert_eq!(State::decode(&state.encode()).as_ref(), Ok(&state));
        state.format = 4;
        assert!(State::decode(&state.encode()).expect_err("it is of the future").contains("format 4"));
    }

    #[test]
    fn a_state_from_before_there_were_consumers_and_shares_is_read() {
        let state = State::first("default".parse().expect("a name"), 5, "start");
        let mut older: serde_json::Value = serde_json::from_slice(&state.encode()).expect("JSON");
        older["format"] = 1.into();
        let tenant = older["tenants"]["default"].as_object_mut().expect("an object");
        for field in ["consumers", "revision", "shares", "last_share", "dropped"] {
            tenant.remove(field).expect("it was there");
        }
        assert_eq!(State::decode(older.to_string().as_bytes()), Ok(state));
    }
}
