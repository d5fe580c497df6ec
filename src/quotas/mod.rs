//! Quotas as they are set: each tenant's limits, kept under a key of their own and changed one version at
//! a time, and raises that end by themselves. It gives tenancy the limits that hold, measures what is in
//! use, and warns where little is left. It refuses no request: tenancy does.

pub mod metrics;
mod state;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hydrant_storage::history::HistoryTables;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;

use crate::clock::StoreTime;
use crate::cluster::{MetadataStore, Versioned};
use crate::error::{Code, Error, Result};
use crate::partition::Partitions;
use crate::registry::{SnapshotReader, limits};
use crate::tenancy::{Account, Action, Limits, Permit, Quota, Tenancy, Usage};

pub use self::state::{Change, Raise};

use self::state::{State, TenantState};
use self::storage::StorageMeter;

/// Under which quotas are kept.
const METADATA_KEY: &str = "quotas";

/// How often the same warning is told at most.
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// What stored spines of a tenant take of the disk, of which quotas know nothing else.
pub trait SpineBytes: Send + Sync + fmt::Debug {
    fn of(&self, tenant: &Name) -> u64;
}

/// What quotas are kept in and measured by.
#[derive(Debug)]
pub struct QuotaParts {
    pub tenancy: Arc<Tenancy>,
    pub snapshots: SnapshotReader,
    pub metadata: Arc<dyn MetadataStore>,
    pub store_time: Arc<StoreTime>,
    pub tables: Arc<HistoryTables>,
    pub partitions: Partitions,
    pub spines: Arc<dyn SpineBytes>,
}

/// The quotas of all tenants. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Quotas {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tenancy: Arc<Tenancy>,
    snapshots: SnapshotReader,
    metadata: Arc<dyn MetadataStore>,
    store_time: Arc<StoreTime>,
    storage: StorageMeter,
    state: ArcSwap<State>,
    /// One change at a time; holds the version of what is persisted.
    writer: tokio::sync::Mutex<u64>,
    /// One at a time, so that no older limits replace newer ones.
    giving: Mutex<()>,
    warned: Mutex<HashMap<(Name, Quota), Instant>>,
}

