//! What applying definitions would change, as a value that can be printed. A plan is made by a pure
//! function of state and definitions; the same function drafts the state that comes after, so what
//! is shown is what is done.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use hydrant_storage::names::{Name, ViewId};
use hydrant_storage::order::Micros;

use crate::error::{Code, Error, Result, Violation};
use crate::tenancy::DefinitionLimits;

use super::compatibility::{self, Incompatibilities, Incompatible};
use super::definition::{Definition, Kind, Spec};
use super::freeze::{self, FreezableView};
use super::graph::{self, Graph, NodeKind, Touched};
use super::impact::{Impact, hurting, part_of};
use super::keeping::{self, Keeping};
use super::revisions::Cause;
use super::state::{FrozenService, Refilling, RowFeature, ServiceState, State, Stored, TenantState, ViewState};
use super::succession::{self, Course};
use super::uses::Uses;
use super::validation::{self, ResolvedView, Violations, resolve_view};
use super::world::{Unread, World};
use super::{build, consumers, deletion, details, dropped, limits, lineage};

/// What would change, in the order in which kinds refer to one another, then by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The revision that the plan was made at.
    pub revision: u64,
    /// One for each definition of the request, and for each that is pruned.
    pub changes: Vec<Change>,
    /// Why it can't be applied, although the definitions are good: what data or users don't allow.
    pub refusals: Vec<Refusal>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub kind: Kind,
    pub name: Name,
    pub action: Action,
    /// One for each thing that differs.
    pub differences: Vec<Difference>,
    /// Whom a deletion touches; of an update each difference says it.
    pub touches: Touches,
    /// Definitions downstream that are not what they were before.
    pub affects: Vec<(Kind, Name)>,
    /// The version of the view that is built when it is applied.
    pub coming_version: Option<u32>,
    /// The services that read the one before. They go on with it until they are applied again once the new one
    /// is served.
    pub apply_again: Vec<Name>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Such as `ttl: 3h -> 2h`.
    pub text: String,
    pub class: Class,
    /// Why it can't be made, where it can't.
    pub why: Option<String>,
    /// Which part of the definition it is about, where that could be read; `None` of what changes no value.
    pub part: Option<Part>,
    /// Who lies downstream of it.
    pub touches: Touches,
    /// What becomes of rows by it, where it is about how long they are kept or count.
    pub keeping: Option<Keeping>,
}

/// A definition or a part of it, as lineage names it; a service without a number is all its versions.
pub type Part = (NodeKind, String);

/// Versions of services, training sets and consumers that are to be told. What a plan lists is bounded; of
/// those beyond it tells the number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touches {
    pub named: Vec<Touched>,
    pub more: usize,
}

/// What a difference asks for (contract, section 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Compatible: made in place.
    InPlace,
    /// The service gets a new version; those that are there stay as they are.
    NewServiceVersion,
    /// A new version of the view has it, which is built beside the one that is served.
    NewViewVersion,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Update,
    Unchanged,
    Delete,
}

/// One reason why a plan can't be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Such as `definitions[2].spec.ttl`, or `FeatureView/airport_weather` of what is pruned.
    pub path: String,
    pub message: String,
    /// Which part of a definition would change or go.
    pub part: Option<Part>,
    /// What is pruned is in use; otherwise a change doesn't fit the data that is there.
    pub is_in_use: bool,
}

/// Which definitions go that a request doesn't have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    Nothing,
    /// Those of the kinds that it has.
    KindsOfRequest,
    /// All but tenants.
    All,
}

/// Who changes something, and when.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub now: Micros,
    pub by: String,
    pub cause: Cause,
    /// How many definitions there may be.
    pub limits: DefinitionLimits,
}

impl Plan {
    /// Whether applying would change nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|change| change.action == Action::Unchanged)
    }

    /// The plan, unless it can't be applied.
    pub fn allowed(self) -> Result<Self> {
        match self.refusal() {
            Some(refusal) => Err(refusal),
            None => Ok(self),
        }
    }

    /// Why it can't be applied, all of it.
    pub fn refusal(&self) -> Option<Error> {
        let first = self.refusals.first()?;
        let violation = |refusal: &Refusal| Violation { path: refusal.path.clone(), message: refusal.message.clone() };
        let violations: Vec<Violation> = self.refusals.iter().map(violation).collect();
        let error = if self.refusals.iter().all(|refusal| refusal.is_in_use) {
            let message = match self.refusals.len() {
                1 => first.message.clone(),
                count => format!("{count} definitions that would be pruned are in use; the first: {}", first.message),
            };
            Error::new(Code::FailedPrecondition, "DEFINITION_IN_USE", message).hint(deletion::IN_USE_WAY_OUT)
        } else {
            let message = summary(&violations, "changes that don't fit the data that is there");
            Error::new(Code::FailedPrecondition, "INCOMPATIBLE_CHANGE", message).hint(compatibility::WAY_OUT)
        };
        Some(error.violations(violations))
    }
}

