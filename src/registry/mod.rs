//! Definitions: what tenants have defined, whether it fits together, and what changes when they
//! apply something else. Everyone reads immutable snapshots; a change is persisted first and
//! published afterwards. The registry never sits on a read path and never touches data.

pub mod catalog;
pub mod definition;
pub mod documents;
pub mod gone;
pub mod graph;
pub mod keeping;
pub mod key_sets;
pub mod limits;
pub mod lineage;
pub mod listing;
pub mod masking;
pub mod node;
pub mod plan;
mod prepared;
pub mod promise;
pub mod reads;
pub mod revisions;
pub mod scenario;
pub mod search;
pub mod selection;
pub mod shares;
pub mod table;
pub mod tenants;
pub mod uses;
pub mod values;
pub mod world;
pub mod yaml;

mod build;
mod builds;
mod compatibility;
mod consumers;
mod deletion;
mod details;
mod dropped;
mod exact;
mod freeze;
mod impact;
mod known_selections;
mod partial;
mod reader;
mod reading;
mod recorded;
mod state;
mod succession;
mod validation;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use hydrant_storage::names::{Name, ViewId};
use tokio::sync::{Mutex, Semaphore, watch};

use crate::clock::StoreTime;
use crate::cluster::{MetadataStore, Versioned};
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, DEFAULT_TENANT, DefinitionLimits, Permit};

pub use self::builds::{BuildProgress, BuildStep, Built};
pub use self::impact::part_of_deleted;
pub use self::recorded::{RevisionPage, ToldChange, ToldRevision};
pub use self::validation::{MAX_DEFINITIONS, feeds};

use self::builds::Builds;
use self::catalog::{Snapshot, Standing};
use self::definition::{Definition, Kind};
use self::gone::Gone;
use self::lineage::Lineage;
use self::listing::{Described, Page};
use self::plan::{Plan, Prune, Stamp};
use self::reading::Lane;
use self::reads::Reads;
use self::recorded::ToRecord;
use self::revisions::Cause;
use self::state::State;
use self::uses::Uses;

/// Under which the registry's state is kept.
const METADATA_KEY: &str = "registry";
/// How many changes may wait for one another.
const MAX_WAITING_CHANGES: usize = 64;
/// How many reads may go through all definitions at a time, and how many may wait for that.
const MAX_READS: usize = 2;
const MAX_WAITING_READS: usize = 64;
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The registry. Clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// Where to read what is defined now. Clones read the same place; loading one is wait-free.
#[derive(Clone, Debug)]
pub struct SnapshotReader {
    newest: Arc<ArcSwap<Snapshot>>,
    reads: Reads,
    gone: Gone,
}

/// Who makes rows by the definitions, and has to know when older ones no longer hold.
#[async_trait]
pub trait RevisionBarrier: fmt::Debug + Send + Sync {
    /// When this returns, no row that was made under a revision before this one is accepted any more.
    /// Called after the revision's snapshot is published, and before the change is answered.
    async fn raise(&self, revision: u64);
}

/// What an apply did.
#[derive(Clone, Debug)]
pub struct Applied {
    pub plan: Plan,
    /// The revision afterwards; the one before if nothing changed.
    pub revision: u64,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn MetadataStore>,
    time: Arc<StoreTime>,
    snapshot: SnapshotReader,
    barrier: Arc<dyn RevisionBarrier>,
    state: ArcSwap<State>,
    revision: watch::Sender<u64>,
    /// One change at a time; holds the version of the persisted state.
    writer: Mutex<u64>,
    waiting: Semaphore,
    uses: Uses,
    builds: Builds,
    /// Reads that go through everything that is defined, and those that wait for their turn.
    reading: Lane,
    /// Finding out what a change will be about; no read keeps a change from it.
    naming: Lane,
}

/// A state that nobody sees yet.
struct Drafted {
    state: State,
    snapshot: Snapshot,
    encoded: Bytes,
    records: Vec<ToRecord>,
}

impl SnapshotReader {
    /// A place that nobody publishes to.
    pub fn fixed(snapshot: Arc<Snapshot>) -> Self {
        Self { newest: Arc::new(ArcSwap::new(snapshot)), reads: Reads::default(), gone: Gone::default() }
    }

