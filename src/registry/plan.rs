//! What applying definitions would change, as a value that can be printed. A plan is made by a pure
//! function of state and definitions; the same function drafts the state that comes after, so what
//! is shown is what is done.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;

use crate::error::{Code, Error, Result, Violation};
use crate::tenancy::DefinitionLimits;

use super::build;
use super::compatibility;
use super::definition::{Definition, Kind, Spec};
use super::details;
use super::freeze::{self, FreezableView};
use super::limits;
use super::lineage;
use super::state::{FrozenService, Refilling, RowFeature, ServiceState, State, Stored, TenantState, ViewState};
use super::validation::{self, ResolvedView, Violations, resolve_view};
use super::world::{Unread, World};

/// What would change, in the order in which kinds refer to one another, then by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The revision that the plan was made at.
    pub revision: u64,
    /// One for each definition of the request.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    pub name: Name,
    pub action: Action,
    /// One line for each thing that differs, such as `ttl: 3h -> 2h`.
    pub details: Vec<String>,
    /// Definitions downstream that are not what they were before.
    pub affects: Vec<(Kind, Name)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Update,
    Unchanged,
}

/// Who changes something, and when.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub now: Micros,
    pub by: String,
    /// How many definitions there may be.
    pub limits: DefinitionLimits,
}

impl Plan {
    /// Whether applying would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|change| change.action == Action::Unchanged)
    }
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Unchanged => "unchanged",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(formatter, "{} {}/{}", change.action.as_str(), change.kind.as_str(), change.name)?;
            for line in &change.details {
                writeln!(formatter, "    {line}")?;
            }
            if !change.affects.is_empty() {
                let affected: Vec<_> =
                    change.affects.iter().map(|(kind, name)| format!("{}/{name}", kind.as_str())).collect();
                writeln!(formatter, "    affects {}", affected.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Plans `definitions` for a tenant, and drafts the state after them; the state is `None` where
/// nothing changes. INVALID_ARGUMENT lists everything that is wrong with the definitions;
/// FAILED_PRECONDITION lists the changes that data already there doesn't allow.
pub(super) fn draft(
    state: &State,
    tenant_name: &Name,
    definitions: &[Definition],
    stamp: &Stamp,
) -> Result<(Plan, Option<State>)> {
    let old = tenant(state, tenant_name)?;
    limits::check(&stamp.limits, old, definitions)?;
    let Drafted { tenant: new, actions, next_view } = drafted(state, old, definitions, &Unread::default(), stamp)?;
    let mut changes: Vec<Change> = Vec::with_capacity(actions.len());
    for ((kind, name), action) in &actions {
        let affects = if *action == Action::Update { affected(old, &new, *kind, name) } else { Vec::new() };
        let details = details::lines(old, &new, *kind, name);
        changes.push(Change { kind: *kind, name: name.clone(), action: *action, details, affects });
    }
    let plan = Plan { revision: state.revision, changes };
    if plan.is_empty() {
        return Ok((plan, None));
    }
    let mut next = state.clone();
    next.revision += 1;
    next.next_view = next_view;
    next.tenants.insert(tenant_name.clone(), new);
    Ok((plan, Some(next)))
}

/// Refuses as [`draft`] does what is wrong with `definitions`, which are only some of those that were
/// written: nothing can be planned yet. Some of them may be among `unread` too, which were read in
/// part.
pub(super) fn check_beside(
    state: &State,
    tenant_name: &Name,
    definitions: &[Definition],
    unread: &Unread,
    stamp: &Stamp,
) -> Result<()> {
    drafted(state, tenant(state, tenant_name)?, definitions, unread, stamp).map(|_| ())
}

/// A tenant after a change.
struct Drafted {
    tenant: TenantState,
    actions: BTreeMap<(Kind, Name), Action>,
    next_view: u32,
}

fn drafted(
    state: &State,
    old: &TenantState,
    definitions: &[Definition],
    unread: &Unread,
    stamp: &Stamp,
) -> Result<Drafted> {
    let world = World::new(old, definitions, unread);
    let mut invalid = Violations::default();
    let resolved = validation::check(&world, definitions, &mut invalid);
    let mut incompatible = Violations::default();
    check_compatibility(old, &world, definitions, &resolved, &mut incompatible);

    let revision = state.revision + 1;
    let kept = build::ttls_in_effect(old);
    let mut drafting = Drafting { next_view: state.next_view, revision, stamp, kept, actions: BTreeMap::new() };
    let mut new = old.clone();
    for definition in definitions {
        drafting.place(&mut new, definition, &resolved);
    }
    // Freezing comes after all views are in place, whatever the order in the request.
    let views = freezable_views(&new, &world);
    for (index, definition) in definitions.iter().enumerate() {
        if let Spec::FeatureService(spec) = &definition.spec {
            let path = format!("definitions[{index}].spec");
            let number = next_version(&new, definition.name());
            if let Some(fresh) = freeze::freeze(number, spec, &views, &path, &mut invalid) {
                drafting.place_service(&mut new, definition, fresh);
            }
        }
    }
    refuse(invalid, incompatible)?;
    Ok(Drafted { tenant: new, actions: drafting.actions, next_view: drafting.next_view })
}

/// What downstream is otherwise after an update. Versions of services are frozen, so that a view
/// affects only those services that this very plan freezes anew; a source affects all that is made of
/// its rows, where these come to count otherwise.
fn affected(old: &TenantState, new: &TenantState, kind: Kind, name: &Name) -> Vec<(Kind, Name)> {
    let mut downstream = lineage::downstream_of(new, kind, name);
    let rules = |tenant: &TenantState| match tenant.stored(kind, name).map(|stored| &stored.definition.spec) {
        Some(Spec::Source(spec)) => Some((spec.known_time.clone(), spec.max_future)),
        _ => None,
    };
    if rules(old) == rules(new) {
        downstream.retain(|(user_kind, user)| {
            kind == Kind::FeatureView && *user_kind == Kind::FeatureService && is_frozen_anew(old, new, user, name)
        });
    }
    downstream
}

/// Whether a service gets a version that is made of the view.
fn is_frozen_anew(old: &TenantState, new: &TenantState, service: &Name, view: &Name) -> bool {
    let current = |tenant: &TenantState| tenant.services.get(service).and_then(ServiceState::current).cloned();
    let (before, after) = (current(old), current(new));
    let number = |version: &Option<FrozenService>| version.as_ref().map(|version| version.number);
    let uses_view = |version: &FrozenService| version.lookups.iter().any(|lookup| lookup.view == *view);
    number(&before) != number(&after) && after.as_ref().is_some_and(uses_view)
}

/// The state of a tenant.
pub(super) fn tenant<'a>(state: &'a State, name: &Name) -> Result<&'a TenantState> {
    state.tenants.get(name).ok_or_else(|| {
        Error::not_found("TENANT_NOT_FOUND", format!("there is no tenant '{name}'")).with("tenant", name)
    })
}

