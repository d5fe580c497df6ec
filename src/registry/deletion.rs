//! Takes a definition away, unless something downstream still needs it. The name can be used again
//! later: it then gets a new id and goes on counting versions, so that nothing stored under the old
//! one is ever taken for the new one's.

use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use crate::error::{Code, Error, Result};

use super::definition::Kind;
use super::plan::{Stamp, tenant};
use super::state::{State, TenantState};
use super::uses::{TRAINING_SET, Uses};
use super::{dropped, lineage};

/// How many users a refusal lists.
const SHOWN_USERS: usize = 20;

/// The hint of refusals because of use, whatever is in use.
pub(super) const IN_USE_WAY_OUT: &str = "delete what uses it first; of a service every version counts (`hydrant delete service NAME@N` deletes one), so do \
     saved training sets (`hydrant training-set delete NAME@N`), shares (`hydrant share withdraw NUMBER`), and consumers, whose owners are named";

/// The same of one definition, by what can use it.
fn way_out(kind: Kind) -> &'static str {
    match kind {
        Kind::Entity | Kind::Source => "delete the views that are named, or have them made of something else, first",
        Kind::FeatureView => {
            "delete what uses it first: of a service every version counts (`hydrant delete service NAME@N` deletes one), so \
             do shares (`hydrant share withdraw NUMBER`), and consumers, whose owners are named"
        }
        Kind::FeatureService => {
            "delete what uses it first: saved training sets (`hydrant training-set delete NAME@N`), shares (`hydrant share \
             withdraw NUMBER`), and consumers, whose owners are named"
        }
        Kind::Consumer | Kind::Tenant => IN_USE_WAY_OUT,
    }
}

/// How many versions a refusal lists.
const SHOWN_VERSIONS: usize = 20;

/// The state without a definition.
pub(super) fn draft(
    state: &State,
    tenant_name: &Name,
    (kind, name): (Kind, &Name),
    etag: &str,
    stamp: &Stamp,
    uses: &Uses,
) -> Result<State> {
    let old = tenant(state, tenant_name)?;
    let stored = old.stored(kind, name).ok_or_else(|| not_found(kind, name))?;
    if kind == Kind::Tenant {
        return Err(Error::new(Code::FailedPrecondition, "TENANT_IN_USE", format!("tenant '{name}' can't be deleted")));
    }
    check_etag(kind, name, &stored.etag(), etag)?;
    let users = users_of(old, tenant_name, (kind, name), uses, stamp.now);
    if !users.is_empty() {
        return Err(in_use(kind, name.as_str(), &users));
    }
    let mut next = state.clone();
    next.revision += 1;
    let Some(new) = next.tenants.get_mut(tenant_name) else { return Err(not_found(kind, name)) };
    remove(new, kind, name);
    dropped::note(old, new)?;
    Ok(next)
}

/// Who uses a definition: other definitions, tenants that it is shared with, and of a service saved
/// training sets.
pub(super) fn users_of(
    tenant: &TenantState,
    tenant_name: &Name,
    (kind, name): (Kind, &Name),
    uses: &Uses,
    now: Micros,
) -> Vec<String> {
    let mut users = lineage::users_of(tenant, kind, name);
    if kind == Kind::FeatureService {
        users.extend(training_sets(uses, tenant_name, name, None));
    }
    users.extend(tenant.shares_of(kind, name, now));
    users
}

/// Takes a definition out of a tenant, and remembers the last version under its name.
pub(super) fn remove(tenant: &mut TenantState, kind: Kind, name: &Name) {
    match kind {
        Kind::Tenant => {}
        Kind::Entity => drop(tenant.entities.remove(name)),
        Kind::Source => drop(tenant.sources.remove(name)),
        Kind::FeatureView => {
            if let Some(view) = tenant.views.remove(name) {
                tenant.deleted_views.insert(name.clone(), view.highest());
            }
        }
        Kind::FeatureService => {
            let last = tenant.services.remove(name).and_then(|service| service.versions.last().map(|v| v.number));
            if let Some(last) = last {
                tenant.deleted_services.insert(name.clone(), last);
            }
        }
        Kind::Consumer => drop(tenant.consumers.remove(name)),
    }
}

/// The state without one version of a service, which then can't be asked for any more. Its number is
/// not given again. The current version goes only with the service.
pub(super) fn draft_version(
    state: &State,
    tenant_name: &Name,
    (service, number): (&Name, u32),
    etag: &str,
    stamp: &Stamp,
    uses: &Uses,
) -> Result<State> {
    let kind = Kind::FeatureService;
    let mut held_by = lineage::consumers_of_version(tenant(state, tenant_name)?, service, number);
    // Whom it is shared with may read by any version.
    held_by.extend(tenant(state, tenant_name)?.shares_of(kind, service, stamp.now));
    let mut next = state.clone();
    next.revision += 1;
    let found = next.tenants.get_mut(tenant_name).and_then(|tenant| tenant.services.get_mut(service));
    let found = found.ok_or_else(|| not_found(kind, service))?;
    check_etag(kind, service, &found.stored.etag(), etag)?;
    let current = found.current().map_or(0, |current| current.number);
    let Some(index) = found.versions.iter().position(|version| version.number == number) else {
        let numbers: Vec<u32> = found.versions.iter().map(|version| version.number).collect();
        return Err(version_not_found(service, number, &numbers));
    };
    if number == current {
        let message = format!("version {number} of feature service '{service}' is its current one");
        return Err(Error::new(Code::FailedPrecondition, "VERSION_IS_CURRENT", message)
            .hint("apply the service with what its models need now, which makes another version current, or delete the service as a whole")
            .with("service", service)
            .with("version", number));
    }
    let mut users = training_sets(uses, tenant_name, service, Some(number));
    users.extend(held_by);
    if !users.is_empty() {
        return Err(in_use(kind, &format!("{service}@{number}"), &users));
    }
    found.versions.remove(index);
    found.stored.revision = next.revision;
    found.stored.updated = stamp.now;
    found.stored.updated_by.clone_from(&stamp.by);
    Ok(next)
}

