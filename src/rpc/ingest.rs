//! IngestService: columns or Arrow IPC into one record batch, one call of ingest, its report into
//! an answer. A stream is answered request by request, in order; a refusal ends it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{BoxStream, try_unfold};
use hydrant_proto::v1;
use hydrant_proto::v1::ingest_request::Rows;
use hydrant_proto::v1::ingest_service_server::IngestService;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::status::to_status;
use super::wire::columns::{DecodedColumn, decode_column};
use super::wire::definitions::decode_request_known_time;
use super::wire::{encode_position, ipc};
use super::{Caller, UseCases, layers};
use crate::error::{Code, Error, Result};
use crate::ingest::{DeleteRequest, IngestReport, IngestRequest, Outcome, Producer};
use crate::partition::{PartitionError, Partitions};
use crate::tenancy::{Action, Demand};

/// How long a request of a stream, or one without a deadline, waits until its rows can be read.
const VISIBLE_WITHIN: Duration = Duration::from_secs(30);

/// Bounds of what is decoded here, before the use case sees it.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    pub max_message: u64,
    pub max_rows: u64,
}

#[derive(Clone, Debug)]
pub struct IngestRpc {
    use_cases: UseCases,
    limits: DecodeLimits,
}

impl IngestRpc {
    pub fn new(use_cases: UseCases, limits: DecodeLimits) -> Self {
        Self { use_cases, limits }
    }

    /// `unseen`: the requests before it in its stream.
    async fn take(
        &self,
        caller: &Caller,
        request: v1::IngestRequest,
        unseen: &mut Unseen,
        deadline: Instant,
    ) -> Result<v1::IngestResponse> {
        let demand = write_demand(request.encoded_len(), Some(deadline));
        let permit = self.use_cases.admit(caller, Action::Write, demand).await?;
        let wait_visible = request.wait_visible;
        let request = decode_request(request, self.limits).await?;
        let report = self.use_cases.ingest.ingest(&permit, request).await?;
        // To wait until rows can be read is no work.
        drop(permit);
        unseen.add(&report);
        if wait_visible {
            unseen.wait(&self.use_cases.partitions, deadline).await?;
        }
        Ok(encode_report(report))
    }

    async fn delete_keys(
        &self,
        caller: &Caller,
        request: v1::DeleteRequest,
        deadline: Option<Instant>,
    ) -> Result<v1::IngestResponse> {
        let demand = write_demand(request.encoded_len(), deadline);
        let named = vec![format!("FeatureView/{}", request.view)];
        let permit = self.use_cases.change_in_turn(caller, Action::Write, demand, named).await?;
        let request = decode_delete(request)?;
        self.use_cases.ingest.delete(&permit, request).await.map(encode_report)
    }
}

#[async_trait]
impl IngestService for IngestRpc {
    type IngestStreamStream = BoxStream<'static, Result<v1::IngestResponse, Status>>;

