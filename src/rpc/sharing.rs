//! SharingService: shares made, told and withdrawn. A change is written down for both sides: for the owner
//! with who made it, for the tenant that it is to without.

use std::time::Duration;

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::sharing_service_server::SharingService;
use hydrant_storage::names::Name;
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::wire::definitions::decode_name;
use super::{Caller, UseCases, layers};
use crate::error::{Error, Result};
use crate::registry::shares::{NewShare, Shared, ToldColumn, ToldShare};
use crate::tenancy::{Action, Permit};

/// Letters of a name that are told of a request that can't be read.
const MAX_SHOWN: usize = 128;

#[derive(Debug)]
pub struct SharingRpc {
    use_cases: UseCases,
}

impl SharingRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn create(&self, caller: &Caller, request: v1::CreateShareRequest) -> Result<v1::Share> {
        let validate_only = request.validate_only;
        let read = decode_new(request);
        let named = match &read {
            Ok(new) => audited(&new.of, &new.to),
            Err(_) => "Share/?".to_owned(),
        };
        // What is refused is nothing that the other tenant is told of.
        let to = match (&read, self.use_cases.rehearse(caller, Action::ChangeDefinitions)) {
            (Ok(new), Ok(permit)) => {
                let checked = self.use_cases.registry.create_share(&permit, new.clone(), true).await;
                checked.is_ok().then(|| new.to.clone())
            }
            _ => None,
        };
        let permit = self.leave(caller, vec![named], to.as_ref(), validate_only).await?;
        let told = self.use_cases.registry.create_share(&permit, read?, validate_only).await?;
        Ok(encode(told, permit.tenant()))
    }

    fn get(&self, caller: &Caller, name: &str) -> Result<v1::Share> {
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let (owner, number) = decode_resource(name)?;
        let told = self.use_cases.registry.share(&permit, &owner, number)?;
        Ok(encode(told, permit.tenant()))
    }

    fn list(&self, caller: &Caller, request: &v1::ListSharesRequest) -> Result<v1::ListSharesResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadDefinitions)?;
        let v1::ListSharesRequest { received, page_size, page_token } = request;
        let page = self.use_cases.registry.shares(&permit, *received, *page_size, page_token)?;
        let shares = page.shares.into_iter().map(|told| encode(told, permit.tenant())).collect();
        Ok(v1::ListSharesResponse { shares, next_page_token: page.next_page_token })
    }

    async fn withdraw(&self, caller: &Caller, request: v1::WithdrawShareRequest) -> Result<v1::Share> {
        let v1::WithdrawShareRequest { name, notice_micros, etag, validate_only } = request;
        let read = decode_resource(&name);
        let own = read.as_ref().ok().filter(|(owner, _)| owner == caller.identity.tenant());
        let registry = &self.use_cases.registry;
        let snapshot = registry.snapshot();
        let share = own.and_then(|(owner, number)| snapshot.tenants.get(owner)?.shares.get(number));
        let named = match (&read, share) {
            (Ok(_), Some(share)) => vec![audited(&share.of, &share.to), name],
            (Ok(_), None) => vec![name.chars().take(MAX_SHOWN).collect()],
            (Err(_), _) => vec!["Share/?".to_owned()],
        };
        let permit = self.leave(caller, named, share.map(|share| &share.to), validate_only).await?;
        let (owner, number) = read?;
        if owner != *permit.tenant() {
            // Whether it is another one's or nobody's.
            return Err(registry.unknown_share(&owner, number));
        }
        let notice = Duration::from_micros(notice_micros);
        let told = registry.withdraw_share(&permit, number, notice, etag, validate_only).await?;
        Ok(encode(told, permit.tenant()))
    }

    /// Leave to change a share, once that is written down for both sides; or to find out whether it could be.
    async fn leave(
        &self,
        caller: &Caller,
        named: Vec<String>,
        to: Option<&Name>,
        validate_only: bool,
    ) -> Result<Permit> {
        if validate_only {
            return self.use_cases.rehearse(caller, Action::ChangeDefinitions);
        }
        let is_there = |to: &&Name| self.use_cases.registry.snapshot().tenants.contains_key(*to);
        let other = to.filter(is_there).filter(|to| *to != caller.identity.tenant());
        self.use_cases.change_for(caller, Action::ChangeDefinitions, named, other).await
    }
}

