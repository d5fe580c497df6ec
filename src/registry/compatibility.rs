//! Which changes keep the data that is there right. What isn't compatible is refused with the way
//! out; nothing here changes anything or looks at data.

use std::collections::BTreeMap;

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use super::definition::{EntitySpec, FeatureViewSpec, SourceSpec, TypedName};
use super::plan::Class;
use super::state::{RowFeature, TenantState, ViewState};
use super::validation::{ResolvedView, Violations, resolve_view};
use super::world::World;
use crate::config::durations;

/// Shown with every refusal of this module.
pub const WAY_OUT: &str =
    "make a new view (or source, or entity) under another name, move services to it, then delete the old one";

/// A change that the data that is there doesn't allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incompatible {
    pub path: String,
    pub message: String,
    /// Which line of the differences it is, by the beginning of its key: `features.temp`.
    pub fact: String,
    pub class: Class,
    /// False: it isn't made in place, and another version of the view has it.
    pub is_refused: bool,
}

/// Collects them.
#[derive(Debug, Default)]
pub(super) struct Incompatibilities(pub Vec<Incompatible>);

impl Incompatibilities {
    fn add(&mut self, class: Class, fact: impl Into<String>, path: impl Into<String>, message: impl Into<String>) {
        let (path, message, fact) = (path.into(), message.into(), fact.into());
        self.0.push(Incompatible { path, message, fact, class, is_refused: true });
    }
}

