//! Shares: views and services that a tenant lets another one read. They are kept with the definitions of
//! their owner and are part of every snapshot, so that what is read is resolved as of one moment; when
//! they end is asked of the clock. They give reads and nothing else: nobody writes by a share.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hydrant_storage::names::{Name, SharedName, TenantId};
use hydrant_storage::order::Micros;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Registry;
use super::catalog::{Lookup, ServiceColumn, ServiceVersion, Snapshot, TenantCatalog, View};
use super::definition::Kind;
use super::deletion;
use super::state::{State, TenantState};
use crate::clock::{StoreTime, rfc3339};
use crate::error::{Code, Error, Result};
use crate::tenancy::{Action, Permit};

/// Shares of one owner, those that ended included.
pub const MAX_SHARES: usize = 1_000;
/// A withdrawal gives so much notice at most.
pub const LONGEST_NOTICE: Duration = Duration::from_hours(365 * 24);
pub const DEFAULT_PAGE_SIZE: u32 = 100;
/// A larger page size is read as this.
pub const MAX_PAGE_SIZE: u32 = 1_000;
const MAX_TOKEN_BYTES: usize = 256;
/// What has ended is listed for so long, and then forgotten when another is made.
const KEEP_ENDED: Micros = 90 * 86_400_000_000;

/// What is shared, by its owner's name for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Shared {
    View(Name),
    Service(Name),
}

/// One view or service that one tenant may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Share {
    /// Counts up within its owner, and is never given again.
    pub number: u32,
    pub of: Shared,
    pub to: Name,
    /// A tenant of the same name that is made later is another.
    pub to_id: TenantId,
    /// Training sets and reads of the past too.
    pub may_train: bool,
    /// What is personal is shown to those callers of the other tenant who have the grant.
    pub with_pii: bool,
    pub created: Micros,
    pub created_by: String,
    /// It holds before this instant; `None`: until it is withdrawn.
    pub ends: Option<Micros>,
    /// When it was withdrawn last, and by whom.
    pub withdrawn: Option<(Micros, String)>,
    /// Of its last change.
    pub revision: u64,
}

/// A share as the tenant knows it that it is to.
#[derive(Debug)]
pub(super) struct Given {
    pub owner: Name,
    pub share: Arc<Share>,
}

/// What tenants may read of others, by how they name it.
#[derive(Debug, Default)]
pub(super) struct Received {
    by_tenant: HashMap<TenantId, OfTenant>,
}

/// By whose clock shares end; without one there are none. It is no part of what is defined, and isn't shown
/// with it.
#[derive(Clone, Default)]
pub(super) struct EndsBy(pub Option<Arc<StoreTime>>);

impl fmt::Debug for EndsBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EndsBy")
    }
}

#[derive(Debug, Default)]
struct OfTenant {
    views: BTreeMap<SharedName, Arc<Given>>,
    services: BTreeMap<SharedName, Arc<Given>>,
}

/// A share that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewShare {
    pub of: Shared,
    pub to: Name,
    pub may_train: bool,
    pub with_pii: bool,
}

/// A share as it is told to either side.
#[derive(Clone, Debug)]
pub struct ToldShare {
    pub owner: Name,
    pub share: Arc<Share>,
    pub has_ended: bool,
    /// Of what it gives to read, as all that follows; empty where it has ended.
    pub description: String,
    /// The request columns that carry the keys, with their types. Of one that is told by itself, as columns.
    pub keys: Vec<(Name, String)>,
    pub columns: Vec<ToldColumn>,
    /// Of a service that are served, ascending; of a view its one.
    pub versions: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldColumn {
    /// As in answers to whom it is shared.
    pub name: String,
    pub data_type: String,
    /// The other tenant gets it masked, whoever asks.
    pub is_masked: bool,
    pub view: SharedName,
    /// The request columns that carry its keys.
    pub keys: Vec<Name>,
}

/// A page of shares, by owner and number.
#[derive(Clone, Debug)]
pub struct SharePage {
    pub shares: Vec<ToldShare>,
    /// Empty: there are no more.
    pub next_page_token: String,
}

impl Shared {
    pub fn kind(&self) -> Kind {
        match self {
            Self::View(_) => Kind::FeatureView,
            Self::Service(_) => Kind::FeatureService,
        }
    }

