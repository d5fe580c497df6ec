//! API keys: made, shown once, listed, rotated, revoked, and recognized by what a caller sends. Every
//! request is recognized by one look into an immutable snapshot, without a lock; changes are persisted
//! first. It never keeps a secret, and never decides what a role allows: that is tenancy's. Beside keys,
//! tokens of issuers elsewhere ([`oidc`]).

mod callers;
pub mod oidc;
mod records;
mod token;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use hydrant_storage::names::{Name, SharedName, TenantId};
use hydrant_storage::order::Micros;
use tokio::sync::Mutex;

use crate::clock::StoreTime;
use crate::cluster::{MetadataStore, Versioned};
use crate::error::{Code, Error, Result};
use crate::registry::SnapshotReader;
use crate::tenancy::identity::name_of_key;
use crate::tenancy::{ASK_FOR_KEY, Action, Authenticates, Credential, DEFAULT_TENANT, Identity, Permit, Role, Roles};

use self::records::{KeyRecord, Records, Uses};
use self::token::SecretHash;

pub use self::callers::Callers;
pub use self::token::{KeyId, PREFIX, Token};

/// Under which keys are kept.
const KEYS: &str = "api_keys";
/// Under which it is kept when they were used.
const USES: &str = "api_key_uses";

/// Keys of one tenant, those revoked and expired included.
pub const MAX_KEYS: usize = 1_000;
/// A name in a key's list is one of so many at most.
pub const MAX_NAMES: usize = 100;
pub const MAX_DESCRIPTION: usize = 500;
/// The secret before a rotation holds on for so long at most.
pub const MAX_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// Of a key that expires at all.
const LONGEST_LIFE: Duration = Duration::from_hours(10 * 366 * 24);

/// A use is noted when the one before it is so long ago.
const USE_STEP: Micros = 60_000_000;
/// What was revoked or has expired is listed for so long, and then forgotten when room is needed.
const KEEP_DEAD: Micros = 90 * 86_400_000_000;

/// The API keys of a server. Clones are the same.
#[derive(Clone, Debug)]
pub struct Access {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn MetadataStore>,
    snapshots: SnapshotReader,
    time: Arc<StoreTime>,
    keys: ArcSwap<Keys>,
    writer: Mutex<Writer>,
}

/// The versions of what is persisted.
#[derive(Debug)]
struct Writer {
    keys: u64,
    uses: u64,
    persisted_uses: Uses,
}

/// What is read by every request.
#[derive(Debug, Default)]
struct Keys {
    records: Records,
    entries: HashMap<KeyId, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    tenant_id: TenantId,
    hash: SecretHash,
    previous: Option<(SecretHash, Micros)>,
    expires: Option<Micros>,
    is_revoked: bool,
    identity: Identity,
    last_used: Arc<AtomicI64>,
}

/// A key that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// `None`: the caller's.
    pub tenant: Option<Name>,
    pub roles: Roles,
    /// All four empty: not limited.
    pub views: Vec<Name>,
    pub services: Vec<Name>,
    /// Of other tenants, where they share them.
    pub shared_views: Vec<SharedName>,
    pub shared_services: Vec<SharedName>,
    pub description: String,
    /// From now on; `None`: it doesn't expire.
    pub expires_after: Option<Duration>,
}

/// A key as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    pub tenant: Name,
    pub roles: Roles,
    pub views: Vec<Name>,
    pub services: Vec<Name>,
    pub shared_views: Vec<SharedName>,
    pub shared_services: Vec<SharedName>,
    pub description: String,
    pub created: Micros,
    pub created_by: String,
    pub expires: Option<Micros>,
    pub revoked: Option<Micros>,
    /// Until when the secret before the last rotation holds.
    pub previous_until: Option<Micros>,
    /// To a minute or so.
    pub last_used: Option<Micros>,
}

