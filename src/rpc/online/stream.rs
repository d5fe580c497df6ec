//! StreamOnlineFeatures: one request of many keys, answered piece by piece. Each piece asks for its
//! turn anew, behind online reads, and is read only when the client has taken what came before it;
//! a client that hangs up ends the work.

use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use hydrant_proto::v1;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::open::{Made, MakesAnswers, StreamPlace, answers};
use super::{OnlineRpc, decode_request};
use crate::error::{Error, Result};
use crate::rpc::freshness::with_freshness;
use crate::rpc::status::{MessageLimit, malformed, to_status};
use crate::rpc::unary::Outgoing;
use crate::rpc::wire::answer::{AnswerForm, encode_answer};
use crate::rpc::{Caller, UseCases, layers};
use crate::serving::{BulkRead, OnlineRequest, Pieces};
use crate::tenancy::{Action, Demand};

/// The encoded answers of one call.
pub(super) type Answers = BoxStream<'static, Result<Bytes, Status>>;

/// A stream under way.
struct Scoring {
    use_cases: UseCases,
    caller: Caller,
    read: BulkRead,
    form: AnswerForm,
    include_freshness: bool,
    limit: MessageLimit,
    deadline: Option<Instant>,
    next_row: usize,
    /// One of the streams that there may be.
    _stream: StreamPlace,
}

/// A request taken apart.
struct Asked {
    request: OnlineRequest,
    form: AnswerForm,
    include_freshness: bool,
    pieces: Pieces,
}

impl OnlineRpc {
    /// The request comes as its bytes: it is large, and taken apart off the runtime's threads.
    pub(super) async fn stream_online_features(&self, request: Request<Bytes>) -> Result<Response<Answers>, Status> {
        let deadline = layers::stream_deadline(request.extensions());
        let caller = layers::caller(request.extensions());
        let scoring = self.begin(caller, request.into_inner(), deadline).await.map_err(to_status)?;
        let answers = answers(scoring, self.stream_patience, deadline).map_err(to_status);
        Ok(Response::new(answers.boxed()))
    }

    async fn begin(&self, caller: Caller, message: Bytes, deadline: Option<Instant>) -> Result<Scoring> {
        let stream = self.streams.open(caller.identity.tenant())?;
        let demand = Demand { cost: 1, bytes: message.len(), useful_until: deadline };
        let permit = self.use_cases.admit(&caller, Action::ReadInBulk, demand).await?;
        let serving = self.use_cases.serving.clone();
        let begun = off_thread(move || {
            let Asked { request, form, include_freshness, pieces } = decode(message)?;
            Ok((serving.begin_bulk(&permit, request, pieces)?, form, include_freshness))
        });
        let (read, form, include_freshness) = begun.await?;
        let (use_cases, limit) = (self.use_cases.clone(), self.limit);
        Ok(Scoring { use_cases, caller, read, form, include_freshness, limit, deadline, next_row: 0, _stream: stream })
    }
}

impl MakesAnswers for Scoring {
    /// A refusal tells the first row that has none.
    async fn next(&mut self) -> Result<Made> {
        let first = self.next_row;
        let rows = self.read.piece(first);
        let end = rows.end;
        // A piece is as a training set is: one of what is done offline.
        let demand = Demand { cost: 1, bytes: 0, useful_until: self.deadline };
        let answered = async {
            let permit = self.use_cases.admit(&self.caller, Action::ReadInBulk, demand).await?;
            let request = self.read.request(rows, self.deadline);
            let answer = self.use_cases.serving.get(&permit, request).await?;
            let (form, limit, include_freshness) = (self.form, self.limit, self.include_freshness);
            let use_cases = self.use_cases.clone();
            off_thread(move || {
                let encoded = encode_answer(&answer, form, first as u64, limit);
                let encoded = encoded.and_then(|encoded| match include_freshness {
                    true => with_freshness(&use_cases, &permit, &answer, encoded, limit),
                    false => Ok(encoded),
                });
                drop(permit);
                encoded.map(Outgoing::message)
            })
            .await
        };
        let answer = answered.await.map_err(|error: Error| error.with("first_row", first))?;
        self.next_row = end;
        Ok(Made { answer, first_row: first, is_last: end >= self.read.rows() })
    }
}

/// Thousands of rows take their time, which is not the runtime's.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal(format!("a piece of a stream ended early: {error}"))))
}

fn decode(message: Bytes) -> Result<Asked> {
    let v1::StreamOnlineFeaturesRequest { request, batch_size, unpinned } =
        v1::StreamOnlineFeaturesRequest::decode(message).map_err(malformed)?;
    let request = request.unwrap_or_default();
    let (form, include_freshness) = (AnswerForm::of(&request)?, request.include_freshness);
    let rows = (batch_size > 0).then(|| usize::try_from(batch_size).unwrap_or(usize::MAX));
    let request = OnlineRequest { shape: form.shape(), ..decode_request(request, None)? };
    Ok(Asked { request, form, include_freshness, pieces: Pieces { rows, unpinned } })
}