    pub fn name(&self) -> &Name {
        match self {
            Self::View(name) | Self::Service(name) => name,
        }
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind().as_str(), self.name())
    }
}

impl Share {
    /// Whether it still holds.
    pub fn stands(&self, now: Micros) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }

    /// Differs for every change of every share of an owner.
    pub fn etag(&self) -> String {
        format!("{:016x}", xxh3_64(format!("share/{}/{}", self.number, self.revision).as_bytes()))
    }

    /// Whom a change hurts, for people: `tenant acme, until 2026-12-01T00:00:00Z`.
    pub fn receiver(&self) -> String {
        match self.ends {
            None => format!("tenant {}", self.to),
            Some(ends) => format!("tenant {}, until {}", self.to, rfc3339(ends)),
        }
    }
}

impl Received {
    /// Of each thing the share that holds longest.
    pub fn of(tenants: &BTreeMap<Name, Arc<TenantCatalog>>) -> Self {
        let mut received = Self::default();
        for (owner, catalog) in tenants {
            for share in catalog.shares.values() {
                let of_tenant = received.by_tenant.entry(share.to_id).or_default();
                let by_name = match share.of {
                    Shared::View(_) => &mut of_tenant.views,
                    Shared::Service(_) => &mut of_tenant.services,
                };
                let given = || Arc::new(Given { owner: owner.clone(), share: share.clone() });
                let known = by_name.entry(SharedName::new(owner, share.of.name())).or_insert_with(given);
                let end = |share: &Share| share.ends.unwrap_or(Micros::MAX);
                if end(&known.share) < end(share) {
                    *known = given();
                }
            }
        }
        received
    }

    pub fn view(&self, tenant: TenantId, name: &str, now: Micros) -> Option<&Arc<Given>> {
        self.by_tenant.get(&tenant)?.views.get(name).filter(|given| given.share.stands(now))
    }

    pub fn service(&self, tenant: TenantId, name: &str, now: Micros) -> Option<&Arc<Given>> {
        self.by_tenant.get(&tenant)?.services.get(name).filter(|given| given.share.stands(now))
    }

    /// Everything that a tenant may read of others.
    pub fn all(&self, tenant: TenantId, now: Micros) -> impl Iterator<Item = &Arc<Given>> {
        let of_tenant = self.by_tenant.get(&tenant).into_iter();
        let all = of_tenant.flat_map(|of_tenant| of_tenant.views.values().chain(of_tenant.services.values()));
        all.filter(move |given| given.share.stands(now))
    }
}

impl TenantState {
    /// The shares of a definition that hold, as a refusal shows them.
    pub(super) fn shares_of(&self, kind: Kind, name: &Name, now: Micros) -> Vec<String> {
        let of_it = self.shares.values().filter(|share| share.of.kind() == kind && share.of.name() == name);
        of_it
            .filter(|share| share.stands(now))
            .map(|share| format!("Share/{} ({})", share.number, share.receiver()))
            .collect()
    }
}