fn check_compatibility(
    old: &TenantState,
    world: &World<'_>,
    definitions: &[Definition],
    resolved: &BTreeMap<Name, ResolvedView>,
    violations: &mut Violations,
) {
    let kept = build::ttls_in_effect(old);
    for (index, definition) in definitions.iter().enumerate() {
        let (path, name) = (format!("definitions[{index}].spec"), definition.name());
        let Some(stored) = old.stored(definition.kind(), name) else { continue };
        if world.unread.covers(definition.kind(), name) {
            continue;
        }
        match (&stored.definition.spec, &definition.spec) {
            (Spec::Entity(before), Spec::Entity(after)) => {
                compatibility::entity(old, name, before, after, &path, violations);
            }
            (Spec::Source(before), Spec::Source(after)) => {
                compatibility::source(old, world, name, (before, after), resolved, &path, violations);
            }
            (Spec::FeatureView(_), Spec::FeatureView(after)) => {
                if let (Some(view), Some(resolved)) = (old.views.get(name), resolved.get(name)) {
                    let kept = kept.get(&view.id).copied().unwrap_or_default();
                    compatibility::view(view, kept, after, resolved, &path, violations);
                }
            }
            _ => {}
        }
    }
}

fn refuse(invalid: Violations, incompatible: Violations) -> Result<()> {
    if !invalid.is_empty() {
        let violations = [invalid.into_vec(), incompatible.into_vec()].concat();
        let message = summary(&violations, "problems");
        return Err(Error::invalid("INVALID_DEFINITION", message).violations(violations));
    }
    if !incompatible.is_empty() {
        let violations = incompatible.into_vec();
        let message = summary(&violations, "changes that don't fit the data that is there");
        return Err(Error::new(Code::FailedPrecondition, "INCOMPATIBLE_CHANGE", message)
            .hint(compatibility::WAY_OUT)
            .violations(violations));
    }
    Ok(())
}

fn summary(violations: &[Violation], what: &str) -> String {
    match violations {
        [] => format!("the definitions have no {what}"),
        [only] => format!("{}: {}", only.path, only.message),
        [first, ..] => {
            let count = violations.len();
            format!("the definitions have {count} {what}; the first: {}: {}", first.path, first.message)
        }
    }
}