/// The state without a version of a view that was kept after another had taken its place. Its rows are reached
/// no more, and its number is not given again.
pub(super) fn draft_view_version(
    state: &State,
    tenant_name: &Name,
    (view, number): (&Name, u32),
    etag: &str,
) -> Result<State> {
    let kind = Kind::FeatureView;
    let old = tenant(state, tenant_name)?;
    let found = old.views.get(view).ok_or_else(|| not_found(kind, view))?;
    check_etag(kind, view, &found.newest().stored.etag(), etag)?;
    let Some(version) = found.all().find(|version| version.version == number) else {
        let numbers: Vec<u32> = found.all().map(|version| version.version).collect();
        return Err(view_version_not_found(view, number, &numbers));
    };
    if !found.older.iter().any(|older| older.id == version.id) {
        let what = if version.id == found.id { "is the one that is served" } else { "is being built" };
        let message = format!("version {number} of feature view '{view}' {what}");
        return Err(Error::new(Code::FailedPrecondition, "VERSION_IS_CURRENT", message)
            .hint("apply the definition of another version, which takes its place, or delete the view as a whole")
            .with("view", view)
            .with("version", number));
    }
    let mut users: Vec<String> = Vec::new();
    for (name, service) in &old.services {
        let frozen =
            service.versions.iter().filter(|frozen| frozen.lookups.iter().any(|lookup| lookup.view_id == version.id));
        users.extend(frozen.map(|frozen| format!("{}/{name}@{}", Kind::FeatureService.as_str(), frozen.number)));
    }
    if let Some(next) = found.next.as_ref().filter(|next| next.from == version.id) {
        users.push(format!("{}/{view}@{}, which is built from it", kind.as_str(), next.view.version));
    }
    if !users.is_empty() {
        return Err(in_use(kind, &format!("{view}@{number}"), &users));
    }
    let mut next = state.clone();
    next.revision += 1;
    let Some(new) = next.tenants.get_mut(tenant_name) else { return Err(not_found(kind, view)) };
    let Some(found) = new.views.get_mut(view) else { return Err(not_found(kind, view)) };
    found.highest = found.highest();
    found.older.retain(|older| older.version != number);
    dropped::note(old, new)?;
    Ok(next)
}

/// `numbers` are the versions that are there.
pub(super) fn view_version_not_found(view: &Name, number: u32, numbers: &[u32]) -> Error {
    let shown: Vec<String> = numbers.iter().take(SHOWN_VERSIONS).map(ToString::to_string).collect();
    Error::not_found("VIEW_VERSION_NOT_FOUND", format!("feature view '{view}' has no version {number}"))
        .hint(format!("the versions that are there: {}", shown.join(", ")))
        .with("view", view)
        .with("version", number)
}

fn training_sets(uses: &Uses, tenant: &Name, service: &Name, number: Option<u32>) -> Vec<String> {
    let users = uses.of_service(tenant, service, number);
    users.into_iter().map(|(_, training_set)| format!("{TRAINING_SET}/{training_set}")).collect()
}

fn in_use(kind: Kind, name: &str, users: &[String]) -> Error {
    Error::new(Code::FailedPrecondition, "DEFINITION_IN_USE", in_use_text(kind, name, users))
        .hint(way_out(kind))
        .with("kind", kind.as_str())
        .with("name", name)
        .with("used_by", users.iter().take(SHOWN_USERS).cloned().collect::<Vec<_>>().join(", "))
}

/// Which definition is in use, and by whom.
pub(super) fn in_use_text(kind: Kind, name: &str, users: &[String]) -> String {
    let shown = users.iter().take(SHOWN_USERS).cloned().collect::<Vec<_>>().join(", ");
    let more = users.len().saturating_sub(SHOWN_USERS);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{} '{name}' is in use by {shown}{more}", kind.as_str())
}

/// Refuses (ABORTED) if the definition isn't the one that the caller has seen; an empty etag is
/// whatever is there.
pub(super) fn check_etag(kind: Kind, name: &Name, current: &str, given: &str) -> Result<()> {
    if given.is_empty() || given == current {
        return Ok(());
    }
    let message = format!("{} '{name}' was changed since it was read", kind.as_str());
    Err(Error::new(Code::Aborted, "ETAG_MISMATCH", message)
        .hint("read it again, then retry with its etag")
        .with("kind", kind.as_str())
        .with("name", name)
        .with("etag", current))
}

pub(super) fn not_found(kind: Kind, name: &Name) -> Error {
    Error::not_found("DEFINITION_NOT_FOUND", format!("there is no {} '{name}'", kind.as_str()))
        .with("kind", kind.as_str())
        .with("name", name)
}

/// `numbers` are the versions that are there.
pub(super) fn version_not_found(service: &Name, number: u32, numbers: &[u32]) -> Error {
    let current = numbers.last().copied().unwrap_or_default();
    let message = format!("feature service '{service}' has no version {number}; its current one is {current}");
    let shown: Vec<String> = numbers.iter().rev().take(SHOWN_VERSIONS).map(ToString::to_string).collect();
    Error::not_found("SERVICE_VERSION_NOT_FOUND", message)
        .hint(format!("the versions that are served: {}", shown.join(", ")))
        .with("service", service)
        .with("version", number)
        .with("current", current)
}
