//! OnlineService: a request's columns into arrays, one call of serving, its answer into columns and
//! statuses. Fields that aren't served yet are refused and never ignored.

use std::time::Instant;

use async_trait::async_trait;
use hydrant_proto::v1;
use hydrant_proto::v1::online_service_server::OnlineService;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::status::{not_yet_served, to_status};
use super::wire::columns::{column_length, decode_column, encode_column, encode_statuses};
use super::wire::decode_position;
use super::{UseCases, layers};
use crate::error::Result;
use crate::serving::{AnswerColumn, EventTimes, OnlineAnswer, OnlineRequest, Provenance};
use crate::tenancy::{Action, Demand};

#[derive(Debug)]
pub struct OnlineRpc {
    use_cases: UseCases,
}

impl OnlineRpc {
    pub fn new(use_cases: UseCases) -> Self {
        Self { use_cases }
    }

    async fn get(
        &self,
        request: v1::GetOnlineFeaturesRequest,
        deadline: Option<Instant>,
    ) -> Result<v1::GetOnlineFeaturesResponse> {
        let permit = self.use_cases.admit(Action::ReadOnline, demand(&request, deadline)).await?;
        let answer = async {
            let request = decode_request(request, deadline)?;
            let answer = self.use_cases.serving.get(&permit, request).await?;
            encode_answer(answer)
        };
        permit.run(answer).await
    }
}

#[async_trait]
impl OnlineService for OnlineRpc {
    async fn get_online_features(
        &self,
        request: Request<v1::GetOnlineFeaturesRequest>,
    ) -> Result<Response<v1::GetOnlineFeaturesResponse>, Status> {
        let deadline = layers::deadline(request.extensions());
        self.get(request.into_inner(), deadline).await.map(Response::new).map_err(to_status)
    }
}

/// What a request will take, from what can be told before it is taken apart.
fn demand(request: &v1::GetOnlineFeaturesRequest, useful_until: Option<Instant>) -> Demand {
    let lengths = request.entities.iter().map(|column| column_length(column) as u64);
    let rows = lengths.clone().max().unwrap_or(0);
    // Single features together cost about as much as a service.
    let services = request.services.len() as u64 + u64::from(!request.features.is_empty());
    Demand { keys: lengths.sum(), cost: rows.saturating_mul(services), bytes: request.encoded_len(), useful_until }
}

fn decode_request(request: v1::GetOnlineFeaturesRequest, deadline: Option<Instant>) -> Result<OnlineRequest> {
    if !request.request_context.is_empty() {
        return Err(not_yet_served("request_context", "REQUEST_CONTEXT_NOT_SERVED"));
    }
    if request.latency_budget_micros.is_some() {
        return Err(not_yet_served("latency_budget_micros", "LATENCY_BUDGET_NOT_SERVED"));
    }
    let mut entities = Vec::with_capacity(request.entities.len());
    for column in request.entities {
        let column = decode_column(column)?;
        entities.push((column.name, column.values));
    }
    Ok(OnlineRequest {
        services: request.services,
        features: request.features,
        entities,
        at: request.at,
        at_least: request.at_least.as_ref().map(decode_position).transpose()?,
        strict: request.strict,
        include_event_times: request.include_event_times,
        deadline,
    })
}

fn encode_answer(answer: OnlineAnswer) -> Result<v1::GetOnlineFeaturesResponse> {
    let services = answer.services.into_iter().map(|service| v1::ServiceColumns {
        service: format!("{}@{}", service.service, service.version),
        columns: service.columns.into_iter().map(to_u32).collect(),
    });
    Ok(v1::GetOnlineFeaturesResponse {
        services: services.collect(),
        columns: answer.columns.iter().map(encode_feature).collect::<Result<_>>()?,
        rows: to_u32(answer.rows),
        event_times: answer.event_times.iter().map(encode_event_times).collect(),
        provenance: Some(encode_provenance(&answer.provenance)),
    })
}

/// Where a status leaves a cell without a value and there is no default, the cell is null.
fn encode_feature(column: &AnswerColumn) -> Result<v1::FeatureColumn> {
    let statuses = encode_statuses(&column.statuses);
    Ok(v1::FeatureColumn { column: Some(encode_column(&column.name, &column.values)?), statuses })
}

fn encode_event_times(times: &EventTimes) -> v1::EventTimes {
    v1::EventTimes {
        view: times.view.to_string(),
        keys: times.keys.iter().map(ToString::to_string).collect(),
        micros: times.times.iter().map(|time| time.unwrap_or_default()).collect(),
        found: times.times.iter().map(Option::is_some).collect(),
    }
}

fn encode_provenance(provenance: &Provenance) -> v1::Provenance {
    let views = provenance.views.iter().map(|view| v1::ViewProvenance {
        view: view.view.to_string(),
        newest_event_time: view.newest_event_time,
        complete_through: view.complete_through,
    });
    v1::Provenance {
        t: provenance.t,
        registry_revision: provenance.registry_revision,
        views: views.collect(),
        rows_from_history: to_u32(provenance.rows_from_history),
    }
}

/// Rows and columns are bounded far below.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn fields_that_are_not_served_yet_are_refused_and_not_ignored() {
        let column = v1::Column { name: "basket".to_owned(), ..Default::default() };
        let context = v1::GetOnlineFeaturesRequest { request_context: vec![column], ..Default::default() };
        let budget = v1::GetOnlineFeaturesRequest { latency_budget_micros: Some(0), ..Default::default() };
        for (request, field) in [(context, "request_context"), (budget, "latency_budget_micros")] {
            let error = decode_request(request, None).expect_err(field);
            assert_eq!(error.code, Code::Unimplemented);
            assert!(error.message.contains(field) && error.hint.is_some());
        }
    }
}