    async fn ingest(&self, request: Request<v1::IngestRequest>) -> Result<Response<v1::IngestResponse>, Status> {
        let deadline = layers::deadline(request.extensions()).unwrap_or_else(|| visible_by(None));
        let caller = layers::caller(request.extensions());
        self.take(&caller, request.into_inner(), &mut Unseen::default(), deadline)
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn ingest_stream(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStreamStream>, Status> {
        let deadline = layers::stream_deadline(request.extensions());
        let caller = layers::caller(request.extensions());
        let state = (self.clone(), caller, request.into_inner(), 0_u64, Unseen::default());
        let answers = try_unfold(state, move |(rpc, caller, mut requests, number, mut unseen)| async move {
            let Some(request) = requests.message().await? else { return Ok(None) };
            let answer = rpc.take(&caller, request, &mut unseen, visible_by(deadline)).await;
            let answer = answer.map_err(|error| to_status(of_request(error, "request", number)))?;
            Ok(Some((answer, (rpc, caller, requests, number + 1, unseen))))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::IngestResponse>, Status> {
        let deadline = layers::deadline(request.extensions());
        let caller = layers::caller(request.extensions());
        self.delete_keys(&caller, request.into_inner(), deadline).await.map(Response::new).map_err(to_status)
    }
}

/// What a write of a message of so many bytes will take.
pub(super) fn write_demand(bytes: usize, useful_until: Option<Instant>) -> Demand {
    /// Of a small row.
    const UNIT: usize = 64;
    Demand { cost: (bytes / UNIT) as u64 + 1, bytes, useful_until }
}

/// By when the rows of a request that begins now must be readable, in a stream of this deadline.
pub(super) fn visible_by(stream_deadline: Option<Instant>) -> Instant {
    let within = Instant::now() + VISIBLE_WITHIN;
    stream_deadline.map_or(within, |deadline| deadline.min(within))
}

/// Requests that were taken and not waited for: the frame of the newest, and the partitions that have
/// rows of any. Whoever waits for the last request of a stream waits for all of them.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    frame: u64,
    partitions: BTreeSet<usize>,
}

impl Unseen {
    pub fn add(&mut self, report: &IngestReport) {
        self.frame = self.frame.max(report.frame.unwrap_or(0));
        self.partitions.extend(&report.partitions);
    }

    /// Waits until these partitions have applied the requests.
    pub async fn wait(&mut self, partitions: &Partitions, deadline: Instant) -> Result<()> {
        for partition in &self.partitions {
            let waited = partitions.handles()[*partition].wait_applied(self.frame, deadline).await;
            waited.map_err(not_visible)?;
        }
        self.partitions.clear();
        Ok(())
    }
}

fn not_visible(error: PartitionError) -> Error {
    match error {
        PartitionError::DeadlineExceeded { .. } => Error::new(
            Code::DeadlineExceeded,
            "NOT_VISIBLE_YET",
            format!("the rows are in the log, but can't be read yet: {error}"),
        )
        .hint("they will be; with a producer and sequence, the same request may be sent again"),
        other => Error::from(other),
    }
}

/// Tells which request of a stream was refused.
pub(super) fn of_request(mut error: Error, what: &'static str, number: u64) -> Error {
    error.message = format!("{what} {number}: {}", error.message);
    error.with(what, number)
}

pub(super) fn decode_producer(id: String, sequence: u64) -> Option<Producer> {
    (!id.is_empty()).then_some(Producer { id, sequence })
}

pub(super) fn encode_report(report: IngestReport) -> v1::IngestResponse {
    use v1::ingest_response::Outcome as Wire;
    let outcome = match report.outcome {
        Outcome::Applied => Wire::Applied,
        Outcome::AlreadyApplied => Wire::AlreadyApplied,
        Outcome::Valid => Wire::Valid,
    };
    let views = report.views.into_iter().map(|rows| v1::ViewRows {
        view: rows.view.to_string(),
        rows: rows.rows as u64,
        null_keys: rows.null_keys as u64,
        too_old: rows.too_old as u64,
    });
    v1::IngestResponse {
        position: report.frame.map(encode_position),
        ingest_time: report.ingest_time.unwrap_or_default(),
        outcome: outcome.into(),
        rows: report.rows as u64,
        views: views.collect(),
    }
}

async fn decode_request(request: v1::IngestRequest, limits: DecodeLimits) -> Result<IngestRequest> {
    let batch = match request.rows {
        Some(Rows::Columns(columns)) => batch_of(columns.columns)?,
        Some(Rows::ArrowIpc(stream)) => decode_ipc(stream, limits).await?,
        None => {
            return Err(Error::invalid("NO_ROWS", "the request holds no rows").hint("set 'columns' or 'arrow_ipc'"));
        }
    };
    Ok(IngestRequest {
        source: request.source,
        batch,
        producer: decode_producer(request.producer, request.sequence),
        known_time: decode_request_known_time(request.known_time)?,
        ignore_extra: request.ignore_extra,
        validate_only: request.validate_only,
    })
}

async fn decode_ipc(stream: Vec<u8>, limits: DecodeLimits) -> Result<RecordBatch> {
    let decode = move || ipc::decode_single_batch(&stream, limits.max_message, limits.max_rows);
    let decoded = tokio::task::spawn_blocking(decode).await;
    let decoded = decoded.map_err(|error| Error::internal(format!("decoding rows ended early: {error}")))?;
    let is_about_rows = |error: &Error| error.metadata.iter().any(|(key, _)| *key == "rows");
    decoded.map_err(|error| if is_about_rows(&error) { too_many_rows(&error, limits.max_rows) } else { error })
}

/// Says which option bounds the rows, of which the decoder knows nothing.
fn too_many_rows(error: &Error, limit: u64) -> Error {
    let message = format!("{}; 'ingest.max_rows' allows {limit}", error.message);
    Error::invalid("REQUEST_TOO_LARGE", message)
        .with("option", "ingest.max_rows")
        .with("limit", limit)
        .hint("send the rows in smaller requests, or raise 'ingest.max_rows' in the server's configuration")
}

fn batch_of(columns: Vec<v1::Column>) -> Result<RecordBatch> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for column in columns {
        let DecodedColumn { name, data_type, values } = decode_column(column)?;
        fields.push(Field::new(name, data_type.to_arrow(), true));
        arrays.push(values);
    }
    if arrays.is_empty() {
        return Err(Error::invalid("NO_ROWS", "the request holds no columns"));
    }
    let lengths = || fields.iter().zip(&arrays).map(|(field, array)| format!("'{}': {}", field.name(), array.len()));
    if arrays.iter().any(|array| array.len() != arrays[0].len()) {
        let told = lengths().collect::<Vec<_>>().join(", ");
        return Err(Error::invalid("UNEVEN_COLUMNS", format!("the columns have different numbers of rows ({told})")));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|error| Error::invalid("MALFORMED_COLUMN", format!("the columns make no batch: {error}")))
}

fn decode_delete(request: v1::DeleteRequest) -> Result<DeleteRequest> {
    let mut keys = Vec::with_capacity(request.keys.len());
    for column in request.keys {
        let column = decode_column(column)?;
        keys.push((column.name, column.values));
    }
    Ok(DeleteRequest {
        view: request.view,
        keys,
        event_times: request.event_times,
        producer: decode_producer(request.producer, request.sequence),
        known_time: decode_request_known_time(request.known_time)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestStore, soon};

    fn ints(name: &str, values: Vec<i32>) -> v1::Column {
        let values = Some(v1::column::Values::Int32s(v1::Int32Values { values }));
        v1::Column { name: name.to_owned(), values, nulls: Vec::new() }
    }

    #[test]
    fn columns_of_different_lengths_are_refused_naming_them() {
        let error = batch_of(vec![ints("a", vec![1, 2]), ints("b", vec![1])]).expect_err("uneven");
        assert!(error.message.contains("'a': 2") && error.message.contains("'b': 1"), "{error}");
        assert!(batch_of(Vec::new()).is_err());
        assert_eq!(batch_of(vec![ints("a", vec![1, 2])]).expect("even").num_rows(), 2);
    }

    #[test]
    fn a_request_of_a_stream_waits_no_longer_than_its_client_does() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        assert_eq!(visible_by(Some(soon)), soon);
        assert!(visible_by(Some(now + Duration::from_hours(9))) < now + Duration::from_hours(1));
        assert!(visible_by(None) > soon);
    }

    fn report(frame: u64, partition: usize) -> IngestReport {
        IngestReport {
            outcome: Outcome::Applied,
            frame: Some(frame),
            ingest_time: Some(0),
            rows: 1,
            views: Vec::new(),
            partitions: vec![partition],
        }
    }

    #[tokio::test]
    async fn who_waits_for_the_last_request_of_a_stream_waits_for_those_before_it_and_for_no_other_partition() {
        let store = TestStore::start().await;
        store.write_applied(&[("EWR", 0, None, Some(1.0))]).await;
        let last = store.write_applied(&[("EWR", 1, None, Some(1.0))]).await.frame;
        store.partitions.park(2, "on purpose");
        store.partitions.handles()[2].wait_applied(last + 1, soon()).await.expect_err("it is parked");

        let mut unseen = Unseen::default();
        unseen.add(&report(last, 0));
        // Answered as before.
        unseen.add(&report(last - 1, 1));
        unseen.wait(&store.partitions, soon()).await.expect("the parked one has none of the rows");
        unseen.add(&report(last - 1, 2));
        unseen.add(&report(last, 0));
        let refused = unseen.wait(&store.partitions, soon()).await.expect_err("one request has rows in the parked one");
        assert_eq!(refused.reason, "PARTITION_PARKED");
        store.partitions.shutdown().await;
    }

    #[test]
    fn a_refused_request_of_a_stream_tells_which_it_was() {
        let error = of_request(Error::invalid("BAD_ROWS", "2 bad rows"), "batch", 7);
        assert_eq!(error.message, "batch 7: 2 bad rows");
        assert_eq!(error.metadata, [("batch", "7".to_owned())]);
    }
}
