//! Training sets that outlive a call: spines that are stored, endpoints that workers pull, and sets that
//! are saved, with all that makes them again and the hash that proves it. Each is made by the join, as
//! any other; nothing here knows how.

mod creating;
mod erasing;
mod jobs;
mod prepared;
mod pulls;
mod saved;
mod spines;
mod statistics;
mod too_old;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hydrant_storage::files::Files;
use hydrant_storage::history::RowsTooOld;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use hydrant_storage::spines::{SpineId, SpineShelf};

use super::service::History;
use crate::clock::StoreTime;
use crate::cluster::{MetadataError, MetadataStore, Versioned};
use crate::error::{Code, Error, Result};
use crate::registry::Registry;
use crate::registry::graph::Used;
use crate::registry::masking::Masking;
use crate::registry::uses::UseHold;
use crate::runs::Watcher;
use crate::tenancy::{Action, Permit};

pub use super::zip::StatusCounts;
pub use creating::{Created, Creation, NewSet, Verification, Verified};
pub use erasing::{ErasedFromSets, SpineKey};
pub use jobs::{Admission, KeepOptions, Progress};
pub use prepared::{FixedRequest, MAX_ENDPOINTS, Prepared, StoredRequest};
pub use pulls::{PullOptions, PulledRows};
pub use saved::{LostRows, SavedSet, SavedTable, TooOld};
pub use spines::{Put, SpineOptions, SpineUpload, Spines, SpinesHeld, StoredSpine};
pub use statistics::{ColumnStatistics, NumberStatistics};

use self::jobs::Jobs;
use self::pulls::Pulls;
use self::saved::Catalog;

/// Under which saved training sets are kept.
const METADATA_KEY: &str = "training_sets";

/// What training sets are made of and kept in.
#[derive(Debug)]
pub struct SetsParts {
    pub history: History,
    pub registry: Registry,
    pub metadata: Arc<dyn MetadataStore>,
    pub store_time: Arc<StoreTime>,
    pub files: Arc<dyn Files>,
    /// Where spines lie.
    pub directory: PathBuf,
    /// Who is told of training sets that are saved.
    pub watcher: Watcher,
}

#[derive(Clone, Debug)]
pub struct SetsOptions {
    pub spines: SpineOptions,
    pub keep: KeepOptions,
    pub pulls: PullOptions,
    /// Saved training sets of each tenant, every version counted.
    pub max_sets: usize,
}

/// Stored spines, endpoints and saved training sets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrainingSets {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    history: History,
    registry: Registry,
    metadata: Arc<dyn MetadataStore>,
    store_time: Arc<StoreTime>,
    spines: Spines,
    jobs: Jobs,
    pulls: Pulls,
    max_sets: usize,
    watcher: Watcher,
    catalog: ArcSwap<Catalog>,
    /// One change at a time; holds the version of what is persisted.
    writer: tokio::sync::Mutex<u64>,
    /// What saved training sets need, so that it stays.
    needs: Mutex<BTreeMap<SetKey, Needs>>,
    /// Which rows have begun to go since the start, one for each version of a view. Changed by who holds the writer.
    going: Mutex<Vec<RowsTooOld>>,
}

/// Tenant, name and version.
type SetKey = (Name, Name, u32);

#[derive(Debug)]
struct Needs {
    spine_id: SpineId,
    /// `None`: it is not there, which was told at the start, until it is put again.
    spine: Option<Arc<StoredSpine>>,
    /// Versions of services stay by it, and lineage tells them and the spine.
    _uses: Vec<UseHold>,
}