impl Access {
    /// Reads the keys that are kept. DATA_LOSS where they can't be read.
    pub async fn open(store: Arc<dyn MetadataStore>, snapshots: SnapshotReader, time: Arc<StoreTime>) -> Result<Self> {
        let (records, keys_version) = match store.get(KEYS).await? {
            Some(Versioned { value, version }) => (Records::decode(&value).map_err(damaged)?, version),
            None => (Records::default(), 0),
        };
        let (uses, uses_version) = match store.get(USES).await? {
            Some(Versioned { value, version }) => (Uses::decode(&value).map_err(damaged)?, version),
            None => (Uses::default(), 0),
        };
        let keys = Keys::new(records, &Keys::default(), &uses, &time).map_err(damaged)?;
        let writer = Writer { keys: keys_version, uses: uses_version, persisted_uses: uses };
        let inner = Inner { store, snapshots, time, keys: ArcSwap::from_pointee(keys), writer: Mutex::new(writer) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where there is no key at all: makes one with the roles platform and admin in the tenant `default`,
    /// and writes it into a file that only the server's user can read. Whether it did.
    pub async fn make_first(&self, path: &Path) -> Result<bool> {
        if !self.inner.keys.load().records.keys.is_empty() {
            return Ok(false);
        }
        let token = Token::random()?;
        let (path, text) = (path.to_owned(), token.reveal());
        let shown = path.display().to_string();
        // The file first: a key that nobody has would keep everybody out.
        let written = tokio::task::spawn_blocking(move || write_secret(&path, &text)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| {
            Error::new(Code::Unavailable, "FIRST_KEY_UNWRITTEN", format!("{shown} can't be written: {error}"))
        })?;
        let tenant: Name = DEFAULT_TENANT.parse().map_err(|error| Error::internal(format!("{error}")))?;
        let tenant_id = self.inner.tenant_id(&tenant)?;
        let record = KeyRecord {
            tenant,
            tenant_id,
            roles: [Role::Admin, Role::Platform].map(|role| role.as_str().to_owned()).to_vec(),
            views: Vec::new(),
            services: Vec::new(),
            shared_views: Vec::new(),
            shared_services: Vec::new(),
            description: "made at the first start: make others with it, then revoke it".to_owned(),
            created: self.inner.time.read(),
            created_by: "first start".to_owned(),
            expires: None,
            revoked: None,
            hash: hex(&token.hash()),
            previous: None,
        };
        let id = token.id;
        self.change(move |records, _| {
            records.keys.insert(id, record);
            Ok(())
        })
        .await?;
        Ok(true)
    }

    /// Makes a key, which is shown by its answer and never again. The permit is to manage keys, or tenants:
    /// the platform gives keys with the role platform, and a tenant its first admin.
    pub async fn create(&self, permit: &Permit, new: NewKey) -> Result<(ApiKey, Token)> {
        require_manager(permit)?;
        let tenant = new.tenant.clone().unwrap_or_else(|| permit.tenant().clone());
        let is_own = &tenant == permit.tenant();
        let is_platform = new.roles.contains(Role::Platform);
        let by_tenant = is_own && !is_platform && permit.identity().may(Action::ManageKeys);
        if !by_tenant {
            permit.require_identity(Action::ManageTenants)?;
        }
        check_new(&new)?;
        let (created, created_by) = (self.inner.time.read(), permit.caller().to_owned());
        let expires = new.expires_after.map(|after| created.saturating_add(micros(after)));
        let tenant_id = self.inner.tenant_id(&tenant)?;
        let token = Token::random()?;
        let record = KeyRecord {
            tenant: tenant.clone(),
            tenant_id,
            roles: new.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            views: new.views,
            services: new.services,
            shared_views: new.shared_views,
            shared_services: new.shared_services,
            description: new.description,
            created,
            created_by,
            expires,
            revoked: None,
            hash: hex(&token.hash()),
            previous: None,
        };
        let (id, made, roles) = (token.id, record.clone(), new.roles);
        // Where nobody is asked for a key: whoever can start the server so has its disk anyway.
        let is_operator = permit.identity().is_loopback();
        self.change(move |records, now| {
            let of_tenant = |record: &&KeyRecord| record.tenant_id == tenant_id;
            if !by_tenant && !is_platform {
                let keys = records.keys.values().filter(of_tenant);
                check_first_admin(&tenant, roles, keys.filter(|record| !is_operator || record.is_live(now)))?;
            }
            forget_dead(records, tenant_id, now);
            if records.keys.values().filter(of_tenant).count() >= MAX_KEYS {
                let message = format!("tenant '{tenant}' has {MAX_KEYS} keys, as many as may be");
                return Err(Error::new(Code::ResourceExhausted, "TOO_MANY_API_KEYS", message)
                    .hint("revoke those that nobody uses; what is revoked is forgotten after 90 days"));
            }
            records.keys.insert(id, record);
            Ok(())
        })
        .await?;
        Ok((shown(id, &made, roles, None), token))
    }

    /// The keys of the caller's tenant, those made first in front; for the platform those of all tenants.
    pub fn list(&self, permit: &Permit) -> Result<Vec<ApiKey>> {
        require_manager(permit)?;
        let keys = self.inner.keys.load();
        let managed = keys.records.keys.iter().filter(|(_, record)| manages(permit, record));
        let mut shown: Vec<ApiKey> = managed.filter_map(|(id, record)| keys.shown(*id, record)).collect();
        shown.sort_by_key(|key| (key.created, key.id));
        Ok(shown)
    }

    /// NOT_FOUND also where it is not the caller's to manage.
    pub fn get(&self, permit: &Permit, id: KeyId) -> Result<ApiKey> {
        require_manager(permit)?;
        let keys = self.inner.keys.load();
        let found = keys.records.keys.get(&id).filter(|record| manages(permit, record));
        found.and_then(|record| keys.shown(id, record)).ok_or_else(|| unknown_key(id))
    }

    /// From when this returns on, nobody is let in by it, and streams that were are stopped at their next
    /// step. What is revoked stays so.
    pub async fn revoke(&self, permit: &Permit, id: KeyId) -> Result<ApiKey> {
        require_manager(permit)?;
        let by = permit.clone();
        self.change(move |records, now| {
            let record = records.keys.get_mut(&id).filter(|record| manages(&by, record));
            let record = record.ok_or_else(|| unknown_key(id))?;
            record.revoked.get_or_insert(now);
            Ok(())
        })
        .await?;
        self.get(permit, id)
    }

    /// Gives a key another secret, which is shown by the answer and never again. The one before holds on
    /// for `overlap`, so that whoever uses it can be given the new one; one before that no more.
    pub async fn rotate(&self, permit: &Permit, id: KeyId, overlap: Duration) -> Result<(ApiKey, Token)> {
        require_manager(permit)?;
        if overlap > MAX_OVERLAP {
            let message = format!("an overlap is {} days at most", MAX_OVERLAP.as_secs() / 86_400);
            return Err(Error::invalid("BAD_OVERLAP", message));
        }
        let token = Token::another(id)?;
        let (by, hash) = (permit.clone(), hex(&token.hash()));
        self.change(move |records, now| {
            let record = records.keys.get_mut(&id).filter(|record| may_rotate(&by, record));
            let record = record.ok_or_else(|| unknown_key(id))?;
            if !record.is_live(now) {
                let message = format!("key {id} was revoked, or has expired");
                return Err(Error::new(Code::FailedPrecondition, "KEY_IS_DEAD", message)
                    .hint("make another (hydrant key create)"));
            }
            let before = std::mem::replace(&mut record.hash, hash);
            record.previous = (!overlap.is_zero()).then(|| (before, now.saturating_add(micros(overlap))));
            Ok(())
        })
        .await?;
        Ok((self.get(permit, id)?, token))
    }

    /// Makes durable when keys were used last, if that has changed.
    pub async fn persist_uses(&self) -> Result<()> {
        let mut writer = self.inner.writer.lock().await;
        let keys = self.inner.keys.load_full();
        let used = keys.entries.iter().map(|(id, entry)| (*id, entry.last_used.load(Ordering::Relaxed)));
        let uses = Uses { format: 1, last: used.filter(|(_, used)| *used > 0).collect() };
        if uses.last != writer.persisted_uses.last {
            let version = self.inner.store.put_if_version(USES, Bytes::from(uses.encode()), writer.uses).await?;
            (writer.uses, writer.persisted_uses) = (version, uses);
        }
        Ok(())
    }

    /// One change at a time, durable before it is seen. It goes through even if its caller stops waiting.
    async fn change(&self, edit: impl FnOnce(&mut Records, Micros) -> Result<()> + Send + 'static) -> Result<()> {
        let inner = self.inner.clone();
        let changing = tokio::spawn(async move {
            let mut writer = inner.writer.lock().await;
            let before = inner.keys.load_full();
            let mut records = before.records.clone();
            edit(&mut records, inner.time.read())?;
            if records == before.records {
                return Ok(());
            }
            let keys = Keys::new(records, &before, &Uses::default(), &inner.time).map_err(Error::internal)?;
            let encoded = Bytes::from(keys.records.encode());
            writer.keys = inner.store.put_if_version(KEYS, encoded, writer.keys).await?;
            for (id, entry) in &before.entries {
                if keys.entries.get(id).is_none_or(|entry| entry.is_revoked) {
                    entry.identity.revoke();
                }
            }
            inner.keys.store(Arc::new(keys));
            Ok(())
        });
        changing.await.map_err(|failed| Error::internal(format!("a change of keys ended early: {failed}")))?
    }
}

impl Authenticates for Access {
    fn authenticate(&self, token: Option<&str>) -> Result<Identity> {
        let token = token.ok_or_else(|| {
            Error::new(
                Code::Unauthenticated,
                "NO_CREDENTIAL",
                "the server asks its callers for a key, and there is none",
            )
            .hint("send the header `authorization: Bearer KEY`; commands take --token-file FILE or HYDRANT_TOKEN")
        })?;
        let token = Token::parse(token)?;
        let inner = self.inner.as_ref();
        let keys = inner.keys.load();
        let entry = keys.entries.get(&token.id).ok_or_else(not_known)?;
        let (hash, now) = (token.hash(), inner.time.read());
        if verify_slices_are_equal(&hash, &entry.hash).is_err() {
            match &entry.previous {
                Some((previous, until)) if verify_slices_are_equal(&hash, previous).is_ok() => {
                    if *until <= now {
                        return Err(gone("KEY_ROTATED", token.id, "has another secret by now"));
                    }
                }
                _ => return Err(not_known()),
            }
        }
        if entry.is_revoked {
            return Err(gone("KEY_REVOKED", token.id, "was revoked"));
        }
        if entry.expires.is_some_and(|expires| expires <= now) {
            return Err(gone("KEY_EXPIRED", token.id, "has expired"));
        }
        let snapshot = inner.snapshots.load();
        let tenant = snapshot.tenants.get(entry.identity.tenant());
        if tenant.is_none_or(|tenant| tenant.id != entry.tenant_id) {
            return Err(not_known());
        }
        if now - entry.last_used.load(Ordering::Relaxed) > USE_STEP {
            entry.last_used.store(now, Ordering::Relaxed);
        }
        Ok(entry.identity.clone())
    }
}

impl Inner {
    fn tenant_id(&self, tenant: &Name) -> Result<TenantId> {
        let snapshot = self.snapshots.load();
        let found = snapshot.tenants.get(tenant).map(|tenant| tenant.id);
        found.ok_or_else(|| {
            Error::not_found("TENANT_NOT_FOUND", format!("there is no tenant '{tenant}'")).with("tenant", tenant)
        })
    }
}

impl Keys {
    /// What was in `before` keeps when it was used, and whoever was let in by it.
    fn new(records: Records, before: &Self, uses: &Uses, time: &Arc<StoreTime>) -> Result<Self, String> {
        let mut entries = HashMap::with_capacity(records.keys.len());
        for (id, record) in &records.keys {
            let roles = record.roles()?;
            let known = before.entries.get(id);
            let identity = known.map(|entry| entry.identity.clone()).unwrap_or_else(|| {
                let until = record.expires.map(|expires| (time.clone(), expires));
                let credential = Credential { until, ..Credential::default() };
                Identity::by(&name_of_key(&id.to_string()), record.tenant.clone(), roles, record.reach(), credential)
            });
            let last_used = known
                .map(|entry| entry.last_used.clone())
                .unwrap_or_else(|| Arc::new(AtomicI64::new(uses.last.get(id).copied().unwrap_or_default())));
            let previous = record.previous.as_ref().map(|(hash, until)| Ok::<_, String>((unhex(hash)?, *until)));
            let entry = Entry {
                tenant_id: record.tenant_id,
                hash: unhex(&record.hash)?,
                previous: previous.transpose()?,
                expires: record.expires,
                is_revoked: record.revoked.is_some(),
                identity,
                last_used,
            };
            entries.insert(*id, entry);
        }
        Ok(Self { records, entries })
    }

    fn shown(&self, id: KeyId, record: &KeyRecord) -> Option<ApiKey> {
        let entry = self.entries.get(&id)?;
        let last_used = entry.last_used.load(Ordering::Relaxed);
        Some(shown(id, record, entry.identity.roles(), Some(last_used).filter(|used| *used > 0)))
    }
}

fn shown(id: KeyId, record: &KeyRecord, roles: Roles, last_used: Option<Micros>) -> ApiKey {
    ApiKey {
        id,
        tenant: record.tenant.clone(),
        roles,
        views: record.views.clone(),
        services: record.services.clone(),
        shared_views: record.shared_views.clone(),
        shared_services: record.shared_services.clone(),
        description: record.description.clone(),
        created: record.created,
        created_by: record.created_by.clone(),
        expires: record.expires,
        revoked: record.revoked,
        previous_until: record.previous.as_ref().map(|(_, until)| *until),
        last_used,
    }
}

fn require_manager(permit: &Permit) -> Result<()> {
    if permit.action() == Action::ManageTenants { Ok(()) } else { permit.require(Action::ManageKeys) }
}

/// Whether a key is the caller's to see and to revoke: the platform's keys are the platform's alone.
fn manages(permit: &Permit, record: &KeyRecord) -> bool {
    let identity = permit.identity();
    let by_tenant = record.tenant == *permit.tenant() && identity.may(Action::ManageKeys);
    identity.may(Action::ManageTenants) || (by_tenant && !record_is_platform(record))
}

/// A rotation shows the key: so it is for who may give each of its roles.
fn may_rotate(permit: &Permit, record: &KeyRecord) -> bool {
    let identity = permit.identity();
    let is_platform_alone = record_is_platform(record) && record.roles.len() == 1;
    let by_tenant = record.tenant == *permit.tenant() && identity.may(Action::ManageKeys);
    let by_platform = !record_is_platform(record) || identity.may(Action::ManageTenants);
    by_platform && (is_platform_alone || by_tenant)
}

fn record_is_admin(record: &KeyRecord) -> bool {
    record.roles.iter().any(|role| role == Role::Admin.as_str())
}

fn record_is_platform(record: &KeyRecord) -> bool {
    record.roles.iter().any(|role| role == Role::Platform.as_str())
}

fn check_new(new: &NewKey) -> Result<()> {
    let bad = |message: String| Err(Error::invalid("BAD_KEY", message));
    if new.roles.is_empty() {
        return bad("a key has one role at least".to_owned());
    }
    if new.roles.contains(Role::Platform) {
        let is_alone = new.roles.iter().count() == 1;
        let is_default = new.tenant.as_ref().is_none_or(|tenant| tenant.as_str() == DEFAULT_TENANT);
        if !is_alone || !is_default {
            return bad(format!(
                "the role platform stands alone, in the tenant '{DEFAULT_TENANT}': it is of the server and reads no tenant's data"
            ));
        }
    }
    if new.roles.iter().eq([Role::Pii]) {
        return bad("the role pii stands beside another: it shows what that one reads".to_owned());
    }
    let (views, services) = (new.views.len() + new.shared_views.len(), new.services.len() + new.shared_services.len());
    let is_limited = views + services > 0;
    let unlimited = [Role::Owner, Role::Admin, Role::Platform];
    if is_limited && unlimited.into_iter().any(|role| new.roles.contains(role)) {
        return bad("the roles owner, admin and platform can't be limited to views and services".to_owned());
    }
    if views > MAX_NAMES || services > MAX_NAMES {
        return bad(format!("a key is limited to {MAX_NAMES} views and {MAX_NAMES} services at most"));
    }
    if new.description.len() > MAX_DESCRIPTION {
        return bad(format!("a description has {MAX_DESCRIPTION} bytes at most"));
    }
    if new.description.chars().any(char::is_control) {
        return bad("a description is one line of text, without control characters".to_owned());
    }
    if new.expires_after.is_some_and(|after| after.is_zero()) {
        return bad("a key expires later than at once".to_owned());
    }
    if new.expires_after.is_some_and(|after| after > LONGEST_LIFE) {
        return bad("a key expires within 10 years, or not at all".to_owned());
    }
    Ok(())
}

/// The platform gives a tenant an admin where it never had one, and nothing else: the rest is the admin's.
/// One that was revoked or has expired counts, or else the platform, which may revoke, could make itself
/// an admin of any tenant.
fn check_first_admin<'a>(tenant: &Name, roles: Roles, mut keys: impl Iterator<Item = &'a KeyRecord>) -> Result<()> {
    let has_admin = keys.any(record_is_admin);
    if !has_admin && roles.iter().eq([Role::Admin]) {
        return Ok(());
    }
    let message = if has_admin {
        format!("tenant '{tenant}' has, or had, an admin: its keys are an admin's to give")
    } else {
        format!("the first key of tenant '{tenant}' is its admin's (--role admin), who gives the others")
    };
    Err(Error::new(Code::PermissionDenied, "PERMISSION_DENIED", message)
        .hint(
            "an admin of the tenant can give the key (hydrant key create); where all of them are lost, so can whoever \
             starts the server without auth.enabled",
        )
        .with("wanted", Action::ManageKeys.as_str())
        .with("role", Role::Admin.as_str()))
}

/// That a tenant has had an admin is not forgotten.
fn forget_dead(records: &mut Records, tenant: TenantId, now: Micros) {
    let died = |record: &KeyRecord| record.revoked.into_iter().chain(record.expires).min();
    let is_admin_of = |record: &&KeyRecord| record.tenant_id == tenant && record_is_admin(record);
    let last_admin = records.keys.iter().filter(|(_, record)| is_admin_of(record));
    let last_admin = last_admin.max_by_key(|(_, record)| record.created).map(|(id, _)| *id);
    records.keys.retain(|id, record| {
        let is_forgotten = record.tenant_id == tenant && died(record).is_some_and(|died| now - died > KEEP_DEAD);
        !is_forgotten || Some(*id) == last_admin
    });
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    // Of a start that was broken off; what was in it was never a key.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

fn hex(hash: &SecretHash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<SecretHash, String> {
    let bad = || "a hash is no SHA-256".to_owned();
    let bytes = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or_else(bad)?;
    bytes.try_into().map_err(|_| bad())
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

fn unknown_key(id: KeyId) -> Error {
    Error::not_found("KEY_NOT_FOUND", format!("there is no key {id}"))
        .hint("`hydrant key list` shows the keys that you manage")
        .with("key", id)
}

/// The same for an id that there isn't and for a wrong secret.
fn not_known() -> Error {
    Error::new(Code::Unauthenticated, "KEY_UNKNOWN", "the key is of no caller that this server knows").hint(ASK_FOR_KEY)
}

/// Told only to who has shown the right secret.
fn gone(reason: &'static str, id: KeyId, how: &str) -> Error {
    Error::new(Code::Unauthenticated, reason, format!("key {id} {how}")).hint(ASK_FOR_KEY).with("key", id)
}

fn damaged(detail: String) -> Error {
    Error::new(Code::DataLoss, "KEYS_DAMAGED", format!("the API keys can't be read: {detail}"))
        .hint("use the version of Hydrant that wrote them, or restore a backup of the data directory")
}
