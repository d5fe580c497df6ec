//! The registry's past: recording each change before it is made, telling who made which, and going
//! back to one. A change that can't be recorded isn't made.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hydrant_storage::names::{Name, TenantId};
use hydrant_storage::order::Micros;

use super::definition::{Definition, Kind};
use super::details;
use super::plan::{self, Plan, Prune, Stamp};
use super::revisions::{Cause, Recorded, Revision, Revisions, What, changes_between};
use super::state::{State, TenantState};
use super::{Applied, Registry, Shared};
use crate::cluster::Versioned;
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, Permit};

pub const DEFAULT_PAGE_SIZE: u32 = 50;
/// A larger page size is read as this.
pub const MAX_PAGE_SIZE: u32 = 1_000;
const MAX_TOKEN_BYTES: usize = 64;

/// A revision as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldRevision {
    pub revision: u64,
    /// Store time.
    pub at: Micros,
    pub by: String,
    pub cause: Cause,
    pub changes: Vec<ToldChange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldChange {
    pub kind: Kind,
    pub name: Name,
    pub what: What,
    /// Of a service the version that became current.
    pub version: Option<u32>,
    /// One line for each thing that differs from before.
    pub details: Vec<String>,
}

/// A page of revisions, newest first.
#[derive(Clone, Debug)]
pub struct RevisionPage {
    pub revisions: Vec<ToldRevision>,
    /// Empty: there are no more.
    pub next_page_token: String,
    /// The oldest revision that can be gone back to.
    pub oldest: u64,
    /// The newest of the registry.
    pub current: u64,
}

/// What a change makes of a tenant.
pub(super) struct ToRecord {
    tenant: Name,
    old: Option<TenantState>,
    id: TenantId,
    revision: Revision,
}

/// Marks the tenants that a change is about with its revision, and tells what is to be recorded.
pub(super) fn mark(old: &State, new: &mut State, stamp: &Stamp) -> Vec<ToRecord> {
    let revision = new.revision;
    let mut records = Vec::new();
    for (name, tenant) in &mut new.tenants {
        let before = old.tenants.get(name);
        if before == Some(&*tenant) {
            continue;
        }
        tenant.revision = revision;
        let changes = changes_between(before, tenant);
        let (at, by) = (stamp.now, stamp.by.clone());
        let revision = Revision { revision, at, by, cause: stamp.cause, changes };
        // A refill that is done is no change of a definition.
        if revision.changes.is_empty() {
            continue;
        }
        records.push(ToRecord { tenant: name.clone(), old: before.cloned(), id: tenant.id, revision });
    }
    records
}

impl Shared {
    /// Makes a change's record durable. What is recorded here and then isn't made is dropped by the next
    /// record: the state tells which revision is a tenant's last.
    pub(super) async fn record(&self, records: Vec<ToRecord>) -> Result<()> {
        for ToRecord { tenant, old, id, revision } in records {
            let key = key(id);
            let found = self.store.get(&key).await?;
            let expected = found.as_ref().map_or(0, |found| found.version);
            let appended = move || -> Result<Bytes> {
                let mut revisions = match (found, &old) {
                    (Some(Versioned { value, .. }), Some(old)) => decoded(&tenant, &value)?.reconciled(old),
                    (None, Some(old)) => Revisions::begin(old),
                    (_, None) => Revisions::before_all(),
                };
                revisions.push(revision);
                Ok(Bytes::from(revisions.encode()))
            };
            let appended = tokio::task::spawn_blocking(appended).await;
            let value =
                appended.map_err(|failed| Error::internal(format!("recording a change failed: {failed}")))??;
            self.store.put_if_version(&key, value, expected).await?;
        }
        Ok(())
    }

    /// All that is recorded of a tenant, as it is stored, and the state.
    async fn stored_revisions(&self, tenant: &Name) -> Result<StoredRevisions> {
        // What is recorded after the state was loaded is later than the state says, and is left out.
        let state = self.state.load_full();
        let id = plan::tenant(&state, tenant)?.id;
        let value = self.store.get(&key(id)).await?.map(|found| found.value);
        Ok(StoredRevisions { tenant: tenant.clone(), value, state })
    }
}

/// Revisions that take a while to read.
struct StoredRevisions {
    tenant: Name,
    value: Option<Bytes>,
    state: Arc<State>,
}

impl StoredRevisions {
    fn read(&self) -> Result<Revisions> {
        let tenant = plan::tenant(&self.state, &self.tenant)?;
        match &self.value {
            Some(value) => Ok(decoded(&self.tenant, value)?.reconciled(tenant)),
            None => Ok(Revisions::begin(tenant)),
        }
    }
}

