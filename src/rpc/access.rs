//! AccessService: API keys made, shown, rotated and revoked, and whom the server takes a caller for. The
//! text of a key passes here once, in the answer that makes it.

use std::time::Duration;

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::access_service_server::AccessService;
use hydrant_storage::names::{Name, SharedName};
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::wire::definitions::decode_name;
use super::wire::roles::{decode_roles, encode_roles, role_name};
use super::{Caller, UseCases, layers};
use crate::access::{ApiKey, KeyId, MAX_NAMES, NewKey, Token};
use crate::error::{Error, Result};
use crate::registry::selection::is_of_another;
use crate::tenancy::{Action, Permit, Role};

#[derive(Debug)]
pub struct AccessRpc {
    use_cases: UseCases,
}

impl AccessRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    /// By which of its roles a caller manages keys, the use case asks further.
    fn action(caller: &Caller) -> Action {
        let is_platform = !caller.identity.may(Action::ManageKeys) && caller.identity.may(Action::ManageTenants);
        if is_platform { Action::ManageTenants } else { Action::ManageKeys }
    }

    fn permit(&self, caller: &Caller) -> Result<Permit> {
        self.use_cases.permit(caller, Self::action(caller))
    }

    /// As [`Self::permit`], once it is written down what is changed.
    async fn change(&self, caller: &Caller, resource: String) -> Result<Permit> {
        let action = Self::action(caller);
        self.use_cases.change(caller, action, vec![resource]).await
    }

    /// Of whoever may change keys at all. What names no key changes nothing and leaves no record, which one
    /// would be written and synced for otherwise; and it may be anything, a key itself by mistake included.
    fn decode_for(&self, caller: &Caller, id: &str) -> Result<KeyId> {
        self.use_cases.let_do(caller, Self::action(caller))?;
        decode_id(id)
    }

    async fn create(&self, caller: &Caller, request: v1::CreateKeyRequest) -> Result<v1::CreateKeyResponse> {
        let roles: Vec<String> = request.roles.iter().take(Role::ALL.len()).map(|role| role_name(*role)).collect();
        let of = match request.tenant.as_str() {
            "" => caller.identity.tenant().to_string(),
            tenant => tenant.parse::<Name>().map_or_else(|_| "?".to_owned(), |tenant| tenant.to_string()),
        };
        let permit = self.change(caller, format!("ApiKey/{of}/{}", roles.join("+"))).await?;
        let tenant = Some(&request.tenant).filter(|tenant| !tenant.is_empty());
        let (views, shared_views) = decode_reach("view", &request.views)?;
        let (services, shared_services) = decode_reach("service", &request.services)?;
        let new = NewKey {
            tenant: tenant.map(|tenant| decode_name("tenant", tenant)).transpose()?,
            roles: decode_roles(&request.roles)?,
            views,
            services,
            shared_views,
            shared_services,
            description: request.description,
            expires_after: request.expires_after_micros.map(Duration::from_micros),
        };
        let (key, token) = self.use_cases.access.create(&permit, new).await?;
        Ok(encode_created(&key, &token))
    }

    fn list(&self, caller: &Caller) -> Result<v1::ListKeysResponse> {
        let permit = self.permit(caller)?;
        let keys = self.use_cases.access.list(&permit)?;
        Ok(v1::ListKeysResponse { keys: keys.iter().map(encode_key).collect() })
    }

    fn get(&self, caller: &Caller, id: &str) -> Result<v1::ApiKey> {
        let permit = self.permit(caller)?;
        self.use_cases.access.get(&permit, decode_id(id)?).map(|key| encode_key(&key))
    }

    async fn rotate(&self, caller: &Caller, request: &v1::RotateKeyRequest) -> Result<v1::CreateKeyResponse> {
        let id = self.decode_for(caller, &request.id)?;
        let permit = self.change(caller, format!("ApiKey/{id}")).await?;
        let overlap = Duration::from_micros(request.overlap_micros);
        let (key, token) = self.use_cases.access.rotate(&permit, id, overlap).await?;
        Ok(encode_created(&key, &token))
    }

    async fn revoke(&self, caller: &Caller, id: &str) -> Result<v1::ApiKey> {
        let id = self.decode_for(caller, id)?;
        let permit = self.change(caller, format!("ApiKey/{id}")).await?;
        self.use_cases.access.revoke(&permit, id).await.map(|key| encode_key(&key))
    }
}