impl Registry {
    /// Shares a view or service with another tenant. NOT_FOUND where there is no such thing or tenant,
    /// ALREADY_EXISTS where it is shared with that tenant already, PERMISSION_DENIED for `with_pii` by who
    /// may not see what is personal. With `validate_only` nothing is changed, and what would be is told.
    pub async fn create_share(&self, permit: &Permit, new: NewShare, validate_only: bool) -> Result<ToldShare> {
        if new.with_pii && !permit.may_see_pii() {
            let message = "you would share what is personal (pii), which you may not see yourself";
            return Err(Error::new(Code::PermissionDenied, "PII_NOT_GRANTED", message)
                .hint("share it masked, or ask somebody with the grant to share it"));
        }
        let owner = permit.tenant().clone();
        self.change_share(permit, validate_only, move |next, now, by| {
            let revision = next.revision;
            let receiver = next.tenants.get(&new.to).map(|tenant| tenant.id);
            let to_id = receiver.ok_or_else(|| {
                let message = format!("there is no tenant '{}' to share with", new.to);
                Error::not_found("TENANT_NOT_FOUND", message).with("tenant", &new.to)
            })?;
            let tenant = own(next, &owner)?;
            if tenant.id == to_id {
                return Err(Error::invalid("BAD_SHARE", "a tenant reads what is its own without a share"));
            }
            tenant
                .stored(new.of.kind(), new.of.name())
                .ok_or_else(|| deletion::not_found(new.of.kind(), new.of.name()))?;
            tenant.shares.retain(|_, share| share.ends.is_none_or(|ends| now.saturating_sub(ends) < KEEP_ENDED));
            let same = |share: &&Share| share.of == new.of && share.to_id == to_id && share.stands(now);
            if let Some(known) = tenant.shares.values().find(same) {
                let message =
                    format!("{} is shared with tenant '{}' already, by share {}", new.of, new.to, known.number);
                return Err(Error::new(Code::AlreadyExists, "SHARE_EXISTS", message)
                    .hint("withdraw that one first, to give other rights")
                    .with("share", known.number));
            }
            if tenant.shares.len() >= MAX_SHARES {
                let message = format!("tenant '{owner}' has {MAX_SHARES} shares, as many as may be");
                return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_SHARES", message)
                    .hint("share a service in place of many views; what has ended is forgotten after 90 days"));
            }
            tenant.last_share += 1;
            let share = Share {
                number: tenant.last_share,
                of: new.of,
                to: new.to,
                to_id,
                may_train: new.may_train,
                with_pii: new.with_pii,
                created: now,
                created_by: by.to_owned(),
                ends: None,
                withdrawn: None,
                revision,
            };
            tenant.shares.insert(share.number, share.clone());
            Ok(share)
        })
        .await
    }

    /// Ends a share once so much time has passed; without notice it ends before this returns. Said again,
    /// the last end holds. NOT_FOUND where there is no such share, FAILED_PRECONDITION where it has ended,
    /// ABORTED with an etag where it was changed since.
    pub async fn withdraw_share(
        &self,
        permit: &Permit,
        number: u32,
        notice: Duration,
        etag: String,
        validate_only: bool,
    ) -> Result<ToldShare> {
        if notice > LONGEST_NOTICE {
            let message = format!("a notice is {} days at most", LONGEST_NOTICE.as_secs() / 86_400);
            return Err(Error::invalid("BAD_SHARE", message));
        }
        let (owner, notice) = (permit.tenant().clone(), Micros::try_from(notice.as_micros()).unwrap_or(Micros::MAX));
        self.change_share(permit, validate_only, move |next, now, by| {
            let revision = next.revision;
            let share = own(next, &owner)?.shares.get_mut(&number).ok_or_else(|| unknown(&owner, number))?;
            if !etag.is_empty() && etag != share.etag() {
                let message = format!("share {number} was changed since it was read");
                return Err(Error::new(Code::Aborted, "ETAG_MISMATCH", message)
                    .hint("read it again, then retry with its etag")
                    .with("etag", share.etag()));
            }
            if !share.stands(now) {
                let message = format!("share {number} has ended already");
                return Err(Error::new(Code::FailedPrecondition, "SHARE_ENDED", message)
                    .hint("to share it again, make another (hydrant share create)"));
            }
            share.ends = Some(now.saturating_add(notice));
            share.withdrawn = Some((now, by.to_owned()));
            share.revision = revision;
            Ok(share.clone())
        })
        .await
    }

    /// A share, for its owner and for whom it is to. NOT_FOUND for everybody else.
    pub fn share(&self, permit: &Permit, owner: &Name, number: u32) -> Result<ToldShare> {
        permit.require(Action::ReadDefinitions)?;
        let snapshot = self.snapshot();
        let own_id = snapshot.tenant(permit.tenant())?.id;
        let found = snapshot.tenants.get(owner).and_then(|catalog| Some((catalog, catalog.shares.get(&number)?)));
        let known = found.filter(|(catalog, share)| catalog.id == own_id || share.to_id == own_id);
        let (catalog, share) = known.ok_or_else(|| unknown(owner, number))?;
        Ok(told(catalog, share, self.shared.time.read()))
    }

    /// The refusal of a share that is nobody's, or another one's.
    pub fn unknown_share(&self, owner: &Name, number: u32) -> Error {
        unknown(owner, number)
    }

    /// A page of the shares that the tenant has given, or of those that others gave to it; those that ended
    /// lately among them.
    pub fn shares(&self, permit: &Permit, is_received: bool, page_size: u32, page_token: &str) -> Result<SharePage> {
        permit.require(Action::ReadDefinitions)?;
        let after = if page_token.is_empty() { None } else { Some(decode_token(page_token)?) };
        let size = if page_size == 0 { DEFAULT_PAGE_SIZE } else { page_size.min(MAX_PAGE_SIZE) } as usize;
        let (snapshot, now) = (self.snapshot(), self.shared.time.read());
        let own_id = snapshot.tenant(permit.tenant())?.id;
        let of_owner = |(owner, catalog): (&'_ Name, &Arc<TenantCatalog>)| {
            let shares = catalog.shares.values();
            let listed = shares.filter(|share| if is_received { share.to_id == own_id } else { catalog.id == own_id });
            let listed =
                listed.filter(|share| after.as_ref().is_none_or(|after| (owner, share.number) > (&after.0, after.1)));
            listed.map(|share| in_short(catalog, share, now)).take(size + 1).collect::<Vec<_>>()
        };
        let mut shares: Vec<ToldShare> = Vec::new();
        for tenant in &snapshot.tenants {
            if shares.len() > size {
                break;
            }
            shares.extend(of_owner(tenant));
        }
        let has_more = shares.len() > size;
        shares.truncate(size);
        let next_page_token = match shares.last() {
            Some(last) if has_more => URL_SAFE_NO_PAD.encode(format!("h/{}/{}", last.owner, last.share.number)),
            _ => String::new(),
        };
        Ok(SharePage { shares, next_page_token })
    }

    /// Drafts a share and makes it, or only tells what it would be.
    async fn change_share(
        &self,
        permit: &Permit,
        validate_only: bool,
        edit: impl FnOnce(&mut State, Micros, &str) -> Result<Share> + Send + 'static,
    ) -> Result<ToldShare> {
        let owner = permit.tenant().clone();
        let change = move |state: &State, stamp: &super::plan::Stamp| {
            let mut next = state.clone();
            next.revision += 1;
            let share = edit(&mut next, stamp.now, &stamp.by)?;
            Ok((share, (!validate_only).then_some(next)))
        };
        let (share, snapshot) = self.change(permit, change).await?;
        Ok(told(snapshot.tenant(&owner)?, &Arc::new(share), self.shared.time.read()))
    }
}