/// An entity's keys are part of every stored key: they are fixed once a view is over the entity.
pub(super) fn entity(
    state: &TenantState,
    name: &Name,
    old: &EntitySpec,
    new: &EntitySpec,
    path: &str,
    found: &mut Incompatibilities,
) {
    let users = users(state, |view| view.entities.contains(name));
    if old.join_keys != new.join_keys && !users.is_empty() {
        let message = format!("the join keys of entity '{name}' can't change while views are over it: {users}");
        found.add(Class::NewViewVersion, "joinKeys", format!("{path}.joinKeys"), message);
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
    found: &mut Incompatibilities,
) {
    let users_text = users(state, |view| view.source == *name);
    if old.event_time != new.event_time && !users_text.is_empty() {
        let message = format!("the event time of source '{name}' can't change while views are over it: {users_text}");
        found.add(Class::NewViewVersion, "eventTime", format!("{path}.eventTime"), message);
    }
    // Of a column that a message is about, the line that says how it differs.
    let fact = |message: &str| {
        let is_named = |column: &&TypedName| message.contains(&format!("'{}'", column.name));
        let changed = old.columns.iter().filter(|column| !new.columns.contains(column)).find(is_named);
        changed.map_or_else(|| "columns".to_owned(), |column| format!("columns.{}", column.name))
    };
    for (view_name, view) in &state.views {
        let is_checked =
            in_request.contains_key(view_name) || world.view(view_name).read() != Some(view.newest().spec());
        // One that changes in place is checked by what it becomes; all others stay as they are.
        let becomes = is_checked.then(|| in_request.get(view_name)).flatten();
        let is_other = |version: &&ViewState| match becomes {
            Some(resolved) => !changes_in_place(version, resolved),
            None => !is_checked,
        };
        for version in view.all().filter(|version| version.spec().source == *name).filter(is_other) {
            let shown = match version.version == view.newest().version {
                true => format!("'{view_name}'"),
                false => format!("'{view_name}@{}'", version.version),
            };
            check_rows(world, version, &shown, &fact, path, found);
        }
    }
}

/// Whether a definition has all that a version's rows are made of.
fn changes_in_place(version: &ViewState, resolved: &ResolvedView) -> bool {
    let has = |row: &RowFeature| {
        resolved.features.iter().any(|feature| {
            feature.name == row.name && feature.column == row.column && feature.data_type == row.data_type
        })
    };
    version.row.iter().all(has)
}

/// What a version of a view takes of a source stays as it is.
fn check_rows(
    world: &World<'_>,
    version: &ViewState,
    shown: &str,
    fact: &dyn Fn(&str) -> String,
    path: &str,
    found: &mut Incompatibilities,
) {
    let mut problems = Violations::default();
    let resolved = resolve_view(world, version.spec(), "spec", &mut problems);
    for violation in problems.into_vec() {
        let fact = fact(&violation.message);
        let message = format!("feature view {shown}: {}", violation.message);
        found.add(Class::NewViewVersion, fact, format!("{path}.columns"), message);
    }
    for row in &version.row {
        let feature = resolved.features.iter().find(|feature| feature.name == row.name);
        if let Some(feature) = feature.filter(|feature| feature.data_type != row.data_type) {
            let message = format!(
                "feature '{}' of view {shown} would become {} instead of {}",
                row.name, feature.data_type, row.data_type
            );
            let fact = format!("columns.{}", row.column);
            found.add(Class::NewViewVersion, fact, format!("{path}.columns"), message);
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
    found: &mut Incompatibilities,
) {
    let old = state.spec();
    if old.entities != new.entities {
        let message = format!("entities can't change ({} -> {})", list(&old.entities), list(&new.entities));
        found.add(Class::NewViewVersion, "entities", format!("{path}.entities"), message);
    }
    if old.source != new.source {
        let message = format!("the source can't change ({} -> {})", old.source, new.source);
        found.add(Class::NewViewVersion, "source", format!("{path}.source"), message);
    }
    if old.online && !old.offline && is_longer(new.ttl, kept) {
        let message = format!(
            "ttl can't be raised ({} -> {}): the view keeps no history (offline: false) to refill it from",
            ttl_text(old.ttl),
            ttl_text(new.ttl)
        );
        found.add(Class::Refused, "ttl", format!("{path}.ttl"), message);
    }
    for (name, old, new) in [("online", old.online, new.online), ("offline", old.offline, new.offline)] {
        if old != new {
            let message = format!("{name} can't change ({old} -> {new})");
            found.add(Class::Refused, name, format!("{path}.{name}"), message);
        }
    }
    for row in &state.row {
        view_feature(row, new, resolved, path, found);
    }
}

fn view_feature(
    row: &RowFeature,
    new: &FeatureViewSpec,
    resolved: &ResolvedView,
    path: &str,
    found: &mut Incompatibilities,
) {
    let class = Class::NewViewVersion;
    let fact = format!("features.{}", row.name);
    let Some(index) = new.features.iter().position(|feature| feature.name == row.name) else {
        let message = format!("feature '{}' can't be removed or renamed", row.name);
        found.add(class, fact, format!("{path}.features"), message);
        return;
    };
    let Some(feature) = resolved.features.iter().find(|feature| feature.name == row.name) else { return };
    let path = format!("{path}.features[{index}]");
    if feature.data_type != row.data_type {
        let message = format!("the type of '{}' can't change ({} -> {})", row.name, row.data_type, feature.data_type);
        found.add(class, format!("{fact}.type"), format!("{path}.type"), message);
    }
    if feature.column != row.column {
        let message = format!("the column of '{}' can't change ({} -> {})", row.name, row.column, feature.column);
        found.add(class, format!("{fact}.column"), format!("{path}.column"), message);
    }
}

/// How no limit of time is shown.
pub(super) const FOR_EVER: &str = "for ever";

/// How a ttl or a retention is shown.
pub(super) fn ttl_text(ttl: Option<Micros>) -> String {
    ttl.map_or_else(|| FOR_EVER.to_owned(), durations::format)
}

/// Whether a ttl lets rows count longer than another.
pub(super) fn is_longer(new: Option<Micros>, old: Option<Micros>) -> bool {
    match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new > old,
    }
}

fn users(state: &TenantState, uses: impl Fn(&FeatureViewSpec) -> bool) -> String {
    let users = state.views.iter().filter(|(_, view)| uses(view.spec())).map(|(name, _)| name.clone());
    list(&users.collect::<Vec<_>>())
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}
