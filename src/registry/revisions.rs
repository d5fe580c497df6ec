//! Every change of a tenant's definitions: which revision, who, when, and each definition as it was
//! then. It is a value beside the state, bounded: what is folded away leaves the definitions of the
//! oldest revision that can still be gone back to. It never says what is defined now; the state does.

use std::collections::{BTreeMap, VecDeque};

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};

use super::definition::{Definition, Kind};
use super::state::{Stored, TenantState, ViewState};

/// The version of the persisted form.
const FORMAT: u32 = 1;
/// With versions of views that came to be served, which builds before it don't know.
const FORMAT_WITH_SERVED: u32 = 2;
/// The most bytes of revisions that are kept of a tenant, as they are persisted.
pub const MAX_BYTES: usize = 8 << 20;
/// The most revisions that are kept of a tenant.
pub const MAX_REVISIONS: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revisions {
    format: u32,
    /// What was defined at the oldest revision that can be gone back to.
    base: Vec<Definition>,
    base_revision: u64,
    kept: VecDeque<Kept>,
}

/// A revision and how many bytes it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    bytes: usize,
    #[serde(flatten)]
    revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    pub revision: u64,
    /// Store time.
    pub at: Micros,
    pub by: String,
    pub cause: Cause,
    pub changes: Vec<Recorded>,
}

/// What made a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Apply, create, update or delete.
    Change,
    Rollback {
        to: u64,
    },
    /// It was not recorded when it was made, and found in the state: of builds that recorded nothing, or
    /// where a backup was taken between the two.
    Found,
}

/// What became of one definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub kind: Kind,
    pub name: Name,
    pub what: What,
    /// As it was from then on; `None`: it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Definition>,
    /// Of a service the version that became current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Created,
    Updated,
    Deleted,
    /// One version of a service, or one of a view whose place another had taken.
    VersionDeleted(u32),
    /// This version of a view is served from then on.
    VersionServed(u32),
}

type Definitions = BTreeMap<(Kind, Name), Definition>;

impl Revisions {
    /// What a tenant has before the first revision is recorded.
    pub fn begin(tenant: &TenantState) -> Self {
        let base = tenant.definitions().cloned().collect();
        Self { format: FORMAT, base, base_revision: tenant.revision, kept: VecDeque::new() }
    }

    /// Of a tenant that was made just now.
    pub fn before_all() -> Self {
        Self { format: FORMAT, base: Vec::new(), base_revision: 0, kept: VecDeque::new() }
    }

    /// Holds to the state, which is right: what never came to be is dropped, and what wasn't recorded is
    /// added.
    #[must_use]
    pub fn reconciled(mut self, tenant: &TenantState) -> Self {
        while self.kept.back().is_some_and(|kept| kept.revision.revision > tenant.revision) {
            self.kept.pop_back();
        }
        let known = self.definitions_at(u64::MAX);
        let is_known = |definition: &Definition| {
            known.get(&(definition.kind(), definition.name().clone())).is_some_and(|known| known == definition)
        };
        let is_right = tenant.definitions().count() == known.len() && tenant.definitions().all(is_known);
        if is_right {
            return self;
        }
        let newest = stored(tenant).max_by_key(|stored| stored.revision);
        let (at, by) = newest.map_or((0, String::new()), |stored| (stored.updated, stored.updated_by.clone()));
        let changes = between(&known, tenant);
        self.push(Revision { revision: tenant.revision, at, by, cause: Cause::Found, changes });
        self
    }

    /// Adds the newest revision, and folds away the oldest where there are too many.
    pub fn push(&mut self, revision: Revision) {
        if revision.changes.iter().any(|change| matches!(change.what, What::VersionServed(_))) {
            self.format = FORMAT_WITH_SERVED;
        }
        let bytes = serde_json::to_vec(&revision).map_or(0, |encoded| encoded.len());
        self.kept.push_back(Kept { bytes, revision });
        let mut total: usize = self.kept.iter().map(|kept| kept.bytes).sum();
        if total <= MAX_BYTES && self.kept.len() <= MAX_REVISIONS {
            return;
        }
        // Down to three quarters, so that it isn't done again at once.
        let mut base = self.based();
        while total > MAX_BYTES / 4 * 3 || self.kept.len() > MAX_REVISIONS / 4 * 3 {
            let Some(Kept { bytes, revision }) = self.kept.pop_front() else { break };
            total -= bytes;
            self.base_revision = revision.revision;
            revision.changes.into_iter().for_each(|change| take(&mut base, change));
        }
        self.base = base.into_values().collect();
    }

    /// The oldest revision that can be gone back to.
    pub fn oldest(&self) -> u64 {
        self.base_revision
    }