    /// The newest snapshot. A request loads one and sees nothing else to its end.
    pub fn load(&self) -> Arc<Snapshot> {
        self.newest.load_full()
    }

    /// Where reads of what the snapshots define are counted.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Which rows of what the snapshots define are gone by retention.
    pub fn gone(&self) -> &Gone {
        &self.gone
    }
}

impl Registry {
    /// Whether there is a persisted state: not before the first start.
    pub async fn is_there(store: &dyn MetadataStore) -> Result<bool> {
        Ok(store.get(METADATA_KEY).await?.is_some())
    }

    /// Reads the persisted state; at the first start, makes it with the one tenant `default`.
    /// DATA_LOSS, with the way out, if it is damaged. Each change raises the barrier before it is
    /// answered.
    pub async fn open(
        store: Arc<dyn MetadataStore>,
        time: Arc<StoreTime>,
        barrier: Arc<dyn RevisionBarrier>,
    ) -> Result<Self> {
        let (state, version) = match store.get(METADATA_KEY).await? {
            Some(Versioned { value, version }) => (State::decode(&value).map_err(damaged)?, version),
            None => {
                let tenant = DEFAULT_TENANT.parse().map_err(|error| Error::internal(format!("{error}")))?;
                let state = State::first(tenant, time.read(), "first start");
                let version = store.put_if_version(METADATA_KEY, Bytes::from(state.encode()), 0).await?;
                (state, version)
            }
        };
        let snapshot = build::snapshot(&state).map_err(damaged)?.timed_by(time.clone());
        let shared = Shared {
            store,
            time,
            revision: watch::Sender::new(state.revision),
            snapshot: SnapshotReader::fixed(Arc::new(snapshot)),
            barrier,
            state: ArcSwap::from_pointee(state),
            writer: Mutex::new(version),
            waiting: Semaphore::new(MAX_WAITING_CHANGES),
            uses: Uses::default(),
            builds: Builds::default(),
            reading: Lane::new(MAX_READS, MAX_WAITING_READS),
            naming: Lane::new(1, MAX_WAITING_CHANGES),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load()
    }

    /// For those who read snapshots for as long as they live.
    pub fn reader(&self) -> SnapshotReader {
        self.shared.snapshot.clone()
    }

    /// Who holds on to versions of services from outside.
    pub fn uses(&self) -> &Uses {
        &self.shared.uses
    }

    /// Waits until no change that was begun before is under way: its snapshot is published then.
    pub async fn settle(&self) {
        drop(self.shared.writer.lock().await);
    }

    /// Follows the revision. A snapshot of it is published before it is told.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    /// Makes the definitions so, all of them or none, in whatever order they stand. ABORTED if
    /// `expected_revision` is given and isn't the current one. What changes nothing makes no
    /// revision. A change goes through even if the caller stops waiting for it. Rows that are accepted
    /// after the answer are in every view that was added.
    pub async fn apply(
        &self,
        permit: &Permit,
        definitions: Vec<Definition>,
        expected_revision: Option<u64>,
    ) -> Result<Applied> {
        self.apply_with(permit, definitions, Prune::Nothing, expected_revision).await
    }

    /// As [`apply`](Self::apply), and takes away what is pruned. Where any of that is in use, nothing is
    /// changed.
    pub async fn apply_with(
        &self,
        permit: &Permit,
        definitions: Vec<Definition>,
        prune: Prune,
        expected_revision: Option<u64>,
    ) -> Result<Applied> {
        self.apply_for(permit, definitions, prune, expected_revision, Cause::Change).await
    }

    async fn apply_for(
        &self,
        permit: &Permit,
        definitions: Vec<Definition>,
        prune: Prune,
        expected_revision: Option<u64>,
        cause: Cause,
    ) -> Result<Applied> {
        let (tenant, uses) = (permit.tenant().clone(), self.shared.uses.clone());
        let edit = move |state: &State, stamp: &Stamp| {
            check_revision(state, expected_revision)?;
            let (plan, next) = plan::draft(state, &tenant, (&definitions, prune), stamp, &uses)?;
            Ok((plan.allowed()?, next))
        };
        let stamp = Stamp { cause, ..self.stamp(permit) };
        permit.require(Action::ChangeDefinitions)?;
        if prune != Prune::Nothing {
            permit.check_unlimited("delete whatever isn't named")?;
        }
        let (plan, snapshot) = self.run_change_as(permit, stamp, edit).await?;
        Ok(Applied { plan, revision: snapshot.revision })
    }

    /// All rows of the view that count under the ttl which it was given in revision `since` are online: that
    /// ttl is in effect from the revision that is told. `None`: the view was changed otherwise meanwhile.
    pub async fn refilled(&self, tenant: &Name, view: ViewId, since: u64) -> Result<Option<u64>> {
        let (tenant, shared) = (tenant.clone(), Arc::clone(&self.shared));
        // It adds nothing that a limit could be about.
        let limits = DefinitionLimits::default();
        let (now, cause) = (self.shared.time.read(), Cause::Change);
        let stamp = Stamp { now, by: "refill".to_owned(), cause, limits };
        let edit = move |state: &State, _: &Stamp| {
            let mut next = state.clone();
            let views = next.tenants.get_mut(&tenant).map(|tenant| &mut tenant.views);
            let refilled = views.and_then(|views| {
                views.values_mut().find(|state| {
                    state.id == view && state.refilling.as_ref().is_some_and(|refilling| refilling.since == since)
                })
            });
            let Some(refilled) = refilled else { return Ok((None, None)) };
            refilled.refilling = None;
            next.revision += 1;
            Ok((Some(next.revision), Some(next)))
        };
        // As of any change: it goes through whoever waits for it. It changes no tag, so it unmasks nothing.
        let task = tokio::spawn(async move { shared.change(stamp, true, edit).await });
        let changed = task.await.map_err(|failed| Error::internal(format!("a refill's end was cut off: {failed}")))?;
        changed.map(|(revision, _)| revision)
    }

    /// A version of a view that was to be built since a revision is complete, in history and online: it is served
    /// from the revision that is told. `None`: it is not to be built any more.
    pub async fn built(&self, tenant: &Name, version: ViewId, since: u64) -> Result<Option<u64>> {
        let (tenant, shared) = (tenant.clone(), Arc::clone(&self.shared));
        let limits = DefinitionLimits::default();
        let (now, cause) = (self.shared.time.read(), Cause::Change);
        let stamp = Stamp { now, by: "new version".to_owned(), cause, limits };
        let edit = move |state: &State, _: &Stamp| {
            let next = succession::switched(state, &tenant, version, since);
            Ok((next.as_ref().map(|next| next.revision), next))
        };
        // As of any change: it goes through whoever waits for it. What it shows was allowed when it was applied.
        let task = tokio::spawn(async move { shared.change(stamp, true, edit).await });
        let changed =
            task.await.map_err(|failed| Error::internal(format!("a version's switch was cut off: {failed}")))?;
        changed.map(|(revision, _)| revision)
    }

    /// Deletes a version of a view whose place another has taken, and tells the new revision.
    pub async fn delete_view_version(&self, permit: &Permit, view: &Name, number: u32, etag: String) -> Result<u64> {
        let (tenant, view) = (permit.tenant().clone(), view.clone());
        let edit = move |state: &State, _: &Stamp| {
            let next = deletion::draft_view_version(state, &tenant, (&view, number), &etag)?;
            Ok(((), Some(next)))
        };
        self.change(permit, edit).await.map(|((), snapshot)| snapshot.revision)
    }

    /// One version of a view.
    pub fn get_view_version(&self, permit: &Permit, view: &Name, number: u32) -> Result<Described> {
        require_definition(permit, Kind::FeatureView, view)?;
        listing::get_view_version(self.snapshot().tenant(permit.tenant())?, view, number)
    }

    /// Makes a definition that isn't there; ALREADY_EXISTS if it is.
    pub async fn create(&self, permit: &Permit, definition: Definition) -> Result<Described> {
        let (tenant, kind, name) = (permit.tenant().clone(), definition.kind(), definition.name().clone());
        let (target, uses) = (name.clone(), self.shared.uses.clone());
        let edit = move |state: &State, stamp: &Stamp| {
            if plan::tenant(state, &tenant)?.stored(kind, &target).is_some() {
                let message = format!("there is a {} '{target}' already", kind.as_str());
                return Err(Error::new(Code::AlreadyExists, "DEFINITION_EXISTS", message)
                    .with("kind", kind.as_str())
                    .with("name", &target));
            }
            let (plan, next) = plan::draft(state, &tenant, (&[definition], Prune::Nothing), stamp, &uses)?;
            Ok((plan.allowed()?, next))
        };
        let (_, snapshot) = self.change(permit, edit).await?;
        described(&snapshot, permit, kind, &name)
    }

    /// Changes a definition that is there. With an etag, only what the caller has seen: ABORTED if
    /// it was changed since.
    pub async fn update(&self, permit: &Permit, definition: Definition, etag: String) -> Result<Described> {
        let (tenant, kind, name) = (permit.tenant().clone(), definition.kind(), definition.name().clone());
        let (target, uses) = (name.clone(), self.shared.uses.clone());
        let edit = move |state: &State, stamp: &Stamp| {
            let stored = plan::tenant(state, &tenant)?.stored(kind, &target);
            let stored = stored.ok_or_else(|| deletion::not_found(kind, &target))?;
            deletion::check_etag(kind, &target, &stored.etag(), &etag)?;
            let (plan, next) = plan::draft(state, &tenant, (&[definition], Prune::Nothing), stamp, &uses)?;
            Ok((plan.allowed()?, next))
        };
        let (_, snapshot) = self.change(permit, edit).await?;
        described(&snapshot, permit, kind, &name)
    }

    /// Deletes a definition that nothing uses, and tells the new revision. FAILED_PRECONDITION lists
    /// who uses it.
    pub async fn delete(&self, permit: &Permit, kind: Kind, name: &Name, etag: String) -> Result<u64> {
        let (tenant, name, uses) = (permit.tenant().clone(), name.clone(), self.shared.uses.clone());
        let edit = move |state: &State, stamp: &Stamp| {
            deletion::draft(state, &tenant, (kind, &name), &etag, stamp, &uses).map(|next| ((), Some(next)))
        };
        self.change(permit, edit).await.map(|((), snapshot)| snapshot.revision)
    }

    /// Deletes one version of a service that is not its current one, and tells the new revision.
    pub async fn delete_version(&self, permit: &Permit, service: &Name, number: u32, etag: String) -> Result<u64> {
        let (tenant, service, uses) = (permit.tenant().clone(), service.clone(), self.shared.uses.clone());
        let edit = move |state: &State, stamp: &Stamp| {
            let next = deletion::draft_version(state, &tenant, (&service, number), &etag, stamp, &uses)?;
            Ok(((), Some(next)))
        };
        self.change(permit, edit).await.map(|((), snapshot)| snapshot.revision)
    }

    /// A definition as it stands.
    pub fn get(&self, permit: &Permit, kind: Kind, name: &Name) -> Result<Described> {
        require_definition(permit, kind, name)?;
        let snapshot = self.snapshot();
        let mut described = described(&snapshot, permit, kind, name)?;
        if kind == Kind::FeatureView {
            let tenant = snapshot.tenant(permit.tenant())?;
            described.held_back = keeping::held_back(tenant, name);
            described.gone_before = keeping::gone_before(self.shared.snapshot.gone(), tenant, name);
        }
        if described.served.is_none() {
            return Ok(described);
        }
        let mut versions = snapshot.tenant(permit.tenant())?.versions_of(name.as_str());
        let next = versions.find(|version| matches!(version.standing, Standing::Building { .. }));
        Ok(Described { built: next.and_then(|next| self.shared.builds.get(next.id)), ..described })
    }

    /// Tells how far a version is built; `None`: nobody is at it any more.
    pub fn tell_progress(&self, version: ViewId, progress: Option<BuildProgress>) {
        self.shared.builds.set(version, progress);
    }

    /// One version of a service, with the features that it was frozen with.
    pub fn get_version(&self, permit: &Permit, service: &Name, number: u32) -> Result<Described> {
        require_definition(permit, Kind::FeatureService, service)?;
        let snapshot = self.snapshot();
        listing::get_version(snapshot.tenant(permit.tenant())?, service, number)
    }

    /// A page of the definitions of a kind, by name.
    pub fn list(&self, permit: &Permit, kind: Kind, page_size: u32, page_token: &str) -> Result<Page> {
        permit.require(Action::ReadDefinitions)?;
        let snapshot = self.snapshot();
        listing::list(snapshot.tenant(permit.tenant())?, snapshot.revision, kind, page_size, page_token)
    }

    /// What a definition is made of and what is made of it.
    pub fn lineage(&self, permit: &Permit, kind: Kind, name: &Name) -> Result<Lineage> {
        permit.require(Action::ReadDefinitions)?;
        let snapshot = self.snapshot();
        described(&snapshot, permit, kind, name)?;
        let lineage = lineage::of(snapshot.tenant(permit.tenant())?, kind, name);
        let downstream = lineage.downstream.iter().map(|edge| &edge.to);
        let reached = downstream.filter(|(kind, _)| *kind == Kind::FeatureService).map(|(_, service)| service);
        let itself = Some(name).filter(|_| kind == Kind::FeatureService);
        let services: BTreeSet<&Name> = reached.chain(itself).collect();
        let of = |service: &Name| self.training_sets_of(permit, service, None);
        let training_sets = services.into_iter().flat_map(of).collect();
        Ok(Lineage { training_sets, ..lineage })
    }

    /// What one version of a service is made of.
    pub fn lineage_of_version(&self, permit: &Permit, service: &Name, number: u32) -> Result<Lineage> {
        permit.require(Action::ReadDefinitions)?;
        let snapshot = self.snapshot();
        let tenant = snapshot.tenant(permit.tenant())?;
        let described = listing::get_version(tenant, service, number)?;
        let lineage = described.frozen.map(|version| lineage::of_version(tenant, &version)).unwrap_or_default();
        let training_sets = self.training_sets_of(permit, service, Some(number));
        Ok(Lineage { training_sets, ..lineage })
    }

    /// The consumers that a training set of some versions of services may train.
    pub fn consumers_of_all(&self, permit: &Permit, versions: &BTreeSet<(Name, u32)>) -> Result<Vec<Name>> {
        permit.require(Action::ReadDefinitions)?;
        Ok(lineage::consumers_of_all(self.snapshot().tenant(permit.tenant())?, versions))
    }

    fn training_sets_of(&self, permit: &Permit, service: &Name, number: Option<u32>) -> Vec<(Name, String)> {
        let users = self.shared.uses.of_service(permit.tenant(), service, number);
        users.into_iter().map(|(_, training_set)| (service.clone(), training_set)).collect()
    }

    fn stamp(&self, permit: &Permit) -> Stamp {
        Stamp {
            now: self.shared.time.read(),
            by: permit.caller().to_owned(),
            cause: Cause::Change,
            limits: permit.definition_limits(),
        }
    }

    /// Runs one change of definitions.
    async fn change<T: Send + 'static>(
        &self,
        permit: &Permit,
        edit: impl FnOnce(&State, &Stamp) -> Result<(T, Option<State>)> + Send + 'static,
    ) -> Result<(T, Arc<Snapshot>)> {
        permit.require(Action::ChangeDefinitions)?;
        self.run_change(permit, edit).await
    }

