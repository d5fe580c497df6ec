//! Saved training sets as they are kept: by tenant and name, each version for itself. What is kept is a
//! value that is replaced as a whole, by compare-and-set; numbers of versions are never given again.

use std::collections::BTreeMap;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::spines::SpineId;
use serde::{Deserialize, Serialize};

use super::super::asof::Mode;
use super::prepared::{FixedRequest, StoredRequest};
use super::statistics::ColumnStatistics;
use crate::error::{Error, Result};

/// The version of the persisted form.
const FORMAT: u32 = 1;

/// All saved training sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    format: u32,
    tenants: BTreeMap<Name, BTreeMap<Name, Versions>>,
}

/// The versions of one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Versions {
    /// The newest number given, whether or not it is still there.
    last: u32,
    saved: BTreeMap<u32, SavedSet>,
}

/// A training set that was made once and can be made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedSet {
    pub name: Name,
    /// Counts up from 1 under its name.
    pub version: u32,
    /// `name@N`, in the order in which they were asked for.
    pub services: Vec<String>,
    pub spine: SpineId,
    /// Over the spine's rows, in hex.
    pub spine_hash: String,
    /// Of the spine.
    pub event_time: String,
    pub is_final: bool,
    /// Ingest time.
    pub cutoff: Micros,
    pub with_status: bool,
    pub with_event_time: bool,
    pub rows: u64,
    /// The spine's, which come first.
    pub spine_columns: usize,
    /// Name and Arrow type of each column.
    pub columns: Vec<(String, String)>,
    /// As in a report of the same request.
    pub content_hash: String,
    pub differing_rows: u64,
    pub row_view_pairs: u64,
    /// The definitions under which it was made first.
    pub registry_revision: u64,
    pub tables: Vec<SavedTable>,
    pub statistics: Vec<ColumnStatistics>,
    /// Columns that are masked, whoever pulls it: who made it had no grant for them.
    #[serde(default)]
    pub masked: Vec<String>,
    /// Rows that it has lost since it was saved. Its content hash is of the rows before.
    #[serde(default)]
    pub lost: Vec<LostRows>,
    /// What history keeps no more of what it was made of, one for each version of a view.
    #[serde(default)]
    pub too_old: Vec<TooOld>,
    /// The least event time of its spine; `None`: it was saved before that was noted.
    #[serde(default)]
    pub first_time: Option<Micros>,
    /// Store time.
    pub created: Micros,
    pub created_by: String,
}

/// Rows of a saved training set that an erasure has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRows {
    /// The erasure's id.
    pub erasure: String,
    /// Store time.
    pub at: Micros,
    pub rows: u64,
}

/// Rows of a view that go since the view keeps rows only for so long: those that happened before an instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooOld {
    pub view: String,
    pub view_version: u32,
    pub before: Micros,
    /// Store time.
    pub at: Micros,
}

/// Which state of a view's history was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTable {
    pub view: String,
    pub view_version: u32,
    /// `None`: nothing had landed yet.
    pub delta_version: Option<i64>,
    pub tail_rows: u64,
    pub definition_revision: u64,
    /// As [`super::super::TableVersion::lacks_before`] was when it was saved.
    #[serde(default)]
    pub lacks_before: Option<Micros>,
}

impl Catalog {
    pub fn new() -> Self {
        Self { format: FORMAT, tenants: BTreeMap::new() }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a catalog has text keys and no way to fail")
    }