/// The shares of others to a tenant that is deleted end with it.
pub(super) fn end_with(next: &mut State, receiver: TenantId, now: Micros, by: &str) {
    let revision = next.revision;
    let shares = next.tenants.values_mut().flat_map(|tenant| tenant.shares.values_mut());
    for share in shares.filter(|share| share.to_id == receiver && share.stands(now)) {
        share.ends = Some(now);
        share.withdrawn = Some((now, by.to_owned()));
        share.revision = revision;
    }
}

fn own<'a>(state: &'a mut State, owner: &Name) -> Result<&'a mut TenantState> {
    state.tenants.get_mut(owner).ok_or_else(|| {
        Error::not_found("TENANT_NOT_FOUND", format!("there is no tenant '{owner}'")).with("tenant", owner)
    })
}

/// Without keys and columns.
fn in_short(catalog: &TenantCatalog, share: &Arc<Share>, now: Micros) -> ToldShare {
    let has_ended = !share.stands(now);
    // What it was of may be something else by now.
    let (applied, versions) = match &share.of {
        _ if has_ended => (None, Vec::new()),
        Shared::View(name) => {
            let view = catalog.views.get(name);
            (view.map(|view| &view.applied), view.map(|view| view.version).into_iter().collect())
        }
        Shared::Service(name) => {
            let service = catalog.services.get(name);
            let versions = service.into_iter().flat_map(|service| &service.versions);
            (service.map(|service| &service.applied), versions.map(|version| version.number).collect())
        }
    };
    let description = applied.map(|applied| applied.definition.metadata.description.clone()).unwrap_or_default();
    let (owner, share) = (catalog.name.clone(), share.clone());
    ToldShare { owner, share, has_ended, description, keys: Vec::new(), columns: Vec::new(), versions }
}

