//! What a change of how long rows are kept, or count, means for rows that are there: which go for good, and what
//! holds them back. It is a pure reading of definitions; which rows are gone already, and which training sets lose
//! some, others know.

use std::sync::Arc;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use super::build;
use super::catalog::{Standing, TenantCatalog, View, retention_horizon};
use super::compatibility::is_longer;
use super::definition::{Kind, Spec};
use super::details::{RETENTION, TTL};
use super::gone::Gone;
use super::plan::{Action, Change};
use super::state::TenantState;
use crate::error::{Error, Result};

/// What becomes of rows by one difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// The retention is set or shortened.
    Goes(RowsThatGo),
    /// The ttl or the retention becomes longer; what is gone by then doesn't come back. With the ttl as it is then.
    ComesBack { ttl: Option<Micros> },
}

/// Rows that a retention takes which is set or shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsThatGo {
    /// Those that happened before, as of the plan, if nothing held them back.
    pub declared_before: Micros,
    /// Of each version of the view, by its number: those that do go. `None`: none, since some count for ever.
    pub versions: Vec<(u32, Option<Micros>)>,
    pub held_back: Vec<HeldBack>,
}

/// A version of a service that keeps rows of a view for longer than its retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// `name@N`.
    pub service: String,
    /// Of the view that it reads.
    pub view_version: u32,
    /// That it froze; `None`: rows count for ever.
    pub ttl: Option<Micros>,
}

impl RowsThatGo {
    /// Of the version of which most go.
    pub fn before(&self) -> Option<Micros> {
        self.versions.iter().filter_map(|(_, before)| *before).max()
    }
}

/// Notes in the changes of a plan what becomes of rows.
pub(super) fn note(
    changes: &mut [Change],
    old: &TenantState,
    (tenant, new): (&Name, &TenantState),
    now: Micros,
) -> Result<()> {
    let is_update = |change: &&mut Change| change.kind == Kind::FeatureView && change.action == Action::Update;
    // It is made only for a plan that needs it.
    let mut catalog = None;
    for change in changes.iter_mut().filter(is_update) {
        let (Some(before), Some(after)) = (old.views.get(&change.name), new.views.get(&change.name)) else { continue };
        let (before, after) = (before.newest_spec(), after.newest_spec());
        for difference in &mut change.differences {
            difference.keeping = if difference.is_of(TTL) && is_longer(after.ttl, before.ttl) {
                Some(Keeping::ComesBack { ttl: after.ttl })
            } else if !difference.is_of(RETENTION) {
                None
            } else if is_longer(after.retention, before.retention) {
                Some(Keeping::ComesBack { ttl: after.ttl })
            } else {
                if catalog.is_none() {
                    catalog = Some(build::catalog(tenant, new).map_err(Error::internal)?);
                }
                catalog.as_ref().and_then(|catalog| rows_that_go(catalog, &change.name, now)).map(Keeping::Goes)
            };
        }
    }
    Ok(())
}

fn rows_that_go(catalog: &TenantCatalog, view: &Name, now: Micros) -> Option<RowsThatGo> {
    let declared = declared(catalog, view)?;
    let of_version = |version: &u32| {
        let kept = catalog.retention_of(view, *version);
        (*version, kept.map(|kept| retention_horizon(now, kept)))
    };
    // What is being built has no rows of its own yet.
    let is_built = |version: &&Arc<View>| !matches!(version.standing, Standing::Building { .. });
    let built = catalog.versions_of(view.as_str()).filter(is_built);
    let mut versions: Vec<u32> = built.map(|version| version.version).collect();
    versions.sort_unstable();
    Some(RowsThatGo {
        declared_before: retention_horizon(now, declared),
        versions: versions.iter().map(of_version).collect(),
        held_back: held_back(catalog, view),
    })
}

/// The versions of services that keep rows of a view for longer than its retention says, by name and number; none
/// where it has no retention.
pub fn held_back(catalog: &TenantCatalog, view: &Name) -> Vec<HeldBack> {
    let Some(declared) = declared(catalog, view) else { return Vec::new() };
    let mut held_back: Vec<HeldBack> = Vec::new();
    for version in catalog.services.values().flat_map(|service| &service.versions) {
        let lookups = version.lookups.iter().filter(|lookup| lookup.view.name == *view);
        let of_earlier = held_back.len();
        for lookup in lookups.filter(|lookup| is_longer(lookup.ttl, Some(declared))) {
            let service = format!("{}@{}", version.service, version.number);
            let held = HeldBack { service, view_version: lookup.view.version, ttl: lookup.ttl };
            if !held_back[of_earlier..].contains(&held) {
                held_back.push(held);
            }
        }
    }
    held_back
}

/// Rows of any version of a view that happened before are gone; `None`: none are.
pub fn gone_before(gone: &Gone, catalog: &TenantCatalog, view: &Name) -> Option<Micros> {
    catalog.versions_of(view.as_str()).filter_map(|version| gone.before(version.id)).max()
}

/// The retention of a view as it was applied last.
fn declared(catalog: &TenantCatalog, view: &Name) -> Option<Micros> {
    let mut versions = catalog.versions_of(view.as_str());
    let next = versions.find(|version| matches!(version.standing, Standing::Building { .. }));
    match &next.or_else(|| catalog.views.get(view))?.applied.definition.spec {
        Spec::FeatureView(spec) => spec.retention,
        _ => None,
    }
}