    /// Reads what [`Self::encode`] wrote; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match read.format {
            FORMAT => Ok(read),
            format => Err(format!("it has format {format}, and this version reads format {FORMAT}")),
        }
    }

    /// With another spine in the place of one of a tenant's, and fewer rows: what the sets that had it have
    /// lost is noted, and their statistics, which tell values of rows that are gone, are dropped. How many
    /// sets those are.
    pub fn with_fewer_rows(
        &self,
        tenant: &Name,
        old: SpineId,
        (new, spine_hash): (SpineId, &str),
        lost: &LostRows,
    ) -> (Self, u64) {
        let (mut next, mut changed) = (self.clone(), 0);
        let names = next.tenants.get_mut(tenant).into_iter().flat_map(BTreeMap::values_mut);
        for set in names.flat_map(|versions| versions.saved.values_mut()).filter(|set| set.spine == old) {
            set.spine = new;
            spine_hash.clone_into(&mut set.spine_hash);
            set.rows = set.rows.saturating_sub(lost.rows);
            set.lost.push(lost.clone());
            set.statistics.clear();
            changed += 1;
        }
        (next, changed)
    }

    /// With what sets lose to the age of rows, as `loss` says, in the place of what was said of the same view
    /// before. How many sets those are.
    pub fn with_too_old(&self, loss: impl Fn(&Name, &SavedSet) -> Option<TooOld>) -> (Self, u64) {
        let (mut next, mut changed) = (self.clone(), 0);
        for (tenant, names) in &mut next.tenants {
            for set in names.values_mut().flat_map(|versions| versions.saved.values_mut()) {
                let Some(loss) = loss(tenant, set) else { continue };
                let is_same =
                    |known: &&mut TooOld| (&known.view, known.view_version) == (&loss.view, loss.view_version);
                match set.too_old.iter_mut().find(is_same) {
                    Some(known) if known.before >= loss.before => continue,
                    Some(known) => *known = loss,
                    None => set.too_old.push(loss),
                }
                changed += 1;
            }
        }
        (next, changed)
    }

    /// Every version of every tenant.
    pub fn all(&self) -> impl Iterator<Item = (&Name, &SavedSet)> {
        self.tenants.iter().flat_map(|(tenant, names)| {
            names.values().flat_map(|versions| versions.saved.values()).map(move |set| (tenant, set))
        })
    }

    /// Those of a tenant, by name and version.
    pub fn of<'a>(&'a self, tenant: &Name) -> impl Iterator<Item = &'a SavedSet> + use<'a> {
        self.tenants.get(tenant).into_iter().flat_map(BTreeMap::values).flat_map(|versions| versions.saved.values())
    }

    /// The version, or the newest; NOT_FOUND, with those that there are.
    pub fn find(&self, tenant: &Name, name: &Name, version: Option<u32>) -> Result<&SavedSet> {
        let versions = self.tenants.get(tenant).and_then(|names| names.get(name));
        let versions = versions.filter(|versions| !versions.saved.is_empty()).ok_or_else(|| {
            Error::not_found("TRAINING_SET_NOT_FOUND", format!("there is no training set '{name}'"))
                .hint("`hydrant training-set list` lists them")
                .with("training_set", name)
        })?;
        let found = match version {
            None => versions.saved.last_key_value().map(|(_, set)| set),
            Some(version) => versions.saved.get(&version),
        };
        found.ok_or_else(|| {
            let number = version.unwrap_or_default();
            let there: Vec<String> = versions.saved.keys().rev().take(20).map(ToString::to_string).collect();
            Error::not_found("TRAINING_SET_NOT_FOUND", format!("training set '{name}' has no version {number}"))
                .hint(format!("the versions that there are: {}", there.join(", ")))
                .with("training_set", name)
                .with("version", number)
        })
    }

    /// With this set as the next version of its name; it gets its number.
    pub fn with(&self, tenant: &Name, mut set: SavedSet) -> (Self, SavedSet) {
        let mut next = self.clone();
        let versions = next.tenants.entry(tenant.clone()).or_default().entry(set.name.clone()).or_default();
        versions.last += 1;
        set.version = versions.last;
        versions.saved.insert(set.version, set.clone());
        (next, set)
    }

    /// Without one version, or without all of the name; which ones went.
    pub fn without(&self, tenant: &Name, name: &Name, version: Option<u32>) -> Result<(Self, Vec<SavedSet>)> {
        self.find(tenant, name, version)?;
        let mut next = self.clone();
        let versions = next.tenants.get_mut(tenant).and_then(|names| names.get_mut(name));
        let saved = versions.map(|versions| match version {
            Some(version) => versions.saved.remove(&version).into_iter().collect(),
            None => std::mem::take(&mut versions.saved).into_values().collect(),
        });
        Ok((next, saved.unwrap_or_default()))
    }
}

