//! A typed client of every service, Flight included: the command line and the tests talk to a
//! server through it and through nothing else. It is given one address and asks the server where
//! Flight is. It never retries by itself: whether a request may be sent twice is its caller's to say.

pub mod access;
pub mod audit;
pub mod catalog;
pub mod erasures;
pub mod freshness;
pub mod lean;
pub mod lineage;
pub mod quotas;
pub mod remote;
pub mod sharing;
pub mod training_sets;
pub mod usage;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use arrow_schema::SchemaRef;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use hydrant_proto::v1;
use hydrant_proto::v1::backfill_service_client::BackfillServiceClient;
use hydrant_proto::v1::backup_service_client::BackupServiceClient;
use hydrant_proto::v1::history_service_client::HistoryServiceClient;
use hydrant_proto::v1::ingest_service_client::IngestServiceClient;
use hydrant_proto::v1::online_service_client::OnlineServiceClient;
use hydrant_proto::v1::registry_service_client::RegistryServiceClient;
use prost::Message as _;
use tokio::sync::OnceCell;
use tonic::{Request, Status, Streaming};

use super::status;
use super::wire::definitions::{encode_definition, encode_kind, encode_unread};
use super::wire::ipc::{Decoded, IpcDecoder};
use super::wire::messages::{FlightEncoder, MESSAGE_BYTES};
use crate::error::{Code, Violation};
use crate::registry::definition::{Definition, Kind};
use crate::registry::world::Unread;

pub use self::remote::Connection;
use self::remote::unreachable;

pub use self::remote::{Heard, Remote, TlsFiles};
pub use super::status::Refusal;
pub use crate::history::ContentDigest;

/// The largest message taken from a server: the largest that its configuration allows.
const MAX_MESSAGE: usize = 1 << 30;

/// Where much is sent; well below what a server takes by default.
const LARGE_MESSAGE_BYTES: usize = 8 << 20;

/// Definitions of one page when all are listed.
const PAGE: u32 = 500;

/// A connection to one server. Clones share it.
#[derive(Clone)]
pub struct Client {
    server: Remote,
    channel: Connection,
    flight: Arc<OnceCell<Connection>>,
    timeout: Option<Duration>,
}

impl Client {
    /// Connects to `HOST:PORT` or `http://HOST:PORT`, the server's gRPC address, without TLS.
    pub async fn connect(server: &str) -> Result<Self, Refusal> {
        Self::connect_to(Remote::plain(server)).await
    }

    /// Connects to a server's gRPC address.
    pub async fn connect_to(server: Remote) -> Result<Self, Refusal> {
        let channel = server.connect().await?;
        Ok(Self { server, channel, flight: Arc::default(), timeout: None })
    }

    /// A client of the same server that opens a Flight connection of its own when it needs one.
    #[must_use]
    pub fn with_own_flight(&self) -> Self {
        Self { flight: Arc::default(), ..self.clone() }
    }

    /// Sends a deadline with every unary call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The gRPC connection, for services that this client doesn't wrap (health, reflection).
    pub fn channel(&self) -> Connection {
        self.channel.clone()
    }

    pub async fn server_info(&self) -> Result<v1::GetServerInfoResponse, Refusal> {
        let answer = self.registry().get_server_info(self.request(v1::GetServerInfoRequest {})).await;
        self.answer(answer)
    }

    /// What applying would change; nothing as long as others beside the definitions are `unread`. A
    /// refusal lists everything that is wrong with the definitions.
    pub async fn plan(&self, definitions: &[Definition], unread: &Unread) -> Result<v1::PlanResponse, Refusal> {
        self.plan_with(definitions, unread, false).await
    }

    /// As [`plan`](Self::plan), with what pruning would take away.
    pub async fn plan_with(
        &self,
        definitions: &[Definition],
        unread: &Unread,
        prune: bool,
    ) -> Result<v1::PlanResponse, Refusal> {
        let definitions = definitions.iter().map(encode_definition).collect();
        let request = v1::PlanRequest { definitions, unread: encode_unread(unread), prune };
        let answer = self.registry().plan(self.request(request)).await;
        let plan = self.answer(answer)?;
        if plan.problems.is_empty() { Ok(plan) } else { Err(refused_plan(&plan.problems)) }
    }

    pub async fn apply(
        &self,
        definitions: &[Definition],
        expected_revision: Option<u64>,
    ) -> Result<v1::ApplyResponse, Refusal> {
        self.apply_with(definitions, false, expected_revision).await
    }

