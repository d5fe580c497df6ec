//! QuotaService: limits of tenants and what they use, set, raised for a while, and told.

use std::time::Duration;

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::quota_service_server::QuotaService;
use hydrant_storage::names::{InvalidName, Name};
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::{Caller, UseCases, layers};
use crate::access::KeyId;
use crate::error::{Error, Result};
use crate::quotas::{Change, QuotaStatus, Raise, TenantQuotas};
use crate::tenancy::{Action, Permit, Quota};

/// Limits and names of one request at most: each quota once is enough.
const MAX_NAMED: usize = 100;
/// Letters of a name that are told of a request that wasn't read yet, and names.
const MAX_SHOWN: usize = 128;
const MAX_RESOURCES: usize = 64;

#[derive(Debug)]
pub struct QuotaRpc {
    use_cases: UseCases,
}

impl QuotaRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    fn get(&self, caller: &Caller, request: &v1::GetQuotasRequest) -> Result<v1::TenantQuotas> {
        if let Some(named) = decode_key(&request.name) {
            let permit = self.use_cases.permit(caller, managing(caller))?;
            let (tenant, key) = self.known_key(&permit, named?)?;
            return self.use_cases.quotas.get_key(&permit, &tenant, &key).map(encode);
        }
        let permit = self.use_cases.permit(caller, Action::ReadQuotas)?;
        let tenant = decode_tenant(&permit, &request.name)?;
        self.use_cases.quotas.get(&permit, &tenant).map(encode)
    }

    fn list(&self, caller: &Caller, request: &v1::ListQuotasRequest) -> Result<v1::ListQuotasResponse> {
        if !request.parent.is_empty() {
            let permit = self.use_cases.permit(caller, managing(caller))?;
            let tenant = request.parent.strip_prefix("tenants/").ok_or_else(|| {
                Error::invalid("INVALID_NAME", "quotas of keys are listed by their tenant: tenants/TENANT")
            })?;
            let keys = self.use_cases.quotas.list_keys(&permit, &parse_tenant(tenant)?)?;
            return Ok(v1::ListQuotasResponse { tenants: keys.into_iter().map(encode).collect() });
        }
        let permit = self.use_cases.permit(caller, Action::ReadQuotas)?;
        let tenants = self.use_cases.quotas.list(&permit)?;
        Ok(v1::ListQuotasResponse { tenants: tenants.into_iter().map(encode).collect() })
    }

    async fn update(&self, caller: &Caller, request: v1::UpdateQuotasRequest) -> Result<v1::TenantQuotas> {
        let quotas =
            request.set.iter().map(|limit| limit.quota.as_str()).chain(request.unset.iter().map(String::as_str));
        let named = (request.name.as_str(), quotas.collect());
        let permit = self.leave(caller, named, request.validate_only).await?;
        let v1::UpdateQuotasRequest { name, set, unset, weight, etag, validate_only } = request;
        let change = Change { set: decode_limits(&set)?, unset: decode_names(&unset)?, weight };
        if let Some(named) = decode_key(&name) {
            let (tenant, key) = self.known_key(&permit, named?)?;
            let of_key = (&tenant, key.as_str());
            return self.use_cases.quotas.update_key(&permit, of_key, change, &etag, validate_only).await.map(encode);
        }
        let tenant = decode_tenant(&permit, &name)?;
        self.use_cases.quotas.update(&permit, &tenant, change, &etag, validate_only).await.map(encode)
    }

    async fn raise(&self, caller: &Caller, request: v1::RaiseQuotasRequest) -> Result<v1::TenantQuotas> {
        let quotas =
            request.limits.iter().map(|limit| limit.quota.as_str()).chain(request.end.iter().map(String::as_str));
        let named = (request.name.as_str(), quotas.collect());
        let permit = self.leave(caller, named, request.validate_only).await?;
        let v1::RaiseQuotasRequest { name, limits, duration_micros, end, etag, validate_only } = request;
        let lasts = Duration::from_micros(duration_micros);
        let raise = Raise { limits: decode_limits(&limits)?, lasts, end: decode_names(&end)? };
        if let Some(named) = decode_key(&name) {
            let (tenant, key) = self.known_key(&permit, named?)?;
            let of_key = (&tenant, key.as_str());
            return self.use_cases.quotas.raise_key(&permit, of_key, raise, &etag, validate_only).await.map(encode);
        }
        let tenant = decode_tenant(&permit, &name)?;
        self.use_cases.quotas.raise(&permit, &tenant, raise, &etag, validate_only).await.map(encode)
    }
}

impl QuotaRpc {
    /// Leave to change these quotas of a tenant, once that is written down; or to find out whether they
    /// could be.
    async fn leave(&self, caller: &Caller, named: (&str, Vec<&str>), validate_only: bool) -> Result<Permit> {
        let (name, quotas) = named;
        let action = if decode_key(name).is_some() { managing(caller) } else { Action::ChangeQuotas };
        if validate_only {
            return self.use_cases.rehearse(caller, action);
        }
        // Whose they are is told by the name, or else by the caller.
        let of = if name.is_empty() { "quotas" } else { name };
        // Neither has been read yet: nothing of them is repeated that is longer than a name.
        let of: String = of.chars().take(MAX_SHOWN).collect();
        let resources = if quotas.is_empty() {
            vec![of]
        } else {
            let shown = |quota: &str| quota.chars().take(MAX_SHOWN).collect::<String>();
            quotas.into_iter().take(MAX_RESOURCES).map(|quota| format!("{of}/{}", shown(quota))).collect()
        };
        self.use_cases.change(caller, action, resources).await
    }