impl Change {
    /// One line for each thing that differs.
    pub fn details(&self) -> Vec<String> {
        self.differences.iter().map(|difference| difference.text.clone()).collect()
    }
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InPlace => "in place",
            Self::NewServiceVersion => "a new version of the service",
            Self::NewViewVersion => "a new version of the view",
            Self::Refused => "refused",
        }
    }
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Unchanged => "unchanged",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(formatter, "{} {}/{}", change.action.as_str(), change.kind.as_str(), change.name)?;
            for difference in &change.differences {
                writeln!(formatter, "    {} ({})", difference.text, difference.class.as_str())?;
            }
            if !change.affects.is_empty() {
                let affected: Vec<_> =
                    change.affects.iter().map(|(kind, name)| format!("{}/{name}", kind.as_str())).collect();
                writeln!(formatter, "    affects {}", affected.join(", "))?;
            }
            if let Some(version) = change.coming_version {
                let services: Vec<&str> = change.apply_again.iter().map(Name::as_str).collect();
                writeln!(formatter, "    builds version {version}; to be applied again then: {}", services.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Plans `definitions` for a tenant, and drafts the state after them; the state is `None` where
/// nothing changes or the plan can't be applied. INVALID_ARGUMENT lists everything that is wrong with
/// the definitions; what data or users don't allow stands in the plan.
pub(super) fn draft(
    state: &State,
    tenant_name: &Name,
    (definitions, prune): (&[Definition], Prune),
    stamp: &Stamp,
    uses: &Uses,
) -> Result<(Plan, Option<State>)> {
    let old = tenant(state, tenant_name)?;
    let leaving = gone(old, definitions, prune);
    limits::check(&stamp.limits, &without(old, &leaving), definitions)?;
    let unread = Unread::default();
    let Drafted { tenant: mut new, mut actions, next_view, incompatible } =
        drafted(state, old, definitions, &unread, stamp)?;
    let mut refusals = Vec::new();
    for (kind, name) in leaving {
        deletion::remove(&mut new, kind, &name);
        actions.insert((kind, name), Action::Delete);
    }
    dropped::note(old, &mut new)?;
    for ((kind, name), _) in actions.iter().filter(|(_, action)| **action == Action::Delete) {
        let users = deletion::users_of(&new, tenant_name, (*kind, name), uses, stamp.now);
        if !users.is_empty() {
            let path = format!("{}/{name}", kind.as_str());
            let message = deletion::in_use_text(*kind, name.as_str(), &users);
            refusals.push(Refusal { path, message, part: part_of(*kind, name, ""), is_in_use: true });
        }
    }
    let impact = if actions.values().any(|action| matches!(action, Action::Update | Action::Delete)) {
        let catalog = build::catalog(tenant_name, old).map_err(Error::internal)?;
        Impact::new(old, graph::of(&catalog, &uses.of_tenant(tenant_name), stamp.now))
    } else {
        Impact::new(old, Graph::default())
    };
    for (definition, found) in definitions.iter().zip(&incompatible) {
        for Incompatible { path, message, fact, .. } in found.iter().filter(|found| found.is_refused) {
            let message = hurting(message, &impact.touched(definition.kind(), definition.name(), fact));
            let part = part_of(definition.kind(), definition.name(), fact);
            refusals.push(Refusal { path: path.clone(), message, part, is_in_use: false });
        }
    }
    for (view, used) in succession::missing_to_consumers(&new) {
        let path = format!("{}/{view}", Kind::FeatureView.as_str());
        let message = format!("the view would lack {used}, before or after its new version is served");
        refusals.push(Refusal { path, message, part: part_of(Kind::FeatureView, &view, ""), is_in_use: true });
    }
    let mut found_of: HashMap<(Kind, &Name), &[Incompatible]> = HashMap::new();
    for (definition, found) in definitions.iter().zip(&incompatible) {
        found_of.insert((definition.kind(), definition.name()), found);
    }
    let mut changes: Vec<Change> = Vec::with_capacity(actions.len());
    for ((kind, name), action) in &actions {
        let affects = if *action == Action::Update { affected(old, &new, *kind, name) } else { Vec::new() };
        let found = found_of.get(&(*kind, name)).copied().unwrap_or_default();
        let differences = impact.differences(*kind, name, details::lines(old, &new, *kind, name), found);
        let touches = if *action == Action::Delete { impact.touched(*kind, name, "") } else { Touches::default() };
        let updated = new.views.get(name).filter(|_| *kind == Kind::FeatureView && *action == Action::Update);
        let coming_version = updated.and_then(|view| view.next.as_ref()).map(|next| next.view.version);
        let apply_again = if coming_version.is_some() { readers_of(&new, name) } else { Vec::new() };
        let (kind, name, action) = (*kind, name.clone(), *action);
        changes.push(Change { kind, name, action, differences, touches, affects, coming_version, apply_again });
    }
    keeping::note(&mut changes, old, (tenant_name, &new), stamp.now)?;
    let plan = Plan { revision: state.revision, changes, refusals };
    if plan.is_empty() || !plan.refusals.is_empty() {
        return Ok((plan, None));
    }
    let mut next = state.clone();
    next.revision += 1;
    next.next_view = next_view;
    next.tenants.insert(tenant_name.clone(), new);
    Ok((plan, Some(next)))
}

/// A tenant without some of its definitions, for counting.
fn without<'a>(old: &'a TenantState, leaving: &[(Kind, Name)]) -> Cow<'a, TenantState> {
    let mut rest = Cow::Borrowed(old);
    for (kind, name) in leaving {
        deletion::remove(rest.to_mut(), *kind, name);
    }
    rest
}

