//! How many definitions a tenant has, and whether others would make too many. It is asked before
//! anything is checked about them, and looks at nothing but their names and numbers.

use std::collections::BTreeMap;

use hydrant_storage::names::Name;

use super::catalog::TenantCatalog;
use super::definition::{Definition, Spec};
use super::state::TenantState;
use crate::error::Result;
use crate::tenancy::DefinitionLimits;

/// The views of a tenant, and the features of all of them.
pub fn counts(tenant: &TenantCatalog) -> (usize, usize) {
    let features = tenant.views.values().map(|view| features_of(&view.applied.definition)).sum();
    (tenant.views.len(), features)
}

/// Refuses (RESOURCE_EXHAUSTED) definitions by which the tenant would have more than it may.
pub(super) fn check(limits: &DefinitionLimits, tenant: &TenantState, definitions: &[Definition]) -> Result<()> {
    if limits.views.is_none() && limits.features.is_none() {
        return Ok(());
    }
    let stored = tenant.views.iter();
    let before: BTreeMap<&Name, usize> =
        stored.map(|(name, view)| (name, features_of(&view.newest().stored.definition))).collect();
    let mut after = before.clone();
    for definition in definitions.iter().filter(|definition| matches!(definition.spec, Spec::FeatureView(_))) {
        after.insert(definition.name(), features_of(definition));
    }
    let count = |views: &BTreeMap<&Name, usize>| (views.len(), views.values().sum());
    limits.check(count(&before), count(&after))
}

fn features_of(definition: &Definition) -> usize {
    match &definition.spec {
        Spec::FeatureView(spec) => spec.features.len(),
        _ => 0,
    }
}
