//! Tenants, made and taken away by the platform. They are applied as other definitions are, but by
//! themselves and by a permit of their own: who makes tenants sees nothing of what they define.

use std::collections::HashSet;
use std::ops::Bound;

use hydrant_storage::names::{Name, TenantId};

use super::definition::{Definition, Kind};
use super::listing::{DEFAULT_PAGE_SIZE, Described, MAX_PAGE_SIZE, Page};
use super::plan::{Action as Change, Stamp};
use super::state::{State, TenantState};
use super::validation::{Violations, check_metadata};
use super::{Registry, check_revision, deletion, details, listing, shares};
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, DEFAULT_TENANT, Permit};

/// Tenants of one server.
pub const MAX_TENANTS: usize = 1_000;
/// With those that were deleted, whose names are kept.
pub const MAX_TENANTS_EVER: usize = 10_000;
/// Names that a refusal lists.
const SHOWN: usize = 20;

/// What became, or would become, of tenants that were applied, and the revision afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantChanges {
    pub changes: Vec<TenantChange>,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantChange {
    pub name: Name,
    pub action: Change,
    /// One line for each thing that differs.
    pub details: Vec<String>,
}

/// What must be there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is.
    Any,
    Nothing,
    /// With this etag, unless it is empty.
    Something(String),
}

impl Registry {
    /// What applying tenants would change.
    pub fn plan_tenants(&self, permit: &Permit, definitions: &[Definition]) -> Result<TenantChanges> {
        permit.require(Action::ManageTenants)?;
        let state = self.shared.state.load_full();
        let (changes, _) = draft(&state, definitions, &self.stamp(permit))?;
        Ok(TenantChanges { changes, revision: state.revision })
    }

    /// Makes tenants, or changes what is said about them; all or none.
    pub async fn apply_tenants(
        &self,
        permit: &Permit,
        definitions: Vec<Definition>,
        expected: Expected,
        expected_revision: Option<u64>,
    ) -> Result<TenantChanges> {
        permit.require(Action::ManageTenants)?;
        let edit = move |state: &State, stamp: &Stamp| {
            check_revision(state, expected_revision)?;
            for definition in &definitions {
                check_expected(state, definition.name(), &expected)?;
            }
            draft(state, &definitions, stamp)
        };
        let (changes, snapshot) = self.run_change(permit, edit).await?;
        Ok(TenantChanges { changes, revision: snapshot.revision })
    }

    /// Deletes a tenant that has defined nothing and of which nothing is kept, and tells the new revision.
    /// Its keys let nobody in from then on, and its name is never given again: what it left lies under it.
    pub async fn delete_tenant(&self, permit: &Permit, name: &Name, etag: String) -> Result<u64> {
        permit.require(Action::ManageTenants)?;
        let name = name.clone();
        let edit = move |state: &State, stamp: &Stamp| {
            check_expected(state, &name, &Expected::Something(etag))?;
            let tenant = state.tenants.get(&name).ok_or_else(|| deletion::not_found(Kind::Tenant, &name))?;
            check_unused(&name, tenant)?;
            let mut next = state.clone();
            next.revision += 1;
            next.tenants.remove(&name);
            shares::end_with(&mut next, tenant.id, stamp.now, &stamp.by);
            next.deleted_tenants.insert(name);
            Ok(((), Some(next)))
        };
        self.run_change(permit, edit).await.map(|((), snapshot)| snapshot.revision)
    }

    /// Any tenant, as the platform sees it.
    pub fn get_tenant(&self, permit: &Permit, name: &Name) -> Result<Described> {
        permit.require(Action::ManageTenants)?;
        let snapshot = self.snapshot();
        let found = snapshot.tenants.get(name).and_then(|tenant| listing::get(tenant, Kind::Tenant, name));
        found.ok_or_else(|| deletion::not_found(Kind::Tenant, name))
    }

    /// A page of all tenants, by name.
    pub fn list_tenants(&self, permit: &Permit, page_size: u32, page_token: &str) -> Result<Page> {
        permit.require(Action::ManageTenants)?;
        let snapshot = self.snapshot();
        let after = if page_token.is_empty() { None } else { Some(listing::decode(Kind::Tenant, page_token)?) };
        let size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size.min(MAX_PAGE_SIZE) } as usize;
        let range = (after.as_ref().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let mut page = snapshot.tenants.range::<Name, _>(range).take(size + 1);
        let items = page.by_ref().take(size).filter_map(|(name, tenant)| listing::get(tenant, Kind::Tenant, name));
        let items: Vec<Described> = items.collect();
        let next_page_token = match (page.next(), items.last()) {
            (Some(_), Some(last)) => listing::encode(Kind::Tenant, last.applied.definition.name()),
            _ => String::new(),
        };
        Ok(Page { items, next_page_token, revision: snapshot.revision })
    }
}

fn check_expected(state: &State, name: &Name, expected: &Expected) -> Result<()> {
    let stored = state.tenants.get(name).map(|tenant| &tenant.stored);
    match (expected, stored) {
        (Expected::Any, _) | (Expected::Nothing, None) => Ok(()),
        (Expected::Nothing, Some(_)) => {
            let message = format!("there is a {} '{name}' already", Kind::Tenant.as_str());
            Err(Error::new(Code::AlreadyExists, "DEFINITION_EXISTS", message)
                .with("kind", Kind::Tenant.as_str())
                .with("name", name))
        }
        (Expected::Something(_), None) => Err(deletion::not_found(Kind::Tenant, name)),
        (Expected::Something(etag), Some(stored)) => deletion::check_etag(Kind::Tenant, name, &stored.etag(), etag),
    }
}

