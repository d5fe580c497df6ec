//! Versions of views that a change drops: deleted with their view or by themselves, or given up while they were
//! being built. Their rows stay on disk, so what these were stored under stays in the state, for erasures. It
//! deletes nothing.

use std::collections::HashSet;

use hydrant_storage::names::ViewId;

use super::definition::Spec;
use super::limits;
use super::state::{DroppedVersion, TenantState, ViewState};
use crate::error::Result;

/// Notes in a tenant after a change which versions it had before and has no more. RESOURCE_EXHAUSTED: these would
/// be too many.
pub(super) fn note(before: &TenantState, after: &mut TenantState) -> Result<()> {
    let kept: HashSet<ViewId> = after.views.values().flat_map(ViewState::all).map(|version| version.id).collect();
    let all = before.views.values().flat_map(|view| view.all().map(move |version| (view, version)));
    let gone = all.filter(|(_, version)| !kept.contains(&version.id));
    let dropped: Vec<DroppedVersion> = gone.map(|(view, version)| of_version(before, view, version)).collect();
    if dropped.is_empty() {
        return Ok(());
    }
    after.dropped.extend(dropped);
    limits::check_dropped(&after.dropped)
}

fn of_version(tenant: &TenantState, view: &ViewState, version: &ViewState) -> DroppedVersion {
    let spec = version.spec();
    let mut join_keys = Vec::new();
    for stored in spec.entities.iter().filter_map(|entity| tenant.entities.get(entity)) {
        if let Spec::Entity(entity) = &stored.definition.spec {
            join_keys.extend(entity.join_keys.iter().map(|key| (key.name.clone(), key.data_type)));
        }
    }
    DroppedVersion {
        id: version.id,
        view: version.stored.definition.metadata.name.clone(),
        version: version.version,
        entities: spec.entities.clone(),
        join_keys,
        features: version.row.iter().map(|feature| (feature.name.clone(), feature.data_type)).collect(),
        offline: spec.offline,
        // As long as the view was there, all of its versions went by this.
        retention: view.newest_spec().retention,
    }
}