impl TrainingSets {
    /// Finds what is there. DATA_LOSS, with the way out, where the list of saved training sets can't be
    /// read.
    pub async fn open(parts: SetsParts, options: SetsOptions) -> Result<Self> {
        let SetsParts { history, registry, metadata, store_time, files, directory, watcher } = parts;
        let (time, spine_options) = (store_time.clone(), options.spines.clone());
        let spines = super::work::blocking(move |_| {
            let shelf = SpineShelf::open(files, &directory);
            let failed = |error| Error::new(Code::Unavailable, "SPINE_STORE_FAILED", format!("{error}"));
            Ok(Spines::open(shelf.map_err(failed)?, spine_options, time)?)
        });
        let spines = spines.await?;
        let (catalog, version) = match metadata.get(METADATA_KEY).await? {
            Some(Versioned { value, version }) => (Catalog::decode(&value).map_err(damaged)?, version),
            None => (Catalog::new(), 0),
        };
        let needs = catalog.all().map(|(tenant, set)| {
            let spine = spines.get(tenant, set.spine).inspect_err(|_| {
                tracing::error!(%tenant, training_set = set.reference(), spine = %set.spine, "its spine is not there");
            });
            ((tenant.clone(), set.name.clone(), set.version), Needs::of(&registry, tenant, set, spine.ok()))
        });
        let needs = Mutex::new(needs.collect());
        let inner = Inner {
            history,
            registry,
            metadata,
            store_time,
            spines,
            jobs: Jobs::new(options.keep),
            pulls: Pulls::new(options.pulls),
            max_sets: options.max_sets,
            watcher,
            catalog: ArcSwap::from_pointee(catalog),
            writer: tokio::sync::Mutex::new(version),
            needs,
            going: Mutex::default(),
        };
        let sets = Self { inner: Arc::new(inner) };
        sets.spines().sweep();
        Ok(sets)
    }

    pub fn spines(&self) -> &Spines {
        &self.inner.spines
    }

    /// How far a prepared training set is.
    pub fn progress(&self, prepared: &Prepared) -> Progress {
        self.inner.jobs.progress(prepared)
    }

    /// Lets go of what nobody has used for long enough: of stored spines, and of what walks have found.
    /// Blocks.
    pub fn sweep(&self) {
        self.inner.jobs.trim(self.now());
        for ((tenant, ..), needs) in self.inner.needs.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if needs.spine.is_none() {
                needs.spine = self.inner.spines.get(tenant, needs.spine_id).ok();
            }
        }
        self.inner.spines.sweep();
    }

    /// Lets go of all that walks have found, as a restart does.
    pub fn forget_found(&self) {
        self.inner.jobs.forget_all();
    }

    /// A saved training set: this version, or the newest.
    pub fn get(&self, permit: &Permit, name: &Name, version: Option<u32>) -> Result<SavedSet> {
        self.describe(permit, name, version).map(|(set, _)| set)
    }

    /// The same, and why statistics of it are left out where some are.
    pub fn describe(&self, permit: &Permit, name: &Name, version: Option<u32>) -> Result<(SavedSet, Option<String>)> {
        permit.require(Action::ReadHistory)?;
        let found = self.inner.catalog.load().find(permit.tenant(), name, version).cloned();
        if permit.identity().reach().is_none() {
            return found.map(|set| self.told(permit, set));
        }
        // Whether there is one tells only who may read what it is made of.
        let given = found.ok().filter(|set| permit.check_reads(&set.services, &[]).is_ok());
        given.map(|set| self.told(permit, set)).ok_or_else(|| permit.outside("training set", name.as_str()))
    }

    /// Every version of every saved training set, by name.
    pub fn list(&self, permit: &Permit) -> Result<Vec<SavedSet>> {
        permit.require(Action::ReadHistory)?;
        permit.check_unlimited("list training sets")?;
        Ok(self.inner.catalog.load().of(permit.tenant()).map(|set| self.told(permit, set.clone()).0).collect())
    }

    /// What a caller may know of a set, whose statistics tell values of what is personal; and which of them it may
    /// not know, and why.
    fn told(&self, permit: &Permit, mut set: SavedSet) -> (SavedSet, Option<String>) {
        if permit.may_see_pii() || set.statistics.is_empty() {
            return (set, None);
        }
        let left_out = match self.personal_columns(permit, &set.services) {
            Ok(personal) => {
                let masked = &set.masked;
                let is_hidden =
                    |column: &ColumnStatistics| personal.contains(&column.name) && !masked.contains(&column.name);
                let hidden: Vec<String> =
                    set.statistics.extract_if(.., |column| is_hidden(column)).map(|column| column.name).collect();
                (!hidden.is_empty())
                    .then(|| format!("of {}, which is personal (pii) and which you may not see", hidden.join(", ")))
            }
            // What can't be found out is not told.
            Err(error) => {
                set.statistics.clear();
                Some(format!("of any column: {}, so which are personal (pii) isn't known", error.message))
            }
        };
        (set, left_out)
    }

    /// The columns of services that are personal as they are defined now.
    fn personal_columns(&self, permit: &Permit, services: &[String]) -> Result<BTreeSet<String>> {
        let snapshot = self.inner.registry.snapshot();
        let mut selection = snapshot.select(snapshot.tenant(permit.tenant())?, services, &[])?;
        selection.mask(Masking::AsGranted, false)?;
        Ok(selection.masked().map(str::to_owned).collect())
    }

    /// Prepares a saved training set, to be pulled again.
    pub async fn prepare_saved(
        &self,
        permit: &Permit,
        name: &Name,
        version: Option<u32>,
    ) -> Result<(SavedSet, Prepared)> {
        let set = self.get(permit, name, version)?;
        let prepared = self.prepare_masked(permit, set.request(), Masking::Exactly(&set.masked)).await?;
        Ok((set, prepared))
    }

    /// Deletes one version, or all of the name, and lets go of their spines; which ones went. It runs to
    /// its end even if nobody waits for it.
    pub async fn delete(&self, permit: &Permit, name: Name, version: Option<u32>) -> Result<Vec<String>> {
        permit.require(Action::ReadHistory)?;
        permit.check_unlimited("delete training sets")?;
        let (sets, tenant) = (self.clone(), permit.tenant().clone());
        let deleting = tokio::spawn(async move {
            let inner = sets.inner.as_ref();
            let mut persisted = inner.writer.lock().await;
            let (next, gone) = inner.catalog.load().without(&tenant, &name, version)?;
            sets.persist(&mut persisted, next).await?;
            let mut needs = inner.needs.lock().unwrap_or_else(PoisonError::into_inner);
            for set in &gone {
                needs.remove(&(tenant.clone(), set.name.clone(), set.version));
            }
            Ok(gone.iter().map(SavedSet::reference).collect())
        });
        deleting.await.map_err(|failed| Error::internal(format!("a deletion ended early: {failed}")))?
    }

    /// Makes a catalog durable, and then the one that is read.
    async fn persist(&self, persisted: &mut u64, next: Catalog) -> Result<()> {
        let encoded = Bytes::from(next.encode());
        let put = self.inner.metadata.put_if_version(METADATA_KEY, encoded, *persisted).await;
        *persisted = put.map_err(|error| match error {
            MetadataError::TooLarge { .. } => too_many("all saved training sets together would take more than 64 MiB"),
            error => error.into(),
        })?;
        self.inner.catalog.store(Arc::new(next));
        Ok(())
    }

    fn history(&self) -> &History {
        &self.inner.history
    }

    fn jobs(&self) -> &Jobs {
        &self.inner.jobs
    }

    fn pulls(&self) -> &Pulls {
        &self.inner.pulls
    }

    fn now(&self) -> Micros {
        self.inner.store_time.read()
    }
}