impl SavedSet {
    /// `name@version`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    pub fn mode(&self) -> Mode {
        if self.is_final { Mode::Final } else { Mode::AsKnown }
    }

    /// What makes it again.
    pub fn request(&self) -> StoredRequest {
        StoredRequest {
            spine: self.spine,
            services: self.services.clone(),
            features: Vec::new(),
            event_time: self.event_time.clone(),
            mode: self.mode(),
            cutoff: Some(self.cutoff),
            with_status: self.with_status,
            with_event_time: self.with_event_time,
        }
    }

    /// Whether a request makes it, and nothing else.
    pub fn is_made_by(&self, request: &FixedRequest) -> bool {
        if self.spine != request.spine || self.masked != request.masked {
            return false;
        }
        let asked = StoredRequest {
            spine: request.spine,
            services: request.services.clone(),
            features: request.features.clone(),
            event_time: request.event_time.clone(),
            mode: request.mode,
            cutoff: Some(request.cutoff),
            with_status: request.with_status,
            with_event_time: request.with_event_time,
        };
        self.request() == asked
    }

    /// Whether it is the same rows asked for in the same way, whenever that was.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let asked = |set: &Self| {
            (
                set.services.clone(),
                set.spine,
                set.event_time.clone(),
                set.is_final,
                set.with_status,
                set.with_event_time,
                set.masked.clone(),
            )
        };
        asked(self) == asked(other) && self.content_hash == other.content_hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::name;

    fn set(hash: &str) -> SavedSet {
        SavedSet {
            name: name("set"),
            version: 0,
            services: vec!["model@1".to_owned()],
            spine: SpineId::of("", b""),
            spine_hash: String::new(),
            event_time: "at".to_owned(),
            is_final: false,
            cutoff: 5,
            with_status: false,
            with_event_time: false,
            rows: 1,
            spine_columns: 1,
            columns: Vec::new(),
            content_hash: hash.to_owned(),
            differing_rows: 0,
            row_view_pairs: 1,
            registry_revision: 1,
            tables: Vec::new(),
            statistics: Vec::new(),
            masked: Vec::new(),
            lost: Vec::new(),
            too_old: Vec::new(),
            first_time: None,
            created: 9,
            created_by: "somebody".to_owned(),
        }
    }

    #[test]
    fn a_catalog_reads_back_as_it_was_written_and_numbers_do_not_come_back() {
        let tenant = name("default");
        let (catalog, first) = Catalog::new().with(&tenant, set("a"));
        let (catalog, second) = catalog.with(&tenant, set("b"));
        assert_eq!((first.version, second.version), (1, 2));
        let (catalog, gone) = catalog.without(&tenant, &name("set"), None).expect("it is there");
        assert_eq!(gone.len(), 2);
        let catalog = Catalog::decode(&catalog.encode()).expect("as it was written");
        assert!(catalog.find(&tenant, &name("set"), None).is_err() && catalog.all().count() == 0);
        assert_eq!(catalog.with(&tenant, set("a")).1.version, 3);
    }

    #[test]
    fn the_cut_off_makes_no_other_set_and_rows_or_request_do() {
        let other = SavedSet { cutoff: 6, created: 10, version: 7, ..set("a") };
        assert!(other.is_same_as(&set("a")));
        assert!(!set("b").is_same_as(&set("a")));
        assert!(!SavedSet { is_final: true, ..set("a") }.is_same_as(&set("a")));
    }

    #[test]
    fn a_catalog_of_another_format_is_refused_by_name() {
        let later = String::from_utf8(Catalog::new().encode()).expect("JSON").replace("\"format\":1", "\"format\":2");
        assert!(Catalog::decode(later.as_bytes()).expect_err("it is of the future").contains("format 2"));
    }
}