/// The views as they will be, for freezing; those with problems, or made of what couldn't be read, are
/// left out.
fn freezable_views(new: &TenantState, world: &World<'_>) -> BTreeMap<Name, FreezableView> {
    let freezable = |(name, view): (&Name, &ViewState)| {
        let spec = world.view(name).read()?;
        let mut problems = Violations::default();
        let resolved = resolve_view(world, spec, "", &mut problems);
        let is_sure = resolved.is_whole && problems.is_empty();
        // Under a ttl that isn't in effect yet a service would read what isn't online yet.
        let ttl = view.ttl_in_effect();
        is_sure.then(|| (name.clone(), FreezableView::new(view.id, view.version, ttl, resolved)))
    };
    new.views.iter().filter_map(freezable).collect()
}

fn next_version(tenant: &TenantState, service: &Name) -> u32 {
    let live = tenant.services.get(service).and_then(ServiceState::current).map(|version| version.number);
    live.or_else(|| tenant.deleted_services.get(service).copied()).unwrap_or(0) + 1
}

/// Puts definitions into a tenant's state, and remembers what became of each.
struct Drafting<'a> {
    next_view: u32,
    revision: u64,
    stamp: &'a Stamp,
    /// The longest ttl under which each view's rows are online with their values.
    kept: HashMap<ViewId, Option<Micros>>,
    actions: BTreeMap<(Kind, Name), Action>,
}

impl Drafting<'_> {
    /// Everything but services, which wait for all views.
    fn place(&mut self, tenant: &mut TenantState, definition: &Definition, resolved: &BTreeMap<Name, ResolvedView>) {
        let name = definition.name().clone();
        match definition.kind() {
            Kind::Entity => {
                let stored = self.stored(tenant.entities.get(&name), definition, false);
                tenant.entities.insert(name, stored);
            }
            Kind::Source => {
                let stored = self.stored(tenant.sources.get(&name), definition, false);
                tenant.sources.insert(name, stored);
            }
            Kind::FeatureView => {
                let Some(resolved) = resolved.get(&name) else { return };
                let existing = tenant.views.remove(&name);
                let stored = self.stored(existing.as_ref().map(|view| &view.stored), definition, false);
                let mut view = existing.unwrap_or_else(|| {
                    let id = ViewId(self.next_view);
                    self.next_view += 1;
                    let version = tenant.deleted_views.get(&name).map_or(1, |last| last + 1);
                    ViewState { stored: stored.clone(), id, version, row: Vec::new(), refilling: None }
                });
                if view.stored.definition != stored.definition {
                    view.refilling = self.refilling(&view, definition);
                }
                view.stored = stored;
                for feature in &resolved.features {
                    if !view.row.iter().any(|known| known.name == feature.name) {
                        view.row.push(RowFeature {
                            name: feature.name.clone(),
                            data_type: feature.data_type,
                            column: feature.column.clone(),
                        });
                    }
                }
                tenant.views.insert(name, view);
            }
            Kind::FeatureService | Kind::Tenant => {}
        }
    }

    /// Whether a view has to be refilled before it reads by the ttl of its new definition.
    fn refilling(&self, view: &ViewState, new: &Definition) -> Option<Refilling> {
        let (Spec::FeatureView(old), Spec::FeatureView(new)) = (&view.stored.definition.spec, &new.spec) else {
            return None;
        };
        let kept = self.kept.get(&view.id).copied().unwrap_or_default();
        if !new.online || !compatibility::is_longer(new.ttl, kept) {
            return None;
        }
        // A refill that is under way for as long a ttl or a longer one is enough.
        let under_way = view.refilling.clone().filter(|_| !compatibility::is_longer(new.ttl, old.ttl));
        Some(under_way.unwrap_or_else(|| Refilling { serves: view.ttl_in_effect(), since: self.revision }))
    }

    fn place_service(&mut self, tenant: &mut TenantState, definition: &Definition, fresh: FrozenService) {
        let name = definition.name().clone();
        let existing = tenant.services.remove(&name);
        let current = existing.as_ref().and_then(ServiceState::current);
        let another = current.is_none_or(|current| !freeze::is_same(current, &fresh));
        let stored = self.stored(existing.as_ref().map(|service| &service.stored), definition, another);
        let mut versions = existing.map(|service| service.versions).unwrap_or_default();
        if another {
            versions.push(fresh);
        }
        tenant.services.insert(name, ServiceState { stored, versions });
    }

    fn stored(&mut self, existing: Option<&Stored>, definition: &Definition, forced: bool) -> Stored {
        let action = match existing {
            None => Action::Create,
            Some(existing) if forced || existing.definition != *definition => Action::Update,
            Some(_) => Action::Unchanged,
        };
        self.actions.insert((definition.kind(), definition.name().clone()), action);
        match existing {
            Some(existing) if action == Action::Unchanged => existing.clone(),
            _ => Stored {
                definition: definition.clone(),
                revision: self.revision,
                created: existing.map_or(self.stamp.now, |existing| existing.created),
                updated: self.stamp.now,
                updated_by: self.stamp.by.clone(),
            },
        }
    }
}
