//! Reads that go through everything that a tenant has defined: lineage, search, plans for others. They
//! take their time on threads of their own, a few at a time, so that no online read waits for them.

use std::sync::Arc;

use hydrant_storage::names::Name;
use tokio::sync::Semaphore;

use super::definition::{Definition, Kind};
use super::graph::{self, Direction, Graph, NodeKind};
use super::plan::{self, Plan, Prune};
use super::search::{self, Found, Query};
use super::world::Unread;
use super::{RETRY_AFTER, Registry, masking, snapshot_of};
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, Permit};

/// How many readings may go on at a time, and how many may wait for that.
#[derive(Debug)]
pub(super) struct Lane {
    pub at_once: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Lane {
    pub fn new(at_once: usize, waiting: usize) -> Self {
        Self { at_once: Arc::new(Semaphore::new(at_once)), waiting: Semaphore::new(waiting) }
    }
}

/// The part of a tenant's lineage around a name.
#[derive(Clone, Debug)]
pub struct Around {
    pub graph: Graph,
    /// The nodes that the name means.
    pub starts: Vec<usize>,
    /// The revision that it is of.
    pub revision: u64,
}

impl Registry {
    /// Everything that the tenant has, and how it hangs together, column by column; and the revision that it
    /// is of.
    pub fn graph(&self, permit: &Permit) -> Result<(Graph, u64)> {
        permit.require(Action::ReadDefinitions)?;
        let snapshot = self.snapshot();
        let uses = self.shared.uses.of_tenant(permit.tenant());
        let graph = graph::of(snapshot.tenant(permit.tenant())?, &uses, self.shared.time.read());
        Ok((graph, snapshot.revision))
    }

    /// What a name is made of, and what is made of it.
    pub async fn lineage_around(
        &self,
        permit: &Permit,
        name: String,
        kind: Option<NodeKind>,
        direction: Direction,
    ) -> Result<Around> {
        let work = move |registry: &Self, permit: &Permit| {
            let (graph, revision) = registry.graph(permit)?;
            let starts = graph.named(&name, kind)?;
            let part = graph.around(&starts, direction)?;
            let is_start = |node: &graph::Node| starts.iter().any(|start| graph.nodes[*start] == *node);
            let starts = part.nodes.iter().enumerate().filter(|(_, node)| is_start(node)).map(|(index, _)| index);
            Ok(Around { starts: starts.collect(), graph: part, revision })
        };
        self.apart(permit, work).await
    }

    /// A page of the definitions and features that a query finds, and the revision that it is of.
    pub async fn search(
        &self,
        permit: &Permit,
        query: Query,
        page_size: u32,
        page_token: String,
    ) -> Result<(Found, u64)> {
        let work = move |registry: &Self, permit: &Permit| {
            permit.require(Action::ReadDefinitions)?;
            let snapshot = registry.snapshot();
            let (tenant, now) = (snapshot.tenant(permit.tenant())?, registry.shared.time.read());
            let given = snapshot.shared_with(tenant).into_iter();
            let shared = given.filter_map(|given| {
                let owner = snapshot.tenants.get(&given.owner)?;
                Some((given, owner.as_ref()))
            });
            let found = search::find(tenant, (&shared.collect(), now), &query, page_size, &page_token)?;
            Ok((found, snapshot.revision))
        };
        self.apart(permit, work).await
    }

    /// What applying `definitions` would change, and why it can't be applied where it can't. Violations have paths such as
    /// `definitions[2].spec.features[0].type`; all of them are listed.
    pub fn plan(&self, permit: &Permit, definitions: &[Definition]) -> Result<Plan> {
        self.plan_with(permit, definitions, Prune::Nothing)
    }

