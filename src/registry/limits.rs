//! How many definitions a tenant has, and whether others would make too many. It is asked before
//! anything is checked about them, and looks at nothing but their names and numbers.

use std::collections::BTreeMap;

use hydrant_storage::names::Name;

use super::catalog::TenantCatalog;
use super::definition::{Definition, Spec};
use super::state::{DroppedVersion, TenantState};
use crate::error::{Code, Error, Result};
use crate::tenancy::DefinitionLimits;

/// Versions of a view that are kept besides the one that is served.
pub(super) const MAX_KEPT_VERSIONS: usize = 16;
/// Versions of views of a tenant that are defined no more,
const MAX_DROPPED: usize = 4_096;
/// and the features of all of them.
const MAX_DROPPED_FEATURES: usize = 131_072;

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

/// Refuses (RESOURCE_EXHAUSTED) what would leave rows of too many versions of views that are defined no more.
pub(super) fn check_dropped(dropped: &[DroppedVersion]) -> Result<()> {
    let features: usize = dropped.iter().map(|version| version.features.len()).sum();
    if dropped.len() <= MAX_DROPPED && features <= MAX_DROPPED_FEATURES {
        return Ok(());
    }
    let message = format!(
        "rows of {} versions of views that are defined no more would be on disk, with {features} features; at most \
         {MAX_DROPPED} versions and {MAX_DROPPED_FEATURES} features may be",
        dropped.len()
    );
    Err(Error::new(Code::ResourceExhausted, "TOO_MANY_DROPPED_VERSIONS", message)
        .hint("keep the views that are there, or define what comes and goes in a tenant of its own")
        .with("versions", MAX_DROPPED)
        .with("features", MAX_DROPPED_FEATURES))
}

fn features_of(definition: &Definition) -> usize {
    match &definition.spec {
        Spec::FeatureView(spec) => spec.features.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hydrant_storage::names::ViewId;
    use hydrant_storage::value::{DataType, ScalarType};

    use super::*;

    #[test]
    fn rows_of_too_many_dropped_versions_are_not_left() {
        let name = |text: &str| -> Name { text.parse().expect("a name") };
        let of = |features: usize| DroppedVersion {
            id: ViewId(1),
            view: name("v"),
            version: 1,
            entities: vec![name("e")],
            join_keys: vec![(name("k"), DataType::Scalar(ScalarType::Int64))],
            features: vec![(name("f"), DataType::Scalar(ScalarType::Int64)); features],
            offline: true,
            retention: None,
        };
        assert_eq!(check_dropped(&vec![of(1); MAX_DROPPED]), Ok(()));
        for many in [vec![of(1); MAX_DROPPED + 1], vec![of(MAX_DROPPED_FEATURES / 2 + 1); 2]] {
            let refused = check_dropped(&many).expect_err("too many");
            assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, "TOO_MANY_DROPPED_VERSIONS"));
        }
    }
}