    /// The revisions that are kept, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Revision> {
        self.kept.iter().rev().map(|kept| &kept.revision)
    }

    /// Goes through the revisions that are kept, oldest first, with each definition before its change.
    pub fn each_change(&self, mut told: impl FnMut(&Revision, &Recorded, Option<&Definition>)) {
        let mut definitions = self.based();
        for Kept { revision, .. } in &self.kept {
            for change in &revision.changes {
                told(revision, change, definitions.get(&(change.kind, change.name.clone())));
                take(&mut definitions, change.clone());
            }
        }
    }

    /// What was defined at a revision that can be gone back to.
    pub fn definitions_at(&self, revision: u64) -> Definitions {
        let mut definitions = self.based();
        let until = self.kept.iter().take_while(|kept| kept.revision.revision <= revision);
        for change in until.flat_map(|kept| &kept.revision.changes) {
            take(&mut definitions, change.clone());
        }
        definitions
    }

    fn based(&self) -> Definitions {
        let base = self.base.iter();
        base.map(|definition| ((definition.kind(), definition.name().clone()), definition.clone())).collect()
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("revisions have text keys and no way to fail")
    }

    /// Reads what [`Self::encode`] wrote; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match read.format {
            FORMAT | FORMAT_WITH_SERVED => Ok(read),
            format => {
                Err(format!("it has format {format}, and this version reads formats {FORMAT} to {FORMAT_WITH_SERVED}"))
            }
        }
    }
}

/// What became of a tenant's definitions by a change.
pub fn changes_between(old: Option<&TenantState>, new: &TenantState) -> Vec<Recorded> {
    let definitions = old.into_iter().flat_map(TenantState::definitions);
    let known = definitions.map(|definition| ((definition.kind(), definition.name().clone()), definition.clone()));
    let mut changes = between(&known.collect(), new);
    let Some(old) = old else { return changes };
    for (name, service) in &old.services {
        let Some(after) = new.services.get(name) else { continue };
        let gone = service.versions.iter().map(|version| version.number);
        let gone = gone.filter(|number| after.versions.iter().all(|version| version.number != *number));
        changes.extend(gone.map(|number| Recorded {
            kind: Kind::FeatureService,
            name: name.clone(),
            what: What::VersionDeleted(number),
            definition: Some(after.stored.definition.clone()),
            version: after.current().map(|current| current.number),
        }));
        // A service whose words are the same, frozen anew.
        let current = |service: &super::state::ServiceState| service.current().map(|version| version.number);
        let is_told = changes.iter().any(|change| change.kind == Kind::FeatureService && change.name == *name);
        if current(service) != current(after) && !is_told {
            changes.push(Recorded {
                kind: Kind::FeatureService,
                name: name.clone(),
                what: What::Updated,
                definition: Some(after.stored.definition.clone()),
                version: current(after),
            });
        }
    }
    for (name, view) in &old.views {
        let Some(after) = new.views.get(name) else { continue };
        changes.extend(versions_between(view, after).map(|what| Recorded {
            kind: Kind::FeatureView,
            name: name.clone(),
            what,
            definition: Some(after.newest().stored.definition.clone()),
            version: None,
        }));
    }
    changes
}

/// What became of the versions of a view beside its definition: which were deleted, and which took the place of
/// the one that was served.
fn versions_between(old: &ViewState, new: &ViewState) -> impl Iterator<Item = What> {
    let is_gone = |version: &&ViewState| new.all().all(|kept| kept.id != version.id);
    let gone = old.older.iter().filter(is_gone).map(|version| What::VersionDeleted(version.version));
    let served = (old.id != new.id).then_some(What::VersionServed(new.version));
    gone.chain(served)
}

fn between(known: &Definitions, new: &TenantState) -> Vec<Recorded> {
    let mut changes = Vec::new();
    for definition in new.definitions() {
        let (kind, name) = (definition.kind(), definition.name().clone());
        let before = known.get(&(kind, name.clone()));
        if before.is_some_and(|before| before == definition) {
            continue;
        }
        let what = if before.is_some() { What::Updated } else { What::Created };
        let service = new.services.get(&name).filter(|_| kind == Kind::FeatureService);
        let version = service.and_then(|service| service.current()).map(|current| current.number);
        changes.push(Recorded { kind, name, what, definition: Some(definition.clone()), version });
    }
    let is_gone = |(kind, name): &&(Kind, Name)| new.stored(*kind, name).is_none();
    changes.extend(known.keys().filter(is_gone).map(|(kind, name)| Recorded {
        kind: *kind,
        name: name.clone(),
        what: What::Deleted,
        definition: None,
        version: None,
    }));
    changes
}

fn take(definitions: &mut Definitions, change: Recorded) {
    let key = (change.kind, change.name);
    match change.definition {
        Some(definition) => drop(definitions.insert(key, definition)),
        None => drop(definitions.remove(&key)),
    }
}

fn stored(tenant: &TenantState) -> impl Iterator<Item = &Stored> {
    let views = tenant.views.values().map(|view| &view.newest().stored);
    let services = tenant.services.values().map(|service| &service.stored);
    let others = tenant.entities.values().chain(tenant.sources.values()).chain(tenant.consumers.values());
    others.chain(views).chain(services)
}