fn draft(state: &State, definitions: &[Definition], stamp: &Stamp) -> Result<(Vec<TenantChange>, Option<State>)> {
    check(definitions)?;
    let mut next = state.clone();
    next.revision += 1;
    let mut changes = Vec::with_capacity(definitions.len());
    for definition in definitions {
        changes.push(place(state, &mut next, definition, stamp)?);
    }
    if next.tenants.len() > MAX_TENANTS {
        let message = format!("there would be {} tenants; at most {MAX_TENANTS}", next.tenants.len());
        return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_TENANTS", message)
            .hint("delete tenants that are no longer used (hydrant delete tenant NAME)"));
    }
    if next.tenants.len() + next.deleted_tenants.len() > MAX_TENANTS_EVER {
        let message = format!("there have been {MAX_TENANTS_EVER} tenants, as many as may ever be");
        return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_TENANTS", message)
            .hint("the names of deleted tenants are kept: use the tenants that there are"));
    }
    let is_changed = changes.iter().any(|change| change.action != Change::Unchanged);
    Ok((changes, is_changed.then_some(next)))
}

fn check(definitions: &[Definition]) -> Result<()> {
    let (mut violations, mut seen) = (Violations::default(), HashSet::new());
    for (index, definition) in definitions.iter().enumerate() {
        let path = format!("definitions[{index}]");
        if definition.kind() != Kind::Tenant {
            return Err(Error::invalid(
                "TENANTS_APART",
                "tenants are applied by themselves, without other definitions",
            )
            .hint("apply them from a file of their own, with the key of a platform role"));
        }
        if !seen.insert(definition.name()) {
            violations.add(format!("{path}.metadata.name"), format!("tenant '{}' is defined twice", definition.name()));
        }
        check_metadata(&definition.metadata, &format!("{path}.metadata"), &mut violations);
    }
    if violations.is_empty() {
        return Ok(());
    }
    Err(Error::wrong_places("INVALID_DEFINITION", "the definitions have problems", violations.into_vec()))
}

fn place(state: &State, next: &mut State, definition: &Definition, stamp: &Stamp) -> Result<TenantChange> {
    let name = definition.name().clone();
    let changed = |action, details| TenantChange { name: name.clone(), action, details };
    let Some(old) = state.tenants.get(&name) else {
        if state.deleted_tenants.contains(&name) {
            let message = format!("there was a tenant '{name}', which was deleted: its name is not given again");
            return Err(Error::new(Code::FailedPrecondition, "TENANT_WAS_DELETED", message)
                .hint("choose another name: what the deleted tenant left, such as audit records and quotas, lies under this one")
                .with("tenant", name));
        }
        // As the first was made, but for its id.
        let mut first = State::first(name.clone(), stamp.now, &stamp.by);
        let made = first.tenants.remove(&name);
        let mut tenant = made.ok_or_else(|| Error::internal("a first state has its tenant"))?;
        tenant.id = TenantId(next.next_tenant);
        tenant.stored.definition = definition.clone();
        tenant.stored.revision = next.revision;
        next.next_tenant += 1;
        // Of no tenant of this name: so each thing that it says is told.
        let nobody = state.tenants.values().next().ok_or_else(|| Error::internal("there is no tenant"))?;
        let details = texts(details::lines(nobody, &tenant, Kind::Tenant, &name));
        next.tenants.insert(name.clone(), tenant);
        return Ok(changed(Change::Create, details));
    };
    if old.stored.definition == *definition {
        return Ok(changed(Change::Unchanged, Vec::new()));
    }
    let mut tenant = old.clone();
    tenant.stored.definition = definition.clone();
    tenant.stored.revision = next.revision;
    tenant.stored.updated = stamp.now;
    tenant.stored.updated_by.clone_from(&stamp.by);
    let details = texts(details::lines(old, &tenant, Kind::Tenant, &name));
    next.tenants.insert(name.clone(), tenant);
    Ok(changed(Change::Update, details))
}

fn texts(lines: Vec<details::Line>) -> Vec<String> {
    lines.into_iter().map(|line| line.text).collect()
}

/// Rows stay in history after their view was deleted, so a tenant goes only if it never had one.
fn check_unused(name: &Name, tenant: &TenantState) -> Result<()> {
    if name.as_str() == DEFAULT_TENANT {
        let message = format!("tenant '{name}' can't be deleted: it is the one that every server has");
        return Err(Error::new(Code::FailedPrecondition, "TENANT_IN_USE", message));
    }
    let definitions = tenant.definitions().map(|definition| (definition.kind(), definition.name().clone()));
    let mut held: Vec<String> = definitions.map(|(kind, name)| format!("{}/{name}", kind.as_str())).collect();
    held.extend(tenant.deleted_views.keys().map(|view| format!("rows of the deleted view {view}")));
    if held.is_empty() {
        return Ok(());
    }
    let shown = held.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = held.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Err(Error::new(Code::FailedPrecondition, "TENANT_IN_USE", format!("tenant '{name}' still has {shown}{more}"))
        .hint("its owners delete its definitions first; rows in history stay, and so does a tenant that has any")
        .with("tenant", name)
        .with("holds", shown))
}