#[async_trait]
impl SharingService for SharingRpc {
    async fn create_share(&self, request: Request<v1::CreateShareRequest>) -> Result<Response<v1::Share>, Status> {
        let caller = layers::caller(request.extensions());
        self.create(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }

    async fn get_share(&self, request: Request<v1::GetShareRequest>) -> Result<Response<v1::Share>, Status> {
        let caller = layers::caller(request.extensions());
        self.get(&caller, &request.get_ref().name).map(Response::new).map_err(to_status)
    }

    async fn list_shares(
        &self,
        request: Request<v1::ListSharesRequest>,
    ) -> Result<Response<v1::ListSharesResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.list(&caller, request.get_ref()).map(Response::new).map_err(to_status)
    }

    async fn withdraw_share(&self, request: Request<v1::WithdrawShareRequest>) -> Result<Response<v1::Share>, Status> {
        let caller = layers::caller(request.extensions());
        self.withdraw(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

/// As the audit log names a share, from the first record of it to the last.
fn audited(of: &Shared, to: &Name) -> String {
    format!("Share/{of} to {to}")
}

fn decode_new(request: v1::CreateShareRequest) -> Result<NewShare> {
    use v1::create_share_request::Of;
    let bad = |message: &str| Error::invalid("BAD_SHARE", message);
    let of = match request.of {
        Some(Of::View(name)) => Shared::View(decode_name("view", &name)?),
        Some(Of::Service(name)) => Shared::Service(decode_name("service", &name)?),
        None => return Err(bad("a share is of a view or of a service")),
    };
    let may_train = match v1::share::Rights::try_from(request.rights) {
        Ok(v1::share::Rights::Read) => false,
        Ok(v1::share::Rights::ReadAndTrain) => true,
        _ => return Err(bad("the rights of a share are READ or READ_AND_TRAIN")),
    };
    Ok(NewShare { of, to: decode_name("to", &request.to)?, may_train, with_pii: request.with_pii })
}

fn decode_resource(name: &str) -> Result<(Name, u32)> {
    let read = || {
        let (owner, number) = name.strip_prefix("tenants/")?.split_once("/shares/")?;
        let is_plain = number.bytes().all(|byte| byte.is_ascii_digit());
        Some((owner.parse::<Name>().ok()?, number.parse().ok().filter(|_| is_plain)?))
    };
    read().ok_or_else(|| {
        let shown: String = name.chars().take(MAX_SHOWN).collect();
        Error::invalid("INVALID_NAME", format!("'{shown}' names no share"))
            .hint("use tenants/OWNER/shares/NUMBER, as a listing shows it")
    })
}

/// Who made and withdrew it is told within the tenant that did.
fn encode(told: ToldShare, reader: &Name) -> v1::Share {
    let ToldShare { owner, share, has_ended, description, keys, columns, versions } = told;
    let is_owner = owner == *reader;
    let own = |caller: &str| if is_owner { caller.to_owned() } else { String::new() };
    let of = match &share.of {
        Shared::View(name) => v1::share::Of::View(name.to_string()),
        Shared::Service(name) => v1::share::Of::Service(name.to_string()),
    };
    let rights = if share.may_train { v1::share::Rights::ReadAndTrain } else { v1::share::Rights::Read };
    let column = |column: ToldColumn| v1::SharedColumn {
        name: column.name,
        r#type: column.data_type,
        masked: column.is_masked,
        view: column.view.into(),
        keys: column.keys.into_iter().map(String::from).collect(),
    };
    let key = |(name, r#type): (Name, String)| v1::SharedColumn { name: name.into(), r#type, ..Default::default() };
    v1::Share {
        name: format!("tenants/{owner}/shares/{}", share.number),
        etag: share.etag(),
        of: Some(of),
        to: share.to.to_string(),
        rights: rights.into(),
        with_pii: share.with_pii,
        created_micros: share.created,
        created_by: own(&share.created_by),
        ends_micros: share.ends,
        ended: has_ended,
        withdrawn_micros: share.withdrawn.as_ref().map(|(at, _)| *at),
        withdrawn_by: share.withdrawn.as_ref().map(|(_, by)| own(by)).unwrap_or_default(),
        description,
        keys: keys.into_iter().map(key).collect(),
        columns: columns.into_iter().map(column).collect(),
        versions,
    }
}