    /// As [`apply`](Self::apply), perhaps pruning what is not among the definitions.
    pub async fn apply_with(
        &self,
        definitions: &[Definition],
        prune: bool,
        expected_revision: Option<u64>,
    ) -> Result<v1::ApplyResponse, Refusal> {
        let definitions = definitions.iter().map(encode_definition).collect();
        let request = v1::ApplyRequest { definitions, expected_revision, prune };
        let answer = self.registry().apply(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn create_definition(&self, definition: &Definition) -> Result<v1::Definition, Refusal> {
        let request = v1::CreateDefinitionRequest { definition: Some(encode_definition(definition)) };
        let answer = self.registry().create_definition(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn update_definition(&self, definition: &Definition, etag: &str) -> Result<v1::Definition, Refusal> {
        let definition = Some(encode_definition(definition));
        let request = v1::UpdateDefinitionRequest { definition, etag: etag.to_owned() };
        let answer = self.registry().update_definition(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn get_definition(&self, kind: Kind, name: &str) -> Result<v1::Definition, Refusal> {
        let request = v1::GetDefinitionRequest { kind: encode_kind(kind).into(), name: name.to_owned() };
        let answer = self.registry().get_definition(self.request(request)).await;
        self.answer(answer)
    }

    /// Every definition of a kind, page after page.
    pub async fn list_definitions(&self, kind: Kind) -> Result<Vec<v1::Definition>, Refusal> {
        let mut definitions = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListDefinitionsRequest { kind: encode_kind(kind).into(), page_size: PAGE, page_token };
            let answer = self.registry().list_definitions(self.request(request)).await;
            let page = self.answer(answer)?;
            definitions.extend(page.definitions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(definitions);
            }
        }
    }

    /// Deletes what has this etag; an empty one deletes whatever is there. Gives the revision made, and how much
    /// was read what went.
    pub async fn delete_definition(
        &self,
        kind: Kind,
        name: &str,
        etag: &str,
    ) -> Result<v1::DeleteDefinitionResponse, Refusal> {
        let kind = encode_kind(kind).into();
        let request = v1::DeleteDefinitionRequest { kind, name: name.to_owned(), etag: etag.to_owned() };
        let answer = self.registry().delete_definition(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn get_lineage(&self, kind: Kind, name: &str) -> Result<v1::GetLineageResponse, Refusal> {
        let request = v1::GetLineageRequest { kind: encode_kind(kind).into(), name: name.to_owned() };
        let answer = self.registry().get_lineage(self.request(request)).await;
        self.answer(answer)
    }

    pub async fn get_online_features(
        &self,
        request: v1::GetOnlineFeaturesRequest,
    ) -> Result<v1::GetOnlineFeaturesResponse, Refusal> {
        let client = OnlineServiceClient::new(self.channel());
        let mut client = client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let answer = client.get_online_features(self.request(request)).await;
        self.answer(answer)
    }

    /// Answers of some rows each, in the request's order.
    pub async fn stream_online_features(
        &self,
        request: v1::StreamOnlineFeaturesRequest,
    ) -> Result<BoxStream<'static, Result<v1::GetOnlineFeaturesResponse, Refusal>>, Refusal> {
        let client = OnlineServiceClient::new(self.channel());
        let mut client = client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        let answers = client.stream_online_features(request).await;
        let server = self.server.clone();
        Ok(self.answer(answers)?.map_err(move |status| failure(&server, &status)).boxed())
    }

    pub async fn ingest(&self, request: v1::IngestRequest) -> Result<v1::IngestResponse, Refusal> {
        let answer = self.ingest_service().ingest(self.request(request)).await;
        self.answer(answer)
    }

    /// Requests one after the other over one stream; answers in the same order.
    pub async fn ingest_stream(
        &self,
        requests: impl Stream<Item = v1::IngestRequest> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<v1::IngestResponse, Refusal>>, Refusal> {
        let answers = self.ingest_service().ingest_stream(requests).await;
        let server = self.server.clone();
        Ok(self.answer(answers)?.map_err(move |status| failure(&server, &status)).boxed())
    }

    pub async fn delete(&self, request: v1::DeleteRequest) -> Result<v1::IngestResponse, Refusal> {
        let answer = self.ingest_service().delete(self.request(request)).await;
        self.answer(answer)
    }

    /// Ingests record batches by Flight, each as one request; answers come in the same order. A
    /// batch is sent as it is: the caller sees to it that it fits into a message.
    pub async fn put(
        &self,
        command: v1::IngestCommand,
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch, Refusal>> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<v1::IngestResponse, Refusal>>, Refusal> {
        let command = v1::FlightCommand { command: Some(v1::flight_command::Command::Ingest(command)) };
        let (upload, failed) = upload(command, schema, batches, usize::MAX);
        let mut flight = self.flight().await?;
        let server = self.server.clone();
        let answers = match flight.do_put(upload).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Err(failed.take().unwrap_or_else(|| failure(&server, &status))),
        };
        let broken = failed.clone();
        let read = move |answer: Result<PutResult, Status>| match answer {
            Ok(result) => v1::IngestResponse::decode(result.app_metadata).map_err(unreadable),
            Err(status) => Err(failed.take().unwrap_or_else(|| failure(&server, &status))),
        };
        // To the server an upload that broke off looks like one that ended.
        let last = futures::stream::once(async move { broken.take().map(Err) }).filter_map(futures::future::ready);
        Ok(answers.map(read).chain(last).boxed())
    }

    /// Sends a spine and gets it back with its features. The answer begins once the spine is sent.
    pub async fn training_set(
        &self,
        command: v1::HistoricalFeaturesCommand,
        schema: SchemaRef,
        spine: impl Stream<Item = Result<RecordBatch, Refusal>> + Send + 'static,
    ) -> Result<TrainingSet, Refusal> {
        let command = v1::FlightCommand { command: Some(v1::flight_command::Command::HistoricalFeatures(command)) };
        let (upload, failed) = upload(command, schema, spine, MESSAGE_BYTES);
        let mut flight = self.flight().await?;
        let answer = match flight.do_exchange(upload).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Err(failed.take().unwrap_or_else(|| failure(&self.server, &status))),
        };
        let decoder = IpcDecoder::new(MAX_MESSAGE as u64, u64::MAX);
        let mut set = TrainingSet {
            server: self.server.clone(),
            answer,
            decoder,
            failed,
            schema: None,
            report: None,
            received: 0,
        };
        set.read_schema().await?;
        Ok(set)
    }

    /// How a training set of a spine of so many rows would be made. Without a schema, of a spine that has
    /// what is needed and nothing else.
    pub async fn explain_training_set(
        &self,
        command: v1::HistoricalFeaturesCommand,
        schema: Option<&SchemaRef>,
        rows: u64,
    ) -> Result<v1::ExplainTrainingSetResponse, Refusal> {
        let header = |schema: &SchemaRef| FlightEncoder::begin(schema, MESSAGE_BYTES).1.data_header;
        let spine_schema = schema.map(header).unwrap_or_default().to_vec();
        let request = v1::ExplainTrainingSetRequest { command: Some(command), spine_schema, rows };
        let answer = self.history().explain_training_set(self.request(request)).await;
        self.answer(answer)
    }

    /// Why the values of one entity are what they are.
    pub async fn why(&self, request: v1::WhyRequest) -> Result<v1::WhyResponse, Refusal> {
        let answer = self.history().why(self.request(request)).await;
        self.answer(answer)
    }

    /// Makes a backup. `progress` is told of it now and then; dropping the future stops it.
    pub async fn create_backup(
        &self,
        name: &str,
        mut progress: impl FnMut(&v1::BackupProgress),
    ) -> Result<v1::Backup, Refusal> {
        let request = v1::CreateBackupRequest { name: name.to_owned() };
        let told = BackupServiceClient::new(self.channel()).create_backup(request).await;
        let mut told = self.answer(told)?;
        loop {
            let message = told.message().await.map_err(|status| failure(&self.server, &status))?;
            match message.map(|message| message.told) {
                Some(Some(v1::create_backup_response::Told::Progress(counts))) => progress(&counts),
                Some(Some(v1::create_backup_response::Told::Backup(backup))) => return Ok(backup),
                Some(None) => {}
                None => return Err(unreadable("the backup's progress ended without telling what came of it")),
            }
        }
    }

    /// Every backup, the one made first in front.
    pub async fn list_backups(&self) -> Result<Vec<v1::Backup>, Refusal> {
        let mut client = BackupServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
        let answer = client.list_backups(self.request(v1::ListBackupsRequest {})).await;
        Ok(self.answer(answer)?.backups)
    }

    pub async fn delete_backup(&self, name: &str) -> Result<(), Refusal> {
        let request = v1::DeleteBackupRequest { name: name.to_owned() };
        let answer = BackupServiceClient::new(self.channel()).delete_backup(self.request(request)).await;
        self.answer(answer).map(drop)
    }

    /// How far a backfill is.
    pub async fn get_backfill(&self, backfill: v1::BackfillCommand) -> Result<v1::GetBackfillResponse, Refusal> {
        let request = v1::GetBackfillRequest { backfill: Some(backfill) };
        let answer = BackfillServiceClient::new(self.channel()).get_backfill(self.request(request)).await;
        self.answer(answer)
    }

    /// Gives up the backfill that the log has taken in with a frame; where that is in the log.
    pub async fn abandon_backfill(&self, frame: u64) -> Result<u64, Refusal> {
        let request = self.request(v1::AbandonBackfillRequest { frame });
        let answer = BackfillServiceClient::new(self.channel()).abandon_backfill(request).await;
        self.answer(answer).map(|answer| answer.frame)
    }

    /// Sends the rows of a backfill from `first_row` on, and waits until it is taken in; `progress` is told of
    /// it. Dropping the future stops it, unless it is taken in already.
    pub async fn backfill(
        &self,
        command: v1::BackfillCommand,
        schema: SchemaRef,
        batches: impl Stream<Item = Result<RecordBatch, Refusal>> + Send + 'static,
        mut progress: impl FnMut(&v1::BackfillProgress),
    ) -> Result<v1::BackfillReport, Refusal> {
        let command = v1::FlightCommand { command: Some(v1::flight_command::Command::Backfill(command)) };
        let (upload, failed) = upload(command, schema, batches, LARGE_MESSAGE_BYTES);
        let mut flight = self.flight().await?;
        let told = |status: Status| failed.take().unwrap_or_else(|| failure(&self.server, &status));
        let mut answers = flight.do_put(upload).await.map_err(told)?.into_inner();
        while let Some(answer) = answers.message().await.map_err(told)? {
            let answer = v1::BackfillResponse::decode(answer.app_metadata).map_err(unreadable)?;
            match answer.told {
                Some(v1::backfill_response::Told::Progress(told)) => progress(&told),
                Some(v1::backfill_response::Told::Report(report)) => return Ok(report),
                None => {}
            }
        }
        Err(failed.take().unwrap_or_else(|| unreadable("the backfill ended without telling what came of it")))
    }

    /// Brings the history of a view online. `progress` is told of it; dropping the future stops it.
    pub async fn materialize(
        &self,
        view: &str,
        since_frame: Option<u64>,
        mut progress: impl FnMut(&v1::MaterializeResponse),
    ) -> Result<v1::MaterializeResponse, Refusal> {
        let request = v1::MaterializeRequest { view: view.to_owned(), since_frame };
        let told = BackfillServiceClient::new(self.channel()).materialize(request).await;
        let mut told = self.answer(told)?;
        while let Some(message) = told.message().await.map_err(|status| failure(&self.server, &status))? {
            progress(&message);
            if message.done {
                return Ok(message);
            }
        }
        Err(unreadable("the answer ended before all was online"))
    }

    /// Arrow Flight, for what this client doesn't wrap.
    pub async fn flight(&self) -> Result<FlightServiceClient<Connection>, Refusal> {
        let channel = self.flight.get_or_try_init(|| self.connect_flight()).await?;
        let client = FlightServiceClient::new(channel.clone());
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }

    async fn connect_flight(&self) -> Result<Connection, Refusal> {
        let port = self.server_info().await?.flight_port;
        self.server.at_port(port).connect().await
    }

    fn registry(&self) -> RegistryServiceClient<Connection> {
        let client = RegistryServiceClient::new(self.channel());
        client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    fn history(&self) -> HistoryServiceClient<Connection> {
        let client = HistoryServiceClient::new(self.channel());
        client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    fn ingest_service(&self) -> IngestServiceClient<Connection> {
        let client = IngestServiceClient::new(self.channel());
        client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        request
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Refusal> {
        answer.map(tonic::Response::into_inner).map_err(|status| failure(&self.server, &status))
    }
}

/// A training set as it arrives.
pub struct TrainingSet {
    server: Remote,
    answer: Streaming<FlightData>,
    decoder: IpcDecoder,
    failed: UploadFailure,
    schema: Option<SchemaRef>,
    report: Option<v1::TrainingSetReport>,
    received: u64,
}

impl TrainingSet {
    /// The spine's columns, then the features'.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone().expect("it was read before the training set was handed out")
    }

    /// The next rows, in the spine's order; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Refusal> {
        while let Some(message) = self.message().await? {
            if let Decoded::Batch(batch) = message
                && batch.num_rows() > 0
            {
                return Ok(Some(batch));
            }
        }
        if self.report.is_none() {
            return Err(unreadable("the training set ended without its report"));
        }
        Ok(None)
    }

    /// What was read and how it came out; there once the last rows have arrived.
    pub fn report(&self) -> Option<&v1::TrainingSetReport> {
        self.report.as_ref()
    }

    /// Bytes of Arrow data received so far.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    async fn read_schema(&mut self) -> Result<(), Refusal> {
        while let Some(message) = self.message().await? {
            if let Decoded::Schema(schema) = message {
                self.schema = Some(schema);
                return Ok(());
            }
        }
        Err(unreadable("the training set has no schema"))
    }

    async fn message(&mut self) -> Result<Option<Decoded>, Refusal> {
        let message = match self.answer.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(status) => return Err(self.failed.take().unwrap_or_else(|| failure(&self.server, &status))),
        };
        // To the server a spine that broke off looks like one that ended.
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.received += (message.data_header.len() + message.data_body.len()) as u64;
        if !message.app_metadata.is_empty() {
            self.report = Some(v1::TrainingSetReport::decode(message.app_metadata).map_err(unreadable)?);
        }
        self.decoder.decode(&message.data_header, message.data_body).map(Some).map_err(unreadable)
    }
}

/// Why a plan can't be applied although its definitions are good, as the refusal that applying it is.
pub fn refused_changes(refusals: &[v1::PlanRefusal]) -> Option<Refusal> {
    let first = refusals.first()?;
    let violation =
        |refusal: &v1::PlanRefusal| Violation { path: refusal.path.clone(), message: refusal.message.clone() };
    let reason =
        if refusals.iter().all(|refusal| refusal.in_use) { "DEFINITION_IN_USE" } else { "INCOMPATIBLE_CHANGE" };
    let message = match refusals.len() {
        1 => format!("the plan can't be applied: {}", first.message),
        count => format!("the plan can't be applied, for {count} reasons"),
    };
    let refusal = Refusal::new(Code::FailedPrecondition, reason, message);
    let hint = match reason {
        "DEFINITION_IN_USE" => {
            "delete what uses it first, or ask those who are named to move; or leave it where it is, and don't prune"
        }
        _ => "make a new view (or source, or entity) under another name, move services to it, then delete the old one",
    };
    Some(Refusal { violations: refusals.iter().map(violation).collect(), ..refusal.hint(hint) })
}

/// The problems that a plan's answer lists, as the refusal that they are.
fn refused_plan(problems: &[v1::DefinitionProblem]) -> Refusal {
    let violations: Vec<Violation> = problems
        .iter()
        .map(|problem| Violation {
            path: format!("definitions[{}].{}", problem.definition, problem.path),
            message: problem.message.clone(),
        })
        .collect();
    let message = match violations.as_slice() {
        [only] => format!("{}: {}", only.path, only.message),
        all => format!("the definitions have {} problems", all.len()),
    };
    Refusal { violations, ..Refusal::new(Code::InvalidArgument, "INVALID_DEFINITION", message) }
}

/// Where the reason is kept why an upload broke off, since the stream itself can't carry it.
#[derive(Clone, Debug, Default)]
struct UploadFailure(Arc<std::sync::Mutex<Option<Refusal>>>);

impl UploadFailure {
    fn set(&self, error: Refusal) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
    }

    fn take(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

/// Record batches as Flight messages, the command in the first. It breaks off at the first batch
/// that can't be had or encoded, and keeps the reason.
fn upload(
    command: v1::FlightCommand,
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, Refusal>> + Send + 'static,
    target: usize,
) -> (impl Stream<Item = FlightData> + Send + 'static, UploadFailure) {
    let failed = UploadFailure::default();
    let (encoder, mut first) = FlightEncoder::begin(&schema, target);
    first.flight_descriptor = Some(FlightDescriptor::new_cmd(command.encode_to_vec()));
    let kept = failed.clone();
    let messages = batches.scan(encoder, move |encoder, batch| {
        let encoded = batch.and_then(|batch| encoder.encode(&batch).map_err(unsendable));
        let messages = encoded.map_err(|refusal| kept.set(refusal)).ok();
        futures::future::ready(messages.map(futures::stream::iter))
    });
    (futures::stream::once(futures::future::ready(first)).chain(messages.flatten()), failed)
}

fn failure(server: &Remote, status: &Status) -> Refusal {
    let refusal = status::from_status(status);
    let lost = std::error::Error::source(status).is_some() && refusal.reason.is_empty();
    if lost { unreachable(server, status) } else { refusal }
}

/// The server said what this client can't read.
fn unreadable(error: impl fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, "UNREADABLE_ANSWER", format!("the server's answer can't be read: {error}"))
}

/// The caller's own rows can't be read or sent.
fn unsendable(error: impl fmt::Display) -> Refusal {
    Refusal::new(Code::InvalidArgument, "UNSENDABLE_ROWS", format!("the rows can't be sent: {error}"))
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

impl fmt::Debug for TrainingSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TrainingSet").field("server", &self.server).finish_non_exhaustive()
    }
}