impl Registry {
    /// Who changed what and when, newest first: of all definitions, of those of a kind, or of one.
    pub async fn revisions(
        &self,
        permit: &Permit,
        of: (Option<Kind>, Option<&Name>),
        page_size: u32,
        page_token: &str,
    ) -> Result<RevisionPage> {
        permit.require(Action::ReadDefinitions)?;
        let before = if page_token.is_empty() { u64::MAX } else { decode(page_token)? };
        let size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size.min(MAX_PAGE_SIZE) } as usize;
        let stored = self.shared.stored_revisions(permit.tenant()).await?;
        let (kind, name) = (of.0, of.1.cloned());
        let work = move |_: &Self, _: &Permit| {
            let revisions = stored.read()?;
            let is_meant = |change: &Recorded| {
                kind.is_none_or(|kind| kind == change.kind) && name.as_ref().is_none_or(|name| *name == change.name)
            };
            Ok(page_of(&revisions, stored.state.revision, is_meant, before, size))
        };
        self.apart(permit, work).await
    }

    /// What going back to a revision would change.
    pub async fn plan_rollback(&self, permit: &Permit, to: u64, expected_revision: Option<u64>) -> Result<Plan> {
        permit.require(Action::ReadDefinitions)?;
        let definitions = self.definitions_at(permit, to).await?;
        super::check_revision(&self.shared.state.load(), expected_revision)?;
        self.plan_apart(permit, definitions, Prune::All).await
    }

    /// Makes the definitions of a revision those of a new one, under the rules of every change: what data
    /// or users don't allow is refused, and versions of services stay as they are and go on counting.
    pub async fn rollback(&self, permit: &Permit, to: u64, expected_revision: Option<u64>) -> Result<Applied> {
        permit.require(Action::ChangeDefinitions)?;
        let definitions = self.definitions_at(permit, to).await?;
        self.apply_for(permit, definitions, Prune::All, expected_revision, Cause::Rollback { to }).await
    }

    async fn definitions_at(&self, permit: &Permit, revision: u64) -> Result<Vec<Definition>> {
        let stored = self.shared.stored_revisions(permit.tenant()).await?;
        self.apart(permit, move |_, _| stored.read()?.gone_back_to(revision, stored.state.revision)).await
    }
}

impl Revisions {
    fn gone_back_to(&self, revision: u64, current: u64) -> Result<Vec<Definition>> {
        let oldest = self.oldest();
        if !(oldest..=current).contains(&revision) {
            let message = format!("there is no way back to revision {revision}");
            return Err(Error::not_found("REVISION_NOT_FOUND", message)
                .hint(format!(
                    "the registry is at revision {current}, and keeps what was defined since revision {oldest}; \
                     `hydrant history` lists the changes"
                ))
                .with("revision", revision)
                .with("oldest", oldest)
                .with("current", current));
        }
        Ok(self.definitions_at(revision).into_values().collect())
    }
}

/// The newest revisions before one, as far as they are meant.
fn page_of(
    revisions: &Revisions,
    current: u64,
    is_meant: impl Fn(&Recorded) -> bool,
    before: u64,
    size: usize,
) -> RevisionPage {
    let mut found: BTreeMap<u64, ToldRevision> = BTreeMap::new();
    let mut left_out = false;
    revisions.each_change(|revision, change, definition| {
        if revision.revision >= before || !is_meant(change) {
            return;
        }
        let told = found.entry(revision.revision).or_insert_with(|| ToldRevision {
            revision: revision.revision,
            at: revision.at,
            by: revision.by.clone(),
            cause: revision.cause,
            changes: Vec::new(),
        });
        told.changes.push(told_change(change, definition));
        if found.len() > size {
            found.pop_first();
            left_out = true;
        }
    });
    let next_page_token = match found.first_key_value() {
        Some((revision, _)) if left_out => encode(*revision),
        _ => String::new(),
    };
    let oldest = revisions.oldest();
    RevisionPage { revisions: found.into_values().rev().collect(), next_page_token, oldest, current }
}

fn told_change(change: &Recorded, before: Option<&Definition>) -> ToldChange {
    let details = match change.what {
        What::VersionDeleted(_) | What::VersionServed(_) | What::Deleted => Vec::new(),
        What::Created | What::Updated => details::lines_of(before, change.definition.as_ref()),
    };
    ToldChange {
        kind: change.kind,
        name: change.name.clone(),
        what: change.what,
        version: change.version,
        details: details.into_iter().map(|line| line.text).collect(),
    }
}

fn key(id: TenantId) -> String {
    format!("revisions_t{}", id.0)
}

fn decoded(tenant: &Name, value: &[u8]) -> Result<Revisions> {
    Revisions::decode(value).map_err(|detail| {
        let message = format!("the revisions of tenant '{tenant}' can't be read: {detail}");
        Error::new(Code::DataLoss, "REVISIONS_DAMAGED", message).hint(
            "restore the file of the revisions from a backup of this data directory; without one, move it away while \
             the server is stopped: what was defined before can't be gone back to then, and what is defined stays",
        )
    })
}

fn encode(revision: u64) -> String {
    URL_SAFE_NO_PAD.encode(format!("r/{revision}"))
}

fn decode(token: &str) -> Result<u64> {
    let decoded = if token.len() > MAX_TOKEN_BYTES { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let revision = text.and_then(|text| text.strip_prefix("r/")?.parse().ok());
    revision.ok_or_else(|| {
        Error::invalid("BAD_PAGE_TOKEN", "the page token is none of a listing of revisions")
            .hint("give back a token as it was answered, or none, to start anew")
    })
}