#[async_trait]
impl AccessService for AccessRpc {
    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.create(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_key(&self, request: Request<v1::GetKeyRequest>) -> Result<Response<v1::ApiKey>, Status> {
        let caller = layers::caller(request.extensions());
        self.get(&caller, &request.get_ref().id).map(Response::new).map_err(to_status)
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Result<Response<v1::ListKeysResponse>, Status> {
        self.list(&layers::caller(request.extensions())).map(Response::new).map_err(to_status)
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.rotate(&caller, request.get_ref()).await.map(Response::new).map_err(to_status)
    }

    async fn revoke_key(&self, request: Request<v1::RevokeKeyRequest>) -> Result<Response<v1::ApiKey>, Status> {
        let caller = layers::caller(request.extensions());
        self.revoke(&caller, &request.get_ref().id).await.map(Response::new).map_err(to_status)
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let identity = layers::caller(request.extensions()).identity;
        let reach = identity.reach().cloned().unwrap_or_default();
        Ok(Response::new(v1::WhoAmIResponse {
            name: identity.name().to_owned(),
            tenant: identity.tenant().to_string(),
            roles: encode_roles(identity.roles()),
            views: encode_reach(&reach.views, &reach.shared_views),
            services: encode_reach(&reach.services, &reach.shared_services),
            issuer: identity.subject().map(|subject| subject.issuer.clone()).unwrap_or_default(),
            subject: identity.subject().map(|subject| subject.subject.clone()).unwrap_or_default(),
            expires_micros: identity.until(),
        }))
    }
}

fn decode_id(text: &str) -> Result<KeyId> {
    text.parse().map_err(|told: String| Error::invalid("BAD_KEY_ID", told))
}

/// The tenant's own, and what others share with it (`OWNER/NAME`).
fn decode_reach(kind: &'static str, names: &[String]) -> Result<(Vec<Name>, Vec<SharedName>)> {
    // Of more it is said that they are too many.
    let (shared, own): (Vec<&String>, Vec<&String>) =
        names.iter().take(MAX_NAMES + 1).partition(|name| is_of_another(name));
    let shared_name =
        |name: &String| name.parse().map_err(|told| Error::invalid("INVALID_NAME", format!("{kind}: {told}")));
    let own = own.into_iter().map(|name| decode_name(kind, name)).collect::<Result<_>>()?;
    Ok((own, shared.into_iter().map(shared_name).collect::<Result<_>>()?))
}

fn encode_reach<'a>(
    own: impl IntoIterator<Item = &'a Name>,
    shared: impl IntoIterator<Item = &'a SharedName>,
) -> Vec<String> {
    let shared = shared.into_iter().map(ToString::to_string);
    own.into_iter().map(ToString::to_string).chain(shared).collect()
}

fn encode_created(key: &ApiKey, token: &Token) -> v1::CreateKeyResponse {
    v1::CreateKeyResponse { key: Some(encode_key(key)), token: token.reveal() }
}

fn encode_key(key: &ApiKey) -> v1::ApiKey {
    v1::ApiKey {
        id: key.id.to_string(),
        tenant: key.tenant.to_string(),
        roles: encode_roles(key.roles),
        views: encode_reach(&key.views, &key.shared_views),
        services: encode_reach(&key.services, &key.shared_services),
        description: key.description.clone(),
        created_micros: key.created,
        created_by: key.created_by.clone(),
        expires_micros: key.expires,
        revoked_micros: key.revoked,
        last_used_micros: key.last_used,
        previous_until_micros: key.previous_until,
    }
}