fn told(catalog: &TenantCatalog, share: &Arc<Share>, now: Micros) -> ToldShare {
    let mut told = in_short(catalog, share, now);
    if told.has_ended {
        return told;
    }
    match &share.of {
        Shared::View(name) => {
            let Some(view) = catalog.views.get(name) else { return told };
            told.keys = view.join_keys.iter().map(|key| (key.name.clone(), key.key_type.as_str().to_owned())).collect();
            let column = |(index, feature): (usize, &super::catalog::Feature)| ToldColumn {
                name: column_name(&catalog.name, &format!("{name}__{}", feature.name)),
                data_type: feature.data_type.to_string(),
                is_masked: !share.with_pii && view.is_pii(index),
                view: SharedName::new(&catalog.name, name),
                keys: view.join_keys.iter().map(|key| key.name.clone()).collect(),
            };
            told.columns = view.features.iter().enumerate().map(column).collect();
        }
        Shared::Service(name) => {
            let current = catalog.services.get(name).and_then(|service| service.versions.last());
            let Some(current) = current else { return told };
            told.keys = keys_of(current);
            let column = |column: &ServiceColumn| {
                let Lookup { view, keys, .. } = &current.lookups[column.lookup];
                ToldColumn {
                    name: column_name(&catalog.name, &column.name),
                    data_type: column.data_type.to_string(),
                    is_masked: !share.with_pii && view.is_pii(column.feature),
                    view: SharedName::new(&catalog.name, &view.name),
                    keys: keys.clone(),
                }
            };
            told.columns = current.columns.iter().map(column).collect();
        }
    }
    told
}

fn keys_of(version: &ServiceVersion) -> Vec<(Name, String)> {
    let of_lookup = |lookup: &Lookup| {
        let types = lookup.view.join_keys.iter().map(|key| key.key_type.as_str().to_owned());
        lookup.keys.iter().cloned().zip(types).collect::<Vec<_>>()
    };
    version.lookups.iter().flat_map(of_lookup).collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// How a column is called by whom it is shared with: names have no `__`, so none of their own is called so.
pub(super) fn column_name(owner: &Name, name: &str) -> String {
    format!("{owner}__{name}")
}

fn unknown(owner: &Name, number: u32) -> Error {
    Error::not_found("SHARE_NOT_FOUND", format!("there is no share {number} of tenant '{owner}'"))
        .hint("`hydrant share list` shows those that you gave, and with --with-me those that you were given")
        .with("share", number)
}

fn decode_token(token: &str) -> Result<(Name, u32)> {
    let decoded = if token.len() > MAX_TOKEN_BYTES { None } else { URL_SAFE_NO_PAD.decode(token).ok() };
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let last = text.and_then(|text| {
        let (owner, number) = text.strip_prefix("h/")?.split_once('/')?;
        Some((owner.parse().ok()?, number.parse().ok()?))
    });
    last.ok_or_else(|| {
        Error::invalid("BAD_PAGE_TOKEN", "the page token is none of a listing of shares")
            .hint("give back a token as it was answered, for the same listing; or none, to start anew")
    })
}

impl Snapshot {
    /// What another tenant shares with this one that has a view.
    pub(super) fn shared_view(&self, tenant: &TenantCatalog, name: &str) -> Option<(&Arc<Given>, &Arc<View>)> {
        let given = self.received.view(tenant.id, name, self.now()?)?;
        let owner = self.tenants.get(&given.owner)?;
        Some((given, owner.views.get(given.share.of.name())?))
    }

    /// Likewise a service, with its owner.
    pub(super) fn shared_service(&self, tenant: &TenantCatalog, name: &str) -> Option<(&Arc<Given>, &TenantCatalog)> {
        let given = self.received.service(tenant.id, name, self.now()?)?;
        Some((given, self.tenants.get(&given.owner)?))
    }

    /// Everything that others share with a tenant now.
    pub(super) fn shared_with(&self, tenant: &TenantCatalog) -> Vec<Arc<Given>> {
        self.now().map(|now| self.received.all(tenant.id, now).cloned().collect()).unwrap_or_default()
    }
}