impl Needs {
    fn of(registry: &Registry, tenant: &Name, set: &SavedSet, spine: Option<Arc<StoredSpine>>) -> Self {
        let mut uses = hold_services(registry, tenant, &set.services, &set.reference());
        uses.push(registry.uses().hold(tenant, Used::Spine(set.spine.to_string()), &set.reference()));
        Self { spine_id: set.spine, spine, _uses: uses }
    }
}

/// Keeps the versions of the services that a training set is of. Those of other tenants are kept by nobody
/// but their owners; lineage tells them.
fn hold_services(registry: &Registry, tenant: &Name, services: &[String], training_set: &str) -> Vec<UseHold> {
    let parsed = services.iter().filter_map(|service| {
        let (name, number) = service.split_once('@')?;
        Some(Used::Service { name: name.to_owned(), number: number.parse().ok()? })
    });
    parsed.map(|used| registry.uses().hold(tenant, used, training_set)).collect()
}

fn too_many(told: impl Into<String>) -> Error {
    Error::new(Code::ResourceExhausted, "TOO_MANY_TRAINING_SETS", told)
        .hint("delete versions that are not needed (`hydrant training-set delete NAME@N`)")
}

fn damaged(detail: String) -> Error {
    let message = format!("the list of saved training sets can't be read: {detail}");
    Error::new(Code::DataLoss, "TRAINING_SETS_DAMAGED", message).hint(
        "restore `registry/training_sets.value` from a backup of this data directory; without one, move it away: the sets \
         are then forgotten, and can be created again from their spines",
    )
}