    /// As [`change`](Self::change), by a permit that was looked at already.
    async fn run_change<T: Send + 'static>(
        &self,
        permit: &Permit,
        edit: impl FnOnce(&State, &Stamp) -> Result<(T, Option<State>)> + Send + 'static,
    ) -> Result<(T, Arc<Snapshot>)> {
        self.run_change_as(permit, self.stamp(permit), edit).await
    }

    /// Drafts, persists, publishes; answers with the snapshot after it. It runs in a task of its own, so
    /// that a caller who hangs up can't leave a persisted state unpublished.
    async fn run_change_as<T: Send + 'static>(
        &self,
        permit: &Permit,
        stamp: Stamp,
        edit: impl FnOnce(&State, &Stamp) -> Result<(T, Option<State>)> + Send + 'static,
    ) -> Result<(T, Arc<Snapshot>)> {
        let shared = Arc::clone(&self.shared);
        let permit = permit.clone();
        let task = tokio::spawn(async move {
            let changed = shared.change(stamp, permit.may_see_pii(), edit).await;
            drop(permit);
            changed
        });
        task.await.map_err(|failed| Error::internal(format!("a change of definitions ended early: {failed}")))?
    }
}

impl Shared {
    async fn change<T: Send + 'static>(
        &self,
        stamp: Stamp,
        may_see_pii: bool,
        edit: impl FnOnce(&State, &Stamp) -> Result<(T, Option<State>)> + Send + 'static,
    ) -> Result<(T, Arc<Snapshot>)> {
        let _place = self.waiting.try_acquire().map_err(|_| {
            let message = format!("{MAX_WAITING_CHANGES} changes of definitions are waiting already");
            Error::new(Code::ResourceExhausted, "REGISTRY_BUSY", message).retry_after(RETRY_AFTER)
        })?;
        let mut version = self.writer.lock().await;
        let (state, before) = (self.state.load_full(), self.snapshot.load());
        let time = self.time.clone();
        let draft = move || -> Result<(T, Option<Drafted>)> {
            let (outcome, next) = edit(&state, &stamp)?;
            let Some(mut next) = next else { return Ok((outcome, None)) };
            let records = recorded::mark(&state, &mut next, &stamp);
            let state = next;
            let snapshot = snapshot_of(&state)?.timed_by(time);
            if !may_see_pii {
                masking::refuse_unmasking(&before, &snapshot)?;
            }
            let encoded = Bytes::from(state.encode());
            Ok((outcome, Some(Drafted { state, snapshot, encoded, records })))
        };
        let drafted = tokio::task::spawn_blocking(draft).await;
        let failed = |failed| Error::internal(format!("a change of definitions failed: {failed}"));
        let (outcome, next) = drafted.map_err(failed)??;
        let Some(Drafted { state, snapshot, encoded, records }) = next else {
            return Ok((outcome, self.snapshot.load()));
        };
        self.record(records).await?;
        *version = self.store.put_if_version(METADATA_KEY, encoded, *version).await?;
        let (revision, snapshot) = (state.revision, Arc::new(snapshot));
        self.state.store(Arc::new(state));
        self.snapshot.newest.store(Arc::clone(&snapshot));
        // Whoever is told of the change may rely on it that every row acknowledged from then on was
        // made under it.
        self.barrier.raise(revision).await;
        self.revision.send_replace(revision);
        tracing::info!(revision, "definitions changed");
        Ok((outcome, snapshot))
    }
}

