//! What a partition must know of the definitions to apply a row: which views there are, how long
//! their rows count, and how far their history reaches. Read from the registry's snapshots, worked
//! out once a revision; it never asks the registry anything.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hydrant_storage::names::{TenantId, ViewId};
use hydrant_storage::order::Micros;
use hydrant_storage::partition::{ViewPolicies, ViewPolicy};

use crate::registry::catalog::{Snapshot, View, retention_horizon};
use crate::registry::gone::Gone;

/// The frame through which each view's rows are in history: landing states it after a commit, and
/// partitions don't keep a tail of what lies at or before it.
#[derive(Debug, Default)]
pub struct LandedFrames(ArcSwap<HashMap<ViewId, u64>>);

impl LandedFrames {
    pub fn new(landed: HashMap<ViewId, u64>) -> Self {
        Self(ArcSwap::from_pointee(landed))
    }

    pub fn get(&self, view: ViewId) -> u64 {
        self.0.load().get(&view).copied().unwrap_or(0)
    }

    /// The newest frame of which rows are in history, of any view.
    pub fn newest(&self) -> u64 {
        self.0.load().values().copied().max().unwrap_or(0)
    }

    /// Never goes back.
    pub fn advance(&self, view: ViewId, through: u64) {
        self.0.rcu(|landed| {
            let mut landed = HashMap::clone(landed);
            let frame = landed.entry(view).or_default();
            *frame = through.max(*frame);
            landed
        });
    }
}

/// The policies of one registry revision.
#[derive(Debug)]
pub(super) struct CatalogPolicies {
    pub revision: u64,
    views: HashMap<(TenantId, ViewId), ViewPolicy>,
    landed: Arc<LandedFrames>,
    gone: Gone,
    /// Views that keep their rows only for so long, and have no history to lose them first.
    only_online: Vec<(ViewId, Micros)>,
}

impl CatalogPolicies {
    pub fn new(snapshot: &Snapshot, landed: Arc<LandedFrames>, gone: Gone) -> Self {
        let views = snapshot.tenants.values().flat_map(|tenant| tenant.all_views());
        let policies = views.map(|view| {
            let View { longest_ttl, online, offline, .. } = **view;
            let policy = ViewPolicy { longest_ttl, gone_before: None, online, offline, landed: 0 };
            ((view.tenant, view.id), policy)
        });
        let views = policies.collect();
        let all = snapshot.tenants.values().flat_map(|tenant| tenant.all_views());
        let only_online = all.filter(|view| !view.offline).filter_map(|view| Some((view.id, view.retention?)));
        Self { revision: snapshot.revision, views, landed, gone, only_online: only_online.collect() }
    }

    /// Says of views without history which rows are to go, before they do; of all others compaction says it.
    pub fn note_gone(&self, now: Micros) {
        for (view, kept) in &self.only_online {
            let before = retention_horizon(now, *kept);
            if self.gone.before(*view).is_none_or(|known| known < before) {
                self.gone.note(*view, before);
            }
        }
    }
}

impl ViewPolicies for CatalogPolicies {
    fn policy(&self, tenant: TenantId, view: ViewId) -> Option<ViewPolicy> {
        let policy = self.views.get(&(tenant, view))?;
        // Online as in history, and by what was said to be gone: whoever finds no row can tell why.
        Some(ViewPolicy { landed: self.landed.get(view), gone_before: self.gone.before(view), ..*policy })
    }
}
