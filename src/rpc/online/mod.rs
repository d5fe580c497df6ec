//! OnlineService: a request's columns into arrays, one call of serving, its answer into bytes. Fields
//! that aren't served yet are refused and never ignored.

mod open;
mod service;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrant_proto::v1;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request as HttpRequest;
use tonic::metadata::MetadataValue;

pub use self::service::{OnlineFirst, OnlineServer, is_read};

use self::open::Streams;
use super::freshness::with_freshness;
use super::reading::Refusals;
use super::status::{MessageLimit, compression_not_served, malformed, not_yet_served, to_status};
use super::unary::{Outgoing, read_message};
use super::wire::answer::{AnswerForm, encode_answer};
use super::wire::columns::{column_length, decode_column};
use super::wire::decode_position;
use super::{Caller, UseCases, layers};
use crate::error::{Error, Result};
use crate::serving::{AnswerShape, OnlineRequest};
use crate::tenancy::{Action, Demand, OVERLOADED};

/// Bytes of a request that is answered on a task of its own, where there are several threads: the task of its
/// connection, on which small ones are answered, has others to see to meanwhile.
const LARGE: usize = 512;

#[derive(Debug)]
pub struct OnlineRpc {
    use_cases: UseCases,
    /// Of messages, both ways.
    limit: MessageLimit,
    /// Places of streams: each holds its keys as long as its client takes.
    streams: Streams,
    /// A stream whose client takes no answer for so long is given up.
    stream_patience: Duration,
    /// There are several threads to answer on.
    has_threads: bool,
}

impl OnlineRpc {
    /// To be made on the runtime that serves.
    pub fn new(use_cases: UseCases, limit: MessageLimit, max_streams: usize, stream_patience: Duration) -> Self {
        let has_threads = tokio::runtime::Handle::current().metrics().num_workers() > 1;
        Self { use_cases, limit, streams: Streams::new(max_streams), stream_patience, has_threads }
    }

    async fn get_online_features(&self, request: HttpRequest<Body>) -> Result<Outgoing, Status> {
        let (head, body) = request.into_parts();
        if head.headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            let mut refusal = to_status(compression_not_served());
            refusal.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
            return Err(refusal);
        }
        let (deadline, caller) = (layers::deadline(&head.extensions), layers::caller(&head.extensions));
        let refusals = head.extensions.get::<Arc<Refusals>>();
        let message = read_message(body, self.limit).await?;
        let arrived = Instant::now();
        if self.has_threads && message.len() > LARGE {
            tokio::task::yield_now().await;
        }
        let request = v1::GetOnlineFeaturesRequest::decode(&*message);
        let request = request.map_err(|error| to_status(malformed(error)))?;
        drop(message);
        self.get(&caller, request, arrived, deadline, refusals.map(Arc::as_ref)).await.map_err(to_status)
    }

    async fn get(
        &self,
        caller: &Caller,
        request: v1::GetOnlineFeaturesRequest,
        arrived: Instant,
        deadline: Option<Instant>,
        refusals: Option<&Refusals>,
    ) -> Result<Outgoing> {
        if let Some(refusals) = refusals {
            refusals.note_read(caller.identity.tenant(), arrived);
        }
        let admitted = self.use_cases.admit(caller, Action::ReadOnline, demand(&request, deadline)).await;
        let permit = admitted.inspect_err(|refused| self.note_refused(refusals, caller, refused))?;
        let answer = async {
            let (form, include_freshness) = (AnswerForm::of(&request)?, request.include_freshness);
            let request =
                OnlineRequest { arrived: Some(arrived), shape: form.shape(), ..decode_request(request, deadline)? };
            let answer = self.use_cases.serving.get(&permit, request).await?;
            let encoded = encode_answer(&answer, form, 0, self.limit)?;
            match include_freshness {
                true => with_freshness(&self.use_cases, &permit, &answer, encoded, self.limit),
                false => Ok(encoded),
            }
        };
        permit.run(answer).await
    }

    /// More of it may be left unread for a while.
    fn note_refused(&self, refusals: Option<&Refusals>, caller: &Caller, refused: &Error) {
        let Some(refusals) = refusals.filter(|_| refused.reason == OVERLOADED) else { return };
        let identity = &caller.identity;
        refusals.note_refused(identity.tenant(), Instant::now(), || {
            Arc::new(self.use_cases.tenancy.backpressure(identity))
        });
    }
}

/// What a request will take, from what can be told before it is taken apart.
fn demand(request: &v1::GetOnlineFeaturesRequest, useful_until: Option<Instant>) -> Demand {
    let rows = request.entities.iter().map(|column| column_length(column) as u64).max().unwrap_or(0);
    // Single features together cost about as much as a service.
    let services = request.services.len() as u64 + u64::from(!request.features.is_empty());
    Demand { cost: cost_of(rows.saturating_mul(services)), bytes: request.encoded_len(), useful_until }
}

/// What an online request counts as among those of other tenants, that reads so many rows: by itself it takes about
/// what 16 of them do (`point` and `ads` in BENCHMARKS.md).
pub(super) fn cost_of(rows: u64) -> u64 {
    rows.saturating_add(16)
}

fn decode_request(request: v1::GetOnlineFeaturesRequest, deadline: Option<Instant>) -> Result<OnlineRequest> {
    if !request.request_context.is_empty() {
        return Err(not_yet_served("request_context", "REQUEST_CONTEXT_NOT_SERVED"));
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
        shape: AnswerShape::default(),
        deadline,
        arrived: None,
        latency_budget: request.latency_budget_micros.map(Duration::from_micros),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn fields_that_are_not_served_yet_are_refused_and_not_ignored() {
        let column = v1::Column { name: "basket".to_owned(), ..Default::default() };
        let context = v1::GetOnlineFeaturesRequest { request_context: vec![column], ..Default::default() };
        let error = decode_request(context, None).expect_err("it is refused");
        assert_eq!(error.code, Code::Unimplemented);
        assert!(error.message.contains("request_context") && error.hint.is_some());
    }
}
