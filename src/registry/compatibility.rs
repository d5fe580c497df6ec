//! Which changes keep the data that is there right. What isn't compatible is refused with the way
//! out; nothing here changes anything or looks at data.

use std::collections::BTreeMap;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use super::definition::{EntitySpec, FeatureViewSpec, SourceSpec};
use super::state::{RowFeature, TenantState, ViewState};
use super::validation::{ResolvedView, Violations, resolve_view};
use super::world::World;
use crate::config::durations;

/// Shown with every refusal of this module.
pub const WAY_OUT: &str =
    "make a new view (or source, or entity) under another name, move services to it, then delete the old one";

/// An entity's keys are part of every stored key: they are fixed once a view is over the entity.
pub(super) fn entity(
    state: &TenantState,
    name: &Name,
    old: &EntitySpec,
    new: &EntitySpec,
    path: &str,
    violations: &mut Violations,
) {
    let users = users(state, |view| view.entities.contains(name));
    if old.join_keys != new.join_keys && !users.is_empty() {
        let message = format!("the join keys of entity '{name}' can't change while views are over it: {users}");
        violations.add(format!("{path}.joinKeys"), message);
    }
}

/// A source may grow and change what it doesn't feed; what views take from it stays as it is.
/// `resolved` are the views of the request, which were checked against the new source already.
pub(super) fn source(
    state: &TenantState,
    world: &World<'_>,
    name: &Name,
    (old, new): (&SourceSpec, &SourceSpec),
    in_request: &BTreeMap<Name, ResolvedView>,
    path: &str,
    violations: &mut Violations,
) {
    let users_text = users(state, |view| view.source == *name);
    if old.event_time != new.event_time && !users_text.is_empty() {
        let message = format!("the event time of source '{name}' can't change while views are over it: {users_text}");
        violations.add(format!("{path}.eventTime"), message);
    }
    for (view_name, view) in &state.views {
        let spec = view_spec(view);
        let checked_itself = in_request.contains_key(view_name) || world.view(view_name).read() != Some(spec);
        if spec.source != *name || checked_itself {
            continue;
        }
        let mut found = Violations::default();
        let resolved = resolve_view(world, spec, "spec", &mut found);
        for violation in found.into_vec() {
            violations.add(format!("{path}.columns"), format!("feature view '{view_name}': {}", violation.message));
        }
        for row in &view.row {
            let feature = resolved.features.iter().find(|feature| feature.name == row.name);
            if let Some(feature) = feature.filter(|feature| feature.data_type != row.data_type) {
                let message = format!(
                    "feature '{}' of view '{view_name}' would become {} instead of {}",
                    row.name, feature.data_type, row.data_type
                );
                violations.add(format!("{path}.columns"), message);
            }
        }
    }
}

/// A view may get features at the end of its rows, another ttl, other words and other defaults. `kept` is
/// the longest ttl under which its rows are online with their values.
pub(super) fn view(
    state: &ViewState,
    kept: Option<Micros>,
    new: &FeatureViewSpec,
    resolved: &ResolvedView,
    path: &str,
    violations: &mut Violations,
) {
    let old = view_spec(state);
    if old.entities != new.entities {
        let message = format!("entities can't change ({} -> {})", list(&old.entities), list(&new.entities));
        violations.add(format!("{path}.entities"), message);
    }
    if old.source != new.source {
        violations.add(format!("{path}.source"), format!("the source can't change ({} -> {})", old.source, new.source));
    }
    if old.online && !old.offline && is_longer(new.ttl, kept) {
        let message = format!(
            "ttl can't be raised ({} -> {}): the view keeps no history (offline: false) to refill it from",
            ttl_text(old.ttl),
            ttl_text(new.ttl)
        );
        violations.add(format!("{path}.ttl"), message);
    }
    for (name, old, new) in [("online", old.online, new.online), ("offline", old.offline, new.offline)] {
        if old != new {
            violations.add(format!("{path}.{name}"), format!("{name} can't change ({old} -> {new})"));
        }
    }
    for row in &state.row {
        view_feature(row, new, resolved, path, violations);
    }
}

fn view_feature(
    row: &RowFeature,
    new: &FeatureViewSpec,
    resolved: &ResolvedView,
    path: &str,
    violations: &mut Violations,
) {
    let Some(index) = new.features.iter().position(|feature| feature.name == row.name) else {
        violations.add(format!("{path}.features"), format!("feature '{}' can't be removed or renamed", row.name));
        return;
    };
    let Some(feature) = resolved.features.iter().find(|feature| feature.name == row.name) else { return };
    let path = format!("{path}.features[{index}]");
    if feature.data_type != row.data_type {
        let message = format!("the type of '{}' can't change ({} -> {})", row.name, row.data_type, feature.data_type);
        violations.add(format!("{path}.type"), message);
    }
    if feature.column != row.column {
        let message = format!("the column of '{}' can't change ({} -> {})", row.name, row.column, feature.column);
        violations.add(format!("{path}.column"), message);
    }
}

/// How a ttl is shown.
pub(super) fn ttl_text(ttl: Option<Micros>) -> String {
    ttl.map_or_else(|| "for ever".to_owned(), durations::format)
}

/// Whether a ttl lets rows count longer than another.
pub(super) fn is_longer(new: Option<Micros>, old: Option<Micros>) -> bool {
    match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new > old,
    }
}

fn view_spec(view: &ViewState) -> &FeatureViewSpec {
    match &view.stored.definition.spec {
        super::definition::Spec::FeatureView(spec) => spec,
        _ => unreachable!("a view's state holds a view's definition, which is checked when a state is read"),
    }
}

fn users(state: &TenantState, uses: impl Fn(&FeatureViewSpec) -> bool) -> String {
    let users = state.views.iter().filter(|(_, view)| uses(view_spec(view))).map(|(name, _)| name.clone());
    list(&users.collect::<Vec<_>>())
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}