/// What is defined and not in the request, as far as it is to go.
fn gone(old: &TenantState, definitions: &[Definition], prune: Prune) -> Vec<(Kind, Name)> {
    let kinds: BTreeSet<Kind> = definitions.iter().map(Definition::kind).collect();
    let goes = |kind: Kind| match prune {
        Prune::Nothing => false,
        Prune::KindsOfRequest => kinds.contains(&kind),
        Prune::All => true,
    };
    let kept: BTreeSet<(Kind, &Name)> =
        definitions.iter().map(|definition| (definition.kind(), definition.name())).collect();
    let all = old.definitions().map(|definition| (definition.kind(), definition.name()));
    let gone = all.filter(|(kind, name)| goes(*kind) && !kept.contains(&(*kind, *name)));
    gone.map(|(kind, name)| (kind, name.clone())).collect()
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
    let drafted = drafted(state, tenant(state, tenant_name)?, definitions, unread, stamp)?;
    let refusal = |Incompatible { path, message, .. }: &Incompatible| Refusal {
        path: path.clone(),
        message: message.clone(),
        part: None,
        is_in_use: false,
    };
    let refused = drafted.incompatible.iter().flatten().filter(|found| found.is_refused);
    let refusals = refused.map(refusal).collect();
    Plan { revision: state.revision, changes: Vec::new(), refusals }.allowed().map(|_| ())
}