    /// As [`plan`](Self::plan), with what would go. PERMISSION_DENIED where the caller may not apply it, since it
    /// would show what is personal.
    pub fn plan_with(&self, permit: &Permit, definitions: &[Definition], prune: Prune) -> Result<Plan> {
        permit.require(Action::ReadDefinitions)?;
        let (state, before) = (self.shared.state.load_full(), self.snapshot());
        let planned = plan::draft(&state, permit.tenant(), (definitions, prune), &self.stamp(permit), self.uses());
        let (plan, next) = planned?;
        if let Some(next) = next.filter(|_| !permit.may_see_pii()) {
            masking::refuse_unmasking(&before, &snapshot_of(&next)?)?;
        }
        Ok(plan)
    }

    /// Refuses as [`plan`](Self::plan) does what is wrong with `definitions`, beside which others
    /// couldn't be read; references to these are taken to be right.
    pub fn check_beside(&self, permit: &Permit, definitions: &[Definition], unread: &Unread) -> Result<()> {
        permit.require(Action::ReadDefinitions)?;
        let state = self.shared.state.load_full();
        plan::check_beside(&state, permit.tenant(), definitions, unread, &self.stamp(permit))
    }

    /// Which definitions applying `definitions` would change, as records name them, and the revision at which this
    /// was found out. Where they can't be applied, those that differ from what is there.
    pub async fn changed_by(
        &self,
        permit: &Permit,
        definitions: &[Definition],
        prune: Prune,
    ) -> Result<(Vec<String>, u64)> {
        let definitions = definitions.to_vec();
        let work = move |registry: &Self, permit: &Permit| {
            permit.require(Action::ChangeDefinitions)?;
            let state = registry.shared.state.load_full();
            let asked = (definitions.as_slice(), prune);
            let named = |kind: Kind, name: &Name| format!("{}/{name}", kind.as_str());
            let changed = match plan::draft(&state, permit.tenant(), asked, &registry.stamp(permit), registry.uses()) {
                Ok((plan, _)) => {
                    let changes = plan.changes.iter().filter(|change| change.action != plan::Action::Unchanged);
                    changes.map(|change| named(change.kind, &change.name)).collect()
                }
                Err(_) => {
                    let tenant = plan::tenant(&state, permit.tenant())?;
                    let is_there = |one: &&Definition| {
                        tenant.stored(one.kind(), one.name()).is_some_and(|stored| stored.definition == **one)
                    };
                    let differ = definitions.iter().filter(|one| !is_there(one));
                    let pruned = (prune != Prune::Nothing).then(|| "whatever is pruned".to_owned());
                    differ.map(|one| named(one.kind(), one.name())).chain(pruned).collect()
                }
            };
            Ok((changed, state.revision))
        };
        self.in_lane(&self.shared.naming, permit, work).await
    }

    /// As [`plan_with`](Self::plan_with), off the thread that answers.
    pub async fn plan_apart(&self, permit: &Permit, definitions: Vec<Definition>, prune: Prune) -> Result<Plan> {
        let work = move |registry: &Self, permit: &Permit| registry.plan_with(permit, &definitions, prune);
        self.apart(permit, work).await
    }

    /// Runs what takes its time when it is its turn. Who hangs up while waiting gives up its place.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        permit: &Permit,
        work: impl FnOnce(&Self, &Permit) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.in_lane(&self.shared.reading, permit, work).await
    }

    async fn in_lane<T: Send + 'static>(
        &self,
        lane: &Lane,
        permit: &Permit,
        work: impl FnOnce(&Self, &Permit) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let waiting = lane.waiting.try_acquire().map_err(|_| {
            let message = "too many readings of all definitions are waiting already";
            Error::new(Code::ResourceExhausted, "REGISTRY_BUSY", message).retry_after(RETRY_AFTER)
        })?;
        let turn = Arc::clone(&lane.at_once).acquire_owned().await;
        let turn = turn.map_err(|closed| Error::internal(format!("reads of definitions are closed: {closed}")))?;
        drop(waiting);
        let (registry, permit) = (self.clone(), permit.clone());
        let read = tokio::task::spawn_blocking(move || {
            let read = work(&registry, &permit);
            drop((turn, permit));
            read
        });
        read.await.map_err(|failed| Error::internal(format!("a read of definitions ended early: {failed}")))?
    }
}
