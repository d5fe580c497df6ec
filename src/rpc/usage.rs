//! UsageService: who uses which features. What is counted, and what of other tenants is told, is the use
//! case's to say.

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::usage_service_server::UsageService;
use hydrant_storage::names::Name;
use hydrant_storage::order::Micros;
use tonic::{Request, Response, Status};

use super::status::to_status;
use super::wire::plans::encode_node_kind;
use super::{Caller, UseCases, layers};
use crate::error::{Error, Result};
use crate::registry::graph::NodeKind;
use crate::registry::reads::Readable;
use crate::tenancy::Action;
use crate::usage::{ReadBy, ToldReader, Usage, Wanted};

/// Letters of a name that are told of a request that can't be read.
const MAX_SHOWN: usize = 128;

#[derive(Debug)]
pub struct UsageRpc {
    use_cases: UseCases,
}

impl UsageRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn get(&self, caller: &Caller, request: &v1::GetUsageRequest) -> Result<v1::Usage> {
        let permit = self.use_cases.permit(caller, Action::ReadUsage)?;
        let (tenant, of) = decode_resource(&request.name)?;
        if tenant != *permit.tenant() {
            // Whether it is another one's or nobody's.
            return Err(crate::usage::unknown(&request.name));
        }
        let usage = self.use_cases.usage.get(&permit, of).await?;
        Ok(encode(usage, permit.tenant()))
    }

    async fn list(&self, caller: &Caller, request: v1::ListUsageRequest) -> Result<v1::ListUsageResponse> {
        let permit = self.use_cases.permit(caller, Action::ReadUsage)?;
        let v1::ListUsageRequest { of, unused_micros, page_size, page_token } = request;
        let wanted = Wanted { of, unused_for: decode_span(unused_micros), page_size, page_token };
        let page = self.use_cases.usage.list(&permit, wanted).await?;
        Ok(v1::ListUsageResponse {
            usages: page.usages.into_iter().map(|usage| encode(usage, permit.tenant())).collect(),
            next_page_token: page.next_page_token,
            counted_since_micros: page.since,
            now_micros: page.now,
            uncounted: page.uncounted,
        })
    }
}

#[async_trait]
impl UsageService for UsageRpc {
    async fn get_usage(&self, request: Request<v1::GetUsageRequest>) -> Result<Response<v1::Usage>, Status> {
        let caller = layers::caller(request.extensions());
        self.get(&caller, request.get_ref()).await.map(Response::new).map_err(to_status)
    }

    async fn list_usage(
        &self,
        request: Request<v1::ListUsageRequest>,
    ) -> Result<Response<v1::ListUsageResponse>, Status> {
        let caller = layers::caller(request.extensions());
        self.list(&caller, request.into_inner()).await.map(Response::new).map_err(to_status)
    }
}

/// `None` where none was asked for.
pub(super) fn decode_span(micros: u64) -> Option<Micros> {
    (micros > 0).then(|| Micros::try_from(micros).unwrap_or(Micros::MAX))
}

fn decode_resource(name: &str) -> Result<(Name, Readable)> {
    let read = || {
        let (tenant, of) = name.strip_prefix("tenants/")?.split_once("/usage/")?;
        Some((tenant.parse::<Name>().ok()?, Readable::parse(of)?))
    };
    read().ok_or_else(|| {
        let shown: String = name.chars().take(MAX_SHOWN).collect();
        Error::invalid("INVALID_NAME", format!("'{shown}' names no usage"))
            .hint("use tenants/TENANT/usage/VIEW:FEATURE or tenants/TENANT/usage/SERVICE@N, as a listing shows it")
    })
}

fn encode(usage: Usage, tenant: &Name) -> v1::Usage {
    let kind = match usage.of {
        Readable::Feature(..) => NodeKind::Feature,
        Readable::Service(..) => NodeKind::FeatureService,
    };
    let days = usage.days.into_iter().map(|(day_micros, counts)| v1::UsageDay {
        day_micros,
        online: counts.online,
        training: counts.training,
    });
    let reader = |told: ToldReader| encode_reader(told.tenant.into(), told.caller.unwrap_or_default(), told.reads);
    v1::Usage {
        name: format!("tenants/{tenant}/usage/{}", usage.of),
        kind: encode_node_kind(kind).into(),
        owner: usage.owner,
        created_micros: usage.created,
        last_online_micros: usage.last_online,
        last_training_micros: usage.last_training,
        days: days.collect(),
        readers: usage.readers.into_iter().map(reader).collect(),
        others: usage.others.map(|reads| encode_reader(String::new(), String::new(), reads)),
    }
}

fn encode_reader(tenant: String, caller: String, reads: ReadBy) -> v1::UsageReader {
    let ReadBy { counts, first, last } = reads;
    let (online, training) = (counts.online, counts.training);
    v1::UsageReader { tenant, caller, online, training, first_micros: first, last_micros: last }
}