/// What everyone would read of a drafted state.
fn snapshot_of(drafted: &State) -> Result<Snapshot> {
    build::snapshot(drafted).map_err(|detail| {
        Error::internal(format!("a change would have made a state that doesn't fit together: {detail}"))
    })
}

/// Of callers who are limited to views and services, to those.
fn require_definition(permit: &Permit, kind: Kind, name: &Name) -> Result<()> {
    permit.require_definition(kind.as_str(), name, |reach| match kind {
        Kind::FeatureView => reach.views.contains(name),
        Kind::FeatureService => reach.services.contains(name),
        _ => false,
    })
}

fn described(snapshot: &Snapshot, permit: &Permit, kind: Kind, name: &Name) -> Result<Described> {
    let found = listing::get(snapshot.tenant(permit.tenant())?, kind, name);
    found.ok_or_else(|| deletion::not_found(kind, name))
}

fn check_revision(state: &State, expected: Option<u64>) -> Result<()> {
    match expected {
        Some(expected) if expected != state.revision => {
            let message = format!("definitions are at revision {}, not {expected}", state.revision);
            Err(Error::new(Code::Aborted, "REVISION_MISMATCH", message)
                .hint("somebody else changed definitions meanwhile: plan again, then apply")
                .with("expected", expected)
                .with("current", state.revision))
        }
        _ => Ok(()),
    }
}

fn damaged(detail: String) -> Error {
    Error::new(Code::DataLoss, "REGISTRY_DAMAGED", format!("the registry's state can't be read: {detail}")).hint(
        "restore the registry's file from a backup of this data directory; don't delete it alone, since it holds the \
         ids under which rows are stored. Without a backup, start with an empty data directory, apply the definitions \
         and load the history again",
    )
}
