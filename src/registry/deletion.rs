//! Takes a definition away, unless something downstream still needs it. The name can be used again
//! later: it then gets a new id and goes on counting versions, so that nothing stored under the old
//! one is ever taken for the new one's.

use hydrant_storage::names::Name;

use crate::error::{Code, Error, Result};

use super::definition::Kind;
use super::lineage;
use super::plan::tenant;
use super::state::State;

/// How many users a refusal lists.
const SHOWN_USERS: usize = 20;

/// The state without a definition.
pub(super) fn draft(state: &State, tenant_name: &Name, kind: Kind, name: &Name, etag: &str) -> Result<State> {
    let old = tenant(state, tenant_name)?;
    let stored = old.stored(kind, name).ok_or_else(|| not_found(kind, name))?;
    if kind == Kind::Tenant {
        return Err(Error::new(Code::FailedPrecondition, "TENANT_IN_USE", format!("tenant '{name}' can't be deleted")));
    }
    check_etag(kind, name, &stored.etag(), etag)?;
    let users = lineage::users_of(old, kind, name);
    if !users.is_empty() {
        let shown = users.iter().take(SHOWN_USERS).cloned().collect::<Vec<_>>().join(", ");
        let more = users.len().saturating_sub(SHOWN_USERS);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let message = format!("{} '{name}' is in use by {shown}{more}", kind.as_str());
        return Err(Error::new(Code::FailedPrecondition, "DEFINITION_IN_USE", message)
            .hint("delete what uses it first; every version of a service that is served counts")
            .with("kind", kind.as_str())
            .with("name", name)
            .with("used_by", shown));
    }
    let mut next = state.clone();
    next.revision += 1;
    let Some(new) = next.tenants.get_mut(tenant_name) else { return Err(not_found(kind, name)) };
    match kind {
        Kind::Tenant => {}
        Kind::Entity => drop(new.entities.remove(name)),
        Kind::Source => drop(new.sources.remove(name)),
        Kind::FeatureView => {
            if let Some(view) = new.views.remove(name) {
                new.deleted_views.insert(name.clone(), view.version);
            }
        }
        Kind::FeatureService => {
            if let Some(last) = new.services.remove(name).and_then(|service| service.versions.last().map(|v| v.number))
            {
                new.deleted_services.insert(name.clone(), last);
            }
        }
    }
    Ok(next)
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