/// The quotas of a tenant, as they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantQuotas {
    pub tenant: Name,
    /// Of one key of the tenant; `None`: of all of it.
    pub key: Option<String>,
    /// Changes with every change.
    pub etag: String,
    pub weight: u32,
    /// Every quota that there is.
    pub quotas: Vec<QuotaStatus>,
    /// When they were set last, and by whom; `None`: never.
    pub updated: Option<(Micros, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaStatus {
    pub quota: Quota,
    /// `None`: it has no sum, or isn't counted without a limit.
    pub used: Option<u64>,
    /// The one that holds now; `None`: none does.
    pub limit: Option<u64>,
    /// What is set, and holds again when the raise has ended.
    pub set: Option<u64>,
    /// Until when it is raised.
    pub raised_until: Option<Micros>,
}

impl QuotaStatus {
    /// Whether most of it is in use.
    pub fn is_near(&self) -> bool {
        let usage = self.used.zip(self.limit).map(|(used, limit)| Usage { quota: self.quota, used, limit });
        usage.is_some_and(|usage| usage.is_near())
    }
}

impl Quotas {
    /// Reads what was set, and has it hold. DATA_LOSS, with the way out, where it can't be understood.
    pub async fn open(parts: QuotaParts) -> Result<Self> {
        let QuotaParts { tenancy, snapshots, metadata, store_time, tables, partitions, spines } = parts;
        let (state, version) = match metadata.get(METADATA_KEY).await? {
            Some(Versioned { value, version }) => (State::decode(&value).map_err(damaged)?, version),
            None => (State::default(), 0),
        };
        let inner = Inner {
            tenancy,
            snapshots,
            metadata,
            store_time,
            storage: StorageMeter { tables, partitions, spines },
            state: ArcSwap::from_pointee(state),
            writer: tokio::sync::Mutex::new(version),
            giving: Mutex::default(),
            warned: Mutex::default(),
        };
        let quotas = Self { inner: Arc::new(inner) };
        quotas.refresh();
        Ok(quotas)
    }

    /// What holds for a tenant and what it uses. NOT_FOUND where there is no such tenant.
    pub fn get(&self, permit: &Permit, tenant: &Name) -> Result<TenantQuotas> {
        permit.require(Action::ReadQuotas)?;
        self.check_tenant(permit, tenant)?;
        self.refresh();
        Ok(self.told(tenant, None, &self.inner.state.load()))
    }

    /// What holds for one key of a tenant beside the tenant's, and what it uses. The permit is to manage keys
    /// or tenants; whether there is such a key is its holder's to know.
    pub fn get_key(&self, permit: &Permit, tenant: &Name, key: &str) -> Result<TenantQuotas> {
        require_manager(permit)?;
        self.check_tenant(permit, tenant)?;
        self.refresh();
        Ok(self.told(tenant, Some(key), &self.inner.state.load()))
    }

    /// Of the keys of a tenant that have limits of their own, by id.
    pub fn list_keys(&self, permit: &Permit, tenant: &Name) -> Result<Vec<TenantQuotas>> {
        require_manager(permit)?;
        self.check_tenant(permit, tenant)?;
        self.refresh();
        let state = self.inner.state.load();
        let keys = state.tenants.get(tenant).into_iter().flat_map(|of_tenant| &of_tenant.keys);
        let limited = keys.filter(|(_, of_key)| of_key.limits != Limits::default());
        Ok(limited.map(|(key, _)| self.told(tenant, Some(key), &state)).collect())
    }

    /// Of every tenant that the caller may know of, by name.
    pub fn list(&self, permit: &Permit) -> Result<Vec<TenantQuotas>> {
        permit.require(Action::ReadQuotas)?;
        self.refresh();
        let state = self.inner.state.load();
        let snapshot = self.inner.snapshots.load();
        let tenants = snapshot.tenants.keys().filter(|tenant| permit.oversees(tenant));
        Ok(tenants.map(|tenant| self.told(tenant, None, &state)).collect())
    }

    /// Changes a tenant's limits, which hold from its next request on, and tells what is then. With an
    /// etag, only what the caller has seen: ABORTED if it was changed since. INVALID_ARGUMENT for what is
    /// no limit. With `validate_only` nothing is changed, and what would be is told.
    pub async fn update(
        &self,
        permit: &Permit,
        tenant: &Name,
        change: Change,
        etag: &str,
        validate_only: bool,
    ) -> Result<TenantQuotas> {
        permit.require(Action::ChangeQuotas)?;
        self.change(permit, (tenant, None), etag, validate_only, move |state, _| change.apply(state)).await
    }

    /// As [`Self::update`], of one key. The permit is to manage keys or tenants.
    pub async fn update_key(
        &self,
        permit: &Permit,
        (tenant, key): (&Name, &str),
        change: Change,
        etag: &str,
        validate_only: bool,
    ) -> Result<TenantQuotas> {
        require_manager(permit)?;
        change.check_of_key()?;
        self.change(permit, (tenant, Some(key)), etag, validate_only, move |state, _| change.apply(state)).await
    }

    /// Raises limits for a stated time, after which they fall back by themselves, and ends raises before
    /// their time. Refusals as of [`Self::update`]; FAILED_PRECONDITION where there is no limit to raise.
    pub async fn raise(
        &self,
        permit: &Permit,
        tenant: &Name,
        raise: Raise,
        etag: &str,
        validate_only: bool,
    ) -> Result<TenantQuotas> {
        permit.require(Action::ChangeQuotas)?;
        self.change(permit, (tenant, None), etag, validate_only, move |state, now| raise.apply(state, now)).await
    }

    /// As [`Self::raise`], of one key. The permit is to manage keys or tenants.
    pub async fn raise_key(
        &self,
        permit: &Permit,
        (tenant, key): (&Name, &str),
        raise: Raise,
        etag: &str,
        validate_only: bool,
    ) -> Result<TenantQuotas> {
        require_manager(permit)?;
        raise.check_of_key()?;
        self.change(permit, (tenant, Some(key)), etag, validate_only, move |state, now| raise.apply(state, now)).await
    }

    /// Has the limits hold that are due now: a raise ends here. To be asked several times a second.
    pub fn refresh(&self) {
        let _one_at_a_time = self.inner.giving.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, now) = (self.inner.state.load(), self.now());
        for (tenant, of_tenant) in &state.tenants {
            self.give(tenant, of_tenant.effective(now));
            for (key, of_key) in &of_tenant.keys {
                self.give_key(tenant, key, of_key.effective(now));
            }
        }
    }

    /// Measures rates and definitions, and warns of what is nearly used up. To be asked once a second.
    pub fn measure(&self) {
        let snapshot = self.inner.snapshots.load();
        self.inner.tenancy.key_accounts().iter().for_each(|account| account.measure_rates());
        for account in self.inner.tenancy.accounts() {
            account.measure_rates();
            if let Some(tenant) = snapshot.tenants.get(account.tenant()) {
                let (views, features) = limits::counts(tenant);
                account.note_kept(Quota::FeatureViews, views as u64);
                account.note_kept(Quota::Features, features as u64);
            }
            self.warn(&account);
        }
    }

    /// Counts what is stored of each tenant. Blocks.
    pub fn measure_storage(&self) {
        let stored = self.inner.storage.measure(&self.inner.snapshots.load());
        for account in self.inner.tenancy.accounts() {
            account.note_kept(Quota::StorageBytes, stored.get(account.tenant()).copied().unwrap_or(0));
        }
    }

    /// For metrics.
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.inner.tenancy.accounts()
    }

    async fn change(
        &self,
        permit: &Permit,
        (tenant, key): (&Name, Option<&str>),
        etag: &str,
        validate_only: bool,
        edit: impl FnOnce(&mut TenantState, Micros) -> Result<()> + Send + 'static,
    ) -> Result<TenantQuotas> {
        self.check_tenant(permit, tenant)?;
        let (quotas, tenant, key, etag) = (self.clone(), tenant.clone(), key.map(str::to_owned), etag.to_owned());
        let by = permit.caller().to_owned();
        // It runs to its end even if nobody waits for it: what is persisted must hold.
        let changing = tokio::spawn(async move {
            let mut version = quotas.inner.writer.lock().await;
            let mut next = State::clone(&quotas.inner.state.load());
            let of_tenant = next.tenants.entry(tenant.clone()).or_default();
            let of_tenant = match &key {
                None => of_tenant,
                Some(key) => of_tenant.of_key(key)?,
            };
            if !etag.is_empty() && etag != of_tenant.etag() {
                let message = format!("the quotas of tenant '{tenant}' were changed since they were read");
                return Err(Error::new(Code::Aborted, "ETAG_MISMATCH", message)
                    .with("tenant", &tenant)
                    .hint("read them again (`hydrant quota get`), and decide anew"));
            }
            let before = of_tenant.clone();
            let now = quotas.now();
            of_tenant.forget_ended(now);
            edit(of_tenant, now)?;
            if *of_tenant == before {
                return Ok(quotas.told(&tenant, key.as_deref(), &next));
            }
            of_tenant.note_change(quotas.inner.store_time.read(), by);
            if validate_only {
                return Ok(quotas.told(&tenant, key.as_deref(), &next));
            }
            let encoded = Bytes::from(next.encode());
            *version = quotas.inner.metadata.put_if_version(METADATA_KEY, encoded, *version).await?;
            quotas.inner.state.store(Arc::new(next));
            quotas.refresh();
            tracing::info!(%tenant, "quotas were changed");
            Ok(quotas.told(&tenant, key.as_deref(), &quotas.inner.state.load()))
        });
        changing.await.map_err(|failed| Error::internal(format!("a change of quotas ended early: {failed}")))?
    }

    fn give(&self, tenant: &Name, limits: Limits) {
        let account = self.inner.tenancy.account(tenant);
        if account.is_none_or(|account| account.limits() != limits) {
            self.inner.tenancy.set_limits(tenant, limits);
        }
    }

    fn give_key(&self, tenant: &Name, key: &str, limits: Limits) {
        let account = self.inner.tenancy.key_account(tenant, key);
        if account.is_none_or(|account| account.limits() != limits) {
            self.inner.tenancy.set_key_limits(tenant, key, limits);
        }
    }

    fn told(&self, tenant: &Name, key: Option<&str>, state: &State) -> TenantQuotas {
        let of_tenant = state.tenants.get(tenant);
        let (of_it, account) = match key {
            None => (of_tenant, self.inner.tenancy.account(tenant)),
            Some(key) => (of_tenant.and_then(|of| of.keys.get(key)), self.inner.tenancy.key_account(tenant, key)),
        };
        let of_tenant = of_it.cloned().unwrap_or_default();
        let now = self.now();
        let effective = of_tenant.effective(now);
        let status = |quota: Quota| QuotaStatus {
            quota,
            used: account.as_ref().and_then(|account| account.used(quota)),
            limit: effective.of(quota),
            set: of_tenant.limits.of(quota),
            raised_until: of_tenant.raised_until(quota, now),
        };
        TenantQuotas {
            tenant: tenant.clone(),
            key: key.map(str::to_owned),
            etag: of_tenant.etag(),
            weight: of_tenant.limits.share(),
            quotas: Quota::ALL.into_iter().filter(|quota| key.is_none() || quota.is_of_keys()).map(status).collect(),
            updated: of_tenant.updated(),
        }
    }

    fn warn(&self, account: &Account) {
        let now = self.inner.tenancy.now();
        let mut warned = self.inner.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for Usage { quota, used, limit } in account.usage().into_iter().filter(Usage::is_near) {
            let key = (account.tenant().clone(), quota);
            let last = warned.get(&key);
            if last.is_none_or(|last| now.saturating_duration_since(*last) >= WARN_INTERVAL) {
                tracing::warn!(tenant = %key.0, %quota, used, limit, "most of a quota is in use");
                warned.insert(key, now);
            }
        }
    }

    /// NOT_FOUND, and the same whether there is none or the caller may not know of it.
    fn check_tenant(&self, permit: &Permit, tenant: &Name) -> Result<()> {
        if permit.oversees(tenant) && self.inner.snapshots.load().tenants.contains_key(tenant) {
            return Ok(());
        }
        Err(Error::not_found("TENANT_NOT_FOUND", format!("there is no tenant '{tenant}'")).with("tenant", tenant))
    }

    /// Raises end by wall time: no row depends on it.
    fn now(&self) -> Micros {
        self.inner.store_time.wall()
    }
}

/// Quotas of keys are for whoever manages the keys.
fn require_manager(permit: &Permit) -> Result<()> {
    if permit.action() == Action::ManageTenants { Ok(()) } else { permit.require(Action::ManageKeys) }
}

fn damaged(detail: String) -> Error {
    let message = format!("the quotas that were set can't be read: {detail}");
    Error::new(Code::DataLoss, "QUOTAS_DAMAGED", message).hint(
        "restore `registry/quotas.value` from a backup of this data directory; without one, move it away: nothing is \
         limited then, until quotas are set again",
    )
}