    /// A key that the caller manages, and that is of this tenant. NOT_FOUND where there is none.
    fn known_key(&self, permit: &Permit, (tenant, id): (Name, KeyId)) -> Result<(Name, String)> {
        let key = self.use_cases.access.get(permit, id)?;
        if key.tenant != tenant {
            return Err(Error::not_found("KEY_NOT_FOUND", format!("there is no key {id}"))
                .hint("`hydrant key list` shows the keys that you manage")
                .with("key", id));
        }
        Ok((tenant, id.to_string()))
    }
}

/// By which of its roles a caller manages keys.
fn managing(caller: &Caller) -> Action {
    let is_platform = !caller.identity.may(Action::ManageKeys) && caller.identity.may(Action::ManageTenants);
    if is_platform { Action::ManageTenants } else { Action::ManageKeys }
}

#[async_trait]
impl QuotaService for QuotaRpc {
    async fn get_quotas(&self, request: Request<v1::GetQuotasRequest>) -> Result<Response<v1::TenantQuotas>, Status> {
        self.get(&layers::caller(request.extensions()), request.get_ref()).map(Response::new).map_err(to_status)
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasResponse>, Status> {
        self.list(&layers::caller(request.extensions()), request.get_ref()).map(Response::new).map_err(to_status)
    }

    async fn update_quotas(
        &self,
        request: Request<v1::UpdateQuotasRequest>,
    ) -> Result<Response<v1::TenantQuotas>, Status> {
        let caller = layers::caller(request.extensions());
        self.update(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn raise_quotas(
        &self,
        request: Request<v1::RaiseQuotasRequest>,
    ) -> Result<Response<v1::TenantQuotas>, Status> {
        let caller = layers::caller(request.extensions());
        self.raise(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

/// `tenants/{tenant}/quotas`; nothing is the caller's own.
fn decode_tenant(permit: &Permit, name: &str) -> Result<Name> {
    if name.is_empty() {
        return Ok(permit.tenant().clone());
    }
    let tenant = name.strip_prefix("tenants/").and_then(|rest| rest.strip_suffix("/quotas"));
    let tenant = tenant.ok_or_else(|| {
        Error::invalid("INVALID_NAME", "quotas are named tenants/TENANT/quotas").hint("or leave the name out: your own")
    })?;
    parse_tenant(tenant)
}

fn parse_tenant(tenant: &str) -> Result<Name> {
    tenant.parse().map_err(|error: InvalidName| Error::invalid("INVALID_NAME", error.to_string()))
}

/// `tenants/{tenant}/keys/{key}/quotas`; `None`: quotas of a tenant are named, if any.
fn decode_key(name: &str) -> Option<Result<(Name, KeyId)>> {
    let (tenant, key) = name.strip_prefix("tenants/")?.strip_suffix("/quotas")?.split_once("/keys/")?;
    let read = || {
        let key = key.parse().map_err(|told: String| Error::invalid("BAD_KEY_ID", told))?;
        Ok((parse_tenant(tenant)?, key))
    };
    Some(read())
}

fn decode_limits(limits: &[v1::QuotaLimit]) -> Result<Vec<(Quota, u64)>> {
    check_count(limits.len())?;
    limits.iter().map(|limit| Ok((decode_quota(&limit.quota)?, limit.limit))).collect()
}

fn decode_names(names: &[String]) -> Result<Vec<Quota>> {
    check_count(names.len())?;
    names.iter().map(|name| decode_quota(name)).collect()
}

fn check_count(count: usize) -> Result<()> {
    if count <= MAX_NAMED {
        return Ok(());
    }
    Err(Error::invalid("BAD_QUOTA", format!("{count} quotas are named, of {}", Quota::ALL.len())))
}

fn decode_quota(name: &str) -> Result<Quota> {
    Quota::parse(name).ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        let all: Vec<&str> = Quota::ALL.into_iter().map(Quota::as_str).collect();
        Error::invalid("UNKNOWN_QUOTA", format!("there is no quota '{shown}'"))
            .with("quota", shown)
            .hint(format!("there are {}", all.join(", ")))
    })
}

fn encode(quotas: TenantQuotas) -> v1::TenantQuotas {
    let TenantQuotas { tenant, key, etag, weight, quotas, updated } = quotas;
    let (updated_micros, updated_by) = updated.unzip();
    v1::TenantQuotas {
        name: match key {
            None => format!("tenants/{tenant}/quotas"),
            Some(key) => format!("tenants/{tenant}/keys/{key}/quotas"),
        },
        etag,
        weight,
        quotas: quotas.into_iter().map(encode_status).collect(),
        updated_micros,
        updated_by: updated_by.unwrap_or_default(),
    }
}

fn encode_status(status: QuotaStatus) -> v1::QuotaStatus {
    let near = status.is_near();
    let QuotaStatus { quota, used, limit, set, raised_until } = status;
    v1::QuotaStatus { quota: quota.as_str().to_owned(), used, limit, set, raised_until_micros: raised_until, near }
}