/// A tenant after a change.
struct Drafted {
    tenant: TenantState,
    actions: BTreeMap<(Kind, Name), Action>,
    next_view: u32,
    /// For each definition of the request, what data that is there doesn't allow.
    incompatible: Vec<Vec<Incompatible>>,
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
    let incompatible = check_compatibility(old, &world, definitions, &resolved);

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
    consumers::check(&new, &world, definitions, &mut invalid);
    refuse(invalid, &incompatible)?;
    Ok(Drafted { tenant: new, actions: drafting.actions, next_view: drafting.next_view, incompatible })
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

/// The services whose current version reads a view.
fn readers_of(new: &TenantState, view: &Name) -> Vec<Name> {
    let reads = |service: &ServiceState| {
        service.current().is_some_and(|current| current.lookups.iter().any(|lookup| lookup.view == *view))
    };
    new.services.iter().filter(|(_, service)| reads(service)).map(|(name, _)| name.clone()).collect()
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
) -> Vec<Vec<Incompatible>> {
    let kept = build::ttls_in_effect(old);
    let mut all = Vec::with_capacity(definitions.len());
    for (index, definition) in definitions.iter().enumerate() {
        let mut violations = Incompatibilities::default();
        let (path, name) = (format!("definitions[{index}].spec"), definition.name());
        let stored = old.stored(definition.kind(), name);
        let Some(stored) = stored.filter(|_| !world.unread.covers(definition.kind(), name)) else {
            all.push(Vec::new());
            continue;
        };
        match (&stored.definition.spec, &definition.spec) {
            (Spec::Entity(before), Spec::Entity(after)) => {
                compatibility::entity(old, name, before, after, &path, &mut violations);
            }
            (Spec::Source(before), Spec::Source(after)) => {
                compatibility::source(old, world, name, (before, after), resolved, &path, &mut violations);
            }
            (Spec::FeatureView(_), Spec::FeatureView(after)) => {
                if let (Some(view), Some(resolved)) = (old.views.get(name), resolved.get(name)) {
                    let kept = |id: ViewId| kept.get(&id).copied().unwrap_or_default();
                    succession::course(view, &kept, after, resolved, &path, &mut violations);
                }
            }
            _ => {}
        }
        all.push(violations.0);
    }
    all
}

fn refuse(invalid: Violations, incompatible: &[Vec<Incompatible>]) -> Result<()> {
    if invalid.is_empty() {
        return Ok(());
    }
    let violation = |one: &Incompatible| Violation { path: one.path.clone(), message: one.message.clone() };
    let beside = incompatible.iter().flatten().filter(|found| found.is_refused).map(violation).collect();
    let violations = [invalid.into_vec(), beside].concat();
    let message = summary(&violations, "problems");
    Err(Error::invalid("INVALID_DEFINITION", message).violations(violations))
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
        // Until a new version is built, services are made of the one that is served.
        let spec = if view.next.is_some() { view.spec() } else { world.view(name).read()? };
        let mut problems = Violations::default();
        let resolved = resolve_view(world, spec, "", &mut problems);
        let is_sure = resolved.is_whole && problems.is_empty();
        is_sure.then(|| (name.clone(), FreezableView::new(view, resolved)))
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
                let stored = self.stored(existing.as_ref().map(|view| &view.newest().stored), definition, false);
                let view = match existing {
                    Some(existing) => self.changed(existing, definition, stored, resolved),
                    None => {
                        let version = tenant.deleted_views.get(&name).map_or(1, |last| last + 1);
                        let view = ViewState::new(stored.clone(), self.new_view(), version, Vec::new());
                        self.in_place(view, stored, resolved)
                    }
                };
                tenant.views.insert(name, view);
            }
            Kind::Consumer => {
                let stored = self.stored(tenant.consumers.get(&name), definition, false);
                tenant.consumers.insert(name, stored);
            }
            Kind::FeatureService | Kind::Tenant => {}
        }
    }

    fn new_view(&mut self) -> ViewId {
        let id = ViewId(self.next_view);
        self.next_view += 1;
        id
    }

    /// A view with a new definition: in place, or in another version.
    fn changed(
        &mut self,
        view: ViewState,
        definition: &Definition,
        stored: Stored,
        resolved: &ResolvedView,
    ) -> ViewState {
        let Spec::FeatureView(spec) = &definition.spec else { return view };
        let kept = |id: ViewId| self.kept.get(&id).copied().unwrap_or_default();
        match succession::course(&view, &kept, spec, resolved, "", &mut Incompatibilities::default()) {
            // What is refused goes nowhere; the draft of it is as if it could be made.
            Course::InPlace | Course::Refused => {
                let highest = view.highest();
                self.in_place(ViewState { next: None, highest, ..view }, stored, resolved)
            }
            Course::GoesOn => {
                let mut view = view;
                if let Some(next) = &mut view.next {
                    next.view.stored = stored;
                }
                view
            }
            Course::Back { id } => self.in_place(view.back_to(id), stored, resolved),
            Course::Beside { row, from } => {
                let id = self.new_view();
                view.beside(stored, id, row, self.revision, from)
            }
        }
    }

    fn in_place(&self, mut view: ViewState, stored: Stored, resolved: &ResolvedView) -> ViewState {
        if view.stored.definition != stored.definition {
            view.refilling = self.refilling(&view, &stored.definition);
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
        view
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
